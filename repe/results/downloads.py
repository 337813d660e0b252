"""Reading the released downloads, `reader_dict.pk` and `acc.pk`, without executing what a pickle asks for.

The files are PyTorch archives around a pickle. A pickle is a program that may call anything it can name; here every
name that it may use stands for a class of this module that holds data and does nothing, and every other is refused.
"""

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from repe.errors import DamagedFileError, UserError
from repe.files import Zip, is_plain_name

# Number types that the downloads can hold, by numpy's code in a pickle.
_NUMBERS = ("f2", "f4", "f8", "b1", "i1", "i2", "i4", "i8", "u1")
# Number types of PyTorch's storages, by the name of the storage class.
_STORAGES = {"HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "LongStorage": "i8", "CharStorage": "i1"}


class _Data:
    """Base of what a pickle may make; as `__setstate__` exists, a pickle cannot set attributes of the class itself."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("state for an object that takes none")


class _Dtype(_Data):
    __slots__ = ("numpy",)

    def __init__(self, code: str, *_: Any) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"numbers of type {code!r}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.numpy = self.numpy.newbyteorder(">" if state[1] == ">" else "<")


class _Latin1(_Data):
    """`_codecs.encode`, with which old pickles write bytes."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes as {encoding!r}")
        return text.encode("latin1")


class _Scalar(_Data):
    def __new__(cls, dtype: _Dtype, raw: bytes) -> float:  # type: ignore[misc]
        (value,) = np.frombuffer(raw, dtype.numpy).tolist()
        return float(value)


class _Array(_Data):
    __slots__ = ("numpy",)

    def __init__(self, *_: Any) -> None:
        self.numpy = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.numpy = np.frombuffer(raw, dtype.numpy).reshape(shape, order="F" if fortran_order else "C")


class _ArrayType(_Data):
    """`numpy.ndarray`, which is named only as the type that `_reconstruct` makes."""


class _Tensor(_Data):
    """`torch._utils._rebuild_tensor_v2`: readers of the `pca` method keep a mean as a tensor."""

    def __new__(cls, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:  # type: ignore[misc]
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride) < 0 or max(last + 1, math.prod(size)) > len(storage):
            raise pickle.UnpicklingError("a tensor outside of its storage")
        steps = tuple(step * storage.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()


class _Reader(_Data):
    """A released reader: its attributes, whatever they are."""

    __slots__ = ("attributes",)

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = dict(state)


class _Mapping(_Data):
    """`collections.OrderedDict`, which PyTorch writes, empty, beside every tensor."""

    def __new__(cls) -> dict:  # type: ignore[misc]
        return {}


class _Storage(_Data):
    __slots__ = ()
    code = ""


_ALLOWED: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _Latin1,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _ArrayType,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("collections", "OrderedDict"): _Mapping,
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED |= {(_core, "_reconstruct"): _Array, (_core, "scalar"): _Scalar}
for _name in ("ClusterMeanRepReader", "PCARepReader", "RandomRepReader"):
    _ALLOWED[("repe.rep_readers", _name)] = _Reader
for _name, _code in _STORAGES.items():
    _ALLOWED[("torch", _name)] = type(_name, (_Storage,), {"__slots__": (), "code": _code})


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, member: str) -> None:
        # From memory: a member left open would keep the file open after a refusal.
        super().__init__(io.BytesIO(archive.read(member)))
        self.archive, self.folder = archive, member.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> type:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no result file needs") from None

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, _ = pid
        if kind != "storage" or not issubclass(storage, _Storage) or not str(key).isdigit():
            raise pickle.UnpicklingError("a reference that is no tensor storage")
        return np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), storage.code)


def _refused(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is refused", reason, "download it again")


def _load(path: Path) -> dict[str, Any]:
    """The dict that a released file holds, made of plain data and this module's classes.

    Raises:
        UserError: the file is damaged, or asks for something that no result file needs (nothing is run).
    """
    try:
        with Zip(path) as archive:
            (member,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            # PyTorch stores, it does not compress: what unpacks to more than the file is made to fill the memory.
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise pickle.UnpicklingError("it is compressed, which no result file is")
            content = _Unpickler(archive, member).load()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    # Whatever a damaged program of a pickle does wrong, the file is at fault: no code of its own ever ran.
    except Exception as error:
        raise _refused(path, str(error) or type(error).__name__) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) and is_plain_name(name) for name in content):
        raise _refused(path, "it holds no table by language")
    return content


def read_vectors(path: Path) -> dict[str, dict[str, Any]]:
    """Read a released `reader_dict.pk`.

    Returns:
        For each language `layers` [1..N], `directions` float32 (layers, components, hidden), `signs` int8 (layers,
        components), in file order.

    Raises:
        UserError: the file is damaged, is no table of readers, or asks for more than data.
    """
    try:
        return {language: _vectors(reader) for language, reader in _load(path).items()}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(path, f"no table of concept vectors by language: {error}") from error


def _vectors(reader: _Reader) -> dict[str, Any]:
    directions, signs = reader.attributes["directions"], reader.attributes["direction_signs"]
    layers = sorted(directions)
    stacked = np.stack([_array(directions[layer]) for layer in layers]).astype(np.float32)
    signed = np.stack([np.atleast_1d(_array(signs[layer])) for layer in layers])
    if layers != list(range(1, len(layers) + 1)) or stacked.ndim != 3 or signed.shape != stacked.shape[:2]:
        raise ValueError("layers, directions and signs do not fit")
    if not stacked.any(axis=-1).all():
        raise ValueError("a direction is zero")
    if not np.isfinite(stacked).all() or not np.isin(signed, (-1, 1)).all():
        raise ValueError("a direction is not finite, or a sign is neither 1 nor -1")
    return {"layers": layers, "directions": stacked, "signs": signed.astype(np.int8)}


def _array(values: Any) -> np.ndarray:
    return values.numpy if isinstance(values, _Array) else np.asarray(values, dtype=np.float64)


def _accuracy_row(row: dict[int, float]) -> dict[int, float]:
    values = {int(layer): float(value) for layer, value in row.items()}
    if (
        not values
        or sorted(values) != list(range(1, len(values) + 1))
        or not all(0 <= value <= 1 for value in values.values())
    ):
        raise ValueError("layers are not 1..N, or an accuracy is not in 0..1")
    return values


def read_accuracy(path: Path) -> dict[str, dict[str, dict[int, float]]]:
    """Read a released `acc.pk`: accuracy by source language, target language and layer (1..N).

    Raises:
        UserError: the file is damaged, is no such table, or asks for more than data.
    """
    try:
        return {
            source: {target: _accuracy_row(row) for target, row in targets.items()}
            for source, targets in _load(path).items()
        }
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(path, f"no table of accuracies by source and target: {error}") from error
