"""Key: everything that decides a cache's content; any difference refuses, and is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.data.bundle import DataBundle
from limbeck.data.samples import ConcatSamples, Samples
from limbeck.errors import CacheError

_ADVICE: Mapping[str, str] = {
    "teacher": "give the teacher (weights, normalisation, precision, code) that was captured",
    "data": "give the data (samples, their order, labels, splits) that were captured",
    "inputs": "say the same of inputs (views or clean)",
    "augmentation": "use the augmentation that was captured",
    "seed": "use the seed that was captured",
    "outputs": "use methods that tap the same layers",
    "codec": "ask for the codec that was captured",
}
_SHORT = 12


@dataclass(frozen=True)
class Key:
    """What a cache is of.

    Attributes:
        values: plain data by name: "teacher" and "data" (fingerprints), "inputs" ("views" or
            "clean"), "augmentation" (list of steps), "seed" (of the augmented views; None where
            there is no randomness), "outputs" (names of what is kept), "codec" (its settings).
    """

    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """The sha256 of all values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()

    def differences(self, found: Mapping[str, Any]) -> list[str]:
        """Return the names of the values that ``found`` has otherwise."""
        names = dict.fromkeys([*self.values, *found])
        return [name for name in names if self.values.get(name) != found.get(name)]

    def refuse_other(self, found: Mapping[str, Any], where: str) -> None:
        """Raise CacheError, with the first value that differs and what to do, unless none does."""
        names = self.differences(found)
        if not names:
            return
        name = names[0]
        more = f" ({', '.join(names[1:])} too)" if len(names) > 1 else ""
        raise CacheError(
            f"cache {where}: {name} differs{more}: it was captured with "
            f"{_shown(found.get(name))}, this run has {_shown(self.values.get(name))}; "
            f"{_ADVICE.get(name, 'use what was captured')}, or capture anew into another folder"
        )


def make_key(
    *,
    teacher: str,
    data: DataBundle,
    clean: bool,
    seed: int,
    outputs: list[str],
    codec: Mapping[str, Any],
) -> Key:
    """Return the key of a teacher's answers about the training part of some data."""
    augment = data.augment_eval if clean else data.augment_train
    random = not clean and views_differ(data)
    return Key(
        {
            "teacher": teacher,
            "data": data.fingerprint(),
            "inputs": "clean" if clean else "views",
            "augmentation": json.loads(json.dumps(augment.spec)),
            "seed": seed if random else None,
            "outputs": outputs,
            "codec": dict(codec),
        }
    )


def views_differ(data: DataBundle) -> bool:
    """Whether two views of a training sample can differ: by augmentation, or by the set itself."""
    return data.augment_train.is_random or not _is_fixed(data.splits["train"].samples)


def _is_fixed(samples: Samples) -> bool:
    """Whether fetching ignores its seed; sets of others may have random transforms."""
    if isinstance(samples, ConcatSamples):
        return all(_is_fixed(part) for part in samples.parts)
    kind = type(samples)
    return kind.__module__.startswith("limbeck.data.") and not hasattr(samples, "dataset")


def _shown(value: Any) -> str:
    """Return a value in a few letters: digests shortened, the rest as JSON."""
    if isinstance(value, str):
        return value[:_SHORT] + "…" if len(value) > 2 * _SHORT else value
    return json.dumps(value, ensure_ascii=False)
