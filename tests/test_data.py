"""Reading and splitting MVALUE files as released, and saying what is wrong with a file."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, write_data
from scipy.stats import kstest

from repe.data import Pair, concepts_in, languages_of, place, read_pairs, split_pairs, texts_of, train_size
from repe.errors import UserError


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
    split = split_pairs(dataset, share)
    assert split.train_texts() == texts
    assert [list(label) for label in split.labels] == labels
    assert texts_of(split.test) == test
    shuffled = split_pairs(dataset, share, random_labels=True)
    assert shuffled.train_texts() == texts
    assert [list(label) for label in shuffled.labels] == wrong


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
    whole, part = split_pairs(dataset), split_pairs(dataset, 0.3)
    assert part.test == whole.test
    assert part.train == whole.train[: len(part.train)]


def test_a_split_that_trains_on_nothing_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 20)
    with pytest.raises(UserError, match=r"--split 0\.01 leaves none of the 18 pairs of .*morality_en\.json"):
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
    pair = read_pairs(tmp_path, concept, "en").pairs[0]
    assert (pair.key, pair.positive, pair.negative) == ("g|0", expected, expected.replace("good", "bad 0"))


def write(folder: Path, content: str | bytes | dict) -> None:
    path = folder / "morality" / "morality_en.json"
    path.parent.mkdir(exist_ok=True)
    raw = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


GOOD = {"pos": "yes", "neg": "no"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"g": {"1": {"pos": "a"', r"is not JSON \(.* at line 1, column \d+\)"),
        (b'{"g": "\xff"}', r"is not UTF-8 \(byte 7\)"),
        ("", "is not JSON"),
        ("[]", "two levels of names"),
        ('{"g": [1]}', "two levels of names"),
        ('{"g": {"1": {}, "1": {}}}', "key '1' stands twice"),
        ("[" * 100_000, "recursion|nest"),
        ({}, r"0 pair\(s\) whose sides differ"),
        ({"g": {"1": GOOD, "2": {"pos": "same", "neg": "same"}}}, r"1 pair\(s\) whose sides differ"),
        ({"g": {"1": {"neg": "no"}, "2": GOOD}}, r"g\|1 has no 'pos'"),
        ({"g": {"1": {"pos": "yes", "neg": None}}}, r"g\|1: 'neg' is no text"),
        ({"g": {"1": {"pos": " ", "neg": "no"}}}, r"g\|1: 'pos' is empty"),
        ({"g": {"1": "yes"}}, r"g\|1 is no object with 'pos' and 'neg'"),
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
    assert len(read_pairs(tmp_path, "morality", "en").pairs) == 2


def test_a_missing_file_names_what_there_is(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en")
    with pytest.raises(UserError, match=r"morality_xx\.json is not there; .* has morality in en: .*--lang"):
        read_pairs(tmp_path, "morality", "xx")
    with pytest.raises(UserError, match=r"fairness_en\.json is not there; .* has morality: .*--concept"):
        read_pairs(tmp_path, "fairness", "en")


@pytest.mark.parametrize("name", ["../morality", "a/b", "", ".", "..", "a\0b"])
def test_names_cannot_leave_the_data_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no plain name"):
        read_pairs(tmp_path, name, "en")
    with pytest.raises(UserError, match="no plain name"):
        read_pairs(tmp_path, "morality", name)


def keys(pairs: Sequence[Pair]) -> set[str]:
    return {pair.key for pair in pairs}


def leaking(data_dir: Path, concept: str, split_by: str, share: float = 0.8) -> set[str]:
    """Items that some language trains on and some language is tested on."""
    splits = [
        split_pairs(read_pairs(data_dir, concept, language), share, split_by=split_by)
        for language in languages_of(data_dir, concept)
    ]
    return set.union(*(keys(split.train) for split in splits)) & set.union(*(keys(split.test) for split in splits))


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
    small = split_pairs(read_pairs(tmp_path, "morality", "en"), split_by="item")
    groups = json.loads(path.read_text())
    path.write_text(json.dumps({"new": {str(n): {"pos": "a", "neg": "b"} for n in range(40)}, **groups}))
    grown = split_pairs(read_pairs(tmp_path, "morality", "en"), split_by="item")
    assert keys(small.train) < keys(grown.train)
    assert keys(small.test) < keys(grown.test)
    assert grown.train_texts() == split_pairs(read_pairs(tmp_path, "morality", "en"), split_by="item").train_texts()


def test_places_of_items_are_even_and_written_down() -> None:
    places = [place(f"{group}|{item}") for group in range(100) for item in range(50)]
    assert kstest(places, "uniform").pvalue > 0.01
    # Another machine or version must give the same split.
    assert place("g0|0") == 0.3169809668425575
    assert place("blind_man|last_week") == 0.7495961415069152


def test_a_split_by_item_keeps_its_test_set_for_all_sizes(tmp_path: Path) -> None:
    write_data(tmp_path, "morality", "en", 60)
    dataset = read_pairs(tmp_path, "morality", "en")
    whole = split_pairs(dataset, split_by="item")
    assert keys(whole.train) | keys(whole.test) == keys(dataset.pairs)
    assert all(len(split_pairs(dataset, share, split_by="item").train) == len(whole.train) for share in (0.9, 1000))
    for share, size in ((0.4, len(whole.train) // 2), (7, 7), (0.2, len(whole.train) // 4)):
        part = split_pairs(dataset, share, split_by="item")
        assert part.test == whole.test
        assert part.train == whole.train[:size]


def test_a_split_by_item_without_test_or_training_pairs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "morality/morality_en.json"
    path.parent.mkdir()
    trained = [str(n) for n in range(40) if place(f"g|{n}") < 0.8]
    path.write_text(json.dumps({"g": {key: {"pos": "a", "neg": "b"} for key in trained}}))
    with pytest.raises(UserError, match=r"--split-by item leaves none of the \d+ pairs of .*morality_en\.json to test"):
        split_pairs(read_pairs(tmp_path, "morality", "en"), split_by="item")
    tested = [str(n) for n in range(40) if place(f"g|{n}") >= 0.8]
    path.write_text(json.dumps({"g": {key: {"pos": "a", "neg": "b"} for key in tested}}))
    with pytest.raises(UserError, match=r"--split-by item leaves none of the .* to train on"):
        split_pairs(read_pairs(tmp_path, "morality", "en"), split_by="item")
