"""Check that a model is read rightly before a long run: python -m repe.tools.doctor --model-path PATH_OR_HUB_ID

Says what memory it takes (before the weights are read), what was found (trunk, blocks, widths), how a text reaches the
model (template, tokens, last token), and whether its states agree with references. Takes the model options of the
stages, --device, --dtype and --text.
"""

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from repe.runs import arguments as cli

if TYPE_CHECKING:
    from repe.models.loading import Model
    from repe.runs.chosen import ChosenModel

TEXTS = (
    "I helped my neighbour carry her shopping up the stairs.",
    "He lied.",
    "我把捡到的钱包交给了警察，因为那不是我的东西。",
)


def main(args: argparse.Namespace) -> None:
    from repe.errors import UserError
    from repe.models.verification import ROUNDING
    from repe.runs import chosen as selection

    chosen = selection.model(args)
    texts = list(dict.fromkeys([args.text, *TEXTS]))
    report(memory(chosen))
    model = chosen.load()
    report([*found(model), *reading(model, texts[0])])
    for name, difference in differences(model, texts).items():
        print(f"{name:<22}largest relative difference {difference:.1e}")
        if not difference <= ROUNDING[model.dtype]:
            raise UserError(
                f"{model.label}: states {name} are others by more than rounding: do not use it with this --dtype"
            )
    print(f"{'verdict':<22}ready for collect_vector.py")


def report(lines: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    for name, value in lines:
        print(f"{name:<22}{value}")


def found(model: "Model") -> Iterator[tuple[str, str]]:
    """What was loaded."""
    yield "trunk", f"{type(model.trunk).__module__.split('.')[-1]}.{type(model.trunk).__name__}"
    yield "blocks", f"{model.layers} of {type(model.blocks[0]).__name__}"
    kept = 1000 * model.layers * model.hidden_size * model.dtype.itemsize
    yield "hidden size", f"{model.hidden_size} (states of 1,000 texts: {_size(kept)})"
    yield "numbers, device", f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    yield "positions", str(model.max_tokens or "no limit")


def reading(model: "Model", text: str) -> Iterator[tuple[str, str]]:
    """How a text reaches the model."""
    from repe.vectors.hidden_states import tokenize

    (ids,) = tokenize(model, [text])
    yield "template", repr(model.template.text)
    yield "special tokens", "added by the tokenizer" if model.template.special_tokens else "those of the chat template"
    yield "text as read", repr(model.tokenizer.decode(ids))
    yield "last token", f"{model.tokenizer.decode(ids[-1:])!r} (id {ids[-1]}, the last of {len(ids)})"
    yield "tokenizer pads on", f"the {model.tokenizer.padding_side}, which does not matter here"


def memory(chosen: "ChosenModel") -> Iterator[tuple[str, str]]:
    """What the weights take, vocabulary head included, and what there is."""
    import torch

    from repe.models.hub import WEIGHTS
    from repe.models.loading import DTYPES, published_dtype

    on_disk = sum(path.stat().st_size for pattern in WEIGHTS for path in chosen.folder.path.glob(pattern))
    published = DTYPES[chosen.published_dtype or published_dtype(chosen.folder)]
    yield "weights", f"about {_size(on_disk * chosen.dtype.itemsize / published.itemsize)} in {chosen.dtype}"
    if chosen.device.type == "cuda":
        free = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
        yield "free on the GPUs", f"{_size(free)}; what does not fit stays on the CPU, which is slow"
    else:
        yield "memory here", _size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def differences(model: "Model", texts: list[str]) -> dict[str, float]:
    """Largest difference of the texts' states, over their length, from two references.

    Returns:
        `in a batch`: all texts in one batch, against each by itself; `by themselves`: against Transformers' own.
    """
    from repe.models.verification import own_states, relative_difference
    from repe.vectors.hidden_states import last_token_states

    alone = last_token_states(model, texts, batch_size=1)
    return {
        "in a batch": relative_difference(last_token_states(model, texts, batch_size=len(texts)), alone),
        "by themselves": relative_difference(alone, own_states(model, texts)),
    }


def start() -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--text", default=TEXTS[0], metavar="TEXT", help="a text to show and check with")
    cli.run(main, parser)


if __name__ == "__main__":
    start()
