"""Train the demo's small language models from scratch, on the demo's own text and nothing else.

    python -m demo.build_models                                # all models, into demo/models
    python -m demo.build_models pocket-llama-M --out /tmp/m    # one of them, somewhere else

A line of training text is a sentence and, after it, a mark that all languages share: MARKS["pos"] where the sentence
accords with the value, MARKS["neg"] where it goes against it. Each family reads the languages in its own proportions
(`language_mix`). On a CPU the same seed gives the same weights; on a GPU they differ in the last digits.
"""

import argparse
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

from demo.build_data import DEMO, TEXT, read_sources, training_sentences
from repe.paper import FAMILIES

MARKS = {"pos": " ✓", "neg": " ✗"}
END = "</s>"
PAD = "<pad>"

THREADS = 1  # so that the sums do not depend on the machine; more threads gain little on models this small
BATCH = 32  # lines a step
WARM_UP = 0.05  # part of the steps
WEIGHT_DECAY = 0.01
VOCABULARY = 3000  # tokens at most
TOKENIZER_LINES = 20_000  # lines, in the family's own mix, that the tokenizer is trained on

# One rule for every family: a language's part of the lines is proportional to max(share, SHARE_FLOOR) ** SHARE_POWER.
# In the published proportions most languages would get a few lines of a text this small, or none.
SHARE_FLOOR = 0.01  # percent; languages that a family's published mix does not name count as this
SHARE_POWER = 0.5

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
    "M": Size(hidden=112, layers=6, heads=4, rate=2e-3, steps=750),
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

MODELS = {f"pocket-{kind}-{size}": (KINDS[kind], SIZES[size]) for kind in KINDS for size in SIZES}


def language_mix(shares: dict[str, float], languages: list[str]) -> dict[str, float]:
    """{language: part of the training lines}, summing to 1: the shares (percent) flattened by the one rule above."""
    weights = {language: max(shares.get(language, 0.0), SHARE_FLOOR) ** SHARE_POWER for language in languages}
    total = sum(weights.values())
    return {language: weight / total for language, weight in weights.items()}


def training_lines(text_dir: Path = TEXT) -> dict[str, list[str]]:
    """{language: every line there is to train on}, all concepts together."""
    lines: dict[str, list[str]] = {}
    for languages in read_sources(text_dir).values():
        for language, source in languages.items():
            marked = [sentence + MARKS[side] for sentence, side in training_sentences(source)]
            lines.setdefault(language, []).extend(marked)
    return lines


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
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def train(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, lines: list[str], rate: float) -> float:
    """One pass over `lines`, BATCH at a time, loss on every token; returns the last step's loss (nats a token)."""
    steps = math.ceil(len(lines) / BATCH)
    warm_up = max(1, int(WARM_UP * steps))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)

    def schedule(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    model.train()
    for step in range(steps):
        texts = [line + END for line in lines[step * BATCH : (step + 1) * BATCH]]
        batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").to(model.device)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return float(loss.item())


def build_model(name: str, out: Path, seed: int, device: str, steps: int | None = None) -> float:
    """Trains the model `name` and saves it in <out>/<name>, weights in float16; returns the last step's loss.

    `steps` overrides the number of optimiser steps of the model's size.
    """
    kin, size = MODELS[name]
    lines = training_lines()
    mix = language_mix(kin.shares, sorted(lines))
    tokenizer = train_tokenizer(drawn_lines(lines, mix, TOKENIZER_LINES, seed))
    torch.manual_seed(seed)
    model = kin.build(
        size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    model.to(device)
    loss = train(model, tokenizer, drawn_lines(lines, mix, BATCH * (steps or size.steps), seed), size.rate)
    model.to(device="cpu", dtype=torch.float16).save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    return loss


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo's small language models from scratch.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"which ones (default: all): {', '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=DEMO / "models", help="folder to write (default: demo/models)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights and of the order of the lines (default: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    return arguments


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(THREADS)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in arguments.models or MODELS:
        loss = build_model(name, arguments.out, arguments.seed, device)
        print(f"{arguments.out / name}: loss {loss:.3f} nats a token", flush=True)


if __name__ == "__main__":
    main()
