"""Model folders: a local path, or a copy of a model hub's repository."""

import logging
from dataclasses import dataclass
from pathlib import Path

from repe.errors import UserError
from repe.files import sha256

# What a model and its tokenizer are read from; safetensors first, the rest of a repository is never fetched.
SMALL_FILES = ("*.json", "*.model", "*.tiktoken", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors", "*.bin")

FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelFolder:
    """Files of one model on this machine."""

    path: Path
    source: str
    """As the user named it: a hub id, or the folder's own name."""
    revision: str
    """The hub's commit; empty for a local folder."""

    def fingerprint(self) -> str:
        """Tells weights apart: SHA-256 over the config, and each weight file's name, size and first mebibyte."""
        parts = [(self.path / "config.json").read_bytes()]
        for path in sorted(path for pattern in WEIGHTS for path in self.path.glob(pattern)):
            with path.open("rb") as file:
                parts += [f"{path.name} {path.stat().st_size}".encode(), file.read(FINGERPRINT_BYTES)]
        return sha256(b"\0".join(parts))


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


def find(source: str, revision: str | None = None) -> ModelFolder:
    """The model folder at a path, or of a hub id, downloaded if need be.

    Raises:
        UserError: there is no such folder or hub id, no way to reach the hub, or no right to read it.
    """
    folder = local(source)
    if folder:
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--model-path {source}: there is no such folder, and a hub id has the form owner/name")
    return _download(source, revision)


def _download(hub_id: str, revision: str | None) -> ModelFolder:
    from huggingface_hub import HfApi, errors, snapshot_download

    # What the library logs on the way to an error is said once, in the error's own line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        info = HfApi().model_info(hub_id, revision=revision, timeout=20)
        names = [file.rfilename for file in info.siblings or []]
        weights = WEIGHTS[:1] if any(name.endswith(".safetensors") for name in names) else WEIGHTS
        path = snapshot_download(hub_id, revision=info.sha, allow_patterns=[*SMALL_FILES, *weights])
        return ModelFolder(Path(path), hub_id, str(info.sha))
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
