"""Reading the released downloads, `reader_dict.pk` and `acc.pk`, without running code from them.

The files are PyTorch archives around a pickle. The pickle is checked before it is loaded, and all names in it stand for
functions and classes of this module, which hold data. Tensors, which results do not need, are left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from repe.errors import UserError, damaged_file
from repe.files import are_names, check_inside, open_regular
from repe.results import torch_archive

# Number types that the downloads can hold, by NumPy's code in a pickle.
_NUMBERS = ("f2", "f4", "f8", "b1", "i1", "i2", "i4", "i8", "u1")

Entry = TypeVar("Entry")


class _Dtype:
    """`numpy.dtype`: one of `_NUMBERS` in either byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in _NUMBERS:
            raise ValueError(f"numbers of type {code!r}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.numpy = self.numpy.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """`numpy.ndarray`, over the bytes in the file."""

    def __init__(self, *_: Any) -> None:
        self.numpy = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.numpy = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if fortran_order else "C")


class _Reader:
    """A reader of the released code: its attributes."""

    directions: Any
    direction_signs: Any


def _scalar(dtype: _Dtype, raw: bytes) -> float:
    (value,) = np.frombuffer(raw, dtype.numpy).tolist()
    return float(value)


_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_FUNCTIONS: dict[str, Any] = {
    "numpy.dtype": _Dtype,
    "_codecs.encode": lambda text, _: text.encode("latin1"),
    **{f"{core}._reconstruct": _Array for core in _CORES},
    **{f"{core}.scalar": _scalar for core in _CORES},
}
_CLASSES: dict[str, Any] = {
    "numpy.ndarray": _Array,
    **{f"repe.rep_readers.{kind}RepReader": _Reader for kind in ("ClusterMean", "PCA", "Random")},
}


def read_vectors(path: Path) -> dict[str, dict[str, Any]]:
    """Read a released `reader_dict.pk`.

    Returns:
        For each language `layers` [1..N], `directions` float32 (layers, components, hidden), `signs` int8 (layers,
        components), in file order.

    Raises:
        UserError: the file is damaged, does not hold readers by language, or names anything else than plain data.
    """
    return _read(path, _vectors, "concept vectors by language")


def read_accuracy(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read a released `acc.pk`: accuracy by source language, target language and layer (1..N).

    Raises:
        UserError: the file is damaged, does not hold accuracies, or names anything else than plain data.
    """
    return _read(path, _accuracies, "accuracies by source and target language")


def _read(path: Path, parse: Callable[[Any], Entry], expected: str) -> dict[str, Entry]:
    """What `parse` makes of each language's entry in the file."""
    try:
        with open_regular(check_inside(path, path.parents[1])) as file:
            content = torch_archive.unpickle(torch_archive.program_of(file), _FUNCTIONS, _CLASSES)
            if not isinstance(content, dict) or not are_names(content):
                raise ValueError("it has no language names")
            entries = [vars(entry) if isinstance(entry, _Reader) else entry for entry in content.values()]
            arrays = [leaf.numpy for leaf in torch_archive.leaves(entries) if isinstance(leaf, _Array)]
            torch_archive.check_size(sum(array.nbytes for array in arrays), file)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except UserError:
        raise
    # A damaged pickle can raise any type.
    except Exception as error:
        raise _refused(path, str(error).partition("\n")[0] or type(error).__name__) from error
    try:
        return {language: parse(entry) for language, entry in content.items()}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(path, f"it does not hold {expected}: {error}") from error


def _refused(path: Path, reason: str) -> UserError:
    return damaged_file(f"{path} is refused", reason, "download it again")


def _vectors(reader: _Reader) -> dict[str, Any]:
    layers = sorted(reader.directions)
    directions = np.stack([_array(reader.directions[layer]) for layer in layers]).astype(np.float32)
    signs = np.stack([np.atleast_1d(_array(reader.direction_signs[layer])) for layer in layers])
    if layers != list(range(1, len(layers) + 1)) or directions.ndim != 3 or signs.shape != directions.shape[:2]:
        raise ValueError("layers, directions and signs do not match")
    if not directions.any(axis=-1).all():
        raise ValueError("a direction is zero")
    if not np.isfinite(directions).all() or not np.isin(signs, (-1, 1)).all():
        raise ValueError("a direction is not finite, or a sign is neither 1 nor -1")
    return {"layers": layers, "directions": directions, "signs": signs.astype(np.int8)}


def _array(values: Any) -> np.ndarray:
    if isinstance(values, _Array):
        return values.numpy
    # No tensors: a few bytes can describe one that takes all memory as an array.
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise TypeError(f"{type(values).__name__} instead of an array")
    return np.array(values, dtype=np.float64)


def _accuracies(targets: Any) -> dict[str, dict[int, float]]:
    if not are_names(targets):
        raise ValueError("no language names")
    return {target: _accuracy_row(row) for target, row in targets.items()}


def _accuracy_row(row: dict[int, float]) -> dict[int, float]:
    in_range = all(isinstance(value, int | float) and 0 <= value <= 1 for value in row.values())
    if not row or sorted(row) != list(range(1, len(row) + 1)) or not in_range:
        raise ValueError("layers are not 1..N, or an accuracy is not in 0..1")
    return {int(layer): float(value) for layer, value in row.items()}
