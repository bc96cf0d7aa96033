"""GKD and GKD-CLS on small transformers: gradients by hand, limits, and what is put back."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from method_runs import make_plan, run, same_weights, teacher_network  # noqa: E402

from limbeck.data import bundle_from  # noqa: E402
from limbeck.data.batch import Batch  # noqa: E402
from limbeck.engine import distiller  # noqa: E402
from limbeck.engine.distributed import World  # noqa: E402
from limbeck.engine.plan import Plan  # noqa: E402
from limbeck.engine.running import run_plan  # noqa: E402
from limbeck.engine.settings import Checkpoints, Optimizer, Train  # noqa: E402
from limbeck.engine.setup import assemble  # noqa: E402
from limbeck.engine.signals import Interrupted  # noqa: E402
from limbeck.errors import MethodError, ShapeError  # noqa: E402
from limbeck.methods import as_methods  # noqa: E402
from limbeck.models import build_model  # noqa: E402
from limbeck.models.calling import make_attention_eager  # noqa: E402
from limbeck.taps import TappedModel, roles_of  # noqa: E402
from limbeck.taps.slopes import slopes_at  # noqa: E402
from limbeck.teachers.live import LiveTeacher  # noqa: E402
from limbeck.teachers.online import OnlineTeacher  # noqa: E402

WIDTH, TOKENS = 8, 6
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OWN = {"embeddings": "own", "dropout": "own"}


def bert(layers: int, seed: int, *, width: int = WIDTH, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(
        "hf/bert",
        num_classes=3,
        input_shape=(TOKENS,),
        vocab_size=20,
        pad_token_id=0,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.4,
        max_position_embeddings=TOKENS,
        **more,
    )


def texts(count: int = 16) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 20, (count, TOKENS), generator=generator)
    lengths = 2 + torch.arange(count) % (TOKENS - 1)
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}, torch.arange(count) % 3


def plan_of(
    *methods: Any,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    **train: Any,
) -> Plan:
    inputs, targets = texts()
    part = (inputs, targets)
    settings = {"epochs": 2, "batch_size": 8, "deploy": "last", "log_every": 1, **train}
    network = bert(2, 5, **STILL) if student is None else student
    return Plan(
        name="texts",
        data=bundle_from(part, part, part, num_classes=3),
        make_student=lambda: copy.deepcopy(network),
        methods=as_methods(list(methods)),
        teachers={"teacher": LiveTeacher(bert(4, 7) if teacher is None else teacher)},
        train=Train(optimizer=Optimizer(name="adamw", lr=1e-3), **settings),
        checkpoints=Checkpoints(),
    )


def terms_of(plan: Plan, *, wide: bool = True) -> tuple[dict[str, float], Any]:
    """The terms of a step on all texts, and the wired parts."""
    parts = assemble(plan, World())
    if wide:
        parts.student.double()
        plan.teachers["teacher"].module.double()
    inputs, targets = texts()
    loss, terms = parts.module(Batch(inputs, targets, torch.arange(16)), parts.stages[0])
    loss.backward()
    return {name: float(value) for name, value in terms.items()}, parts


def keep(kept: dict[str, torch.Tensor], name: str, _module: Any, _inputs: Any, out: Any) -> None:
    kept[name] = out[0] if isinstance(out, tuple) else out


def by_hand(network: nn.Module, layers: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """Gradients of each text's top probability at the embeddings, and at layers; text by text."""
    network = copy.deepcopy(network).double().eval()
    make_attention_eager(network)
    network.requires_grad_(True)
    inputs, _ = texts()
    found: list[list[torch.Tensor]] = [[] for _ in range(1 + len(layers))]
    for row in range(16):
        kept: dict[str, torch.Tensor] = {}
        names = ["bert.embeddings", *(f"bert.encoder.layer.{layer}" for layer in layers)]
        handles = [
            network.get_submodule(name).register_forward_hook(partial(keep, kept, name))
            for name in names
        ]
        logits = network(**{key: value[row : row + 1] for key, value in inputs.items()}).logits
        for handle in handles:
            handle.remove()
        top = logits.softmax(1).max()
        slopes = torch.autograd.grad(top, [kept[name] for name in names])
        for column, slope in zip(found, slopes, strict=True):
            column.append(slope)
    return [torch.cat(column) for column in found]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a / a.norm(), b / b.norm()
    return float(((a - b) ** 2).sum())


def test_gkd_is_the_distance_of_gradients_taken_text_by_text():
    small, big = bert(2, 5, **STILL), bert(4, 7)
    plan = plan_of({"name": "gkd", "beta": 2.0, **OWN}, student=small, teacher=big)
    (ours,), (theirs,) = by_hand(small), by_hand(big)
    found, parts = terms_of(plan)
    lengths = texts()[0]["attention_mask"].sum(1).tolist()
    each = [
        [apart(ours[i, j], theirs[i, j]) for j in range(length)] for i, length in enumerate(lengths)
    ]
    expected = 2 * sum(sum(one) / len(one) for one in each) / 16
    assert found["gkd"] == pytest.approx(expected, rel=1e-9)
    parts.close()
    plan = plan_of(
        {"name": "gkd", "beta": 2.0, "per_token": "rows", **OWN}, student=small, teacher=big
    )
    found, parts = terms_of(plan)
    assert found["gkd"] == pytest.approx(2 * sum(map(sum, each)) / sum(lengths), rel=1e-9)
    parts.close()


def test_gkd_cls_is_the_sum_over_the_skipped_layers():
    small, big = bert(2, 5, **STILL), bert(4, 7)
    ours, theirs = by_hand(small, (0,)), by_hand(big, (1,))
    method = {"name": "gkd_cls", "beta": 3.0, "gamma": 2.0, **OWN}
    found, parts = terms_of(plan_of(method, student=small, teacher=big))
    (runtime,) = parts.runtimes
    assert (runtime.layers, runtime.its_layers) == (("stages.0",), ("stages.1",))
    expected = 2 * sum(apart(ours[1][i, 0], theirs[1][i, 0]) for i in range(16)) / 16
    assert found["gkd_cls"] == pytest.approx(expected, rel=1e-9)
    states = []
    for network, layer in ((small, 0), (big, 1)):
        network = copy.deepcopy(network).double().eval()
        with TappedModel(network, (f"stages.{layer}",)) as tapped, torch.no_grad():
            states.append(tapped(texts()[0]).features[f"stages.{layer}"][:, 0])
    total = sum(apart(states[0][i], states[1][i]) for i in range(16))
    assert found["patient"] == pytest.approx(3 * total / (16 * WIDTH), rel=1e-9)
    assert found["gkd"] > 0
    parts.close()


def test_the_papers_map_of_layers():
    from limbeck.methods.gkd_cls import skip_pairs

    pairs = skip_pairs("gkd_cls", bert(6, 0), bert(12, 0))
    assert pairs == tuple((f"stages.{i - 1}", f"stages.{2 * i - 1}") for i in range(1, 6))


@pytest.mark.parametrize("name", ["gkd", "gkd_cls"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    network = bert(2, 5, **STILL)
    found, parts = terms_of(plan_of(name, student=network, teacher=copy.deepcopy(network)))
    del found["loss"], found["task"]
    assert {"kd", "gkd"} <= set(found)
    assert all(abs(value) < 1e-20 for value in found.values())
    parts.close()


@pytest.mark.parametrize("name", ["gkd", "gkd_cls"])
def test_gradients_reach_the_encoder_twice_derived_and_neither_embeddings_nor_teacher(name):
    big = bert(4, 7)
    method = {"name": name, "alpha": 0.0}
    plan = plan_of(method, teacher=big)
    plan = Plan(**{**vars(plan), "task_weight": 0.0})
    _, parts = terms_of(plan)
    student = parts.student
    assert all(value.grad is None for value in big.parameters())
    assert all(value.grad is None for value in student.bert.embeddings.parameters())
    query = student.bert.encoder.layer[0].attention.self.query.weight
    way = torch.randn_like(query)
    claimed = float((query.grad * way).sum())
    inputs, targets = texts()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            query += sign * 1e-3 * way
        loss, _ = parts.module(Batch(inputs, targets, torch.arange(16)), parts.stages[0])
        values.append(float(loss.detach()))
        with torch.no_grad():
            query -= sign * 1e-3 * way
    # The loss is summed in float32: the step is wide enough that its difference has digits left.
    found = (values[0] - values[1]) / 2e-3
    assert abs(found) > 1e-3
    assert claimed == pytest.approx(found, rel=0.02)
    parts.close()


@pytest.mark.parametrize("method", [{"name": "gkd", "beta": 0.0},
                                    {"name": "gkd_cls", "beta": 0.0, "gamma": 0.0}])  # fmt: skip
def test_without_its_weights_it_is_kd_to_the_bit_through_a_whole_run(method, tmp_path):
    kd = {"name": "kd", "temperature": 5.0, "weight": 0.5, "reduction": "elementwise"}
    runs = {}
    network = bert(2, 5, attention="eager")  # with dropout; a fused one rounds otherwise
    for label, chosen in {"kd": kd, "none": {**method, **OWN}}.items():
        plan = plan_of(chosen, student=network, teacher=bert(4, 7))
        plan = Plan(**{**vars(plan), "task_weight": 0.5})
        runs[label] = run_plan(plan, tmp_path / label, quiet=True).student
    assert same_weights(runs["kd"], runs["none"])


def test_on_images_without_beta_it_is_kd_to_the_bit(tmp_path):
    kd = {"name": "kd", "temperature": 5.0, "weight": 0.5, "reduction": "elementwise"}
    first = run(make_plan(kd, task_weight=0.5), tmp_path / "kd")
    second = run(make_plan({"name": "gkd", "beta": 0.0}), tmp_path / "none")
    third = run(make_plan("gkd"), tmp_path / "some")
    assert same_weights(first.student, second.student)
    assert not same_weights(first.student, third.student)
    assert all(value.grad is None for value in teacher_network().parameters())


def test_on_numbers_it_is_jacobian_matching_up_to_length():
    parts = assemble(make_plan({"name": "gkd", "beta": 1.0}, wide=True), World())
    images = torch.rand(4, 1, 8, 8)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    parts.module.eval()
    _, terms = parts.module(batch, parts.stages[0])
    total = 0.0
    for row in range(4):
        slopes = []
        for network in (parts.student, teacher_network(wide=True)):
            seen = images[row : row + 1].double().requires_grad_()
            (slope,) = torch.autograd.grad(network(seen).softmax(1).max(), seen)
            slopes.append(slope)
        total += apart(*slopes) / 4
    assert float(terms["gkd"]) == pytest.approx(total, rel=1e-5)  # inputs are float32
    assert not images.requires_grad
    parts.close()


def test_embeddings_are_the_teachers_and_stay_so_until_the_student_is_deployed(tmp_path):
    big = bert(4, 7)
    plan = plan_of("gkd", student=bert(2, 5), teacher=big)
    student = run_plan(plan, tmp_path / "run", quiet=True).student
    theirs = big.bert.embeddings.state_dict()
    for name, value in student.bert.embeddings.state_dict().items():
        assert torch.equal(value, theirs[name])
    before = bert(2, 5)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(student.get_parameter(query), before.get_parameter(query))
    assert all(value.requires_grad for value in student.parameters())
    rates = [m.p for m in student.modules() if isinstance(m, nn.Dropout)]
    assert rates == [m.p for m in before.modules() if isinstance(m, nn.Dropout)]
    assert student.config._attn_implementation == before.config._attn_implementation


def test_embeddings_of_a_teacher_that_has_learned_nothing_are_not_copied(tmp_path):
    plan = replace(plan_of("gkd"), teachers={"teacher": OnlineTeacher(bert(2, 7))})
    with pytest.raises(MethodError, match="copies its teacher's embeddings before the first step"):
        run_plan(plan, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(("dropout", "kept"), [("off", False), ("encoder", True), ("own", True)])
def test_dropout_is_off_or_kept_where_the_paper_keeps_it(dropout, kept):
    parts = assemble(plan_of({"name": "gkd", "dropout": dropout}, student=bert(2, 5)), World())
    student = parts.student
    assert (student.bert.encoder.layer[0].attention.self.dropout.p > 0) == kept
    assert (student.bert.embeddings.dropout.p > 0) == (dropout == "own")
    parts.close()


def test_rates_that_are_plain_numbers_are_silenced_too():
    from limbeck.methods.still import restore_dropout, silence_dropout

    network = nn.Sequential(nn.MultiheadAttention(8, 2, dropout=0.3), nn.Dropout2d(0.2))
    kept = silence_dropout(network)
    assert (network[0].dropout, network[1].p) == (0.0, 0.0)
    restore_dropout(copy.deepcopy(network), kept)
    assert network[0].dropout == 0.0
    restore_dropout(network, kept)
    assert (network[0].dropout, network[1].p) == (0.3, 0.2)


def test_resuming_goes_on_to_the_same_bits(tmp_path):
    def plan() -> Plan:
        return plan_of("gkd", student=bert(2, 5))

    whole = run_plan(plan(), tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distiller.Distiller, "_asked", lambda self: self.position.step >= 3)
        with pytest.raises(Interrupted):
            run_plan(plan(), tmp_path / "cut", quiet=True)
    again = run_plan(plan(), tmp_path / "cut", resume=True, quiet=True)
    assert same_weights(whole.student, again.student)


def test_the_control_is_the_students_own_norm():
    small = bert(2, 5, **STILL)
    method = {"name": "gkd", "beta": 3.0, "match": "norm", **OWN}
    (slopes,) = by_hand(small)
    found, parts = terms_of(plan_of(method, student=small))
    expected = 3 * float(slopes.square().sum()) / 16
    assert found["gradient_norm"] == pytest.approx(expected, rel=1e-9)
    assert "gkd" not in found
    parts.close()


def test_teacher_and_student_are_asked_once_a_step():
    big = bert(4, 7)
    parts = assemble(plan_of("gkd_cls", teacher=big), World())
    calls = {"student": 0, "teacher": 0}
    for name, network in (("student", parts.student), ("teacher", big)):
        network.register_forward_hook(
            lambda *_, name=name: calls.__setitem__(name, calls[name] + 1)
        )
    inputs, targets = texts()
    parts.module(Batch(inputs, targets, torch.arange(16)), parts.stages[0])
    assert calls == {"student": 1, "teacher": 1}
    parts.close()


@pytest.mark.parametrize("kind", ["distilbert", "gpt2", "vit"])
def test_other_networks_have_embeddings_too(kind):
    shapes = {
        "distilbert": {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
        "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2},
    }
    if kind == "vit":
        from test_every_pair import transformers_vit

        network, inputs = transformers_vit(), {"pixel_values": torch.rand(2, 3, 32, 32)}
    else:
        network = build_model(
            f"hf/{kind}", num_classes=3, input_shape=(6,), vocab_size=20, pad_token_id=0,
            **shapes[kind],
        )  # fmt: skip
        inputs = {key: value[:2] for key, value in texts()[0].items()}
    make_attention_eager(network)
    network.requires_grad_(False)
    with TappedModel(network, ("embeddings",), require_grad=True) as tapped:
        said = tapped(inputs)
        (slope,) = slopes_at(said, ("embeddings",), graph=True)
        assert slope.shape == said.features["embeddings"].shape
        assert slope.abs().sum() > 0
        with torch.no_grad():
            assert not tapped(inputs).features["embeddings"].requires_grad


def test_an_encoder_decoder_has_no_one_place_for_embeddings():
    fields = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    feed = {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    network = build_model("hf/bart", num_classes=3, input_shape=(6,), **fields, **heads, **feed)
    assert "embeddings" not in roles_of(network)


def refuse(method: Any, error: type[Exception], match: str, **more: Any) -> None:
    with pytest.raises(error, match=match):
        assemble(plan_of(method, **more), World())


def test_what_cannot_be_compared_is_told():
    refuse(
        "gkd",
        ShapeError,
        r"student tap 'embeddings' is \[2, 6, 4\] and teacher tap 'embeddings' \[2, 6, 8\]; give "
        "the student the teacher's width",
        student=bert(2, 5, width=4),
    )
    refuse(
        "gkd",
        MethodError,
        r"embeddings: the teacher's cannot be copied: token_type_embeddings.weight is \[3, 8\] in "
        r"the student's bert.embeddings, \[2, 8\] in the teacher's bert.embeddings; make them "
        r"alike, or set embeddings: own \(gkd\)",
        student=bert(2, 5, type_vocab_size=3),
    )
    refuse({"name": "gkd", "tap": "stages"}, MethodError,
           r"method.tap: expected one layer, 'stages' stands for stages.0, stages.1")  # fmt: skip
    refuse("gkd_cls", MethodError, "skip needs a student of two stages or more and a teacher of as "
           "many at least, got 1 and 4; name layers", student=bert(1, 5))  # fmt: skip
    refuse({"name": "gkd_cls", "tap": "input", "pairs": (("head", "stages.1"),)}, ShapeError,
           "needs layers of the same width")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("gkd", "alpha", -1.0),
        ("gkd", "beta", -1.0),
        ("gkd", "temperature", 0.0),
        ("gkd", "reduction", "sum"),
        ("gkd", "per_token", "tokens"),
        ("gkd", "embeddings", "copy"),
        ("gkd", "dropout", "on"),
        ("gkd", "match", "length"),
        ("gkd_cls", "beta", -1.0),
        ("gkd_cls", "gamma", -1.0),
    ],
)
def test_values_without_a_meaning_are_refused(name, key, value):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        as_methods([{"name": name, key: value}])
