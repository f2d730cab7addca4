"""Generation: what filling up with diffusion gains over the strongest cheap arm on digits, with cuts redrawn and generators refitted in every trial.

The study is `make run`'s, but each of its ten trials draws its own cut (with its own order of classes) and fits its
own generators; validation, test and pool are the same throughout. Ratios are balanced accuracies of the best candidate by validation
against plain cross-entropy and against the strongest cheap arm; they hold where the interval of the gain is above zero.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from counterpoise import Data, Holdout, Trials, open_source, parse_cut, run
from counterpoise.metrics.evidence import paired
from counterpoise.recipes.balanced_diffusion import balanced_diffusion

CUT, POOL, FIT_STEPS, TRIALS = "exp:30:top=30:shuffled", 0.45, 1000, 10


def main() -> None:
    holdout = Holdout(val=0.15, test=0.25, pool=POOL)
    data = Data(open_source("digits"), cut=parse_cut(CUT), holdout=holdout)
    study = balanced_diffusion(data, Trials(TRIALS), draws=TRIALS, fit_steps=FIT_STEPS, flip=False)
    with TemporaryDirectory() as folder:
        made = run(
            study, Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "run", os.cpu_count() or 1
        )
        arms, verdict = made.metrics["arms"], made.verdict
    opponent = verdict["family"]["against"]
    candidates = [name for name, found in arms.items() if found["role"] == "candidate"]
    best = max(candidates, key=lambda name: np.mean(arms[name]["validation"]))
    ratios = {}
    for name, other in [(best, "ce"), *((name, opponent) for name in candidates)]:
        a, b = ([trial["balanced_accuracy"] for trial in arms[arm]["trials"]] for arm in (name, other))
        gain = paired(a, b)
        print(
            f"{name} against {other}: {100 * gain.mean:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
        )
        ratios[f"{name} against {other}"] = {
            "ratio": round(float(np.mean(a) / np.mean(b)), 3),
            "bar": 1.0,
            "holds": bool(gain.low > 0),
            "gain": [round(100 * value, 2) for value in (gain.mean, gain.low, gain.high)],
        }
    print(verdict["headline"])
    told = ratios[f"{best} against {opponent}"]
    print(json.dumps({"bench": "generation"} | told | {"ratios": ratios}))


if __name__ == "__main__":
    main()
