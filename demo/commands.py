"""Run the scripts as a user does, several at a time."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(script: str, *options: object) -> None:
    """Run one of the scripts at the top, or a module with `-m`; print the command, then its output.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [script, *map(str, options)]
    print("$ python", *command, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one thread each, since several run side by side
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    # Of a progress bar, only its last state.
    output = done.stdout if done.returncode == 0 else done.stderr
    lines = [line.rpartition("\r")[2] for line in output.splitlines()]
    print(*(f"  {line}" for line in lines if line), sep="\n", flush=True)
    done.check_returncode()


def side_by_side(jobs: Sequence[Callable[[], None]]) -> None:
    """Call the jobs, as many at a time as there are processors; the first failure ends the rest.

    Raises:
        subprocess.CalledProcessError: a job failed.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for one in running:
                one.result()
        except subprocess.CalledProcessError:
            pool.shutdown(cancel_futures=True)
            raise
