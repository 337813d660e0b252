"""Trials of `--tune` from strangers: damaged ones are refused, those of another run are not taken over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import build, write_data

from strangers.cases import assert_refused

pytestmark = pytest.mark.usefixtures("undrawn")

TRIAL = {"run": "RUN", "key": "1,2|2", "measures": {"kl": 0.1}}
REPLIES = {"score": 0.1, "loss": 1.0, "repetition": 0.0}
# By name, what stands in tune.jsonl; RUN is the digest of the run that reads it.
ATTACKS: dict[str, str] = {
    "a truncated line": json.dumps(TRIAL) + "\n" + json.dumps(TRIAL)[:30],
    "no table": "[1, 2]",
    "no measures": json.dumps({"run": "RUN", "key": "1,2|2"}),
    "measures in a list": json.dumps(TRIAL | {"measures": [0.1]}),
    "a measure in words": json.dumps(TRIAL | {"measures": {"kl": "0.1"}}),
    "a divergence that is not a number": json.dumps(TRIAL | {"measures": {"kl": float("nan")}}),
    "an infinite score": json.dumps(TRIAL | {"measures": REPLIES | {"score": float("inf")}}),
    "a missing measure": json.dumps(TRIAL | {"measures": {"score": 0.1}}),
    "a key in a list": json.dumps(TRIAL | {"key": [1, 2]}),
    "an escape code": json.dumps(TRIAL | {"measures": {"\x1b]0;x\x07": 1.0}}),
    "nested lists": "[" * 100_000,
    "no text": "\udcff\udcfe",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    build(folder / "tiny", "llama")
    write_data(folder / "data", "harmfulness", "en", last_words=("helps", "hurts"))
    rows = [{"id": f"p{number}", "lang": "en", "prompt": f"en help {number}"} for number in range(12)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def tune(script: Callable[..., Any], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Run --tune with few settings on the tiny model. Without a budget it ends after the trials."""
    monkeypatch.setattr("repe.control.tuning.RANGES", ("0:0.6",))
    monkeypatch.setattr("repe.control.tuning.STRENGTHS", (2.0,))
    monkeypatch.setattr("repe.control.tuning.PERPLEXITY", 0.0)
    shared = ("--model-path", home / "tiny", "--res-dir", tmp_path / "res")
    assert script("collect_vector", *shared, "--data-dir", home / "data").status == 0
    options = ("--source-lang", "en", "--prompts", home / "prompts.jsonl", "--max-new-tokens", "3", "--tune")
    return lambda: script("control_generation", *shared, *options)


def test_damaged_trials_are_refused(tune: Callable[[], Any], tmp_path: Path) -> None:
    assert "found no setting" in tune().err
    path = tmp_path / "res/tiny/harmfulness/control/en/tune.jsonl"
    run = json.loads(path.read_text().splitlines()[0])["run"]
    for name, content in ATTACKS.items():
        path.write_bytes(content.replace("RUN", run).encode("utf-8", "surrogateescape"))
        assert_refused(tune(), 0, "tune.jsonl is damaged", where=name)


def test_trials_of_other_settings_are_not_taken_over(tune: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "res/tiny/harmfulness/control/en/tune.jsonl"
    tune()
    own = path.read_text()
    foreign = [row | {"run": "0" * 16, "measures": dict.fromkeys(row["measures"], 9.0)} for row in read(own)]
    path.write_text("\n".join(map(json.dumps, foreign)) + "\n")
    tune()
    assert read(path.read_text()) == foreign + read(own)


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]
