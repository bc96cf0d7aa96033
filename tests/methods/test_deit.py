"""Hard distillation and DeiT's second head: references, the network, and what is deployed."""

import math

import pytest
import torch
from functional_references import naive_kl, naive_softmax
from method_runs import digits, log_of, make_plan, run
from torch import nn

import limbeck as lb
from limbeck import functional as lf
from limbeck.data.batch import Batch
from limbeck.engine.distributed import World
from limbeck.engine.setup import assemble, example_batch
from limbeck.errors import MethodError, ModelError
from limbeck.methods import make_method
from limbeck.methods.context import Context
from limbeck.models import build_model, load_model
from limbeck.taps.outputs import Outputs


def naive_hard(student, teacher, smoothing=0.0):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q, top = naive_softmax(s), t.index(max(t))
        y = [(1 - smoothing) * (k == top) + smoothing / len(s) for k in range(len(s))]
        total -= sum(a * math.log(b) for a, b in zip(y, q, strict=True))
    return total / len(student)


# Hard distillation


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_hard_distillation(smoothing):
    student, teacher = (3 * torch.randn(7, 6, dtype=torch.float64) for _ in range(2))
    value = lf.kd_hard(student, teacher, label_smoothing=smoothing)
    assert float(value) == pytest.approx(naive_hard(student, teacher, smoothing), rel=1e-10)
    rows = lf.kd_hard(student, teacher, label_smoothing=smoothing, reduction="none")
    assert float(rows.mean()) == pytest.approx(float(value), rel=1e-12)
    each = lf.kd_hard(student, teacher, label_smoothing=smoothing, reduction="elementwise")
    assert float(each) == pytest.approx(float(value) / 6, rel=1e-12)
    found = make_method("kd_hard", label_smoothing=smoothing)(student, teacher)["kd_hard"]
    torch.testing.assert_close(found, 0.5 * value)


def test_the_first_of_equal_choices_counts():
    value = lf.kd_hard(torch.tensor([[0.0, 9.0]]), torch.tensor([[1.0, 1.0]]))
    assert value.item() == pytest.approx(math.log(1 + math.exp(9)), rel=1e-6)


def test_hard_distillation_refuses():
    with pytest.raises(MethodError, match=r"method\.label_smoothing: expected a number in \[0, 1"):
        make_method("kd_hard", label_smoothing=2.0)
    with pytest.raises(ValueError, match=r"label_smoothing is 2\.0"):
        lf.kd_hard(torch.zeros(2, 3), torch.zeros(2, 3), label_smoothing=2.0)
    with pytest.raises(ValueError, match="expected the same shape"):
        lf.kd_hard(torch.zeros(2, 3), torch.zeros(2, 4))


# The network with two heads


def distilled(**options):
    return build_model(
        "vit", num_classes=5, input_shape=(3, 8, 8), dim=12, depth=2, distilled=True, **options
    )


def test_the_answer_is_the_mean_of_two_heads_in_both_modes():
    model, inputs = distilled(), torch.rand(4, 3, 8, 8)
    heads = {}
    for name in ("head", "head_dist"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _a, out, name=name: heads.update({name: out})
        )
    for mode in (True, False):
        said = model.train(mode)(inputs)
        torch.testing.assert_close(said, (heads["head"] + heads["head_dist"]) / 2)
        assert not torch.allclose(heads["head"], heads["head_dist"])


def test_the_other_weights_are_drawn_as_without_the_second_head():
    torch.manual_seed(0)
    plain = build_model("vit", num_classes=5, input_shape=(3, 8, 8), dim=12, depth=2)
    torch.manual_seed(0)
    ours = distilled().state_dict()
    added = {"distillation_token", "head_dist.weight", "head_dist.bias"}
    assert ours.keys() - plain.state_dict().keys() == added
    assert ours["positions"].shape[1] == plain.positions.shape[1] + 1
    assert torch.equal(ours["patches.weight"], plain.patches.weight)


def test_it_is_timms_distilled_transformer():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=5, img_size=8, patch_size=4
    )
    ours = build_model("vit_tiny", num_classes=5, input_shape=(3, 8, 8), distilled=True)
    state = dict(theirs.state_dict())
    names = {
        "cls_token": "class_token",
        "dist_token": "distillation_token",
        "pos_embed": "positions",
        "patch_embed.proj": "patches",
        "attn": "attention",
        "attention.proj": "attention.projection",
        "fc1": "linear1",
        "fc2": "linear2",
    }
    renamed = {}
    for name, value in state.items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = value
    ours.load_state_dict(renamed)
    for block in ours.blocks:
        block.norm1.eps = block.norm2.eps = theirs.blocks[0].norm1.eps
    ours.norm.eps = theirs.norm.eps
    inputs = torch.randn(3, 3, 8, 8)
    ours, theirs = ours.eval().double(), theirs.eval().double()
    torch.testing.assert_close(ours(inputs.double()), theirs(inputs.double()))


def test_the_mean_of_tokens_has_no_room_for_a_second_token():
    with pytest.raises(ModelError, match="distilled=true needs pooling 'class'"):
        distilled(pooling="mean")


# DeiT


@pytest.mark.parametrize(("form", "temperature"), [("hard", 1.0), ("soft", 3.0)])
def test_each_head_has_its_own_teacher(form, temperature):
    first, second, teacher = (2 * torch.randn(5, 4, dtype=torch.float64) for _ in range(3))
    labels = torch.tensor([0, 1, 2, -100, 1])
    method = make_method("deit", form=form, temperature=temperature)
    student = Outputs((first + second) / 2, {".head": first, ".head_dist": second})
    batch = Batch(inputs=first, targets=labels)
    found = float(method.losses(student, Outputs(teacher), batch, Context())["deit"])
    if form == "hard":
        expected = naive_hard(second, teacher)
    else:
        expected = math.fsum(naive_kl(second, teacher, temperature)) / 5
    assert found == pytest.approx(expected, rel=1e-10)
    task = float(method.task_loss(student, batch, Context()))
    assert task == pytest.approx(float(lf.cross_entropy(first, labels)), rel=1e-12)


@pytest.mark.parametrize("other", ["head", "head_dist"])
def test_no_head_learns_from_the_others_teacher(other):
    plan = make_plan("deit", wide=True)
    parts = assemble(plan, World())
    batch = example_batch(plan, torch.device("cpu"), 12)
    if other == "head_dist":  # the labels alone
        parts.module._task_weight, kept = 0.5, "head"
        batch = batch.replace(targets=torch.arange(12) % 10)
        for group in parts.module._groups:
            object.__setattr__(group[0].method, "weight", 0.0)
    else:
        parts.module._task_weight, kept = 0.0, "head_dist"
    loss, _ = parts.module(batch, parts.stages[0])
    loss.backward()
    student = parts.student
    assert student.get_submodule(kept).weight.grad.abs().max() > 0
    silent = student.get_submodule(other).weight.grad
    assert silent is None or not silent.any()
    parts.close()


def test_what_is_deployed_is_the_student_as_given_and_can_be_built_again(tmp_path):
    shape = {"patch": 4, "dim": 12, "depth": 1, "distilled": True}
    done = lb.distill(
        teacher=build_model("cnn", num_classes=10, input_shape=(1, 8, 8), channels=(4,)),
        student=build_model("vit", num_classes=10, input_shape=(1, 8, 8), **shape),
        data=digits(),
        method="deit",
        epochs=1,
        output=tmp_path / "run",
        quiet=True,
    )
    again = build_model("vit", num_classes=10, input_shape=(1, 8, 8), **shape)
    load_model(tmp_path / "run" / "student", again)
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(inputs), done.student.eval()(inputs))
    assert not any(m._forward_hooks for m in done.student.modules())


def test_a_timm_student(tmp_path):
    pytest.importorskip("timm")
    student = build_model(
        "timm/deit_tiny_distilled_patch16_224",
        num_classes=10,
        input_shape=(1, 8, 8),
        img_size=8,
        patch_size=4,
        embed_dim=12,
        depth=1,
    )
    plan = make_plan("deit", epochs=1)
    plan = type(plan)(**{**vars(plan), "make_student": lambda: student})
    run(plan, tmp_path / "run")
    assert all(record["deit"] > 0 for record in log_of(tmp_path / "run"))


def test_a_student_without_two_heads_is_refused():
    with pytest.raises(MethodError, match=r"\(Linear\) has no head 'head'; .*distilled: true"):
        make_method("deit").prepare(nn.Linear(2, 2), {}, None, Context())
    with pytest.raises(MethodError, match=r"method deit: needs what each .* '\.head', '\.head_d"):
        make_method("deit")(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"heads": ("head", "head")}, "heads"),
        ({"form": "firm"}, "form"),
        ({"temperature": 0.0}, "temperature"),
        ({"reduction": "mean"}, "reduction"),
    ],
)
def test_bad_values(change, key):
    with pytest.raises(MethodError, match=rf"method\.{key}: expected"):
        make_method("deit", **change)
