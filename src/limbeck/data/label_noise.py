"""Label noise: a share of the training (and validation) labels replaced by wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import has_label
from limbeck.data.seeds import counter_integers
from limbeck.data.splits import draw
from limbeck.errors import RecipeError, unknown

NOISE, WRONG = 16, 17  # streams of random numbers
KEYS = ("share", "kind", "to", "seed", "validation")
KINDS = ("symmetric", "asymmetric")
KEY = "data.label_noise"


@dataclass(frozen=True)
class LabelNoise:
    """Which training labels are replaced, and by what.

    Attributes:
        share: how many of the labels that may be replaced are, in [0, 1]; all of these are wrong
            then: a sample's own class is never drawn again.
        kind: "symmetric": any other class, each alike; "asymmetric": the class in ``to``.
        to: of asymmetric noise: the class that each class is taken for; classes that are not named
            keep their labels. None: the next class, that of the last being the first (pair flips).
        seed: of the draw, at least 0.
        validation: whether labels of the validation part are replaced too, as many of them: what
            is stopped or chosen by them is so by labels as wrong as those that were learned.
    """

    share: float
    kind: str = "symmetric"
    to: Mapping[int, int] | None = None
    seed: int = 0
    validation: bool = False


def read_label_noise(
    given: float | Mapping[str, Any], num_classes: int, class_names: Sequence[str] = ()
) -> LabelNoise:
    """Return the noise that an option of the data means: a share, or the fields of `LabelNoise`.

    Classes may be named in ``to``, or given by their number.

    Raises:
        RecipeError: another key, a number out of range, an unknown kind or class.
    """
    values: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {"share": given}
    for key in values:
        if key not in KEYS:
            raise RecipeError(f"{KEY}: " + unknown("key", str(key), KEYS))
    defaults = {"share": None, "kind": "symmetric", "to": None, "seed": 0, "validation": False}
    share, kind, to, seed, validation = ({**defaults, **values}[key] for key in KEYS)
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 <= share <= 1:
        raise RecipeError(f"{KEY}.share: expected a share of the labels in [0, 1], got {share!r}")
    if kind not in KINDS:
        raise RecipeError(f"{KEY}.kind: " + unknown("kind", str(kind), KINDS))
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RecipeError(f"{KEY}.seed: expected a whole number of at least 0, got {seed!r}")
    if not isinstance(validation, bool):
        raise RecipeError(f"{KEY}.validation: expected true or false, got {validation!r}")
    if num_classes < 2:
        raise RecipeError(f"{KEY}: a wrong label needs at least two classes, the data have one")
    if to is not None and kind != "asymmetric":
        raise RecipeError(f"{KEY}.to: belongs to kind: asymmetric, got kind: {kind}")
    return LabelNoise(float(share), kind, _classes(to, num_classes, class_names), seed, validation)


def with_noise(
    targets: Tensor, positions: Tensor, noise: LabelNoise, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Replace labels at some of the ``positions``; every class loses its share of them.

    Which labels, and by what, is a hash of seed and position.

    Args:
        targets: int64 ``[n]`` of the base set; samples without a label keep none.
        positions: int64 ``[m]``, the training part.
        noise: what is replaced.
        num_classes: number of classes, at least 2.

    Returns:
        a copy of the targets, and the sorted positions of the labels that were replaced.
    """
    targets = targets.clone()
    partner = _partners(noise, num_classes)
    among = positions[has_label(targets[positions])]
    among = among[partner[targets[among]] != targets[among]]
    if noise.share == 0 or len(among) == 0:
        return targets, positions[:0]
    chosen = draw(targets, noise.share, among, noise.seed, NOISE, what="label_noise")
    if noise.kind == "symmetric":
        steps = 1 + counter_integers(noise.seed, 0, chosen, WRONG, num_classes - 1)
        targets[chosen] = (targets[chosen] + steps) % num_classes
    else:
        targets[chosen] = partner[targets[chosen]]
    return targets, chosen


def _partners(noise: LabelNoise, num_classes: int) -> Tensor:
    """Return the class that each class is taken for, int64; its own where its labels stay."""
    classes = torch.arange(num_classes)
    if noise.to is None:
        return (classes + 1) % num_classes
    return torch.tensor([noise.to.get(number, number) for number in classes.tolist()])


def _classes(to: Any, num_classes: int, names: Sequence[str]) -> dict[int, int] | None:
    if to is None:
        return None
    if not isinstance(to, Mapping) or not to:
        raise RecipeError(f"{KEY}.to: expected a mapping of class to class, got {to!r}")
    found = {_class(a, num_classes, names): _class(b, num_classes, names) for a, b in to.items()}
    same = [number for number, other in found.items() if number == other]
    if same:
        raise RecipeError(f"{KEY}.to: class {_shown(same[0], names)} is taken for itself")
    return found


def _class(value: Any, num_classes: int, names: Sequence[str]) -> int:
    """Return the number of a class given by name or number; a name that reads as one goes first."""
    text = str(value)
    if text in names:
        return list(names).index(text)
    if text.isdecimal() and int(text) < num_classes:
        return int(text)
    choices = names or [str(number) for number in range(num_classes)]
    raise RecipeError(f"{KEY}.to: " + unknown("class", text, choices))


def _shown(number: int, names: Sequence[str]) -> str:
    return repr(names[number]) if names else str(number)
