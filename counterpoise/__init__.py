"""Counterpoise: unevenly filled image data in, an honest verdict on synthetic data out.

The whole Python API; each name is loaded when it is first used, so that importing the package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoise.data.sources import open_source
    from counterpoise.data.splits import Holdout, parse_cut
    from counterpoise.delivery import Predictor, export_data
    from counterpoise.pipeline import execute as run
    from counterpoise.recipe import Arm, Data, Fit, Recipe, Synthesis, Trials
    from counterpoise.rundir import Run
    from counterpoise.types import Refusal, describe, load, part

_HOMES = {
    "counterpoise.data.sources": ("open_source",),
    "counterpoise.data.splits": ("Holdout", "parse_cut"),
    "counterpoise.delivery": ("Predictor", "export_data"),
    "counterpoise.recipe": ("Arm", "Data", "Fit", "Recipe", "Synthesis", "Trials"),
    "counterpoise.rundir": ("Run",),
    "counterpoise.types": ("Refusal", "describe", "load", "part"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["Arm", "Data", "Fit", "Holdout", "Predictor", "Recipe", "Refusal", "Run", "Synthesis", "Trials"]
__all__ += ["describe", "export_data", "load", "open_source", "parse_cut", "part", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        return import_module("counterpoise.pipeline").execute
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'counterpoise' has no attribute {name!r}")
