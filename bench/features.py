"""Feature diffusion: learning from a long tail and filling it up, against the same network trained and sampled as published.

Published is the simple loss of DDPM and 1,000 ancestral steps, with the same network, rows, batch and number of training
steps. Time is the processor's; that of filling up is what the samples drawn here took, times the number wanted.
Features are MobileNetV2's of CIFAR-10-LT if they can be had, else random ones. Distances are those of the three rarest
classes to real rows that no model saw; 1-NN is how well a nearest neighbour tells the two apart.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from bench._digits import lesson
from counterpoise.diffusion.losses import UniformTime
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.generator import Context
from counterpoise.generators.transfer import ClassGaussian
from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.metrics.two_sample import one_nearest
from counterpoise.seeding import derive, generator
from counterpoise.spaces.features import Frozen
from counterpoise.spaces.projection import Projection

BAR, TOLERANCE = 10.0, 1.05
PER_CLASS, RAREST, DIMENSIONS = 400, 3, 128
SHARED = Path(__file__).parents[2] / "shared"
CACHE = Path(tempfile.gettempdir()) / "counterpoise_bench_features.npz"
PUBLISHED: dict[str, Any] = {"objective": UniformTime(), "sampler": "ancestral", "steps": 1000}
Labelled = tuple[np.ndarray, np.ndarray]


def mobilenet() -> tuple[Labelled, Labelled]:
    """Features of CIFAR-10-LT's training and test images, extracted once and kept in a temporary folder."""
    if not CACHE.exists():
        start = time.perf_counter()
        backbone = Frozen(backbone=str(SHARED / "models" / "mobilenet_v2_imagenet"), size=96)
        arrays = []
        for split in ("train", "test"):
            table = pq.read_table(SHARED / "data" / "cifar10_lt100" / f"{split}.parquet")
            pixels = [np.asarray(Image.open(io.BytesIO(one["bytes"]))) for one in table["image"].to_pylist()]
            arrays += [backbone.encode(np.stack(pixels)), table["label"].to_numpy()]
        np.savez(CACHE, *arrays)
        print(
            f"features extracted in {time.perf_counter() - start:.0f} s, which do not count; kept in {CACHE}"
        )
    known = np.load(CACHE)
    return (known["arr_0"], known["arr_1"]), (known["arr_2"], known["arr_3"])


def synthetic() -> tuple[Labelled, Labelled]:
    """Ten classes in 16 dimensions, seen through two random layers: rectified, as features are."""
    rng = generator("bench.features")
    centres, first, second = (
        rng.normal(size=shape) / np.sqrt(shape[0]) for shape in ((10, 16), (16, 256), (256, 256))
    )

    def seen(labels: np.ndarray) -> Labelled:
        inner = 3 * centres[labels] + rng.normal(size=(len(labels), 16))
        return ((inner @ first).clip(0) @ second).clip(0).astype(np.float32), labels

    tail = (5000 * 100 ** (-np.arange(10) / 9)).astype(int)
    return seen(np.repeat(np.arange(10), tail)), seen(np.repeat(np.arange(10), 1000))


def measured(model: Any, known: Labelled, unseen: Labelled) -> dict[str, float]:
    """Processor seconds to learn and to fill every class up, and how like real rows the samples of rare classes are."""
    counts = np.bincount(known[1])
    rare = np.argsort(counts, kind="stable")[:RAREST]
    labels = np.repeat(rare, PER_CLASS)
    rows = [
        {"label": int(c), "seed": derive("bench.features", i), "strength": 1.0} for i, c in enumerate(labels)
    ]
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        model.fit(lesson(*known), Path(folder), seed=0)
        learnt = time.process_time()
        made = np.stack(model.load(Path(folder), Context(lambda ids: np.zeros(0)))(rows))
        drawn = time.process_time()
    each = (drawn - learnt) / len(rows)
    apart, distances = [], []
    for c in rare:
        fake, real = made[labels == c], unseen[0][unseen[1] == c]
        n = min(len(fake), len(real))
        apart.append(one_nearest(fake[:n], real[:n]))
        distances.append(frechet(Statistics.of(fake), Statistics.of(real)))
    return {
        "fit_s": learnt - start,
        "fill_s": each * int((counts.max() - counts).sum()),
        "frechet": float(np.mean(distances)),
        "one_nearest": float(np.mean(apart)),
    }


def main() -> None:
    torch.set_num_threads(1)
    real = (SHARED / "models" / "mobilenet_v2_imagenet").exists() and (
        SHARED / "data" / "cifar10_lt100"
    ).exists()
    known, unseen = mobilenet() if real else synthetic()
    projection = Projection.of(known[0], DIMENSIONS)
    known, unseen = (projection(known[0]), known[1]), (projection(unseen[0]), unseen[1])
    print(
        f"{len(known[0])} rows of {known[0].shape[1]} numbers; the {RAREST} rarest classes, {PER_CLASS} samples each"
    )
    ours = FeatureDiffusion()
    found = {
        "ours": measured(ours, known, unseen),
        "published": measured(dataclasses.replace(ours, **PUBLISHED), known, unseen),
        "shared-covariance Gaussian": measured(ClassGaussian(), known, unseen),
    }
    for name, one in found.items():
        print(
            f"{name:>26}: fit {one['fit_s']:.1f} s, fill {one['fill_s']:.1f} s, Fréchet distance {one['frechet']:.2f}, "
            f"1-NN {one['one_nearest']:.3f}"
        )
    fast, slow = found["ours"], found["published"]
    ratio = (slow["fit_s"] + slow["fill_s"]) / (fast["fit_s"] + fast["fill_s"])
    no_worse = fast["frechet"] <= TOLERANCE * slow["frechet"] and _off(fast) <= TOLERANCE * _off(slow)
    print(
        json.dumps(
            {
                "bench": "features",
                "ratio": round(ratio, 1),
                "bar": BAR,
                "holds": bool(ratio >= BAR and no_worse),
                "measured": {
                    name: {key: round(value, 3) for key, value in one.items()} for name, one in found.items()
                },
            }
        )
    )


def _off(one: dict[str, float]) -> float:
    """How far from not being told apart."""
    return abs(one["one_nearest"] - 0.5)


if __name__ == "__main__":
    main()
