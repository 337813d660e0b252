"""The stress test of `stress/` with small counts: no results are lost, and no code from files is run."""

from collections.abc import Iterator

import pytest
from stress.built import built_files
from stress.fuzz_data import fuzz_data
from stress.fuzz_results import fuzz_results
from stress.hostile import hostile_pickles, hostile_weights
from stress.outcome import Outcome
from stress.runs import full_disks, interrupts, kills, races
from stress.workspace import Workspace, temporary_workspace

from repe.results.accuracy_file import AccuracyFile
from repe.results.vector_file import VectorFile


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    with temporary_workspace() as made:
        yield made


def assert_no_failure(outcome: Outcome, tried: int) -> None:
    assert outcome.failures == []
    assert outcome.tried >= tried


def test_a_killed_run_continues_to_the_bytes_of_an_undisturbed_one(workspace: Workspace) -> None:
    assert_no_failure(kills(workspace, 3), 3)


def test_an_interrupted_run_keeps_finished_results_and_continues(workspace: Workspace) -> None:
    assert_no_failure(interrupts(workspace, 4), 4)


def test_two_parallel_runs_lose_nothing(workspace: Workspace) -> None:
    assert_no_failure(races(workspace, 2), 2)


def test_a_full_disk_leaves_existing_files_intact(workspace: Workspace) -> None:
    assert_no_failure(full_disks(workspace, 5), 5)


def test_fuzzed_data_files_are_read_correctly_or_refused(workspace: Workspace) -> None:
    assert_no_failure(fuzz_data(workspace.folder, 50), 50)


@pytest.mark.parametrize("file_type", [VectorFile, AccuracyFile])
@pytest.mark.parametrize("released", [False, True])
def test_fuzzed_result_files_are_read_correctly_or_refused(
    file_type: type[VectorFile] | type[AccuracyFile], released: bool, workspace: Workspace
) -> None:
    assert_no_failure(fuzz_results(workspace, file_type, released, 50), 50)


def test_files_built_to_hang_or_mislead_are_refused(workspace: Workspace) -> None:
    assert_no_failure(built_files(workspace, 60), 60)


def test_hostile_pickles_run_no_code_under_any_name(workspace: Workspace) -> None:
    assert_no_failure(hostile_pickles(workspace, 400), 400)


def test_hostile_weights_run_no_code(workspace: Workspace) -> None:
    assert_no_failure(hostile_weights(workspace), 10)
