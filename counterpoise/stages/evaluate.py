"""evaluate: the only stage that opens test data. Writes predictions, metrics.json and verdict.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import log_softmax

from counterpoise import tables
from counterpoise.classifiers.training import features_of
from counterpoise.data.pixels import Rows
from counterpoise.encoding import encode_codes, encode_unit
from counterpoise.metrics.accuracy import SLICES, group_accuracy, measure, per_class, slices
from counterpoise.metrics.calibration import fit_temperature
from counterpoise.metrics.verdict import decide
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile


def encodings(study: Study) -> list[str]:
    return study.feature_units("test")


# --- predictions: a unit per trial file --------------------------------------------------------------------------


def units(study: Study) -> list[str]:
    return [_predictions(unit) for fit in study.recipe.fits for unit in study.trial_units(fit)]


def _predictions(unit: str) -> str:
    _, fit, name = unit.split("/")
    return f"evaluate/{fit}/{Path(name).stem}.parquet"


def predict(study: Study, unit: str) -> None:
    source = next(u for fit in study.recipe.fits for u in study.trial_units(fit) if _predictions(u) == unit)
    file, fit = TrialFile(study.run, source), study.recipe.fit(unit.split("/")[1])
    manifest = study.manifest("test")
    labels = study.labels("test")
    made = []
    for trial in study.trials_in(source):
        net = file.network(study, trial)
        vectors = study.vectors("test", study.draw_of(trial), fit.synthesis)
        features = vectors if net is None else features_of(net, Rows.of(vectors)).numpy()
        for arm in study.recipe.arms_of(fit.name):
            logits = file.head(trial, arm.name).logits(features)
            temperature = fit_temperature(
                file.val_logits(trial, arm.name), study.labels("val"), balanced=True
            )
            said = log_softmax(logits, 1)
            columns = {
                "arm": [arm.name] * len(labels),
                "trial": np.full(len(labels), trial),
                "id": manifest["id"],
                "label": labels,
                "group": manifest["group"],
                "predicted": logits.argmax(1),
                "confidence": np.exp(said.max(1)),
                "calibrated": np.exp(log_softmax(logits / temperature, 1).max(1)),
                "nll": -said[np.arange(len(labels)), labels],
            }
            made.append(tables.table(tables.PREDICTIONS, columns))
    study.run.put_table(unit, pa.concat_tables(made))


# --- metrics and verdict -------------------------------------------------------------------------------------------


def summarise(study: Study, unit: str) -> None:
    arms: dict[str, Any] = {}
    for arm in study.recipe.arms:
        source = study.trial_units(study.recipe.fit(arm.fit))
        notes = [TrialFile(study.run, name).notes for name in source]
        rows = [study.run.table(_predictions(name)) for name in source]
        predictions = pa.concat_tables(rows)
        predictions = predictions.filter(np.asarray(predictions["arm"]) == arm.name)
        trials = [_measured(study, predictions, trial) for trial in range(study.recipe.trials.n)]
        arms[arm.name] = {
            "role": arm.role,
            "fit": arm.fit,
            "trials": trials,
            "mean": _means(trials),
            "classes": _recalls(study, predictions),
            "groups": _by_group(study, predictions),
            "validation": [_validation(study, source, arm.name, t) for t in range(study.recipe.trials.n)],
            "prior": np.mean([p for note in notes for p in note["prior"].values()], 0).round(6).tolist(),
            "chosen": [
                note["chosen"][key]
                for note in notes
                for key in note["chosen"]
                if key.split("/")[1] == arm.name
            ],
        }
    study.run.put_json(unit, {"classes": study.classes, "counts": study.counts().tolist(), "arms": arms})


def _measured(study: Study, predictions: pa.Table, trial: int) -> dict[str, float]:
    mine = predictions.filter(np.asarray(predictions["trial"]) == trial)
    label, predicted, nll = (mine[name].to_numpy() for name in ("label", "predicted", "nll"))
    draw, trained = study.draw_of(trial), study.group_ids("train")
    counts = study.counts(draw)  # the trial's own: a cut may draw anew which classes are rare
    groups = group_counts = None
    if trained is not None:
        groups, drawn = mine["group"].to_numpy(), trained[study.draw_rows(draw)]
        group_counts = np.bincount(drawn[drawn >= 0], minlength=len(study.groups))

    def measured(confidence: str) -> dict[str, float]:
        says = mine[confidence].to_numpy()
        return measure(label, predicted, says, nll, groups, counts, len(study.classes), group_counts)

    return measured("confidence") | {"ece_calibrated": measured("calibrated")["ece"]}


def _means(trials: list[dict[str, float]]) -> dict[str, float]:
    """Each over the trials that have it: in another draw there may be no class with many images."""
    names = dict.fromkeys(name for trial in trials for name in trial)
    return {name: float(np.mean([trial[name] for trial in trials if name in trial])) for name in names}


def _recalls(study: Study, predictions: pa.Table) -> list[dict[str, Any]]:
    """Per class over all trials together; a class has as many training images as on average over the draws."""
    counts = np.mean([study.counts(draw) for draw in range(study.recipe.trials.draws)], 0).round().astype(int)
    return per_class(
        predictions["label"].to_numpy(),
        predictions["predicted"].to_numpy(),
        counts,
        len(study.classes),
    )


def _by_group(study: Study, predictions: pa.Table) -> list[dict[str, Any]]:
    """Per group that has test images, over all trials together."""
    correct = predictions["label"].to_numpy() == predictions["predicted"].to_numpy()
    groups = pc.fill_null(predictions["group"], -1).to_numpy()
    tested = np.bincount(groups[groups >= 0], minlength=len(study.groups)) // study.recipe.trials.n
    return [
        {"name": study.groups[group], "test": int(tested[group]), "accuracy": accuracy}
        for group, accuracy in group_accuracy(correct, groups).items()
    ]


def _validation(study: Study, units: list[str], arm: str, trial: int) -> float:
    unit = next(u for u in units if trial in study.trials_in(u))
    said = TrialFile(study.run, unit).val_logits(trial, arm).argmax(1)
    labels = study.labels("val")
    return float(np.mean([(said[labels == c] == c).mean() for c in np.unique(labels)]))


def judge(study: Study, unit: str) -> None:
    """The verdict, on the slices that every trial has.

    A cut that draws anew which classes are rare may leave one draw without classes with many images; a difference over
    the other draws alone would have fewer pairs than the rest of its family.
    """
    metrics = study.run.json("metrics.json")["arms"]
    found_in = {arm: [slices(trial) for trial in found["trials"]] for arm, found in metrics.items()}
    shared = [s for s in SLICES if all(s in trial for trials in found_in.values() for trial in trials)]
    by_slice = {
        arm: {name: [trial[name] for trial in trials] for name in shared} for arm, trials in found_in.items()
    }
    verdict = decide(
        by_slice,
        {arm.name: arm.role for arm in study.recipe.arms},
        {arm: found["validation"] for arm, found in metrics.items()},
        {arm: 0.0 for arm in metrics},
        study.trial_seeds,
        plain=study.recipe.arms[0].name,
    )
    study.run.put_json(unit, verdict)


STEPS = (
    Step(encodings, encode_unit),
    Step(lambda study: study.code_units("test"), encode_codes),
    Step(units, predict),
    Step(lambda study: ["metrics.json"], summarise),
    Step(lambda study: ["verdict.json"], judge),
)
