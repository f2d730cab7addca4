"""Rows as vectors, written down once: features of a backbone, one file per slice of a role's rows, their projections, those
of samples that are pictures, and codes of a generator with a space of its own. `teach` and `fit` ask for train and val,
`select` for samples, `evaluate` for test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from counterpoise.lots import Lot
from counterpoise.material import ROWS_PER_FEATURE_FILE
from counterpoise.spaces.projection import Projection
from counterpoise.spaces.store import Store
from counterpoise.study import Study
from counterpoise.types import Refusal

BACKBONE = "features/backbone.json"


def backbone_unit(study: Study, unit: str) -> None:
    """Write down which weights the features come from, before the first of them."""
    study.run.put_json(
        unit, {"backbone": study.recipe.network.backbone, "digest": study.recipe.network.digest()}
    )


def encode_unit(study: Study, unit: str) -> None:
    space, found = study.recipe.network, _same_weights(study)
    _, role, name = Path(unit).parts
    start = int(Path(name).stem) * ROWS_PER_FEATURE_FILE
    pixels = study.pixels(role)[start : start + ROWS_PER_FEATURE_FILE]
    features = Store.of(found).rows(pixels, space.encode)
    broken = np.flatnonzero(~np.isfinite(features).all(1))
    if len(broken):
        row = study.manifest(role).slice(start + int(broken[0]), 1).to_pylist()[0]
        raise Refusal(
            f"the features of {len(broken)} of {len(features)} {role} images hold numbers that are not finite, the first "
            f"those of {row['uri'] or row['id']}: the weights of {space.backbone} are broken; use another backbone"
        )
    study.run.put_array(unit, features)


def _same_weights(study: Study) -> str:
    """Their digest; refuses a backbone that is another one by now."""
    space = study.recipe.network
    found = study.run.json(BACKBONE)["digest"]
    if found != space.digest():
        raise Refusal(
            f"the weights of {space.backbone} changed since this run was begun (digest {found[:12]} then, "
            f"{space.digest()[:12]} now): use another directory, or --redo teach"
        )
    return found


def said_of(study: Study, templates: Sequence[str]) -> tuple[np.ndarray, float]:
    """The class names as the text half of the backbone has them, by the weights that the features come from."""
    _same_weights(study)
    return study.recipe.network.said(templates, study.called)


def project_unit(study: Study, unit: str) -> None:
    """The principal components of the training rows of one draw: what its cut left out is not looked at."""
    draw = int(Path(unit).stem.removeprefix("draw_"))
    files = [study.run.array(name) for name in study.feature_units("train")]
    rows = np.concatenate(files)[study.draw_rows(draw)]
    made = Projection.of(rows, study.recipe.network.components)
    study.run.put_bytes(unit, save(made.arrays()))


def embed_unit(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    study.run.put_array(unit, as_classified(study, lot, study.run.array(lot.kept)))


def as_classified(study: Study, lot: Lot, x: np.ndarray) -> np.ndarray:
    """Samples of a lot as the classifier sees them."""
    if not study.pictured(lot.synthesis):
        return x
    _same_weights(study)
    return study.brought_down(study.recipe.network.encode(x), lot.draw)


def encode_codes(study: Study, unit: str) -> None:
    lot, role = Lot.of(unit), Path(unit).stem
    encode = study.synthesis(lot.synthesis).generator.encoder(study.run / study.generator_of(lot))
    study.run.put_array(unit, encode(study.vectors(role, lot.draw)))
