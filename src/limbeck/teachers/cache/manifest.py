"""Manifest: what lies in a cache, with the size and checksum of every shard and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import CacheError
from limbeck.files import write_text

FORMAT = 1
"""Version of the format that this Limbeck reads and writes."""
NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What lies in a cache.

    Attributes:
        key: the values of its ``Key``.
        about: for people: descriptions of teacher, data and codec.
        rows: samples in each view.
        classes: outputs of a sample's logits.
        views: by number: "conditions" of the capture, "stable" (whether the rest of a batch
            changed no bit), "gap" (how much of its size it changed an answer), "piece" (rows asked
            about at once), "measured" (bytes and divergence), and "shards": file, rows, bytes and
            sha256 of each. Only finished views are listed.
    """

    key: Mapping[str, Any]
    about: Mapping[str, str]
    rows: int
    classes: int
    views: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        write_text(folder / NAME, self._text())

    def with_view(self, view: int, entry: Mapping[str, Any]) -> Manifest:
        """Return the manifest with a finished view added."""
        views = dict(
            sorted({**self.views, str(view): entry}.items(), key=lambda item: int(item[0]))
        )
        return Manifest(self.key, self.about, self.rows, self.classes, views)

    def without_views(self, views: Collection[int]) -> Manifest:
        """Return the manifest without some views, as if they were not finished."""
        kept = {name: entry for name, entry in self.views.items() if int(name) not in views}
        return Manifest(self.key, self.about, self.rows, self.classes, kept)

    @property
    def bytes(self) -> int:
        """Bytes of all finished shards."""
        return sum(shard["bytes"] for entry in self.views.values() for shard in entry["shards"])

    def _text(self) -> str:
        body = {
            "format": FORMAT,
            "key": dict(self.key),
            "about": dict(self.about),
            "rows": self.rows,
            "classes": self.classes,
            "views": {name: dict(entry) for name, entry in self.views.items()},
        }
        text = _dumped(body)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return _dumped({**body, "sha256": digest}) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check a cache's manifest.

    Raises:
        CacheError: there is none, it is damaged or was edited, or its format is another.
    """
    path = folder / NAME
    if not path.is_file():
        raise CacheError(f"cache {folder}: has no {NAME}; it is no cache, or a damaged one")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        format = found["format"]
        if format == FORMAT:
            names = ("key", "about", "rows", "classes", "views")
            manifest = Manifest(**{name: found[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"cache {folder}: {NAME} is damaged; {_RENEW}") from error
    if format != FORMAT:
        newer = isinstance(format, int) and format > FORMAT
        advice = "upgrade Limbeck, or " if newer else ""
        raise CacheError(
            f"cache {folder}: format {format!r}, expected {FORMAT}; {advice}capture anew into "
            "another folder"
        )
    if manifest._text() != text:  # the checksum, and every other byte
        raise CacheError(f"cache {folder}: {NAME} was edited or is damaged; {_RENEW}")
    return manifest


_RENEW = "delete the folder and capture anew"


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
