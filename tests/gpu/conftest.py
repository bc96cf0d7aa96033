"""Checks that need a GPU; nothing is collected without one (`make test-gpu`)."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "methods"))  # the small runs of its tests
if not torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]
