"""Stress test: killed, interrupted and parallel runs, full disks, damaged and hostile files.

  python tests/stress
  python tests/stress --kills 3 --races 2 --fuzz 50 --full-disk 5

Prints the number of trials and failures of each part, and exits with status 1 if anything failed. `test_reliability.py`
runs the same parts with small counts. Random choices use fixed seeds, but the moment at which a signal arrives also
depends on the machine.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# `python tests/stress` puts only this folder on the path; the tests and the repository root are needed as well.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile
from stress.built import built_files
from stress.fuzz_data import fuzz_data
from stress.fuzz_results import fuzz_results
from stress.hostile import hostile_pickles, hostile_weights
from stress.outcome import Outcome
from stress.runs import full_disks, interrupts, kills, races
from stress.workspace import Workspace, temporary_workspace

FAILURES_SHOWN = 20


def all_parts(workspace: Workspace, args: argparse.Namespace) -> Iterator[Outcome]:
    """Run all parts of the stress test."""
    yield kills(workspace, args.kills)
    yield interrupts(workspace, args.interrupts)
    yield races(workspace, args.races)
    yield full_disks(workspace, args.full_disk)
    yield fuzz_data(workspace.folder, args.fuzz)
    for file_type, released in itertools.product((VectorFile, AccuracyFile), (False, True)):
        yield fuzz_results(workspace, file_type, released, args.fuzz)
    yield built_files(workspace, args.built)
    yield hostile_pickles(workspace, args.hostile)
    yield hostile_weights(workspace)


def main() -> None:
    """Run all parts and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 100), ("interrupts", 50), ("races", 20), ("fuzz", 1000), ("full-disk", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    parser.add_argument("--built", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--hostile", type=int, metavar="N", help="default: all combinations")
    args = parser.parse_args()
    outcomes, start = [], time.perf_counter()
    with temporary_workspace() as workspace:
        for outcome in all_parts(workspace, args):
            outcomes.append(outcome)
            details = ", ".join(f"{count} {event}" for event, count in sorted(outcome.counts.items()))
            print(f"{outcome.name:34} {outcome.tried:6} tried {len(outcome.failures):5} failed   {details}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    for failure in itertools.chain.from_iterable(outcome.failures[:FAILURES_SHOWN] for outcome in outcomes):
        print(f"\n{failure}")
    sys.exit(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    main()
