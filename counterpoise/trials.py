"""One trial file: a fit is trained for its trials, then every arm that shares it finishes the linear head its own way.

Used by `teach` (real rows, maybe with pseudo-labelled ones) and `train` (kept samples as well) alike, so that an arm
with synthetic rows differs from one without in its rows and in nothing else. A trial's seeds never name the arm: arms
are paired.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

from counterpoise.classifiers.batched import HeadJob
from counterpoise.classifiers.decoupling import balanced_accuracy, best, choose_wise, probe
from counterpoise.classifiers.heads import LinearHead, cosine_scale, train_heads
from counterpoise.classifiers.training import features_of, train_network
from counterpoise.firstweights import begin
from counterpoise.lots import Lot
from counterpoise.pupils import Finished, Pupil, sharing, validation
from counterpoise.recipe import Fit
from counterpoise.study import Study
from counterpoise.trialfiles import build_network
from counterpoise.tuned import tuned_heads

RATES = ("lr", "momentum", "weight_decay")
PROBE_STEPS = 300  # of a head on features that are there: as many as the other second stages take


def make_trials(study: Study, unit: str) -> None:
    """Train one trial file and commit it."""
    fit = study.recipe.fit(unit.split("/")[1])
    started = time.perf_counter()
    cpu = time.process_time()
    trials = study.trials_in(unit)
    arrays: dict[str, np.ndarray] = {}
    notes: dict[str, Any] = {"fit": fit.name, "trials": trials, "prior": {}, "chosen": {}}
    way = _own if fit.own else tuned_heads if fit.tuning else _heads if study.linear(fit) else _networks
    for one in way(study, fit, trials):
        trial, prior = one.trial, one.prior
        if one.net is not None:
            arrays |= {f"{trial}/net/{name}": value.numpy() for name, value in one.net.state_dict().items()}
        val = validation(study, one.net, study.draw_of(trial), fit.synthesis)
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


def _networks(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Pixel classifiers, one after the other."""
    training = study.recipe.training
    for trial in trials:
        pupil = Pupil.of(study, fit, trial)
        seed = study.seed("trial", trial)
        net = build_network(study, fit, seed)
        begun = begin(study, fit, trial, net)
        lesson = pupil.lesson(training, seed, study.seed("patches", trial))
        given = _probed(net, pupil, training.batch, seed) if fit.wise else None
        train_network(net, lesson, fit.loss, fit.reduction, fit.augment, training, seed)
        chosen = {} if given is None else _go_back(study, net, fit, given)
        train = pupil.labelled(features_of(net, pupil.rows).numpy())
        yield Finished(trial, net, head_of(net, fit), train, pupil.prior(1.0), begun | chosen | pupil.told)


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
        val = validation(study, net)  # a network sees pixels: the same rows in every draw
        return balanced_accuracy(head_of(net, fit).logits(val.features), val.labels)

    theta, chosen = choose_wise(given, _weights(net), score)
    net.load_state_dict(theta)
    return chosen | {"probe_views": PROBE_STEPS * study.recipe.training.batch}


def _weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def _heads(study: Study, fit: Fit, trials: list[int]) -> Iterator[Finished]:
    """Heads on cached vectors."""
    for pupils in sharing(study, fit, trials):
        yield from _batch_of_heads(study, fit, pupils)


def _batch_of_heads(study: Study, fit: Fit, pupils: dict[int, Pupil]) -> Iterator[Finished]:
    training, one = study.recipe.training, next(iter(pupils.values()))
    features = one.matrix
    jobs = []
    for trial, pupil in pupils.items():
        seed = study.seed("trial", trial)
        views = pupil.stream(training.steps, training.batch, seed)
        targets, groups = pupil.laid_out
        jobs.append(
            HeadJob(
                rows=pupil.rows.order[views],
                targets=targets,
                loss=fit.loss,
                prior=pupil.prior if fit.sampler.moves else pupil.prior(),
                seed=seed,
                groups=groups,
                reduction=fit.reduction,
            )
        )
    # Where the recipe's rates are those of a network on pixels, heads on codes take their own.
    rates = {name: getattr(training, name) for name in RATES} if study.frozen else {}
    decays = training.decays if study.frozen else ()
    tried = [
        train_heads(features, jobs, real=one.real, **(rates | changed))
        for changed in ([{"weight_decay": decay} for decay in decays] or [{}])
    ]
    last = None  # of one draw: wide features are not copied for every trial
    for at, (trial, pupil) in enumerate(pupils.items()):
        head, chosen = tried[0][at], {}
        if decays:
            val = validation(study, None, study.draw_of(trial), fit.synthesis)
            found = ((decay, heads[at]) for decay, heads in zip(decays, tried, strict=True))
            decay, head = best(found, val)
            chosen = {"weight_decay": decay}
        if pupil is not last:
            train, last = pupil.within(features), pupil
        yield Finished(trial, None, head, train, pupil.prior(1.0), chosen | pupil.told)


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
