"""How good the miniatures are, measured on held-out pictures by networks that had no part in their making."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.nets.backbones import open_backbone
from miniatures.captions import with_article
from miniatures.pictures import Pictures

SIZE = 96  # pixels at which the judge looks
TAUGHT_ON = 200  # pictures of each class that its classifier is fitted on
STEPS = 20


class Judge:
    """MobileNetV2 (ImageNet), frozen, and a linear classifier of CIFAR-100 on real training pictures."""

    def __init__(self, backbone: str, real: Pictures, held: Pictures, cache: Path) -> None:
        self.net = open_backbone(backbone, size=SIZE, bf16=True)
        self.cache = cache
        few = np.concatenate([np.flatnonzero(real.labels == c)[:TAUGHT_ON] for c in range(len(real.names))])
        taught = self.kept("train", real.pixels[torch.from_numpy(few)])
        self.real = self.kept("test", held.pixels)
        self.floor = frechet(Statistics.of(taught[::4]), Statistics.of(self.real))
        self.centre, self.spread = taught.mean(0), taught.std(0) + 1e-6
        self.head = _softmax_regression(
            (taught - self.centre) / self.spread, real.labels[few], len(real.names)
        )
        self.accuracy = self.named(self.real, held.labels)

    def __call__(self, pixels: Tensor) -> np.ndarray:  # (n, 3, h, w) uint8 => (n, d)
        parts = [self.net(part.permute(0, 2, 3, 1).contiguous()).numpy() for part in pixels.split(250)]
        return np.concatenate(parts)

    def kept(self, name: str, pixels: Tensor) -> np.ndarray:
        path = self.cache / f"judge_{name}.npy"
        if not path.exists():
            np.save(path, self(pixels))
        return np.load(path)

    def named(self, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Share of rows whose class is named right, at once and among the first five, per cent."""
        logits = (features - self.centre) / self.spread @ self.head[:-1] + self.head[-1]
        first = np.argsort(-logits, 1)[:, :5] == labels[:, None]
        return {"top1": 100 * float(first[:, 0].mean()), "top5": 100 * float(first.any(1).mean())}

    def distance(self, features: np.ndarray) -> float:
        return frechet(Statistics.of(features), Statistics.of(self.real))


def _softmax_regression(x: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    rows, y = torch.from_numpy(np.c_[x, np.ones(len(x))]).float(), torch.from_numpy(labels)
    head = torch.zeros(rows.shape[1], classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([head], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(rows @ head, y) + 3e-4 * head.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return head.detach().numpy()


@torch.no_grad()
def sampled(
    pipe: Any, prompts: Sequence[str], scale: float, seed: int, batch: int = 100
) -> tuple[Tensor, float]:
    """(n, 3, 32, 32) uint8 pictures by the plain pipeline, and the seconds it took."""
    pipe.set_progress_bar_config(disable=True)
    out, began = [], time.perf_counter()
    for at in range(0, len(prompts), batch):
        some = list(prompts[at : at + batch])
        rng = torch.Generator().manual_seed(seed + at)
        with torch.autocast("cpu", torch.bfloat16):
            found = pipe(
                some, num_inference_steps=STEPS, guidance_scale=scale, generator=rng, output_type="np"
            ).images
        out.append(torch.from_numpy((found * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
    return torch.cat(out), time.perf_counter() - began


def prompts_of(names: Sequence[str], labels: np.ndarray) -> list[str]:
    return [f"a photo of {with_article(names[label].replace('_', ' '))}" for label in labels]


def by_scale(
    pipe: Any, judge: Judge, names: Sequence[str], scales: Sequence[float], n: int
) -> list[dict[str, float]]:
    """What each guidance scale gives: distance to real test pictures, classes named right, seconds per 100 pictures."""
    labels = np.arange(n) % len(names)
    rows = []
    for scale in scales:
        pictures, seconds = sampled(pipe, prompts_of(names, labels), scale, seed=0)
        features = judge(pictures)
        row = {"scale": scale, "n": n, "fd": judge.distance(features)} | judge.named(features, labels)
        rows.append(row | {"seconds_per_100": 100 * seconds / n})
        print({key: round(value, 2) for key, value in rows[-1].items()}, flush=True)
    return rows
