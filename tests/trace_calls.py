"""Count what one run of stage 1 passes through before its first direction: python tests/trace_calls.py [--names]

Runs collect_vector.py on a pocket model in this process and counts the modules of `repe` and the named code in them
(functions and class bodies; no lambdas, comprehensions, module bodies or import hooks) that runs from the command line
up to the first direction.
"""

import runpy
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = next(path for path in (ROOT / "demo/pocket", ROOT / "demo") if (path / "models").is_dir())

# Importing these calls a million functions, none of which counts: it is done before the hook is set.
LIBRARIES = ("torch", "transformers.models.bloom.modeling_bloom", "sklearn.linear_model")


class _Done(BaseException):
    """Ends the run at the first direction."""


class CallCounter:
    """A profile hook that collects the functions and class bodies of `repe` that run.

    Args:
        package: the folder whose functions count.
        last: the name of the function that ends the run.
    """

    def __init__(self, package: Path, last: str) -> None:
        self.package = str(package.resolve()) + "/"
        self.last = last
        self.functions: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self.package):
            return
        if code.co_name.startswith("<") or code.co_qualname == "__getattr__":
            return
        self.functions.add((code.co_filename.removeprefix(self.package), code.co_qualname))
        if code.co_name == self.last:
            raise _Done

    @property
    def modules(self) -> set[str]:
        """The modules that the functions are in."""
        return {module for module, _ in self.functions}


def count() -> CallCounter:
    """The counter of one run of stage 1, one language of one concept. This process forgets the package before it."""
    counter = CallCounter(ROOT / "repe", "direction")
    with tempfile.TemporaryDirectory() as results:
        options = ["--model-path", str(DEMO / "models/pocket-bloom-S"), "--data-dir", str(DEMO / "data")]
        sys.argv = ["collect_vector.py", *options, "--lang", "en", "--concept", "morality", "--res-dir", results]
        sys.path.insert(0, str(ROOT))
        for library in LIBRARIES:
            import_module(library)
        # What the package remembers of earlier calls would be missing in the count.
        for name in [name for name in sys.modules if name.partition(".")[0] == "repe"]:
            del sys.modules[name]
        sys.setprofile(counter)
        try:
            runpy.run_path(str(ROOT / "collect_vector.py"), run_name="__main__")
        except _Done:
            pass
        finally:
            sys.setprofile(None)
    return counter


if __name__ == "__main__":
    NAMES = "--names" in sys.argv
    counted = count()
    if NAMES:
        print("\n".join(f"{module} {name}" for module, name in sorted(counted.functions)))
    print(f"{len(counted.modules)} modules, {len(counted.functions)} named functions")
