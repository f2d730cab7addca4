"""Quota: how many pictures are made until every class has its quota of those that a filter accepts.

The miniature draws classes of CIFAR-100 from their names, and its CLIP accepts what it takes for the class wanted. An oracle
stops a class at the picture that fills it. Rounds that ask for what would be enough with good luck are held against that
oracle, and against making 2.5 times as many as are wanted and filtering them, as published (2,000 a class, of which 800 stay).

The ratio is what the rounds make over what the oracle makes; lower is better.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from counterpoise.data.names import Names
from counterpoise.pipeline import execute
from counterpoise.recipe import Data, Trials
from counterpoise.recipes.prompted import prompted
from counterpoise.study import Study

#: Kinds that look alike, so that many pictures are rejected.
CLASSES = tuple(
    [
        "maple_tree",
        "oak_tree",
        "palm_tree",
        "pine_tree",
        "willow_tree",
        "baby",
        "boy",
        "girl",
        "man",
        "woman",
        "hamster",
        "mouse",
        "rabbit",
        "shrew",
        "squirrel",
    ]
)
WANTED, PUBLISHED, BAR = 25, 2.5, 1.1


def main() -> int:
    data, trials = Data(Names(CLASSES), size=32), Trials(n=1)
    whole = prompted(data, trials, base="miniature", each=WANTED, accept="named", most=20)
    drawn = tuple(item for item in whole.synthesis if item.name == "prompted")
    recipe = replace(whole, synthesis=drawn, fits=whole.fits[:1], arms=whole.arms[:1])  # nothing is trained
    with TemporaryDirectory() as folder:
        study = Study.open(execute(recipe, folder + "/run", until="select").path)
        lots = [lot for lot in study.lots() if lot.synthesis == "prompted"]
        tally = study.tally(lots)
        rows = [row for lot in lots for row in study.run.table(lot.selected).to_pylist()]
    needed = []
    for label in range(len(CLASSES)):
        kept = [row["drop"] is None for row in rows if row["label"] == label]
        filled = np.flatnonzero(np.cumsum(kept) >= WANTED)
        needed.append(filled[0] + 1 if len(filled) else len(kept))
        print(f"{CLASSES[label]:>12}: {tally.kept[label]} kept of {tally.made[label]}, oracle {needed[-1]}")
    made, oracle, published = tally.made.sum(), sum(needed), PUBLISHED * WANTED * len(CLASSES)
    print(
        f"accepted {tally.kept.sum() / made:.0%} in {len(lots)} rounds; made {made}, oracle {oracle}; "
        f"{PUBLISHED:g} times as many as wanted are {published:.0f}, and leave classes short"
    )
    ratio = float(made / oracle)
    print(
        json.dumps(
            {"bench": "quota (lower is better)", "ratio": round(ratio, 3), "bar": BAR, "holds": ratio <= BAR}
        )
    )
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
