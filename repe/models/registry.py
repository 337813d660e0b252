"""Models by name and size, and the prompt templates around their texts. Adding a model is adding one row.

Whatever can be read from a model itself is not listed here: layers are counted, padding follows the attention mask, and
special tokens are the tokenizer's own (with `auto`, those that its chat template writes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repe.errors import UserError
from repe.models.limits import in_child

PLACE = "{input}"
PLAIN = PLACE
# The trailing space is the released template's: the last token is the one after `[/INST]`.
LLAMA2_CHAT = "[INST] {input} [/INST] "
# The tokenizer's own chat template: a user turn, up to where the reply begins.
AUTO = "auto"
# Characters that a chat template may make of a short text.
LONGEST_TEMPLATE = 100_000

# Some chat templates write today's date into the prompt; states would then depend on the day they were collected.
FIXED_DATE = "26 Jul 2024"


@dataclass(frozen=True)
class Entry:
    """One model: where its weights are and how it is prompted."""

    name: str
    """`--model-name`."""
    size: str
    """`--model-size`."""
    hub_id: str
    family: str
    """Key of `repe.paper.FAMILIES`."""
    template: str
    """Text with `{input}` in the place of a sample's text, or `auto`."""
    dtype: str
    """Type of the published weights: what `--dtype auto` uses on a GPU."""

    @property
    def label(self) -> str:
        """Name of the results folder."""
        return f"{self.name}-{self.size}"


MODELS = {
    f"{entry.name}-{entry.size}": entry
    for entry in (
        # The paper's models. Its code calls the plain form bad for LLaMA2-chat and ChatML bad for Qwen-chat.
        Entry("llama2-chat", "7B", "meta-llama/Llama-2-7b-chat-hf", "llama2", LLAMA2_CHAT, "float16"),
        Entry("llama2-chat", "13B", "meta-llama/Llama-2-13b-chat-hf", "llama2", LLAMA2_CHAT, "float16"),
        Entry("llama2-chat", "70B", "meta-llama/Llama-2-70b-chat-hf", "llama2", LLAMA2_CHAT, "float16"),
        Entry("qwen-chat", "1B8", "Qwen/Qwen-1_8B-Chat", "qwen", PLAIN, "bfloat16"),
        Entry("qwen-chat", "7B", "Qwen/Qwen-7B-Chat", "qwen", PLAIN, "bfloat16"),
        Entry("qwen-chat", "14B", "Qwen/Qwen-14B-Chat", "qwen", PLAIN, "bfloat16"),
        Entry("bloomz", "560M", "bigscience/bloomz-560m", "bloomz", PLAIN, "float16"),
        Entry("bloomz", "1B1", "bigscience/bloomz-1b1", "bloomz", PLAIN, "float16"),
        Entry("bloomz", "1B7", "bigscience/bloomz-1b7", "bloomz", PLAIN, "float16"),
        Entry("bloomz", "3B", "bigscience/bloomz-3b", "bloomz", PLAIN, "float16"),
        Entry("bloomz", "7B1", "bigscience/bloomz-7b1", "bloomz", PLAIN, "float16"),
        # Their base models.
        Entry("llama2", "7B", "meta-llama/Llama-2-7b-hf", "llama2", PLAIN, "float16"),
        Entry("llama2", "13B", "meta-llama/Llama-2-13b-hf", "llama2", PLAIN, "float16"),
        Entry("bloom", "7B1", "bigscience/bloom-7b1", "bloomz", PLAIN, "float16"),
        # Later families. Their shares of languages are not published, so none of the paper's are taken for them.
        Entry("llama3.1-chat", "8B", "meta-llama/Llama-3.1-8B-Instruct", "none", AUTO, "bfloat16"),
        Entry("llama3.1-chat", "70B", "meta-llama/Llama-3.1-70B-Instruct", "none", AUTO, "bfloat16"),
        Entry("llama3.2-chat", "1B", "meta-llama/Llama-3.2-1B-Instruct", "none", AUTO, "bfloat16"),
        Entry("llama3.2-chat", "3B", "meta-llama/Llama-3.2-3B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen2.5-chat", "0B5", "Qwen/Qwen2.5-0.5B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen2.5-chat", "1B5", "Qwen/Qwen2.5-1.5B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen2.5-chat", "7B", "Qwen/Qwen2.5-7B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen2.5-chat", "14B", "Qwen/Qwen2.5-14B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen2.5-chat", "72B", "Qwen/Qwen2.5-72B-Instruct", "none", AUTO, "bfloat16"),
        Entry("qwen3-chat", "0B6", "Qwen/Qwen3-0.6B", "none", AUTO, "bfloat16"),
        Entry("qwen3-chat", "1B7", "Qwen/Qwen3-1.7B", "none", AUTO, "bfloat16"),
        Entry("qwen3-chat", "8B", "Qwen/Qwen3-8B", "none", AUTO, "bfloat16"),
        Entry("qwen3-chat", "14B", "Qwen/Qwen3-14B", "none", AUTO, "bfloat16"),
        Entry("gemma2-chat", "2B", "google/gemma-2-2b-it", "none", AUTO, "bfloat16"),
        Entry("gemma2-chat", "9B", "google/gemma-2-9b-it", "none", AUTO, "bfloat16"),
        Entry("gemma2-chat", "27B", "google/gemma-2-27b-it", "none", AUTO, "bfloat16"),
        Entry("gemma3-chat", "1B", "google/gemma-3-1b-it", "none", AUTO, "bfloat16"),
        Entry("gemma3-chat", "4B", "google/gemma-3-4b-it", "none", AUTO, "bfloat16"),
        Entry("gemma3-chat", "12B", "google/gemma-3-12b-it", "none", AUTO, "bfloat16"),
        Entry("gemma3-chat", "27B", "google/gemma-3-27b-it", "none", AUTO, "bfloat16"),
        Entry("mistral-chat", "7B", "mistralai/Mistral-7B-Instruct-v0.3", "none", AUTO, "bfloat16"),
    )
}

DEFAULT_NAME, DEFAULT_SIZE = "llama2-chat", "7B"


def entry(name: str | None, size: str | None) -> Entry:
    """The row for a name and a size; llama2-chat and 7B by default.

    Raises:
        UserError: the registry has no such name, or not in this size.
    """
    name, size = name or DEFAULT_NAME, size or DEFAULT_SIZE
    sizes = [row.size for row in MODELS.values() if row.name == name]
    if not sizes:
        names = " ".join(dict.fromkeys(row.name for row in MODELS.values()))
        raise UserError(
            f"--model-name {name} is not in the registry (it has {names}); "
            "for any other model omit name and size and give --model-path"
        )
    if size not in sizes:
        raise UserError(f"--model-size {size} of {name} is not in the registry: it has {' '.join(sizes)}")
    return MODELS[f"{name}-{size}"]


def untrained_suffix(seed: int | None) -> str:
    """What the label of a model with random weights ends in: `-untrained`, or `-untrained-2` for seed 2 and so on."""
    return {None: "", 1: "-untrained"}.get(seed, f"-untrained-{seed}")


@dataclass(frozen=True)
class Template:
    """The prompt around a text."""

    text: str
    """With `{input}` in the place of the text."""
    special_tokens: bool
    """Whether the tokenizer adds its special tokens; a chat template contains them already."""

    def render(self, text: str) -> str:
        """The prompt for `text`; braces in `text` have no meaning."""
        return self.text.replace(PLACE, text)


def check_template(template: str) -> str:
    """`template` itself.

    Raises:
        UserError: it is neither `auto` nor contains `{input}`.
    """
    if template != AUTO and PLACE not in template:
        raise UserError(f'--template {template!r} does not contain {PLACE}: add it, for example "Q: {PLACE} A:"')
    return template


def resolve_template(template: str, tokenizer: Any) -> Template:
    """The template to use: the one given, or for `auto` the tokenizer's chat template, or plain text without one.

    A chat template is rendered once, for a conversation in which the user said `{input}` and the reply begins.

    Raises:
        UserError: the chat template cannot be rendered or does not contain the text.
    """
    if template != AUTO:
        return Template(check_template(template), special_tokens=True)
    if not getattr(tokenizer, "chat_template", None):
        return Template(PLAIN, special_tokens=True)
    named = f"the tokenizer's chat template in {tokenizer.name_or_path}".removesuffix(" in ")
    try:
        text = _rendered(tokenizer, [{"role": "user", "content": PLACE}])
    except (OSError, ValueError) as error:
        raise UserError(f"{named} fails ({error}): give another with --template") from error
    if PLACE not in text:
        raise UserError(f"{named} drops the text: give another with --template '{PLAIN}'")
    if len(text) > LONGEST_TEMPLATE:
        raise UserError(f"{named} makes {len(text)} characters of a short text: give another with --template")
    return Template(text, special_tokens=False)


def _rendered(tokenizer: Any, conversation: Sequence[Mapping[str, str]]) -> str:
    """The tokenizer's chat template of a conversation, up to the reply.

    Raises:
        OSError, ValueError: the template, which is code, fails or takes too long.
    """
    return in_child(
        lambda: tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, date_string=FIXED_DATE
        )
    )


def with_system(template: Template, tokenizer: Any, instruction: str) -> Template:
    """`template` with a system instruction.

    It becomes the chat template's system message, or LLaMA2's system part. A template without either gets the
    instruction as a paragraph in front of the text.
    """
    if not template.special_tokens:
        conversation = [{"role": "system", "content": instruction}, {"role": "user", "content": PLACE}]
        try:
            text = _rendered(tokenizer, conversation)
        except (OSError, ValueError):  # some templates refuse system messages
            text = ""
        if PLACE in text and instruction.strip() in text:
            return Template(text, special_tokens=False)
    form = "<<SYS>>\n{}\n<</SYS>>\n\n" if template.text == LLAMA2_CHAT else "{}\n\n"
    return Template(template.text.replace(PLACE, form.format(instruction) + PLACE), template.special_tokens)
