"""The way from the command line to the first direction is short."""

from multiprocessing import get_context

import trace_calls


def test_stage_1_reaches_its_first_direction_through_few_modules_and_functions() -> None:
    # In a copy of this process, which has the libraries: importing them takes most of the time of a new one.
    with get_context("fork").Pool(1) as pool:
        counted = pool.apply(trace_calls.count)
    assert 8 <= len(counted.modules) <= 18
    assert 40 <= len(counted.functions) <= 104
