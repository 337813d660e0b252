"""Run the scripts as a user does, several at a time."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]

# A state of a script's progress bar: what it does, how much is done, of how much.
PROGRESS = re.compile(r"(.*?): +\d+%\|.*\| (\d+)/(\d+) ")


def run(script: str, *options: object) -> None:
    """Run one of the scripts at the top, or a module with `-m`; print the command, then its output.

    While it runs, its progress is shown as a bar of this process, below those of other commands.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [script, *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one thread each, since several run side by side
    messages = []
    with tempfile.TemporaryFile("w+") as output, tqdm(desc=script, leave=False, disable=None) as bar:
        tqdm.write(f"$ python {' '.join(command)}")
        running = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.PIPE, text=True
        )
        with running:
            assert running.stderr is not None
            for line in running.stderr:  # each state of a bar is a line, since \r ends one
                if state := PROGRESS.match(line):
                    bar.set_description(f"{script} {state[1]}", refresh=False)
                    bar.n, bar.total = int(state[2]), int(state[3])
                    bar.refresh()
                else:
                    messages.append(line)
        output.seek(0)
        lines = output.read().splitlines() if running.returncode == 0 else [line.rstrip() for line in messages]
        tqdm.write("\n".join(f"  {line}" for line in lines if line))
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)


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
