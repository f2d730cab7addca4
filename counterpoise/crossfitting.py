"""Teachers that have not seen what they speak of: the real rows of a draw in folds, and a classifier without each of them.

A sample that starts from a real row is heard by the teacher that this row was kept from; any other would tell what it
remembers of the source. The file of each names the rows that it has not seen. They see real rows only, in every round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.training import features_of
from counterpoise.data.pixels import Rows
from counterpoise.gathering import real_of
from counterpoise.lots import Lot
from counterpoise.metrics.calibration import fit_temperature
from counterpoise.pupils import Pupil
from counterpoise.recipe import Fit
from counterpoise.seeding import generator
from counterpoise.study import Study
from counterpoise.trialfiles import build_network
from counterpoise.tutoring import taught


def fold_units(study: Study, lot: Lot, folds: int) -> list[str]:
    """Beside the tutor of the first round: lots with equal tutors share them."""
    beside = study.tutor_of(replace(lot, round=0)).removesuffix(".safetensors")
    return [f"{beside}/{fold}_of_{folds}.safetensors" for fold in range(folds)]


def dealt(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every row (n,): all equally large, and of every class as many in each as can be; -1 for the only row of
    its class, which all teachers need.

    >>> np.bincount(dealt(np.repeat([0, 1, 2], [7, 4, 1]), 3, seed=0) + 1).tolist()
    [1, 4, 4, 3]
    """
    shuffled = generator("folds", seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]  # class by class
    found = np.empty(len(labels), np.int64)
    found[order] = np.arange(len(labels)) % folds
    return np.where(np.bincount(labels)[labels] == 1, -1, found)


def make_fold(study: Study, unit: str) -> None:
    """Train the teacher that has not seen one fold, and commit it with the rows that it has not seen."""
    lot = Lot.of(unit)
    fold, folds = map(int, Path(unit).stem.split("_of_"))
    fit = _fit(study, lot)
    rows, labels, groups = real_of(study, lot.draw)
    unseen = dealt(labels, folds, study.seed("folds", lot.draw)) == fold
    pupil = Pupil(
        fit,
        len(study.classes),
        Rows.of(*rows.arrays, order=rows.order[~unseen]),
        labels[~unseen],
        None if groups is None else groups[~unseen],
        np.zeros((~unseen).sum(), bool),
    )
    name = f"fold {fold} of {folds}"
    net, head = taught(study, lot, pupil, [name])[name]
    val = study.vectors("val", lot.draw)
    logits = head.logits(val if net is None else features_of(net, Rows.of(val)).numpy())
    ids = np.array(study.manifest("train")["id"].to_pylist())[study.draw_rows(lot.draw)]
    notes = {
        "temperature": fit_temperature(logits, study.labels("val"), balanced=True),
        "unseen": ids[unseen].tolist(),
    }
    arrays = {f"head/{key}": value for key, value in head.save().items()}
    if net is not None:
        arrays |= {f"net/{key}": value.numpy() for key, value in net.state_dict().items()}
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    study.run.put_bytes(unit, save(arrays, {"notes": json.dumps(notes)}))


def _fit(study: Study, lot: Lot) -> Fit:
    tutor = study.synthesis(lot.synthesis).tutor
    assert tutor is not None, "Recipe refuses scores that listen where there is no tutor"
    return study.recipe.fit(tutor.fit)


# --- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoldFile:
    """A committed teacher."""

    study: Study
    unit: str

    @cached_property
    def notes(self) -> dict:
        with safe_open(self.study.run / self.unit, "np") as file:
            return json.loads(file.metadata()["notes"])

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Calibrated (n, C), of rows as classifiers see them."""
        with safe_open(self.study.run / self.unit, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a handle, not a mapping
        parts = {
            kind: {n.removeprefix(kind): v for n, v in arrays.items() if n.startswith(kind)}
            for kind in ("net/", "head/")
        }
        if parts["net/"]:
            net = build_network(self.study, _fit(self.study, Lot.of(self.unit)), seed=0)
            net.load_state_dict({name: torch.from_numpy(value) for name, value in parts["net/"].items()})
            x = features_of(net.eval(), Rows.of(x)).numpy()
        return LinearHead.load(parts["head/"]).logits(x) / self.notes["temperature"]


def unseen_says(
    study: Study, lot: Lot, x: np.ndarray, sources: Sequence[str | None], folds: int
) -> np.ndarray:
    """Logits (n, C) of samples as classifiers see them, each by the teacher that has not seen its source.

    Without a source, or with one that all have seen, any of them will do: the first one speaks.
    """
    files = [FoldFile(study, unit) for unit in fold_units(study, lot, folds)]
    fold = {name: number for number, file in enumerate(files) for name in file.notes["unseen"]}
    who = np.array([fold.get(source or "", 0) for source in sources])
    said = np.zeros((len(x), len(study.classes)), np.float32)
    for number in np.unique(who):
        said[who == number] = files[number].logits(x[who == number])
    return said
