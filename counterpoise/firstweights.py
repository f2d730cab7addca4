"""The weights that trials start from, where a fit learns something before it sees the real rows: once for all trials of a draw.

It learns from the kept samples of its synthesis, and from nothing else; without a synthesis from the real rows themselves, as the
control of that. Without labels the unlabelled pool is looked at as well. Seeds name the draw and not the fit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

from counterpoise.data.pixels import Rows
from counterpoise.gathering import real_of, rows_of
from counterpoise.recipe import Fit
from counterpoise.study import Study
from counterpoise.trialfiles import build_network

HEAD = "head."  # the layer that every trial makes for itself
NOBODY = -1  # the label of a row of the pool


def first_units(study: Study, fits: Sequence[Fit]) -> list[str]:
    """Beside the trials that they are for: whatever sets those aside takes them along."""
    draws = range(study.recipe.trials.draws)
    return [_unit(study, fit, draw) for fit in fits if fit.start is not None for draw in draws]


def _unit(study: Study, fit: Fit, draw: int) -> str:
    return f"{Path(study.trial_units(fit)[0]).parent}/draw_{draw}.safetensors"


def make_first(study: Study, unit: str) -> None:
    """Train the first weights of a fit for one draw, and commit them. Where no sample was kept there are none."""
    fit, draw = study.recipe.fit(unit.split("/")[1]), int(Path(unit).stem.removeprefix("draw_"))
    started, seed = time.perf_counter(), study.seed("first weights", draw)
    (rows, labels), net = material(study, fit, draw), build_network(study, fit, seed)
    learnt = {}
    if len(rows):
        hear = lambda share: study.run.tell(unit, share)  # noqa: E731
        fit.start(net, rows, labels, len(study.classes), fit.loss, seed, hear)
        learnt = {name: value for name, value in net.state_dict().items() if not name.startswith(HEAD)}
    arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in learnt.items()}
    notes = {
        "rows": len(rows),
        "views": fit.start.views if learnt else 0,
        "seconds": time.perf_counter() - started,
    }
    study.run.put_bytes(unit, save(arrays, {"notes": json.dumps(notes)}))


def material(study: Study, fit: Fit, draw: int) -> tuple[Rows, np.ndarray]:
    """What a fit learns from first: rows and labels."""
    if fit.synthesis is not None:
        rows, labels, _, made = rows_of(study, draw, fit.synthesis)
        return Rows(rows.arrays, rows.order[made]), labels[made]
    rows, labels, _ = real_of(study, draw)
    if fit.start.method == "supervised" or not study.facts["sizes"]["pool"]:
        return rows, labels
    (real,), pool = rows.arrays, study.vectors("pool", draw)
    order = np.concatenate([rows.order, len(real) + np.arange(len(pool))])
    return Rows.of(real, pool, order=order), np.append(labels, np.full(len(pool), NOBODY))


def begin(study: Study, fit: Fit, trial: int, net: nn.Module) -> dict[str, Any]:
    """Put a fresh network where its fit starts, and say what that has seen. Its head stays its own."""
    if fit.start is None:
        return {}
    with safe_open(study.run / _unit(study, fit, study.draw_of(trial)), "pt") as file:
        learnt = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle, not a mapping
        notes = json.loads(file.metadata()["notes"])
    net.load_state_dict(net.state_dict() | learnt)
    return {"first_rows": notes["rows"], "first_views": notes["views"]}
