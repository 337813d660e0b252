"""Rows of the registry, and templates: the text in its place, chat templates as the tokenizer renders them."""

import pytest
from conftest import byte_tokenizer

from repe.errors import UserError
from repe.models.registry import LLAMA2_CHAT, MODELS, Template, check_template, entry, resolve_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_chat_template(text: str | None):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


def test_braces_in_a_text_have_no_meaning() -> None:
    assert Template("Q: {input} {x}", True).render("{input} {0} %s") == "Q: {input} {0} %s {x}"


def test_the_llama2_chat_template_ends_in_a_space() -> None:
    assert Template(LLAMA2_CHAT, True).render("hi") == "[INST] hi [/INST] "


def test_auto_is_the_chat_template_as_the_tokenizer_renders_it() -> None:
    tokenizer = with_chat_template(CHATML)
    template = resolve_template("auto", tokenizer)
    conversation = [{"role": "user", "content": "He {stole} it."}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert template.render("He {stole} it.") == rendered
    assert not template.special_tokens


def test_auto_without_a_chat_template_is_plain_text() -> None:
    assert resolve_template("auto", byte_tokenizer()) == Template("{input}", special_tokens=True)


def test_a_given_template_replaces_the_chat_template() -> None:
    assert resolve_template("Q: {input}", with_chat_template(CHATML)) == Template("Q: {input}", special_tokens=True)


def test_the_prompt_does_not_contain_todays_date() -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d') }} {{ messages[0].content }}"
    assert resolve_template("auto", with_chat_template(dated)).text == "26 Jul 2024 {input}"


def test_a_template_without_a_place_for_the_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"--template 'Q: ' does not contain \{input\}"):
        check_template("Q: ")


@pytest.mark.parametrize("broken", ["{{ raise_exception('no') }}", "{{ messages[0", "nothing of the text"])
def test_a_chat_template_that_fails_is_an_error_with_a_remedy(broken: str) -> None:
    with pytest.raises(UserError, match=r"the tokenizer's chat template .*--template"):
        resolve_template("auto", with_chat_template(broken))


def test_rows_are_found_by_name_and_size() -> None:
    assert entry(None, None).hub_id == "meta-llama/Llama-2-7b-chat-hf"
    assert entry("bloomz", "560M").label == "bloomz-560M"
    assert len({row.hub_id for row in MODELS.values()}) == len(MODELS)


@pytest.mark.parametrize("template", sorted({row.template for row in MODELS.values()}))
def test_the_templates_of_the_registry_are_valid(template: str) -> None:
    assert check_template(template) == template
