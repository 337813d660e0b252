"""Model folders: a local path, or a copy of a repository of the model hub."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repe.errors import UserError
from repe.models.limits import check_files

# Files of a model and its tokenizer; safetensors are preferred, the rest of a repository is never downloaded.
SMALL_FILES = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "*.bin")
# Other formats of the same weights, and the folders of other libraries.
NEVER = ("consolidated*", "*/*")
TOKENIZER_FILES = ("tokenizer.json", "*.model", "*.tiktoken")

# The fingerprint samples this many evenly spread pieces of this many bytes from each weight file.
PIECES, PIECE_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class ModelFolder:
    """Files of one model on this machine."""

    path: Path
    source: str
    """The hub id, or the folder's own name."""
    revision: str
    """The hub's commit; empty for a local folder."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further keywords of Transformers' loaders: `gguf_file`, if the model is a GGUF file."""

    @property
    def weights(self) -> list[Path]:
        """The files that contain the weights, sorted by name."""
        if self.options:
            return [self.path / self.options["gguf_file"]]
        return sorted(path for pattern in WEIGHTS for path in self.path.glob(pattern))

    def fingerprint(self) -> str:
        """Identifies the model: SHA-256 of config, tokenizer, and a sample spread over each weight file.

        Weights that are equal in the whole sample (up to 4 MiB per file, small files completely) count as the same.
        """
        # A GGUF file contains its config and tokenizer.
        patterns = () if self.options else ("config.json", *TOKENIZER_FILES)
        parts = [path.read_bytes() for path in sorted(path for pattern in patterns for path in self.path.glob(pattern))]
        for path in self.weights:
            size = path.stat().st_size
            parts.append(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for piece in range(PIECES):
                    file.seek(piece * max(PIECE_BYTES, (size - PIECE_BYTES) // (PIECES - 1)))
                    parts.append(file.read(PIECE_BYTES))
        return hashlib.sha256(b"\0".join(parts)).hexdigest()


def find(source: str, revision: str | None = None, with_code: bool = False) -> ModelFolder:
    """The model folder at a path, or of a hub id, downloaded if necessary.

    Args:
        source: path or hub id.
        revision: of a hub id; its newest by default.
        with_code: also download the Python code that comes with the weights.

    Raises:
        UserError: the folder or hub id does not exist, the hub cannot be reached, or access is denied.
    """
    path = Path(source)
    if path.suffix == ".gguf" and path.exists() and not path.is_dir():
        from repe.models.gguf_check import check_gguf  # only for this format

        check_gguf(path)
        return ModelFolder(path.parent, path.stem, "", {"gguf_file": path.name})
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"{path} has no config.json: give the folder of a Transformers model or a hub id with --model-path"
            )
        check_files(path)
        return ModelFolder(path, path.resolve().name, "")
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--model-path {source}: the folder does not exist, and a hub id has the form owner/name")
    return _download(source, revision, with_code)


def _download(hub_id: str, revision: str | None, with_code: bool) -> ModelFolder:
    from huggingface_hub import HfApi, errors, snapshot_download

    # The error below says once what the library would log on the way.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=20)
        names = [file.rfilename for file in info.siblings or []]
        weights = WEIGHTS[:1] if any(name.endswith(".safetensors") for name in names) else WEIGHTS
        wanted = [*SMALL_FILES, *weights, *(["*.py"] if with_code else [])]
        path = snapshot_download(hub_id, revision=info.sha, allow_patterns=wanted, ignore_patterns=[*NEVER])
        check_files(Path(path))
        return ModelFolder(Path(path), hub_id, str(info.sha))
    except errors.HFValidationError as error:
        raise UserError(
            f"--model-path {hub_id!r}: the folder does not exist, and this is not a valid hub id"
        ) from error
    except errors.GatedRepoError as error:
        raise UserError(f"{hub_id} is gated: request access on its page, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{hub_id} is neither a local folder nor a public model on the hub: check --model-path, or log in"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{hub_id} has no revision {revision!r}: check --revision") from error
    except (errors.HTTPError, OSError) as error:
        return _cached(hub_id, revision, error)


def _cached(hub_id: str, revision: str | None, reason: Exception) -> ModelFolder:
    """The copy of an earlier download, for when the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except OSError:
        raise UserError(
            f"{hub_id} is not on this machine and the model hub cannot be reached ({str(reason).splitlines()[0]}): "
            "download it on a machine with a network and give its folder with --model-path"
        ) from reason
    check_files(path)
    return ModelFolder(path, hub_id, path.name)
