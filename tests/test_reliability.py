"""Nothing is lost and nothing is let in: the harness of `stress.py` with small counts."""

from collections.abc import Iterator

import pytest
import stress

from repe.results import AccuracyFile, VectorFile


@pytest.fixture(scope="module")
def world() -> Iterator[stress.World]:
    with stress.temporary_world() as made:
        yield made


def assert_no_failure(tally: stress.Tally, tried: int) -> None:
    assert tally.failures == []
    assert tally.tried >= tried


def test_a_killed_run_goes_on_to_the_bytes_of_an_undisturbed_one(world: stress.World) -> None:
    assert_no_failure(stress.kills(world, 3), 3)


def test_an_interrupted_run_keeps_what_was_finished_and_goes_on(world: stress.World) -> None:
    assert_no_failure(stress.interrupts(world, 4), 4)


def test_two_runs_at_once_lose_nothing(world: stress.World) -> None:
    assert_no_failure(stress.races(world, 2), 2)


def test_a_full_disk_leaves_the_old_files_whole(world: stress.World) -> None:
    assert_no_failure(stress.full_disks(world, 5), 5)


def test_fuzzed_data_files_are_read_right_or_refused(world: stress.World) -> None:
    assert_no_failure(stress.fuzz_data(world.folder, 50), 50)


@pytest.mark.parametrize("file_type", [VectorFile, AccuracyFile])
@pytest.mark.parametrize("released", [False, True])
def test_fuzzed_result_files_are_read_right_or_refused(
    file_type: type[VectorFile] | type[AccuracyFile], released: bool, world: stress.World
) -> None:
    assert_no_failure(stress.fuzz_results(world, file_type, released, 50), 50)


def test_hostile_pickles_run_nothing_under_any_name(world: stress.World) -> None:
    assert_no_failure(stress.hostile(world, 400), 400)


def test_hostile_weights_run_nothing(world: stress.World) -> None:
    assert_no_failure(stress.hostile_weights(world), 10)
