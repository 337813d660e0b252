"""Whether a model's states are what they should be: compared with those that Transformers itself gives."""

from collections.abc import Sequence

import torch

from repe.errors import UserError
from repe.models.loading import Model
from repe.vectors.hidden_states import last_token_states, tokenize

# Relative differences of states above these are more than rounding, by number type.
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
TEXT = "He lied."


def check_blocks(model: Model) -> None:
    """Refuse a model whose blocks do not give its hidden states, on one short text.

    Raises:
        UserError: they do not; the architecture is built in another way than the blocks that were found.
    """
    try:
        difference = relative_difference(last_token_states(model, [TEXT]), own_states(model, [TEXT]))
    except UserError:
        raise
    # An architecture that is built in another way may fail anywhere on it.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _unsupported(model, str(error).split("\n", maxsplit=1)[0]) from error
    if not difference <= ROUNDING[model.dtype]:
        raise _unsupported(model, f"their states differ from the model's own by {difference:.1g} of their length")


def _unsupported(model: Model, reason: str) -> UserError:
    kind = type(model.trunk).__name__
    return UserError(f"{model.label}: the blocks found in {kind} are not its layers ({reason}): take another model")


@torch.inference_mode()
def check_causal(model: Model) -> None:
    """Refuse a model that sees the tokens to come, and so cannot write a text from left to right.

    Raises:
        UserError: a text's beginning has other states by itself than within the text.
    """
    (ids,) = tokenize(model, [TEXT])
    row = torch.tensor([[*ids, *ids]], device=model.device)
    mask = torch.ones_like(row)
    whole = model.trunk(input_ids=row, attention_mask=mask, use_cache=False).last_hidden_state
    part = model.trunk(input_ids=row[:, : len(ids)], attention_mask=mask[:, : len(ids)], use_cache=False)
    if relative_difference(whole[:, : len(ids)], part.last_hidden_state) > ROUNDING[model.dtype]:
        raise UserError(f"{model.label} reads texts in both directions and cannot generate: take a causal model")


@torch.inference_mode()
def own_states(model: Model, texts: Sequence[str]) -> torch.Tensor:
    """What Transformers gives as `hidden_states[1:]` for the last token of each text by itself.

    Returns:
        (layers, texts, hidden).
    """
    columns = []
    for ids in tokenize(model, texts):
        row = torch.tensor([ids], device=model.device)
        mask = torch.ones_like(row)
        output = model.trunk(input_ids=row, attention_mask=mask, use_cache=False, output_hidden_states=True)
        columns.append(torch.stack([state[0, -1].to(model.device) for state in output.hidden_states[1:]]))
    return torch.stack(columns, dim=1)


def relative_difference(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest distance of two states (..., hidden), over the length of the reference."""
    difference = (found.float() - reference.float()).norm(dim=-1)
    return float((difference / reference.float().norm(dim=-1)).max())
