"""An exported folder to the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from limbeck.errors import ExportError

_FORM = re.compile(r"[\w.-]+/[\w.-]+")


def hub_api(repository: str) -> Any:
    """Return a client of the Hub that is logged in; before anything is written.

    Raises:
        ExportError: huggingface_hub is missing, nobody is logged in, or the name has another form.
    """
    if not _FORM.fullmatch(repository):
        raise ExportError(f"push_to_hub: expected OWNER/NAME, got {repository!r}")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ExportError(
            "push_to_hub needs huggingface_hub, which is not installed: pip install huggingface_hub"
        ) from error
    api = HfApi()
    check_login(api)
    return api


def check_login(api: Any) -> None:
    """Raise ExportError where the Hub does not know who is asking."""
    try:
        api.whoami()
    except Exception as error:  # no token, a refused one, no network: the client has many kinds
        raise ExportError(
            f"push_to_hub: not logged in ({_line(error)}); run `hf auth login`, or set HF_TOKEN"
        ) from error


def push_folder(folder: Path, repository: str, api: Any, *, private: bool = False) -> str:
    """Upload an exported folder as one commit; return the address of the model.

    Args:
        folder: what was exported.
        repository: "OWNER/NAME"; made where it does not exist.
        api: a logged-in ``HfApi``.
        private: whether a new repository is private.

    Raises:
        ExportError: the Hub refused; the folder stays where it is.
    """
    try:
        made = api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            folder_path=str(folder),
            repo_id=repository,
            repo_type="model",
            commit_message="A student distilled with Limbeck",
        )
    except Exception as error:  # whatever the Hub or the network says
        raise ExportError(
            f"push_to_hub: {repository} was refused: {_line(error)}; the export is in {folder}"
        ) from error
    return str(made)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
