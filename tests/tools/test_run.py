"""`python -m repe run` does what the scripts do, one after the other, and resumes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Ended, write_data

from repe.runs import arguments as options
from repe.tools import run

pytestmark = pytest.mark.usefixtures("undrawn")


def test_run_writes_what_the_scripts_write_and_resumes(
    script: Callable[..., Ended], model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for language in ("en", "sv"):
        write_data(tmp_path / "data", "politeness", language, pairs=24, last_words=("bag", "dog"))
    model = ["--model-path", model_folders["llama"], "--data-dir", tmp_path / "data"]
    monkeypatch.setattr(sys, "path", [*sys.path])
    first = script("repe.tools.run", *model, "--res-dir", tmp_path / "run")
    assert first.status == 0, first.err
    for name in ("collect_vector", "recognize_concept"):
        assert script(name, *model, "--res-dir", tmp_path / "scripts").status == 0
    compare = ["--cross-model", "tiny-llama", "--res-dir", tmp_path / "scripts"]
    for name in ("recognize_concept", "consistency_analysis", "transferability_analysis"):
        assert script(name, *compare).status == 0
    ours, theirs = tmp_path / "run/tiny-llama", tmp_path / "scripts/cross_model"
    for table in ("table6_recognition_accuracy", "similarity", "table1_linguistic_correlation", "transfer"):
        assert (ours / f"{table}.csv").read_bytes() == (theirs / f"{table}.csv").read_bytes()
    assert (ours / "report.html").exists()
    accuracy = pd.read_csv(ours / "table6_recognition_accuracy.csv").accuracy
    rows = [line.split() for line in first.out.splitlines() if line.startswith("politeness  ") and "layer" in line]
    assert [row[2] for row in rows] == [f"{value:.2f}" for value in accuracy]
    assert "fewer than 20 test items" in first.err
    again = script("repe.tools.run", *model, "--res-dir", tmp_path / "run")
    assert again.out.count("nothing to do") == 2


def test_a_missing_package_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def needs_torch(_args: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as ended:
        options.run(needs_torch, options.Parser(None))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "no package torch: activate the environment with `source .venv/bin/activate`" in line


def test_run_finds_the_scripts_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(run.script(name).parser() for name in run.SCRIPTS)


def test_help_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    import control_generation

    scripts = [*(run.script(name) for name in run.SCRIPTS), control_generation, run]
    for module in scripts:
        with pytest.raises(SystemExit):
            module.parser().parse_args(["--help"])
        assert len(capsys.readouterr().out.splitlines()) <= 60, module.__name__
