"""Facts about a loaded model, and its hidden states compared with references."""

from collections.abc import Sequence

import torch

from repe.models.gguf_check import check_gguf
from repe.models.limits import physical_memory
from repe.models.model import Model
from repe.models.source import DTYPES, ModelSource, own_states
from repe.vectors.hidden_states import last_token_states, relative_difference, tokenize
from repe.vectors.packing import BATCHES, PACKED, PREFIX


def memory(source: ModelSource) -> dict[str, str]:
    """Memory that the weights need, vocabulary head included, and memory of the machine."""
    if source.folder.options:  # GGUF: weights are dequantized
        weights = check_gguf(source.folder.weights[0])
    else:
        on_disk = sum(path.stat().st_size for path in source.folder.weights)
        weights = on_disk // DTYPES[source.published].itemsize
    needed = weights * source.dtype.itemsize
    rows = {"weights": f"about {_size(needed)} in {source.dtype}"}
    if source.device.type == "cuda":
        free = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
        return rows | {"free GPU memory": f"{_size(free)} (layers that do not fit run on the CPU, slowly)"}
    return rows | {"memory": _size(physical_memory())}


def architecture(model: Model) -> dict[str, str]:
    """Names and sizes of the parts of a model."""
    states = 1000 * model.layers * model.hidden_size * model.dtype.itemsize
    return {
        "trunk": f"{type(model.trunk).__module__.split('.')[-1]}.{type(model.trunk).__name__}",
        "blocks": f"{model.layers} of {type(model.blocks[0]).__name__}",
        "hidden size": f"{model.hidden_size} (hidden states of 1,000 texts: {_size(states)})",
        "dtype, device": f"{str(model.dtype).removeprefix('torch.')} on {model.device}",
        "context length": str(model.max_tokens or "no limit"),
    }


def text_input(model: Model, text: str) -> dict[str, str]:
    """How a text reaches a model: template, special tokens, last token."""
    (ids,) = tokenize(model, [text])
    return {
        "template": repr(model.template.text),
        "special tokens": "added by the tokenizer" if model.template.special_tokens else "from the chat template",
        "tokenized text": repr(model.tokenizer.decode(ids)),
        "last token": f"{model.tokenizer.decode(ids[-1:])!r} (id {ids[-1]}, the last of {len(ids)})",
        "tokenizer padding side": f"{model.tokenizer.padding_side} (does not affect the results)",
    }


def differences(model: Model, texts: Sequence[str]) -> dict[str, float]:
    """Largest differences of the texts' hidden states from two references, relative to the length of a state.

    Returns:
        `batch against single`: all texts in one batch, against batches of one; `against Transformers`: batches of one,
        against Transformers' own hidden states.
    """
    single = last_token_states(model, texts, batch_size=1)
    batch = last_token_states(model, texts, batch_size=len(texts))
    return {
        "batch against single": relative_difference(batch, single),
        "against Transformers": relative_difference(single, own_states(model, texts)),
    }


def reading(model: Model) -> dict[str, str]:
    """How texts that share tokens are read, found by comparison with single texts."""
    meaning = {
        PACKED: "packed into rows, each distinct token once",
        PREFIX: "in padded batches, after a prefix of all texts that is read once",
        BATCHES: "in padded batches",
    }
    return {"texts are read": meaning[model.layout]}


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
