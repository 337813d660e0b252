"""The paper's facts are consistent."""

import pytest

from repe.analysis.consistency import high_resource
from repe.models.registry import MODELS
from repe.paper import (
    FAMILIES,
    LANGUAGES,
    SEVEN_BILLION,
    SHARED_LANGUAGES,
    family_by_name,
    in_paper_order,
    seven_billion,
)

PUBLISHED = [family for family in FAMILIES.values() if family.axis]


@pytest.mark.parametrize("family", PUBLISHED, ids=lambda family: family.name)
def test_a_family_shows_or_leaves_out_each_language(family) -> None:
    assert sorted(family.axis + family.left_out) == sorted(LANGUAGES)
    assert set(SHARED_LANGUAGES) <= set(family.axis)
    assert set(family.high_resource) <= set(family.axis)


@pytest.mark.parametrize("family", [family for family in PUBLISHED if family.shares], ids=lambda family: family.name)
def test_axes_follow_the_shares(family) -> None:
    assert list(family.shares) == list(family.axis)
    assert sorted(family.shares.values(), reverse=True) == list(family.shares.values())
    assert 70 < sum(family.shares.values()) < 100


def test_a_family_orders_languages_by_share_and_appends_others() -> None:
    assert FAMILIES["qwen"].order(["en", "de", "sw", "zh"]) == ["zh", "en", "de"]
    assert FAMILIES["none"].order(["sw", "en"]) == ["sw", "en"]


def test_which_languages_are_high_resource_is_a_fact_or_unknown() -> None:
    languages = ["sw", "en"]
    assert high_resource(FAMILIES["llama2"], languages).tolist() == [False, True]
    assert not high_resource(FAMILIES["none"], languages).any()


@pytest.mark.parametrize(
    ("model", "family"), [("llama2-chat-7B", "llama2"), ("My-Qwen3", "qwen"), ("bloom-7B1", "bloomz"), ("gpt2", "none")]
)
def test_the_family_follows_from_the_name(model: str, family: str) -> None:
    assert family_by_name(model).name == family


def test_the_three_models_of_seven_billion_are_found_with_any_split() -> None:
    others = ["llama2-chat-70B", "llama2-7B", "my-bloomz-7B1"]
    assert seven_billion([*others, *SEVEN_BILLION]) == list(SEVEN_BILLION)
    assert seven_billion([f"{model}-0.4" for model in SEVEN_BILLION]) == [f"{model}-0.4" for model in SEVEN_BILLION]
    for suffix in ("-item", "-0.4-item"):
        assert len(seven_billion([f"{model}{suffix}" for model in SEVEN_BILLION])) == 3
    assert seven_billion([*others, *SEVEN_BILLION[:2]]) == []


def test_registry_rows_name_known_families() -> None:
    assert {row.family for row in MODELS.values()} <= set(FAMILIES)


def test_paper_order_puts_the_papers_names_first() -> None:
    assert in_paper_order(["xx", "sw", "aa", "en", "sw"], LANGUAGES) == ["en", "sw", "aa", "xx"]
