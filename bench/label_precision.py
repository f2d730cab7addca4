"""Label precision: how much more often a picture that a filter keeps shows its class than one that was made, on the miniatures.

The small text-to-image model is told 100 class names of CIFAR-100, the small CLIP filters, and a judge that knows neither
says what the pictures show: a linear head on MobileNetV2's features of 100 real pictures of each class. The ratio is the
share that is judged right among what AtLeast("margin", 0) keeps (the class is the likeliest) over that of all. The published
rule, p > 1/N, drops next to nothing of a hundred classes.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.scores.among import AmongReal
from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Clip, Contrast, Margin
from counterpoise.scores.select import AtLeast, BestShare, Every, KeepAll
from counterpoise.spaces.features import Frozen

SHARED = Path(__file__).parents[2] / "shared"
CIFAR, EYE = SHARED / "data/cifar100", SHARED / "models/mobilenet_v2_imagenet"
LEARNT, TESTED, COMPARED = 100, 20, 20  # real pictures of a class: for the judge, to test it, for AmongReal
MADE, MADE_OF_SOME, STEP = 4, 20, 5  # of every class; and of every fifth
BAR = 1.1
SCORES = {"clip": Clip(), "margin": Margin(), "contrast": Contrast(), "among_real": AmongReal(Margin())}
RULES = {
    "all": KeepAll(),
    "p > 1/N": AtLeast("clip", 1.0),
    "p > 1/2": AtLeast("clip", 50.0),
    "the likeliest class": AtLeast("margin", 0.0),
    "the upper half": BestShare("margin", 0.5),
    "the upper half of p > 1/N": Every((AtLeast("clip", 1.0), BestShare("margin", 0.5))),
    "as 90 % of real ones": AtLeast("among_real", 0.1),
    "as the upper half of real ones": AtLeast("among_real", 0.5),
    "a photo, no drawing": AtLeast("contrast", 0.5),
}


def main() -> int:
    torch.set_num_threads(1)
    if not (CIFAR.is_dir() and EYE.is_dir()):
        print(f"{CIFAR} and {EYE} are needed")
        print(json.dumps({"bench": "label_precision", "ratio": 0.0, "bar": BAR, "holds": False}))
        return 1
    eye = Frozen(backbone=str(EYE), size=96)
    real, real_labels, names = pictures("train", LEARNT)
    unseen, unseen_labels, _ = pictures("test", TESTED)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=300))
    judge.fit(eye.encode(real), real_labels)
    print(
        f"the judge names {100 * judge.score(eye.encode(unseen), unseen_labels):.1f} % of real pictures right"
    )
    few = np.concatenate([np.flatnonzero(real_labels == c)[:COMPARED] for c in range(len(names))])
    classes = np.arange(len(names))
    sets = {"every class": classes.repeat(MADE), "every fifth": classes[::STEP].repeat(MADE_OF_SOME)}
    ratios: dict[str, Any] = {}
    for said, labels in sets.items():
        made = drawn(labels, names)
        scores = scored(made, labels, names, real[few], real_labels[few])
        right = judge.predict(eye.encode(made)) == labels
        print(f"\n{said}: rule, share kept, and judged right of those kept and of those dropped")
        found = {}
        for name, rule in RULES.items():
            kept = np.array([reason is None for reason in rule(scores, labels)])
            found[name], dropped = right[kept].mean(), right[~kept].mean() if not kept.all() else np.nan
            print(
                f"{name:>32} {100 * kept.mean():6.1f} % {100 * found[name]:6.1f} % {100 * dropped:6.1f} %",
                flush=True,
            )
        ratio = float(found["the likeliest class"] / found["all"])
        ratios[said] = {"ratio": round(ratio, 3), "bar": BAR, "holds": ratio >= BAR}
    holds = all(one["holds"] for one in ratios.values())
    print(
        json.dumps({"bench": "label_precision"} | ratios["every class"] | {"holds": holds, "ratios": ratios})
    )
    return 0 if holds else 1


def drawn(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Pictures of these classes by their names alone."""
    model, blank = StableDiffusion(adapt=None), np.zeros((1, 32, 32, 3), np.uint8)
    with TemporaryDirectory() as folder:
        model.fit(Lesson(Rows.of(blank), np.zeros(1, np.int64), None, names), Path(folder), seed=0)
        sample = model.load(Path(folder), Context(lambda ids: blank[:0]))
        rows = [
            {
                "label": int(label),
                "seed": i,
                "strength": 1.0,
                "source_id": None,
                "source_label": None,
                "prompt": None,
            }
            for i, label in enumerate(labels)
        ]
        return np.stack([x for start in range(0, len(rows), 50) for x in sample(rows[start : start + 50])])


def scored(
    made: np.ndarray, labels: np.ndarray, names: list[str], real: np.ndarray, real_labels: np.ndarray
) -> dict[str, np.ndarray]:
    none = np.zeros((0, 1), np.float32)
    batch = Batch(none, labels, none, np.zeros(0, str), real_labels, pictures=made, classes=tuple(names))
    told = {name: score.of_real(real, real_labels, names) for name, score in SCORES.items()}
    return {name: score(batch, told[name].get("threshold", 0.0))[0] for name, score in SCORES.items()}


def pictures(split: str, each: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first so many of every class."""
    table = pq.read_table(CIFAR / f"{split}.parquet")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    labels = table["label"].to_numpy()
    rows = np.concatenate([np.flatnonzero(labels == c)[:each] for c in range(len(names))])
    shown = [np.asarray(Image.open(BytesIO(one["bytes"]))) for one in table["image"].take(rows).to_pylist()]
    return np.stack(shown), labels[rows].astype(np.int64), names


if __name__ == "__main__":
    sys.exit(main())
