"""Trials of heads that begin as class names: which rows they are tuned on, and what validation chooses of what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from counterpoise.classifiers import mixing
from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import Rows as Labelled
from counterpoise.classifiers.decoupling import balanced_accuracy, best, choose_wise
from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.tuning import Taught, Tuning, from_names, half_believed
from counterpoise.encoding import said_of
from counterpoise.pupils import Finished, Pupil, sharing, validation
from counterpoise.recipe import Fit
from counterpoise.seeding import derive
from counterpoise.study import Study
from counterpoise.types import Refusal


def tuned_heads(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Heads from class names on cached features; of 0 steps, the zero-shot classifier."""
    start = from_names(*said_of(study, fit.tuning.templates))
    for pupils in sharing(study, fit, trials):
        yield from _batch(study, fit, pupils, start)


def _batch(study: Study, fit: Fit, pupils: dict[int, Pupil], start: LinearHead) -> Iterator[Finished]:
    rows = next(iter(pupils.values())).rows
    # Where a filter has let nothing pass there is nothing to learn from, and the names stay what is known; the funnel says so.
    tuning = fit.tuning if len(rows) else Tuning(templates=fit.tuning.templates, steps=0)
    features = next(iter(pupils.values())).matrix if len(rows) else start.weight[:0]
    _check(study, fit, len(rows), features.shape[1], start.weight.shape[1])
    distinct = {id(pupil): pupil for pupil in pupils.values()}
    aims = {key: _aims(pupil, tuning, features, start) for key, pupil in distinct.items()}
    taught = {
        trial: _taught(pupil, tuning, aims[id(pupil)], study.seed("trial", trial))
        for trial, pupil in pupils.items()
    }
    tried = tuning(features, list(taught.values()), start)
    last = None
    for at, (trial, pupil) in enumerate(pupils.items()):
        val = validation(study, None, study.draw_of(trial), fit.synthesis)
        choice, head, chosen = _choose(fit, start, [(choice, heads[at]) for choice, heads in tried], val)
        prior = _prior(tuning, taught[trial], choice["weights"], len(start.bias))
        if pupil is not last:
            train, last = pupil.within(features), pupil
        yield Finished(trial, None, head, train, prior, chosen | pupil.told)


def _check(study: Study, fit: Fit, rows: int, seen: int, said: int) -> None:
    if seen != said:
        raise Refusal(
            f"features have {seen} numbers and class names {said}: they are not of one text-image pair; --redo teach"
        )
    after = [arm.name for arm in study.recipe.arms_of(fit.name) if arm.after is not None]
    if not rows and after:
        raise Refusal(
            f"recipe.arms.{after[0]}: second stages look at the rows that a head was fitted on, and {fit.name} has none: leave "
            "the arm out"
        )


def _aims(pupil: Pupil, tuning: Tuning, features: np.ndarray, start: LinearHead) -> np.ndarray:
    """What every row of the matrix is taught as: its label, if it is synthetic only partly."""
    labels, _ = pupil.laid_out
    made = pupil.rows.order[pupil.synthetic]
    if tuning.share == 0 or not len(made):
        return labels
    aims = mixing.soft(labels, pupil.n_classes).copy()
    aims[made] = half_believed(aims[made], start.logits(features[made]), tuning.share, tuning.temperature)
    return aims


def _taught(pupil: Pupil, tuning: Tuning, aims: np.ndarray, seed: int) -> Taught:
    if not tuning.steps:
        return Taught(None, None)
    real, _ = pupil.laid_out
    shape, made = (tuning.steps, tuning.batch), (tuning.steps, tuning.synthetic_batch)
    return Taught(
        _job(pupil, ~pupil.synthetic, real, shape, seed),
        _job(pupil, pupil.synthetic, aims, made, derive("synthetic", seed)),
    )


def _job(
    pupil: Pupil, which: np.ndarray, aims: np.ndarray, shape: tuple[int, int], seed: int
) -> HeadJob | None:
    """These rows alone, drawn as the fit draws rows, and the label mass that this yields."""
    fit, picked = pupil.fit, np.flatnonzero(which)
    if not len(picked):
        return None
    labels, weights, places = pupil.labels[picked], pupil.weights[picked], pupil.rows.order[picked]
    groups = None if pupil.groups is None else pupil.groups[picked]

    def prior(progress: float) -> np.ndarray:
        probability = mixing.row_probability(fit.sampler, labels, weights, progress, groups)
        mass = mixing.effective_prior(aims[places], probability, pupil.n_classes)
        return mass * np.count_nonzero(weights)

    return HeadJob(
        rows=places[mixing.stream(fit.sampler, labels, weights, *shape, seed, groups)],
        targets=aims,
        loss=fit.loss,
        prior=prior if fit.sampler.moves else prior(0.0),
        seed=seed,
        reduction=fit.reduction,
        groups=pupil.laid_out[1],
    )


def _prior(tuning: Tuning, taught: Taught, weights: tuple[float, float], classes: int) -> np.ndarray:
    """Label mass of what was taught last, as the loss weighs it; a head that saw no row finds all classes alike."""
    if not tuning.steps:
        return np.ones(classes)
    found = np.zeros(classes)
    for kind in tuning.phases(taught)[-1]:
        prior = getattr(taught, kind).prior
        mass = np.asarray(prior(1.0) if callable(prior) else prior)
        found += weights[kind == "synthetic"] * mass / mass.sum()
    return found


def _choose(
    fit: Fit, start: LinearHead, tried: list[tuple[dict[str, Any], LinearHead]], val: Labelled
) -> tuple[dict[str, Any], LinearHead, dict[str, Any]]:
    """What validation likes best of all settings, each with its best way back to the names: the setting, the head, and what
    there was to choose."""

    def between(theta: dict[str, torch.Tensor]) -> LinearHead:
        return replace(start, weight=theta["weight"].numpy(), bias=theta["bias"].numpy())

    def score(theta: dict[str, torch.Tensor]) -> float:
        return balanced_accuracy(between(theta).logits(val.features), val.labels)

    def back(head: LinearHead) -> tuple[LinearHead, dict[str, float]]:
        theta, alpha = choose_wise(_weights(start), _weights(head), score)
        return between(theta), alpha

    if not fit.wise and len(tried) == 1:
        return *tried[0], {}
    ways = [(choice, *(back(head) if fit.wise else (head, {}))) for choice, head in tried]
    (choice, alpha), head = best((((choice, alpha), head) for choice, head, alpha in ways), val)
    several = {name for name in choice if len({other[name] for other, _ in tried}) > 1}
    return choice, head, {name: choice[name] for name in choice if name in several} | alpha


def _weights(head: LinearHead) -> dict[str, torch.Tensor]:
    return {"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)}
