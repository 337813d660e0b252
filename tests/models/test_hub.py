"""Model folders: local ones, downloads from the hub, and the fingerprint of weights."""

from pathlib import Path

import huggingface_hub
import pytest
from conftest import build
from huggingface_hub import errors

from repe.errors import UserError
from repe.models import hub


def test_the_fingerprint_depends_on_the_weights(tmp_path: Path) -> None:
    folders = [build(tmp_path / name, "llama", seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, same, other = (hub.find(str(folder)).fingerprint() for folder in folders)
    assert first == same != other


def hub_error(kind: type[Exception]) -> Exception:
    import httpx2  # the HTTP client of huggingface_hub

    request = httpx2.Request("GET", "https://hub.example/api")
    return kind("no", response=httpx2.Response(403, request=request))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "owner/name is gated: request access on its page, then log in"),
        (errors.RepositoryNotFoundError, "owner/name is neither a local folder nor a public model on the hub"),
        (errors.RevisionNotFoundError, "owner/name has no revision 'v9': check --revision"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(UserError, match=message):
        hub.find("owner/name", "v9")


def test_a_download_takes_one_commit_and_only_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, object] = {}

    class File:
        def __init__(self, name: str) -> None:
            self.rfilename = name

    class Info:
        sha = "abc123"
        siblings = (File("model.safetensors"), File("pytorch_model.bin"), File("original/consolidated.pth"))

    def download(hub_id: str, **options: object) -> str:
        asked.update(options, hub_id=hub_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: Info())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = hub.find("owner/name", "main")
    assert folder == hub.ModelFolder(tmp_path, "owner/name", "abc123")
    assert asked["revision"] == "abc123"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not {"*.bin", "*.py"} & {*asked["allow_patterns"]}
    hub.find("owner/name", "main", with_code=True)
    assert "*.py" in asked["allow_patterns"]


def test_an_earlier_download_is_used_when_the_hub_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    def cached(hub_id: str, *, revision: str | None, local_files_only: bool) -> str:
        assert local_files_only
        return str(tmp_path / "abc123")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert hub.find("owner/name").revision == "abc123"
