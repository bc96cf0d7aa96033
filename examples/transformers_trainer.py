"""A small BERT learns from a larger one in transformers' Trainer: praise or blame?"""

import itertools
import random
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import limbeck as lb
from limbeck.integrations.transformers import DistillationTrainer

NOUNS = ["film", "book", "song", "play", "meal", "walk"]
GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "awful", "dull", "poor"]
HOW = ["quite", "very", "so", "rather"]
WORDS = ["the", "was", "is", *HOW, *NOUNS, *GOOD, *BAD]

rows = []
for noun, verb, how, word in itertools.product(NOUNS, ["was", "is"], HOW, GOOD + BAD):
    sentence = ["the", noun, verb, how, word]
    rows.append({"input_ids": [WORDS.index(one) for one in sentence], "labels": int(word in GOOD)})
random.Random(0).shuffle(rows)
train_rows, test_rows = rows[:300], rows[300:]


def bert(width):
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=8,
            num_labels=2,
        )
    )


def train(model, folder, **how):
    arguments = TrainingArguments(
        folder,
        num_train_epochs=10,
        per_device_train_batch_size=30,
        learning_rate=3e-3,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = DistillationTrainer(model, arguments, train_dataset=train_rows, **how)
    trainer.train()
    said = trainer.predict(test_rows)
    accuracy = float((said.predictions.argmax(1) == said.label_ids).mean())
    print(f"{model.config.hidden_size} wide: {accuracy:.3f} of the sentences not trained on")
    return trainer


with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    teacher = train(bert(32), folder, method="plain").model
    hints = lb.FitNet(weight=0.1, pairs=(("bert.encoder.layer.1", "bert.encoder.layer.1"),))
    trainer = train(bert(16), folder, teacher=teacher, method=lb.KD(temperature=2) + hints)
    trainer.save_model(folder)  # a plain BERT, for from_pretrained
    BertForSequenceClassification.from_pretrained(folder)
