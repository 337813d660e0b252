"""Fuzzed result files are read as they were written, or refused."""

import contextlib
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from repe.errors import UserError
from repe.results.accuracy_file import AccuracyFile
from repe.results.result_file import Kind
from repe.results.vector_file import VectorFile
from repe.vectors.concept_vectors import ConceptVectors
from repe.vectors.readers import ClusterMeanRepReader
from stress.files import KINDS, ResultFile, path_of, pickled_part, put, rezipped, saved
from stress.fuzz import fuzz
from stress.mutations import Mutation, damaged, flipped, flipped_member, mutated, mutations, places
from stress.outcome import Outcome
from stress.workspace import LABEL, Workspace


def _looped() -> list:
    loop: list = []
    loop.append(loop)
    return loop


def result_junk() -> list[Any]:
    """Values that do not belong in a result file, or belong at another place in it."""
    plain = [None, -3, 1.5, float("nan"), 10**400, "text", "../x", b"raw", [], {}, [1], {"a": 1}, _looped()]
    numbers = [torch.tensor(0.5), torch.zeros(2), torch.zeros(0, 1, 4), torch.zeros(3, dtype=torch.complex64)]
    odd = [torch.eye(3).to_sparse(), torch.nn.Parameter(torch.zeros(3)), torch.empty(3, device="meta")]
    arrays = [np.zeros(3), np.float64("nan"), np.array(["text"]), np.zeros(2, complex)]
    return plain + numbers + odd + arrays


def spoilt(node: Any) -> list[Any]:
    """Invalid variants of an array or a tensor."""
    if isinstance(node, torch.Tensor):
        filled = [torch.full_like(node, bad) for bad in (torch.nan, torch.inf)] if node.is_floating_point() else []
        values = [node * 7] if node.dtype in (torch.int8, torch.uint8) else []
        shapes = [node[:-1], node[None], node.reshape(-1, 1), node.reshape(1, -1).squeeze(0)]
        types = [node.double() if node.dtype == torch.float32 else node.float(), node.half(), node.long()]
        return [*filled, *values, *shapes, *types, node.clone().to_sparse()]
    if isinstance(node, np.ndarray):
        bad = [np.full_like(node, np.nan), np.full_like(node, np.inf), node[:, :-1], node[0], node[None]]
        return [*bad, node.astype("U"), node.astype(complex), node.astype(object)]
    return [[node], -7, np.inf, [7], [0], [np.nan]]


def result_mutations() -> st.SearchStrategy[Mutation]:
    """Changes of a node of a result file."""
    names = st.sampled_from(["x", "", 3, 0, None, float("inf"), ("a",), "layers"])

    def spoil(number: int) -> Mutation:
        def change(node: Any) -> Any:
            # After an earlier mutation the shape may not fit this one.
            with contextlib.suppress(IndexError, RuntimeError, TypeError, ValueError):
                return spoilt(node)[number % len(spoilt(node))]
            return "spoilt"

        return change

    return st.one_of(st.integers(0, 11).map(spoil), mutations(st.sampled_from(result_junk()), names))


@st.composite
def result_files(draw: st.DrawFn, tree: Any, as_content: Mutation) -> tuple[Kind, str, bytes]:
    """A kind of file, how it was damaged, and its bytes.

    Args:
        tree: the content of a valid file.
        as_content: turns a tree into the object to pickle.
    """
    good = saved(as_content(tree))
    how = draw(st.sampled_from(["bytes", "bytes", "content", "content", "pickle"]))
    if how == "bytes":
        raw = draw(st.one_of(damaged(good), flipped(good), flipped_member(good), st.binary(max_size=60)))
    elif how == "content":
        raw = saved(as_content(draw(mutated(tree, result_mutations()))))
    else:
        program = pickled_part(good)
        raw = rezipped(good, draw(st.one_of(damaged(program), flipped(program))))
    return draw(st.sampled_from(KINDS)), how, raw


def as_readers(tree: Any) -> Any:
    """The content of a released file: a reader with the attributes of each language."""

    def reader(attributes: Any) -> Any:
        if not isinstance(attributes, dict) or not all(isinstance(name, str) for name in attributes):
            return attributes
        made = ClusterMeanRepReader()
        made.__dict__.clear()
        made.__dict__.update(attributes)
        return made

    return {name: reader(node) for name, node in tree.items()} if isinstance(tree, dict) else tree


def read_all(file: ResultFile, meta: dict[str, Any]) -> dict[str, Any]:
    """Everything that the program reads from a result file, through the methods that it uses."""
    file.family()
    file.check_settings(meta)
    file.check_inputs("data", {"en": meta["data"]["en"]})
    for same_language in (True, False):
        file.lacking(["en", "fr"], same_language)
    if isinstance(file, AccuracyFile):
        file.check_inputs("vectors", {"en": meta["vectors"]["en"]})
        file.untried("en", ["en", "fr"])
        tables = {name: file.content[name] for name in file.tables}
        assert file.languages == [name for name in file.accuracy if name in file.accuracy[name]]
        return tables | {"accuracy": file.accuracy}
    assert file.languages == list(file.vectors)
    return {language: parts(one) for language, one in file.vectors.items()}


def parts(vectors: ConceptVectors) -> dict[str, Any]:
    """The content of vectors; entries that the file does not have are left out."""
    found: dict[str, Any] = {
        name: getattr(vectors, name) for name in ("directions", "signs", "train_pairs", "mean_norm")
    }
    found |= {"digest": vectors.digest, "validation": vectors.validation and parts(vectors.validation)}
    return {name: value for name, value in found.items() if value is not None}


def alike(found: Any, good: Any, all_of_it: bool) -> bool:
    """Whether `found` equals the valid content: all of it, or only the entries that are present."""
    if isinstance(good, dict):
        same = isinstance(found, dict) and (not all_of_it or list(found) == list(good))
        return same and all(alike(found[name], good[name], all_of_it) for name in good if name in found)
    if isinstance(good, torch.Tensor | np.ndarray):
        if type(found) is not type(good) or found.dtype != good.dtype or found.shape != good.shape:
            return False
        return np.asarray(found).tobytes() == np.asarray(good).tobytes()
    if isinstance(good, list) and type(found) is list:
        return len(found) == len(good) and all(alike(*both, all_of_it) for both in zip(found, good, strict=True))
    # A changed text may be another valid name.
    return type(found) is type(good) and (found == good or (isinstance(good, str) and not all_of_it))


def fuzz_results(workspace: Workspace, file_type: type[ResultFile], released: bool, count: int) -> Outcome:
    """A result file is read as it was written or refused in one line, so that damage is never taken for results."""
    good_file = file_type(workspace.undisturbed, LABEL, "morality", Kind())
    tree: Any = _released_tree(good_file) if released else good_file.content
    meta = good_file.content["meta"]
    folder = workspace.new_results()
    good: dict[str, Any] = {}

    def read(kind: Kind, raw: bytes) -> dict[str, Any]:
        file = file_type(folder, LABEL, "morality", kind)
        path = put(file, released, raw)
        try:
            return read_all(file, meta)
        except UserError as error:
            assert path.name in str(error), str(error)
            raise
        finally:
            path.unlink()

    def check(drawn: tuple[Kind, str, bytes]) -> str:
        kind, how, raw = drawn
        try:
            found = read(kind, raw)
        except UserError:
            return f"{how}: refused"
        # A changed pickle with a correct checksum may hold other valid results.
        assert how == "pickle" or alike(found, good, how == "bytes"), (
            f"{how}: {_difference(found, good, how == 'bytes')}"
        )
        return f"{how}: read"

    as_content: Mutation = as_readers if released and file_type is VectorFile else lambda content: content
    good |= read(Kind(), saved(as_content(tree)))
    return fuzz(f"fuzzed {path_of(good_file, released).name}", result_files(tree, as_content), check, count)


def _released_tree(good: ResultFile) -> dict[str, Any]:
    """The content of a released file with the same results."""
    if isinstance(good, AccuracyFile):
        return {
            source: {target: dict(enumerate(map(np.float64, row), 1)) for target, row in targets.items()}
            for source, targets in good.accuracy.items()
        }
    return {
        language: {
            "directions": dict(enumerate(one.directions, 1)),
            "direction_signs": {layer: sign.tolist() for layer, sign in enumerate(one.signs, 1)},
        }
        for language, one in good.vectors.items()
    }


def _difference(found: dict[str, Any], good: dict[str, Any], all_of_it: bool) -> str:
    paths = [path for path in places(good) if path]
    for path in sorted(paths, key=len, reverse=True):
        here, there = found, good
        with contextlib.suppress(KeyError, TypeError, IndexError):
            for name in path:
                here, there = here[name], there[name]
            if not alike(here, there, all_of_it):
                return f"{'/'.join(map(str, path))} is {here!r:.200}, not {there!r:.200}"
    return f"{list(found)}, not {list(good)}"
