"""train: reads train, val and the kept samples; trains the arms that see both, like `teach` in all else."""

from __future__ import annotations

from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trials import make_trials


def units(study: Study) -> list[str]:
    return [unit for fit in study.recipe.fits if fit.synthesis is not None for unit in study.trial_units(fit)]


STEPS = (Step(units, make_trials),)
