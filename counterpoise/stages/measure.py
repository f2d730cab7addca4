"""measure: reads train, val, the teacher and the kept samples; writes how far the samples are from real images.

Features are what the plain classifier of trial D, for draw D, hands to its last layer; on a frozen backbone they are
the cached ones, and samples that are codes of their generator's own encoder are held against codes. That classifier
has seen the training rows, so the reference is validation. Training rows stand beside it, as a reference of their own
(what is as close to them as they are to one another may be copied) and as samples to be measured (what a classifier's
own training images score). Some rows of the first draw are laid out on two axes. Test images are not opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.classifiers.training import features_of
from counterpoise.data.pixels import Rows
from counterpoise.lots import Lot
from counterpoise.metrics.accuracy import shot_bins
from counterpoise.metrics.fidelity import by_band, some_of
from counterpoise.metrics.projection import flat_map, rows_to_show
from counterpoise.recipe import Fit
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile

MOST = 1024  # rows of a side, evenly from all classes that were made: the cost stays far below that of one training
RARE = 6  # classes that the map tells apart

Encoder = Callable[[Rows], np.ndarray]  # => features (n, d) float32


def units(study: Study) -> list[str]:
    """One for each lot that some trial trains on."""
    return [
        f"fidelity/{lot.place}.json"
        for lot in study.first_lots()
        if lot.draw < study.recipe.trials.n and (_vectors(study, lot) or _plain(study))
    ]


def work(study: Study, unit: str) -> None:
    lot = Lot.of(unit)
    encode = _encoder(study, lot)
    found = {"space": _space(study, lot)} | measured(study, lot, encode)
    if lot.draw == 0:
        found["map"] = mapped(study, lot, encode)
    study.run.put_json(unit, found)


def measured(study: Study, lot: Lot, encode: Encoder, pictures: bool = False) -> dict[str, Any]:
    """The kept samples of a lot held against validation and train, in these features, of pictures or of what classifiers see."""
    seed = study.seed("measure", lot.place)
    rows, labels = _sides(study, lot, pictures)
    made = np.unique(labels["samples"]).tolist()
    sizes = dict.fromkeys(made, MOST // max(len(made), 1) or 1)
    sides = {}
    for side in rows:
        picked = some_of(labels[side], sizes, seed)
        sides[side] = (encode(_some(rows[side], picked)), labels[side][picked])

    bands = shot_bins(study.counts(lot.draw))
    return {
        "kept": len(rows["samples"]),
        **{against: by_band(*sides["samples"], *sides[against], bands, seed) for against in ("val", "train")},
        "train_against_val": by_band(*sides["train"], *sides["val"], bands, seed),
    }


def mapped(study: Study, lot: Lot, encode: Encoder) -> dict[str, Any]:
    """Real rows, of training and validation, and kept samples on two axes. Lots of one space share the real rows."""
    counts, seed = study.counts(lot.draw), study.seed("map", lot.draw)
    rarest = [int(c) for c in np.argsort(counts, kind="stable") if counts[c] > 0][:RARE]
    rows, labels = _sides(study, lot, pictures=False)
    (val,), (train,) = rows["val"].arrays, rows["train"].arrays
    rows["real"] = Rows.of(
        val, train, order=np.concatenate([rows["val"].order, len(val) + rows["train"].order])
    )
    labels["real"] = np.concatenate([labels["val"], labels["train"]])
    features, shown = {}, {}
    for side in ("real", "samples"):
        sizes = rows_to_show(np.bincount(labels[side], minlength=len(counts)), rarest)
        picked = some_of(labels[side], sizes, seed)
        features[side], shown[side] = encode(_some(rows[side], picked)), labels[side][picked].tolist()
    found = flat_map(features["real"], features["samples"], seed)
    return {
        "method": found.method,
        "share": found.share,
        "rarest": rarest,
        "real": {"xy": found.real.astype(np.float64).round(3).tolist(), "label": shown["real"]},
        "samples": {"xy": found.samples.astype(np.float64).round(3).tolist(), "label": shown["samples"]},
    }


def _sides(study: Study, lot: Lot, pictures: bool) -> tuple[dict[str, Rows], dict[str, np.ndarray]]:
    kept, selection = study.kept_of(lot)
    order = study.draw_rows(lot.draw)

    def real(role: str) -> np.ndarray:
        return study.pixels(role) if pictures else study.vectors(role, lot.draw, lot.synthesis)

    rows = {
        "samples": Rows.of(kept if pictures else study.kept_vectors_of(lot)),
        "val": Rows.of(real("val")),
        "train": Rows.of(real("train"), order=order),
    }
    labels = {
        "samples": selection["label"].to_numpy().astype(np.int64),
        "val": study.labels("val"),
        "train": study.labels("train")[order],
    }
    return rows, labels


def _some(rows: Rows, picked: np.ndarray) -> Rows:
    return Rows(rows.arrays, rows.order[picked])


def _vectors(study: Study, lot: Lot) -> bool:
    """Whether the rows of a lot are features themselves."""
    return study.frozen or study.own_space(lot.synthesis)


def _plain(study: Study) -> list[Fit]:
    """The fits that have seen real rows only, the plain one first."""
    return [fit for fit in study.recipe.fits if fit.synthesis is None]


def _space(study: Study, lot: Lot) -> str:
    if study.own_space(lot.synthesis):
        return f"codes of {Lot.of(study.generator_of(lot)).synthesis}"
    return Path(study.recipe.network.backbone).name if study.frozen else _plain(study)[0].name


def _encoder(study: Study, lot: Lot) -> Encoder:
    if _vectors(study, lot):
        return lambda rows: rows.raw(np.arange(len(rows)))
    unit = study.trial_units(_plain(study)[0])[lot.draw]  # trial D is the first to use draw D
    net = TrialFile(study.run, unit).network(study, lot.draw)
    assert net is not None
    return lambda rows: features_of(net, rows).numpy()


STEPS = (Step(units, work),)
