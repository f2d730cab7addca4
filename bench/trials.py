"""Head trials on cached features: 40 trained as one batched problem against the same 40 one by one.

Same function, same steps, same batch, same results; only the number of jobs per call differs. Features are
standardised beforehand, so that only training is compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from counterpoise.classifiers.batched import HeadJob, Loss
from counterpoise.classifiers.heads import LinearHead, train_heads
from counterpoise.classifiers.losses import CE, BalancedSoftmax, ClassBalanced, Focal
from counterpoise.seeding import generator

BAR = 5.0
CLASSES, HEAD, FACTOR, BATCH, ARMS, SEEDS = 10, 4900, 100, 64, 4, 10


def long_tail(dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian classes of 4900 down to 49 rows."""
    rng = generator("bench.trials", dim)
    counts = (HEAD * FACTOR ** -(np.arange(CLASSES) / (CLASSES - 1))).astype(int)
    labels = np.repeat(np.arange(CLASSES), counts)
    centres = rng.normal(size=(CLASSES, dim)) * 2.5 / np.sqrt(dim)
    return (
        (centres[labels] + rng.normal(size=(len(labels), dim))).astype(np.float32),
        labels,
        counts / counts.sum(),
    )


def trials(labels: np.ndarray, prior: np.ndarray, steps: int, paired: bool) -> list[HeadJob]:
    """Four arms x ten seeds. Paired: the arms of a seed read the same rows, as the trials of a study do."""
    losses: tuple[Loss, ...] = (CE(), BalancedSoftmax(), ClassBalanced(), Focal())
    jobs = []
    for seed in range(SEEDS):
        for arm, loss in enumerate(losses):
            stream = generator("bench.trials", seed, 0 if paired else arm)
            rows = stream.integers(0, len(labels), (steps, BATCH))
            jobs.append(HeadJob(rows, labels, loss, prior, seed))
    return jobs


def seconds(features: np.ndarray, calls: Sequence[Sequence[HeadJob]]) -> tuple[float, list[LinearHead]]:
    start = time.perf_counter()
    heads = [head for jobs in calls for head in train_heads(features, jobs, standardise=False)]
    return time.perf_counter() - start, heads


def measure(dim: int, steps: int, paired: bool, repeats: int) -> tuple[float, float]:
    """(one by one, batched) in seconds: the best of each, taken in turns, so that a busy machine hurts both."""
    features, labels, prior = long_tail(dim)
    jobs = trials(labels, prior, steps, paired)
    single, batched = [], []
    for _ in range(repeats):
        took, together = seconds(features, [jobs])
        batched.append(took)
        took, alone = seconds(features, [[job] for job in jobs])
        single.append(took)
    worst = max(float(np.abs(a.weight - b.weight).max()) for a, b in zip(together, alone, strict=True))
    assert worst < 1e-2, f"batched and single trials differ by {worst}"
    return min(single), min(batched)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{ARMS * SEEDS} head trials, {CLASSES} classes, batch {BATCH}, one thread")
    print(f"{'width':>6} {'steps':>6} {'arms share rows':>16} {'one by one':>11} {'batched':>9} {'ratio':>7}")
    ratios = {}
    for dim, steps, paired in (
        (64, 500, True),
        (64, 200, False),
        (256, 200, True),
        (1280, 100, True),
        (1280, 100, False),
    ):
        single, batched = measure(dim, steps, paired, repeats=2 if dim == 64 and paired else 1)
        ratios[f"{dim}{'' if paired else ' unshared'}"] = round(single / batched, 2)
        print(
            f"{dim:>6} {steps:>6} {'yes' if paired else 'no':>16} {single:>10.2f}s {batched:>8.2f}s {single / batched:>6.1f}x"
        )
        sys.stdout.flush()
    ratio = ratios["64"]
    print(
        json.dumps({"bench": "trials", "ratio": ratio, "bar": BAR, "holds": ratio >= BAR, "by_width": ratios})
    )


if __name__ == "__main__":
    main()
