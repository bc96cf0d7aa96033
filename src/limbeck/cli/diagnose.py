"""``limbeck diagnose``: what a finished run says about training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli.ending import guarded
from limbeck.cli.run import AllowCode, Overrides


def diagnose(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run trained to the end.")],
    overrides: Overrides = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Another run, whose student is the teacher; else the run's own teacher."),
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="Learning rate that is meant; else the run's.")
    ] = None,
    curvature: Annotated[
        float | None, typer.Option(help="Curvature of the loss; else estimated.")
    ] = None,
    batches: Annotated[int, typer.Option(help="Mini-batches to draw.")] = 500,
    loyalty: Annotated[
        bool,
        typer.Option("--loyalty", help="Measure the loyalty to the teacher instead."),
    ] = False,
    explanations: Annotated[
        bool,
        typer.Option(
            "--explanations", help="Compare the student's and the teacher's maps instead."
        ),
    ] = False,
    explainer: Annotated[
        str | None,
        typer.Option(
            help="Of --explanations: gradcam, input_gradient or bcos. Default: that of the run's "
            "e2kd, else gradcam."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Of --explanations: test, validation or train. Default: test."),
    ] = None,
    knowledge: Annotated[
        bool,
        typer.Option("--knowledge", help="Measure what the teacher adds to labels instead."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Predict what a teacher can take from the noise of SGD: the best weight of pvr.

    The run's student stands for the optimum; the teacher must be the same network.

    With --loyalty: does the student say what its teacher says, and for the same reasons?

    With --explanations: are their maps alike, class by class, and do they point where they should?
    The figures are kept in the run's folder, for its report.

    With --knowledge: which samples does the teacher weigh, and which classes lie together in
    the last layers? The report has the plots.

    [bold]Examples[/bold]

    limbeck diagnose runs/plain-0 --teacher runs/early-0
    limbeck diagnose runs/sst2-gkd-0 --loyalty
    limbeck diagnose runs/e2kd-0 --explanations --explainer input_gradient
    limbeck diagnose runs/kd-0 --knowledge
    """
    from limbeck.diagnostics import telling
    from limbeck.diagnostics.of_runs import knowledge_of_run, loyalty_of_run, variance_of_run
    from limbeck.errors import RecipeError

    asked = {"--loyalty": loyalty, "--explanations": explanations, "--knowledge": knowledge}
    several = [option for option, wanted in asked.items() if wanted]
    if len(several) > 1:
        raise RecipeError(f"{' and '.join(several)}: each is a question of its own; ask one")
    for option, value in (("--explainer", explainer), ("--split", split)):
        if value is not None and not explanations:
            raise RecipeError(f"{option}: belongs to --explanations")
    if explanations:
        _explain(folder, overrides, teacher, explainer, split or "test", as_json, allow_code)
        return
    if knowledge:
        taught = knowledge_of_run(folder, overrides or (), teacher=teacher, allow_code=allow_code)
        _say(telling.knowledge_as_plain(taught), list(telling.knowledge_lines(taught)), as_json)
        return
    if loyalty:
        told = loyalty_of_run(folder, overrides or (), teacher=teacher, allow_code=allow_code)
        _say(told, list(telling.loyalty_lines(told)), as_json)
        return
    found = variance_of_run(
        folder,
        overrides or (),
        teacher=teacher,
        step=step,
        curvature=curvature,
        num_batches=batches,
        allow_code=allow_code,
    )
    _say(telling.as_plain(found), list(telling.lines(found)), as_json)


def _explain(
    folder: Path,
    overrides: list[str] | None,
    teacher: Path | None,
    explainer: str | None,
    split: str,
    as_json: bool,
    allow_code: bool,
) -> None:
    from limbeck.diagnostics.of_runs import explanations_of_run
    from limbeck.diagnostics.telling_explanations import (
        explanation_lines,
        findings_as_plain,
        keep_findings,
    )

    found = explanations_of_run(
        folder,
        overrides or (),
        teacher=teacher,
        split=split,
        explainer=explainer,
        allow_code=allow_code,
    )
    told = list(explanation_lines(found))
    if not overrides:  # with other data the figures are not the run's
        kept = keep_findings(found, folder, teacher)
        told += ["", f"kept in {kept}, for: limbeck report {folder}"]
    _say(findings_as_plain(found), told, as_json)


def _say(plain: Mapping[str, Any], told: list[str], as_json: bool) -> None:
    if as_json:
        import json

        told = [json.dumps(plain)]
    for line in told:
        print(line)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diagnose")(guarded(diagnose))
