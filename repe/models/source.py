"""From the name of a model to a model in memory: files, tokenizer, template, number type, weights, and their check."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from repe.errors import UserError
from repe.files import open_regular
from repe.models import hub
from repe.models.limits import check_config, check_size, pinned_attention
from repe.models.model import Model, find_blocks
from repe.models.registry import AUTO, Template, check_template, resolve_template, untrained_suffix
from repe.vectors.hidden_states import ROUNDING, last_token_states, relative_difference, tokenize

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

CHECK_TEXT = "He lied."

# `model_type` of first-generation Qwen, whose checkpoints need their own reader.
QWEN1 = "qwen"

# Parts of a checkpoint above or beside the trunk.
HEADS = re.compile(
    r"(?:\w+\.)?(?:\w*head\w*|score|\w*classifier|cls|qa_outputs|embed_out|\w*pooler|vocab_\w+|generator_\w+"
    r"|discriminator_\w+|visual|vision_\w+|multi_modal_projector|mm_\w+)\."
)
# Buffers that older versions of Transformers saved and that are computed today.
COMPUTED = ("inv_freq", "masked_bias", "attn.bias", "attention.bias")


def load_model(
    source: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    template: str | None = None,
    *,
    revision: str | None = None,
    truncate: bool = False,
    trust_remote_code: bool = False,
    untrained: int | None = None,
) -> Model:
    """Load a model of Transformers, with its vocabulary head if it is a causal model.

    Args:
        source: folder, hub id or GGUF file (whose weights are dequantized).
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        dtype: `auto` (as published on a GPU, float32 on a CPU), `float32`, `float16` or `bfloat16`.
        template: text with `{input}` in the place of a sample's text; None for the chat template, or plain text.
        revision: of a hub id; its newest by default.
        truncate: cut texts that exceed the context length instead of refusing them.
        trust_remote_code: run Python code that comes with the weights.
        untrained: seed of random weights in place of the trained ones.

    Raises:
        UserError: the model cannot be found or loaded, or its states differ from Transformers' own.
    """
    found = ModelSource(
        label=Path(source).resolve().name.removesuffix(".gguf") + untrained_suffix(untrained),
        source=str(source),
        template_text=check_template(template or AUTO),
        revision=revision,
        device_name=device,
        dtype_name=dtype,
        truncate=truncate,
        trust_remote_code=trust_remote_code,
        untrained=untrained,
    )
    return found.load(with_head=found.is_causal)


@dataclass(frozen=True)
class ModelSource:
    """A model that is named but not yet loaded; each part is read when it is first needed."""

    label: str
    """Name in messages, and of the results folder."""
    source: str
    """Folder, hub id or GGUF file."""
    family: str = "none"
    """Key of `repe.paper.FAMILIES`: whose pre-training shares apply."""
    template_text: str = AUTO
    published_dtype: str | None = None
    """Type of the published weights, if known without reading them."""
    revision: str | None = None
    device_name: str = "auto"
    dtype_name: str = "auto"
    truncate: bool = False
    trust_remote_code: bool = False
    batch_size: int | None = None
    untrained: int | None = None
    """Seed of random weights in place of the trained ones."""
    gpu: int | None = None
    """Index of this process's GPU where several processes share the work."""
    _parsed: dict[Path, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The parsed GGUF file, until the weights are read."""

    @cached_property
    def folder(self) -> hub.ModelFolder:
        """Its files on this machine, downloaded if necessary."""
        return hub.find(self.source, self.revision, self.trust_remote_code)

    @property
    def is_local(self) -> bool:
        """Whether its files are available without a network."""
        return Path(self.source).exists()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of config.json."""
        with self._readable("the config"):
            path = self.folder.path / self.folder.options.get("gguf_file", "config.json")
            with open_regular(path):
                found = dict(transformers.PretrainedConfig.get_config_dict(self.folder.path, **self.folder.options)[0])
            check_config(found, path)
            return found

    @property
    def is_causal(self) -> bool:
        """Whether the checkpoint has a vocabulary head for generation."""
        names = [str(name) for name in self.config.get("architectures") or ()]
        is_known = self.folder.options or self.config.get("model_type") == QWEN1
        return bool(is_known) or any("CausalLM" in name or "LMHead" in name for name in names)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer.

        Raises:
            UserError: it does not exist or cannot be read.
        """
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        with self._readable("the tokenizer"):
            if self.config.get("model_type") == QWEN1:
                from repe.models.qwen1.tokenizer import load_tokenizer  # only for this one format

                return load_tokenizer(self.folder.path)
            return transformers.AutoTokenizer.from_pretrained(
                self.folder.path, trust_remote_code=self.trust_remote_code, local_files_only=True, **self.folder.options
            )

    @cached_property
    def template(self) -> Template:
        """The template, with `auto` resolved."""
        return resolve_template(self.template_text, self.tokenizer)

    @cached_property
    def device(self) -> torch.device:
        """Where it runs; `auto` is a GPU where there is one.

        Raises:
            UserError: the name is not valid, the device does not exist, or there are more processes than GPUs.
        """
        name, count = self.device_name, torch.cuda.device_count()
        available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if name == "auto":
            name = next(kind for kind, is_there in available.items() if is_there)
        try:
            device = torch.device(name)
        except RuntimeError:
            raise UserError(f"--device {name!r} is not a valid device: use auto, cpu, cuda, cuda:1 or mps") from None
        if not available.get(device.type) or (device.type == "cuda" and (device.index or 0) >= count):
            raise UserError(f"--device {name} is not available on this machine: use auto or cpu")
        if self.gpu is None or device != torch.device("cuda"):
            return device
        if self.gpu >= count:
            raise UserError(f"more processes than GPUs on this machine: start at most {count} here (--num_processes)")
        return torch.device("cuda", self.gpu)

    @cached_property
    def published(self) -> str:
        """Type of the published weights; float16 where the config names none of DTYPES."""
        name = self.published_dtype or str(self.config.get("dtype") or self.config.get("torch_dtype"))
        name = name.removeprefix("torch.")
        return name if name in DTYPES else "float16"

    @cached_property
    def dtype(self) -> torch.dtype:
        """Number type of weights and states: for `auto` float32 on a CPU, else that of the published weights."""
        auto = "float32" if self.device.type == "cpu" else self.published
        return DTYPES[auto if self.dtype_name == "auto" else self.dtype_name]

    @cached_property
    def record(self) -> dict[str, Any]:
        """What result files keep of the model: identity, prompt and number type."""
        return {
            "source": self.folder.source,
            "revision": self.folder.revision,
            "weights": self.folder.fingerprint() + ("" if self.untrained is None else f"-untrained-{self.untrained}"),
            "template": self.template.text,
            "special_tokens": self.template.special_tokens,
            "truncate": self.truncate,
            "dtype": str(self.dtype).removeprefix("torch."),
        }

    def load(self, with_head: bool = False) -> Model:
        """Read the weights and check that the states are correct.

        Args:
            with_head: also read the vocabulary head, for generation.

        Raises:
            UserError: the files are not a causal or encoder model of Transformers, parts are missing or damaged, or the
                states differ from Transformers' own.
        """
        with self._readable("the model"):
            lm = self._read(with_head)
            options: dict[str, Any] = {"truncate": self.truncate, "batch_size": self.batch_size}
            model = Model(lm, self.tokenizer, self.template, label=self.label, **options)
            self._parsed.clear()  # some hundred MB
        model.record = {"model": self.label, **self.record}
        check_states(model)
        if with_head:
            # Of the checkpoint's generation settings only the special tokens: the caller decides how to decode.
            names = ("bos_token_id", "eos_token_id", "pad_token_id")
            kept = {name: getattr(lm.generation_config, name) for name in names}
            lm.generation_config = transformers.GenerationConfig(**kept)
            check_causal(model)
        return model

    def _read(self, with_head: bool) -> Any:
        """The model with its vocabulary head, or its trunk."""
        # A GPU without a number means all of them; what does not fit stays on the CPU.
        on_all = self.device.type == "cuda" and self.device.index is None
        where: Any = "auto" if on_all else {"": str(self.device)}
        kind = transformers.AutoModelForCausalLM if with_head else transformers.AutoModel
        if self.config.get("model_type") == QWEN1:
            if self.untrained is not None:
                raise UserError("--untrained is not available for first-generation Qwen: use another model")
            from repe.models.qwen1.weights import load_model as load_qwen1  # only for this one format

            return load_qwen1(self.folder.path, dtype=self.dtype, device_map=where, trunk_only=not with_head)
        code = {"trust_remote_code": self.trust_remote_code}
        options = {"local_files_only": True, **code, **self.folder.options, **pinned_attention(self.config)}
        config = transformers.AutoConfig.from_pretrained(self.folder.path, **options)
        path = self.folder.path / self.folder.options.get("gguf_file", "config.json")
        check_size(config, partial(kind.from_config, **code), self.folder.weights, path)
        if self.untrained is not None:
            return self._random_weights(kind, config)
        lm, info = kind.from_pretrained(
            self.folder.path,
            dtype=self.dtype,
            device_map=where,
            output_loading_info=True,
            # Reported in `info` like what is missing, instead of an error that names no tensor.
            ignore_mismatched_sizes=True,
            **options,
        )
        self._check_weights(getattr(lm, "language_model", lm), info, with_head)
        return lm

    def _random_weights(self, kind: Any, config: Any) -> Any:
        """The architecture with weights as they are before training, drawn on the CPU so that a seed gives the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.untrained or 0)
            lm = kind.from_config(config, dtype=torch.float32, trust_remote_code=self.trust_remote_code)
        device = torch.device("cuda", 0) if self.device == torch.device("cuda") else self.device
        return lm.to(device=device, dtype=self.dtype)

    def _check_weights(self, trunk: nn.Module, info: dict[str, Any], with_head: bool) -> None:
        """Refuse a checkpoint that is not exactly the trunk; heads and poolers above it do not matter."""
        path, blocks = self.folder.path, find_blocks(trunk)
        if headless := [name for name in info["missing_keys"] if with_head and HEADS.match(name)]:
            raise UserError(
                f"{path} has no vocabulary head ({headless[0]} is missing): generation needs a causal model"
            )
        prefix = next(name for name, module in trunk.named_modules() if module is blocks) + "."
        extra = [
            name
            for name in info["unexpected_keys"]
            if not name.endswith(COMPUTED) and (prefix in name or not HEADS.match(name))
        ]
        faults = {
            "that the checkpoint lacks": [n for n in info["missing_keys"] if not n.startswith("pooler.")],
            "that the config does not describe": extra,
            "with another shape than in the config": [str(name) for name, *_ in info["mismatched_keys"]],
        }
        for what, names in faults.items():
            if names:
                raise UserError(
                    f"{path}: {len(names)} tensors {what}, for example {min(names)}: download config and weights again"
                )

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            if not self.folder.options:
                yield
                return
            from repe.models.gguf_check import parsed_once  # only for this format

            with parsed_once(self._parsed):
                yield
        except UserError:
            raise
        # Transformers raises OSError, ValueError, KeyError, RuntimeError and safetensors' own for damaged files.
        except Exception as error:
            reason, remedy = (
                " ".join(str(error).split()) or type(error).__name__,
                "fix the files or download them again",
            )
            if "trust_remote_code" in reason:
                reason = "it needs Python code that comes with it"
                remedy = "if you trust that code, give --trust-remote-code"
            path = self.folder.path / self.folder.options.get("gguf_file", "")
            raise UserError(f"{what} in {path} cannot be loaded ({reason[:200]}): {remedy}") from error


def check_states(model: Model) -> None:
    """Refuse a model whose blocks do not give its hidden states, on one short text.

    Raises:
        UserError: they do not: the architecture is not the stack of blocks that was found.
    """
    try:
        difference = relative_difference(last_token_states(model, [CHECK_TEXT]), own_states(model, [CHECK_TEXT]))
        reason = f"their states differ from the model's own by {difference:.1g} of their norm"
    except UserError:
        raise
    # An unknown architecture may fail anywhere.
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        difference, reason = float("inf"), str(error).split("\n", maxsplit=1)[0]
    if not difference <= ROUNDING[model.dtype]:
        kind = type(model.trunk).__name__
        raise UserError(f"{model.label}: the blocks found in {kind} are not its layers ({reason}): use another model")


@torch.inference_mode()
def check_causal(model: Model) -> None:
    """Refuse a bidirectional model, which cannot generate text from left to right.

    Raises:
        UserError: the beginning of a text has other states on its own than within the text.
    """
    (ids,) = tokenize(model, [CHECK_TEXT])
    row = torch.tensor([[*ids, *ids]], device=model.device)
    whole, part = (
        model.trunk(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
        for ids in (row, row[:, : len(ids)])
    )
    if relative_difference(whole[:, : len(ids)], part) > ROUNDING[model.dtype]:
        raise UserError(f"{model.label} reads texts in both directions and cannot generate: use a causal model")


@torch.inference_mode()
def own_states(model: Model, texts: Sequence[str]) -> torch.Tensor:
    """Transformers' own `hidden_states[1:]` for the last token of each text on its own, (layers, texts, hidden)."""
    columns = []
    for ids in tokenize(model, texts):
        row = torch.tensor([ids], device=model.device)
        mask = torch.ones_like(row)
        output = model.trunk(input_ids=row, attention_mask=mask, use_cache=False, output_hidden_states=True)
        columns.append(torch.stack([state[0, -1].to(model.device) for state in output.hidden_states[1:]]))
    return torch.stack(columns, dim=1)
