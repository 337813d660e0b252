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
from repe.compat.rep_control_reading_vec import DECODER_BLOCK, controlled, find_part
from repe.compat.rep_reading import RepEReader, make_reader
from repe.vectors.hidden_states import at_positions

READING, CONTROL = "rep-reading", "rep-control"


def repe_pipeline_registry() -> None:
    """Register 'rep-reading' and 'rep-control' with `transformers.pipeline`. Repeated calls do nothing."""
    for task, pipeline_class, kind in (
        (READING, RepReadingPipeline, transformers.AutoModel),
        (CONTROL, RepControlPipeline, transformers.AutoModelForCausalLM),
    ):
        # Transformers warns when a task is registered again.
        if PIPELINE_REGISTRY.supported_tasks.get(task, {}).get("impl") is not pipeline_class:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=pipeline_class, pt_model=kind)


class RepReadingPipeline(transformers.Pipeline):
    """Hidden states of texts and directions in them: `pipeline("rep-reading", model=..., tokenizer=...)`.

    Layers are indices into Transformers' `hidden_states`. Only the trunk runs: no vocabulary logits are computed.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """The states of texts, or their projections onto a reader's directions.

        Models with learned positions see shifted positions in texts that are padded on the left, as in RepE. Let the
        tokenizer pad on the right for them.

        Args:
            inputs: a text or a list of texts; with a batch size of 1 also a list of lists of texts.
            kwargs: `rep_token` (default -1): position of the token to read in the padded sequence; a negative number
                counts from each text's last token. `hidden_layers` (-1): a layer or a list. `rep_reader` (None): from
                `get_directions`. `component_index` (0): of the reader. `which_hidden_states`: `encoder` or `decoder`,
                for models that have both. `batch_size` (1): texts per pass. Others are passed to the tokenizer.

        Returns:
            For each text a dict by layer: with a reader float32 projections, otherwise states, float32 (1, hidden). As
            in RepE, a projection is a number for a batch size above 1 and otherwise an array (1,).

        Raises:
            ValueError: a layer, token, component or part does not exist, or a text has no tokens.
        """
        batched = (kwargs.get("batch_size") or self._batch_size or 1) != 1
        if batched and isinstance(inputs, list) and any(isinstance(text, (list, tuple)) for text in inputs):
            raise ValueError("lists of texts need batch_size=1: Transformers would keep only the first text of each")
        return super().__call__(inputs, **kwargs)

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
        which_hidden_states: str | None = None,
        **tokenizer_args: Any,
    ) -> RepEReader:
        """A reader of the concept in which the texts of each pair differ.

        Args:
            train_inputs: texts, those of a pair next to each other; or a list of pairs.
            rep_token, hidden_layers, batch_size, which_hidden_states, tokenizer_args: see `__call__`.
            n_difference, train_labels: see `RepEReader.fit`.
            direction_method: `pca`, `cluster_mean` or `random`.
            direction_finder_kwargs: `n_components` for `pca`, `needs_hiddens` for `random`.

        Raises:
            ValueError: as in `__call__` and `RepEReader.fit`.
        """
        if isinstance(train_inputs, str):
            raise ValueError("train_inputs must be a list of texts, not one text")
        reader = make_reader(direction_method, direction_finder_kwargs or {})
        layers = _layers(hidden_layers)
        if not reader.needs_hiddens:
            width = self.model.config.get_text_config().hidden_size
            return reader.fit({layer: np.empty((0, width), np.float32) for layer in layers}, 0, train_labels)
        texts = [text for inputs in train_inputs for text in ([inputs] if isinstance(inputs, str) else inputs)]
        if not texts:
            raise ValueError("train_inputs are empty: give pairs of texts")
        options = {"rep_token": rep_token, "which_hidden_states": which_hidden_states, "batch_size": batch_size}
        found = self(texts, hidden_layers=layers, rep_reader=None, **options, **tokenizer_args)
        states = {layer: np.concatenate([batch[layer] for batch in found]) for layer in layers}
        return reader.fit(states, n_difference, train_labels)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        own = ("rep_reader", "rep_token", "hidden_layers", "component_index", "which_hidden_states")
        forward = {name: parameters.pop(name) for name in own if name in parameters}
        return parameters, forward, {}

    def preprocess(self, inputs: str | list[str], **tokenizer_args: Any) -> Any:
        """Token ids and attention mask of a text."""
        tokens = self.tokenizer(inputs, return_tensors="pt", **tokenizer_args)
        if not tokens["input_ids"].shape[-1]:
            raise ValueError(f"the tokenizer produced no tokens for {inputs!r}")
        return tokens

    def _forward(
        self,
        model_inputs: Mapping[str, torch.Tensor],
        rep_reader: RepEReader | None = None,
        rep_token: int = -1,
        hidden_layers: int | Sequence[int] = -1,
        component_index: int = 0,
        which_hidden_states: str | None = None,
    ) -> dict[int, np.ndarray]:
        layers = _layers(hidden_layers)
        every, mask = self._hidden_states(model_inputs, which_hidden_states)
        if outside := [layer for layer in layers if not -len(every) <= layer < len(every)]:
            raise ValueError(f"hidden_layers: {outside[0]} is not in the range {-len(every)} to {len(every) - 1}")
        place = _place(rep_token, mask)
        states = {layer: at_positions(every[layer], place).float().cpu().numpy() for layer in layers}
        return states if rep_reader is None else rep_reader.transform(states, layers, component_index)

    def _hidden_states(
        self, inputs: Mapping[str, torch.Tensor], which: str | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Hidden states of all layers, and the attention mask (rows, tokens) of their tokens."""
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        if not self.model.config.is_encoder_decoder:
            return self.model.base_model(**inputs, output_hidden_states=True).hidden_states, mask
        if which not in ("encoder", "decoder"):
            raise ValueError(
                f"which_hidden_states must be 'encoder' or 'decoder' for {type(self.model).__name__}, not {which!r}"
            )
        if hasattr(self.model, "encoder") and hasattr(self.model, "decoder"):
            # As in RepE, the decoder reads the padding token as the tokenizer encodes it.
            started = self.tokenizer([self.tokenizer.pad_token] * len(mask), return_tensors="pt")["input_ids"]
            inputs = {**inputs, "decoder_input_ids": started.to(mask.device)}
        states = self.model(**inputs, output_hidden_states=True)[f"{which}_hidden_states"]
        return states, mask if which == "encoder" else mask.new_ones(states[-1].shape[:2])

    def postprocess(self, outputs: dict[int, Any]) -> dict[int, Any]:
        """The outputs, unchanged."""
        return outputs


class RepControlPipeline(transformers.TextGenerationPipeline):
    """Text generation with added directions: `pipeline("rep-control", model=..., tokenizer=..., layers=[-10, -11])`.

    The model is changed only while this pipeline generates.

    Args:
        model: a causal model.
        tokenizer: of the model; text generation in Transformers sets it to pad on the left.
        layers: blocks, from 0, or from -1 at the end (see `repe.compat.rep_control_reading_vec`).
        block_name: `decoder_block`, or a part of the blocks, see `WrappedReadingVecModel.wrap_block`.
        control_method: `reading_vec`.
        kwargs: as in 'text-generation'.

    Raises:
        ValueError: a block, part or method does not exist.
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
        for layer in self.layers:
            find_part(model, layer, block_name)
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(
        self,
        text_inputs: Any,
        activations: Mapping[int, torch.Tensor] | None = None,
        token_pos: TokenPos = None,
        operator: str = "linear_comb",
        **kwargs: Any,
    ) -> Any:
        """Generate.

        Args:
            text_inputs: prompts, as in 'text-generation'.
            activations: for each of `layers` (hidden,) or (1, hidden); None for generation without control.
            token_pos: the tokens to change in each pass, see `WrappedReadingVecModel.set_controller`.
            operator: `linear_comb`, `piecewise_linear` or `projection`.
            kwargs: as in 'text-generation', for example `batch_size`, `max_new_tokens` or `do_sample`.

        Raises:
            ValueError: as in `WrappedReadingVecModel.set_controller`.
        """
        if activations is not None:
            kwargs["control"] = {"activations": activations, "token_pos": token_pos, "operator": operator}
        return super().__call__(text_inputs, **kwargs)

    def _sanitize_parameters(self, control: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        return preprocess, forward if control is None else {**forward, "control": control}, postprocess

    def _forward(self, model_inputs: Any, control: dict[str, Any] | None = None, **generate_kwargs: Any) -> Any:
        if control is None:
            return super()._forward(model_inputs, **generate_kwargs)
        # Not around the whole call, because streamed inputs are read after it has returned.
        with controlled(self.model, self.layers, block_name=self.block_name, **control):
            return super()._forward(model_inputs, **generate_kwargs)


def _layers(hidden_layers: int | Sequence[int]) -> list[int]:
    layers = listed(hidden_layers)
    if not layers or any(not isinstance(layer, (int, np.integer)) for layer in layers):
        raise ValueError(f"hidden_layers {hidden_layers!r} must be an integer or a list of integers")
    return layers


def _place(rep_token: int, mask: torch.Tensor) -> torch.Tensor:
    """The index of each row's token, (rows,), on the padded sequence of the mask (rows, tokens)."""
    if not isinstance(rep_token, (int, np.integer)):
        raise ValueError(f"rep_token {rep_token!r} must be an integer")
    width = mask.shape[1]
    # With padding on the left this is the width of the batch, as in RepE; on the right, the end of each text.
    ends = width - mask.flip(dims=[1]).bool().int().argmax(dim=1)
    place = ends + int(rep_token) if rep_token < 0 else torch.full_like(ends, int(rep_token))
    if bool(((place < 0) | (place >= width)).any()):
        raise ValueError(f"rep_token {rep_token} is out of range for texts of {int(ends.min())} tokens")
    return place
