"""Class balancing: what tau does to the recall of rare classes' samples, at equal training, over several seeds.

Digits with a tail of factor 50. Each seed draws its own tail; the models of a seed differ in tau alone. Real images that
no model saw are held against as many samples per class, in the features of a classifier that has seen them all; recall
and coverage are means over the rare classes (fewer than 20 images). Samples are guided (scale 2.5, the published omega 1.5):
without guidance a balanced model is named right half as often, and leaves the class rather than covers it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from bench._digits import digits, lesson, taught
from counterpoise.classifiers.training import features_of
from counterpoise.data.cuts import LongTail
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.losses import ClassBalancing
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.generator import Context
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.metrics.evidence import paired
from counterpoise.metrics.neighbourhoods import neighbourhoods
from counterpoise.seeding import derive, generator

SEEDS, TAUS, GUIDANCE, STEPS, HELD_OUT, K = 6, (0.0, 1.0), 2.5, 1000, 55, 3


def one_seed(seed: int) -> dict[float, dict[str, float]]:
    """Per tau: recall, coverage and precision of the rare classes, and how often samples are named right."""
    torch.set_num_threads(1)
    pixels, labels = digits()
    order = generator("bench.balance", seed).permutation(len(labels))
    held = np.concatenate([order[labels[order] == c][:HELD_OUT] for c in range(10)])
    rest = np.setdiff1d(order, held)
    judge = taught(pixels, labels, seed=seed)  # has seen all images: a judge, never a teacher
    kept = rest[LongTail("exp", 50.0, shuffle_classes=True)(labels[rest], None, seed)]
    rare = np.flatnonzero(np.bincount(labels[kept], minlength=10) < 20)
    asked = np.repeat(np.arange(10), HELD_OUT)
    rows = [{"label": int(c), "seed": derive("bench", seed, i), "strength": 1.0} for i, c in enumerate(asked)]
    plain = PixelDiffusion(schooling=Schooling(steps=STEPS), guides=(CFG(scale=GUIDANCE),))
    found = {}
    for tau in TAUS:
        model = plain if not tau else dataclasses.replace(plain, balance=ClassBalancing(tau=tau))
        with TemporaryDirectory() as out:
            model.fit(lesson(pixels[kept], labels[kept]), Path(out), seed)
            made = np.stack(model.load(Path(out), Context(lambda ids: np.zeros(0)))(rows))  # type: ignore[arg-type]
        named = judge(Rows.of(made).batch(np.arange(len(made))).float() / 255).argmax(1).numpy()
        fake, real = (
            features_of(judge, Rows.of(made)).numpy(),
            features_of(judge, Rows.of(pixels[held])).numpy(),
        )
        per_class = [neighbourhoods(fake[asked == c], real[labels[held] == c], K) for c in rare]
        found[tau] = {key: float(np.mean([one[key] for one in per_class])) for key in per_class[0]}
        found[tau]["named right"] = float((named == asked)[np.isin(asked, rare)].mean())
    return found


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        seeds = list(pool.map(one_seed, range(SEEDS)))
    print(f"rare classes, {SEEDS} seeds, guidance {GUIDANCE}, {STEPS} steps of training")
    for tau in TAUS:
        line = ", ".join(f"{key} {np.mean([s[tau][key] for s in seeds]):.3f}" for key in seeds[0][tau])
        print(f"tau {tau:g}: {line}")
    gains = {}
    for tau in TAUS[1:]:
        for key in ("recall", "coverage"):
            gain = paired([s[tau][key] for s in seeds], [s[0.0][key] for s in seeds])
            gains[f"{key}, tau {tau:g}"] = gain
            print(
                f"{key}, tau {tau:g} - tau 0: {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], p {gain.p:.3f}"
            )
    told = gains["recall, tau 1"]
    base = float(np.mean([s[0.0]["recall"] for s in seeds]))
    print(
        json.dumps(
            {
                "bench": "balance",
                "ratio": round(1 + told.mean / base, 3) if base else 0.0,
                "bar": 1.0,
                "holds": bool(told.low > 0),
                "gains": {name: [round(v, 4) for v in (g.mean, g.low, g.high)] for name, g in gains.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
