"""Checks of randomly generated files."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from stress.forked_process import limit_memory, outcome_in_fork
from stress.outcome import Outcome


def fuzz(name: str, files: st.SearchStrategy, check: Callable[[Any], str], count: int) -> Outcome:
    """Check `count` generated files, in a fork because a file can take all memory.

    Args:
        check: returns a short description of the result for a file, or raises if it is wrong. All files are tried, and
            the first failure at each place in the code is kept.
    """
    settings = hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    outcome = Outcome(name)
    met: set[tuple] = set()

    def checked(drawn: Any) -> None:
        outcome.tried += 1
        try:
            outcome.counts[check(drawn)] += 1
        except Exception as error:
            outcome.counts["FAILED"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            failure = (type(error), place.filename, place.lineno, str(error)[:40])
            text = f"{name}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error!s:.400}"
            outcome.expect(failure in met, text)
            met.add(failure)

    def work() -> Outcome:
        limit_memory()
        # A warning of NumPy about invalid numbers counts as a failure.
        warnings.simplefilter("error", RuntimeWarning)
        settings(hypothesis.given(files)(checked))()
        return outcome

    return outcome_in_fork(work)
