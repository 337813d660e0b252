"""Multilingual human value concepts in large language models: collect, recognise, compare, transfer."""

import importlib
from typing import Any

# RepE's names. What they need takes seconds to import, so it is imported when one of them is asked for.
_REPE = {
    "repe_pipeline_registry": "repe.compat.pipelines",
    "RepReadingPipeline": "repe.compat.pipelines",
    "RepControlPipeline": "repe.compat.pipelines",
    "WrappedReadingVecModel": "repe.compat.rep_control_reading_vec",
}


def __getattr__(name: str) -> Any:
    if name not in _REPE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_REPE[name]), name)
