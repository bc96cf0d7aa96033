"""How commands end: exit codes, one line for each error, quiet pipes."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from limbeck.errors import LimbeckError

DONE, OURS, THEIRS, INTERRUPTED = 0, 1, 2, 130


def run_to_end(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a typer application and return the exit code, having said what there is to say."""
    debug = "--debug" in arguments or os.environ.get("LIMBECK_DEBUG", "") not in ("", "0")
    arguments = [word for word in arguments if word != "--debug"]
    try:
        result = app(args=arguments, prog_name="limbeck", standalone_mode=False)
    except KeyboardInterrupt as stop:
        return _interrupted(stop, arguments)
    except LimbeckError as error:
        return _theirs(error, debug)
    except BrokenPipeError:
        _silence_stdout()
        return DONE
    except Exception as error:
        if hasattr(error, "format_message"):  # click's and typer's own: unknown options and so on
            return _misused(error)
        return _ours(error, debug)
    return result if isinstance(result, int) else DONE


def flush_quietly() -> None:
    """Flush stdout; a reader that has left (``| head``) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()


def _silence_stdout() -> None:
    """Point stdout at nothing, or Python complains at exit about what it could not flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _theirs(error: LimbeckError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say(f"error: {_one_line(str(error))}")
    return THEIRS


def _misused(error: Exception) -> int:
    message = _one_line(error.format_message())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "limbeck"
    _say(f"error: {message.rstrip('.')} (see: {path} --help)")
    return THEIRS


def _interrupted(stop: KeyboardInterrupt, arguments: Sequence[str]) -> int:
    run = getattr(stop, "run", None) or getattr(stop.__cause__, "run", None)
    if run is None:
        _say("interrupted")
    elif _is_teacher(Path(run), arguments):
        line = shlex.join(["limbeck", *arguments])
        _say(f"interrupted; the teacher is kept; go on with: {line}")
    else:
        _say(f"interrupted; go on with: limbeck resume {shlex.quote(str(run))}")
    return INTERRUPTED


def _is_teacher(run: Path, arguments: Sequence[str]) -> bool:
    """Whether the run that stopped is a teacher's, which its student's recipe goes on with."""
    return run.parent.name == "teachers" and not any(str(run) in word for word in arguments)


def _ours(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    what = _one_line(f"{type(error).__name__}: {error}")
    where = _keep_traceback()
    _say(f"error: unexpected {what}; a fault of Limbeck's: please report it with {where}")
    return OURS


def _keep_traceback() -> str:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="limbeck-error-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"command: {shlex.join(sys.argv)}\npython: {sys.version}\n\n")
            file.write(traceback.format_exc())
            return file.name
    except OSError:
        return "the traceback that --debug shows"
