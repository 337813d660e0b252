"""Files drawn at random, each of them checked."""

import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from stress.child import limit_memory, tallied
from stress.tally import Tally


def fuzz(what: str, files: st.SearchStrategy, check: Callable[[Any], str], count: int) -> Tally:
    """Check `count` drawn files; `check` says what became of each, or raises where that is wrong.

    In a child, since a file may ask for all memory. All files are tried; of failures at one place the first is kept.
    """
    settings = hypothesis.settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    tally = Tally(what)
    met: set[tuple] = set()

    def checked(drawn: Any) -> None:
        tally.tried += 1
        try:
            tally.seen[check(drawn)] += 1
        except Exception as error:
            tally.seen["FAILED"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            failure = (type(error), place.filename, place.lineno, str(error)[:40])
            text = f"{what}: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error!s:.400}"
            tally.expect(failure in met, text)
            met.add(failure)

    def work() -> Tally:
        limit_memory()
        # What numpy says of impossible numbers is no answer to a user.
        warnings.simplefilter("error", RuntimeWarning)
        settings(hypothesis.given(files)(checked))()
        return tally

    return tallied(work)
