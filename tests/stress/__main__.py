"""Nothing lost, nothing let in: runs killed, interrupted, raced and out of disk; files fuzzed and hostile.

  python tests/stress
  python tests/stress --kills 3 --races 2 --fuzz 50 --full-disk 5

Prints a table of figures and ends with status 1 if anything failed. `test_reliability.py` runs the same with small
counts. What is drawn comes from fixed seeds; when a signal arrives also depends on the machine.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# Run as a folder, this finds neither the other tests and itself as a package, nor the package `repe` and the scripts.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile
from stress.fuzz_data import fuzz_data
from stress.fuzz_results import fuzz_results
from stress.hostile import hostile_pickles, hostile_weights
from stress.runs import full_disks, interrupts, kills, races
from stress.tally import Tally
from stress.world import World, temporary_world

FAILURES_SHOWN = 20


def all_parts(world: World, args: argparse.Namespace) -> Iterator[Tally]:
    """Every part of the harness."""
    yield kills(world, args.kills)
    yield interrupts(world, args.interrupts)
    yield races(world, args.races)
    yield full_disks(world, args.full_disk)
    yield fuzz_data(world.folder, args.fuzz)
    for file_type, released in itertools.product((VectorFile, AccuracyFile), (False, True)):
        yield fuzz_results(world, file_type, released, args.fuzz)
    yield hostile_pickles(world, args.hostile)
    yield hostile_weights(world)


def main() -> None:
    """Run all parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 100), ("interrupts", 50), ("races", 20), ("fuzz", 1000), ("full-disk", 100)):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    parser.add_argument("--hostile", type=int, metavar="N", help="default: all combinations")
    args = parser.parse_args()
    tallies, start = [], time.perf_counter()
    with temporary_world() as world:
        for tally in all_parts(world, args):
            tallies.append(tally)
            details = ", ".join(f"{count} {what}" for what, count in sorted(tally.seen.items()))
            print(f"{tally.what:34} {tally.tried:6} tried {len(tally.failures):5} failed   {details}", flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    for failure in itertools.chain.from_iterable(tally.failures[:FAILURES_SHOWN] for tally in tallies):
        print(f"\n{failure}")
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
