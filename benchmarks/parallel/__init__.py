"""Parallel training over ordinary networks: time, bytes and quality of every way of `--parallel`, and of its peers."""

import sys
from pathlib import Path

# hosts are the tests' own
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
