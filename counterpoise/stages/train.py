"""train: reads train, val and the kept samples; trains the arms that see both, like `teach` in all else.

Where a fit learns something from samples alone first, so do the weights that its trials begin with, in a step of their own.
"""

from __future__ import annotations

from counterpoise.firstweights import first_units, make_first
from counterpoise.recipe import Fit
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trials import make_trials


def first(study: Study) -> list[str]:
    return first_units(study, _fits(study))


def units(study: Study) -> list[str]:
    return [unit for fit in _fits(study) for unit in study.trial_units(fit)]


def _fits(study: Study) -> list[Fit]:
    return [fit for fit in study.recipe.fits if fit.synthesis is not None]


STEPS = (Step(first, make_first), Step(units, make_trials))
