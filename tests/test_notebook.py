"""The notebook about linguistic distances: its stored outputs are those of a fresh run, on any machine."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient

from repe.analysis import linguistic_distance
from repe.paper import LANGUAGES

NOTEBOOK = ROOT / "lang2vec_try.ipynb"
STORED = nbformat.read(NOTEBOOK, as_version=4)
CODE = [cell for cell in STORED.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[dict[str, Any]]:
    """The visible outputs of a cell. Pictures are replaced by True."""
    outputs = []
    for output in cell.outputs:
        seen = {key: value for key, value in output.items() if key not in ("data", "metadata", "execution_count")}
        seen |= {kind: kind.startswith("image/") or text for kind, text in output.get("data", {}).items()}
        outputs.append(seen)
    return outputs


def test_a_fresh_run_gives_the_stored_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Use the kernel of this environment, and write nothing to the home folder.
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
    assert [path.name for path in folder.iterdir()] == ["lang_sim.pt"]
    check_file(folder / "lang_sim.pt")


def check_file(path: Path) -> None:
    """The file is as the notebook says: as many cells of the recorded distances are equal, different and missing."""
    written, recorded = torch.load(path, weights_only=True), linguistic_distance.uriel_distances()
    (claimed,) = (table for cell in CODE if '"without a distance"' in cell.source for table in tables_of(cell))
    for kind, row in claimed.iterrows():
        found = [
            (written[one][other][kind], recorded.loc[(one, other), kind])
            for place, one in enumerate(LANGUAGES)
            for other in LANGUAGES[place + 1 :]
        ]
        apart = np.array([ours - theirs for ours, theirs in found])
        equal = np.abs(apart) < 1e-9
        assert [equal.sum(), (~equal & ~np.isnan(apart)).sum(), np.isnan(apart).sum()] == row.iloc[:3].tolist()
        assert np.nanmax(np.abs(apart)) == pytest.approx(row.iloc[3], abs=1e-4)
    # Table 1 reads it.
    table = linguistic_distance.distances(LANGUAGES, path)
    assert table.geographic["en", "fr"] == recorded.geographic["en", "fr"]
    assert table.phonological["pt", "fr"] != table.phonological["pt", "fr"]  # NaN


def tables_of(cell: Any) -> list[pd.DataFrame]:
    """The tables that a cell prints, with their first column as index."""
    texts = [output.data["text/plain"] for output in cell.outputs if "text/html" in output.get("data", {})]
    return [pd.read_csv(io.StringIO(text), sep=r"\s{2,}", engine="python", index_col=0) for text in texts]


def test_cells_ran_in_order_without_errors_or_warnings() -> None:
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"execute_result", "display_data"}
    pictures = [output for output in outputs if "image/png" in output.data]
    assert len(pictures) == 1
    assert all("text/html" in output.data for output in outputs if output not in pictures)


def test_contents_do_not_depend_on_place_or_time() -> None:
    texts = [cell.source for cell in STORED.cells]
    texts += [str(value) for cell in CODE for output in shown(cell) for value in output.values()]
    for text in texts:
        assert not re.search(r"(?<![\w.<*])/\w+/|[A-Z]:\\|https?:| at 0x|\d\d:\d\d|[Ww]arning", text), text
    assert not any("execution" in cell.metadata for cell in STORED.cells)
    assert STORED.metadata.language_info == {"name": "python"}


def test_text_introduces_the_cells() -> None:
    """Text and code alternate, so that every table has an explanation."""
    kinds = [cell.cell_type for cell in STORED.cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert "code code code" not in " ".join(kinds)
    assert {"## The features", "## The distances", "## The repair"} <= {
        line for cell in STORED.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()
    }
