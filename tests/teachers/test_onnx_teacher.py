"""Networks in ONNX files as teachers, against the modules that they were exported from."""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from teacher_worlds import CPU, batch_of, cancer, digits
from torch import nn

import limbeck as lb
from limbeck.data import Batch, Normalize, bundle_from
from limbeck.errors import LimbeckError, MethodError, RecipeError, TeacherError
from limbeck.recipe import build_plan, describe_plan, load_recipe, recipe_digest, resolved
from limbeck.teachers import OnnxTeacher
from limbeck.testing.check_teacher import check_teacher

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(64, 10)).astype(np.float32)
BIAS = RNG.normal(size=10).astype(np.float32)


def linear_file(
    path: Path, *, batch="batch", softmax=False, extra=(), kind=TensorProto.FLOAT, external=False
) -> Path:
    """Write flatten -> matrix product -> (softmax) over digits, by hand."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    last = "product" if softmax else "scores"
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], [last]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["product"], ["scores"], axis=-1))
    nodes += [helper.make_node("Identity", ["flat"], [name]) for name in extra]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", kind, [batch, 1, 8, 8])],
        [
            helper.make_tensor_value_info("scores", kind, [batch, 10]),
            *(helper.make_tensor_value_info(name, kind, [batch, 64]) for name in extra),
        ],
        [
            numpy_helper.from_array(WEIGHT.astype(dtype), "weight"),
            numpy_helper.from_array(BIAS.astype(dtype), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    if external:
        onnx.save_model(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0
        )
    else:
        onnx.save_model(model, path)
    return path


def scores_of(inputs: torch.Tensor) -> torch.Tensor:
    product = inputs.double().flatten(1).numpy() @ WEIGHT.astype(np.float64) + BIAS
    return torch.from_numpy(product)


@pytest.fixture(scope="module")
def data():
    return digits()


def bound(path: Path, data, **options) -> OnnxTeacher:
    teacher = OnnxTeacher(path, **options)
    teacher.bind(data, CPU)
    return teacher


@pytest.mark.parametrize("batch", ["batch", 1, 3, 8, 50])
def test_answers_are_the_files_whatever_its_batch_size(tmp_path: Path, data, batch) -> None:
    teacher = bound(linear_file(tmp_path / "m.onnx", batch=batch), data)
    asked = batch_of(data)
    assert torch.allclose(teacher.ask(asked).logits.double(), scores_of(asked.inputs), atol=1e-4)
    check_teacher(teacher, asked)
    assert "gives logits (told by its answers)" in teacher.describe()


def test_probabilities_are_told_by_their_rows(tmp_path: Path, data) -> None:
    teacher = bound(linear_file(tmp_path / "m.onnx", softmax=True), data)
    asked = batch_of(data)
    expected = scores_of(asked.inputs).log_softmax(-1).clamp_min(np.log(1e-12))
    assert torch.allclose(teacher.ask(asked).logits.double(), expected, atol=1e-4)
    assert "gives probabilities (told by its answers)" in teacher.describe()
    check_teacher(teacher, asked)


def test_what_a_person_says_holds(tmp_path: Path, data) -> None:
    path = linear_file(tmp_path / "m.onnx", softmax=True)
    teacher = bound(path, data, output="logits")
    asked = batch_of(data)
    expected = scores_of(asked.inputs).softmax(-1)
    assert torch.allclose(teacher.ask(asked).logits.double(), expected, atol=1e-5)
    with pytest.raises(TeacherError, match="for logits say output: logits"):
        bound(linear_file(tmp_path / "n.onnx"), data, output="probabilities")


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_other_types(tmp_path: Path, data, kind) -> None:
    teacher = bound(linear_file(tmp_path / "m.onnx", kind=kind), data)
    asked = batch_of(data)
    logits = teacher.ask(asked).logits
    assert logits.dtype == torch.float32
    assert torch.allclose(logits.double(), scores_of(asked.inputs), rtol=1e-2, atol=5e-2)


def test_inputs_are_moved_to_its_statistics(tmp_path: Path, data) -> None:
    path = linear_file(tmp_path / "m.onnx")
    teacher = bound(path, data, normalization=Normalize())
    raw = data.splits["train"].fetch(torch.arange(8)).inputs / 255
    said = teacher.ask(batch_of(data)).logits.double()
    assert torch.allclose(said, scores_of(raw), atol=1e-4)
    assert "re-normalised" in teacher.describe()
    assert teacher.fingerprint() != bound(path, data).fingerprint()


def test_the_fingerprint_is_that_of_the_file_and_its_weights(tmp_path: Path, data) -> None:
    path = linear_file(tmp_path / "m.onnx", external=True)
    (tmp_path / "unrelated.txt").write_text("1")
    teacher = bound(path, data)
    asked = batch_of(data)
    assert torch.allclose(teacher.ask(asked).logits.double(), scores_of(asked.inputs), atol=1e-4)
    before = teacher.fingerprint()
    (tmp_path / "unrelated.txt").write_text("2")
    assert teacher.fingerprint() == before
    weights = tmp_path / "m.onnx.data"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    assert teacher.fingerprint() != before


def test_features_and_gradients_are_refused(tmp_path: Path, data) -> None:
    teacher = bound(linear_file(tmp_path / "m.onnx"), data)
    with pytest.raises(TeacherError, match="gives outputs only, no features"):
        teacher.set_taps(["scores"])
    with pytest.raises(TeacherError, match="has no gradients"):
        teacher.ask(batch_of(data), require_grad=True)
    assert teacher.module is None


def test_several_outputs(tmp_path: Path, data) -> None:
    path = linear_file(tmp_path / "m.onnx", extra=["hidden"])
    with pytest.raises(TeacherError, match=r"output_name: say which .*: scores, hidden"):
        OnnxTeacher(path)
    with pytest.raises(TeacherError, match="unknown output 'score': did you mean 'scores'"):
        OnnxTeacher(path, output_name="score")
    asked = batch_of(data)
    said = bound(path, data, output_name="scores").ask(asked).logits.double()
    assert torch.allclose(said, scores_of(asked.inputs), atol=1e-4)
    with pytest.raises(TeacherError, match="gives 64 outputs, the data have 10"):
        bound(path, data, output_name="hidden")


def test_an_export_of_torchs_own(tmp_path: Path, data) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    path = tmp_path / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its dependencies
        torch.onnx.export(
            module, (torch.zeros(2, 1, 8, 8),), path, dynamo=True, dynamic_shapes=({0: "n"},),
            verbose=False,
        )  # fmt: skip
    teacher = bound(path, data)
    asked = batch_of(data)
    with torch.no_grad():
        assert torch.allclose(teacher.ask(asked).logits, module(asked.inputs), atol=1e-5)


def named_file(path: Path) -> Path:
    """Write (mean of table[ids] * mask) over the sequence: two inputs, integers and floats."""
    info = helper.make_tensor_value_info
    table = numpy_helper.from_array(RNG.normal(size=(20, 3)).astype(np.float32), "table")
    axes = numpy_helper.from_array(np.array([2], dtype=np.int64), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Unsqueeze", ["mask", "axes"], ["wide"]),
            helper.make_node("Mul", ["rows", "wide"], ["kept"]),
            helper.make_node("ReduceMean", ["kept"], ["logits"], axes=[1], keepdims=0),
        ],
        "text",
        [info("ids", TensorProto.INT64, ["n", "t"]), info("mask", TensorProto.FLOAT, ["n", "t"])],
        [info("logits", TensorProto.FLOAT, ["n", 3])],
        [table, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save_model(model, path)
    return path


def test_inputs_by_name(tmp_path: Path) -> None:
    path = named_file(tmp_path / "text.onnx")
    ids = torch.randint(20, (12, 5), generator=torch.Generator().manual_seed(0))
    inputs = {"mask": (ids > 3).long(), "unused": ids, "ids": ids}
    data = bundle_from((inputs, torch.arange(12) % 3), num_classes=3)
    teacher = bound(path, data)
    table = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    expected = (table[ids.numpy()] * inputs["mask"][:, :, None].numpy()).mean(axis=1)
    said = teacher.ask(Batch(inputs)).logits
    assert np.allclose(said.numpy(), expected, atol=1e-6)
    check_teacher(teacher, Batch(inputs))
    with pytest.raises(TeacherError, match="needs the input 'mask', the data have ids"):
        teacher.ask(Batch({"ids": ids}))
    with pytest.raises(TeacherError, match=r"takes 2 inputs \(ids, mask\), the data give 1"):
        teacher.ask(Batch(ids))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: folder / "none.onnx", r"teachers.teacher.onnx: there is no file"),
        (lambda folder: _junk(folder), r"teachers.teacher.onnx: .* cannot be opened"),
    ],
)
def test_files_that_are_none(tmp_path: Path, make, line: str) -> None:
    with pytest.raises(TeacherError, match=line) as caught:
        OnnxTeacher(make(tmp_path))
    assert "\n" not in str(caught.value)


def _junk(folder: Path) -> Path:
    (folder / "junk.onnx").write_bytes(b"not a network")
    return folder / "junk.onnx"


def test_other_refusals(tmp_path: Path, monkeypatch) -> None:
    path = linear_file(tmp_path / "m.onnx")
    with pytest.raises(TeacherError, match="reads 'image' of shape batchx1x8x8, the data have"):
        bound(path, cancer(num_classes=10))
    with pytest.raises(TeacherError, match="unknown output 'logit': did you mean 'logits'"):
        OnnxTeacher(path, output="logit")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TeacherError, match="pip install onnxruntime"):
        OnnxTeacher(path)


def recipe(path: Path, method="kd", **more):
    teacher = {"onnx": str(path), **more}
    data = {"name": "digits", "num_train": 64}
    train = {"epochs": 1}
    return load_recipe(
        {"data": data, "student": "cnn", "teacher": teacher, "method": method, "train": train}
    )


def test_in_a_recipe(tmp_path: Path) -> None:
    path = linear_file(tmp_path / "m.onnx", batch=16)
    plan = build_plan(recipe(path))
    assert isinstance(plan.teachers["teacher"], OnnxTeacher)
    line = next(line for line in describe_plan(plan) if line.startswith("teacher"))
    assert "ONNX m.onnx" in line
    found = load_recipe({"data": "digits", "student": "cnn", "method": "kd",
                         "teacher": {"onnx": "m.onnx"}}, folder=tmp_path)  # fmt: skip
    assert found.teacher.onnx == str(path)
    digest = recipe_digest(resolved(recipe(path)))
    linear_file(path, batch=8)
    assert recipe_digest(resolved(recipe(path))) != digest


@pytest.mark.parametrize(
    ("method", "more", "line"),
    [
        ("fitnet", {}, "asks for features of teacher 'teacher', which gives outputs only"),
        ("kd", {"threads": 0}, "teacher.threads: expected a number of at least 1"),
        ("kd", {"output": "logit"}, "teacher.output"),
        ("kd", {"outputs": "logits"}, "unknown key 'outputs': did you mean 'output'"),
    ],
)
def test_recipes_that_cannot_be(tmp_path: Path, method, more, line: str) -> None:
    with pytest.raises((RecipeError, MethodError), match=line):
        build_plan(recipe(linear_file(tmp_path / "m.onnx"), method, **more))


def test_a_student_learns_from_a_file(tmp_path: Path) -> None:
    path = linear_file(tmp_path / "m.onnx", softmax=True)
    run = lb.distill(
        OnnxTeacher(path), "cnn", "digits", epochs=1, output=tmp_path / "run", quiet=True
    )
    assert "agreement" in run.metrics
    with pytest.raises(LimbeckError, match=r"asks teacher .* features, but it gives outputs only"):
        lb.distill(OnnxTeacher(path), "cnn", "digits", "fitnet", output=tmp_path / "b", quiet=True)


def test_the_path_is_enough_in_python(tmp_path: Path) -> None:
    path = linear_file(tmp_path / "m.onnx")
    run = lb.distill(str(path), "cnn", "digits", epochs=1, output=tmp_path / "run", quiet=True)
    said = load_recipe(lb.load_run(run.path).path / "recipe.yaml")
    assert said.teacher.onnx == str(path)
