"""One trial file: a fit is trained for its trials, then every arm that shares it finishes the linear head its own way.

Used by `teach` (real rows, maybe with pseudo-labelled ones) and `train` (kept samples as well) alike, so that an arm
with synthetic rows differs from one without in its rows and in nothing else. A trial's seeds never name the arm: arms
are paired.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

from counterpoise.classifiers import mixing
from counterpoise.classifiers.claims import claimed
from counterpoise.classifiers.decoupling import Rows as Labelled
from counterpoise.classifiers.decoupling import balanced_accuracy, best, choose_wise, probe
from counterpoise.classifiers.heads import HeadJob, LinearHead, cosine_scale, train_heads
from counterpoise.classifiers.training import Lesson, Training, features_of, train_network
from counterpoise.data.pixels import Rows
from counterpoise.gathering import origins_of, real_of, rows_of
from counterpoise.lots import Lot
from counterpoise.recipe import Fit
from counterpoise.study import Study
from counterpoise.trialfiles import build_network, file_of

RATES = ("lr", "momentum", "weight_decay")
PROBE_STEPS = 300  # of a head on features that are there: as many as the other second stages take


@dataclass(frozen=True, eq=False)
class Pupil:
    """What one trial of one fit is taught from: real rows, pseudo-labelled ones behind them, synthetic ones last."""

    fit: Fit
    n_classes: int
    rows: Rows
    labels: np.ndarray  # (n,), or (n, classes) if some of them are soft
    groups: np.ndarray | None
    synthetic: np.ndarray
    pseudo: int = 0  # rows of the pool that were given a label
    wanted: np.ndarray | None = None  # (synthetic rows,) the class of each, whatever its label claims
    views: int = 0  # rows that show the images of those before them once more

    @classmethod
    def of(cls, study: Study, fit: Fit, trial: int) -> Pupil:
        draw = study.draw_of(trial)
        if fit.own:
            real = real_of(study, draw, fit.synthesis)
            return cls(fit, len(study.classes), *real, np.zeros(len(real[1]), bool))
        rows, labels, groups, synthetic = rows_of(study, draw, fit.synthesis, views=fit.views)
        if fit.by_cell and groups is not None:
            groups = np.where(groups < 0, groups, labels * len(study.groups) + groups)
        wanted, classes = labels[synthetic], len(study.classes)
        if fit.mix is not None and fit.synthesis is not None:
            labels = claimed(labels, origins_of(study, draw, fit.synthesis), fit.mix.claims, classes)
        views = int((~synthetic).sum()) - len(study.draw_rows(draw))
        pupil = cls(fit, classes, rows, labels, groups, synthetic, wanted=wanted, views=views)
        if fit.pool is None:
            return pupil
        groups = study.group_ids("pool")
        file = file_of(study, fit.pool.teacher, trial)
        net, seen = file.network(study, trial), study.vectors("pool", draw)
        features = seen if net is None else features_of(net, Rows.of(seen)).numpy()
        pool = study.vectors("pool", draw, fit.synthesis)
        kept, guessed = fit.pool(file.head(trial, fit.pool.teacher).logits(features))
        return pupil._and(pool, kept, guessed, None if groups is None else groups[kept])

    def _and(
        self, pool: np.ndarray, kept: np.ndarray, guessed: np.ndarray, groups: np.ndarray | None
    ) -> Pupil:
        """With these rows of the pool between the real and the synthetic ones."""
        real, behind = int((~self.synthetic).sum()), sum(map(len, self.rows.arrays))
        labels = self.labels
        if labels.ndim != guessed.ndim:
            labels, guessed = (mixing.soft(some, self.n_classes) for some in (labels, guessed))
        return replace(
            self,
            rows=Rows.of(*self.rows.arrays, pool, order=np.insert(self.rows.order, real, behind + kept)),
            labels=np.concatenate([labels[:real], guessed, labels[real:]]),
            groups=None if self.groups is None or groups is None else np.insert(self.groups, real, groups),
            synthetic=np.insert(self.synthetic, real, np.zeros(len(kept), bool)),
            pseudo=len(kept),
        )

    @cached_property
    def weights(self) -> np.ndarray:
        weights, mix, real = np.ones(len(self.labels)), self.fit.mix, ~self.synthetic
        if mix is None:
            return weights
        if self.wanted is None:
            return mix(weights[real], weights[~real])
        again = np.arange(
            self.images, self.images + self.views
        )  # what is rare stays so, however often it is shown
        counted = np.delete(mixing.hard(self.labels)[real], again)
        return mix(weights[real], weights[~real], (counted, self.wanted))

    @property
    def images(self) -> int:
        """Real rows, each once; they are the first."""
        return int((~self.synthetic).sum()) - self.pseudo - self.views

    @property
    def real(self) -> np.ndarray:
        """Where the real rows and other views of them lie in the arrays."""
        return np.array(self.rows.order[: self.images + self.views])

    @property
    def targets(self) -> np.ndarray:
        """Soft labels (n, classes) float32."""
        return mixing.soft(self.labels, self.n_classes)

    def labelled(self, features: np.ndarray) -> Labelled:
        """What second stages see: one label per row."""
        real = np.arange(len(self.labels)) < self.images
        return Labelled(features, mixing.hard(self.labels), self.groups, real)

    @property
    def told(self) -> dict[str, int]:
        return {} if self.fit.pool is None else {"pseudo_labels": self.pseudo}

    def stream(self, steps: int, batch: int, seed: int) -> np.ndarray:
        return mixing.stream(self.fit.sampler, self.labels, self.weights, steps, batch, seed, self.groups)

    def lesson(self, training: Training, seed: int, patches_seed: int) -> Lesson:
        """All that a network is taught from."""
        return Lesson(
            self.rows,
            torch.from_numpy(self.targets),
            None if self.groups is None else torch.from_numpy(self.groups),
            self.stream(training.steps, training.batch, seed),
            lambda progress: torch.from_numpy(self.prior(progress)).float(),
            self.patches(training.steps, training.batch, patches_seed),
        )

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
    way = _own if fit.own else _heads if study.linear(fit) else _networks
    for one in way(study, fit, trials):
        trial, prior = one.trial, one.prior
        if one.net is not None:
            arrays |= {f"{trial}/net/{name}": value.numpy() for name, value in one.net.state_dict().items()}
        val = _validation(study, one.net, study.draw_of(trial), fit.synthesis)
        notes["prior"][str(trial)] = (prior / prior.sum()).round(6).tolist()
        for arm in study.recipe.arms_of(fit.name):
            last, chosen = one.head, one.chosen
            if arm.after is not None:
                last, more = arm.after(one.head, one.train, val, prior, study.seed("after", trial))
                chosen = chosen | more
            arrays |= {f"{trial}/{arm.name}/{name}": value for name, value in last.save().items()}
            arrays[f"{trial}/{arm.name}/val_logits"] = last.logits(val.features)
            notes["chosen"][f"{trial}/{arm.name}"] = chosen
    notes |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    study.run.put_bytes(unit, save(arrays, {"notes": json.dumps(notes)}))


@dataclass(frozen=True, eq=False)
class Finished:
    """One trial of a fit, before its arms go their own ways."""

    trial: int
    net: nn.Module | None
    head: LinearHead
    train: Labelled
    prior: np.ndarray
    chosen: dict[str, Any] = field(default_factory=dict)


def _networks(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Pixel classifiers, one after the other."""
    training = study.recipe.training
    for trial in trials:
        pupil = Pupil.of(study, fit, trial)
        seed = study.seed("trial", trial)
        net = build_network(study, fit, seed)
        lesson = pupil.lesson(training, seed, study.seed("patches", trial))
        given = _probed(net, pupil, training.batch, seed) if fit.wise else None
        train_network(net, lesson, fit.loss, fit.reduction, fit.augment, training, seed)
        chosen = {} if given is None else _go_back(study, net, fit, given)
        train = pupil.labelled(features_of(net, pupil.rows).numpy())
        yield Finished(trial, net, head_of(net, fit), train, pupil.prior(1.0), chosen | pupil.told)


def _probed(net: nn.Module, pupil: Pupil, batch: int, seed: int) -> dict[str, torch.Tensor]:
    """Give the untrained network a head fitted on its features; a copy of all its weights is theta_0 of WiSE-FT."""
    rows, fit = pupil.stream(PROBE_STEPS, batch, seed), pupil.fit
    job = HeadJob(rows, pupil.labels, fit.loss, pupil.prior, seed, fit.reduction, pupil.groups)
    weight, bias = probe(features_of(net, pupil.rows).numpy(), job)
    head: nn.Linear = net.head  # type: ignore[assignment]
    head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return _weights(net)


def _go_back(study: Study, net: nn.Module, fit: Fit, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Put the network between the given weights and its own, where validation likes it best."""

    def score(theta: dict[str, torch.Tensor]) -> float:
        net.load_state_dict(theta)
        val = _validation(study, net)  # a network sees pixels: the same rows in every draw
        return balanced_accuracy(head_of(net, fit).logits(val.features), val.labels)

    theta, chosen = choose_wise(given, _weights(net), score)
    net.load_state_dict(theta)
    return chosen | {"probe_views": PROBE_STEPS * study.recipe.training.batch}


def _weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _heads(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Heads on cached vectors: trials that read the same rows are one batched problem.

    Draws with rows of their own go one after the other: standardisation sees no row that a cut left out, and memory
    holds the samples of one draw.
    """
    apart = fit.synthesis is not None or study.recipe.data.cut is not None
    together: dict[int, list[int]] = {}
    for trial in trials:
        together.setdefault(study.draw_of(trial) if apart else 0, []).append(trial)
    for members in together.values():
        yield from _batch_of_heads(study, fit, members)


def _batch_of_heads(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    training = study.recipe.training
    # Trials of one draw have the same rows, unless each has labels of its own for the pool.
    first = {trial: trial if fit.pool is not None else study.draw_of(trial) for trial in trials}
    pupils = {key: Pupil.of(study, fit, key) for key in dict.fromkeys(first.values())}
    arrays = next(iter(pupils.values())).rows.arrays
    features = np.concatenate(arrays) if len(arrays) > 1 else np.asarray(arrays[0])
    targets: dict[int, np.ndarray] = {}
    groups: dict[int, np.ndarray | None] = {}
    for key, pupil in pupils.items():
        targets[key] = np.zeros((len(features), *pupil.labels.shape[1:]), pupil.labels.dtype)
        targets[key][pupil.rows.order] = pupil.labels
        groups[key] = None
        if pupil.groups is not None:
            groups[key] = known = np.zeros(len(features), np.int64)
            known[pupil.rows.order] = pupil.groups
    jobs = []
    for trial in trials:
        key, seed = first[trial], study.seed("trial", trial)
        pupil = pupils[key]
        views = pupil.stream(training.steps, training.batch, seed)
        jobs.append(
            HeadJob(
                rows=pupil.rows.order[views],
                targets=targets[key],
                loss=fit.loss,
                prior=pupil.prior if fit.sampler.moves else pupil.prior(),
                seed=seed,
                groups=groups[key],
                reduction=fit.reduction,
            )
        )
    # Where the recipe's rates are those of a network on pixels, heads on codes take their own.
    rates = {name: getattr(training, name) for name in RATES} if study.frozen else {}
    real, decays = pupils[first[trials[0]]].real, training.decays if study.frozen else ()
    tried = [
        train_heads(features, jobs, real=real, **(rates | changed))
        for changed in ([{"weight_decay": decay} for decay in decays] or [{}])
    ]
    seen: dict[int, Labelled] = {}  # of one draw: wide features are not copied for every trial
    for at, trial in enumerate(trials):
        key, pupil = first[trial], pupils[first[trial]]
        head, chosen = tried[0][at], {}
        if decays:
            val = _validation(study, None, study.draw_of(trial), fit.synthesis)
            found = ((decay, heads[at]) for decay, heads in zip(decays, tried, strict=True))
            decay, head = best(found, val)
            chosen = {"weight_decay": decay}
        if key not in seen:
            order = pupil.rows.order
            whole = np.array_equal(order, np.arange(len(features)))
            seen = {key: pupil.labelled(features if whole else features[order])}
        yield Finished(trial, None, head, seen[key], pupil.prior(1.0), chosen | pupil.told)


def head_of(net: nn.Module, fit: Fit) -> LinearHead:
    """The network's own last layer, as the linear head that second stages work on."""
    linear: nn.Linear = net.head  # type: ignore[assignment]
    weight = linear.weight.detach().float()
    bias = linear.bias.detach().float() if linear.bias is not None else torch.zeros(len(weight))
    cosine = bool(fit.loss.cosine)
    if cosine:  # the loss scales its cosines; so must the head
        weight = nn.functional.normalize(weight) * cosine_scale(fit.loss)
    return LinearHead.on_raw(weight.numpy(), bias.numpy(), normalise=cosine)


def _own(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """What a generator predicts itself: nothing is trained here, so trials of one draw are alike."""
    assert fit.synthesis is not None
    assert fit.own is not None
    generator = study.synthesis(fit.synthesis).generator
    for trial in trials:
        pupil = Pupil.of(study, fit, trial)
        arrays = generator.head(
            study.run / study.generator_of(Lot(fit.synthesis, study.draw_of(trial))), fit.own
        )
        head = LinearHead.on_raw(arrays["weight"], arrays["bias"], arrays.get("square"))
        train = pupil.labelled(pupil.rows.raw(np.arange(len(pupil.rows))))
        yield Finished(trial, None, head, train, pupil.prior(1.0))


def _validation(study: Study, net: nn.Module | None, draw: int = 0, synthesis: str | None = None) -> Labelled:
    labels, groups = study.labels("val"), study.group_ids("val")
    vectors = study.vectors("val", draw, synthesis)
    return Labelled(vectors if net is None else features_of(net, Rows.of(vectors)).numpy(), labels, groups)
