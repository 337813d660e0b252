"""The scripts end to end, as a user runs them, on a tiny model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, Ended, build, write_data

from repe.data import read_pairs, split_pairs
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile

# Figures are drawn in other tests.
pytestmark = pytest.mark.usefixtures("undrawn")
Script = Callable[..., Ended]
SCRIPTS = ("collect_vector", "recognize_concept", "consistency_analysis", "transferability_analysis")


@pytest.fixture
def common(tmp_path: Path, data_dir: Path, model_folders: dict[str, Path]) -> list[object]:
    """Options of a run of the tiny LLaMA on the made-up data: model, data, results."""
    return ["--model-path", model_folders["llama"], "--data-dir", data_dir, "--res-dir", tmp_path / "res"]


def run_both(script: Script, *options: object) -> None:
    for name in SCRIPTS[:2]:
        ended = script(name, *options)
        assert (ended.status, ended.out.count("wrote ")) == (0, 1), ended


def vectors(tmp_path: Path, concept: str, kind: Kind = Kind(), folder: str = "tiny-llama") -> dict:  # noqa: B008
    return VectorFile(tmp_path / "res", folder, concept, kind).vectors


def accuracy(tmp_path: Path, concept: str, kind: Kind = Kind()) -> dict:  # noqa: B008
    return AccuracyFile(tmp_path / "res", "tiny-llama", concept, kind).accuracy


def test_all_stages_from_data_to_figures(script: Script, common: list[object], tmp_path: Path) -> None:
    run_both(script, *common)
    assert list(vectors(tmp_path, "morality")) == ["en", "fr", "zh"]
    assert vectors(tmp_path, "morality")["en"].directions.shape == (3, 1, 32)
    for name in SCRIPTS[1:]:
        ended = script(name, "--res-dir", tmp_path / "res", "--cross-model", "tiny-llama")
        assert ended.status == 0, ended
    written = {path.name for path in (tmp_path / "res/cross_model").iterdir()}
    figures = (
        "figure2_recognition_accuracy",
        "figure7_similarity_all",
        "figure8_transfer_all",
        "similarity_across_layers",
    )
    assert written == {
        *(f"{figure}{ending}" for figure in figures for ending in (".png", ".pdf")),
        "one_way_transfer.csv",
        "table6_recognition_accuracy.csv",
        "table6_recognition_accuracy.tex",
        "table1_linguistic_correlation.csv",
        "table1_linguistic_correlation.tex",
        "similarity.csv",
        "similarity_ceilings.csv",
        "similarity_by_layer.csv",
        "transfer.csv",
    }
    table = pd.read_csv(tmp_path / "res/cross_model/table6_recognition_accuracy.csv")
    for row in table.itertuples():
        known = accuracy(tmp_path, row.concept)[row.language][row.language]
        assert row.accuracy == known.max()
        assert row.best_layer == known.argmax() + 1


def test_several_concepts_in_one_call_give_what_one_call_each_gives(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    run_both(script, *common, "--concept", "morality", "truthfulness", "deontology")
    together = {concept: accuracy(tmp_path, concept) for concept in ("morality", "truthfulness", "deontology")}
    apart = [*common[:-1], tmp_path / "apart"]
    for concept, expected in together.items():
        run_both(script, *apart, "--concept", concept)
        found = AccuracyFile(tmp_path / "apart", "tiny-llama", concept, Kind()).accuracy
        for source, targets in expected.items():
            for target, row in targets.items():
                assert np.array_equal(found[source][target], row)
    assert any(
        not np.array_equal(together["morality"][language][language], together["truthfulness"][language][language])
        for language in ("en", "fr", "zh")
    )


def test_the_file_records_correct_pairs_and_what_made_it(script: Script, common: list[object], tmp_path: Path) -> None:
    run_both(script, *common, "--concept", "morality", "--lang", "fr", "en")
    content = torch.load(tmp_path / "res/tiny-llama/morality/acc.pt", weights_only=True)
    for source in ("en", "fr"):
        for target in ("en", "fr"):
            correct = content["correct"][source][target]
            assert correct.shape == (3, content["test_pairs"][target])
            assert len(content["test_keys"][target]) == content["test_pairs"][target]
            assert torch.equal(correct.double().mean(-1), content["accuracy"][source][target])
            assert content["validation"][source][target].shape == (3,)
    meta = content["meta"]
    assert meta["template"] == "{input}"
    assert meta["dtype"] == "float32"
    assert set(meta["data"]) == set(meta["vectors"]) == {"en", "fr"}
    assert {"torch", "transformers"} <= set(meta["versions"])


def test_validation_is_accuracy_on_the_last_fifth_of_the_training_pairs(
    script: Script, common: list[object], tmp_path: Path, data_dir: Path
) -> None:
    """Against a run whose own training set is the first four fifths and whose own test set is that last fifth."""
    import json
    import random

    write_data(data_dir, "own", "en", 50)
    run_both(script, *common, "--concept", "own", "--lang", "en")
    groups = json.loads((data_dir / "own/own_en.json").read_text())
    samples = [sample for items in groups.values() for sample in items.values() if sample["pos"] != sample["neg"]]
    random.seed(1)
    random.shuffle(samples)
    train = samples[: int(0.8 * len(samples))]
    # Undo the shuffle that the run will make, so that it finds these pairs in the order they have here.
    order = list(range(len(train)))
    random.seed(1)
    random.shuffle(order)
    unshuffled = [train[order.index(place)] for place in range(len(train))]
    path = data_dir / "part" / "part_en.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"g": {str(place): sample for place, sample in enumerate(unshuffled)}}))
    run_both(script, *common, "--concept", "part", "--lang", "en")
    validation = torch.load(tmp_path / "res/tiny-llama/own/acc.pt", weights_only=True)["validation"]["en"]["en"]
    assert np.array_equal(validation.numpy(), accuracy(tmp_path, "part")["en"]["en"])


def test_no_validation_leaves_it_out(script: Script, common: list[object], tmp_path: Path) -> None:
    options = [*common, "--concept", "morality", "--lang", "en"]
    assert script("collect_vector", *options, "--no-validation").status == 0
    assert script("recognize_concept", *options).status == 0
    assert vectors(tmp_path, "morality")["en"].validation is None
    path = tmp_path / "res/tiny-llama/morality/acc.pt"
    assert torch.load(path, weights_only=True)["validation"] == {}
    assert script("collect_vector", *options, "--overwrite").status == 0
    assert script("recognize_concept", *options, "--overwrite").status == 0
    assert list(torch.load(path, weights_only=True)["validation"]) == ["en"]
    assert script("recognize_concept", *options, "--overwrite", "--no-validation").status == 0


def test_a_family_in_the_options_replaces_the_models_own(script: Script, common: list[object], tmp_path: Path) -> None:
    write_data(Path(str(common[3])), "morality", "sw")
    run_both(script, *common, "--concept", "morality")
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama"]
    for family, languages in (([], ["en", "fr", "zh"]), (["--model-family", "none"], ["en", "fr", "zh", "sw"])):
        assert script("transferability_analysis", *compare, *family).status == 0
        table = pd.read_csv(tmp_path / "res/cross_model/transfer.csv")
        assert list(table.source.unique()) == languages


def test_missing_languages_are_added_and_finished_runs_do_nothing(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    options = [*common, "--concept", "morality"]
    run_both(script, *options, "--lang", "en")
    first = vectors(tmp_path, "morality")["en"].digest
    run_both(script, *options, "--lang", "en", "zh")
    assert vectors(tmp_path, "morality")["en"].digest == first
    assert list(accuracy(tmp_path, "morality")["zh"]) == ["en", "zh"]
    files = [tmp_path / "res/tiny-llama/morality" / name for name in ("reader_dict.pt", "acc.pt")]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    for name in SCRIPTS[:2]:
        ended = script(name, *options, "--lang", "zh", "en")
        assert ended.status == 0
        assert ended.out.startswith("nothing to do: ")
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in files] == before
    for name in SCRIPTS[:2]:
        assert "wrote" in script(name, *options, "--lang", "zh", "en", "--overwrite").out
    assert [path.read_bytes() for path in files] == [raw for raw, _ in before]


def test_methods_random_labels_and_splits_have_their_own_results(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    options = [*common, "--concept", "morality", "--lang", "en", "fr"]
    for extra in ([], ["--direction-method", "pca"], ["--direction-method", "random"], ["--random-direction"]):
        run_both(script, *options, *extra)
    run_both(script, *options, "--split", "0.4")
    kinds = [Kind(), Kind("pca"), Kind("random"), Kind(random_direction=True)]
    found = [vectors(tmp_path, "morality", kind)["en"].digest for kind in kinds]
    found.append(vectors(tmp_path, "morality", folder="tiny-llama-0.4")["en"].digest)
    assert len(set(found)) == 5
    assert vectors(tmp_path, "morality", folder="tiny-llama-0.4")["en"].train_pairs == 6
    pca = vectors(tmp_path, "morality", Kind("pca"))["en"]
    assert np.allclose(np.linalg.norm(pca.directions, axis=-1), 1, atol=1e-5)


def test_pca_is_recognized_with_its_sign(script: Script, common: list[object], tmp_path: Path, data_dir: Path) -> None:
    """Where the last word decides, a direction that is right on training pairs is right on test pairs."""
    negative = 0
    for concept, words in (("kindness", ("kind", "cruel")), ("cruelty", ("cruel", "kind"))):
        write_data(data_dir, concept, "en", last_words=words)
        run_both(script, *common, "--concept", concept, "--direction-method", "pca")
        negative += int((vectors(tmp_path, concept, Kind("pca"))["en"].signs < 0).sum())
        assert (accuracy(tmp_path, concept, Kind("pca"))["en"]["en"] > 0.9).all()
    assert negative > 0


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_change_results(
    batch_size: int, script: Script, common: list[object], tmp_path: Path
) -> None:
    options = ["--concept", "morality", "--lang", "en"]
    run_both(script, *common, *options)
    run_both(script, *common, *options, "--batch-size", batch_size, "--model-label", "other")
    other = VectorFile(tmp_path / "res", "other", "morality", Kind()).vectors["en"].directions
    np.testing.assert_allclose(other, vectors(tmp_path, "morality")["en"].directions, rtol=1e-3, atol=1e-5)


def test_a_registry_model_has_the_template_and_label_of_its_row(
    script: Script, data_dir: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    common = ["--data-dir", data_dir, "--res-dir", tmp_path / "res", "--lang", "en", "--concept", "morality"]
    ended = script("collect_vector", *common, "--model-path", model_folders["llama"], "--model-name", "llama2-chat")
    assert ended.status == 0, ended
    meta = torch.load(tmp_path / "res/llama2-chat-7B/morality/reader_dict.pt", weights_only=True)["meta"]
    assert (meta["template"], meta["family"]) == ("[INST] {input} [/INST] ", "llama2")


def test_analyses_of_one_model_go_to_its_results_folder(script: Script, common: list[object], tmp_path: Path) -> None:
    run_both(script, *common, "--concept", "morality")
    for name in SCRIPTS[2:]:
        assert script(name, *common[:2], *common[4:]).status == 0
    assert (tmp_path / "res/tiny-llama/similarity.csv").exists()
    assert (tmp_path / "res/tiny-llama/figure8_transfer_all.png").exists()


def test_one_shared_language_is_too_few_for_the_layers_figure(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    write_data(Path(str(common[3])), "morality", "sw")
    run_both(script, *common, "--concept", "morality", "--lang", "en", "sw", "--model-family", "none")
    ended = script(
        "consistency_analysis", "--res-dir", tmp_path / "res", "--cross-model", "tiny-llama", "--lang", "en", "sw"
    )
    assert ended.status == 0
    assert "no similarity across layers" in ended.out
    assert not (tmp_path / "res/cross_model/similarity_by_layer.csv").exists()


@pytest.mark.parametrize("method", ["cluster_mean", "pca", "random"])
def test_one_layer_and_three_pairs_are_enough(method: str, script: Script, tmp_path: Path) -> None:
    """The smallest data with a training and a test pair and, for `pca`, a difference that varies."""
    model = build(tmp_path / "tiny-llama", "llama", layers=1)
    for language in ("en", "fr"):
        write_data(tmp_path / "data", "morality", language, pairs=4)
    options = ["--res-dir", tmp_path / "res", "--direction-method", method]
    run_both(script, *options, "--model-path", model, "--data-dir", tmp_path / "data")
    for name in SCRIPTS[1:]:
        ended = script(name, *options, "--cross-model", "tiny-llama")
        assert ended.status == 0, ended
    table = pd.read_csv(tmp_path / "res/cross_model/similarity_by_layer.csv")
    assert table[["layer", "relative_depth"]].to_numpy().tolist() == [[1, 0]]


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_answers_without_heavy_imports(name: str) -> None:
    code = (
        f"import runpy, sys\nsys.argv = ['{name}.py', '--help']\n"
        f"try:\n    runpy.run_path('{name}.py', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--model-name" in ended.stdout
    assert f"python {name}.py" in ended.stdout


def test_analyses_run_without_transformers() -> None:
    code = (
        "import sys\n"
        "from repe.analysis import accuracy_table, consistency, transfer\n"
        "from repe.plots import figures, tables\n"
        "from repe.runs import comparison\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_intervals_of_folds_are_over_items_that_have_several_pairs(
    script: Script, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    path = write_data(tmp_path / "data", "morality", "en", pairs=42)
    samples = [sample for group in json.loads(path.read_text()).values() for sample in group.values()]
    by_item = {str(number): sample | {"item": f"act {number // 6}"} for number, sample in enumerate(samples)}
    path.write_text(json.dumps({"g": by_item}))
    options = ["--res-dir", tmp_path / "res", "--folds", 3]
    run_both(script, *options, "--model-path", model_folders["llama"], "--data-dir", tmp_path / "data")
    assert script("recognize_concept", *options, "--cross-model", "tiny-llama", "--bootstrap", 2000).status == 0
    (row,) = pd.read_csv(tmp_path / "res/cross_model/table6_recognition_accuracy.csv").to_dict("records")
    content = torch.load(tmp_path / "res/tiny-llama-folds3/morality/acc.pt", weights_only=True)
    assert (row["test_items"], row["test_pairs"]) == (7, 36)
    right = pd.Series(content["correct"]["en"]["en"][row["best_layer"] - 1].numpy())
    items = right.groupby(content["test_items"]["en"]).agg(["sum", "count"]).to_numpy()
    drawn = items[np.random.default_rng(0).integers(7, size=(20_000, 7))].sum(axis=1)
    shares = drawn[:, 0] / drawn[:, 1]
    assert [row["accuracy_low"], row["accuracy_high"]] == pytest.approx(np.quantile(shares, [0.025, 0.975]), abs=0.02)
    # The bound is where a score test of as many independent pairs as have that variance rejects.
    share, bound = right.mean(), row["wilson_low"]
    worth = np.clip(share * (1 - share) / (shares.var() * 7 / 6), 7, 36)
    assert (share - bound) / np.sqrt(bound * (1 - bound) / worth) == pytest.approx(1.96, abs=0.05)


def test_intervals_and_p_values_are_added_to_the_papers_tables(
    script: Script, common: list[object], tmp_path: Path
) -> None:
    """The columns of a run without flags stay as they are."""
    options = [*common, "--concept", "morality", "toxicity"]
    run_both(script, *options)
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama"]
    ended = script("recognize_concept", *compare, "--permutations")
    assert ended.status == 2
    assert "morality/random_direction_acc.pt has no results for en fr zh: run collect_vector.py and" in ended.err
    run_both(script, *options, "--random-direction")
    flags = {"recognize_concept": ["--bootstrap", 50, "--permutations", 49]}
    flags |= {"consistency_analysis": ["--permutations", 49, "--distances", "repaired"]}
    flags |= {"transferability_analysis": ["--bootstrap", 50]}
    plain, extended = tmp_path / "plain", tmp_path / "extended"
    for name, extra in flags.items():
        assert script(name, *compare, "--out-dir", plain).status == 0
        ended = script(name, *compare, "--out-dir", extended, "--layer-select", "validation", *extra)
        assert ended.status == 0, ended
    written = {path.name for path in extended.iterdir()}
    assert (plain / "one_way_transfer.csv").exists()
    new = {"recognition_intervals.csv"}
    new |= {f"table1_linguistic_correlation_repaired{end}" for end in (".csv", ".tex", "_validation.tex")}
    new |= {f"{table}_validation.tex" for table in ("table6_recognition_accuracy", "table1_linguistic_correlation")}
    for figure in ("figure2_recognition_accuracy", "figure7_similarity_all", "figure8_transfer_all"):
        new |= {f"{figure}_validation{end}" for end in (".png", ".pdf")}
    assert written == new | {path.name for path in plain.iterdir()}
    for path in plain.glob("*.csv"):
        paper, both = pd.read_csv(path), pd.read_csv(extended / path.name)
        pd.testing.assert_frame_equal(both[paper.columns], paper, check_exact=True)
    for path in plain.glob("*.tex"):
        assert (extended / path.name).read_bytes() == path.read_bytes()
    table = pd.read_csv(extended / "table6_recognition_accuracy.csv")
    for row in table.itertuples():
        file = AccuracyFile(tmp_path / "res", "tiny-llama", row.concept, Kind())
        layer = file.cell("validation", row.language, row.language).argmax()
        assert row.selected_layer == layer + 1
        assert row.selected_accuracy == file.accuracy[row.language][row.language][layer]
    statistics = ["accuracy_low", "accuracy_high", "random_accuracy", "p", "p_holm"]
    assert {*statistics, *(f"selected_{name}" for name in statistics)} <= {*table.columns}
    caption = (extended / "table6_recognition_accuracy_validation.tex").read_text()
    assert "at the layer that is best on validation" in caption
    table = pd.read_csv(extended / "table1_linguistic_correlation.csv")
    assert {"direct_p", "split_p_holm", "selected_direct", "selected_direct_p_holm"} <= {*table.columns}
    assert "selected_direct_as_released" not in table


def test_a_split_by_item_has_its_own_folders_and_settings(
    script: Script, common: list[object], tmp_path: Path, data_dir: Path
) -> None:
    for language, pairs in (("en", 40), ("fr", 43)):
        write_data(data_dir, "own", language, pairs)
    options = [*common, "--concept", "own", "--lang", "en"]
    for extra in ([], ["--split-by", "item"], ["--split-by", "item", "--split", "0.4"]):
        run_both(script, *options, *extra)
    res = tmp_path / "res"
    folders = ["tiny-llama", "tiny-llama-0.4-item", "tiny-llama-item"]
    assert sorted(path.name for path in res.iterdir()) == folders
    metas = [VectorFile(res, name, "own", Kind()).meta for name in folders]
    assert [meta.get("split_by") for meta in metas] == [None, "item", "item"]
    keys = [AccuracyFile(res, name, "own", Kind()).content["test_keys"]["en"] for name in folders]
    assert keys[1] == keys[2] != keys[0]
    # A language that is added later is split at the same items.
    run_both(script, *options[:-1], "fr", "--split-by", "item")
    train, _ = split_pairs(read_pairs(data_dir / "own/own_en.json"), by="item")
    tested = AccuracyFile(res, "tiny-llama-item", "own", Kind()).content["test_keys"]
    assert set(tested["en"]) <= set(tested["fr"])
    assert not {pair.key for pair in train} & set(tested["fr"])
    for name in SCRIPTS[1:]:
        compare = ["--cross-model", "tiny-llama", "--split-by", "item", "--lang", "en"]
        ended = script(name, "--res-dir", res, *compare, "--out-dir", tmp_path / "out")
        assert ended.status == 0, ended
    table = pd.read_csv(tmp_path / "out/table6_recognition_accuracy.csv")
    assert table.model.unique().tolist() == ["tiny-llama-item"]
    assert (
        script("repe.tools.status", res, "--data-dir", data_dir, "--model", "tiny-llama-item", "--lang", "en").status
        == 0
    )
    model = ["--res-dir", res, "--model-label", "tiny-llama", "--split-by", "item", "--concept", "own", "--lang", "en"]
    ended = script(
        "repe.tools.export", *model, "--model-path", "x", "--format", "safetensors", "--out-dir", tmp_path / "out"
    )
    assert ended.status == 0, ended
    assert (tmp_path / "out/tiny-llama-item_own_en.safetensors").exists()
    # Results by pair in the folder of results by item.
    ended = script("collect_vector", *options, "--lang", "fr", "--model-label", "tiny-llama-item")
    assert ended.status == 2
    assert "split_by was 'item', now 'pair'" in ended.err


def test_the_baseline_is_not_compared_with_itself(script: Script, common: list[object], tmp_path: Path) -> None:
    run_both(script, *common, "--concept", "morality", "--lang", "en", "--random-direction")
    compare = ["--res-dir", tmp_path / "res", "--cross-model", "tiny-llama", "--random-direction", "--permutations"]
    ended = script("recognize_concept", *compare)
    assert ended.status == 2
    assert "leave out one of the two" in ended.err
