"""Cached features, one file per slice of a role's rows. `teach` asks for train and val, `evaluate` for test."""

from __future__ import annotations

from pathlib import Path

from counterpoise.study import ROWS_PER_FEATURE_FILE, Study
from counterpoise.types import Refusal

BACKBONE = "features/backbone.json"


def backbone_unit(study: Study, unit: str) -> None:
    """Write down which weights the features come from, before the first of them."""
    study.run.put_json(
        unit, {"backbone": study.recipe.network.backbone, "digest": study.recipe.network.digest()}
    )


def encode_unit(study: Study, unit: str) -> None:
    space = study.recipe.network
    found = study.run.json(BACKBONE)["digest"]
    if found != space.digest():
        raise Refusal(
            f"the weights of {space.backbone} changed since this run was begun (digest {found[:12]} then, "
            f"{space.digest()[:12]} now): use another directory, or --redo teach"
        )
    _, role, name = Path(unit).parts
    start = int(Path(name).stem) * ROWS_PER_FEATURE_FILE
    study.run.put_array(unit, space.encode(study.pixels(role)[start : start + ROWS_PER_FEATURE_FILE]))
