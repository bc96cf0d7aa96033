"""Telling a person: one line, folded to the terminal where there is one."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap

_LABEL = re.compile(r"\S+(?: \S+)*? {2,}")
_NARROWEST = 40


def tell(line: str) -> None:
    """Print a line; on a terminal folded between words, under the text after its label.

    What is no terminal gets the line as it is, for ``grep``.
    """
    if sys.stdout.isatty():
        line = folded(line, shutil.get_terminal_size().columns)
    print(line, flush=True)


def folded(line: str, width: int) -> str:
    """Return "label  text" folded between words to ``width`` columns.

    Lines go on under the text where there is room for it. No word is cut: a path stays whole.

    >>> print(folded("data    digits: train 1,069 (50 labelled); validation 189; test 539", 48))
    data    digits: train 1,069 (50 labelled);
            validation 189; test 539
    """
    label = _LABEL.match(line)
    indent = " " * len(label.group()) if label and width >= _NARROWEST else "  "
    return textwrap.fill(
        line,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
