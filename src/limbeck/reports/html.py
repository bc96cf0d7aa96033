"""The report: one self-contained HTML file that says what was done and what came of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from limbeck.files import write_text
from limbeck.reports.answers import AnswerSections, answer_sections
from limbeck.reports.cards import method_cards
from limbeck.reports.comparison import evidence_table
from limbeck.reports.curves import learning_plots, seeds_plot
from limbeck.reports.describe import facts, plain_value
from limbeck.reports.evidence import Evidence, gather
from limbeck.reports.explanations import explanation_tables
from limbeck.reports.figures import cost_plot
from limbeck.reports.geometry import GeometrySection, geometry_section
from limbeck.reports.headline import cautions, headline
from limbeck.reports.reading import RunRecord, read_runs


def write_report(
    runs: Sequence[Path | str],
    out: Path | str,
    title: str | None = None,
    *,
    baseline: str | None = None,
    metric: str | None = None,
    smallest_effect: float | None = None,
) -> Path:
    """Write the report on some runs as one HTML file that needs nothing else.

    Args:
        runs: run folders, or folders of run folders.
        out: the file to write; ``report.html`` inside it where it is a folder.
        title: what the page is called; None: made from the arms' names.
        baseline: label of the arm to compare with; None: the first without a teacher.
        metric: main metric; None: accuracy, map, f1, r2 … whichever was measured.
        smallest_effect: smallest improvement that matters, set before the runs, in the metric's
            kept unit (0.01 is one point of accuracy); adds verdicts.

    Returns:
        The file written.

    Raises:
        DataError: a run cannot be read, or an argument names nothing among them.
        StorageError: the file cannot be written.
    """
    evidence = gather(
        read_runs(runs), baseline=baseline, metric=metric, smallest_effect=smallest_effect
    )
    page = render(evidence, title)
    out = Path(out)
    file = out / "report.html" if out.is_dir() else out
    write_text(file, page)
    return file


def render(evidence: Evidence, title: str | None = None) -> str:
    """Return the page as text."""
    answers = answer_sections(evidence)
    geometry = geometry_section(evidence)
    table = evidence_table(evidence)
    explanations = explanation_tables(evidence)
    return fill(
        "report.html.j2",
        title=title or default_title(evidence),
        headline=unbroken(headline(evidence)),
        cautions=cautions(evidence),
        facts=facts(evidence),
        table=table.narrowed(3),
        full_table=table if table.narrowed(3).columns != table.columns else None,
        results=[plot for plot in _result_plots(evidence) if plot is not None],
        curves=learning_plots(evidence),
        answers=answers,
        explanations=explanations,
        geometry=geometry,
        cards=method_cards(evidence),
        runs=[_run_line(record) for record in evidence.records],
        environments=environments(evidence.records),
        recipes=recipes(evidence),
        sections=_sections(answers, geometry, explained=explanations is not None),
    )


def fill(template: str, **values: Any) -> str:
    """Return a page: one of the templates with the style sheet and ``values``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("limbeck.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = files("limbeck.reports").joinpath("templates/style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **values)


def unbroken(text: str) -> str:
    """Return text in which numbers do not part from what belongs to them at a line's end.

    >>> unbroken("91.2 to 94.8 % (+3.6 ± 0.8, 5 seeds)").count(chr(160))
    4
    """
    space = "\u00a0"
    text = text.replace(" %", f"{space}%").replace(" ± ", f"{space}±{space}")
    return re.sub(r"(\d) (seeds?)\b", rf"\1{space}\2", text)


def default_title(evidence: Evidence) -> str:
    """Return the arms' names joined, cut after three."""
    labels = [arm.label for arm in evidence.arms]
    return " · ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")


def _sections(
    answers: AnswerSections, geometry: GeometrySection, *, explained: bool
) -> list[tuple[str, str]]:
    """Return (id, title) of the sections that the page has."""
    sections = [("results", "Results"), ("done", "What was done"), ("curves", "Learning")]
    if answers.reliability:
        sections.append(("calibration", "Calibration"))
    if answers.fidelity:
        sections.append(("agreement", "Agreement"))
    if explained:
        sections.append(("explanations", "Explanations"))
    if answers.rescaling:
        sections.append(("rescaling", "Weights"))
    if geometry.table is not None:
        sections.append(("geometry", "Last layer"))
    if answers.classes is not None:
        sections.append(("classes", "Classes"))
    return [*sections, ("methods", "Methods"), ("reproduce", "Reproduce")]


def _result_plots(evidence: Evidence) -> list[Any]:
    return [
        seeds_plot(evidence),
        cost_plot(evidence, "parameters"),
        cost_plot(evidence, "latency_ms"),
    ]


def _run_line(record: RunRecord) -> dict[str, str]:
    """Return what the list of runs says about one run."""
    seconds = record.summary.get("seconds")
    return {
        "folder": record.path.name,
        "arm": record.name,
        "seed": str(record.seed),
        "status": record.status,
        "seconds": f"{seconds:,.1f}" if isinstance(seconds, int | float) else "–",
        "command": command_of(record),
    }


def command_of(record: RunRecord) -> str:
    """Return the command line that made a run; without one, the one that would repeat it."""
    command = record.environment.get("command")
    if isinstance(command, list):
        return shlex.join(str(part) for part in command)
    if isinstance(command, str) and command:
        return command
    return f"limbeck run {shlex.quote(str(record.path / 'recipe.yaml'))}"


def environments(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return (name, value) of the environment; values that differ between runs are all named."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for key, value in record.environment.items():
            if key != "command" and value not in (None, "", {}):
                found.setdefault(str(key), {})[plain_value(value)] = None
    return [(key.replace("_", " "), "; ".join(values)) for key, values in found.items()]


def recipes(evidence: Evidence) -> list[tuple[str, str]]:
    """Return (arm, resolved recipe as YAML) for each arm."""
    return [(arm.label, _yaml(arm.example.recipe)) for arm in evidence.arms]


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True).rstrip()
