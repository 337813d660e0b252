"""Multilingual human value concepts in large language models: collect, recognize, compare, steer.

model = repe.load_model("path/or/hub-id")
train, test = repe.split_pairs(repe.read_pairs("data/morality/morality_en.json"))
vectors = repe.collect(model, train)
accuracy = repe.recognize(model, {"en": vectors}, {"en": test})
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repe.analysis.consistency import similarity as similarity
    from repe.analysis.recognition import recognize as recognize
    from repe.data import Pair as Pair
    from repe.data import read_pairs as read_pairs
    from repe.data import split_pairs as split_pairs
    from repe.models.model import Model as Model
    from repe.models.source import load_model as load_model
    from repe.vectors.concept_vectors import ConceptVectors as ConceptVectors
    from repe.vectors.concept_vectors import collect as collect

__version__ = "0.2.0"

# What the names need takes seconds to import, so each is imported when it is first used.
_HOMES = {
    "load_model": "repe.models.source",
    "Model": "repe.models.model",
    "Pair": "repe.data",
    "read_pairs": "repe.data",
    "split_pairs": "repe.data",
    "collect": "repe.vectors.concept_vectors",
    "ConceptVectors": "repe.vectors.concept_vectors",
    "recognize": "repe.analysis.recognition",
    "similarity": "repe.analysis.consistency",
    # RepE's names.
    "repe_pipeline_registry": "repe.compat.pipelines",
    "RepReadingPipeline": "repe.compat.pipelines",
    "RepControlPipeline": "repe.compat.pipelines",
    "WrappedReadingVecModel": "repe.compat.rep_control_reading_vec",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
