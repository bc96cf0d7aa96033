"""Code in the documentation runs. Each page is one namespace, read from top to bottom.

A block that cannot run here says so, with its reason, in a comment on the line before its fence:
``<!-- not run: needs a GPU -->``.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python[^\n]*\n(?P<code>.*?)^```", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^\n]+?) -->\s*\Z")


def _blocks(text: str) -> list[tuple[int, str, str | None]]:
    """(line number, code, reason not to run it) of every python block of a page."""
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        reason = NOT_RUN.search(text, 0, match.start())
        found.append((line, match["code"], reason["why"] if reason else None))
    return found


def _run(text: str, name: str) -> int:
    namespace: dict[str, object] = {"__name__": "__docs__"}
    blocks = [(line, code) for line, code, reason in _blocks(text) if reason is None]
    for line, code in blocks:
        exec(compile("\n" * line + code, name, "exec"), namespace)
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text(encoding="utf-8")
    if not any(reason is None for _, _, reason in _blocks(text)):
        pytest.skip("no code to run on this page")
    monkeypatch.chdir(tmp_path)
    assert _run(text, str(page.relative_to(ROOT)))


def test_a_block_that_fails_is_seen() -> None:
    with pytest.raises(ZeroDivisionError):
        _run("text\n\n```python\n1 / 0\n```\n", "page.md")
    assert _run("<!-- not run: it fails -->\n```python\n1 / 0\n```\n", "page.md") == 0
    assert _run("```python\na = 1\n```\nthen\n```python\nassert a == 1\n```\n", "page.md") == 2


YAML = re.compile(r"^```yaml[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^limbeck (?P<name>[a-z]+)", re.M)
SHELL = re.compile(r"^```bash\n(?P<text>.*?)^```", re.M | re.S)


def _yaml_recipes() -> list[tuple[str, str]]:
    pages = [(str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")) for page in PAGES]
    found = [(name, match["text"]) for name, text in pages for match in YAML.finditer(text)]
    return [(name, text) for name, text in found if "student:" in text]


def test_recipes_on_the_pages_are_valid() -> None:
    import yaml

    from limbeck.recipe import load_recipe

    recipes = _yaml_recipes()
    assert recipes
    for _, text in recipes:
        load_recipe(yaml.safe_load(text))


def test_data_on_the_pages_are_valid() -> None:
    import yaml

    from limbeck.recipe import load_recipe

    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    found = [match["text"] for text in pages for match in YAML.finditer(text)]
    alone = [text for text in found if text.startswith("data:") and "student:" not in text]
    assert alone
    for text in alone:
        load_recipe({"student": "cnn", "method": "plain", **yaml.safe_load(text)})


def test_commands_on_the_pages_exist() -> None:
    import typer

    from limbeck.cli.app import app

    known = set(typer.main.get_group(app).commands)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in SHELL.finditer(text):
            assert {match["name"] for match in COMMAND.finditer(block["text"])} <= known, page.name


def test_links_between_top_level_pages_lead_somewhere() -> None:
    for page in ["README.md", "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page}: {target}"


def _load(name: str) -> ModuleType:
    """Load a module of the site's hooks, which are no package."""
    folder = ROOT / "docs" / "hooks"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_equations_of_docstrings_are_drawn() -> None:
    mathematics = _load("mathematics")
    text = mathematics.to_markdown(
        "Before.\n\n.. math:: \\frac{a_1}{b} \\,\\|\\, c\n\nSee :class:`Runtime` and :math:`x_i`."
    )
    assert text.count("data:image/svg+xml") == 2
    assert "`Runtime`" in text
    assert "math::" not in text
    assert "Before." in text


def test_an_equation_on_lines_below_is_one_equation() -> None:
    text = _load("mathematics").to_markdown("A.\n\n.. math::\n\n    a + b\n    = c\n\nEnd.\n")
    assert text.count("<img") == 1
    assert 'alt="a + b = c"' in text
    assert text.rstrip().endswith("End.")


def test_an_equation_that_cannot_be_set_is_shown_as_code() -> None:
    text = _load("mathematics").to_markdown(".. math:: \\begin{cases} a \\end{cases}")
    assert text.strip() == r"`\begin{cases} a \end{cases}`"


def test_doctests_are_fenced() -> None:
    text = _load("mathematics").to_markdown("A.\n\n>>> f(1)\n2\n>>> f(2)\n3\n\nEnd.")
    assert text == "A.\n\n```python\n>>> f(1)\n2\n>>> f(2)\n3\n```\n\nEnd."


TEACHER = {"model": "cnn", "weights": "random"}


def test_every_method_has_a_page_with_its_parameters() -> None:
    import dataclasses

    import yaml

    from limbeck.methods import all_methods
    from limbeck.recipe import load_recipe

    pages = _load("method_pages")
    for name, cls in all_methods().items():
        text = pages.page(name, cls)
        for field in dataclasses.fields(cls):
            row = next(line for line in text.splitlines() if line.startswith(f"| `{field.name}`"))
            meaning = row.rstrip(" |").rsplit("|", 1)[1].strip()
            assert len(meaning) > 5, f"{name}.{field.name} is not described in its docstring"
        recipe = yaml.safe_load(YAML.search(text)["text"])
        load_recipe({"data": "digits", "student": "cnn", "teacher": TEACHER, **recipe})
        assert all(reason in text.replace("\\|", "|") for reason in cls.card.exempt.values())


def test_the_table_of_networks_is_filled_in() -> None:
    table = _load("network_table")
    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    assert page.count(table.MARK) == 1
    filled = table.fill(page)
    assert table.MARK not in filled
    assert "| `shufflenetv2` | `channels=(116, 232, 464, 1024)` | 1,355,528 | Ma" in filled
    assert table.fill("another page") == "another page"


def test_the_networks_of_the_tables_are_as_large_as_the_page_says() -> None:
    import torch

    from limbeck.models import build_model, count_parameters

    page = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| \w+(?: \(\w+\))? \| `(\w+)`(, `shortcut: conv`)? \| ([\d,]+) \|", re.M)
    rows = row.findall(page)
    assert len(rows) == 23
    for name, conv, parameters in rows:
        arguments = {"shortcut": "conv"} if conv else {}
        with torch.device("meta"):
            model = build_model(name, num_classes=100, input_shape=(3, 32, 32), **arguments)
        assert count_parameters(model) == int(parameters.replace(",", "")), name
