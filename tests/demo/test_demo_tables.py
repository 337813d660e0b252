"""Every number of the demo's READMEs stands in a CSV file of the repository."""

import re

import pandas as pd
import pytest
from conftest import ROOT

tables = pytest.importorskip("demo.tables", reason="demo/ was deleted")
if not tables.TABLES.exists():
    pytest.skip("the demo's results are not part of this copy", allow_module_level=True)
README, *OTHERS = (path.read_text(encoding="utf-8") for path in tables.PAGES)


@pytest.mark.parametrize("name", tables.BLOCKS)
def test_a_table_is_what_its_csv_files_give(name: str) -> None:
    assert tables.BLOCKS[name]() in "".join([README, *OTHERS])


def test_numbers_in_the_text_stand_in_a_table() -> None:
    prose = "\n".join(line for line in README.splitlines() if not line.startswith("|"))
    shown = {number for block in tables.BLOCKS.values() for number in re.findall(r"-?\d+\.\d+", block())}
    numbers = re.findall(r"(?<![\w.-])-?\d?\.\d{2,}(?![\w.])", prose)
    assert numbers
    assert {number for number in numbers if re.sub(r"^(-?)\.", r"\g<1>0.", number) not in shown} == set()


def test_means_over_concepts_are_those_of_the_cells() -> None:
    cells = pd.read_csv(ROOT / "demo/tables/encoder_floors.csv")
    for line in tables.recognition().splitlines()[2:]:
        language, accuracy, *_ = [part.strip() for part in line.strip("|").split("|")]
        of_language = cells[cells.language == language]
        assert of_language.concept.nunique() == 7
        assert float(accuracy) == pytest.approx(of_language.accuracy.mean(), abs=0.0051)


def test_files_come_from_the_split_by_item() -> None:
    for name in ("encoder_floors.csv", "encoder_similarity.csv", "chat_floors.csv"):
        assert all(model.endswith("-item") for model in pd.read_csv(ROOT / f"demo/tables/{name}").model)
