"""What steps of methods on gradients cost over one of KD with the same student and teacher.

PVR: the teacher's backward pass is the difference; counting a backward pass as two forward ones,
the floor of the ratio is 6 over 4. GKD: a backward pass of the teacher, and one of the student that
is gone through backwards once more; BERTs of four blocks and two, width 128, 32 texts of 64 tokens.

python -m benchmarks.gradients
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.harness import arguments, begin, compare, finish
from benchmarks.loop import begun
from benchmarks.step import BATCH, distiller_of, step_of
from limbeck.data import TensorSamples, bundle_from
from limbeck.data.batch import Batch
from limbeck.engine.plan import Plan
from limbeck.engine.settings import Optimizer, Schedule, Train
from limbeck.methods import as_methods
from limbeck.models import build_model
from limbeck.teachers import LiveTeacher

TEXTS, TOKENS, VOCABULARY = 32, 64, 6000


def bert(blocks: int) -> nn.Module:
    return build_model(
        "hf/bert",
        num_classes=2,
        input_shape=(TOKENS,),
        vocab_size=VOCABULARY,
        pad_token_id=0,
        hidden_size=128,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=TOKENS,
    )


def texts_step(method: str) -> Callable[[], object]:
    """Return the Distiller's step on a fixed batch of texts, three quarters of it no padding."""
    ids = torch.randint(1, VOCABULARY, (TEXTS, TOKENS))
    mask = (torch.arange(TOKENS) < torch.linspace(32, TOKENS, TEXTS)[:, None]).long()
    inputs, labels = {"input_ids": ids * mask, "attention_mask": mask}, torch.arange(TEXTS) % 2
    plan = Plan(
        name="texts",
        data=bundle_from(TensorSamples(inputs, labels), num_classes=2),
        make_student=lambda: bert(2),
        methods=as_methods(method),
        teachers={"teacher": LiveTeacher(bert(4))},
        train=Train(
            epochs=10_000,
            batch_size=TEXTS,
            optimizer=Optimizer(name="adamw", lr=1e-6),
            schedule=Schedule(name="constant"),
        ),
    )
    return step_of(begun(plan), Batch(inputs, labels, torch.arange(TEXTS)))


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch.set_num_threads(1)
    results = [
        compare(
            f"PVR step, {name}, batch {BATCH}",
            ("PVR", distiller_of("pvr", name, name)),
            ("KD", distiller_of("kd", name, name)),
            pairs=options.pairs,
        )
        for name in ("mlp", "resnet8")
    ]
    results += [
        compare(
            f"{name} step, BERT of 2 blocks from 4, {TEXTS} texts",
            (name, texts_step(name)),
            ("KD", texts_step("kd")),
            pairs=options.pairs,
        )
        for name in ("gkd", "gkd_cls")
    ]
    finish(results, options)


if __name__ == "__main__":
    main()
