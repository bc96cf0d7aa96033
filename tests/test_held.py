"""The lock of a file: one process at a time, and gone with the process, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.errors import StorageError
from limbeck.files import held

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no such lock on Windows")
HOLDER = (
    "import sys, time; from pathlib import Path; from limbeck.files import held\n"
    "with held(Path(sys.argv[1]), lambda: None): print('held', flush=True); time.sleep(60)"
)


class _GivenUp(Exception):
    pass


def _give_up() -> None:
    raise _GivenUp


def test_another_process_is_told_of_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "one.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(_GivenUp), held(lock, _give_up):
        raise AssertionError("two hold it")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with held(lock, _give_up):
        pass


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "one.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with held(lock, holder.kill):  # called once, while the other has it
        assert holder.wait(10) == -signal.SIGKILL
    holder.stdout.close()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match=r"a file is in the way|not a folder"),
        held(tmp_path / "file" / "one.lock", _give_up),
    ):
        pass
