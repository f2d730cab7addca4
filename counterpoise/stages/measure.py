"""measure: reads train, val, the teacher and the kept samples; writes how far the samples are from real images.

Features are what the plain classifier of trial D, for draw D, hands to its last layer; on a frozen backbone they are
the cached ones. That classifier has seen the training rows, so the reference is validation. Training rows stand beside
it, as a reference of their own (what is as close to them as they are to one another may be copied) and as samples to be
measured (what a classifier's own training images score). Test images are not opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from counterpoise.classifiers.training import features_of
from counterpoise.data.pixels import Rows
from counterpoise.metrics.accuracy import shot_bins
from counterpoise.metrics.fidelity import by_band, some_of
from counterpoise.recipe import Fit
from counterpoise.stages.stage import Step
from counterpoise.study import Lot, Study
from counterpoise.trials import TrialFile

MOST = 2048  # rows of a side, evenly from all classes that were made: the cost stays far below that of one training

Encoder = Callable[[Rows], np.ndarray]  # => features (n, d) float32


def units(study: Study) -> list[str]:
    """One for each lot that some trial trains on."""
    lots = study.lots() if study.frozen or _plain(study) else []
    return [f"fidelity/{lot.place}.json" for lot in lots if lot.draw < study.recipe.trials.n]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    space = study.recipe.network.backbone if study.frozen else _plain(study)[0].name
    study.run.put_json(unit, measured(study, lot, _encoder(study, lot.draw)) | {"space": space})


def measured(study: Study, lot: Lot, encode: Encoder) -> dict[str, Any]:
    """The kept samples of a lot held against validation and train, in these features."""
    seed = study.seed("measure", lot.place)
    samples, selection = study.kept(lot)
    order = study.draw_rows(lot.draw)
    labels = {
        "samples": selection["label"].to_numpy().astype(np.int64),
        "val": study.labels("val"),
        "train": study.labels("train")[order],
    }
    rows = {
        "samples": Rows.of(samples),
        "val": Rows.of(study.vectors("val")),
        "train": Rows.of(study.vectors("train"), order=order),
    }
    made = np.unique(labels["samples"]).tolist()
    sizes = dict.fromkeys(made, MOST // max(len(made), 1) or 1)
    sides = {}
    for side in rows:
        picked = some_of(labels[side], sizes, seed)
        sides[side] = (encode(Rows(rows[side].arrays, rows[side].order[picked])), labels[side][picked])

    bands = shot_bins(study.counts(lot.draw))
    return {
        "kept": len(samples),
        **{against: by_band(*sides["samples"], *sides[against], bands, seed) for against in ("val", "train")},
        "train_against_val": by_band(*sides["train"], *sides["val"], bands, seed),
    }


def _plain(study: Study) -> list[Fit]:
    """The fits that have seen real rows only, the plain one first."""
    return [fit for fit in study.recipe.fits if fit.synthesis is None]


def _encoder(study: Study, draw: int) -> Encoder:
    if study.frozen:
        return lambda rows: rows.raw(np.arange(len(rows)))
    unit = study.trial_units(_plain(study)[0])[draw]  # trial D is the first to use draw D
    net = TrialFile(study.run, unit).network(study, draw)
    assert net is not None
    return lambda rows: features_of(net, rows).numpy()


STEPS = (Step(units, work),)
