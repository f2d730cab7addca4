"""teach: reads train, val and the pool; trains the arms that see real rows only. The plain one is the teacher.

Arms that learn from the pool come in a step of their own: their labels are those of arms made in the step before.
"""

from __future__ import annotations

from counterpoise.encoding import BACKBONE, backbone_unit, encode_unit, project_unit
from counterpoise.firstweights import first_units, make_first
from counterpoise.recipe import Fit
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trials import make_trials


def backbone(study: Study) -> list[str]:
    return [BACKBONE] if study.frozen else []


def encodings(study: Study) -> list[str]:
    return [unit for role in ("train", "val", "pool") for unit in study.feature_units(role)]


def projections(study: Study) -> list[str]:
    return [study.projection_unit(d) for d in range(study.recipe.trials.draws)] if study.projected else []


def first(study: Study) -> list[str]:
    return first_units(study, _fits(study))


def units(study: Study) -> list[str]:
    return [unit for fit in _fits(study) if fit.pool is None for unit in study.trial_units(fit)]


def units_with_pool(study: Study) -> list[str]:
    return [unit for fit in _fits(study) if fit.pool is not None for unit in study.trial_units(fit)]


def _fits(study: Study) -> list[Fit]:
    return [fit for fit in study.recipe.fits if fit.synthesis is None]


STEPS = (
    Step(backbone, backbone_unit),
    Step(encodings, encode_unit),
    Step(projections, project_unit),
    Step(first, make_first),
    Step(units, make_trials),
    Step(units_with_pool, make_trials),
)
