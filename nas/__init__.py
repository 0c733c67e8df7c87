"""Hardware-aware neural architecture search: supernet, search, export, verification and the command line.

The functions that a user calls are here; each is imported when it is first used, so that ``import nas`` is cheap.

>>> import nas
>>> space, device = nas.space("mobilenet_v3_digits", resolutions=[12]), nas.device("ethos_u55_128")
>>> latency = nas.profile(space, device, budget="2min", out="runs/table")
>>> front = nas.search(space, ["params", latency], limits={"latency_ms": 0.06}, seed=0)
>>> front.choose(latency_ms=0.05).export("mobile", weights="random")
{}
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.run.api import accuracy, dataset, device, finetune, fit, profile, search, space, train, train_alone
    from nas.run.export import export
    from nas.run.found import measure
    from nas.run.fronts import Front
    from nas.run.opened import open
    from predictors.function import Function
    from search_spaces.base.errors import NasError
    from search_spaces.base.trust import trust
    from search_spaces.metric import Limit, Metric

__version__ = "0.1.0"

__all__ = [
    "Front",
    "Function",
    "Limit",
    "Metric",
    "NasError",
    "accuracy",
    "dataset",
    "device",
    "export",
    "finetune",
    "fit",
    "measure",
    "open",
    "profile",
    "search",
    "space",
    "train",
    "train_alone",
    "trust",
]

_ELSEWHERE = {
    "export": "nas.run.export",
    "Front": "nas.run.fronts",
    "Function": "predictors.function",
    "Limit": "search_spaces.metric",
    "Metric": "search_spaces.metric",
    "measure": "nas.run.found",
    "NasError": "search_spaces.base.errors",
    "open": "nas.run.opened",
    "trust": "search_spaces.base.trust",
}
"""Modules of the names that are not of `nas.run.api`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nas' has no attribute {name!r}; there are {', '.join(__all__)}.")
    value = globals()[name] = getattr(importlib.import_module(_ELSEWHERE.get(name, "nas.run.api")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
