"""Nothing is lost and nothing is let in: the harness of `stress/` with small counts."""

from collections.abc import Iterator

import pytest
from stress.fuzz_data import fuzz_data
from stress.fuzz_results import fuzz_results
from stress.hostile import hostile_pickles, hostile_weights
from stress.runs import full_disks, interrupts, kills, races
from stress.tally import Tally
from stress.world import World, temporary_world

from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with temporary_world() as made:
        yield made


def assert_no_failure(tally: Tally, tried: int) -> None:
    assert tally.failures == []
    assert tally.tried >= tried


def test_a_killed_run_goes_on_to_the_bytes_of_an_undisturbed_one(world: World) -> None:
    assert_no_failure(kills(world, 3), 3)


def test_an_interrupted_run_keeps_what_was_finished_and_goes_on(world: World) -> None:
    assert_no_failure(interrupts(world, 4), 4)


def test_two_runs_at_once_lose_nothing(world: World) -> None:
    assert_no_failure(races(world, 2), 2)


def test_a_full_disk_leaves_the_old_files_whole(world: World) -> None:
    assert_no_failure(full_disks(world, 5), 5)


def test_fuzzed_data_files_are_read_right_or_refused(world: World) -> None:
    assert_no_failure(fuzz_data(world.folder, 50), 50)


@pytest.mark.parametrize("file_type", [VectorFile, AccuracyFile])
@pytest.mark.parametrize("released", [False, True])
def test_fuzzed_result_files_are_read_right_or_refused(
    file_type: type[VectorFile] | type[AccuracyFile], released: bool, world: World
) -> None:
    assert_no_failure(fuzz_results(world, file_type, released, 50), 50)


def test_hostile_pickles_run_nothing_under_any_name(world: World) -> None:
    assert_no_failure(hostile_pickles(world, 400), 400)


def test_hostile_weights_run_nothing(world: World) -> None:
    assert_no_failure(hostile_weights(world), 10)
