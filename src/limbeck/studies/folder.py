"""StudyFolder: where the runs of a study lie, which of them are finished, and which failed.

::

    runs/NAME-seed0-DIGEST/     run folders; the digest of the recipe finds them again
    failed/NAME-seed0-DIGEST/   what a failed run left behind, and reason.json
    teachers/                   teachers that are recipes, trained once
    claims.json                 the claims as they stood before the first run
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.engine.run_folder import RunFolder
from limbeck.errors import DataError, LimbeckError, RecipeError
from limbeck.files import held, storage_errors, write_json, write_text
from limbeck.studies.planning import PlannedRun
from limbeck.studies.relations import relate_record
from limbeck.studies.schema import Study


class StudyFolder:
    """A study's folder.

    Args:
        path: made when something is written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.runs = self.path / "runs"
        self.failures = self.path / "failed"
        self.teachers = self.path / "teachers"
        self.claims_file = self.path / "claims.json"

    def lock_of(self, run: PlannedRun) -> Path:
        """Return the file whose lock the process holds that works on a run."""
        return self.path / "locks" / f"{run.digest}.lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder for this process; RecipeError where another one runs the study."""

        def refuse() -> None:
            raise RecipeError(
                f"output: another process runs a study in {self.path}; wait for it, or choose "
                "another folder (--output)"
            )

        with held(self.path / "locks" / "study.lock", refuse):
            yield

    def place(self, run: PlannedRun) -> Path:
        """Return the folder of a run: the one that has its digest, else where it will be made."""
        found = sorted(self.runs.glob(f"*-{run.digest}"))
        return found[0] if found else self.runs / run.folder_name

    def finished(self, run: PlannedRun) -> Mapping[str, Any] | None:
        """Return the summary of a finished run; None where it is not finished."""
        try:
            summary = RunFolder.open(self.place(run)).summary
        except LimbeckError:
            return None
        return summary if summary.get("status") == "done" else None

    def failure(self, run: PlannedRun) -> str | None:
        """Return why a run failed, in one line; None where it did not."""
        for folder in self.failures.glob(f"*-{run.digest}"):
            try:
                return str(json.loads((folder / "reason.json").read_text())["reason"])
            except (OSError, ValueError, KeyError):
                return f"unknown: {folder / 'reason.json'} cannot be read"
        return None

    def keep_apart(self, run: PlannedRun, reason: str, details: str = "") -> Path:
        """Move what a failed run left behind out of ``runs``; return where to."""
        target = self.failures / run.folder_name
        source = self.place(run)
        with storage_errors(target):
            shutil.rmtree(target, ignore_errors=True)
            self.failures.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                source.rename(target)
        write_json(target / "reason.json", {"reason": reason, "recipe": run.document})
        if details:
            write_text(target / "traceback.txt", details)
        return target

    def forget_failure(self, run: PlannedRun) -> None:
        """Remove what a failed run left, so that it is tried again."""
        for folder in self.failures.glob(f"*-{run.digest}"):
            with storage_errors(folder):
                shutil.rmtree(folder)

    def write_down_claims(self, study: Study) -> None:
        """Keep the claims as they stand before the first run; later ones are not ``beforehand``."""
        if self.claims_file.exists() and any(self.runs.glob("*")):
            return
        document = {
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "claims": _claims(study),
        }
        write_json(self.claims_file, document)

    def written_down(self) -> tuple[str, list[Any]]:
        """Return when the claims were written down, and what they were; ("", []): never."""
        try:
            document = json.loads(self.claims_file.read_text())
            return str(document["written"]), list(document["claims"])
        except FileNotFoundError:
            return "", []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.claims_file} is damaged: {error}") from None


def _claims(study: Study) -> list[dict[str, Any]]:
    compared = [claim_record(study, i) for i in range(len(study.compare))]
    return compared + [relate_record(study, i) for i in range(len(study.relate))]


def claim_record(study: Study, index: int) -> dict[str, Any]:
    """Return all that a verdict stands on, as plain data: two that differ are two claims."""
    pair = study.compare[index]
    claim = study.claims[pair.claim]
    return {
        "claim": pair.claim,
        "arm": pair.arm,
        "baseline": pair.baseline,
        "at": dict(sorted(pair.at.items())),
        "metric": claim.metric,
        "smallest_effect": claim.smallest_effect,
        "direction": claim.direction,
    }
