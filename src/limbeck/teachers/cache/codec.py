"""Codec: in what form a cache keeps answers, and why one would choose it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from limbeck.errors import CacheError, unknown

Name = Literal["float32", "float16", "topk", "sampled"]
FeatureForm = Literal["float32", "float16", "int8"]
MOST_ROUNDS = 65_535


@dataclass(frozen=True, kw_only=True)
class Codec:
    """In what form answers are kept.

    Args:
        name: "float32": as they are. "float16": rounded to 11 bits. "topk": the ``k`` largest
            probabilities and the exact mass of all others. "sampled": ``rounds`` random draws
            from the teacher's distribution, kept as classes and counts; unbiased (RS-KD).
        k: classes kept by "topk", at least 1.
        rounds: draws of "sampled", 1 to 65,535; the variance of the gradient is at most 1/rounds.
        temperature: at which "topk" and "sampled" take probabilities, above 0: the method's.
        seed: of the draws of "sampled".
        features: form of tapped features and maps: "float32", "float16", or "int8" with a scale
            of its own for each channel.

    Raises:
        CacheError: an unknown name or a value out of range.
    """

    name: Name = "float32"
    k: int = 16
    rounds: int = 50
    temperature: float = 1.0
    seed: int = 0
    features: FeatureForm = "float16"

    def __post_init__(self) -> None:
        for key, choices in (("name", Name), ("features", FeatureForm)):
            value = getattr(self, key)
            if value not in get_args(choices):
                raise CacheError(f"codec.{key}: " + unknown("codec", str(value), get_args(choices)))
        _require(self.k >= 1, "k", self.k, "a whole number of at least 1")
        within = 1 <= self.rounds <= MOST_ROUNDS
        _require(within, "rounds", self.rounds, f"a whole number from 1 to {MOST_ROUNDS}")
        positive = self.temperature > 0 and math.isfinite(self.temperature)
        _require(positive, "temperature", self.temperature, "a number above 0")

    @property
    def is_sparse(self) -> bool:
        """Whether only some classes are kept."""
        return self.name in ("topk", "sampled")

    def settings(self, *, features: bool = False) -> dict[str, Any]:
        """Return what decides the bytes: the name and the values that it uses."""
        used = {"topk": ("k", "temperature"), "sampled": ("rounds", "temperature", "seed")}
        names = ("name", *used.get(self.name, ()), *(("features",) if features else ()))
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """Return the codec as one would write it: "topk(k=16, temperature=4)"."""
        values = {key: v for key, v in self.settings().items() if key != "name"}
        inner = ", ".join(f"{key}={value:g}" for key, value in values.items())
        return f"{self.name}({inner})" if inner else self.name

    def why(self) -> str:
        """Return one sentence on what this form is good for."""
        return _WHY[self.name]


_WHY: Mapping[str, str] = {
    "float32": "every number as the teacher gave it; training is that with the live teacher",
    "float16": "half the bytes, rounded to 11 bits; for when float32 does not fit the disk",
    "topk": (
        "the largest classes and the mass of the rest; the loss is a KL divergence, at most the "
        "dense one, and says nothing about ratios within the rest: its gradient is biased there"
    ),
    "sampled": (
        "random draws from the teacher, unbiased: the mean gradient is the dense one, with a "
        "variance of (1 - sum p^2) / rounds; for vocabularies of many thousands"
    ),
}


def as_codec(value: Codec | str | Mapping[str, Any]) -> Codec:
    """Read a codec: itself, its name, or a mapping of its fields.

    Raises:
        CacheError: an unknown name or field, or a value out of range.
    """
    if isinstance(value, Codec):
        return value
    given = {"name": value} if isinstance(value, str) else dict(value)
    for key in given:
        if key not in Codec.__dataclass_fields__:
            raise CacheError("codec: " + unknown("key", str(key), Codec.__dataclass_fields__))
    return Codec(**given)


def _require(holds: bool, key: str, value: Any, expected: str) -> None:
    if not holds:
        raise CacheError(f"codec.{key}: expected {expected}, got {value!r}")
