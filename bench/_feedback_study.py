"""Feedback at three budgets: is a guided sample worth more than an unguided one? The tables of docs/results.md.

    python -m bench._feedback_study digits --to runs/feedback_digits
    python -m bench._feedback_study features --source DATA --backbone NAME --to runs/feedback_features

Every synthesis samples from the same generator with the same noise, in ten draws of cut, generator and classifier. A
line of the table is the paired difference to unguided samples of the same budget on test images. `nearest` is the median
distance to the nearest real row, in copy thresholds. Label fidelity is what a
classifier that has seen all real rows, those that the cut left out and test included, says of the samples.
Stopped halfway, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.svm import SVC

import counterpoise as cp
from counterpoise import grounds
from counterpoise.gathering import flat
from counterpoise.lots import Lot
from counterpoise.metrics.evidence import paired
from counterpoise.proposals.budgets import Adaptive, ByNeed, FillUp
from counterpoise.proposals.pairings import FromNoise
from counterpoise.recipe import Recipe, Role, Synthesis, Trials
from counterpoise.recipes import feedback_guided as recipe
from counterpoise.scores.select import KeepAll
from counterpoise.study import Study

BUDGETS = {"10": FillUp(to=10), "40": FillUp(to=40), "max": FillUp()}
CRITERIA = ("loss", "entropy", "hardness")
DRAWS_JUDGED = 3


def study(data: cp.Data, trials: int, **ground: object) -> Recipe:
    stands = grounds.on(data, **ground)  # type: ignore[arg-type]
    # Samples speak for themselves: no pseudo-labels beside them, and no filter, so that budgets are met in every arm.
    stands = dataclasses.replace(stands, made=dataclasses.replace(stands.made, pool=None))
    default = recipe.guide()
    made: list[tuple[Synthesis, Role]] = []
    for budget_name, budget in BUDGETS.items():
        plain = Synthesis(
            f"unguided_{budget_name}",
            stands.generator,
            budget,
            FromNoise(),
            recipe.scores(default.criterion),
            KeepAll(),
            tutor=stands.tutor,
        )
        made.append((plain, "candidate"))
        guides = {name: dataclasses.replace(default, criterion=recipe.CRITERIA[name]) for name in CRITERIA}
        if budget_name == "max":  # the dearest budget: the default alone
            guides = {}
        for name, guide in ({"default": default} | guides).items():
            if name == "default" or guide != default:
                item = dataclasses.replace(plain, name=f"{name}_{budget_name}", guides=(guide,))
                made.append((item, "candidate"))
    third = ByNeed(budget=FillUp(), share=1 / 18)
    full = made[0][0]
    practice = dataclasses.replace(
        full, name="deliberate", budget=Adaptive(third, rounds=6), guides=(default,)
    )
    even = dataclasses.replace(
        full, name="even_third", budget=ByNeed(budget=FillUp(), share=1 / 3, floor=1.0)
    )
    made += [(practice, "candidate"), (even, "candidate")]
    return stands.recipe("feedback_study", data, Trials(n=trials, draws=trials), made)


def fidelity(study: Study, name: str, oracles: dict[int, object]) -> float:
    found = []
    for draw, oracle in oracles.items():
        x, selection = study.kept_of(Lot(name, draw))
        found.append(np.mean(oracle.predict(flat(x)) == selection["label"].to_numpy()))  # type: ignore[attr-defined]
    return float(np.mean(found))


def nearest(study: Study, name: str) -> float:
    lots = study.rounds(Lot(name, 0))
    files = [lot.scores("nearest_real", shard) for lot in lots for shard in study.shards(lot)]
    return float(np.median(np.concatenate([study.run.table(file)["score"].to_numpy() for file in files])))


def oracles_of(study: Study) -> dict[int, object]:
    """Classifiers that know everything; features are projected anew in every draw, so each has its own."""
    found = {}
    for draw in range(min(DRAWS_JUDGED, study.recipe.trials.draws)):
        roles = [role for role in ("train", "val", "test") if study.facts["sizes"][role]]
        x = np.concatenate([flat(study.vectors(role, draw)) for role in roles])
        y = np.concatenate([study.labels(role) for role in roles])
        found[draw] = (LinearDiscriminantAnalysis() if study.frozen else SVC(C=10.0)).fit(x, y)
    return found


def table(run: cp.Run) -> str:
    study, arms = Study.open(run.path), run.metrics["arms"]
    oracles = oracles_of(study)
    ending = "_adjusted" if study.frozen else ""
    rare = "few" if all("few" in trial for trial in arms["ce"]["trials"]) else "rarest"

    def of(arm: str, measure: str) -> np.ndarray:
        return 100 * np.array([trial[measure] for trial in arms[arm]["trials"]])

    def against(arm: str, other: str, measure: str) -> str:
        if arm == other:
            return ""
        found = paired(of(arm, measure), of(other, measure))
        return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"

    lines = [
        f"| arm | samples | {rare} | all | {rare}, against unguided | all, against unguided | label fidelity | nearest |",
        "|---" * 8 + "|",
    ]
    for item in study.recipe.synthesis:
        kept = [len(study.kept_of(Lot(item.name, d))[0]) for d in range(study.recipe.trials.draws)]
        budget = item.name.rsplit("_", 1)[-1] if item.name.rsplit("_", 1)[-1] in BUDGETS else "max"
        for arm in dict.fromkeys((item.name, item.name + ending)):
            other = f"unguided_{budget}" + (ending if arm.endswith("_adjusted") else "")
            cells = [
                arm,
                f"{np.mean(kept):.0f}",
                f"{of(arm, rare).mean():.1f}",
                f"{of(arm, 'balanced_accuracy').mean():.1f}",
                against(arm, other, rare),
                against(arm, other, "balanced_accuracy"),
                f"{100 * fidelity(study, item.name, oracles):.1f}",
                f"{nearest(study, item.name):.1f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    opponent = run.verdict["opponent"]
    lines.append(
        f"| {opponent} (strongest cheap arm) | 0 | {of(opponent, rare).mean():.1f} "
        f"| {of(opponent, 'balanced_accuracy').mean():.1f} | | | | |"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["digits", "features"])
    parser.add_argument("--source", default="digits")
    parser.add_argument("--backbone", default="")
    parser.add_argument("--steps", type=int, default=None, help="of every classifier")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", type=Path, required=True)
    asked = parser.parse_args()
    if asked.kind == "digits":
        holdout, cut = cp.Holdout(val=0.1, test=0.25, pool=0.45), "exp:20:top=40:shuffled"
        ground: dict[str, object] = {"flip": False}
    else:
        holdout, cut = cp.Holdout(val=0.04), "exp:100:shuffled"
        ground = {"backbone": asked.backbone, "backbone_size": 96}
    data = cp.Data(cp.open_source(asked.source), cut=cp.parse_cut(cut), holdout=holdout)
    ground["steps"] = asked.steps
    run = cp.run(study(data, asked.trials, **ground), asked.to, asked.workers)
    print(table(run))
    print(run.verdict["headline"], run.verdict["recommendation"]["sentence"])


if __name__ == "__main__":  # workers are spawned: they import this file again
    main()
