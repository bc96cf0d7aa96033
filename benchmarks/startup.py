"""How long a person waits before anything happens: imports and help, in fresh processes.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.harness import arguments, begin, compare, finish


def process(*command: str) -> None:
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__ or "").parse_args()
    begin(options)
    torch = ("import torch", lambda: process("-c", "import torch"))
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
    ]
    finish(results, options)


if __name__ == "__main__":
    main()
