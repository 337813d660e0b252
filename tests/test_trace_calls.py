"""The way from the command line to the first direction is short."""

import re
import subprocess
import sys

from conftest import ROOT


def test_stage_1_reaches_its_first_direction_through_few_modules_and_functions() -> None:
    command = [sys.executable, "tests/trace_calls.py"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = re.search(r"(\d+) modules, (\d+) named functions", ended.stdout)
    assert counts, ended
    modules, functions = map(int, counts.groups())
    assert 8 <= modules <= 18
    assert 40 <= functions <= 104
