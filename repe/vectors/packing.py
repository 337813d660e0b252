"""Several texts in one forward pass, with each distinct token once if the model can be read that way (Section 3.1).

The texts of a set share the template, and the two sides of a pair their question or scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from repe.errors import UserError
from repe.vectors.hidden_states import (
    LEAST_SAVED,
    MOST_PADDING,
    ROUNDING,
    Batches,
    Rows,
    forward,
    read,
    relative_difference,
    token_budget,
    tokenize,
)

if TYPE_CHECKING:
    from repe.models.model import Model

# How a model can read several texts at once: see `find_layout`.
PACKED, PREFIX, BATCHES = "packed", "prefix", "batches"
CHECK_TEXTS = (
    *("He lied.", "He lied to his friend about the money.", "He lied to her."),
    "He lied about the work that he had done on that day.",
)

# Tokens per packed row. The cost of attention grows with a row's length, the number of repeated tokens falls.
ROW_TOKENS = {"cpu": 256}
ROW_TOKENS_ELSEWHERE = 1024
# Rows in a pass. On a CPU, more are no faster, and would be padded.
MOST_ROWS = {"cpu": 1}
# A row may end early, when it is filled by at least this share.
LEAST_FILLED = 0.8


class Packs(Batches):
    """Rows of many texts in which each distinct token stands once, without padding on a CPU.

    In lexicographic order, the tokens that a text does not share with the text before it are the nodes of the texts'
    prefix tree in depth-first order. A token sees its ancestors only, and its position is its depth. What all texts
    begin with is read once, and all rows see its keys and values.

    Args:
        tokens: token ids of each text.
        prefix: number of tokens that all texts begin with and that are read only once.
    """

    def __init__(self, model: Model, tokens: Sequence[list[int]], prefix: int = 0) -> None:
        super().__init__(model, tokens, prefix)
        self.order = sorted(range(len(tokens)), key=tokens.__getitem__)
        pairs = zip([*self.order[:1], *self.order], self.order, strict=False)
        # Number of tokens that each text shares with the one before it in the order.
        self.shared = {text: common_length(self.tokens[before], self.tokens[text]) for before, text in pairs}
        # The largest index of a last token in its row so far, the prefix included, and its text.
        self.farthest = (0, self.order[0])

    def take(self, waiting: Sequence[int], budget: int, size: int | None) -> tuple[Rows, int]:
        """The rows of the next forward pass, and their number of padded tokens; see `Batches.take`."""
        device = self.model.device.type
        width = min(ROW_TOKENS.get(device, ROW_TOKENS_ELSEWHERE), budget)
        most = MOST_ROWS.get(device, max(1, budget // width))
        rows: Rows = []
        widths: list[int] = []
        texts = waiting[:size]
        while texts:
            row, tokens = self._row(texts, width)
            # A text that is longer than a row stays alone, so that it does not widen other rows.
            if rows and (len(rows) == most or max(widths[-1], tokens) > width):
                break
            rows.append(row)
            widths.append(tokens)
            texts = texts[len(row) :]
        if len(rows) > 1 and sum(widths) < (1 - MOST_PADDING) * len(rows) * max(widths):
            del rows[-1], widths[-1]
        return rows, len(rows) * max(widths)

    def _row(self, texts: Sequence[int], width: int) -> tuple[list[int], int]:
        """The first texts, as many as fit into a row, and their number of tokens.

        The row ends where the next text shares few tokens with the last one, since the next row repeats them.
        """
        own = [len(self.tokens[text]) - self.shared[text] for text in texts[: width + 1]]
        filled = np.cumsum([len(self.tokens[texts[0]]), *own[1:]])
        fitting = max(1, int(np.searchsorted(filled, width, side="right")))
        if fitting < len(texts):
            least = max(1, int(np.searchsorted(filled, LEAST_FILLED * width)))
            fitting = min(range(fitting, least - 1, -1), key=lambda end: self.shared[texts[end]], default=fitting)
        return list(texts[:fitting]), int(filled[fitting - 1])

    def inputs(self, rows: Rows) -> tuple[dict[str, Any], torch.Tensor]:
        """Arguments of the trunk, and the index of each text's last token in the flattened rows, (texts,)."""
        trees = [self._tree(row) for row in rows]
        width = max(len(tree[0]) for tree in trees)
        ids, depths, ends = (
            pad_sequence([torch.from_numpy(tree[part]) for tree in trees], batch_first=True, padding_value=fill)
            for part, fill in enumerate((0, 0, width))
        )
        count = len(self.prefix)
        for row, tree in zip(rows, trees, strict=True):
            self.farthest = max(self.farthest, (count + len(tree[0]) - 1, row[-1]))
        last = torch.from_numpy(np.concatenate([number * width + tree[3] for number, tree in enumerate(trees)]))
        device = self.model.device
        mask = ancestors(ends.to(device), self.model.dtype, count)
        inputs = {"input_ids": ids.to(device), "position_ids": depths.to(device) + count, "attention_mask": mask}
        return inputs | self.past(len(rows)), last

    def _tree(self, row: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The prefix tree of one row's texts.

        Returns:
            Of each token its id, its depth, and the index after its last descendant; of each text the index of its
            last token.
        """
        kept = [self.shared[text] if place else 0 for place, text in enumerate(row)]
        starts = np.cumsum([0, *(len(self.tokens[text]) - count for text, count in zip(row, kept, strict=True))])
        ends = np.full(starts[-1], starts[-1])
        path = np.empty(0, dtype=np.int64)  # index of the token at each depth of the current text
        last = []
        for start, end, count in zip(starts, starts[1:], kept, strict=False):
            ends[path[count:]] = start
            path = np.concatenate([path[:count], np.arange(start, end)])
            last.append(path[-1])
        ids = np.concatenate([self.tokens[text][count:] for text, count in zip(row, kept, strict=True)])
        depths = [np.arange(count, len(self.tokens[text])) for text, count in zip(row, kept, strict=True)]
        return ids, np.concatenate(depths), ends, np.array(last)


def ancestors(ends: torch.Tensor, dtype: torch.dtype, prefix: int = 0) -> torch.Tensor:
    """The mask that lets each token see itself, its ancestors and the prefix, to be added to attention scores.

    Args:
        ends: index after the last descendant of each token, (rows, tokens).
        prefix: number of tokens before the rows.

    Returns:
        (rows, 1, tokens, prefix + tokens).
    """
    index = torch.arange(ends.shape[1], device=ends.device)
    sees = pad((index <= index[:, None]) & (index[:, None] < ends[:, None]), (prefix, 0), value=True)
    # Additive, because eager attention takes no other mask.
    return torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


def common_length(first: np.ndarray, second: np.ndarray) -> int:
    """Number of equal tokens at the beginning of two texts."""
    length = min(len(first), len(second))
    differs = first[:length] != second[:length]
    return int(differs.argmax()) if differs.any() else length


def common_prefix(tokens: Sequence[list[int]]) -> int:
    """Number of tokens that all texts begin with, except each text's last token."""
    # In lexicographic order, all texts begin with what the first and the last have in common.
    return min(common_length(np.array(min(tokens)), np.array(max(tokens))), min(map(len, tokens)) - 1)


def shared_states(
    model: Model, tokens: Sequence[list[int]], texts: Sequence[str], batch_size: int | None
) -> torch.Tensor:
    """As `repe.vectors.hidden_states.last_token_states`, for the tokens of the texts."""
    plan = choose(model, tokens, batch_size)
    states = read(plan, texts, batch_size)
    if isinstance(plan, Packs) and not confirmed(plan, states):
        return read(Batches(model, tokens), texts, batch_size)
    return states


def choose(model: Model, tokens: Sequence[list[int]], batch_size: int | None) -> Batches:
    """How to read the texts: with the model's layout if it saves enough tokens, else in batches."""
    count = common_prefix(tokens)
    plain, packs, shared = Batches(model, tokens), Packs(model, tokens, count), Batches(model, tokens, count)
    most = (1 - LEAST_SAVED) * _padded_tokens(plain, batch_size)
    for plan, layout in ((packs, PACKED), (shared, PREFIX)):
        if _padded_tokens(plan, batch_size) < most and model.layout == layout:
            return plan
    return plain


def _padded_tokens(plan: Batches, batch_size: int | None) -> int:
    """Padded tokens of all forward passes."""
    waiting, total, budget = plan.order, len(plan.prefix), token_budget(plan.model)
    while waiting:
        rows, padded = plan.take(waiting, budget, batch_size)
        waiting, total = waiting[sum(map(len, rows)) :], total + padded
    return total


def confirmed(packs: Packs, states: torch.Tensor) -> bool:
    """Compare the texts that reach farther than any before with single texts; without success, pack no more.

    A model may attend to a window of tokens only, or count positions in the row where texts are long.
    """
    model, before = packs.model, len(packs.prefix)
    longest = max(range(len(packs.tokens)), key=lambda text: len(packs.tokens[text]))
    reach = (before + len(packs.tokens[longest]), longest), packs.farthest
    texts = [text for (count, text), known in zip(reach, model.verified, strict=True) if count > known]
    if texts:
        whole = Batches(model, [[*packs.prefix, *packs.tokens[text].tolist()] for text in texts])
        single = read(whole, [""] * len(texts), 1)
        if not relative_difference(states[:, texts], single) <= ROUNDING[model.dtype]:
            model.layout = BATCHES
            return False
    model.verified = max(reach[0][0], model.verified[0]), max(reach[1][0], model.verified[1])
    return True


@torch.inference_mode()
def find_layout(model: Model) -> str:
    """How a model can read several texts at once, found by comparison with single texts.

    Returns:
        PACKED if it takes a mask and positions for each token, PREFIX if it continues from keys and values of the
        texts' common beginning, else BATCHES.
    """
    for layout, differences in ((PACKED, _packed_differences), (PREFIX, _prefix_differences)):
        try:
            tokens = tokenize(model, CHECK_TEXTS)
            single = read(Batches(model, tokens), CHECK_TEXTS, 1)
            right, wrong = differences(model, tokens, single)
        # An unknown architecture may fail anywhere.
        except (UserError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        # Half precision hides a mask or positions that are ignored, which the comparison with wrong ones shows.
        if right <= ROUNDING[model.dtype] and right < wrong / 2:
            return layout
    return BATCHES


def _packed_differences(model: Model, tokens: Sequence[list[int]], single: torch.Tensor) -> tuple[float, float]:
    """Differences of packed from single texts, and the smaller of those with a wrong mask and with wrong positions."""
    packs = Packs(model, tokens, common_prefix(tokens))
    inputs, last = packs.inputs([packs.order])
    count, width = len(packs.prefix), inputs["input_ids"].shape[1]
    index = torch.arange(width, device=model.device)[None]
    causal = ancestors(torch.full_like(index, width), model.dtype, count)
    right, *wrong = (
        # A pass extends the keys and values that it is given.
        relative_difference(forward(model, inputs | packs.past(1) | changed, last), single[:, packs.order])
        for changed in ({}, {"attention_mask": causal}, {"position_ids": count + index})
    )
    return right, min(wrong)


def _prefix_differences(model: Model, tokens: Sequence[list[int]], single: torch.Tensor) -> tuple[float, float]:
    """Differences of texts after a common prefix from single texts, and of the same texts without the prefix."""
    shared = common_prefix(tokens)
    right, wrong = (
        relative_difference(read(plan, CHECK_TEXTS, len(tokens)), single)
        for plan in (Batches(model, tokens, shared), Batches(model, [ids[shared:] for ids in tokens]))
    )
    return right, wrong
