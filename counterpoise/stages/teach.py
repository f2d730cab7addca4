"""teach: reads train and val; trains the arms that see real rows only. The plain one is the teacher."""

from __future__ import annotations

from counterpoise.encoding import BACKBONE, backbone_unit, encode_unit
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trials import make_trials


def backbone(study: Study) -> list[str]:
    return [BACKBONE] if study.frozen else []


def encodings(study: Study) -> list[str]:
    return study.feature_units("train") + study.feature_units("val")


def units(study: Study) -> list[str]:
    return [unit for fit in study.recipe.fits if fit.synthesis is None for unit in study.trial_units(fit)]


STEPS = (Step(backbone, backbone_unit), Step(encodings, encode_unit), Step(units, make_trials))
