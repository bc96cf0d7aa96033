"""Image columns of Hugging Face data sets, undecoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.errors import DataError


def is_image(feature: Any, loose: bool = False) -> bool:
    """Whether a column holds images: declared so, or as the structure {bytes, path}.

    Args:
        feature: of the column.
        loose: also accept bytes, and text (paths), where the user says that these are images.
    """
    if type(feature).__name__ == "Image":
        return True
    if isinstance(feature, dict) and "bytes" in feature and set(feature) <= {"bytes", "path"}:
        return True
    kinds = ("binary", "large_binary", "string", "large_string")
    return loose and getattr(feature, "dtype", "") in kinds


class RowImages:
    """The encoded images of one column.

    Args:
        rows: a ``datasets.Dataset``.
        column: its column of images.
        part: what messages call it.
    """

    def __init__(self, rows: Any, column: str, part: str) -> None:
        from datasets import Image

        one = rows.with_format(None).select_columns([column])
        self._rows = one.cast_column(column, Image(decode=False))
        self._column, self._part = column, part

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """Return part, row and the file's name where there is one."""
        path = (self._rows[index][self._column] or {}).get("path")
        return f"{self._part}, sample {index}" + (f" ({path})" if path else "")

    def read(self, index: int) -> bytes:
        """Return the encoded image.

        Raises:
            DataError: the row has none, or it is a file that is gone.
        """
        row = self._rows[index][self._column]
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise DataError(f"{self._part}, sample {index}: column {self._column!r} has no image")
        if row["bytes"] is not None:
            content: bytes = row["bytes"]
            return content
        try:
            return Path(row["path"]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error
