"""The sides of the comparison: what each needs, where it is found, how many lines it takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path

from benchmarks.turns import Absent, Worker

HERE = Path(__file__).parent
SHIM = HERE.parent.parent / "tests" / "shim"  # lets torchvision load beside the CPU build of torch
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
BEGIN, END = "# what a user writes", "# to here"


@dataclass(frozen=True)
class Side:
    """One way of doing the job.

    Attributes:
        name: in the table.
        script: the module in this folder.
        variant: of the script.
        needs: package that it needs; "": nothing of others.
        get: what brings the package.
        ours: whether it is Limbeck.
        keeps: whether the teacher is not asked again in every epoch.
        region: which of the script's user regions, in order, is this side's.
        channels_last: whether images and weights are laid out so.
        reduced: whether the teacher computes in bfloat16.
        more: lines that these settings take beside the region's.
    """

    name: str
    script: str
    variant: str = ""
    needs: str = ""
    get: str = ""
    ours: bool = False
    keeps: bool = False
    region: int = 0
    channels_last: bool = False
    reduced: bool = False
    more: int = 0

    @property
    def lines(self) -> int:
        """Lines that a user writes, blank ones and comments left out."""
        text = (HERE / f"{self.script}.py").read_text()
        body = text.split(BEGIN)[1 + self.region].split(END)[0]
        lines = [line.strip() for line in body.splitlines()]
        return self.more + sum(bool(line) and not line.startswith(("#", '"""')) for line in lines)

    def start(self, folder: Path | None, log: Path, images: int) -> Worker:
        """Start its process.

        Raises:
            Absent: what it needs is not there, or does not run here.
        """
        places = [] if folder is None else places_of(folder)
        # first, so that a namesake in this folder is never meant
        if self.needs and PathFinder.find_spec(self.needs, [*places, *sys.path]) is None:
            raise Absent(f"{self.needs} is not there: {self.get}")
        command = ["-m", f"benchmarks.peers.{self.script}", "--variant", self.variant]
        path = ":".join([*places, str(SHIM)] if self.needs else [str(SHIM)])
        options = ["--images", str(images)]
        options += ["--channels-last"] * self.channels_last + ["--reduced"] * self.reduced
        return Worker([*command, *options], {**ONE_THREAD, "PYTHONPATH": path}, log)


def alike() -> list[Side]:
    """Return all sides in Limbeck's fastest layout and precision."""
    plain = [side for side in SIDES if not (side.channels_last or side.reduced)]
    return [replace(side, channels_last=True, reduced=True) for side in plain]


def places_of(folder: Path) -> list[str]:
    """Return where Python finds the peers: ``site`` of pip, and each checkout."""
    return [str(folder.resolve() / name) for name in ("site", "mdistiller", "RepDistiller")]


def _pip(*names: str) -> str:
    return "pip install --no-deps --target PEERS/site " + " ".join(names)


def _clone(name: str) -> str:
    return f"git clone https://github.com/{name} PEERS/{name.split('/')[1]}"


SIDES: Sequence[Side] = (
    Side("Limbeck, live teacher", "limbeck", ours=True),
    Side("Limbeck, live, channels-last", "limbeck", ours=True, channels_last=True, more=1),
    Side(
        "Limbeck, live, channels-last, teacher in bfloat16",
        "limbeck",
        ours=True,
        channels_last=True,
        reduced=True,
        more=3,
    ),
    Side("Limbeck, cached teacher", "limbeck", "cached", ours=True, keeps=True, region=1),
    Side(
        "Limbeck, cached, channels-last",
        "limbeck",
        "cached",
        ours=True,
        keeps=True,
        region=1,
        channels_last=True,
        more=1,
    ),
    Side("plain torch", "plain", needs="torchvision", get="pip install torchvision"),
    Side("torchdistill", "torchdistill", needs="torchdistill", get=_pip("torchdistill")),
    Side(
        "mdistiller",
        "mdistiller",
        needs="mdistiller",
        get=_clone("megvii-research/mdistiller") + "; " + _pip("yacs", "tensorboardX"),
    ),
    Side(
        "RepDistiller", "repdistiller", needs="distiller_zoo", get=_clone("HobbitLong/RepDistiller")
    ),
    Side("TextBrewer", "textbrewer", needs="textbrewer", get=_pip("textbrewer")),
    Side(
        "TextBrewer, one view kept in memory",
        "textbrewer",
        "cached",
        needs="textbrewer",
        get=_pip("textbrewer"),
        keeps=True,
    ),
    Side("timm", "timm", needs="timm", get="pip install timm"),
    Side("Keras", "keras", needs="keras", get=_pip("keras", "namex", "h5py", "optree")),
)
