"""Where caches live: a folder of caches, each under the digest of its key."""

from __future__ import annotations

import os
from pathlib import Path

from limbeck.errors import CacheError
from limbeck.teachers.cache.key import Key
from limbeck.teachers.cache.manifest import NAME, read_manifest


def store_folder() -> Path:
    """Return the folder of all caches: ``$LIMBECK_HOME/caches``, or ``runs/caches``."""
    home = os.environ.get("LIMBECK_HOME")
    return Path(home) / "caches" if home else Path("runs") / "caches"


def place_of(key: Key) -> Path:
    """Return the folder of the cache with this key, there or not."""
    return store_folder() / key.digest[:20]


def nearest(key: Key) -> str | None:
    """Say in what a cache of the same teacher or data differs, the closest one; None: none is."""
    found: list[tuple[int, Path, list[str]]] = []
    for path in sorted(store_folder().glob(f"*/{NAME}")):
        try:
            values = read_manifest(path.parent).key
        except CacheError:
            continue
        names = key.differences(values)
        if names and not {"teacher", "data"} <= set(names):
            found.append((len(names), path.parent, names))
    if not found:
        return None
    _, folder, names = min(found)
    return f"{folder} is another cache, it differs in {', '.join(names)}: captured anew"
