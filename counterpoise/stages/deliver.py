"""deliver: reads the verdict and validation; writes the chosen arm's best trial as a classifier folder of its own."""

from __future__ import annotations

import numpy as np

from counterpoise.delivery import CARD, write_folder
from counterpoise.metrics.calibration import fit_temperature
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trials import file_of
from counterpoise.types import describe


def deliver(study: Study, unit: str) -> None:
    arm = study.run.json("verdict.json")["recommendation"]["arm"]
    validation = study.run.json("metrics.json")["arms"][arm]["validation"]
    trial = int(np.argmax(validation))
    file = file_of(study, arm, trial)
    fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
    temperature = fit_temperature(file.val_logits(trial, arm), study.labels("val"), balanced=True)
    head, facts = file.head(trial, arm), study.facts
    arrays = {f"head/{name}": value for name, value in head.save().items()}
    if not study.frozen:
        arrays |= {f"net/{name}": value for name, value in file.arrays(f"{trial}/net/").items()}
    card = {
        "labels": facts["classes"],
        "arm": arm,
        "trial": trial,
        "validation_balanced_accuracy": validation[trial],
        "temperature": temperature,
        "network": describe(study.recipe.network),
        "cosine": bool(fit.loss.cosine),
        "size": facts["size"],
        "channels": facts["channels"],
    }
    size = {"height": facts["size"], "width": facts["size"]}
    preprocessing = {
        "size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "channels": facts["channels"],
    }
    folder = (study.run / unit).parent
    if study.frozen:
        card["transformers"] = study.recipe.network.export(head, facts["classes"], folder / "transformers")
    write_folder(folder, card, arrays, preprocessing)


STEPS = (Step(lambda study: [f"classifier/{CARD}"], deliver),)
