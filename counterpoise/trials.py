"""One trial file: a fit is trained for its trials, then every arm that shares it finishes the linear head its own way.

Used by `teach` (real rows only) and `train` (real and kept samples) alike, so that an arm with synthetic rows
differs from one without in its rows and in nothing else. A trial's seeds never name the arm: arms are paired.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

from counterpoise.classifiers import mixing
from counterpoise.classifiers.decoupling import Rows as Labelled
from counterpoise.classifiers.heads import HeadJob, LinearHead, train_heads
from counterpoise.classifiers.training import Lesson, features_of, train_network
from counterpoise.data.pixels import Rows
from counterpoise.recipe import Fit
from counterpoise.rundir import Run
from counterpoise.study import Study, rows_of


@dataclass(frozen=True, eq=False)
class Pupil:
    """What one trial of one fit is taught from."""

    rows: Rows
    labels: np.ndarray
    groups: np.ndarray | None
    synthetic: np.ndarray
    weights: np.ndarray
    fit: Fit
    n_classes: int

    @classmethod
    def of(cls, study: Study, fit: Fit, draw: int) -> Pupil:
        rows, labels, groups, synthetic = rows_of(study, draw, fit.synthesis)
        weights = np.ones(len(labels))
        if fit.mix is not None:
            weights = fit.mix(weights[~synthetic], weights[synthetic])
        return cls(rows, labels, groups, synthetic, weights, fit, len(study.classes))

    def stream(self, steps: int, batch: int, seed: int) -> np.ndarray:
        return mixing.stream(self.fit.sampler, self.labels, self.weights, steps, batch, seed, self.groups)

    def prior(self, progress: float = 0.0) -> np.ndarray:
        """Label mass in rows, as the loader really yields it, pasted patches included (evidence rule 4)."""
        prior = self._drawn(progress) if self.fit.sampler.moves else self._always
        for change in self.fit.augment:
            if getattr(change, "partners", False):
                share = change.pasted(progress)
                prior = (1 - share) * prior + share * prior.sum() * self._patched
        return prior

    def _drawn(self, progress: float) -> np.ndarray:
        fit = self.fit
        return mixing.prior_of(fit.sampler, self.labels, self.weights, progress, self.groups, self.n_classes)

    @cached_property
    def _always(self) -> np.ndarray:
        return self._drawn(0.0)

    @cached_property
    def _patched(self) -> np.ndarray:
        """Label shares of the patches."""
        weights = mixing.patch_weights(self.labels, self.weights)
        return mixing.label_mass(self.labels, weights / weights.sum(), self.n_classes)

    def patches(self, steps: int, batch: int, seed: int) -> np.ndarray | None:
        """A second stream for augmentations that paste from tail-weighted images."""
        if not any(getattr(change, "partners", False) for change in self.fit.augment):
            return None
        weights = mixing.patch_weights(self.labels, self.weights)
        return mixing.stream(mixing.Instance(), self.labels, weights, steps, batch, seed, self.groups)


def make_trials(study: Study, unit: str) -> None:
    """Train one trial file and commit it."""
    fit = study.recipe.fit(unit.split("/")[1])
    started = time.perf_counter()
    cpu = time.process_time()
    trials = study.trials_in(unit)
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {"fit": fit.name, "trials": trials, "prior": {}, "chosen": {}}
    finished = _heads(study, fit, trials) if study.frozen else _networks(study, fit, trials)
    for trial, net, head, train, prior in finished:
        if net is not None:
            arrays |= {f"{trial}/net/{name}": value.numpy() for name, value in net.state_dict().items()}
        val = _validation(study, net)
        notes["prior"][str(trial)] = (prior / prior.sum()).round(6).tolist()
        for arm in study.recipe.arms_of(fit.name):
            last, chosen = head, {}
            if arm.after is not None:
                last, chosen = arm.after(head, train, val, prior, study.seed("after", trial))
            arrays |= {f"{trial}/{arm.name}/{name}": value for name, value in last.save().items()}
            arrays[f"{trial}/{arm.name}/val_logits"] = last.logits(val.features)
            notes["chosen"][f"{trial}/{arm.name}"] = chosen
    notes |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    study.run.put_bytes(unit, save(arrays, {"notes": json.dumps(notes)}))


Finished = tuple[int, nn.Module | None, LinearHead, Labelled, np.ndarray]


def _networks(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Pixel classifiers, one after the other."""
    training = study.recipe.training
    for trial in trials:
        pupil = Pupil.of(study, fit, study.draw_of(trial))
        seed = study.seed("trial", trial)
        net = build_network(study, fit, seed)
        groups = None if pupil.groups is None else torch.from_numpy(pupil.groups)
        lesson = Lesson(
            pupil.rows,
            torch.eye(pupil.n_classes)[torch.from_numpy(pupil.labels)],
            groups,
            pupil.stream(training.steps, training.batch, seed),
            lambda progress, pupil=pupil: torch.from_numpy(pupil.prior(progress)).float(),  # type: ignore[misc]
            pupil.patches(training.steps, training.batch, study.seed("patches", trial)),
        )
        train_network(net, lesson, fit.loss, fit.reduction, fit.augment, training, seed)
        train = Labelled(features_of(net, pupil.rows).numpy(), pupil.labels, pupil.groups)
        yield trial, net, head_of(net, fit), train, pupil.prior(1.0)


def _heads(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Heads on cached features: every trial in one batched problem."""
    training = study.recipe.training
    real = study.vectors("train")
    base, blocks, jobs, pupils = len(real), [real], [], []
    for trial in trials:
        pupil = Pupil.of(study, fit, study.draw_of(trial))
        rows = pupil.stream(training.steps, training.batch, study.seed("trial", trial))
        place = pupil.rows.order.copy()
        if len(pupil.rows.arrays) > 1:  # this draw's samples go behind what is there already
            blocks.append(np.asarray(pupil.rows.arrays[1]))
            place[place >= len(real)] += base - len(real)
            base += len(blocks[-1])
        pupils.append((pupil, place, rows))
    for trial, (pupil, place, rows) in zip(trials, pupils, strict=True):
        targets, groups = np.zeros(base, np.int64), np.zeros(base, np.int64)
        targets[place] = pupil.labels
        if pupil.groups is not None:
            groups[place] = pupil.groups
        jobs.append(
            HeadJob(
                rows=place[rows],
                targets=targets,
                loss=fit.loss,
                prior=pupil.prior,
                seed=study.seed("trial", trial),
                groups=groups if pupil.groups is not None else None,
                reduction=fit.reduction,
            )
        )
    features = np.concatenate(blocks) if len(blocks) > 1 else real
    heads = train_heads(
        features,
        jobs,
        real=np.arange(len(real)),
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    for trial, head, (pupil, place, _) in zip(trials, heads, pupils, strict=True):
        yield trial, None, head, Labelled(features[place], pupil.labels, pupil.groups), pupil.prior(1.0)


def build_network(study: Study, fit: Fit, seed: int) -> nn.Module:
    facts = study.facts
    return study.recipe.network(
        facts["channels"], len(study.classes), facts["size"], seed=seed, cosine=bool(fit.loss.cosine)
    )


def head_of(net: nn.Module, fit: Fit) -> LinearHead:
    """The network's own last layer, as the linear head that second stages work on."""
    weight = net.head.weight.detach().float()  # type: ignore[union-attr]
    classes, dim = weight.shape
    bias = net.head.bias.detach().float() if net.head.bias is not None else torch.zeros(classes)  # type: ignore[union-attr]
    cosine = bool(fit.loss.cosine)
    if cosine:  # the loss scales its cosines; so must the head
        weight = nn.functional.normalize(weight) * float(getattr(fit.loss, "scale", 1.0))
    zeros, ones = np.zeros(dim, np.float32), np.ones(dim, np.float32)
    return LinearHead(weight.numpy(), bias.numpy(), zeros, ones, normalise=cosine)


def _validation(study: Study, net: nn.Module | None) -> Labelled:
    labels, groups = study.labels("val"), study.group_ids("val")
    vectors = study.vectors("val")
    return Labelled(vectors if net is None else features_of(net, Rows.of(vectors)).numpy(), labels, groups)


# --- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialFile:
    """A committed trial file."""

    run: Run
    unit: str

    def _open(self):  # type: ignore[no-untyped-def]
        return safe_open(self.run / self.unit, "np")

    @property
    def notes(self) -> dict[str, Any]:
        with self._open() as file:
            return json.loads(file.metadata()["notes"])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        with self._open() as file:
            return {
                name.removeprefix(prefix): file.get_tensor(name)
                for name in file.keys()
                if name.startswith(prefix)
            }

    def head(self, trial: int, arm: str) -> LinearHead:
        return LinearHead.load(self.arrays(f"{trial}/{arm}/"))

    def val_logits(self, trial: int, arm: str) -> np.ndarray:
        with self._open() as file:
            return file.get_tensor(f"{trial}/{arm}/val_logits")

    def network(self, study: Study, trial: int) -> nn.Module | None:
        if study.frozen:
            return None
        net = build_network(study, study.recipe.fit(self.unit.split("/")[1]), seed=0)
        net.load_state_dict({k: torch.from_numpy(v) for k, v in self.arrays(f"{trial}/net/").items()})
        return net.eval()


def file_of(study: Study, arm: str, trial: int) -> TrialFile:
    """Where one trial of one arm lies."""
    fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
    unit = next(unit for unit in study.trial_units(fit) if trial in study.trials_in(unit))
    return TrialFile(study.run, unit)
