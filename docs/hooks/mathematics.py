"""Docstrings as Markdown. LaTeX becomes SVG at build time: a reader fetches no script, no font.

Two forms are understood, both as Sphinx writes them: a ``.. math::`` block, on its line or
indented below it, and an inline ``:math:`` role. What Matplotlib's mathtext cannot set is shown as
code, so nothing is lost.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import re

SIZE = 12  # points: the size of the text around
BLOCK = re.compile(
    r"^(?P<indent>[ ]*)\.\. math::[ ]*(?P<line>[^\n]*)\n?"
    r"(?P<body>(?:(?P=indent)[ ]+[^\n]*\n?|[ ]*\n)*)",
    re.MULTILINE,
)
DOCTEST = re.compile(r"^>>> .*(?:\n(?!\n|\Z).+)*\n?", re.MULTILINE)
INLINE = re.compile(r":math:`([^`]+)`")
ROLE = re.compile(r":(?:py:)?(?:class|func|meth|mod|attr|data|exc|obj):`~?([^`<]+?)`")


@functools.cache
def svg(latex: str) -> tuple[str, float] | None:
    """Return the equation as an SVG document and its depth in points; None if it cannot be set."""
    import matplotlib as mpl
    from matplotlib import mathtext
    from matplotlib.font_manager import FontProperties

    target = io.BytesIO()
    try:
        with mpl.rc_context({"svg.fonttype": "path", "mathtext.fontset": "stix"}):
            depth = mathtext.math_to_image(
                f"${latex}$", target, prop=FontProperties(size=SIZE), format="svg"
            )
    except ValueError:
        return None
    text = target.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, flags=re.DOTALL)  # the white page
    return text[text.index("<svg") :], float(depth)


def image(latex: str, *, block: bool) -> str:
    """Return one line of HTML (or Markdown code) that shows ``latex``."""
    latex = " ".join(latex.split())
    drawn = svg(latex)
    if drawn is None:
        return f"`{latex}`"
    data = base64.b64encode(drawn[0].encode()).decode()
    kind = "limbeck-equation" if block else "limbeck-inline"
    style = "" if block else f' style="vertical-align: -{drawn[1] / SIZE:.2f}em"'
    # No underscore or asterisk may stay in the attribute: Markdown would read it.
    words = html.escape(latex).replace("_", "&#95;").replace("*", "&#42;").replace("\\", "&#92;")
    return f'<img class="{kind}" alt="{words}" src="data:image/svg+xml;base64,{data}"{style}>'


def _block(match: re.Match[str]) -> str:
    indent = match["indent"]
    latex = f"{match['line']} {match['body']}"
    return f"{indent}{image(latex, block=True)}\n\n" if latex.strip() else ""


def _fence(match: re.Match[str]) -> str:
    return f"```python\n{match[0].rstrip()}\n```\n"


def to_markdown(docstring: str) -> str:
    """Return ``docstring`` with equations drawn, doctests fenced, Sphinx roles as plain code."""
    text = BLOCK.sub(_block, docstring)
    text = DOCTEST.sub(_fence, text)
    text = INLINE.sub(lambda match: image(match[1], block=False), text)
    return ROLE.sub(r"`\1`", text)
