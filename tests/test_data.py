"""Reading and splitting MVALUE files as released, and saying what is wrong with a file."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, write_data
from scipy.stats import kstest

from repe.data import Pair, concepts_in, data_file, item_position, languages_of, split_pairs, texts_of, train_size
from repe.data import read_pairs as read_file
from repe.errors import UserError


def read_pairs(data_dir: Path, concept: str, language: str) -> list[Pair]:
    return read_file(data_file(data_dir, concept, language), concept)


def train_texts(pairs: Sequence[Pair]) -> list[str]:
    return [text for pair in pairs for text in ((pair.pos, pair.neg) if pair.pos_first else (pair.neg, pair.pos))]


def labels_of(pairs: Sequence[Pair]) -> list[list[bool]]:
    return [[pair.first_is_positive, not pair.first_is_positive] for pair in pairs]


def as_released(path: Path, share: float) -> tuple[list[str], list[list[bool]], list[list[bool]], list[str]]:
    """The split as the fact list tells it, with the module's generator: texts, labels, random labels, test texts."""
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


@pytest.mark.parametrize("pairs", [3, 8, 20, 61])
@pytest.mark.parametrize("share", [0.8, 0.4, 0.5])
def test_the_split_is_the_released_one(pairs: int, share: float, tmp_path: Path) -> None:
    path = write_data(tmp_path, "morality", "fr", pairs)
    texts, labels, wrong, test = as_released(path, share)
    dataset = read_pairs(tmp_path, "morality", "fr")
    train, tested = split_pairs(dataset, share)
    assert train_texts(train) == texts
    assert labels_of(train) == labels
    assert texts_of(tested) == test
    shuffled, same = split_pairs(dataset, share, random_labels=True)
    assert train_texts(shuffled) == texts
    assert labels_of(shuffled) == wrong
    assert same == tested


def test_each_language_is_split_on_its_own(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 30)
    first = split_pairs(read_pairs(tmp_path, "morality", "en"))
    write_data(tmp_path, "morality", "fr", 12)
    split_pairs(read_pairs(tmp_path, "morality", "fr"))
    assert split_pairs(read_pairs(tmp_path, "morality", "en")) == first


@pytest.mark.parametrize(
    ("split", "size"), [(0.8, 80), (0.4, 40), (0.9, 80), (0.999, 80), (1, 1), (10, 10), (500, 80), (0.29, 28)]
)
def test_train_size_is_a_share_or_a_number_up_to_four_fifths(split: float, size: int) -> None:
    assert train_size(100, split) == size


def test_a_split_below_four_fifths_keeps_the_test_set(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 40)
    dataset = read_pairs(tmp_path, "morality", "en")
    (train, test), (part, part_test) = split_pairs(dataset), split_pairs(dataset, 0.3)
    assert part_test == test
    assert part == train[: len(part)]


def test_a_split_that_trains_on_nothing_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 20)
    with pytest.raises(UserError, match=r"--split 0\.01 leaves no training pairs out of 18"):
        split_pairs(read_pairs(tmp_path, "morality", "en"), 0.01)


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
def test_a_side_is_put_behind_its_context(concept: str, extra: dict, expected: str, tmp_path: Path) -> None:
    samples = {str(number): {"pos": "good", "neg": f"bad {number}", **extra} for number in range(2)}
    path = tmp_path / concept / f"{concept}_en.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"g": samples}))
    pair = read_pairs(tmp_path, concept, "en")[0]
    assert (pair.key, pair.pos, pair.neg) == ("g|0", expected, expected.replace("good", "bad 0"))


def write(folder: Path, content: str | bytes | dict) -> None:
    path = folder / "morality" / "morality_en.json"
    path.parent.mkdir(exist_ok=True)
    raw = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


GOOD = {"pos": "yes", "neg": "no"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"g": {"1": {"pos": "a"', r"is not valid JSON \(.*, line 1, column \d+\)"),
        (b'{"g": "\xff"}', r"is not UTF-8 \(byte 7\)"),
        ("", "is not valid JSON"),
        ("[]", "two levels above the samples"),
        ('{"g": [1]}', "two levels above the samples"),
        ('{"g": {"1": {}, "1": {}}}', "key '1' appears twice"),
        ("[" * 100_000, "recursion|nest"),
        ({}, r"0 pair\(s\) with different sides"),
        ({"g": {"1": GOOD, "2": {"pos": "same", "neg": "same"}}}, r"1 pair\(s\) with different sides"),
        ({"g": {"1": {"neg": "no"}, "2": GOOD}}, r"g\|1 has no 'pos'"),
        ({"g": {"1": {"pos": "yes", "neg": None}}}, r"g\|1: 'neg' is not text"),
        ({"g": {"1": {"pos": " ", "neg": "no"}}}, r"g\|1: 'pos' is empty"),
        ({"g": {"1": "yes"}}, r"g\|1 is not an object with 'pos' and 'neg'"),
        ({"g": {"1": {"pos": "\ud800", "neg": "no"}}}, "half of a surrogate pair"),
    ],
)
def test_a_faulty_file_is_named_with_what_is_wrong(content: str | bytes | dict, message: str, tmp_path: Path) -> None:
    write(tmp_path, content)
    with pytest.raises(UserError, match=rf"(?s)morality_en\.json.*({message})"):
        read_pairs(tmp_path, "morality", "en")


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"g": {str(number): {"pos": "yes"} for number in range(10)}})
    with pytest.raises(UserError) as raised:
        read_pairs(tmp_path, "morality", "en")
    assert all(f"g|{number} has no 'neg'" in str(raised.value) for number in range(8))
    assert "and 2 more" in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    write(tmp_path, b"\xef\xbb\xbf" + json.dumps({"g": {"1": GOOD, "2": GOOD}}).encode())
    assert len(read_pairs(tmp_path, "morality", "en")) == 2


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en")
    with pytest.raises(UserError, match=r"morality_xx\.json does not exist; .* has morality in en: .*--lang"):
        read_pairs(tmp_path, "morality", "xx")
    with pytest.raises(UserError, match=r"fairness_en\.json does not exist; .* has morality: .*--concept"):
        read_pairs(tmp_path, "fairness", "en")


@pytest.mark.parametrize("name", ["../morality", "a/b", "", ".", "..", "a\0b"])
def test_names_cannot_leave_the_data_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a valid name"):
        read_pairs(tmp_path, name, "en")
    with pytest.raises(UserError, match="is not a valid name"):
        read_pairs(tmp_path, "morality", name)


def keys(pairs: Sequence[Pair]) -> set[str]:
    return {pair.key for pair in pairs}


def leaking(data_dir: Path, concept: str, split_by: str, share: float = 0.8) -> set[str]:
    """Items that some language trains on and some language is tested on."""
    splits = [
        split_pairs(read_pairs(data_dir, concept, language), share, by=split_by)
        for language in languages_of(data_dir, concept)
    ]
    return set.union(*(keys(train) for train, _ in splits)) & set.union(*(keys(test) for _, test in splits))


@pytest.mark.parametrize("share", [0.8, 0.4, 0.95, 12])
def test_split_by_item_tests_no_translation_of_a_training_item(share: float, tmp_path: Path) -> None:
    """Languages have their own numbers of pairs, and their own pairs with equal sides, which are dropped."""
    for number, language in enumerate(("en", "fr", "zh", "xx")):
        path = write_data(tmp_path, "morality", language, 60 + 3 * number)
        groups = json.loads(path.read_text())
        for group in groups.values():
            group.pop(str(number), None)
        path.write_text(json.dumps(groups))
    assert leaking(tmp_path, "morality", "pair", share)
    assert not leaking(tmp_path, "morality", "item", share)


def test_split_by_item_on_the_demos_and_the_golden_data(golden: Path) -> None:
    leaks = set()
    for data_dir in filter(Path.exists, (ROOT / "demo/pocket/data", golden / "released_run/data")):
        for concept in concepts_in(data_dir):
            assert not leaking(data_dir, concept, "item")
            if leaking(data_dir, concept, "pair"):
                leaks.add(concept)
    # Where a golden language has a pair less, its own shuffle goes another way.
    assert leaks == {"harmfulness"}


def test_an_item_keeps_its_place_whatever_else_there_is(tmp_path: Path) -> None:
    path = write_data(tmp_path, "morality", "en", 60)
    small, small_test = split_pairs(read_pairs(tmp_path, "morality", "en"), by="item")
    groups = json.loads(path.read_text())
    path.write_text(json.dumps({"new": {str(n): {"pos": "a", "neg": "b"} for n in range(40)}, **groups}))
    grown, grown_test = split_pairs(read_pairs(tmp_path, "morality", "en"), by="item")
    assert keys(small) < keys(grown)
    assert keys(small_test) < keys(grown_test)
    assert (grown, grown_test) == split_pairs(read_pairs(tmp_path, "morality", "en"), by="item")


def test_places_of_items_are_even_and_written_down() -> None:
    places = [item_position(f"{group}|{item}") for group in range(100) for item in range(50)]
    assert kstest(places, "uniform").pvalue > 0.01
    # Another machine or version must give the same split.
    assert item_position("g0|0") == 0.3169809668425575
    assert item_position("blind_man|last_week") == 0.7495961415069152


def test_a_split_by_item_keeps_its_test_set_for_all_sizes(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 60)
    dataset = read_pairs(tmp_path, "morality", "en")
    train, test = split_pairs(dataset, by="item")
    assert keys(train) | keys(test) == keys(dataset)
    assert all(len(split_pairs(dataset, share, by="item")[0]) == len(train) for share in (0.9, 1000))
    for share, size in ((0.4, len(train) // 2), (7, 7), (0.2, len(train) // 4)):
        part, part_test = split_pairs(dataset, share, by="item")
        assert part_test == test
        assert part == train[:size]


def test_a_split_by_item_without_test_or_training_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "morality/morality_en.json"
    path.parent.mkdir()
    trained = [str(n) for n in range(40) if item_position(f"g|{n}") < 0.8]
    path.write_text(json.dumps({"g": {key: {"pos": "a", "neg": "b"} for key in trained}}))
    with pytest.raises(UserError, match=r"--split-by item leaves no test pairs out of \d+"):
        split_pairs(read_pairs(tmp_path, "morality", "en"), by="item")
    tested = [str(n) for n in range(40) if item_position(f"g|{n}") >= 0.8]
    path.write_text(json.dumps({"g": {key: {"pos": "a", "neg": "b"} for key in tested}}))
    with pytest.raises(UserError, match=r"--split-by item leaves no training pairs"):
        split_pairs(read_pairs(tmp_path, "morality", "en"), by="item")


def test_samples_of_an_item_stay_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "morality/morality_en.json"
    path.parent.mkdir()
    samples = {f"{item}-{n}": {"pos": "a", "neg": "b", "item": f"act {item}"} for item in range(20) for n in range(4)}
    path.write_text(json.dumps({"g": samples}))
    pairs = read_pairs(tmp_path, "morality", "en")
    assert (pairs[0].item, pairs[0].key) == ("act 0", "g|0-0")
    train, test = split_pairs(pairs, by="item")
    items = [{pair.item for pair in part} for part in (train, test)]
    assert not items[0] & items[1]
    assert len(items[0] | items[1]) == 20
    # By pair, an item stands on both sides.
    by_pair = [{pair.item for pair in part} for part in split_pairs(pairs)]
    assert by_pair[0] & by_pair[1]


@pytest.mark.parametrize("item", [3, "", " ", "\ud800"])
def test_an_item_that_is_not_text_is_refused(item: object, tmp_path: Path) -> None:
    write(tmp_path, {"g": {"1": GOOD | {"item": item}, "2": GOOD}})
    with pytest.raises(UserError, match=r"g\|1: 'item'"):
        read_pairs(tmp_path, "morality", "en")
