"""report: reads all of it; writes report.json (the facts, without pictures) and report.html (one self-contained page)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from counterpoise.funnel import funnel
from counterpoise.gallery import galleries, twins
from counterpoise.gathering import rows_of
from counterpoise.generators.latent_facts import COMPONENTS, RECONSTRUCTIONS, SHOWN_CLASSES, SUMMARY
from counterpoise.listening import families, feedback
from counterpoise.lots import Lot
from counterpoise.metrics.accuracy import confusion, shot_bins, slices
from counterpoise.report.maps import maps
from counterpoise.report.mixture import mixture
from counterpoise.report.outcome import by_group, outcome
from counterpoise.report.page import render
from counterpoise.report.quality import quality
from counterpoise.rundir import MARKER
from counterpoise.stages.stage import Step
from counterpoise.study import Study
from counterpoise.trialfiles import TrialFile
from counterpoise.tutoring import TutorFile
from counterpoise.types import describe, fingerprint

MOST_CONFUSED = 8  # rare classes in the confusion table
MOST_QUARANTINED = 200


def facts_of(study: Study) -> dict[str, Any]:
    """Everything the page says (`report.facts.Facts`). A section whose facts do not exist is left out."""
    recipe = study.recipe
    metrics, verdict = study.run.json("metrics.json"), study.run.json("verdict.json")
    after = _shown(study, metrics, verdict)
    return {
        "title": f"{recipe.name} on {_source(study)}",
        "data": _source(study),
        "recipe": recipe.name,
        "made_at": time.strftime("%Y-%m-%d %H:%M"),
        "version": version("counterpoise"),
        "fingerprint": fingerprint(study.run.json(MARKER)["recipe"]),
        "verdict": _verdict(study, metrics, verdict),
        "audit": _audit(study, after),
        "recalls": _recalls(study, metrics, verdict["plain"], after),
        "groups": by_group(metrics["arms"], verdict["plain"], after),
        "confusion": _confusion(study, [verdict["plain"], after]),
        "funnel": funnel(study),
        "maps": _maps(study),
        "quality": quality(_measures(study)),
        "mixtures": _mixtures(study),
        "feedback": feedback(study, metrics, verdict),
        "prior": _prior(study),
        "cost": _cost(study),
        "reproduce": _reproduce(study),
    }


def _shown(study: Study, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> str:
    """The arm put beside the plain one: what is recommended, else the candidate that validation liked best."""
    recommended = verdict["recommendation"]["arm"]
    if recommended != verdict["plain"]:
        return recommended
    others = [arm.name for arm in study.recipe.arms if arm.role == "candidate"] or [verdict["opponent"]]
    return max(others, key=lambda arm: np.mean(metrics["arms"][arm]["validation"]))


def _source(study: Study) -> str:
    source = describe(
        getattr(study.recipe.data.source, "source", study.recipe.data.source)
    )  # without a pool beside it
    place = next((str(source[key]) for key in ("root", "file", "name") if source.get(key)), "")
    return os.path.basename(place.rstrip("/")) or source["part"].split(":")[-1].lower()


def _verdict(study: Study, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    means = {arm: slices(found["mean"]) for arm, found in metrics["arms"].items()}
    return outcome({arm.name: arm.role for arm in study.recipe.arms}, means, verdict)


def _first_trials(study: Study) -> list[int]:
    """The trials with the class counts of draw 0: all of them, unless the cut draws anew which classes are rare.

    Tables of rare classes are about these: elsewhere a class that is rare here may be a frequent one.
    """
    first, draws = study.counts(), range(study.recipe.trials.draws)
    alike = {draw for draw in draws if np.array_equal(study.counts(draw), first)}
    return [trial for trial in range(study.recipe.trials.n) if study.draw_of(trial) in alike]


def _scope(study: Study) -> str:
    trials, n = _first_trials(study), study.recipe.trials.n
    if len(trials) == n:
        return ""
    return (
        "The cut draws anew which classes are rare. Counts, pictures, the confusion of the tail and what training saw "
        f"are those of the first draw ({len(trials)} of {n} trials); recall per class is over all trials, beside the "
        "mean number of training images."
    )


def _trained_on(study: Study, arm: str) -> str | None:
    """The synthesis whose samples an arm learns from; a generator's own predictions learn from none."""
    fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
    return None if fit.own else fit.synthesis


def _audit(study: Study, after: str) -> dict[str, Any]:
    found = study.run.json("audit.json")
    synthesis = _trained_on(study, after)
    if synthesis is None:
        arms = [a for a in study.recipe.arms if _trained_on(study, a.name)]
        arms.sort(key=lambda a: a.role != "candidate")
        after, synthesis = (arms[0].name, _trained_on(study, arms[0].name)) if arms else ("", None)
    rows = study.run.table("classes.parquet").to_pylist()
    classes = [{k: row[k] for k in ("name", "train", "val", "test", "bin")} for row in rows]
    if synthesis is not None:
        _, labels, _, _ = rows_of(study, 0, synthesis)
        for row, count in zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True):
            row["after"] = count
    return {
        "scope": _scope(study),
        "images": found["images"],
        "channels": "grey" if found["channels"] == 1 else "RGB",
        "size": f"{found['size']} × {found['size']}",
        "classes": classes,
        **({"after_arm": after} if synthesis is not None else {}),
        "duplicates": found["duplicates"],
        "leaks": [row["uris"] for row in found["leaks"]],
        "conflicts": [row["uris"] for row in found["conflicts"]],
        "quarantine": study.run.table("quarantine.parquet")
        .slice(0, MOST_QUARANTINED)
        .select(["uri", "label", "reason"])
        .to_pylist(),
        "notes": found["notes"],
    }


def _recalls(study: Study, metrics: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    both = [metrics["arms"][arm]["classes"] for arm in (before, after)]
    rows = [
        {
            "name": study.classes[c],
            "count": a["train"],
            "before": 100 * a["recall"],
            "after": 100 * b["recall"],
        }
        for c, (a, b) in enumerate(zip(*both, strict=True))
        if a["recall"] is not None
    ]
    return {"before_arm": before, "after_arm": after, "rows": rows}


def _confusion(study: Study, arms: list[str]) -> dict[str, Any]:
    counts, trials, n = study.counts(), _first_trials(study), len(study.classes)
    bins = shot_bins(counts)
    tail = sorted(bins.get("few", bins.get("rarest", [])), key=lambda c: counts[c])[:MOST_CONFUSED]
    tables_ = []
    for arm in arms:
        fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
        total = np.zeros((n, n))
        for unit in study.trial_units(fit):
            file = f"evaluate/{fit.name}/{Path(unit).stem}.parquet"
            table = study.run.table(file, ["arm", "trial", "label", "predicted"])
            mine = table.filter((np.asarray(table["arm"]) == arm) & np.isin(table["trial"], trials))
            total += confusion(mine["label"].to_numpy(), mine["predicted"].to_numpy(), n)
        tables_.append({"arm": arm, "matrix": (total[tail] / len(trials)).round(1).tolist()})
    return (
        {"rows": [study.classes[c] for c in tail], "columns": study.classes, "arms": tables_} if tail else {}
    )


def _measures(study: Study) -> dict[str, list[Any]]:
    """What `measure` found, by synthesis; empty where there was nothing to measure."""
    found: dict[str, list[Any]] = {}
    for lot in study.first_lots():
        if study.run.has(unit := f"fidelity/{lot.place}.json"):
            found.setdefault(lot.synthesis, []).append(study.run.json(unit))
    return {name: draws for name, draws in found.items() if any(draw["kept"] for draw in draws)}


def _maps(study: Study) -> list[dict[str, Any]]:
    first = {name: draws[0] for name, draws in _measures(study).items()}
    return maps(first, study.classes, study.counts().tolist())


def _fitted(study: Study) -> dict[Path, list[str]]:
    """The folders of the fitted latent mixtures of the first draw, each with the syntheses it makes samples for."""
    found: dict[Path, list[str]] = {}
    for item in study.recipe.synthesis:
        folder = study.run / study.generator_of(Lot(item.name, 0))
        # An encoder that was trained without its mixture has none to judge.
        if (folder / SUMMARY).exists() and item.generator.mixture:
            found.setdefault(folder, []).append(item.name)
    return found


def _mixtures(study: Study) -> list[dict[str, Any]]:
    made = []
    for folder, names in _fitted(study).items():
        summary, log = json.loads((folder / SUMMARY).read_text()), folder / "log.jsonl"
        made.append(mixture(names, summary, _lines(log), study.classes, study.counts().tolist()))
    return made


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _prior(study: Study) -> dict[str, Any]:
    order, trials = np.argsort(-study.counts(), kind="stable"), _first_trials(study)
    arms = []
    for fit in study.recipe.fits:
        if study.recipe.arms_of(fit.name) and not fit.own:
            seen: dict[str, Any] = {}
            for unit in study.trial_units(fit):
                seen |= TrialFile(study.run, unit).notes["prior"]
            shares = np.mean([seen[str(trial)] for trial in trials], 0).round(6)
            arms.append({"arm": fit.name, "shares": shares[order].tolist()})
    return {"classes": [study.classes[c] for c in order], "arms": arms}


def _cost(study: Study) -> dict[str, Any]:
    log = _lines(study.run / "log.jsonl")
    stages: dict[str, float] = {}
    for row in log:
        stages[row["stage"]] = stages.get(row["stage"], 0.0) + row["seconds"]
    fits = {
        fit.name: sum(TrialFile(study.run, unit).notes["seconds"] for unit in study.trial_units(fit))
        for fit in study.recipe.fits
    }
    made = {
        item.name: sum(
            study.run.meta(lot.samples(shard))["seconds"]
            for lot in study.lots()
            if lot.synthesis == item.name
            for shard in study.shards(lot)
        )
        for item in study.recipe.synthesis
    }
    for item in study.recipe.synthesis:
        if item.tutor and (item.guides or getattr(item.budget, "listens", False)):  # others are only told of
            first = [lot for lot in study.first_lots() if lot.synthesis == item.name]
            mine = [replace(lot, round=number) for lot in first for number in range(item.rounds)]
            heard = {study.tutor_of(lot): lot for lot in mine}  # also the one that said to stop
            there = [lot for tutor, lot in heard.items() if study.run.has(tutor)]
            made[item.name] += sum(TutorFile(study, lot).notes["seconds"] for lot in there)
    arms = {}
    for name, seconds in fits.items():
        fit = study.recipe.fit(name)
        arms[name] = seconds + (0.0 if fit.own else made.get(fit.synthesis or "", 0.0))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {"stages": stages, "arms": arms, "machine": machine}


def _reproduce(study: Study) -> dict[str, Any]:
    recipe = study.recipe
    return {
        "command": study.run.json("command.json")["command"] if study.run.has("command.json") else "",
        "seeds": {"split": recipe.data.seed, "trials": recipe.trials.seed, "draws": recipe.trials.draws},
        "versions": {
            name: version(name) for name in ("counterpoise", "torch", "numpy", "scikit-learn", "pillow")
        },
        "fingerprints": {
            "recipe": fingerprint(study.run.json(MARKER)["recipe"]),
            "data": study.run.meta("data/listing.parquet")["state"][:16],
        },
    }


def sheets(study: Study) -> dict[str, dict[str, Any]]:
    """What a latent mixture over pictures has drawn of itself."""
    return {
        names[0]: {
            "reconstructions": (folder / RECONSTRUCTIONS).read_bytes(),
            "components": (folder / COMPONENTS).read_bytes(),
            "lines": study.classes[:SHOWN_CLASSES],
        }
        for folder, names in _fitted(study).items()
        if (folder / COMPONENTS).exists()
    }


def write_facts(study: Study, unit: str) -> None:
    study.run.put_json(unit, facts_of(study))


def write_page(study: Study, unit: str) -> None:
    beside = twins(study, families(study))
    pictures = {"galleries": galleries(study), "sheets": sheets(study), "twins": beside}
    page = render(study.run.json("report.json") | pictures)
    study.run.put_bytes(unit, page.encode())


STEPS: tuple[Step, ...] = (
    Step(lambda study: ["report.json"], write_facts),
    Step(lambda study: ["report.html"], write_page),
)
