"""Networks in folders: whole, exact, and refused in one line where they are not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import ModelError, StorageError
from limbeck.models import build_model, load_model, model_spec, read_spec, save_model


def make(name="cnn", **arguments):
    given = {"num_classes": 4, "input_shape": (1, 8, 8), **arguments}
    return build_model(name, **given), model_spec(name, **given)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cnn", {"channels": (4, 8), "norm": "group"}),
        ("mlp", {"widths": [5]}),
        ("resnet8", {}),
        ("vit", {"depth": 1}),
    ],
)
def test_a_saved_network_comes_back_bit_for_bit(tmp_path: Path, name, arguments):
    model, spec = make(name, **arguments)
    model(torch.randn(4, 1, 8, 8))
    save_model(model, tmp_path / "student", spec)
    loaded = load_model(tmp_path / "student")
    assert not loaded.training
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    again = build_model(str(tmp_path / "student"), num_classes=4, input_shape=(1, 8, 8))
    inputs = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(inputs), model.eval()(inputs))


def test_the_description_is_plain_and_complete(tmp_path: Path):
    model, spec = make(channels=(4, 8))
    extra = {
        "normalisation": {"mean": [0.5], "std": [0.25]},
        "class_names": ["a", "b", "c", "d"],
    }
    save_model(model, tmp_path, spec, extra)
    read = read_spec(tmp_path)
    assert read.pop("sha256")
    assert read == {
        "format": 1,
        "model": "cnn",
        "arguments": {"channels": [4, 8]},
        "num_classes": 4,
        "input_shape": [1, 8, 8],
        **extra,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_loading_does_not_move_the_global_generator(tmp_path: Path):
    model, spec = make()
    save_model(model, tmp_path, spec)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_model(tmp_path)
    assert torch.equal(torch.rand(3), expected)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path):
    model = Tied()
    save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * 36 + 200
    fresh = Tied()
    load_model(tmp_path, fresh)
    assert torch.equal(fresh.second.weight, model.first.weight)
    assert fresh.first.weight is fresh.second.weight


def test_shared_weights_in_channels_last_are_stored_as_any_others(tmp_path: Path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3)
            self.second = nn.Conv2d(3, 3, 3)
            self.second.weight = self.first.weight

    plain, other = Twice(), Twice()
    other.load_state_dict(plain.state_dict())
    save_model(plain, tmp_path / "plain")
    save_model(other.to(memory_format=torch.channels_last), tmp_path / "last")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "last")]
    assert files[0] == files[1]
    assert not other.first.weight.is_contiguous()  # the network itself is left as it was
    assert other.second.weight is other.first.weight


def test_a_users_module_needs_to_be_given(tmp_path: Path):
    save_model(nn.Linear(2, 2), tmp_path)
    assert read_spec(tmp_path)["model"] is None
    with pytest.raises(ModelError, match=r"has no name: .* load_model\(folder, model=\.\.\.\)"):
        load_model(tmp_path)
    assert isinstance(load_model(tmp_path, nn.Linear(2, 2)), nn.Linear)


def rewrite(folder: Path, **changes):
    path = folder / "model.json"
    read = json.loads(path.read_text())
    read.update(changes)
    path.write_text(json.dumps({k: v for k, v in read.items() if v != "absent"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "no model.json in"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors in"),
        (lambda f: (f / "model.json").write_text("{"), "model.json is damaged"),
        (lambda f: (f / "model.json").write_text("[1]"), "has no 'format'"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe{"), "model.json is damaged"),
        (lambda f: rewrite(f, format=2), "has format 2; this version of limbeck reads format 1"),
        (lambda f: rewrite(f, num_classes="absent"), "the key 'num_classes' is missing"),
        (lambda f: rewrite(f, num_classes="four"), "num_classes"),
        (lambda f: rewrite(f, input_shape="large"), "input_shape"),
        (lambda f: rewrite(f, input_shape=7), "input_shape"),
        (lambda f: rewrite(f, arguments=[1]), "'arguments' is not a mapping"),
        (lambda f: rewrite(f, model=3), "unknown model '3'"),
        (lambda f: rewrite(f, num_classes=5), "shape .*, this network needs"),
        (lambda f: rewrite(f, arguments={"norm": "group"}), "this network does not have"),
        (lambda f: rewrite(f, arguments={"channels": [4, 8, 8]}), "has no weights for 'stages.2"),
        (lambda f: rewrite(f, model="cmn"), "did you mean 'cnn'"),
        (
            lambda f: (f / "model.safetensors").write_bytes(
                (f / "model.safetensors").read_bytes()[:-8]
            ),
            "model.safetensors is damaged",
        ),
    ],
)
def test_damage_is_refused_in_one_line(tmp_path: Path, damage, message):
    model, spec = make(channels=(4, 8))
    save_model(model, tmp_path, spec)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_found(tmp_path: Path):
    model, spec = make()
    save_model(model, tmp_path, spec)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged, or is not the file"):
        load_model(tmp_path)
    rewrite(tmp_path, sha256="absent")  # weights changed on purpose: the checksum can be dropped
    load_model(tmp_path)


def test_garbage_weights_without_a_checksum_are_damaged(tmp_path: Path):
    model, spec = make()
    save_model(model, tmp_path, spec)
    rewrite(tmp_path, sha256="absent")
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(ModelError, match="is damaged"):
        load_model(tmp_path)


def test_a_module_that_does_not_fit_is_left_as_it_was(tmp_path: Path):
    save_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), tmp_path)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4))
    before = model[0].weight.clone()
    with pytest.raises(ModelError, match=r"'1\.\w+' have shape"):
        load_model(tmp_path, model)
    assert torch.equal(model[0].weight, before)


def test_a_folder_refuses_other_data(tmp_path: Path):
    model, spec = make()
    save_model(model, tmp_path, spec)
    with pytest.raises(ModelError, match="saved with num_classes 4, these data need 10"):
        build_model(str(tmp_path), num_classes=10)
    with pytest.raises(ModelError, match=r"saved with input_shape \(1, 8, 8\)"):
        build_model(str(tmp_path), input_shape=(3, 8, 8))
    with pytest.raises(ModelError, match="has its own arguments: remove norm"):
        build_model(str(tmp_path), norm="none")


@pytest.mark.parametrize(
    ("spec", "extra", "message"),
    [
        (None, {"class_names": {1, 2}}, "cannot be JSON"),
        (None, {"normalisation": {"mean": [float("nan")]}}, "cannot be JSON"),
        (None, {"model": "cnn"}, "extra may not contain model"),
    ],
)
def test_descriptions_that_cannot_be_kept(tmp_path: Path, spec, extra, message):
    with pytest.raises(ModelError, match=message):
        save_model(nn.Linear(1, 1), tmp_path / "out", spec, extra)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(StorageError, match=r"cannot write .*file") as caught:
            save_model(nn.Linear(1, 1), folder)
        assert "\n" not in str(caught.value)


def test_a_failing_rename_leaves_the_old_network(tmp_path: Path, monkeypatch):
    old = nn.Linear(2, 2)
    save_model(old, tmp_path)

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="no permission"):
        save_model(nn.Linear(2, 2), tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert torch.equal(load_model(tmp_path, nn.Linear(2, 2)).weight, old.weight)


FULL = """
import resource, sys
from torch import nn
from limbeck.errors import StorageError
from limbeck.models import save_model
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_model(nn.Linear(100, 100), sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_no_room_is_a_storage_error_and_keeps_the_old_network(tmp_path: Path):
    old = nn.Linear(3, 3)
    save_model(old, tmp_path)
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write ")
    assert "limit" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert torch.equal(load_model(tmp_path, nn.Linear(3, 3)).weight, old.weight)
