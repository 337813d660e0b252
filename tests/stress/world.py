"""A small world that all runs share: a model, data, and what undisturbed runs make of them."""

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

from stress.child import FORK, Child, count_steps

STAGES = ("collect_vector", "recognize_concept")
CONCEPTS = ("morality", "toxicity")
LANGUAGES = ("en", "fr", "zh", "vi")
LABEL = "tiny"
SEED = 1


def script(name: str, *arguments: object) -> None:
    """Run a script in this process, as from a command line; raises the SystemExit that it ends with."""
    sys.argv = [f"{name}.py", *map(str, arguments)]
    importlib.import_module(name).start()


def run_stages(stages: tuple[str, ...], *arguments: object) -> None:
    """Run one stage after the other in this process, until one fails."""
    for name in stages:
        try:
            script(name, *arguments)
        except SystemExit as ended:
            if ended.code:
                raise


@dataclass(frozen=True)
class World:
    """A model and data, and what an undisturbed run makes of them."""

    folder: Path
    expected: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0
    """Of an undisturbed run of both stages."""
    steps: int = 0
    """File operations below the results folder in such a run."""

    def options(self, res: Path, *more: object) -> list[object]:
        """Options of a run that writes to `res`."""
        given = ["--model-path", self.folder / LABEL, "--data-dir", self.folder / "data", "--device", "cpu"]
        return [*given, "--res-dir", res, *more]

    def child(
        self,
        res: Path,
        *more: object,
        stages: tuple[str, ...] = STAGES,
        before: Callable[[], object] = lambda: None,
    ) -> Child:
        """A fork that does `before`, then runs `stages` with these options."""
        return Child(lambda: (before(), run_stages(stages, *self.options(res, *more))))

    def new_results(self) -> Path:
        """An empty results folder."""
        return Path(tempfile.mkdtemp(prefix="res", dir=self.folder))

    @property
    def undisturbed(self) -> Path:
        """The results folder of an undisturbed run."""
        return self.folder / "undisturbed"


def make_world(folder: Path) -> World:
    """Build a model and data in `folder` and run both stages undisturbed."""
    world = World(folder)
    build(folder / LABEL, "llama")
    for concept, language in itertools.product(CONCEPTS, LANGUAGES):
        write_data(folder / "data", concept, language, 14)
    # Once in this process, so that every fork finds all modules imported.
    argv = sys.argv
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run_stages(STAGES, *world.options(folder / "warm", "--lang", "en", "--concept", "morality"))
    sys.argv = argv
    times, counted = [], FORK.RawValue("i", 0)
    folders = (folder / "first", folder / "second", world.undisturbed)
    for res in folders:
        start = time.perf_counter()
        ended = world.child(res, before=lambda res=res: count_steps(res, counted)).end()
        times.append(time.perf_counter() - start)
        assert ended.status == 0, ended
    steps = counted.value // len(folders)
    return replace(world, expected=snapshot(world.undisturbed), seconds=sorted(times)[1], steps=steps)


@contextlib.contextmanager
def temporary_world() -> Iterator[World]:
    """A world in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield make_world(Path(folder))


def snapshot(res: Path) -> dict[str, bytes]:
    """All files below a results folder but the locks, by relative path."""
    files = (path for path in sorted(res.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(res)): path.read_bytes() for path in files}


def litter(files: dict[str, bytes]) -> list[str]:
    """Temporary files among those of a snapshot."""
    return [name for name in files if Path(name).name.startswith(".")]


def results(files: dict[str, bytes]) -> dict[str, bytes]:
    """Those of a snapshot that are no temporary files."""
    return {name: raw for name, raw in files.items() if name not in litter(files)}
