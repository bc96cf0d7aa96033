"""Folders and hub ids of Hugging Face: the cache first, one try at the hub, one line if neither."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import LimbeckError

T = TypeVar("T")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_from(load: Callable[..., T], target: str, what: str, error: type[LimbeckError]) -> T:
    """Return ``load(source, local_files_only=…, trust_remote_code=False)`` of a folder or hub id.

    A folder on disk is read as it is. A hub id is looked for in the cache; where it is not there,
    the hub is asked once, so that a machine without a network says so at once.

    Args:
        load: a ``from_pretrained``.
        target: a folder's path, or a hub id.
        what: how messages call it.
        error: the kind of error to raise.

    Raises:
        LimbeckError: of kind ``error``, in one line: nothing there, no way to the hub, custom code
            (which is never run), or whatever reading it gives.
    """
    folder = Path(target).expanduser()
    if folder.is_dir():
        return _told(lambda: load(str(folder), **_options(True)), what, error)
    if not _HUB_ID.fullmatch(target):
        raise error(f"{what}: there is no folder {target!r}, and it is no hub id (owner/name)")
    try:
        with quiet():
            return load(target, **_options(True))
    except OSError:
        pass  # not in the cache
    except Exception as problem:
        raise error(f"{what}: {line_of(problem)}") from problem
    _reach(target, what, error)
    return _told(lambda: load(target, **_options(False)), what, error)


def _options(local: bool) -> dict[str, bool]:
    return {"local_files_only": local, "trust_remote_code": False}


def _told(load: Callable[[], T], what: str, error: type[LimbeckError]) -> T:
    try:
        with quiet():
            return load()
    except Exception as problem:
        raise error(f"{what}: {line_of(problem)}") from problem


def _reach(target: str, what: str, error: type[LimbeckError]) -> None:
    """Ask the hub for one file's head; its own client would try, aloud, for half a minute."""
    from huggingface_hub import get_session, hf_hub_url

    try:
        answer = get_session().head(
            hf_hub_url(target, "config.json"), timeout=10, follow_redirects=True
        )
    except Exception as problem:
        raise error(
            f"{what}: is neither a folder nor in the cache, and the hub cannot be reached "
            f"({line_of(problem)})"
        ) from problem
    if answer.status_code in (401, 403, 404):
        raise error(f"{what}: is neither a folder nor on the hub (answer {answer.status_code})")


def line_of(error: BaseException) -> str:
    """Return an error's message in one line, with its kind where the message alone says little."""
    text = " ".join(str(error).split())
    return text if " " in text else f"{type(error).__name__} {text}".strip()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing bars and reports: what matters of them is raised or said."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
