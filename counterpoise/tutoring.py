"""The tutors of a study: trained on what there is before a round, kept as one file each, opened as what guides listen to.

A tutor never opens test data, and no arm of the report is one: teachers and judge have seeds of their own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save
from scipy.special import log_softmax
from torch import Tensor, nn

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import balanced_accuracy
from counterpoise.classifiers.heads import LinearHead, train_heads
from counterpoise.classifiers.training import Training, features_of, train_network
from counterpoise.classifiers.tutor import Cloud, Ensemble, Member, Tutor
from counterpoise.data.pixels import Rows, as_seen
from counterpoise.gathering import rows_of
from counterpoise.lots import Lot
from counterpoise.metrics.calibration import fit_temperature
from counterpoise.proposals.budgets import Needs
from counterpoise.pupils import Pupil
from counterpoise.recipe import Fit
from counterpoise.study import Study
from counterpoise.trialfiles import build_network
from counterpoise.trials import RATES, head_of

JUDGE = "judge"


def make_tutor(study: Study, unit: str) -> None:
    """Train the tutor of a lot and commit it, with what validation says of it."""
    lot, started = Lot.of(unit), time.perf_counter()
    tutor = study.synthesis(lot.synthesis).tutor
    assert tutor is not None
    fit = study.recipe.fit(tutor.fit)
    names = [str(k) for k in range(tutor.members)] + [JUDGE]
    if study.synthesis(lot.synthesis).by_group:
        study.cells("val")  # refuses rows without a group before anything is trained
    made = taught(study, lot, _pupil(study, lot, fit), names)
    labels = study.labels("val")
    real, targets = _real(study, lot)
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {"temperature": {}}
    said, cloud = [], None
    for name, (net, head) in made.items():
        if net is not None or cloud is None:  # features of a frozen backbone are the same for all
            seen = real.raw(np.arange(len(real))) if net is None else features_of(net, real).numpy()
            cloud = Cloud.of(seen, targets, len(study.classes))
        if net is None and name == JUDGE:
            head = cloud.classifier(np.bincount(targets, minlength=len(study.classes)) > 0)
        val = study.vectors("val", lot.draw)
        logits = head.logits(val if net is None else features_of(net, Rows.of(val)).numpy())
        notes["temperature"][name] = fit_temperature(logits, labels, balanced=True)
        if net is not None:
            arrays |= {f"{name}/net/{key}": value.numpy() for key, value in net.state_dict().items()}
        arrays |= {f"{name}/head/{key}": value for key, value in head.save().items()}
        arrays |= {f"{name}/cloud/means": cloud.means, f"{name}/cloud/whitening": cloud.whitening}
        if name != JUDGE:
            said.append(log_softmax(logits / notes["temperature"][name], 1))
    together = np.logaddexp.reduce(said, 0) - np.log(len(said))
    arrays["val/logits"] = together.astype(np.float32)
    notes["score"] = _score(study, lot, together)
    notes["history"] = [*_history(study, lot), notes["score"]]
    notes["seconds"] = time.perf_counter() - started
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    study.run.put_bytes(unit, save(arrays, {"notes": json.dumps(notes)}))


def _real(study: Study, lot: Lot) -> tuple[Rows, np.ndarray]:
    rows, labels, _, _ = rows_of(study, lot.draw, None)
    return rows, labels


def _pupil(study: Study, lot: Lot, fit: Fit) -> Pupil:
    """Real rows, and what was kept in the rounds before this one."""
    made = lot.synthesis if lot.round else None
    return Pupil(fit, len(study.classes), *rows_of(study, lot.draw, made, lot.round))


def _training(study: Study, lot: Lot, tutor: Tutor) -> Training:
    """A tutor that goes on from where it was needs fewer steps."""
    training = study.recipe.training
    steps = max(1, round(tutor.warm * training.steps)) if lot.round else training.steps
    return replace(training, steps=steps)


def taught(
    study: Study, lot: Lot, pupil: Pupil, names: list[str]
) -> dict[str, tuple[nn.Module | None, LinearHead]]:
    """Classifiers of these names, each with a seed of its own; without a network where features are frozen."""
    tutor = study.synthesis(lot.synthesis).tutor
    assert tutor is not None
    return (_heads if study.frozen else _networks)(study, lot, pupil, _training(study, lot, tutor), names)


def _networks(
    study: Study, lot: Lot, pupil: Pupil, training: Training, names: list[str]
) -> dict[str, tuple[nn.Module | None, LinearHead]]:
    fit = pupil.fit
    before = TutorFile(study, lot.before) if lot.round else None
    made: dict[str, tuple[nn.Module | None, LinearHead]] = {}
    for name in names:
        seed = study.seed("tutor", lot.draw, name, lot.round)
        net = build_network(study, fit, seed)
        if before is not None:
            net.load_state_dict(before.weights(name))
        if (
            before is None or name != JUDGE
        ):  # a judge that learnt from samples would come to believe their labels
            lesson = pupil.lesson(training, seed, study.seed("tutor patches", lot.draw, name, lot.round))
            train_network(net, lesson, fit.loss, fit.reduction, fit.augment, training, seed)
        made[name] = (net, head_of(net, fit))
    return made


def _heads(
    study: Study, lot: Lot, pupil: Pupil, training: Training, names: list[str]
) -> dict[str, tuple[nn.Module | None, LinearHead]]:
    fit = pupil.fit
    before = TutorFile(study, lot.before) if lot.round else None
    features = pupil.rows.raw(np.arange(len(pupil.rows)))
    teachers = [name for name in names if name != JUDGE]
    seeds = {name: study.seed("tutor", lot.draw, name, lot.round) for name in teachers}
    prior = pupil.prior if fit.sampler.moves else pupil.prior()
    jobs = [
        HeadJob(
            pupil.stream(training.steps, training.batch, seed),
            pupil.labels,
            fit.loss,
            prior,
            seed,
            fit.reduction,
            pupil.groups,
            None if before is None else before.head(name),
        )
        for name, seed in seeds.items()
    ]
    rates = {name: getattr(training, name) for name in RATES}
    heads = train_heads(features, jobs, real=np.flatnonzero(~pupil.synthetic), **rates)
    of = dict(zip(teachers, heads, strict=True))
    return {name: (None, of.get(name, heads[0])) for name in names}


def _score(study: Study, lot: Lot, logits: np.ndarray) -> float:
    """Balanced accuracy on validation: over classes, or over class x group cells where those are what is filled."""
    if not study.synthesis(lot.synthesis).by_group:
        return balanced_accuracy(logits, study.labels("val"))
    right = logits.argmax(1) == study.labels("val")
    cells = study.cells("val")
    return float(np.mean([right[cells == cell].mean() for cell in np.unique(cells)]))


def _history(study: Study, lot: Lot) -> list[float]:
    return TutorFile(study, lot.before).notes["history"] if lot.round else []


# --- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TutorFile:
    """A committed tutor."""

    study: Study
    lot: Lot

    @property
    def path(self) -> str:
        return str(self.study.run / self.study.tutor_of(self.lot))

    @property
    def notes(self) -> dict[str, Any]:
        with safe_open(self.path, "np") as file:
            return json.loads(file.metadata()["notes"])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        with safe_open(self.path, "np") as file:
            return {
                name.removeprefix(prefix): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - a handle, not a mapping
                if name.startswith(prefix)
            }

    def head(self, name: str) -> LinearHead:
        return LinearHead.load(self.arrays(f"{name}/head/"))

    def weights(self, name: str) -> dict[str, Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.arrays(f"{name}/net/").items()}

    def open(self, device: torch.device | None = None) -> tuple[Ensemble, Ensemble]:
        """Teacher and judge."""
        device = device or torch.device("cpu")
        found = {name: self._member(name, device) for name in self.notes["temperature"]}
        judge = found.pop(JUDGE)
        return Ensemble(list(found.values()), device), Ensemble([judge], device)

    def _member(self, name: str, device: torch.device) -> Member:
        features: Callable[[Tensor], Tensor] = torch.Tensor.float
        if weights := self.weights(name):
            tutor = self.study.synthesis(self.lot.synthesis).tutor
            assert tutor is not None
            net = build_network(self.study, self.study.recipe.fit(tutor.fit), seed=0)
            net.load_state_dict(weights)
            # Where convolutions are quickest: a guide's whole cost is a teacher's.
            net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            features = net.eval().requires_grad_(False).features
        return Member(
            features,
            self.head(name),
            self.notes["temperature"][name],
            Cloud(**self.arrays(f"{name}/cloud/")),
        )


def needs_of(study: Study, lot: Lot) -> Needs:
    """What the teachers of a lot get wrong on validation, by class or by class x group cell."""
    said = log_softmax(TutorFile(study, lot).arrays("val/")["logits"].astype(np.float64), 1)
    labels = study.labels("val")
    by_group = study.synthesis(lot.synthesis).by_group
    cells, n = (study.cells("val") if by_group else labels), study.cell_count(lot.synthesis)
    rows = np.bincount(cells, minlength=n)

    def mean(of: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.bincount(cells, of, minlength=n) / rows

    return Needs(
        rows=rows,
        error=mean((said.argmax(1) != labels).astype(float)),
        loss=mean(-said[np.arange(len(labels)), labels]),
        entropy=mean(-(np.exp(said) * said).sum(1)),
    )


def tutors_of(study: Study, lot: Lot, device: torch.device) -> tuple[Ensemble, Ensemble]:
    """Teacher and judge, opened once for the shards of a lot."""
    return _opened(study, lot, device, (study.run / study.tutor_of(lot)).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _opened(study: Study, lot: Lot, device: torch.device, changed: int) -> tuple[Ensemble, Ensemble]:
    """`changed` is not read: a tutor that was trained anew is opened anew."""
    return TutorFile(study, lot).open(device)


def hear(
    tutor: Ensemble, x: np.ndarray, labels: np.ndarray, batch: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """What a tutor says of samples as they are stored: logits (n, C), features (n, k)."""
    said = []
    with torch.no_grad():
        for start in range(0, len(x), batch):
            picked = slice(start, start + batch)
            said.append(tutor(as_seen(x[picked]), torch.from_numpy(labels[picked])))
    logits, features = (torch.cat([one[i] for one in said]).numpy() for i in (0, 1))
    return logits, features
