"""Loading: a study from YAML or Python, at a scale, checked as a whole before anything runs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from limbeck.engine.evaluate import HIGHER_IS_BETTER
from limbeck.errors import RecipeError, unknown
from limbeck.recipe.plain import as_plain
from limbeck.recipe.reading import name_from, named, read_document
from limbeck.recipe.validation import validate_as
from limbeck.studies import properties
from limbeck.studies.extending import with_extended
from limbeck.studies.schema import TEACHER, Scale, Study

_ADDRESS = "https://json-schema.org/draft/2020-12/schema"


@dataclasses.dataclass(frozen=True)
class LoadedStudy:
    """A validated study, and where it stands.

    Attributes:
        study: as it is run: the scale applied.
        whole: as it is written: its claims are those that are written down beforehand.
        folder: where its relative paths start from: its own folder, or that of the study at the
            root of those that it extends.
        source: its file; None where it came from Python.
        scale: name of the scale; None: the study as written.
        left_out: what the scale leaves out, in words.
        changes: dotted keys that the scale sets in every recipe.
    """

    study: Study
    whole: Study
    folder: Path
    source: Path | None = None
    scale: str | None = None
    left_out: tuple[str, ...] = ()
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@cache
def _adapter() -> TypeAdapter[Study]:
    return TypeAdapter(Study)


def study_schema() -> dict[str, Any]:
    """Return the JSON schema of a study, for editors."""
    document = _adapter().json_schema()
    needed = [key for key in document.pop("required") if key != "name"]
    document["anyOf"] = [{"required": needed}, {"required": ["extends"]}]
    claims = document["properties"]["claims"]
    document["properties"]["claims"] = {"anyOf": [{"type": "string"}, claims]}
    for schema in (document, *document.get("$defs", {}).values()):
        if schema.get("type") == "object":
            schema["additionalProperties"] = False
    document.pop("title", None)
    return {"$schema": _ADDRESS, "title": "Limbeck study", **document}


def load_study(
    source: str | os.PathLike[str] | Mapping[str, Any],
    scale: str | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
) -> LoadedStudy:
    """Load and validate a study. Its recipes are read later (:func:`planning.plan_study`).

    Args:
        source: a YAML file, or a mapping.
        scale: one of the study's scales; None: the study as written.
        folder: where relative paths in a mapping start from; None: the working folder.

    Raises:
        RecipeError: in one line, whatever is wrong with it.
    """
    lines: Mapping[str, int] = {}
    if isinstance(source, Mapping):
        path, document = None, as_plain(source)
        document.setdefault("name", "study")
        start = Path.cwd() if folder is None else Path(folder)
    else:
        path = Path(source).expanduser()
        document, lines = read_document(path)
        document.setdefault("name", name_from(path) if path.stem != "study" else _parent(path))
        start = path.parent
    with named(path):
        chain = () if path is None else (path.resolve(),)
        document, start = with_extended(document, start, chain)
        study = validate_as(_adapter(), Study, document, lines)
        _check(study)
        loaded = LoadedStudy(study, study, start.resolve(), path)
        loaded = loaded if scale is None else _scaled(loaded, scale)
        _check_trials(loaded.study)
    return loaded


def _parent(path: Path) -> str:
    """Name a ``study.yaml`` after its folder."""
    return path.resolve().parent.name or "study"


def _check(study: Study) -> None:
    """Refuse names that lead nowhere."""
    if not study.arms:
        raise RecipeError("arms: expected at least one arm, got none")
    if TEACHER in study.arms:
        raise RecipeError(
            f"arms.{TEACHER}: stands for an arm's own teacher; name the arm otherwise"
        )
    for axis, options in study.axes.items():
        if not options:
            raise RecipeError(f"axes.{axis}: expected at least one option, got none")
    _check_metric("metric", study.metric)
    _check_metric("tuning.metric", study.tuning.metric)
    for name, claim in study.claims.items():
        _check_metric(f"claims.{name}.metric", claim.metric)
    for i, pair in enumerate(study.compare):
        key = f"compare.{i}"
        _one_of(f"{key}.claim", "claim", pair.claim, study.claims)
        _one_of(f"{key}.arm", "arm", pair.arm, study.arms)
        _one_of(f"{key}.baseline", "arm", pair.baseline, (*study.arms, TEACHER))
        if pair.arm == pair.baseline:
            raise RecipeError(f"{key}.baseline: expected another arm than {pair.arm!r}")
        _check_options(f"{key}.at", {axis: (option,) for axis, option in pair.at.items()}, study)
    for i, one in enumerate(study.relate):
        key = f"relate.{i}"
        _one_of(f"{key}.claim", "claim", one.claim, study.claims)
        _one_of(f"{key}.arm", "arm", one.arm, study.arms)
        for part in ("property", "given", "rather_than"):
            if (value := getattr(one, part)) is not None:
                _one_of(f"{key}.{part}", "property", value, properties.HIGHER_IS_BETTER)
        if one.property in (one.given, one.rather_than):
            raise RecipeError(f"{key}.property: expected another property than {one.property!r}")
    judged = _judged(study)
    for name in study.claims:
        if name not in judged:
            raise RecipeError(f"claims.{name}: no entry of compare or relate decides it")
    for name, scale in study.scales.items():
        for arm in scale.arms or ():
            _one_of(f"scales.{name}.arms", "arm", arm, study.arms)
        _check_options(f"scales.{name}.axes", scale.axes, study)


def _judged(study: Study) -> set[str]:
    """Return the claims that something decides."""
    return {pair.claim for pair in study.compare} | {one.claim for one in study.relate}


def _check_metric(key: str, metric: str) -> None:
    _one_of(key, "metric", metric, HIGHER_IS_BETTER)


def _check_options(key: str, chosen: Mapping[str, Sequence[str]], study: Study) -> None:
    for axis, options in chosen.items():
        _one_of(key, "axis", axis, study.axes)
        for option in options:
            _one_of(f"{key}.{axis}", "option", option, study.axes[axis])


def _one_of(key: str, kind: str, name: str, choices: Iterable[str]) -> None:
    choices = list(choices)
    if name not in choices:
        raise RecipeError(f"{key}: {unknown(kind, name, choices)}")


def _check_trials(study: Study) -> None:
    """Refuse arms with differing numbers of trials: the one tried more often would win by luck."""
    counts = {name: len(arm.all_trials()) for name, arm in study.arms.items()}
    most = max(counts.values())
    for name, count in counts.items():
        if count != most:
            other = next(arm for arm, n in counts.items() if n == most)
            raise RecipeError(
                f"arms.{name}: expected as many trials as every other arm, got {count}; "
                f"{other!r} has {most} (an arm without settings of its own can try learning rates)"
            )


def _scaled(loaded: LoadedStudy, name: str) -> LoadedStudy:
    """Return the study at a scale."""
    study = loaded.study
    if name not in study.scales:
        raise RecipeError(f"scale: {unknown('scale', name, study.scales)}")
    scale = study.scales[name]
    arms = {arm: study.arms[arm] for arm in study.arms if arm in (scale.arms or study.arms)}
    if scale.trials is not None:
        arms = {
            arm: dataclasses.replace(one, trials=one.all_trials()[: scale.trials], grid={})
            for arm, one in arms.items()
        }
    axes = {
        axis: {option: options[option] for option in scale.axes.get(axis, options)}
        for axis, options in study.axes.items()
    }
    kept = [
        pair
        for pair in study.compare
        if {pair.arm, pair.baseline} <= {*arms, TEACHER}
        and all(option in axes[axis] for axis, option in pair.at.items())
    ]
    smaller = dataclasses.replace(
        study,
        seeds=scale.seeds or study.seeds,
        arms=arms,
        axes=axes,
        compare=tuple(kept),
        relate=tuple(one for one in study.relate if one.arm in arms),
        tuning=dataclasses.replace(study.tuning, seeds=scale.tuning_seeds or study.tuning.seeds),
    )
    return dataclasses.replace(
        loaded,
        study=smaller,
        scale=name,
        left_out=_left_out(study, smaller, scale),
        changes=scale.set,
    )


def _left_out(study: Study, smaller: Study, scale: Scale) -> tuple[str, ...]:
    """Say what a scale does not answer."""
    found = []
    arms = [arm for arm in study.arms if arm not in smaller.arms]
    if arms:
        found.append(f"arms not in this scale: {', '.join(arms)}")
    claims = _judged(study) - _judged(smaller)
    if claims:
        found.append(f"claims not judged in this scale: {', '.join(sorted(claims))}")
    for axis, options in study.axes.items():
        gone = [option for option in options if option not in smaller.axes[axis]]
        if gone:
            found.append(f"options of {axis} not in this scale: {', '.join(gone)}")
    if scale.trials is not None:
        found.append(f"only the first {scale.trials} trials of each arm")
    return tuple(found)
