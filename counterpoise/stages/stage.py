"""The shape of a stage: steps in order; a step is a fixed list of units and the work that makes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from counterpoise.study import Study


@dataclass(frozen=True)
class Step:
    """`units(study)` names files below the run directory; `work(study, unit)` commits that file. Present means done."""

    units: Callable[[Study], list[str]]
    work: Callable[[Study, str], None]
