"""How good the miniatures are, measured on held-out pictures by networks that had no part in their making."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.nets.backbones import open_backbone
from counterpoise.nets.words import prompts
from miniatures.pictures import Pictures

SIZE = 96  # pixels at which the judge looks
TAUGHT_ON = 200  # pictures of each class that its classifier is fitted on
STEPS, AT_ONCE = 20, 100


class Judge:
    """MobileNetV2 (ImageNet), frozen, and a linear classifier of CIFAR-100 on real training pictures."""

    def __init__(self, backbone: str, real: Pictures, held: Pictures, cache: Path) -> None:
        self.net = open_backbone(backbone, size=SIZE, bf16=True)
        self.cache = cache
        few = np.concatenate([np.flatnonzero(real.labels == c)[:TAUGHT_ON] for c in range(len(real.names))])
        taught, shown = self.kept("train", real.pixels[torch.from_numpy(few)]), self.kept("test", held.pixels)
        self.taught, self.real = Statistics.of(taught), Statistics.of(shown)
        self.floor = frechet(Statistics.of(taught[::4]), self.real)
        self.centre, self.spread = taught.mean(0), taught.std(0) + 1e-6
        self.head = _softmax_regression(
            (taught - self.centre) / self.spread, real.labels[few], len(real.names)
        )
        self.accuracy = self.named(shown, held.labels)

    def __call__(self, pixels: Tensor) -> np.ndarray:  # (n, 3, h, w) uint8 => (n, d)
        parts = [self.net(part.permute(0, 2, 3, 1).contiguous()).numpy() for part in pixels.split(250)]
        return np.concatenate(parts)

    def kept(self, name: str, pixels: Tensor) -> np.ndarray:
        path = self.cache / f"judge_{name}_{self.net.digest}_{SIZE}.npy"
        if not path.exists():
            np.save(path, self(pixels))
        return np.load(path)

    def named(self, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Share of rows whose class is named right, at once and among the first five, per cent."""
        logits = (features - self.centre) / self.spread @ self.head[:-1] + self.head[-1]
        first = np.argsort(-logits, 1)[:, :5] == labels[:, None]
        return {"top1": 100 * float(first[:, 0].mean()), "top5": 100 * float(first.any(1).mean())}

    def distance(self, features: np.ndarray) -> float:
        return frechet(Statistics.of(features), self.real)


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


class Studio:
    """Processes that each have the pipeline open; which of them draws what makes no difference."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.pool = ProcessPoolExecutor(workers, get_context("spawn"), _open, (folder,))

    def __call__(self, texts: Sequence[str], scale: float, seed: int) -> Tensor:
        """(n, 3, 32, 32) uint8 pictures."""
        parts = [list(texts[at : at + AT_ONCE]) for at in range(0, len(texts), AT_ONCE)]
        seeds = [seed + AT_ONCE * number for number in range(len(parts))]
        return torch.cat(list(self.pool.map(drawn, parts, repeat(scale), seeds)))


_opened: list[Any] = []


def _open(folder: Path) -> None:
    torch.set_num_threads(1)
    _opened.append(StableDiffusionPipeline.from_pretrained(folder))


@torch.no_grad()
def drawn(texts: Sequence[str], scale: float, seed: int, pipe: Any = None, bf16: bool = True) -> Tensor:
    """By a plain call of the pipeline, in one batch."""
    pipe = pipe or _opened[0]
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = pipe(
            list(texts), num_inference_steps=STEPS, guidance_scale=scale, generator=rng, output_type="np"
        )
    return torch.from_numpy((found.images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def prompts_of(names: Sequence[str], labels: np.ndarray) -> list[str]:
    said = prompts("a photo of {a}", names)
    return [said[label] for label in labels]


def by_scale(
    studio: Studio, judge: Judge, names: Sequence[str], scales: Sequence[float], n: int, real: Statistics
) -> list[dict[str, float]]:
    """What each guidance scale gives: distance to real pictures, classes named right."""
    labels = np.arange(n) % len(names)
    rows = []
    for scale in scales:
        features = judge(studio(prompts_of(names, labels), scale, seed=0))
        row = {"scale": scale, "n": n, "fd": frechet(Statistics.of(features), real)}
        rows.append(row | judge.named(features, labels))
        print({key: round(value, 2) for key, value in rows[-1].items()}, flush=True)
    return rows
