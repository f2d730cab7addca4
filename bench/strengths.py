"""Strengths: what learning the classes is worth to a translated picture, on the miniature and CIFAR-10, which it never saw.

Sixteen pictures of each class are learnt from. Others are translated to another class at several strengths, by class names
alone, by learnt words, and by words and adapters, from the same sources and noise. A ResNet-32 that has seen all of
CIFAR-10 says what the results show: the mean probability of the class wanted, of the source's, and accuracy. Strength 1
is noise alone.

The ratio is the probability of the class wanted by learnt words over that by names, at strength 1. It also has to rise
with strength, from .3 on, for every kind that learns.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from scipy.special import log_softmax

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.judges import open_judge

SHARED = Path(__file__).parents[2] / "shared"
CIFAR, JUDGE = SHARED / "data/cifar10_lt100", SHARED / "models/cifar10_resnet32.safetensors"
SHOTS, SAMPLES, STEPS = 16, 200, 150
STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
KINDS = {"names": None, "words": Adapt(kind="words"), "words and adapters": Adapt(flip=True)}
BAR = 1.5


def main() -> int:
    if not (CIFAR.is_dir() and JUDGE.exists()):
        print(f"{CIFAR} and {JUDGE} are needed")
        print(json.dumps({"bench": "strengths", "ratio": 0.0, "bar": BAR, "holds": False}))
        return 1
    pixels, labels, names = pictures()
    rng = np.random.default_rng(0)
    learnt = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:SHOTS] for c in range(len(names))])
    sources = rng.permutation(np.setdiff1d(np.arange(len(labels)), learnt))[:SAMPLES]
    shift = rng.integers(1, len(names), SAMPLES)
    wanted = (labels[sources] + shift) % len(names)
    judge = open_judge(f"cifar-resnet:{JUDGE}")
    found: dict[str, list[float]] = {}
    for kind, adapt in KINDS.items():
        model = StableDiffusion(adapt=adapt, schooling=Schooling(steps=STEPS, batch=32))
        with TemporaryDirectory() as folder:
            lesson = Lesson(Rows.of(pixels[learnt]), labels[learnt], None, names)
            model.fit(lesson, Path(folder), seed=0)
            sample = model.load(Path(folder), Context(lambda ids: np.stack([pixels[int(i)] for i in ids])))
            print(
                f"\n{kind}: strength, probability of the class wanted, of the source's; said to be the class wanted"
            )
            for strength in STRENGTHS:
                rows = [
                    {"label": int(label), "seed": i, "strength": strength, "source_id": str(source)}
                    for i, (label, source) in enumerate(zip(wanted, sources, strict=True))
                ]
                made = np.stack(
                    [x for start in range(0, SAMPLES, 50) for x in sample(rows[start : start + 50])]
                )
                p = np.exp(log_softmax(judge.logits(judge(made)), 1))
                at = np.arange(SAMPLES)
                target, source = p[at, wanted].mean(), p[at, labels[sources]].mean()
                found.setdefault(kind, []).append(float(target))
                print(
                    f"  {strength:.1f}  {target:.3f}  {source:.3f}  {100 * (p.argmax(1) == wanted).mean():.1f} %",
                    flush=True,
                )
    ratio = found["words"][-1] / found["names"][-1]
    rises = all(np.all(np.diff(found[kind][1:]) > 0) for kind in KINDS if KINDS[kind])
    print(
        f"\nlearnt words over names {ratio:.2f} (bar {BAR}); rises with strength: {'yes' if rises else 'no'}"
    )
    holds = bool(ratio >= BAR and rises)
    print(json.dumps({"bench": "strengths", "ratio": ratio, "bar": BAR, "holds": holds}))
    return 0 if holds else 1


def pictures() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Validation pictures of CIFAR-10, a hundred of each class; the judge knows the classes in this order."""
    table = pq.read_table(CIFAR / "validation.parquet")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    read = [
        np.asarray(Image.open(BytesIO(one["bytes"])).convert("RGB")) for one in table["image"].to_pylist()
    ]
    return np.stack(read), table["label"].to_numpy().astype(np.int64), names


if __name__ == "__main__":
    sys.exit(main())
