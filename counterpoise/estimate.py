"""What a run will cost, before anything is made: rows are counted, one training step is timed, the rest is arithmetic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from counterpoise import tables
from counterpoise.nets.words import called
from counterpoise.pipeline import check_ready, default_processes
from counterpoise.proposals.budgets import Needs, Piloted
from counterpoise.proposals.quotas import Quota
from counterpoise.recipe import Data, Recipe, Synthesis
from counterpoise.scores.turned import Turned
from counterpoise.stages.intake import check_names, settle_shape
from counterpoise.trialfiles import network_of
from counterpoise.types import describe


def estimate(recipe: Recipe) -> dict[str, Any]:
    listing = recipe.data.source.listing()
    shape = settle_shape(recipe.data, recipe.data.source, listing)
    check_names(recipe, listing)
    names = called(tables.meta(listing)["classes"], dict(recipe.data.glossary))
    check_ready(recipe, names)
    classes = max(len(names), 2)
    per_image = shape["size"] ** 2 * shape["channels"]
    trainings = len(recipe.fits) * recipe.trials.n
    tutored = {item.tutor: 0 for item in recipe.synthesis if item.tutor is not None}
    for item in recipe.synthesis:
        if item.tutor is not None:
            tutored[item.tutor] = max(tutored[item.tutor], item.rounds if item.retold else 1)
    trainings += sum((tutor.members + 1) * n for tutor, n in tutored.items()) * recipe.trials.draws
    kept_from = {
        (item.tutor, score.folds)
        for item in recipe.synthesis
        for _, score in item.scores
        if isinstance(score, Turned)
    }
    trainings += sum(folds for _, folds in kept_from) * recipe.trials.draws
    wanted = {
        item.name: _at_most(item, _counts(recipe.data, listing, item.by_group)) for item in recipe.synthesis
    }
    samples = sum(wanted.values()) * recipe.trials.draws
    processes = default_processes()
    # What a generator sees: pictures, or vectors, which are of one pixel.
    sees = {"pixels": (shape["channels"], shape["size"])}
    encoding = 0.0
    if getattr(recipe.network, "frozen", False):
        few = np.zeros((4, shape["size"], shape["size"], 3), np.uint8)
        sees["features"] = (recipe.network.components or recipe.network.encode(few).shape[1], 1)
        encoding = _time(lambda: recipe.network.encode(few)) / 4
        tried = max(1, len(recipe.training.decays))
        training = len(listing) * encoding + trainings * tried * recipe.training.steps * 5e-4
    else:
        training = trainings * recipe.training.steps * _step_seconds(recipe, shape, names)
    handling = len(listing) * 4e-4 + samples * 5e-4
    stored = 0
    fitted: list[Any] = []  # syntheses of one generator share its weights
    for item in recipe.synthesis:
        pictured = "features" not in sees or "features" not in item.generator.spaces
        like = sees["pixels" if pictured else "features"]
        training += recipe.trials.draws * wanted[item.name] * encoding * pictured
        for _, score in item.scores:
            if hasattr(score, "seconds") and names:
                once, sample = score.seconds(*like, names)
                training += recipe.trials.draws * (once + wanted[item.name] * sample)
        if hasattr(item.generator, "stored") and item.generator not in fitted:
            stored += recipe.trials.draws * item.generator.stored(*like, classes)
        if hasattr(item.generator, "seconds"):
            fit, sample = item.generator.seconds(*like, classes, batch=16 if like[1] > 1 else 256)
            fit = 0.0 if item.generator in fitted else fit
            fitted.append(item.generator)
            training += recipe.trials.draws * (fit + wanted[item.name] * sample)
    return {
        "recipe": describe(recipe),
        "images": len(listing),
        "classes": classes,
        "size": shape["size"],
        "trainings": trainings,
        "steps": recipe.training.steps,
        "samples_at_most": samples,
        "bytes": int((2 * len(listing) + 2 * samples) * per_image + stored + 1e6),
        "seconds": round((training + handling) / processes + 10, 1),
        "workers": processes,
    }


def _counts(data: Data, listing: pa.Table, by_group: bool) -> np.ndarray:
    """Images by class, or by class x group cell, that the cut would leave if nothing were held out."""
    names = tables.meta(listing)["classes"]
    known = listing.filter(pc.is_valid(listing["label"]))
    code = {name: label for label, name in enumerate(names)}
    labels = np.array([code[name] for name in known["label"].to_pylist()], np.int64)
    grouped = len(known) > 0 and not known["group"].null_count
    group_names, groups = np.unique(known["group"].to_pylist() if grouped else [""], return_inverse=True)
    rows = np.arange(len(labels))
    if data.cut is not None and len(labels):
        rows = data.cut(labels, groups if grouped else None, data.seed, names, list(group_names))
    if not (by_group and grouped):
        return np.bincount(labels[rows], minlength=len(names))
    cells = labels * len(group_names) + groups
    return np.bincount(cells[rows], minlength=len(names) * len(group_names))


def _at_most(item: Synthesis, counts: np.ndarray) -> int:
    """Samples of all rounds together, whatever a tutor or a filter will say."""
    if isinstance(item.budget, Quota):
        return int(item.budget.most * item.budget(counts, Needs.unheard(len(counts))).sum())
    pilot = isinstance(item.budget, Piloted)  # its rounds share what one budget asks for
    budget, rounds = (item.budget.budget, 1) if pilot else (item.budget, item.rounds)
    return int(budget(counts, Needs.unheard(len(counts))).sum()) * rounds


def _step_seconds(recipe: Recipe, shape: dict[str, int], classes: Sequence[str]) -> float:
    torch.set_num_threads(1)
    names = [*classes, "one", "two"][: max(len(classes), 2)]
    net = network_of(recipe.network, shape, names, seed=0).train()
    x = torch.rand(recipe.training.batch, shape["channels"], shape["size"], shape["size"])
    y = torch.zeros(len(x), dtype=torch.long)
    return 1.2 * _time(lambda: torch.nn.functional.cross_entropy(net(x), y).backward())  # a fifth for loading


def _time(work) -> float:  # type: ignore[no-untyped-def]
    work()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
