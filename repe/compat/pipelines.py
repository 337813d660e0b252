"""RepE's pipelines for Transformers (Zou et al., arXiv 2310.01405): read a concept, and control generation with it.

from repe import repe_pipeline_registry
repe_pipeline_registry()
reading = transformers.pipeline("rep-reading", model=model, tokenizer=tokenizer)
control = transformers.pipeline("rep-control", model=model, tokenizer=tokenizer, layers=[-10, -11])
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers.pipelines import PIPELINE_REGISTRY

from repe.compat.block_control import LayerIds, TokenPos, listed
from repe.compat.rep_control_reading_vec import DECODER_BLOCK, controlled
from repe.compat.rep_reading import RepEReader
from repe.vectors.hidden_states import at_positions


def repe_pipeline_registry() -> None:
    """Register 'rep-reading' and 'rep-control' with `transformers.pipeline`. Repeated calls do nothing."""
    for task, pipeline_class, kind in (
        ("rep-reading", RepReadingPipeline, transformers.AutoModel),
        ("rep-control", RepControlPipeline, transformers.AutoModelForCausalLM),
    ):
        # Transformers warns when a task is registered again.
        if PIPELINE_REGISTRY.supported_tasks.get(task, {}).get("impl") is not pipeline_class:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=kind)


class RepReadingPipeline(transformers.Pipeline):
    """Hidden states of texts and directions in them: `pipeline("rep-reading", model=..., tokenizer=...)`.

    The model is a causal or an encoder model. Layers are indices into Transformers' `hidden_states`. Only the trunk
    runs: no vocabulary logits are computed.
    Models with learned positions see shifted positions in texts that are padded on the left, as in RepE. Let the
    tokenizer pad on the right for them.

    A call takes a text or a list of texts, and these options; others are passed to the tokenizer:
        rep_token (-1): position of the token to read in the padded sequence; a negative number counts from each text's
            last token.
        hidden_layers (-1): a layer or a list.
        rep_reader (None): from `get_directions`.
        component_index (0): component of the reader.
        batch_size (1): texts per pass.

    It returns for each text a dict by layer: with a reader float32 projections, otherwise states, float32 (1, hidden).
    As in RepE, a projection is a number for a batch size above 1 and otherwise an array (1,).

    It raises a ValueError if a text has no tokens or a layer or `rep_token` is out of range, and a KeyError or
    IndexError if the reader does not have a layer or component.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def get_directions(
        self,
        train_inputs: Sequence[str] | Sequence[Sequence[str]],
        rep_token: int = -1,
        hidden_layers: int | Sequence[int] = -1,
        n_difference: int = 1,
        batch_size: int = 8,
        train_labels: Sequence[Any] | None = None,
        direction_method: str = "pca",
        direction_finder_kwargs: Mapping[str, Any] | None = None,
        **tokenizer_args: Any,
    ) -> RepEReader:
        """A reader of the concept in which the texts of each pair differ.

        Args:
            train_inputs: texts, those of a pair next to each other; or a list of pairs.
            rep_token, hidden_layers, batch_size, tokenizer_args: as in a call.
            n_difference, train_labels: see `RepEReader.fit`.
            direction_method: `pca`, `cluster_mean` or `random`.
            direction_finder_kwargs: `n_components` for `pca`.

        Raises:
            ValueError: as in a call and in `RepEReader.fit`.
        """
        reader = RepEReader(direction_method, **direction_finder_kwargs or {})
        layers, texts = listed(hidden_layers), np.ravel(train_inputs).tolist()
        found = self(texts, rep_token=rep_token, hidden_layers=layers, batch_size=batch_size, **tokenizer_args)
        states = {layer: np.concatenate([batch[layer] for batch in found]) for layer in layers}
        return reader.fit(states, n_difference, train_labels)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        own = ("rep_reader", "rep_token", "hidden_layers", "component_index")
        forward = {name: parameters.pop(name) for name in own if name in parameters}
        return parameters, forward, {}

    def preprocess(self, inputs: str, **tokenizer_args: Any) -> Any:
        """Token ids and attention mask of a text."""
        tokens = self.tokenizer(inputs, return_tensors="pt", **tokenizer_args)
        # Of a list of texts, Transformers would keep only the first one's results.
        if len(tokens["input_ids"]) != 1 or not tokens["input_ids"].numel():
            raise ValueError(f"{inputs!r} is not a text, or the tokenizer produced no tokens for it")
        return tokens

    def _forward(
        self,
        model_inputs: Mapping[str, torch.Tensor],
        rep_reader: RepEReader | None = None,
        rep_token: int = -1,
        hidden_layers: int | Sequence[int] = -1,
        component_index: int = 0,
    ) -> dict[int, np.ndarray]:
        every = self.model.base_model(**model_inputs, output_hidden_states=True).hidden_states
        place = _place(rep_token, model_inputs.get("attention_mask", torch.ones_like(model_inputs["input_ids"])))
        layers = listed(hidden_layers)
        if outside := [layer for layer in layers if not -len(every) <= layer < len(every)]:
            raise ValueError(f"hidden_layers: {outside[0]} is not in the range {-len(every)} to {len(every) - 1}")
        states = {layer: at_positions(every[layer], place).float().cpu().numpy() for layer in layers}
        return states if rep_reader is None else rep_reader.transform(states, layers, component_index)

    def postprocess(self, outputs: dict[int, Any]) -> dict[int, Any]:
        """The outputs, unchanged."""
        return outputs


class RepControlPipeline(transformers.TextGenerationPipeline):
    """Text generation with added directions: `pipeline("rep-control", model=..., tokenizer=..., layers=[-10, -11])`.

    The model is changed only while this pipeline generates. A call takes the prompts and options of 'text-generation',
    for example `batch_size`, `max_new_tokens` or `do_sample`, and these:
        activations (None): for each of `layers` (hidden,) or (1, hidden); None for generation without control.
        token_pos (None): the tokens to change in each pass, see `WrappedReadingVecModel.set_controller`.
        operator ("linear_comb"): `linear_comb`, `piecewise_linear` or `projection`.

    It raises the errors of `WrappedReadingVecModel.wrap_block` and `set_controller`.

    Args:
        model: a causal model.
        tokenizer: of the model; text generation in Transformers sets it to pad on the left.
        layers: blocks, from 0, or from -1 at the end (see `repe.compat.rep_control_reading_vec`).
        block_name: `decoder_block`, or a part of the blocks, see `WrappedReadingVecModel.wrap_block`.
        control_method: `reading_vec`.
        kwargs: as in 'text-generation'.

    Raises:
        ValueError: the method is not known.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        layers: LayerIds,
        block_name: str = DECODER_BLOCK,
        control_method: str = "reading_vec",
        **kwargs: Any,
    ) -> None:
        if control_method != "reading_vec":
            raise ValueError(f"control_method {control_method!r} is not known: use 'reading_vec'")
        self.layers = listed(layers)
        self.block_name = block_name
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> Any:
        control = {name: kwargs.pop(name) for name in ("activations", "token_pos", "operator") if name in kwargs}
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return preprocess, {**forward, **control}, postprocess

    def _forward(
        self,
        model_inputs: Any,
        activations: Any = None,
        token_pos: TokenPos = None,
        operator: str = "linear_comb",
        **generate_kwargs: Any,
    ) -> Any:
        layers = [] if activations is None else self.layers
        # Not around the whole call, because streamed inputs are read after it has returned.
        with controlled(self.model, layers, activations, self.block_name, token_pos, operator):
            return super()._forward(model_inputs, **generate_kwargs)


def _place(rep_token: int, mask: torch.Tensor) -> torch.Tensor:
    """The index of each row's token, (rows,), on the padded sequence of the mask (rows, tokens)."""
    width = mask.shape[1]
    # With padding on the left this is the width of the batch, as in RepE; on the right, the end of each text.
    ends = width - mask.flip(dims=[1]).bool().int().argmax(dim=1)
    place = ends + rep_token if rep_token < 0 else torch.full_like(ends, rep_token)
    if bool(((place < 0) | (place >= width)).any()):
        raise ValueError(f"rep_token {rep_token} is out of range for texts of {int(ends.min())} tokens")
    return place
