"""What an import may bring with it, and what equations may know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "limbeck"
HEAVY = {
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "PIL",
    "timm",
    "torchvision",
    "transformers",
    "torchmetrics",
    "datasets",
    "webdataset",
    "pydantic",
    "jinja2",
    "typer",
    "tensorboard",
    "wandb",
}


def _loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running ``code``."""
    script = (
        f"import sys\n{code}\nprint('loaded:', *sorted({{m.split('.')[0] for m in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("loaded:", 1)[1].split())


def test_import_limbeck_brings_nothing_heavy() -> None:
    baseline = _loaded("import torch")
    extra = (_loaded("import limbeck") - baseline) & HEAVY
    assert not extra


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "from limbeck.cli import main\n"
        "sys.argv = ['limbeck', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    assert "torch" not in _loaded(code)


COMPILER = {"sympy", "torch._dynamo", "torch._inductor"}
SMALL_RUN = """
import limbeck, sys, torch
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images[:64] / 16).float().view(-1, 1, 8, 8), torch.tensor(labels[:64])
net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
run = limbeck.distill(
    teacher=net(), student=net(), data=(images, labels), method="kd", epochs=2, batch_size=32,
    train={"optimizer": {"name": "NAME"}}, quiet=True, output=sys.argv[1],
)
print("loaded:", *sorted(sys.modules))
"""


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_run_that_compiles_nothing_brings_no_compiler(name: str, tmp_path: Path) -> None:
    """It takes 70 MiB and a second: the optimiser, the count of FLOPs and the end included."""
    code = SMALL_RUN.replace("NAME", name)
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("loaded:")[1].split())
    assert "limbeck.engine.running" in loaded
    assert not loaded & COMPILER


@pytest.mark.parametrize("room", ["functional", "kernels"])
def test_equations_import_torch_alone(room: str) -> None:
    allowed = {"torch", "jaxtyping", *sys.stdlib_module_names}
    found = {}
    for path in sorted((SOURCE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _imported(node):
                inside = name.startswith(("limbeck.functional", "limbeck.kernels"))
                if name.split(".")[0] not in allowed and not inside:
                    found[f"{path.name}:{node.lineno}"] = name
    assert not found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        if node.module == "limbeck":
            return [f"limbeck.{alias.name}" for alias in node.names]
        return [node.module or ""]
    return []


def _calls(path: Path) -> list[tuple[int, str, ast.Call]]:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(node.lineno, ast.unparse(node.func), node) for node in calls]


def test_nothing_is_ever_unpickled() -> None:
    readers = {"joblib.load", "pickle.load", "pickle.loads", "yaml.load"}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for line, name, call in _calls(path):
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            numpy = name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False"
            pandas = name.endswith("read_pickle")
            # Tensors alone: torch refuses whatever else a file holds.
            tensors = name == "torch.load" and keywords.get("weights_only") != "True"
            if (
                name in readers
                or numpy
                or pandas
                or tensors
                or keywords.get("weights_only") == "False"
            ):
                found.append(f"{path.relative_to(SOURCE)}:{line}: {name}")
        imported = [n for node in ast.walk(ast.parse(path.read_text())) for n in _imported(node)]
        found += [f"{path.relative_to(SOURCE)}: imports {n}" for n in imported if n in PICKLES]
    assert not found


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
