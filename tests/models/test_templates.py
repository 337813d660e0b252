"""Templates: the text in its place, chat templates as the tokenizer renders them."""

import pytest
from conftest import byte_tokenizer

from repe.errors import UserError
from repe.models.registry import LLAMA2_CHAT
from repe.models.templates import Template, check, resolve

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_chat_template(text: str | None):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


def test_braces_in_a_text_mean_nothing() -> None:
    assert Template("Q: {input} {x}", True).render("{input} {0} %s") == "Q: {input} {0} %s {x}"


def test_the_llama2_chat_template_ends_in_a_space() -> None:
    assert Template(LLAMA2_CHAT, True).render("hi") == "[INST] hi [/INST] "


def test_auto_is_the_chat_template_as_the_tokenizer_renders_it() -> None:
    tokenizer = with_chat_template(CHATML)
    template = resolve("auto", tokenizer)
    conversation = [{"role": "user", "content": "He {stole} it."}]
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert template.render("He {stole} it.") == rendered
    assert not template.special_tokens


def test_auto_without_a_chat_template_is_the_text_alone() -> None:
    assert resolve("auto", byte_tokenizer()) == Template("{input}", special_tokens=True)


def test_a_template_of_ones_own_goes_before_the_chat_template() -> None:
    assert resolve("Q: {input}", with_chat_template(CHATML)) == Template("Q: {input}", special_tokens=True)


def test_todays_date_stays_out_of_the_prompt() -> None:
    dated = "{{ date_string if date_string is defined else strftime_now('%d') }} {{ messages[0].content }}"
    assert resolve("auto", with_chat_template(dated)).text == "26 Jul 2024 {input}"


def test_a_template_without_a_place_for_the_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"--template 'Q: ' has no \{input\}"):
        check("Q: ")


@pytest.mark.parametrize("broken", ["{{ raise_exception('no') }}", "{{ messages[0", "nothing of the text"])
def test_a_chat_template_that_fails_is_named_with_the_remedy(broken: str) -> None:
    with pytest.raises(UserError, match=r"the tokenizer's chat template .*--template"):
        resolve("auto", with_chat_template(broken))
