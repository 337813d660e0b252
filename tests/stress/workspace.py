"""The model and data that all runs share, and the results of undisturbed runs."""

import contextlib
import importlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from conftest import build, write_data

from stress.forked_process import FORK, ForkedProcess, count_steps

STAGES = ("collect_vector", "recognize_concept")
CONCEPTS = ("morality", "toxicity")
LANGUAGES = ("en", "fr", "zh", "vi")
LABEL = "tiny"
SEED = 1


def script(name: str, *arguments: object) -> None:
    """Run a script in this process as from a command line; raises its SystemExit."""
    sys.argv = [f"{name}.py", *map(str, arguments)]
    importlib.import_module(name).start()


def run_stages(stages: tuple[str, ...], *arguments: object) -> None:
    """Run stages in this process one after another, until one fails."""
    for name in stages:
        try:
            script(name, *arguments)
        except SystemExit as ended:
            if ended.code:
                raise


@dataclass(frozen=True)
class Workspace:
    """A model and data, and the results of an undisturbed run."""

    folder: Path
    expected: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0
    """Duration of an undisturbed run of both stages."""
    steps: int = 0
    """File operations below the results folder in such a run."""

    def options(self, res: Path, *more: object) -> list[object]:
        """Options of a run that writes to `res`."""
        given = ["--model-path", self.folder / LABEL, "--data-dir", self.folder / "data", "--device", "cpu"]
        return [*given, "--res-dir", res, *more]

    def start(
        self,
        res: Path,
        *more: object,
        stages: tuple[str, ...] = STAGES,
        before: Callable[[], object] = lambda: None,
    ) -> ForkedProcess:
        """A fork that calls `before`, then runs `stages` with these options."""
        return ForkedProcess(lambda: (before(), run_stages(stages, *self.options(res, *more))))

    def new_results(self) -> Path:
        """An empty results folder."""
        return Path(tempfile.mkdtemp(prefix="res", dir=self.folder))

    @property
    def undisturbed(self) -> Path:
        """The results folder of an undisturbed run."""
        return self.folder / "undisturbed"


def make_workspace(folder: Path) -> Workspace:
    """Build a model and data in `folder`, and run both stages undisturbed."""
    workspace = Workspace(folder)
    build(folder / LABEL, "llama")
    for concept, language in itertools.product(CONCEPTS, LANGUAGES):
        write_data(folder / "data", concept, language, 14)
    # Once in this process, so that all modules are imported in every fork.
    argv = sys.argv
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run_stages(STAGES, *workspace.options(folder / "warm", "--lang", "en", "--concept", "morality"))
    sys.argv = argv
    times, counted = [], FORK.RawValue("i", 0)
    folders = (folder / "first", folder / "second", workspace.undisturbed)
    for res in folders:
        start = time.perf_counter()
        ended = workspace.start(res, before=lambda res=res: count_steps(res, counted)).end()
        times.append(time.perf_counter() - start)
        assert ended.status == 0, ended
    steps = counted.value // len(folders)
    return replace(workspace, expected=snapshot(workspace.undisturbed), seconds=sorted(times)[1], steps=steps)


@contextlib.contextmanager
def temporary_workspace() -> Iterator[Workspace]:
    """A workspace in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield make_workspace(Path(folder))


def snapshot(res: Path) -> dict[str, bytes]:
    """The bytes of all files below a results folder except locks, by relative path."""
    files = (path for path in sorted(res.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(res)): path.read_bytes() for path in files}


def litter(files: dict[str, bytes]) -> list[str]:
    """Temporary files in a snapshot."""
    return [name for name in files if Path(name).name.startswith(".")]


def results(files: dict[str, bytes]) -> dict[str, bytes]:
    """A snapshot without temporary files."""
    return {name: raw for name, raw in files.items() if name not in litter(files)}
