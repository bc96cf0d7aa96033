"""What an augmentation list says, read and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.data.normalize import Normalize
from limbeck.errors import RecipeError, unknown

Step = str | Mapping[str, Any]
STEPS = ("crop", "flip", "rotate", "cutout", "noise", "normalize", "mixup", "trim")


@dataclass(frozen=True)
class Steps:
    """The steps of an augmentation; the default of each is: not done.

    Attributes:
        crop: pixels of padding before the random crop back to size (0: none).
        crop_mode: "zero" or "reflect".
        flip: mirror half of the samples left to right.
        rotate: largest angle in degrees.
        cutout: side of the square that is blanked, in pixels.
        noise: standard deviation, in units of [0, 1].
        normalize: input statistics.
        mixup: largest share of another sample that is mixed in.
        trim: leave out columns of tokens that are padding in the whole batch.
    """

    crop: int = 0
    crop_mode: str = "zero"
    flip: bool = False
    rotate: float = 0.0
    cutout: int = 0
    noise: float = 0.0
    normalize: Normalize | None = None
    mixup: float = 0.0
    trim: bool = False

    @property
    def is_geometric(self) -> bool:
        """Whether pixels move."""
        return self.crop > 0 or self.flip or self.rotate > 0

    def spec(self) -> list[Any]:
        """Return the list that reads as these steps."""
        steps: list[Any] = []
        if self.crop:
            steps.append({"crop": {"padding": self.crop, "mode": self.crop_mode}})
        if self.flip:
            steps.append("flip")
        steps += [{name: getattr(self, name)} for name in STEPS[2:5] if getattr(self, name)]
        if self.normalize is not None:
            mean, std = list(self.normalize.mean), list(self.normalize.std)
            steps.append({"normalize": {"mean": mean, "std": std}})
        if self.mixup:
            steps.append({"mixup": self.mixup})
        return [*steps, "trim"] if self.trim else steps


def parse_steps(spec: Sequence[Step] | None) -> Steps:
    """Read an augmentation list (see ``Augment``).

    Raises:
        RecipeError: an unknown step or key, a step given twice, a value out of range.
    """
    if isinstance(spec, str | Mapping):
        spec = [spec]
    if spec is not None and not isinstance(spec, Sequence):
        raise RecipeError(f"augmentation: expected a list of steps, got {spec!r}")
    steps, seen = Steps(), set()
    for step in spec or ():
        name, value = _named(step)
        if name in seen:
            raise RecipeError(f"augmentation {name!r} is given twice")
        seen.add(name)
        steps = dataclasses.replace(steps, **_read(name, value))
    return steps


def _named(step: Any) -> tuple[str, Any]:
    if isinstance(step, str):
        name, value = step, None
    elif isinstance(step, Mapping) and len(step) == 1:
        name, value = next(iter(step.items()))
    else:
        raise RecipeError(f"augmentation {step!r}: expected a name or {{name: value}}")
    if name not in STEPS:
        raise RecipeError(unknown("augmentation", str(name), STEPS))
    return name, value


def _read(name: str, value: Any) -> dict[str, Any]:
    """Return the fields of ``Steps`` that one step sets."""
    if name == "crop":
        options = _options(name, value, {"padding": 4, "mode": "zero"}, short="padding")
        if options["mode"] not in ("zero", "reflect"):
            raise RecipeError(unknown("crop mode", str(options["mode"]), ["zero", "reflect"]))
        padding = _number("crop.padding", options["padding"], whole=True)
        return {"crop": int(padding), "crop_mode": options["mode"]}
    if name in ("flip", "trim"):
        if value is not None and not isinstance(value, bool):
            raise RecipeError(f"{name}: expected no value, got {value!r}")
        return {name: value is not False}
    if name == "normalize":
        options = _options(name, value, {"mean": None, "std": None})
        numbers = {
            key: tuple(_number(f"normalize.{key}", one, any_sign=True) for one in _listed(key, v))
            for key, v in options.items()
        }
        return {"normalize": Normalize(**numbers)}
    number = _number(name, value, whole=name == "cutout")
    if name == "mixup" and number > 1:
        raise RecipeError(f"mixup: expected a share in [0, 1], got {value!r}")
    return {name: number}


def _options(
    name: str, value: Any, defaults: dict[str, Any], short: str | None = None
) -> dict[str, Any]:
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        if short is None:
            raise RecipeError(f"{name}: expected {{{', '.join(defaults)}}}, got {value!r}")
        value = {short: value}
    for key in value:
        if key not in defaults:
            raise RecipeError(unknown(f"{name} option", str(key), defaults))
    return {**defaults, **value}


def _listed(key: str, value: Any) -> list[Any]:
    if value is None:
        raise RecipeError(f"normalize.{key}: expected one number a channel, got none")
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _number(name: str, value: Any, whole: bool = False, any_sign: bool = False) -> float:
    kinds = int if whole else (int, float)
    fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or (value < 0 and not any_sign):
        kind = "a whole number" if whole else "a number"
        raise RecipeError(f"{name}: expected {kind}{'' if any_sign else ' >= 0'}, got {value!r}")
    return int(value) if whole else float(value)
