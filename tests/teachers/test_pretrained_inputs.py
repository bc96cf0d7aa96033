"""Teachers see inputs as they were pretrained: statistics and size, moved from the student's."""

from pathlib import Path

import pytest
import timm
import torch
from teacher_worlds import CPU, batch_of
from torch.nn import functional as F

import limbeck as lb
from limbeck.data import DataBundle, Normalize, bundle_from
from limbeck.errors import RecipeError, TeacherError
from limbeck.recipe import build_plan, describe_plan, load_recipe
from limbeck.teachers import CalibratedTeacher, LiveTeacher, as_teacher
from limbeck.testing.check_teacher import check_teacher

VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2}
DIGITS = {"name": "digits", "num_train": 64}


def images(size: int = 32, normalization: Normalize | None = None, scale: float = 1.0, channels=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, channels, size, size, generator=generator) * scale
    return bundle_from(
        (x, torch.arange(24) % 5), num_classes=5, normalization=normalization, seed=0
    )


def resnet(**options):
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5, **options).eval()


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **{**VIT, **options}).eval()


def bound(teacher: LiveTeacher, data: DataBundle) -> LiveTeacher:
    teacher.bind(data, CPU)
    return teacher


@pytest.mark.parametrize(
    "normalization", [None, Normalize((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))], ids=["raw", "student's"]
)
def test_a_timm_module_is_shown_its_own_statistics(normalization) -> None:
    data = images(normalization=normalization)
    teacher = bound(as_teacher(resnet()), data)
    batch = batch_of(data)
    raw = data.splits["train"].fetch(torch.arange(8)).inputs
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        expected = resnet()((raw - mean) / std)
    assert torch.allclose(teacher.ask(batch).logits, expected, atol=1e-5)
    assert "re-normalised" in teacher.describe()
    assert "pretrained_cfg" in teacher.describe()
    check_teacher(teacher, batch, taps=("stages", "penultimate"))
    teacher.close()


def test_grey_images_are_moved_by_the_mean_of_the_channels() -> None:
    data = images(channels=1)
    teacher = bound(as_teacher(resnet(in_chans=1)), data)
    raw = data.splits["train"].fetch(torch.arange(8)).inputs
    mean, std = (0.485 + 0.456 + 0.406) / 3, (0.229 + 0.224 + 0.225) / 3
    with torch.no_grad():
        expected = resnet(in_chans=1)((raw - mean) / std)
    assert torch.allclose(teacher.ask(batch_of(data)).logits, expected, atol=1e-5)
    teacher.close()


def test_inputs_that_somebody_normalised_already_are_left_alone() -> None:
    """Without stated statistics, values outside of [0, 1] cannot be raw: moving would be wrong."""
    data = images(scale=4.0)
    teacher = as_teacher(resnet())
    assert "not in [0, 1]" in teacher.reads(data)
    bound(teacher, data)
    batch = batch_of(data)
    with torch.no_grad():
        assert torch.equal(teacher.ask(batch).logits, resnet()(batch.inputs))
    teacher.close()


def test_a_person_decides() -> None:
    data = images()
    batch = batch_of(data)
    with torch.no_grad():
        as_given = resnet()(batch.inputs)
        halved = resnet()(batch.inputs / 2)
    for stats, expected in [(None, as_given), (Normalize((0,) * 3, (2,) * 3), halved)]:
        teacher = bound(LiveTeacher(resnet(), normalization=stats), data)
        assert torch.allclose(teacher.ask(batch).logits, expected, atol=1e-5)
        teacher.close()


def test_images_are_resized_only_for_a_network_that_reads_no_other_size() -> None:
    data = images(size=24)
    batch = batch_of(data)
    teacher = LiveTeacher(vit(), normalization=None)
    said = teacher.reads(data)
    assert said.startswith("inputs resized from 24x24 to 32x32")
    bound(teacher, data)
    larger = F.interpolate(batch.inputs, (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.allclose(teacher.ask(batch).logits, vit()(larger), atol=1e-6)
    assert said in teacher.describe()
    check_teacher(teacher, batch, taps=("stages", "penultimate"))
    teacher.close()
    flexible = bound(LiveTeacher(vit(dynamic_img_size=True), normalization=None), data)
    with torch.no_grad():
        expected = vit(dynamic_img_size=True)(batch.inputs)
    assert torch.equal(flexible.ask(batch).logits, expected)
    assert flexible.reads(data) == ""
    flexible.close()
    convolutions = LiveTeacher(resnet(), normalization=None)
    assert convolutions.reads(data) == ""


def test_resizing_is_part_of_the_fingerprint() -> None:
    prints = set()
    for size in (24, 32):
        teacher = bound(LiveTeacher(vit(), normalization=None), images(size=size))
        prints.add(teacher.fingerprint())
        teacher.close()
    assert len(prints) == 2


def test_wrappers_say_what_is_inside() -> None:
    data = images(size=24)
    for teacher in [CalibratedTeacher(as_teacher(vit()), temperature=2.0), as_teacher([vit()])]:
        assert "re-normalised" in teacher.reads(data)
        assert "resized" in teacher.reads(data)
        assert teacher.reads(data).count("resized") == 1


def test_features_are_paired_on_what_the_teacher_sees(tmp_path: Path) -> None:
    data = images(size=24)
    student = timm.create_model(
        "vit_tiny_patch16_224", num_classes=5, **{**VIT, "img_size": 24, "patch_size": 6}
    )
    run = lb.distill(
        vit(), student, data, lb.FitNet(pairs="auto"), epochs=1, output=tmp_path / "run", quiet=True
    )
    assert run.summary["status"] == "done"


def test_a_student_of_the_wrong_size_is_told_the_argument(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"made for 32x32: build it with the img_size"):
        lb.distill(
            None, vit(), images(size=24), "plain", epochs=1, output=tmp_path / "run", quiet=True
        )


def test_a_trained_student_expects_what_it_was_trained_on(tmp_path: Path) -> None:
    """It learned on inputs in [0, 1]; as a teacher it must not be given ImageNet's statistics."""
    data = images()
    student = lb.distill(
        None, resnet(), data, "plain", epochs=1, output=tmp_path / "run", quiet=True
    ).student
    teacher = as_teacher(student)
    assert teacher.reads(data) == ""
    bound(teacher, data)
    batch = batch_of(data)
    with torch.no_grad():
        assert torch.equal(teacher.ask(batch).logits, student(batch.inputs))
    teacher.close()


def recipe(teacher, method="kd", student="cnn", **more):
    document = {"data": DIGITS, "student": student, "teacher": teacher, "method": method, **more}
    return load_recipe(document)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    return str(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("normalize", "moved"),
    [
        ({}, True),
        ({"normalize": "data"}, False),
        ({"normalize": {"mean": [0.5], "std": [1]}}, True),
    ],
)
def test_a_recipe_says_what_the_teacher_reads(weights: str, normalize, moved: bool) -> None:
    teacher = {"model": "timm/resnet10t", "weights": weights, **normalize}
    plan = build_plan(recipe(teacher))
    line = next(line for line in describe_plan(plan) if line.startswith("teacher"))
    assert ("re-normalised" in line) == moved
    assert ("pretrained_cfg" in line) == (not normalize)


def test_a_recipe_resizes_for_a_transformer(tmp_path: Path) -> None:
    arguments = {**VIT, "img_size": 16}
    teacher = {"model": "timm/vit_tiny_patch16_224", "weights": "random", **arguments}
    plan = build_plan(recipe(teacher))
    line = next(line for line in describe_plan(plan) if line.startswith("teacher"))
    assert "inputs resized from 8x8 to 16x16" in line
    assert "re-normalised" not in line  # a network that has learned nothing expects nothing


def test_timm_as_student_from_a_file_beside_the_recipe(weights: str) -> None:
    folder = Path(weights).parent
    student = {"model": "timm/resnet10t", "weights": Path(weights).name}
    document = {"data": DIGITS, "student": student, "method": "plain"}
    plan = build_plan(load_recipe(document, folder=folder))
    from safetensors.torch import load_file

    made = plan.make_student().state_dict()
    assert all(torch.equal(value, made[name]) for name, value in load_file(weights).items())
    assert plan.student_spec["arguments"] == {}


def test_a_teacher_that_learned_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"teacher.weights: missing: timm/resnet10t .*pretrained"):
        recipe({"model": "timm/resnet10t"})
    with pytest.raises(RecipeError, match=r"torchvision/resnet18 would have .*DEFAULT"):
        recipe({"model": "torchvision/resnet18"})
    recipe({"model": "timm/resnet10t", "weights": "random"})
    recipe({"model": "timm/resnet10t", "pretrained": True})
    named = recipe({"model": "torchvision/resnet18", "weights": "DEFAULT"})
    assert named.teacher.weights == "DEFAULT"


def test_a_teacher_with_a_new_head_cannot_answer(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    path = tmp_path / "seven.safetensors"
    save_file(model.state_dict(), path)
    teacher = {"model": "timm/resnet10t", "weights": str(path)}
    with pytest.raises((TeacherError, RecipeError), match=r"for 7 classes, the data have 10"):
        build_plan(recipe(teacher))
    said = []
    build_plan(recipe(teacher, "fitnet"), say=said.append)
    assert any("only its features can teach" in line for line in said)


def test_unknown_statistics_are_refused() -> None:
    teacher = {"model": "timm/resnet10t", "weights": "random"}
    with pytest.raises(RecipeError, match=r"teacher.normalize: unknown normalize 'dat'"):
        recipe({**teacher, "normalize": "dat"})
    with pytest.raises(RecipeError, match=r"teacher.normalize: expected a mapping"):
        recipe({**teacher, "normalize": 3})
