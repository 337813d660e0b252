"""Model folders: a local path, or a copy of a model hub's repository."""

import logging
from dataclasses import dataclass
from pathlib import Path

from repe.errors import UserError
from repe.files import sha256

# What a model and its tokenizer are read from; safetensors first, the rest of a repository is never fetched.
SMALL_FILES = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "*.bin")
# Other forms of the same weights, and the folders of other libraries.
NEVER = ("consolidated*", "*/*")
TOKENIZER_FILES = ("tokenizer.json", "*.model", "*.tiktoken")

# Of each weight file, so many pieces of so many bytes, evenly spread, make its part of the fingerprint.
PIECES, PIECE_BYTES = 64, 1 << 16


@dataclass(frozen=True)
class ModelFolder:
    """Files of one model on this machine."""

    path: Path
    source: str
    """As the user named it: a hub id, or the folder's own name."""
    revision: str
    """The hub's commit; empty for a local folder."""

    def fingerprint(self) -> str:
        """Tells models apart: SHA-256 over config, tokenizer, and a sample spread over each weight file.

        Weights that differ nowhere in the sample (up to 4 MiB a file, small files whole) count as the same.
        """
        parts = [path.read_bytes() for path in self._files("config.json", *TOKENIZER_FILES)]
        for path in self._files(*WEIGHTS):
            size = path.stat().st_size
            parts.append(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for piece in range(PIECES):
                    file.seek(piece * max(PIECE_BYTES, (size - PIECE_BYTES) // (PIECES - 1)))
                    parts.append(file.read(PIECE_BYTES))
        return sha256(b"\0".join(parts))

    def _files(self, *patterns: str) -> list[Path]:
        return sorted(path for pattern in patterns for path in self.path.glob(pattern))


def local(source: str) -> ModelFolder | None:
    """The model folder at the path `source`; None if there is no such folder."""
    path = Path(source)
    if not path.is_dir():
        return None
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} has no config.json: --model-path takes the folder of a Transformers model, or a hub id"
        )
    return ModelFolder(path, path.resolve().name, "")


def find(source: str, revision: str | None = None, with_code: bool = False) -> ModelFolder:
    """The model folder at a path, or of a hub id, downloaded if need be.

    Args:
        source: path or hub id.
        revision: of a hub id; its newest unless given.
        with_code: fetch the Python code that comes with the weights, too.

    Raises:
        UserError: there is no such folder or hub id, no way to reach the hub, or no right to read it.
    """
    folder = local(source)
    if folder:
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--model-path {source}: there is no such folder, and a hub id has the form owner/name")
    return _download(source, revision, with_code)


def _download(hub_id: str, revision: str | None, with_code: bool) -> ModelFolder:
    from huggingface_hub import HfApi, errors, snapshot_download

    # What the library logs on the way to an error is said once, in the error's own line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=20)
        names = [file.rfilename for file in info.siblings or []]
        weights = WEIGHTS[:1] if any(name.endswith(".safetensors") for name in names) else WEIGHTS
        wanted = [*SMALL_FILES, *weights, *(["*.py"] if with_code else [])]
        path = snapshot_download(hub_id, revision=info.sha, allow_patterns=wanted, ignore_patterns=[*NEVER])
        return ModelFolder(Path(path), hub_id, str(info.sha))
    except errors.HFValidationError as error:
        raise UserError(f"--model-path {hub_id!r}: there is no such folder, and it is no valid hub id") from error
    except errors.GatedRepoError as error:
        raise UserError(f"{hub_id} is gated: ask for access on its page, then log in with `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{hub_id} is neither a folder here nor a public model on the hub: check --model-path, or log in"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{hub_id} has no revision {revision!r}: check --revision") from error
    except (errors.HTTPError, OSError) as error:
        return _cached(hub_id, revision, error)


def _cached(hub_id: str, revision: str | None, reason: Exception) -> ModelFolder:
    """The copy that an earlier download left, for when the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except OSError:
        raise UserError(
            f"{hub_id} is not on this machine and the model hub cannot be reached ({str(reason).splitlines()[0]}): "
            "download it where there is a network, and give its folder with --model-path"
        ) from reason
    return ModelFolder(path, hub_id, path.name)
