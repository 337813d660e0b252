"""Several processes give the results of one: each set is processed once, and all processes end together."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Ended
from stress.forked_process import ForkedProcess, signal_at_step

from repe.errors import UserError
from repe.runs import processes, stage

Script = Callable[..., Ended]
Team = Callable[..., list[Ended]]
STAGES = ("collect_vector", "recognize_concept")


def as_one_of(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    values = (rank, rank, count, "127.0.0.1", 1)
    for name, value in zip(processes.LAUNCHED, values, strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def options(data_dir: Path, model_folders: dict[str, Path]) -> list[object]:
    """Options of both stages: six sets of different sizes."""
    model = ["--model-path", model_folders["llama"], "--data-dir", data_dir]
    return [*model, "--concept", "morality", "toxicity", "--lang", "zh", "en", "fr"]


@pytest.fixture
def team() -> Team:
    """Run a script in several processes, as a launcher does, and wait for all."""

    def run(name: str, *arguments: object, count: int = 2, first: Callable[[int], object] = lambda _: None) -> list:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def work(rank: int) -> None:
            values = (rank, rank, count, "127.0.0.1", port)
            os.environ.update(zip(processes.LAUNCHED, map(str, values), strict=True))
            sys.argv = [f"{name}.py", *map(str, arguments)]
            first(rank)
            importlib.import_module(name).start()

        forks = [ForkedProcess(lambda rank=rank: work(rank)) for rank in range(count)]  # type: ignore[misc]
        return [fork.end() for fork in forks]

    return run


def results(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.pt"))}


def test_the_largest_set_goes_first_to_the_process_with_the_least_work(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = {"a": 3, "b": 7, "c": 4, "d": 6, "e": 5}
    assert processes.share(lengths) == [*lengths]
    found = []
    for rank in range(2):
        as_one_of(monkeypatch, rank, 2)
        found.append(processes.share(lengths))
    # 7 | 6; then 5 to the second, 4 to the first, and 3, both having 11, to the first.
    assert found == [["a", "b", "c"], ["d", "e"]]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_every_set_belongs_to_one_process(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = {number: 1 + number * number % 17 for number in range(30)}
    found = []
    for rank in range(count):
        as_one_of(monkeypatch, rank, count)
        found += processes.share(lengths)
    assert sorted(found) == [*lengths]


def test_without_a_launcher_there_is_one_process_without_communication(
    script: Script, options: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as in an allocation whose processes were not started
    assert (processes.count(), processes.rank()) == (1, 0)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: pytest.fail("set up"))
    for name in STAGES:
        assert script(name, *options, "--res-dir", tmp_path / "res").status == 0


def test_two_processes_write_the_bytes_that_one_writes(
    script: Script, team: Team, options: list[object], tmp_path: Path
) -> None:
    for name in STAGES:
        alone = script(name, *options, "--res-dir", tmp_path / "one")
        main, other = team(name, *options, "--res-dir", tmp_path / "two")
        assert (main.status, other.status, other.out, other.err) == (0, 0, "", "")
        assert main.out == alone.out.replace("/one/", "/two/")
        assert "process 1 of 2" in main.err
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert len(results(tmp_path / "two")) == 4
    main, other = team("recognize_concept", *options, "--res-dir", tmp_path / "two")
    assert (main.status, other.status, other.out) == (0, 0, "")
    assert main.out.startswith("nothing to do")


def test_each_process_computes_only_its_part(team: Team, options: list[object], tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def record(rank: int) -> None:
        from repe.results.vector_file import VectorFile

        save = VectorFile.save

        def save_and_record(file: VectorFile, language: str, *rest: object) -> object:
            with seen.open("a") as lines:
                lines.write(f"{rank} {file.concept} {language}\n")
            return save(file, language, *rest)

        VectorFile.save = save_and_record

    assert [one.status for one in team("collect_vector", *options, "--res-dir", tmp_path, first=record)] == [0, 0]
    ran = [line.split(" ", 1) for line in seen.read_text().splitlines()]
    assert sorted(work for _, work in ran) == sorted({work for _, work in ran})
    assert len(ran) == 6
    assert {rank for rank, _ in ran} == {"0", "1"}


def test_more_processes_than_sets_leave_some_without_a_model(team: Team, options: list[object], tmp_path: Path) -> None:
    ended = team("collect_vector", *options, "--concept", "morality", "--lang", "en", "--res-dir", tmp_path, count=3)
    assert [one.status for one in ended] == [0, 0, 0]
    assert ended[0].out.startswith("wrote vectors of 1 concept")


@pytest.mark.parametrize("wrong", [("--lang", "en", "xx"), ("--split", "-1"), ("--template", "no place")])
def test_an_error_of_all_processes_is_printed_once(
    wrong: tuple[str, ...], team: Team, options: list[object], tmp_path: Path
) -> None:
    main, other = team("collect_vector", *options, *wrong, "--res-dir", tmp_path)
    assert (main.status, other.status) == (2, 2)
    assert (main.err.count("\n"), main.err[:6]) == (1, "error:")
    assert (other.out, other.err) == ("", "")


def test_an_error_in_one_process_ends_all(team: Team, options: list[object], tmp_path: Path) -> None:
    def fail(rank: int) -> None:
        from repe.vectors import concept_vectors

        def refuse(*_: object, **__: object) -> None:
            raise UserError("a fault of the second process: fix it")

        concept_vectors.collect = refuse if rank else concept_vectors.collect

    main, other = team("collect_vector", *options, "--res-dir", tmp_path, first=fail)
    assert (main.status, other.status) == (2, 2)
    assert other.err == "\nerror: a fault of the second process: fix it\n"
    assert "error: another process ended before its part was done" in main.err
    assert "wrote" not in main.out
    finished, again = results(tmp_path), team("collect_vector", *options, "--res-dir", tmp_path)
    assert finished
    assert [one.status for one in again] == [0, 0]


def test_an_interrupt_ends_all_and_the_same_command_continues(
    script: Script, team: Team, options: list[object], tmp_path: Path
) -> None:
    def interrupt(rank: int) -> None:
        if rank == 0:
            signal_at_step(tmp_path / "two", 12, signal.SIGINT)

    main, other = team("collect_vector", *options, "--res-dir", tmp_path / "two", first=interrupt)
    assert (main.status, other.status, other.err) == (130, 2, "")
    assert "interrupted" in main.err
    assert script("collect_vector", *options, "--res-dir", tmp_path / "one").status == 0
    assert [one.status for one in team("collect_vector", *options, "--res-dir", tmp_path / "two")] == [0, 0]
    assert results(tmp_path / "one") == results(tmp_path / "two")


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_each_process_has_its_own_gpu(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def device(name: str) -> torch.device:
        parser = importlib.import_module("collect_vector").parser()
        return stage.model_source(parser.parse_args(["--model-path", "x", "--device", name])).device

    assert device(asked) == torch.device("cuda")
    for rank in range(2):
        as_one_of(monkeypatch, rank, 3)
        assert device(asked) == torch.device("cuda", rank)
        assert device("cuda:1") == torch.device("cuda", 1)
        assert device("cpu") == torch.device("cpu")
    as_one_of(monkeypatch, 2, 3)
    with pytest.raises(UserError, match="start at most 2 here"):
        device(asked)


@pytest.mark.parametrize("name", ["recognize_concept", "consistency_analysis", "transferability_analysis"])
def test_comparisons_are_not_divided(name: str, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    as_one_of(monkeypatch, 0, 2)
    ended = script(name, "--cross-model", "a,b")
    assert ended.status == 2
    assert "start it with python, without a launcher" in ended.err


def test_accelerate_needs_no_config_file_to_start_several(tmp_path: Path) -> None:
    printing = tmp_path / "printing.py"
    printing.write_text(
        "import os\nfrom repe.runs import processes\n"
        "print([processes.rank(), int(os.environ['LOCAL_RANK']), processes.count()])\n"
    )
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", str(printing)]
    free = os.environ | {"HOME": str(tmp_path), "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, *launch], env=free, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended
    assert {"[0, 0, 2]", "[1, 1, 2]"} <= {*ended.stdout.replace("][", "]\n[").splitlines()}
