"""Caching: what ``limbeck cache`` does, for Python too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limbeck.engine.capturing import caches_of, capture_teachers, with_caches
from limbeck.errors import CacheError
from limbeck.recipe.build import build_plan
from limbeck.recipe.loading import load_recipe
from limbeck.recipe.overrides import Overrides
from limbeck.recipe.schema import Recipe
from limbeck.recipe.telling import tell
from limbeck.teachers.cache import CachedTeacher, explain, read_manifest, verify
from limbeck.teachers.cache.manifest import NAME

Say = Callable[[str], None]


def cache_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Overrides = (),
    *,
    info: bool = False,
    check: bool = False,
    repair: bool = False,
    quiet: bool = False,
    allow_code: bool = False,
    say: Say = tell,
) -> list[Path]:
    """Ask the teachers of a recipe about its training samples, once, and keep what they say.

    Teachers that the recipe writes as ``{cache: …}`` are captured as it says; where it writes none
    so, each teacher that does not change is captured in float32.

    Args:
        source: a recipe, a YAML file or a mapping; to look at a cache, also its folder.
        overrides: see :func:`limbeck.recipe.load_recipe`.
        info: say what is kept and why, and capture nothing.
        check: compare every shard with its checksum, and capture nothing.
        repair: capture shards again that are missing or damaged.
        quiet: say nothing.
        allow_code: also import models from code that is not installed.
        say: gets each line for a person.

    Returns:
        the folders of the caches.

    Raises:
        LimbeckError: in one line, what does not fit.
    """
    say = _nobody if quiet else say
    looking = info or check
    if looking and repair:
        raise CacheError("--repair captures; leave out --info and --verify, which do not")
    if isinstance(source, str | Path) and Path(source).is_dir():
        if not looking:
            wish = "--repair needs the recipe" if repair else "give a recipe, or say --info"
            raise CacheError(f"{source}: a folder is not captured; {wish}")
        _look(Path(source), info, check, say)
        return [Path(source)]
    recipe = source if isinstance(source, Recipe) else load_recipe(source, overrides)
    plan = build_plan(
        recipe, allow_code=allow_code, train_teachers=not looking, say=say, quiet=quiet
    )
    written_so = bool(caches_of(plan.teachers))
    plan = with_caches(plan, None if quiet else say)
    folders: list[Path] = []

    def work(cache: CachedTeacher) -> None:
        folders.append(cache.folder)
        if looking:
            _look_if_there(cache, info, check, say)
        else:
            _capture(cache, repair, say)

    capture_teachers(plan, work)
    if not looking and not written_so:
        say("a run reads it where its recipe says: teacher: {cache: <the teacher>}")
    return folders


def _capture(cache: CachedTeacher, repair: bool, say: Say) -> None:
    if repair and (cache.folder / NAME).exists():
        files = cache.repair()
        told = f"captures again: {', '.join(files)}" if files else "nothing is damaged"
        cache.tell(told)
    for view in range(cache.num_views):
        manifest = cache.capture(view)
    verify(cache.folder, manifest, _nobody)  # also what was there before
    for line in explain(cache.folder, manifest):
        say(line)


def _look_if_there(cache: CachedTeacher, info: bool, check: bool, say: Say) -> None:
    if not (cache.folder / NAME).exists():
        raise CacheError(
            f"cache {cache.folder}: not captured yet; capture it with limbeck cache RECIPE, or run "
            "the recipe"
        )
    cache.key().refuse_other(read_manifest(cache.folder).key, str(cache.folder))
    _look(cache.folder, info, check, say)


def _look(folder: Path, info: bool, check: bool, say: Say) -> None:
    manifest = read_manifest(folder)
    if info:
        for line in explain(folder, manifest):
            say(line)
    if check:
        verify(folder, manifest, say)


def _nobody(line: str) -> None:
    """Say nothing."""
