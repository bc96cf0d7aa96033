"""What a study leaves to read: tables in Markdown, CSV and LaTeX, figures, one HTML page."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from limbeck.files import write_text
from limbeck.reports.cards import method_cards
from limbeck.reports.formats import METRICS
from limbeck.reports.html import environments, fill, recipes, unbroken
from limbeck.reports.plots import Plot
from limbeck.reports.study_plots import (
    difference_plots,
    every_seed,
    study_evidence,
    teacher_plots,
)
from limbeck.reports.study_tables import (
    arms_table,
    claims_table,
    relations_table,
    study_headline,
    teachers_table,
    trials_table,
)
from limbeck.reports.tables import Table
from limbeck.studies.results import StudyResults

_XMLNS = 'xmlns="http://www.w3.org/2000/svg"'


def write_study(results: StudyResults, folder: Path | str | None = None) -> Path:
    """Write tables, figures and the page of a study, from its run folders alone.

    Files: ``study.html``, ``table.md``, ``table.tex``, ``table.csv`` (arms), ``claims.csv``, and
    the figures as SVG in ``plots/``.

    Args:
        results: see :func:`limbeck.studies.run_study`.
        folder: where they go; None: the study's folder.

    Returns:
        The page.

    Raises:
        DataError: a run folder is damaged.
        StorageError: a file cannot be written.
    """
    folder = results.folder if folder is None else Path(folder)
    tables = study_tables(results)
    write_text(folder / "table.md", _markdown(results, tables))
    write_text(folder / "table.tex", "\n".join(table.to_latex() for table in tables))
    write_text(folder / "table.csv", arms_table(results).to_csv())
    if results.judged:
        write_text(folder / "claims.csv", claims_table(results, in_words=False).to_csv())
    plots = study_plots(results)
    for plot in plots:
        write_text(folder / "plots" / f"{_file_name(plot)}.svg", standalone(plot.svg))
    page = folder / "study.html"
    write_text(page, render_study(results, plots))
    return page


def study_tables(results: StudyResults) -> list[Table]:
    """Return the tables of a study: claims, relations and trials where there are any, and arms."""
    claims = claims_table(results) if results.judged else None
    relations, teachers = relations_table(results), teachers_table(results)
    found = (claims, relations, arms_table(results), teachers, trials_table(results))
    return [table for table in found if table is not None]


def study_plots(results: StudyResults) -> list[Plot]:
    """Return the figures of a study: differences, teachers against students, and every seed."""
    seeds = every_seed(results)
    plots = [*difference_plots(results), *teacher_plots(results)]
    return plots if seeds is None else [*plots, seeds]


def render_study(results: StudyResults, plots: list[Plot] | None = None) -> str:
    """Return the page as text."""
    evidence = study_evidence(results)
    study = results.plan.study
    arms = arms_table(results)
    return fill(
        "study.html.j2",
        title=study.description or study.name,
        headline=unbroken(study_headline(results)),
        facts=study_facts(results),
        claims=_claims(results),
        relations=relations_table(results),
        teachers=teachers_table(results),
        sources=_sources(results),
        table=arms.narrowed(2),
        full_table=arms if arms.narrowed(2).columns != arms.columns else None,
        trials=trials_table(results),
        plots=study_plots(results) if plots is None else plots,
        descriptions=[(name, arm.description) for name, arm in study.arms.items()],
        failed=list(results.failed.items()),
        cards=method_cards(evidence),
        command=_command(results),
        environments=environments(evidence.records),
        recipes=recipes(evidence) if evidence.records else [],
    )


def _claims(results: StudyResults) -> Table | None:
    """Return the table of claims; without a column for the metric where there is but one."""
    metrics = {one.claim.metric for one in results.judged}
    return claims_table(results).narrowed(9 if len(metrics) > 1 else 4) if metrics else None


def study_facts(results: StudyResults) -> list[tuple[str, str]]:
    """Return (label, text) of what was done."""
    study, loaded = results.plan.study, results.plan.loaded
    trials = len(results.plan.arms[0].trials)
    label = METRICS[study.tuning.metric].phrase
    facts = [
        ("Study", study.name + (f", scale {loaded.scale}" if loaded.scale else "")),
        ("Seeds", ", ".join(map(str, study.seeds))),
        (
            "Trials",
            f"{trials} for every arm on seed{'s' * (len(study.tuning.seeds) > 1)} "
            f"{', '.join(map(str, study.tuning.seeds))}, chosen by "
            f"mean validation {label}"
            if results.plan.is_tuned
            else "none: every arm runs as written",
        ),
        (
            "Claims",
            f"written down {results.claims_written}" if study.compare or study.relate else "none",
        ),
    ]
    if study.axes:
        axes = "; ".join(f"{axis}: {', '.join(options)}" for axis, options in study.axes.items())
        facts.append(("Axes", axes))
    if loaded.left_out:
        facts.append(("Left out", "; ".join(loaded.left_out)))
    return facts


def _sources(results: StudyResults) -> list[tuple[str, str]]:
    """Return (claim, where it stands), each claim once."""
    claims = [one.claim for one in results.judged] + [one.claim for one in results.related]
    found = {claim.says: claim.source for claim in claims}
    return [(says, source) for says, source in found.items() if source]


def _command(results: StudyResults) -> str:
    loaded = results.plan.loaded
    source = loaded.source.name if loaded.source else "study.yaml"
    return f"limbeck study {source}" + (f" --scale {loaded.scale}" if loaded.scale else "")


def _markdown(results: StudyResults, tables: list[Table]) -> str:
    facts = "\n".join(f"- {label}: {text}" for label, text in study_facts(results))
    body = "\n".join(table.to_markdown() for table in tables)
    return f"{study_headline(results)}\n\n{facts}\n\n{body}"


def _file_name(plot: Plot) -> str:
    return re.sub(r"[^a-z0-9]+", "-", plot.title.lower()).strip("-")


def standalone(svg: str) -> str:
    """Return a figure of the page as a file of its own, in the light colours."""
    style = files("limbeck.reports").joinpath("templates/style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", style.split("@media", 1)[0]))
    svg = re.sub(r"var\((--[\w-]+)\)", lambda found: light[found[1]], svg)
    background = f'style="background: {light["--page"]}; font-family: sans-serif"'
    return svg.replace("<svg ", f"<svg {_XMLNS} {background} ", 1) + "\n"
