"""What every `.pt` result file has: meta, which says what made it; and reading the file, with or without tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repe.errors import UserError, damaged_file
from repe.files import are_names, check_inside
from repe.results import torch_archive

# Results in one file must agree in these; other parts of meta (versions, sources) are only kept for the record.
SETTINGS = (
    *("weights", "template", "special_tokens", "truncate", "dtype"),
    *("split", "split_by", "folds", "method", "random_direction", "seed"),
)
# Values of settings that a file's meta does not mention.
DEFAULTS = {"split_by": "pair"}

# Types of values in meta, and in its dicts.
PLAIN = (str, int, float, bool, type(None))

# Inputs by language, as digests in meta: pairs (of targets) and, for accuracies, vectors (of sources).
INPUTS = ("data", "vectors")


def setting(meta: Mapping[str, Any], name: str) -> Any:
    """The value of one of SETTINGS in `meta`."""
    return meta.get(name, DEFAULTS.get(name))


def damaged(path: Path, reason: str) -> UserError:
    """The error for a result file that cannot be used."""
    return damaged_file(f"{path} is damaged", reason, "delete it and run the stage again, or restore a copy")


def read_archive(path: Path, read: Callable[[Path], Any] = torch_archive.read) -> Any:
    """The content of a `.pt` file in a model's folder, unchecked.

    Args:
        path: `<model>/<concept>/<file>`.
        read: with or without tensors.

    Raises:
        UserError: it is damaged, cannot be read, would run code, or is a link to another folder.
    """
    try:
        return read(check_inside(path, path.parents[1]))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    # Damaged archives can raise any type; the check of the pickle has refused anything that would run code.
    except Exception as error:
        raise damaged(path, "not an archive of plain data and tensors") from error


def read_meta(path: Path) -> dict[str, Any]:
    """The checked meta of a `.pt` file, with the number of `layers`; no tensors are read.

    Raises:
        UserError: as `read_archive`.
    """
    content = read_archive(path, torch_archive.read_plain)
    try:
        check_meta(content["meta"])
        return {**content["meta"], "layers": len(content["layers"])}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, str(error)) from error


def check_meta(meta: Any) -> None:
    """Raise an error that names the fault if `meta` holds anything but plain values, and dicts of them."""
    for name, value in meta.items():
        inside = value.values() if isinstance(value, dict) else [value]
        keys = value.keys() if isinstance(value, dict) else ()
        expect(are_texts([name]) and are_names(keys) and all(type(one) in PLAIN for one in inside), f"{name} in meta")
        "".join(map(str, inside)).encode()  # refuses half a surrogate pair, which no text file can hold
    for name in INPUTS:
        expect(are_texts(meta.get(name, {}).values()), f"{name} in meta")
    expect(not any(isinstance(meta.get(name), dict) for name in SETTINGS), "settings in meta")


def are_texts(values: Any) -> bool:
    """Whether all values are strings."""
    return all(isinstance(value, str) for value in values)


def expect(condition: Any, fault: str) -> None:
    """Raise a ValueError with `fault` unless the condition holds."""
    if not condition:
        raise ValueError(fault)
