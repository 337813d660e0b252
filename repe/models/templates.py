"""Prompt templates: what stands around a text when a model reads it."""

from dataclasses import dataclass
from typing import Any

from repe.errors import UserError
from repe.models.registry import AUTO, PLAIN

PLACE = "{input}"

# Some chat templates write today's date into the prompt; states would then depend on the day they were collected.
FIXED_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Template:
    """The text around a text."""

    text: str
    """With `{input}` where the text goes."""
    special_tokens: bool
    """Whether the tokenizer adds its own special tokens; a chat template brings them along."""

    def render(self, text: str) -> str:
        """`text` in its place; braces in `text` mean nothing."""
        return self.text.replace(PLACE, text)


def check(template: str) -> str:
    """`template`, checked to be `auto` or to have a place for the text.

    Raises:
        UserError: it has no `{input}`.
    """
    if template != AUTO and PLACE not in template:
        raise UserError(f'--template {template!r} has no {PLACE}: say where the text goes, for example "Q: {PLACE} A:"')
    return template


def resolve(template: str, tokenizer: Any) -> Template:
    """The template to use: the one given, or for `auto` the tokenizer's chat template, or the text alone without one.

    A chat template is rendered once, for a conversation in which the user has said `{input}` and the reply begins.

    Raises:
        UserError: the chat template cannot be rendered, or loses the text.
    """
    if template != AUTO:
        return Template(check(template), special_tokens=True)
    if not getattr(tokenizer, "chat_template", None):
        return Template(PLAIN, special_tokens=True)
    conversation = [{"role": "user", "content": PLACE}]
    try:
        text = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, date_string=FIXED_DATE
        )
    except Exception as error:  # jinja2's and the templates' own, of any type
        raise UserError(f"the tokenizer's chat template fails ({error}): give another with --template") from error
    if PLACE not in text:
        raise UserError(f"the tokenizer's chat template leaves the text out: give another with --template '{PLAIN}'")
    return Template(text, special_tokens=False)
