"""The traits: every number again with pandas from the golden tables, and intervals again by hand."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Ended, write_accuracies
from scipy.stats import linregress, spearmanr

from repe.analysis.layer_selection import PAPER
from repe.analysis.traits import TRAITS, Findings, trait_table
from repe.paper import FAMILIES, LANGUAGES, SHARED_LANGUAGES, family_by_name
from repe.plots.trait_figures import trait_panels
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.uncertainty.bootstrap import accuracy_draws

Script = Callable[..., Ended]
TOOL = "repe.tools.report.traits"
MODELS = ["llama2-chat-7B", "qwen-chat-1B8", "bloomz-560M", "bloomz-1B7"]
SHARES = ("model", "language", "percent", "source")


def traits_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "traits.csv").set_index(["trait", "model"])


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, pd.DataFrame]:
    """The golden tables of the models, by name."""
    paths = (golden / "released_analysis/expected").glob("*.csv")
    return {path.stem: pd.read_csv(path).query("model in @MODELS") for path in paths}


@pytest.fixture(scope="module")
def downloads(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models' results as released, `.pk` files alone."""
    folder = tmp_path_factory.mktemp("downloads")
    shutil.unpack_archive(golden / "released_analysis/res.tar.xz", folder)
    assert {path.suffix for path in folder.rglob("*.p*")} == {".pk"}
    return folder / "res"


def recomputed(model: str, expected: dict[str, pd.DataFrame], shares: dict[str, float]) -> dict[str, float]:
    """The traits of one model from the golden tables."""
    tables = {name: table[table["model"] == model] for name, table in expected.items()}
    family = family_by_name(model)
    accuracy = tables["table6_recognition_accuracy"].groupby("language")["accuracy"].mean().round(9)
    order = shares or {language: -place for place, language in enumerate(family.axis)}
    known = [language for language in LANGUAGES if language in order]
    values = {
        "accuracy": accuracy.mean(),
        "accuracy_share_rank": spearmanr(accuracy[known], [order[one] for one in known]).statistic,
        "accuracy_share_slope": np.nan,
    }
    if shares:
        values["accuracy_share_slope"] = linregress(np.log10([order[one] for one in known]), accuracy[known]).slope
    apart = tables["similarity"].query("source != target")
    highs = apart["source"].isin(family.high_resource).astype(int) + apart["target"].isin(family.high_resource)
    means = {number: apart["similarity"][highs == number].mean() for number in (0, 1, 2)}
    values["similarity"] = apart[
        apart["source"].isin(SHARED_LANGUAGES) & apart["target"].isin(SHARED_LANGUAGES)
    ].similarity.mean()
    values["similarity_high"] = means[2] - means[0]
    values["similarity_with_high"] = apart["similarity"][highs > 0].mean() - means[0]
    for row in tables["table1_linguistic_correlation"].itertuples():
        values[f"r_{row.distance}_direct"], values[f"r_{row.distance}_split"] = row.direct, row.split
    transfer = tables["transfer"]
    source, target = transfer["source"].isin(family.high_resource), transfer["target"].isin(family.high_resource)
    values["high_to_low"] = transfer.delta[source & ~target].mean()
    values["low_to_high"] = transfer.delta[~source & target].mean()
    values["one_way"] = values["high_to_low"] - values["low_to_high"]
    return values


def test_every_number_follows_from_the_golden_tables(
    script: Script, downloads: Path, expected: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    ended = script(TOOL, "--res-dir", downloads, "--out-dir", tmp_path, "--cross-model", *MODELS)
    assert ended.status == 0, ended.err
    found, shares = traits_of(tmp_path), pd.read_csv(tmp_path / "training_shares.csv")
    checked = 0
    for model in MODELS:
        known = shares[shares["model"] == model].dropna(subset="percent").set_index("language")["percent"]
        assert known.to_dict() == dict(family_by_name(model).shares)
        for trait, value in recomputed(model, expected, known.to_dict()).items():
            assert found.value[trait, model] == pytest.approx(value, abs=1e-9, nan_ok=True), (trait, model)
            checked += 1
    means = [found.value["accuracy", model] for model in ("bloomz-560M", "bloomz-1B7")]
    slope = (means[1] - means[0]) / np.log2(1.7 / 0.56)
    assert found.value["accuracy_size_slope", "bloomz-*"] == pytest.approx(slope, abs=1e-9)
    assert len(found) == checked + 1 == len(MODELS) * 17 + 1
    # English has no other high-resource language, and the shares of Qwen are not published.
    empty = found.value[found.value.isna()].index
    assert {*empty} == {("similarity_high", "llama2-chat-7B"), ("accuracy_share_slope", "qwen-chat-1B8")}
    assert found[["low", "high"]].isna().all(axis=None)
    assert found.claim.notna().all()
    assert found.kind[:, "qwen-chat-1B8"].unique().tolist() == ["Chinese- and English-dominated"]
    for text in ("Touvron", "not published", "zh, en, fr", "en 89.7", "paper: "):
        assert text in ended.out


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of a model of no family: two concepts, four languages, thirty items. Figures are not drawn."""
    monkeypatch.setattr("repe.plots.style.save", lambda _figure, _folder, _name: [])
    generator = np.random.default_rng(3)
    languages = ["en", "fr", "sw", "ta"]
    for concept in ("morality", "fairness"):
        correct = {s: {t: generator.random((2, 30)) < 0.7 for t in languages} for s in languages}
        keys = {language: [f"g|{item}" for item in range(30)] for language in languages}
        write_accuracies(tmp_path / "res", correct, keys, concept=concept)
        entries = {
            language: {"directions": torch.from_numpy(one), "signs": torch.ones(2, 1, dtype=torch.int8)}
            for language, one in zip(languages, generator.normal(size=(4, 2, 1, 8)).astype("float32"), strict=True)
        }
        VectorFile(tmp_path / "res", "tiny", concept, Kind()).add({"family": "none"}, 2, {"languages": entries})
    return tmp_path / "res"


def test_own_results_have_intervals_and_own_shares(script: Script, own: Path, tmp_path: Path) -> None:
    shares = {"en": 50.0, "fr": 20.0, "sw": 2.0, "ta": 0.1}
    rows = [("tiny", language, share, "its model card") for language, share in shares.items()]
    pd.DataFrame(rows, columns=SHARES).to_csv(tmp_path / "shares.csv", index=False)
    options = ["--res-dir", own, "--cross-model", "tiny", "--high-resource", "en", "fr"]
    ended = script(TOOL, *options, "--shares", tmp_path / "shares.csv")
    assert ended.status == 0, ended.err
    assert "tiny: en 50, fr 20, sw 2, ta 0.1 (its model card); high-resource: en fr" in ended.out
    found = traits_of(own / "cross_model").xs("tiny", level="model")
    # The same draws, with statistics of numpy and pandas.
    files = [AccuracyFile(own, "tiny", concept, Kind()) for concept in ("morality", "fairness")]
    cells = [(language, language) for language in shares]
    drawn = np.mean([accuracy_draws(file, cells, PAPER, 2000, 1) for file in files], axis=0)
    ranks = pd.DataFrame(drawn.round(9)).rank(axis=1)
    for trait, values in {
        "accuracy": drawn.mean(axis=1),
        "accuracy_share_slope": np.polyfit(np.log10([*shares.values()]), drawn.T, 1)[0],
        "accuracy_share_rank": ranks.T.corrwith(pd.Series([4.0, 3.0, 2.0, 1.0])),
    }.items():
        ends = np.nanquantile(values, [0.025, 0.975])
        assert found.loc[trait, ["low", "high"]].tolist() == pytest.approx(ends), trait
    one_way = pd.read_csv(own / "cross_model/traits.csv").query("trait == 'one_way'")
    assert script("transferability_analysis", *options, "--bootstrap").status == 0
    table = pd.read_csv(own / "cross_model/one_way_transfer.csv").query("concept == 'all'")
    for name, ours in {"one_way": "value", "one_way_low": "low", "one_way_high": "high"}.items():
        assert table[name].item() == pytest.approx(one_way[ours].item())
    # Nothing says how uncertain the vectors are.
    assert found.low.filter(like="similarity").isna().all()


def test_what_is_not_known_is_empty_and_said(script: Script, own: Path) -> None:
    ended = script(TOOL, "--res-dir", own, "--cross-model", "tiny")
    assert ended.status == 0, ended.err
    found = traits_of(own / "cross_model").value.xs("tiny", level="model")
    unknown = ["accuracy_share_rank", "accuracy_share_slope", "similarity_high", "similarity_with_high", "one_way"]
    assert found[unknown].isna().all()
    assert found.drop([*unknown, "high_to_low", "low_to_high"]).filter(regex="^(?!r_.*_split)").notna().all()
    assert "tiny: not known; --shares FILE reads them; high-resource: not known" in ended.out
    assert "name them with --high-resource" in ended.out


def test_shares_that_are_no_shares_are_refused(script: Script, own: Path, tmp_path: Path) -> None:
    for rows, part in (
        ("model,language,percent,source\ntiny,en,0,x\n", "percent must be above 0"),
        ("model,language\ntiny,en\n", "no column percent"),
        ("model,language,percent\ntiny,en,1\ntiny,en,2\n", "one row for each model, language"),
    ):
        (tmp_path / "shares.csv").write_text(rows)
        options = ["--res-dir", own, "--cross-model", "tiny", "--shares", tmp_path / "shares.csv"]
        ended = script(TOOL, *options)
        assert ended.status == 2
        assert part in ended.err
    assert not (own / "cross_model").exists()


def test_larger_models_of_a_series_are_compared_by_the_logarithm_of_their_size() -> None:
    sizes = {"some-1B-chat": 1.0, "some-4B-chat": 4.0, "some-16B-chat": 16.0, "other-2B": 2.0, "unknown": None}
    generator = np.random.default_rng(5)
    models = {
        name: Findings(
            FAMILIES["none"],
            {},
            ["en", "fr"],
            ["en", "fr"],
            generator.random((4, 2)),
            np.zeros((4, 2, 2)),
            np.eye(2),
        )
        for name in sizes
    }
    table = trait_table(models).set_index(["trait", "model"])
    row = table.loc["accuracy_size_slope"]
    assert row.index.tolist() == ["some-*-chat"]
    means = np.array([models[name].accuracy.mean(axis=1) for name in list(sizes)[:3]])
    slopes = [linregress([0.0, 2.0, 4.0], one).slope for one in means.T]
    assert row["value"].item() == pytest.approx(slopes[0])
    assert row[["low", "high"]].to_numpy()[0] == pytest.approx(np.quantile(slopes[1:], [0.025, 0.975]))


def test_families_name_their_kind_and_the_source_of_their_shares() -> None:
    assert all(bool(family.kind and family.source) == bool(family.axis) for family in FAMILIES.values())


@pytest.mark.parametrize("count", [1, 3])
def test_legends_of_the_figure_are_below_the_numbers_of_their_axis(count: int) -> None:
    names = ["some-1B", "some-4B", "other"][:count]
    table = pd.DataFrame(
        [(trait, name, 0.1, 0.0, 0.2) for trait in TRAITS for name in names],
        columns=["trait", "model", "value", "low", "high"],
    )
    figure = trait_panels(table, dict.fromkeys(names, FAMILIES["none"]))
    figure.savefig(io.BytesIO())
    legends = [axes for axes in figure.axes if axes.get_legend()]
    assert len(legends) == 3
    for axes in legends:
        box = axes.get_legend().get_window_extent()
        assert all(box.y1 < label.get_window_extent().y0 for label in axes.get_xticklabels())
        assert box.y0 >= 0
