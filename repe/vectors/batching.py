"""How many texts go through a model at once: a budget of padded tokens, halved where memory runs out."""

from collections.abc import Callable, Iterator, Sequence

import torch

from repe.errors import UserError
from repe.models.loading import Model

# Padded tokens a batch where memory does not say: enough to fill the arithmetic units, few enough that texts of one
# batch are of like length. On a CPU more gain nothing: with 2,048 a hundred short texts are padded by half.
AUTO_TOKENS = {"cpu": 512, "mps": 4096}

# The same for decoding, which runs one token of each row at a time, so that more rows still pay.
DECODING_TOKENS = {"cpu": 8192, "mps": 16384}

# On a GPU the budget is what this part of its free memory holds, within these bounds: fewer tokens leave it idle, more
# gain nothing.
FREE_SHARE = 0.5
CUDA_TOKENS = (2048, 65536)


def token_budget(model: Model) -> int:
    """Padded tokens a batch of a plain forward pass, for `--batch-size auto`."""
    if model.device.type != "cuda":
        return AUTO_TOKENS[model.device.type]
    # The widest part's activations, of which a few copies live at once, and some states around it.
    widest = max(size for parameter in model.blocks[0].parameters() for size in parameter.shape)
    return _fitting(model, (4 * widest + 8 * model.hidden_size) * model.dtype.itemsize)


def generation_budget(model: Model) -> int:
    """Padded tokens of a batch of prompts and replies: decoded one by one, but kept with their keys and values."""
    if model.device.type != "cuda":
        return DECODING_TOKENS[model.device.type]
    return _fitting(model, 2 * model.layers * model.hidden_size * model.dtype.itemsize)


def _fitting(model: Model, bytes_a_token: int) -> int:
    free, _ = torch.cuda.mem_get_info(model.device)
    low, high = CUDA_TOKENS
    return min(max(int(FREE_SHARE * free / bytes_a_token), low), high)


def batches(lengths: Sequence[int], budget: int, batch_size: int | None) -> Iterator[list[int]]:
    """Indices of texts by falling length, so that padding is rare and the largest batch comes first.

    Args:
        lengths: tokens of each text.
        budget: padded tokens a batch, where `batch_size` is None.
        batch_size: texts a batch, or None.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = batch_size or max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def in_batches(run: Callable[[list[int]], None], lengths: Sequence[int], model: Model, batch_size: int | None) -> None:
    """Call `run` with the indices of one batch of texts after the other.

    A batch that does not fit into memory is run again in halves, and the model remembers: later ones are as small.

    Args:
        run: does the work on a batch.
        lengths: tokens of each text.
        model: whose memory it is.
        batch_size: texts a batch; None for the budget of tokens.

    Raises:
        UserError: not even a single text fits.
    """
    budget = token_budget(model)
    waiting = [*range(len(lengths))]
    while waiting:
        size = min(batch_size, model.limits.get("texts", batch_size)) if batch_size else None
        places = next(batches([lengths[row] for row in waiting], min(budget, model.limits.get("tokens", budget)), size))
        rows = [waiting[place] for place in places]
        try:
            run(rows)
        except torch.OutOfMemoryError as error:
            longest, half = max(lengths[row] for row in rows), len(rows) // 2
            if half == 0:
                raise UserError(
                    f"{model.label}: a text of {longest} tokens does not fit into memory: give --dtype float16, or "
                    "another --device"
                ) from error
            model.limits.update(texts=half, tokens=half * longest)
            if model.device.type == "cuda":
                torch.cuda.empty_cache()
        else:
            done = {*rows}
            waiting = [row for row in waiting if row not in done]
