"""The notebook about the distances: what it shows is what it gives, on any machine."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "lang2vec_try.ipynb"
STORED = nbformat.read(NOTEBOOK, as_version=4)
CODE = [cell for cell in STORED.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[dict[str, Any]]:
    """What a reader sees below a cell; of pictures, that there is one."""
    outputs = []
    for output in cell.outputs:
        seen = {key: value for key, value in output.items() if key not in ("data", "metadata", "execution_count")}
        seen |= {kind: kind.startswith("image/") or text for kind, text in output.get("data", {}).items()}
        outputs.append(seen)
    return outputs


def test_run_again_it_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel of this environment, and no traces in the user's home.
    for variable, folder in {
        "PYTHONPATH": ROOT,
        "JUPYTER_PATH": Path(sys.prefix) / "share/jupyter",
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "IPYTHONDIR": tmp_path / "ipython",
    }.items():
        monkeypatch.setenv(variable, str(folder))
    folder = tmp_path / "copy"
    folder.mkdir()
    copy = nbformat.read(NOTEBOOK, as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(copy, timeout=600, startup_timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    assert len(copy.cells) == len(STORED.cells)
    for fresh, stored in zip(copy.cells, STORED.cells, strict=True):
        if stored.cell_type == "code":
            assert shown(fresh) == shown(stored), stored.source
            assert fresh.execution_count == stored.execution_count
    assert not list(folder.iterdir())


def test_it_ran_from_top_to_bottom_without_errors_or_warnings() -> None:
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"execute_result", "display_data"}
    pictures = [output for output in outputs if "image/png" in output.data]
    assert len(pictures) == 1
    assert all("text/html" in output.data for output in outputs if output not in pictures)


def test_nothing_in_it_depends_on_where_or_when_it_ran() -> None:
    texts = [cell.source for cell in STORED.cells]
    texts += [str(value) for cell in CODE for output in shown(cell) for value in output.values()]
    for text in texts:
        assert not re.search(r"(?<![\w.<*])/\w+/|[A-Z]:\\|https?:| at 0x|\d\d:\d\d|[Ww]arning", text), text
    assert not any("execution" in cell.metadata for cell in STORED.cells)
    assert STORED.metadata.language_info == {"name": "python"}


def test_its_prose_says_what_its_cells_show() -> None:
    """Code and prose take turns, so that every table has words to it."""
    kinds = [cell.cell_type for cell in STORED.cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert "code code code" not in " ".join(kinds)
    assert {"## The features", "## The distances", "## The repair"} <= {
        line for cell in STORED.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()
    }
