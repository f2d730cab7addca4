"""Sampling: what a digit costs in 1,000 ancestral steps and in the default 20, with the same weights, at no worse Fréchet distance.

A small model learns scikit-learn's digits on the spot. Features are those of a classifier that was trained on half of
the digits; distances are to the other half, and the floor is what two halves of the real images show at the same size.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bench._digits import judge, lesson
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.generator import Context
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.seeding import derive

BAR, TOLERANCE = 40.0, 1.05
SAMPLES, BATCH, FIT_STEPS = 600, 64, 1500
PLAIN = {"sampler": "ancestral", "steps": 1000}


def drawn(
    generator: PixelDiffusion, out: Path, labels: np.ndarray, repeats: int = 1
) -> tuple[np.ndarray, float]:
    """Samples of these labels, and processor seconds per image."""
    sample = generator.load(out, Context(lambda ids: np.zeros(0)))
    rows = [
        {"label": int(label), "seed": derive("bench.sampling", i), "strength": 1.0}
        for i, label in enumerate(labels)
    ]
    start = time.process_time()
    made = [x for at in range(0, len(rows), BATCH) for x in sample(rows[at : at + BATCH])]
    return np.stack(made), (time.process_time() - start) / len(rows)  # type: ignore[arg-type]


def main() -> None:
    torch.set_num_threads(1)
    features, known, reference = judge()
    labels = np.resize(known[1], SAMPLES)
    fast = PixelDiffusion(schooling=Schooling(steps=FIT_STEPS))
    slow = PixelDiffusion(schooling=Schooling(steps=FIT_STEPS), **PLAIN)  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        fast.fit(lesson(*known), Path(folder), seed=0)
        quick, quick_s = drawn(fast, Path(folder), labels)
        chain, chain_s = drawn(slow, Path(folder), labels)
    real = Statistics.of(features(reference))
    distance = {
        name: frechet(Statistics.of(features(images)), real)
        for name, images in {
            "20 steps": quick,
            "1000 ancestral steps": chain,
            "floor: real images": known[0][:SAMPLES],
        }.items()
    }
    for name, value in distance.items():
        print(f"{name:>22}: Fréchet distance {value:.3f} ({SAMPLES} images)")
    print(f"milliseconds of processor time per image: {1e3 * quick_s:.2f} and {1e3 * chain_s:.1f}")
    ratio = chain_s / quick_s
    no_worse = distance["20 steps"] <= TOLERANCE * distance["1000 ancestral steps"]
    print(
        json.dumps(
            {
                "bench": "sampling",
                "ratio": round(ratio, 1),
                "bar": BAR,
                "holds": bool(ratio >= BAR and no_worse),
                "frechet": {name: round(value, 3) for name, value in distance.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
