"""Reading and splitting MVALUE files as released, and errors that name what is wrong with a file."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, write_data
from scipy.stats import kstest

from repe.data import (
    Pair,
    concepts_in,
    data_file,
    item_position,
    languages_of,
    read_pairs,
    split_pairs,
    texts_of,
    train_size,
)
from repe.errors import UserError


def as_released(path: Path, share: float) -> tuple[list[str], list[list[bool]], list[list[bool]], list[str]]:
    """The released code's split, with the global generator: texts, labels, random labels, test texts."""
    samples = [sample for items in json.loads(path.read_text()).values() for sample in items.values()]
    pairs = [[sample["pos"], sample["neg"]] for sample in samples if sample["pos"] != sample["neg"]]
    random.seed(1)
    random.shuffle(pairs)
    most = int(0.8 * len(pairs))
    train, test = pairs[: min(most, int(share * len(pairs)))], pairs[most:]
    texts, labels = [], []
    for pair in train:
        positive = pair[0]
        shuffled = list(pair)
        random.shuffle(shuffled)
        texts += shuffled
        labels.append([text == positive for text in shuffled])
    wrong = [list(label) for label in labels]
    for label in wrong:
        random.shuffle(label)
    return texts, labels, wrong, [text for pair in test for text in pair]


def texts_in_drawn_order(pairs: Sequence[Pair]) -> list[str]:
    return [text for pair in pairs for text in ((pair.pos, pair.neg) if pair.pos_first else (pair.neg, pair.pos))]


def labels_of(pairs: Sequence[Pair]) -> list[list[bool]]:
    return [[pair.first_is_positive, not pair.first_is_positive] for pair in pairs]


@pytest.mark.parametrize("pairs", [3, 8, 20, 61])
@pytest.mark.parametrize("share", [0.8, 0.4, 0.5])
def test_the_split_is_the_released_one(pairs: int, share: float, tmp_path: Path) -> None:
    path = write_data(tmp_path, "morality", "fr", pairs)
    texts, labels, wrong, test = as_released(path, share)
    train, tested = split_pairs(read_pairs(path), share)
    assert texts_in_drawn_order(train) == texts
    assert labels_of(train) == labels
    assert texts_of(tested) == test
    shuffled, again = split_pairs(read_pairs(path), share, random_labels=True)
    assert texts_in_drawn_order(shuffled) == texts
    assert labels_of(shuffled) == wrong
    assert again == tested


def test_each_language_is_split_on_its_own(tmp_path: Path) -> None:
    english, french = (write_data(tmp_path, "morality", *one) for one in (("en", 30), ("fr", 12)))
    first = split_pairs(read_pairs(english))
    split_pairs(read_pairs(french))
    assert split_pairs(read_pairs(english)) == first


def test_splitting_leaves_the_pairs_as_they_are(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 30))
    before = list(pairs)
    split_pairs(pairs)
    assert pairs == before


def test_an_unknown_way_to_split_is_refused() -> None:
    with pytest.raises(ValueError, match="by must be 'pair', 'item' or 'folds', not 'items'"):
        split_pairs([("a", "b")] * 5, by="items")


def test_plain_texts_are_split_like_a_files_pairs(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 30))
    from_file, from_texts = split_pairs(pairs), split_pairs([(pair.pos, pair.neg) for pair in pairs])
    for one, other in zip(from_file, from_texts, strict=True):
        assert texts_in_drawn_order(one) == texts_in_drawn_order(other)
        assert labels_of(one) == labels_of(other)


@pytest.mark.parametrize(
    ("split", "size"), [(0.8, 80), (0.4, 40), (0.9, 80), (0.999, 80), (1, 1), (10, 10), (500, 80), (0.29, 28)]
)
def test_train_size_is_a_share_or_a_number_up_to_four_fifths(split: float, size: int) -> None:
    assert train_size(100, split) == size


def test_a_split_below_four_fifths_keeps_the_test_set(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 40))
    (train, test), (part, same_test) = split_pairs(pairs), split_pairs(pairs, 0.3)
    assert same_test == test
    assert keys_of(part) == keys_of(train)[: len(part)]


def test_a_split_that_trains_on_nothing_is_refused(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 20))
    for split in (0.01, 0, -0.5, -3):
        with pytest.raises(UserError, match=rf"--split {split} leaves no training pairs out of 18: use a larger value"):
            split_pairs(pairs, split)


@pytest.mark.parametrize(
    ("concept", "extra", "expected"),
    [
        ("morality", {"scenario": "ignored", "question": "ignored"}, "good"),
        ("deontology", {"scenario": "I {work} here.", "question": "ignored"}, "I {work} here. good"),
        ("truthfulness", {"question": "What?"}, "Question: What? Answer: good"),
        ("honesty", {}, "good"),
        ("honesty", {"scenario": "At work."}, "At work. good"),
        ("honesty", {"question": "What?"}, "Question: What? Answer: good"),
        ("honesty", {"scenario": "At work.", "question": "What?"}, "At work. Question: What? Answer: good"),
    ],
)
def test_the_context_goes_in_front_of_a_side(concept: str, extra: dict, expected: str, tmp_path: Path) -> None:
    samples = {str(number): {"pos": "good", "neg": f"bad {number}", **extra} for number in range(2)}
    path = tmp_path / concept / f"{concept}_en.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"g": samples}))
    pair = read_pairs(path)[0]
    assert (pair.key, pair.pos, pair.neg) == ("g|0", expected, expected.replace("good", "bad 0"))
    elsewhere = path.rename(tmp_path / "samples.json")
    assert read_pairs(elsewhere, concept)[0] == pair


def write(folder: Path, content: str | bytes | dict) -> Path:
    path = folder / "morality" / "morality_en.json"
    path.parent.mkdir(exist_ok=True)
    raw = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return path


GOOD = {"pos": "yes", "neg": "no"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"g": {"1": {"pos": "a"', r"is not valid JSON \(.*, line 1, column \d+\)"),
        (b'{"g": "\xff"}', r"is not UTF-8 \(byte 7\)"),
        ("", "is not valid JSON"),
        ("[]", "two levels above the samples"),
        ('{"g": [1]}', "two levels above the samples"),
        ('{"1": {"pos": "a", "neg": "b"}, "2": {"pos": "a", "neg": "b"}}', "two levels above the samples"),
        ('{"g": {"1": {}, "1": {}}}', "the key '1' appears twice in one object"),
        ("[" * 100_000, "recursion|nest"),
        ({}, r"0 pair\(s\) with different sides"),
        ({"g": {"1": GOOD, "2": {"pos": "same", "neg": "same"}}}, r"1 pair\(s\) with different sides"),
        ({"g": {"1": {"neg": "no"}, "2": GOOD}}, r"g\|1 has no 'pos'"),
        ({"g": {"1": {"pos": "yes", "neg": None}}}, r"g\|1: 'neg' is not text"),
        ({"g": {"1": {"pos": " ", "neg": "no"}}}, r"g\|1: 'pos' is empty"),
        ({"g": {"1": "yes"}}, r"g\|1 is not an object with 'pos' and 'neg'"),
        ({"g": {"1": GOOD | {"item": " "}}}, r"g\|1: 'item' is empty"),
        ({"g": {"1": GOOD | {"item": 3}}}, r"g\|1: 'item' is not text"),
        ({"g": {"1": GOOD | {"item": "\ud800"}}}, r"g\|1: 'item' contains half of a surrogate pair"),
        ({"g": {"1": {"pos": "\ud800", "neg": "no"}}}, "half of a surrogate pair"),
    ],
)
def test_an_invalid_file_is_named_with_its_fault(content: str | bytes | dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=rf"(?s)morality_en\.json.*({message})"):
        read_pairs(path)


def test_one_error_names_all_faults(tmp_path: Path) -> None:
    path = write(tmp_path, {"g": {str(number): {"pos": "yes"} for number in range(10)}})
    with pytest.raises(UserError) as raised:
        read_pairs(path)
    assert all(f"g|{number} has no 'neg'" in str(raised.value) for number in range(8))
    assert "and 2 more" in str(raised.value)


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + json.dumps({"g": {"1": GOOD, "2": GOOD}}).encode())
    assert len(read_pairs(path)) == 2


def test_the_error_for_a_missing_file_names_the_alternatives(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en")
    with pytest.raises(UserError, match=r"morality_xx\.json does not exist; .* has morality in en: .*--lang"):
        read_pairs(data_file(tmp_path, "morality", "xx"))
    with pytest.raises(UserError, match=r"fairness_en\.json does not exist; .* has morality: .*--concept"):
        read_pairs(data_file(tmp_path, "fairness", "en"))


@pytest.mark.parametrize("name", ["../morality", "a/b", "", ".", "..", "a\0b"])
def test_names_cannot_leave_the_data_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"concept .* is not a valid name \(letters, digits"):
        data_file(tmp_path, name, "en")
    with pytest.raises(UserError, match=r"language .* is not a valid name \(letters, digits"):
        data_file(tmp_path, "morality", name)


def keys_of(pairs: Sequence[Pair]) -> list[str]:
    return [pair.key for pair in pairs]


def leaking(data_dir: Path, concept: str, by: str, share: float = 0.8) -> set[str]:
    """Items that are training items of one language and test items of another."""
    trained, tested = set(), set()
    for language in languages_of(data_dir, concept):
        train, test = split_pairs(read_pairs(data_file(data_dir, concept, language)), share, by)
        trained |= {pair.item for pair in train}
        tested |= {pair.item for pair in test}
    return trained & tested


@pytest.mark.parametrize("share", [0.8, 0.4, 0.95, 12])
def test_split_by_item_tests_no_translation_of_a_training_item(share: float, tmp_path: Path) -> None:
    """Languages have different numbers of pairs, and drop different pairs with equal sides."""
    for number, language in enumerate(("en", "fr", "zh", "xx")):
        path = write_data(tmp_path, "morality", language, 60 + 3 * number)
        groups = json.loads(path.read_text())
        for group in groups.values():
            group.pop(str(number), None)
        path.write_text(json.dumps(groups))
    assert leaking(tmp_path, "morality", "pair", share)
    assert not leaking(tmp_path, "morality", "item", share)


@pytest.mark.parametrize("data_dir", sorted(ROOT.glob("demo/*/data")), ids=lambda path: path.parent.name)
def test_a_split_by_item_of_the_demos_data_leaks_nothing(data_dir: Path) -> None:
    assert not any(leaking(data_dir, concept, "item") for concept in concepts_in(data_dir))


def test_a_split_by_item_of_the_golden_data_leaks_nothing(golden: Path) -> None:
    data_dir = golden / "released_run/data"
    assert not any(leaking(data_dir, concept, "item") for concept in concepts_in(data_dir))
    # One language of harmfulness has a pair fewer than the others, so its shuffle differs.
    assert [concept for concept in concepts_in(data_dir) if leaking(data_dir, concept, "pair")] == ["harmfulness"]


def test_the_side_of_an_item_does_not_depend_on_the_other_items(tmp_path: Path) -> None:
    path = write_data(tmp_path, "morality", "en", 60)
    train, test = split_pairs(read_pairs(path), by="item")
    groups = json.loads(path.read_text())
    path.write_text(json.dumps({"new": {str(n): {"pos": "a", "neg": "b"} for n in range(40)}, **groups}))
    more_train, more_test = split_pairs(read_pairs(path), by="item")
    assert {*keys_of(train)} < {*keys_of(more_train)}
    assert {*keys_of(test)} < {*keys_of(more_test)}


def test_samples_that_share_an_item_are_on_the_same_side(tmp_path: Path) -> None:
    samples = {str(n): {"pos": f"a {n}", "neg": f"b {n}", "item": f"story {n // 4}"} for n in range(80)}
    pairs = read_pairs(write(tmp_path, {"g": samples}))
    assert [pair.item for pair in pairs] == [f"story {n // 4}" for n in range(80)]
    train, test = split_pairs(pairs, by="item")
    assert len(train) + len(test) == 80
    assert not {pair.item for pair in train} & {pair.item for pair in test}
    train, test = split_pairs(pairs)
    assert {pair.item for pair in train} & {pair.item for pair in test}


def test_without_an_item_the_key_is_the_item(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 20))
    assert [pair.item for pair in pairs] == keys_of(pairs)


def test_plain_texts_cannot_be_split_by_item() -> None:
    with pytest.raises(UserError, match="a split by item needs the item of each pair"):
        split_pairs([("a", "b")] * 9, by="item")
    train, test = split_pairs([Pair("a", "b", item=str(n)) for n in range(40)], by="item")
    assert {pair.item for pair in [*train, *test]} == {str(n) for n in range(40)}


def test_positions_of_items_are_uniform_and_never_change() -> None:
    positions = [item_position(f"{group}|{item}") for group in range(100) for item in range(50)]
    assert kstest(positions, "uniform").pvalue > 0.01
    # Another machine or version must give the same split.
    assert item_position("g0|0") == 0.3169809668425575
    assert item_position("blind_man|last_week") == 0.7495961415069152


def test_a_split_by_item_has_the_same_test_set_for_all_sizes(tmp_path: Path) -> None:
    pairs = read_pairs(write_data(tmp_path, "morality", "en", 60))
    train, test = split_pairs(pairs, by="item")
    assert sorted(keys_of([*train, *test])) == sorted(keys_of(pairs))
    assert all(len(split_pairs(pairs, share, "item")[0]) == len(train) for share in (0.9, 1000))
    for share, size in ((0.4, len(train) // 2), (7, 7), (0.2, len(train) // 4)):
        part, same_test = split_pairs(pairs, share, "item")
        assert same_test == test
        assert part == train[:size]


@pytest.mark.parametrize(("is_trained", "lacking"), [(True, "test"), (False, "training")])
def test_a_split_by_item_without_test_or_training_pairs_is_refused(
    is_trained: bool, lacking: str, tmp_path: Path
) -> None:
    keys = [str(n) for n in range(40) if (item_position(f"g|{n}") < 0.8) == is_trained]
    pairs = read_pairs(write(tmp_path, {"g": dict.fromkeys(keys, GOOD)}))
    with pytest.raises(UserError, match=rf"--split-by item leaves no {lacking} pairs out of {len(keys)}: add pairs"):
        split_pairs(pairs, by="item")
