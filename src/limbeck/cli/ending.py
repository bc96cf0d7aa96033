"""How commands end: exit codes, one line for each error, quiet pipes."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec

import typer

from limbeck.errors import LimbeckError

DONE, OURS, THEIRS, INTERRUPTED = 0, 1, 2, 130
_asked_for_tracebacks = False

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command so that whatever ends it becomes an exit code, and one line at most."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as stop:
            again = " --allow-code" if kwargs.get("allow_code") else ""
            raise typer.Exit(_interrupted(stop, again)) from None
        except LimbeckError as error:
            raise typer.Exit(_theirs(error)) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(DONE) from None
        except Exception as error:
            raise typer.Exit(_ours(error)) from None

    return run


def run_to_end(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a typer application and return the exit code, having said what there is to say."""
    global _asked_for_tracebacks
    _asked_for_tracebacks = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    try:
        result = app(args=arguments, prog_name="limbeck", standalone_mode=False)
    except Exception as error:
        if hasattr(error, "format_message"):  # unknown options and the like
            return _misused(error)
        return _ours(error)
    return result if isinstance(result, int) else DONE


def _silence_stdout() -> None:
    """Point stdout at nothing, or Python complains at exit about what it could not flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _debugging() -> bool:
    return _asked_for_tracebacks or os.environ.get("LIMBECK_DEBUG", "") not in ("", "0")


def _theirs(error: LimbeckError) -> int:
    if _debugging():
        traceback.print_exc()
    if _speaks() or error.alone:
        _say(f"error: {_who(error.alone)}{_one_line(str(error))}")
    return THEIRS


def _speaks() -> bool:
    """Whether this process speaks for its siblings: the first one does."""
    return os.environ.get("RANK", "0") == "0"


def _who(alone: bool) -> str:
    """Name the process where others may say something else."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return f"process {os.environ['RANK']}: " if alone and several else ""


def _misused(error: Exception) -> int:
    message = _one_line(error.format_message())  # type: ignore[attr-defined]
    if not message:  # no arguments at all: the help was printed, and nothing is wrong
        return DONE
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "limbeck"
    if _speaks():
        _say(f"error: {message.rstrip('.')}{_command_meant(message)} (see: {path} --help)")
    return THEIRS


def _command_meant(message: str) -> str:
    """Return what to add for other words for "run"; slips of the hand are known to typer."""
    found = re.fullmatch(r"No such command '(train|distill?|fit)'\.?", message)
    return ": did you mean 'run'?" if found else ""


def _interrupted(stop: KeyboardInterrupt, options: str) -> int:
    if _debugging():
        traceback.print_exc()
    run = getattr(stop, "run", None)
    if not _speaks():
        return INTERRUPTED
    if getattr(stop, "folder", None) is not None:  # a study, which goes on by its own command
        again = shlex.join(["limbeck", *sys.argv[1:]])
        _say(f"interrupted; finished runs are kept; go on with: {again}")
    elif run is None:
        _say("interrupted")
    elif Path(run).parent.name == "teachers":  # its student's recipe goes on with it
        _say("interrupted; the teacher's checkpoint is kept: the same command goes on with it")
    else:
        _say(f"interrupted; go on with: limbeck resume {shlex.quote(str(run))}{options}")
    return INTERRUPTED


def _ours(error: Exception) -> int:
    if _debugging():
        traceback.print_exc()
    what = _one_line(f"{type(error).__name__}: {error}")
    where = _keep_traceback()
    _say(
        f"error: {_who(True)}unexpected {what}; a fault of Limbeck's: please report it with {where}"
    )
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
