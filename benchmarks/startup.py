"""How long a person waits before anything happens: imports, help, a small run, in fresh processes.

The small run (two epochs of two steps) is compared with itself beside torch's compiler, which
torch's own optimisers load and a run here does not; its peak memory is told too.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.harness import arguments, begin, compare, finish

SMALL_RUN = """
import tempfile, torch, limbeck
images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
net = lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
with tempfile.TemporaryDirectory() as folder:
    limbeck.distill(
        teacher=net(), student=net(), data=(images, labels), method="kd",
        epochs=2, batch_size=32, quiet=True, output=folder + "/run",
    )
"""


def process(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def peak_mib(code: str) -> int:
    """Return the peak memory of a fresh process that runs ``code``."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a process ended with {child.returncode}:\n{code}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(used.ru_maxrss / unit)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch = ("import torch", lambda: process("-c", "import torch"))
    compiled = "import torch._dynamo\n" + SMALL_RUN
    help_ = "from limbeck.cli import main; main(['--help'])"
    results = [
        compare(
            "import",
            ("import limbeck", lambda: process("-c", "import limbeck")),
            torch,
            pairs=options.pairs,
            warmup=1,
            bar="≤ 1.3",
        ),
        compare(
            "import with the parts of a run",
            ("import limbeck.api", lambda: process("-c", "import limbeck.api")),
            torch,
            pairs=options.pairs,
            warmup=1,
        ),
        compare(
            "help",
            ("limbeck --help", lambda: process("-c", help_)),
            torch,
            pairs=options.pairs,
            warmup=1,
            bar="≤ 0.5",
        ),
        compare(
            "a small run",
            ("as it is", lambda: process("-c", SMALL_RUN)),
            ("beside torch's compiler", lambda: process("-c", compiled)),
            pairs=options.pairs,
            warmup=1,
        ),
    ]
    finish(results, options)
    print(f"peak memory of it: {peak_mib(SMALL_RUN)} MiB against {peak_mib(compiled)} MiB")


if __name__ == "__main__":
    main()
