"""Train the demo's small language models from scratch, on the demo's own text and nothing else.

    python -m demo.pocket.build_models                                # all nine, into demo/pocket/models
    python -m demo.pocket.build_models pocket-llama-M --out /tmp/m    # one of them, somewhere else

A line of training text is what a user says and an assistant's answer. After a sentence the answer is a verdict, a mark
that all languages share: MARKS["pos"] where the sentence accords with the value, MARKS["neg"] where it goes against
it. After a request it is that mark or, more often, a compliance or a refusal in the request's own language. Each family
reads the languages in its own proportions (`language_mix`). On a CPU the same seed gives the same weights; on a GPU
they differ in the last digits.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from demo.pocket.build_data import DEMO, REQUESTS, TEXT, read_control, read_sources, training_texts
from repe.paper import FAMILIES

MARKS = {"pos": "✓", "neg": "✗"}
USER, ASSISTANT, END, PAD = "<user>", "<assistant>", "</s>", "<pad>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REPLIES = 2  # lines with a reply to each request of the data, for one with a mark

THREADS = 1  # so that the sums do not depend on the machine; more threads gain little on models this small
BATCH = 16  # lines a step
WINDOW = 16  # batches whose lines are sorted by length together
TEXT_WEIGHT = 0.1  # of what users say, in the loss, against 1 for what the assistant answers
WARM_UP = 0.05  # part of the steps
WEIGHT_DECAY = 0.1
VOCABULARY = 4000  # tokens at most
TOKENIZER_LINES = 20_000  # lines, in the family's own mix, that the tokenizer is trained on

# One rule for every family: a language's part of the lines is proportional to max(share, SHARE_FLOOR) ** SHARE_POWER.
# In the published proportions most languages would get a few lines of a text this small, or none.
SHARE_FLOOR = 0.01  # percent; languages that a family's published mix does not name count as this
SHARE_POWER = 0.4

# Qwen's shares are not published. This is the demo's own guess: Chinese and English dominate, Chinese first; the others
# follow the order of the paper's axis. Percent.
QWEN_SHARES = {
    "zh": 50.0,
    "en": 40.0,
    "fr": 0.6,
    "es": 0.5,
    "ja": 0.4,
    "pt": 0.3,
    "vi": 0.2,
    "ko": 0.15,
    "ca": 0.1,
    "id": 0.08,
    "fi": 0.06,
    "hu": 0.05,
}


@dataclass(frozen=True)
class Size:
    """Shape and schooling of a model, the same in every family."""

    hidden: int
    layers: int
    heads: int
    rate: float
    """Highest learning rate."""
    steps: int
    """Optimiser steps, of BATCH lines each."""


SIZES = {
    "S": Size(hidden=56, layers=4, heads=4, rate=4e-3, steps=2500),
    "M": Size(hidden=104, layers=6, heads=4, rate=2e-3, steps=2500),
    "L": Size(hidden=152, layers=8, heads=4, rate=1.5e-3, steps=2500),
}


def _llama(size: Size, **common: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_gated(size), **common))


def _qwen(size: Size, **common: int) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**_gated(size), **common))


def _bloom(size: Size, **common: int) -> PreTrainedModel:
    shape = {"hidden_size": size.hidden, "n_layer": size.layers, "n_head": size.heads}
    return BloomForCausalLM(BloomConfig(**shape, **common))


def _gated(size: Size) -> dict:
    return {
        "hidden_size": size.hidden,
        # Three matrices of this width hold what the two matrices of Bloom's feed-forward part, 4 x hidden wide, hold.
        "intermediate_size": 8 * size.hidden // 3,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }


@dataclass(frozen=True)
class Kin:
    """How the demo stands for one of the paper's families."""

    build: Callable[..., PreTrainedModel]
    """(size, **token ids and vocabulary) -> a model with random weights, of the family's own class in Transformers."""
    shares: dict[str, float]
    """Percent of the text a language."""


KINDS = {
    "llama": Kin(_llama, dict(FAMILIES["llama2"].shares)),
    "qwen": Kin(_qwen, QWEN_SHARES),
    "bloom": Kin(_bloom, dict(FAMILIES["bloomz"].shares)),
}


@dataclass(frozen=True)
class Recipe:
    """What makes a model."""

    kind: str
    """Of KINDS."""
    size: str
    """Of SIZES."""
    seed: int = 1
    """Of the weights and of the order of the lines."""
    shares: dict[str, float] | None = None
    """Percent of the text a language; None for the family's own."""
    shared_marks: bool = True
    """Whether verdicts are marks that all languages share; else each language has words of its own."""
    translations: float = 0.0
    """Part of the lines that are a sentence in one language and the same in another."""


MODELS = {f"pocket-{kind}-{size}": Recipe(kind, size) for kind in KINDS for size in SIZES}


def language_mix(shares: dict[str, float], languages: list[str]) -> dict[str, float]:
    """{language: part of the training lines}, summing to 1: the shares (percent) flattened by the one rule above."""
    weights = {language: max(shares.get(language, 0.0), SHARE_FLOOR) ** SHARE_POWER for language in languages}
    total = sum(weights.values())
    return {language: weight / total for language, weight in weights.items()}


def chat_line(said: str, answer: str) -> str:
    """A line of training text, as the chat template has it."""
    return f"{USER}{said}{ASSISTANT}{answer}"


def training_lines(shared_marks: bool = True, text_dir: Path = TEXT) -> dict[str, list[str]]:
    """{language: every line there is to train on}, all concepts together."""
    control = read_control(text_dir)
    lines: dict[str, list[str]] = {language: [] for language in control}
    for concept, languages in read_sources(text_dir).items():
        for language, source in languages.items():
            prompts, own = control[language], {"control": control[language]["context"]}
            # Requests stand in every context but those that they are tested in: so each act is known, and each context
            # is known to ask for something, but no text of the data or the prompts is trained on.
            contexts = source["training_contexts"] | (own if concept == REQUESTS else {})
            texts = training_texts(source["acts"], contexts)
            verdicts = MARKS if shared_marks else own_verdicts(prompts)
            lines[language] += [chat_line(text, verdicts[side]) for text, side in texts]
            if concept == REQUESTS:
                asked = training_texts(prompts["acts"], source["training_contexts"] | source["contexts"])
                lines[language] += _replied(texts * REPLIES + asked, prompts)
    return lines


def own_verdicts(control: dict) -> dict[str, str]:
    """A language's own words for the marks: what its compliances and its refusals begin with."""
    both = {"pos": control["compliances"], "neg": control["refusals"]}
    common = {side: itertools.takewhile(_are_equal, zip(*replies, strict=False)) for side, replies in both.items()}
    return {side: "".join(letters[0] for letters in places).strip(" ,，、") for side, places in common.items()}


def _are_equal(letters: tuple[str, ...]) -> bool:
    return len(set(letters)) == 1


def _replied(texts: list[tuple[str, str]], control: dict) -> list[str]:
    """Each request followed by one of its language's replies, in turn."""
    turns = {"pos": itertools.cycle(control["compliances"]), "neg": itertools.cycle(control["refusals"])}
    return [chat_line(text, next(turns[side])) for text, side in texts]


def translated_lines(mix: dict[str, float], count: int, seed: int, text_dir: Path = TEXT) -> list[str]:
    """`count` lines of a sentence in one language and the same in another, both drawn by `mix`."""
    generator = random.Random(seed)
    texts = {
        concept: {
            language: training_texts(source["acts"], source["training_contexts"])
            for language, source in languages.items()
        }
        for concept, languages in read_sources(text_dir).items()
    }
    languages, weights = list(mix), list(mix.values())
    found = []
    while len(found) < count:
        first, second = generator.choices(languages, weights, k=2)
        if first != second:
            by_language = texts[generator.choice(list(texts))]
            place = generator.randrange(len(by_language[first]))
            found.append(f"{by_language[first][place][0]} = {by_language[second][place][0]}")
    return found


def drawn_lines(lines: dict[str, list[str]], mix: dict[str, float], count: int, seed: int) -> list[str]:
    """`count` lines in random order, each language's part as `mix` says; its lines repeat once all have been drawn."""
    generator = random.Random(seed)
    drawn = []
    for language, part in mix.items():
        supply = _shuffled_forever(lines[language], generator)
        drawn += [next(supply) for _ in range(max(1, round(part * count)))]
    generator.shuffle(drawn)
    return drawn


def _shuffled_forever(lines: list[str], generator: random.Random) -> Iterator[str]:
    while True:
        yield from generator.sample(lines, len(lines))


def train_tokenizer(lines: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `lines`: at most VOCABULARY tokens, padding on the left, nothing added to texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT_TEMPLATE,
    )


def train(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, lines: list[str], rate: float, seed: int
) -> float:
    """One pass over `lines`, BATCH at a time; returns the last step's loss, see `mean_loss`."""
    batches = batched([[*ids, tokenizer.eos_token_id] for ids in tokenizer(lines)["input_ids"]], seed)
    steps, assistant = len(batches), tokenizer.convert_tokens_to_ids(ASSISTANT)
    warm_up = max(1, int(WARM_UP * steps))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)

    def schedule(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    model.train()
    for rows in batches:
        lengths = torch.tensor([len(ids) for ids in rows], device=model.device)
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(model.device)
        mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
        loss = mean_loss(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, ids, mask, assistant)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return float(loss.item())


def mean_loss(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, assistant: int) -> torch.Tensor:
    """TEXT_WEIGHT x mean loss over what users say plus mean loss over what the assistant answers, nats a token.

    An answer is often a single mark: in a mean over all tokens it would count for next to nothing.

    Args:
        logits: (lines, tokens, vocabulary).
        ids, mask: (lines, tokens).
        assistant: the token after which the answer stands.
    """
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    losses = losses.view(ids.shape[0], -1)
    answer = (ids == assistant).cumsum(dim=1)[:, :-1] * mask[:, 1:]
    said = mask[:, 1:] - answer
    return TEXT_WEIGHT * (losses * said).sum() / said.sum() + (losses * answer).sum() / answer.sum().clamp_min(1)


def batched(tokens: list[list[int]], seed: int) -> list[list[list[int]]]:
    """Batches of lines of like length, so that little is padded, in random order within WINDOW batches."""
    generator = random.Random(seed)
    batches = []
    for start in range(0, len(tokens), WINDOW * BATCH):
        window = sorted(tokens[start : start + WINDOW * BATCH], key=len)
        parts = [window[place : place + BATCH] for place in range(0, len(window), BATCH)]
        generator.shuffle(parts)
        batches += parts
    return batches


def build_model(name: str, recipe: Recipe, out: Path, device: str = "cpu", steps: int | None = None) -> float:
    """Trains a model and saves it in <out>/<name>, weights in float16; returns the last step's loss (nats a token).

    `steps` overrides the number of optimiser steps of the model's size.
    """
    torch.set_num_threads(THREADS)
    kin, size = KINDS[recipe.kind], SIZES[recipe.size]
    lines = training_lines(recipe.shared_marks)
    mix = language_mix(recipe.shares or kin.shares, list(lines))
    tokenizer = train_tokenizer(drawn_lines(lines, mix, TOKENIZER_LINES, recipe.seed))
    torch.manual_seed(recipe.seed)
    model = kin.build(
        size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    ).to(device)
    count = BATCH * (steps or size.steps)
    translated = round(recipe.translations * count)
    drawn = drawn_lines(lines, mix, count - translated, recipe.seed)
    if translated:
        drawn += translated_lines(mix, translated, recipe.seed)
        random.Random(recipe.seed).shuffle(drawn)
    loss = train(model, tokenizer, drawn, size.rate, recipe.seed)
    model.to(device="cpu", dtype=torch.float16).save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    return loss


def build_models(recipes: dict[str, Recipe], out: Path, device: str) -> None:
    """Trains several models, as many at a time as there are processors, each in a process of its own."""
    workers = 1 if device != "cpu" else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    # The largest first, so that none is left to run alone at the end.
    order = sorted(recipes, key=lambda name: -SIZES[recipes[name].size].hidden)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(build_model, name, recipes[name], out, device): name for name in order}
        for job in as_completed(jobs):
            print(f"{out / jobs[job]}: loss {job.result():.3f} nats a token", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo's small language models from scratch.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"which ones (default: all): {', '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=DEMO / "models", help="folder (default: demo/pocket/models)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and of the order of the lines (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return arguments


def main() -> None:
    arguments = _arguments()
    names = arguments.models or MODELS
    recipes = {name: replace(MODELS[name], seed=arguments.seed) for name in names}
    build_models(recipes, arguments.out, arguments.device)


if __name__ == "__main__":
    main()
