"""deliver: reads the verdict and validation; writes the chosen arm's best trial as a classifier folder of its own."""

from __future__ import annotations

import numpy as np

from counterpoise.classifiers.heads import LinearHead
from counterpoise.delivery import CARD, ENCODER, copy_files, write_folder
from counterpoise.lots import Lot
from counterpoise.metrics.calibration import fit_temperature
from counterpoise.nets.export import put_folder
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trialfiles import file_of
from counterpoise.types import describe


def deliver(study: Study, unit: str) -> None:
    arm = study.run.json("verdict.json")["recommendation"]["arm"]
    validation = study.run.json("metrics.json")["arms"][arm]["validation"]
    trial = int(np.argmax(validation))
    file = file_of(study, arm, trial)
    fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
    temperature = fit_temperature(file.val_logits(trial, arm), study.labels("val"), balanced=True)
    head, facts, network = file.head(trial, arm), study.facts, study.recipe.network
    arrays = {f"head/{name}": value for name, value in head.save().items()}
    net, folder, draw = file.network(study, trial), (study.run / unit).parent, study.draw_of(trial)
    whole: LinearHead | None = head  # on what the network gives
    encoder = None
    if study.own_space(fit.synthesis):
        lot = Lot(str(fit.synthesis), draw)
        encoder, whole = describe(study.synthesis(lot.synthesis).generator), None
        put_folder(folder / ENCODER, lambda to: copy_files(study.run / study.generator_of(lot), to))
    if study.projected:
        project = study.projection(draw)
        arrays |= {f"projection/{name}": value for name, value in project.arrays().items()}
        whole = None if whole is None else whole.after(project.mean, project.basis)
    # A backbone goes along as a transformers folder where there is such a form: then nothing else is needed.
    exported = (
        whole is not None
        and hasattr(network, "export")
        and network.export(whole, facts["classes"], folder / "transformers", net)
    )
    if net is not None and not exported:
        arrays |= {f"net/{name}": value for name, value in file.arrays(f"{trial}/net/").items()}
    card = {
        "labels": facts["classes"],
        "called": study.called,
        "arm": arm,
        "trial": trial,
        "validation_balanced_accuracy": validation[trial],
        "temperature": temperature,
        "network": describe(network),
        "encoder": encoder,
        "transformers": exported,
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
    if study.frozen:
        card["digest"] = network.digest()
    write_folder(folder, card, arrays, preprocessing)


STEPS = (Step(lambda study: [f"classifier/{CARD}"], deliver),)
