"""Texts end to end: recipes, deployment with plain transformers, resuming, second derivatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from killing import differing, evidence  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import limbeck as lb  # noqa: E402
from limbeck.data import load_data  # noqa: E402
from limbeck.engine.signals import Interrupted  # noqa: E402
from limbeck.errors import RecipeError, TeacherError  # noqa: E402
from limbeck.models import build_model, load_model  # noqa: E402
from limbeck.models.calling import make_attention_eager, restore_attention  # noqa: E402
from limbeck.recipe.running import evaluate_run, run_recipe  # noqa: E402
from limbeck.teachers import OnlineTeacher  # noqa: E402

WORDS = {"good": ["warm", "lovely", "great", "funny"], "bad": ["dull", "empty", "weak", "cold"]}
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
STUDENT = {"model": "hf/bert", "num_hidden_layers": 1, **SMALL}
TRAIN = {"epochs": 2, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 0.005}, "threads": 1}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = []
    for k in range(64):
        label = ("good", "bad")[k % 2]
        some = [WORDS[label][(k + j) % 4] for j in range(1 + k % 5)]
        rows.append({"text": f"a {' and '.join(some)} film about {k}", "label": label})
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def recipe(texts: Path, **more: Any) -> dict[str, Any]:
    data = {"name": "text", "path": str(texts), "vocab_size": 120, "test": 16}
    teacher = {
        "name": "teacher",
        "data": data,
        "student": {**STUDENT, "num_hidden_layers": 2, "hidden_size": 32},
        "method": "plain",
        "train": {**TRAIN, "epochs": 6},
    }
    return {
        "name": "student",
        "data": data,
        "teacher": {"train": teacher},
        "student": dict(STUDENT),
        "method": ["kd", {"name": "fitnet", "weight": 1, "pairs": ["stages[-1]"]}],
        "train": dict(TRAIN),
        **more,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """Teachers are trained once for all runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("LIMBECK_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def finished(texts: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_recipe(recipe(texts), output=folder, quiet=True)
    return folder


def test_the_teacher_learned_and_the_student_is_measured(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["teachers"]["teacher"]["metrics"]["test"]["accuracy"] > 0.8
    assert {"accuracy", "agreement", "ece"} <= set(summary["metrics"]["test"])
    assert summary["student"]["flops"] > 0
    terms = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert any("fitnet" in str(line) for line in terms)


def test_plain_transformers_deploy_the_student(finished: Path, texts: Path) -> None:
    student = finished / "student"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(student)
    tokenizer = transformers.AutoTokenizer.from_pretrained(student / "tokenizer")
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    said = load_file(finished / "predictions.safetensors")
    data = load_data("text", path=str(texts), vocab_size=120, test=16)
    for place, position in enumerate(data.record.test.tolist()):
        with torch.no_grad():
            logits = model(**tokenizer(rows[position]["text"], return_tensors="pt")).logits[0]
        torch.testing.assert_close(logits, said["student_logits"][place], atol=1e-5, rtol=1e-5)
    assert model.config.id2label == {0: "bad", 1: "good"}
    pipe = transformers.pipeline("text-classification", model=str(student), tokenizer=tokenizer)
    assert pipe("a lovely film")[0]["label"] in WORDS


def test_the_student_is_read_back_and_measured_again(finished: Path) -> None:
    measured = evaluate_run(finished)
    summary = json.loads((finished / "summary.json").read_text())
    assert measured == pytest.approx(summary["metrics"]["test"], abs=1e-6)
    assert load_model(finished / "student").config.pad_token_id == 0


def test_an_interrupted_run_goes_on_to_the_same_bits(
    finished: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout is drawn, the regressor is trained, batches are trimmed: all of it comes back."""
    import limbeck.engine.distiller as distiller

    real, steps = distiller.Distiller._train_step, [0]

    def interrupted_step(self: object, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        steps[0] += 1
        if steps[0] == 7:
            raise Interrupted(str(tmp_path / "run"))

    monkeypatch.setattr(distiller.Distiller, "_train_step", interrupted_step)
    asked = recipe(texts, checkpoints={"every_steps": 3})
    with pytest.raises(Interrupted):
        run_recipe(asked, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "student").exists()
    monkeypatch.undo()
    run_recipe(asked, output=tmp_path / "run", resume=True, quiet=True)
    assert steps[0] == 7
    assert differing(evidence(finished), evidence(tmp_path / "run")) == []


def test_accumulation_changes_nothing_though_texts_differ_in_length(
    finished: Path, texts: Path, tmp_path: Path
) -> None:
    """Masked hints average per text: how a step is cut into batches does not matter."""
    calm = {**STUDENT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    losses = []
    for accumulate in (1, 2):
        asked = recipe(texts, student=calm, train={**TRAIN, "epochs": 1, "accumulate": accumulate})
        folder = tmp_path / str(accumulate)
        run_recipe(asked, output=folder, quiet=True)
        losses.append(load_file(folder / "student" / "model.safetensors"))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, atol=2e-5, rtol=1e-3)


def test_a_teacher_with_another_tokenizer_is_refused(
    finished: Path, texts: Path, tmp_path: Path
) -> None:
    other = recipe(texts, teacher={"run": str(finished)})
    other["data"]["seed"] = 1
    with pytest.raises(TeacherError, match="teacher: learned with another tokenizer") as caught:
        run_recipe(other, output=tmp_path / "run", quiet=True)
    advice = str(caught.value).split("data.tokenizer=")[1]
    other["data"]["tokenizer"] = advice
    assert run_recipe(other, dry_run=True, output=tmp_path / "run", quiet=True) is None


def test_a_teacher_of_fewer_tokens_is_refused(texts: Path, tmp_path: Path) -> None:
    data = load_data("text", path=str(texts), vocab_size=120)
    size = data.vocabulary.size
    teacher = build_model("hf/bert", num_classes=2, vocab_size=50, num_hidden_layers=1, **SMALL)
    student = build_model("hf/bert", num_classes=2, vocab_size=size, num_hidden_layers=1, **SMALL)
    options = {"data": data, "epochs": 1, "quiet": True, "output": tmp_path / "run"}
    with pytest.raises(TeacherError, match=rf"knows 50 tokens, the data's tokenizer has {size}"):
        lb.distill(teacher=teacher, student=student, **options)
    with pytest.raises(TeacherError, match=r"teachers\.teacher\.online: .* knows 50 tokens"):
        lb.distill(teacher=OnlineTeacher(teacher), student=student, **options)
    with pytest.raises(RecipeError, match=r"student: .* knows 50 tokens"):
        lb.distill(teacher=student, student=teacher, **options)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"model": "hf/bert"}, r"teacher\.weights: missing: hf/bert would have learned nothing"),
        ({"model": "hf/BASE"}, "comes without weights for classifier.bias, classifier.weight"),
    ],
)
def test_teachers_that_have_learned_nothing(
    teacher: dict[str, str], message: str, texts: Path, tmp_path: Path
) -> None:
    size = load_data("text", path=str(texts), vocab_size=120, test=16).vocabulary.size
    config = transformers.BertConfig(vocab_size=size, num_hidden_layers=1, **SMALL)
    transformers.BertModel(config).save_pretrained(tmp_path / "base")
    named = {"model": teacher["model"].replace("BASE", str(tmp_path / "base"))}
    with pytest.raises((RecipeError, TeacherError), match=message):
        run_recipe(recipe(texts, teacher=named), output=tmp_path / "run", quiet=True)


def test_attention_is_eager_while_second_derivatives_are_taken(
    texts: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import limbeck.engine.distiller as distiller

    seen = []
    real = distiller.Distiller._train_step

    def watched(self: Any, *args: Any) -> None:
        seen.append(self.parts.student.config._attn_implementation)
        real(self, *args)

    monkeypatch.setattr(distiller.Distiller, "_train_step", watched)
    asked = recipe(texts, method={"name": "e2kd", "tap": "stages[-1]"})
    outcome = run_recipe(asked, output=tmp_path / "run", quiet=True)
    assert outcome is not None
    assert set(seen) == {"eager"}
    assert outcome.student.config._attn_implementation == "sdpa"
    logits = load_file(tmp_path / "run" / "predictions.safetensors")["student_logits"]
    measured = evaluate_run(tmp_path / "run")
    assert measured["accuracy"] == outcome.summary["metrics"]["test"]["accuracy"]
    assert torch.isfinite(logits).all()
    asked["student"]["attention"] = "sdpa"
    with pytest.raises(RecipeError, match=r"student\.attention: e2kd takes second derivatives"):
        run_recipe(asked, output=tmp_path / "other", quiet=True)


def test_second_derivatives_through_embeddings() -> None:
    model = build_model("hf/bert", num_classes=2, vocab_size=30, num_hidden_layers=1, **SMALL)
    outer = torch.nn.ModuleDict({"inner": model.double().eval()})
    embedded = model.get_input_embeddings()(torch.tensor([[3, 5, 7]])).detach().requires_grad_()

    def logits(values: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=values, attention_mask=torch.ones(1, 3).long()).logits

    with pytest.raises(RuntimeError, match="not implemented"):
        torch.autograd.gradgradcheck(logits, embedded)
    make_attention_eager(outer)
    assert model.bert.config._attn_implementation == "eager"
    assert torch.autograd.gradgradcheck(logits, embedded, atol=1e-4)
    restore_attention(outer)
    assert {part.config._attn_implementation for part in (model, model.bert)} == {"sdpa"}
    restore_attention(outer)  # once more changes nothing
    assert not hasattr(model, "limbeck_attention")


def test_trimming_changes_no_answer(texts: Path) -> None:
    data = load_data("text", path=str(texts), vocab_size=120)
    model = build_model(
        "hf/bert", num_classes=2, vocab_size=data.vocabulary.size, num_hidden_layers=2, **SMALL
    )
    model = model.double().eval()
    raw = data.splits["train"].fetch(torch.arange(6))
    short = data.augment_eval(raw.inputs, raw.index)
    longer = {k: torch.nn.functional.pad(v, (0, 30)) for k, v in raw.inputs.items()}
    assert short["input_ids"].shape[1] < longer["input_ids"].shape[1]
    with torch.no_grad():
        torch.testing.assert_close(
            model(**short).logits, model(**longer).logits, atol=1e-12, rtol=1e-10
        )


def test_a_language_model_learns_in_a_loop_of_ones_own() -> None:
    """KD over tokens: the equation averages over what it is given, so padding is left out."""
    from limbeck.functional import cross_entropy, kd
    from limbeck.taps import TappedModel, as_outputs

    fields = {"head": "causal", "vocab_size": 40, "pad_token_id": 0, "n_head": 2}
    teacher = build_model("hf/gpt2", n_embd=16, n_layer=2, **fields).eval()
    student = TappedModel(build_model("hf/gpt2", n_embd=8, n_layer=1, **fields), ["stages[-1]"])
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 9, 8, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    labels = ids.masked_fill(ids == 0, -100)[:, 1:]
    kept = labels != -100
    optimiser = torch.optim.Adam(student.module.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        said = student(inputs)
        assert said.features["stages[-1]"].shape == (2, 5, 8)
        with torch.no_grad():
            heard = as_outputs(teacher(**inputs))
        ours, theirs = said.logits[:, :-1], heard.logits[:, :-1]
        loss = kd(ours[kept], theirs[kept], temperature=2.0) + cross_entropy(ours, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    # by hand, in float64
    p, q = (one[kept].detach().double().div(2).softmax(-1) for one in (theirs, ours))
    by_hand = 4 * (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(kd(ours[kept], theirs[kept], temperature=2.0).double(), by_hand)
    # padded positions do count where they are not left out
    rows = kd(ours, theirs, temperature=2.0, reduction="none")
    assert rows.shape == (2, 4)
    torch.testing.assert_close(rows[kept].mean(), by_hand.float())
    assert not torch.isclose(rows.mean(), rows[kept].mean(), rtol=1e-4)


def test_padding_explains_nothing() -> None:
    """e²KD's map of a text: what stands at padding changes neither the loss nor its gradient."""
    from limbeck.data.batch import Batch
    from limbeck.methods.context import Context
    from limbeck.taps.outputs import Outputs

    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    batch = Batch({"input_ids": mask, "attention_mask": mask}, torch.tensor([0, 1]))
    method = lb.E2KD(tap="stages[-1]")

    def loss(noise: float) -> tuple[float, torch.Tensor]:
        generator = torch.Generator().manual_seed(2)
        said = []
        for _ in range(2):
            feature = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
            feature = torch.where(mask[..., None] > 0, feature, noise).requires_grad_()
            weight = torch.randn(3, 2, generator=generator, dtype=torch.float64)
            logits = ((feature * mask[..., None]).tanh().sum(dim=1)) @ weight
            said.append(Outputs(logits, {"stages[-1]": feature}))
        ctx = Context(task="classification", num_outputs=2, epochs=1)
        ctx.teacher = lambda *_, **__: said[1]
        term = method.losses(said[0], said[1], batch, ctx)["explanation"]
        term.backward()
        return term.item(), said[0].features["stages[-1]"].grad[mask > 0]

    calm, calm_gradient = loss(0.0)
    assert calm > 0
    for noise in (50.0, -50.0):  # of one sign, the map's ReLU may hide it
        loud, loud_gradient = loss(noise)
        assert loud == calm
        assert torch.equal(loud_gradient, calm_gradient)


def test_folders_named_in_a_recipe_start_from_its_own_folder(tmp_path: Path) -> None:
    from limbeck.recipe.paths import resolve_paths

    (tmp_path / "nets" / "small").mkdir(parents=True)
    (tmp_path / "bert").mkdir()
    found = resolve_paths(
        {
            "data": {"name": "text", "validation_path": "v.csv", "tokenizer": "nets/small"},
            "student": {"model": "hf/nets/small"},
            "teachers": {"a": {"model": "hf/./gone"}, "b": {"model": "hf/owner/name"}},
        },
        tmp_path,
    )
    assert found["data"]["validation_path"] == str(tmp_path / "v.csv")
    assert found["data"]["tokenizer"] == str(tmp_path / "nets" / "small")
    assert found["student"]["model"] == f"hf/{tmp_path / 'nets' / 'small'}"
    assert found["teachers"]["a"]["model"] == f"hf/{tmp_path / 'gone'}"
    assert found["teachers"]["b"]["model"] == "hf/owner/name"
    for name in ("hf/bert", "hf/gpt2"):  # a model type, whatever lies beside the recipe
        assert resolve_paths({"student": name}, tmp_path)["student"] == name
    kept = resolve_paths({"data": {"tokenizer": "train"}}, tmp_path)
    assert kept["data"]["tokenizer"] == "train"
