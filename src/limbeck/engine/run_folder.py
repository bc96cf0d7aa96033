"""RunFolder: what a recipe leaves behind on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import yaml

from limbeck.errors import CheckpointError, RecipeError
from limbeck.files import storage_errors, write_json, write_text

FORMAT = 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.2 would take for a number, such as "1e-3"."""


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
        style = "'"
    except ValueError:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


class RunFolder:
    """A run's folder: paths, the log of record, and the summary.

    Args:
        path: the folder; made by :meth:`create`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.student = self.path / "student"
        self.metrics = self.path / "metrics.jsonl"
        self.timing = self.path / "timing.jsonl"
        self.predictions = self.path / "predictions.safetensors"

    def epoch_file(self, epoch: int) -> Path:
        """Return where the student is kept as it was after ``epoch`` epochs, from 1."""
        return self.path / "epochs" / f"epoch-{epoch:05d}.safetensors"

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run; CheckpointError if ``path`` is none or of another format."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise CheckpointError(f"{path}: there is no such run folder")
        if not (folder.path / "recipe.yaml").is_file():
            raise CheckpointError(f"{path}: not a run folder (it has no recipe.yaml)")
        found = folder.read_json("summary.json").get("format")
        if found != FORMAT:
            raise CheckpointError(f"{path}: run format {found}, expected {FORMAT}")
        return folder

    def refuse_to_overwrite(self) -> None:
        """Raise RecipeError if the folder holds a run already."""
        if (self.path / "recipe.yaml").exists():
            raise RecipeError(
                f"output: {self.path} holds a run already; continue it with "
                f"`limbeck resume {self.path}` or choose another folder"
            )

    def create(self, recipe: Mapping[str, Any], name: str) -> None:
        """Make the folder with its recipe; RecipeError if it holds a run already."""
        self.refuse_to_overwrite()
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_summary({"name": name, "status": "running"})
        text = yaml.dump(dict(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        write_text(self.path / "recipe.yaml", text)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replace summary.json."""
        write_json(self.path / "summary.json", {"format": FORMAT, **summary})

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run; CheckpointError in one line if it cannot be read."""
        try:
            value = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise CheckpointError(f"{self.path}: {name} is missing") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / name}: cannot be read ({error})") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path / name}: expected a JSON object")
        return value

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        try:
            value = yaml.safe_load((self.path / "recipe.yaml").read_text())
        except (OSError, yaml.YAMLError) as error:
            raise CheckpointError(f"{self.path}/recipe.yaml: cannot be read ({error})") from error
        return dict(value or {})

    @property
    def summary(self) -> dict[str, Any]:
        """The summary as it stands."""
        return self.read_json("summary.json")


class Log:
    """An append-only JSON-lines file that can be cut back to where a checkpoint knew it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        with storage_errors(self.path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def offset(self) -> int:
        """Bytes written so far, all of them on the disk."""
        import os

        with storage_errors(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def cut(self, offset: int) -> None:
        """Drop what was written after ``offset``."""
        if self.path.stat().st_size < offset:
            raise CheckpointError(
                f"{self.path}: shorter than the checkpoint says ({offset} bytes expected)"
            )
        self._file.truncate(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
