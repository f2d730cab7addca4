"""The loader: what it costs a training, and how it compares with the usual per-image `Dataset`.

Training speed: `train_network` on a small ResNet, fed by memory-mapped rows with crop and flip, against the same loop
fed with one batch that lies ready in memory. Images per second: rows, crop, flip, floats in one process, against a
PIL `Dataset` over PNG files with the same augmentation in a `DataLoader` with 2 workers. One thread per process;
both sides are measured in turns, so that a busy machine hurts both, and the median of the ratios counts.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.mixing import Instance, stream
from counterpoise.classifiers.robust import Mean
from counterpoise.classifiers.training import Lesson, Training, train_network
from counterpoise.data.augment import Crop, Flip
from counterpoise.data.pixels import Rows, as_float
from counterpoise.nets.resnet import SmallResNet
from counterpoise.seeding import generator

SPEED_BAR, IMAGES_BAR = 0.9, 5.0
ROWS, FILES, SIZE, BATCH, CLASSES, ROUNDS = 20_000, 2_000, 32, 128, 10, 5
STEPS, WARM = 8, 2  # of each training that is timed
AUGMENT = (Crop(), Flip())


def pictures(count: int) -> np.ndarray:
    """(count, 32, 32, 3) uint8, smooth with some noise, so that PNG has as much to do as with photographs."""
    rng = generator("bench.loader")
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(coarse + rng.integers(-12, 13, coarse.shape), 0, 255).astype(np.uint8)


class OneBatch:
    """Rows of which every batch is the same ready-made one."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def batch(self, picked: np.ndarray) -> Tensor:
        return self.x


def seconds_per_step(rows: Any, augment: Sequence[Any], labels: np.ndarray, seed: int) -> float:
    """The median over the steps of a short training, the first ones left out."""
    ticks: list[float] = []

    def tick(progress: float) -> Tensor:  # asked for once a step
        ticks.append(time.perf_counter())
        return torch.ones(CLASSES)

    lesson = Lesson(
        rows=rows,
        targets=torch.eye(CLASSES)[labels],
        groups=None,
        stream=stream(Instance(), labels, np.ones(len(labels)), STEPS, BATCH, seed),
        prior=tick,
    )
    net = SmallResNet(width=16)(3, CLASSES, SIZE, seed)
    training = Training(steps=STEPS, batch=BATCH)
    train_network(net, lesson, CE(), Mean(), augment, training, seed)
    return statistics.median(later - earlier for earlier, later in list(pairwise(ticks))[WARM:])


class PerImage(Dataset[tuple[Tensor, int]]):
    """What most training scripts do: open, decode, crop, flip and convert one file at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as file:
            image = ImageOps.expand(file.convert("RGB"), border=4)
        left, top, mirror = torch.randint(9, (3,)).tolist()
        image = image.crop((left, top, left + SIZE, top + SIZE))
        if mirror % 2:
            image = ImageOps.mirror(image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255), index % CLASSES


def ours(rows: Rows, labels: np.ndarray, seed: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    targets = torch.eye(CLASSES)[labels]
    for picked in stream(Instance(), labels, np.ones(len(labels)), len(labels) // BATCH, BATCH, seed):
        x, soft = rows.batch(picked), targets[picked]
        for change in AUGMENT:
            x, soft = change(x, soft, rng)
        yield as_float(x)


def images_per_second(batches: Iterator[Any]) -> float:
    """After the first batch: starting up is not counted."""
    next(batches)
    begin, seen = time.perf_counter(), 0
    for batch in batches:
        seen += len(batch[0]) if isinstance(batch, list) else len(batch)
    return seen / (time.perf_counter() - begin)


def middle(
    first: Sequence[float], second: Sequence[float], ratio: Callable[[float, float], float]
) -> tuple[float, float]:
    """The pair measured in one turn whose ratio is the median."""
    return sorted(zip(first, second, strict=True), key=lambda pair: ratio(*pair))[len(first) // 2]


def main() -> None:
    torch.set_num_threads(1)
    images = pictures(ROWS)
    labels = np.arange(ROWS) % CLASSES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "pixels.npy", images)
        files = [folder / f"{i}.png" for i in range(FILES)]
        for file, image in zip(files, images, strict=False):
            Image.fromarray(image).save(file)
        del images
        rows = Rows.of(np.load(folder / "pixels.npy", mmap_mode="r"))
        ready = OneBatch(next(ours(rows, labels, 0)))
        usual = DataLoader(PerImage(files), BATCH, shuffle=True, num_workers=2, persistent_workers=True)

        loader, fixed, batched, single = [], [], [], []
        for seed in range(ROUNDS):
            loader.append(seconds_per_step(rows, AUGMENT, labels, seed))
            fixed.append(seconds_per_step(ready, (), labels, seed))
        for seed in range(ROUNDS):
            batched.append(images_per_second(ours(rows, labels, seed)))
            single.append(images_per_second(iter(usual)))
        del usual

    real_s, fixed_s = middle(loader, fixed, lambda real, ready: ready / real)
    ours_rate, usual_rate = middle(batched, single, lambda ours, usual: ours / usual)
    speed, images_ratio = fixed_s / real_s, ours_rate / usual_rate
    print(f"{SIZE} px, batch {BATCH}, one thread, the median of {ROUNDS} turns")
    print(f"{'':<34} {'loader':>14} {'against':>14} {'ratio':>7} {'bar':>6}")
    first, second = "training, against one fixed batch", "images/s, against PIL, 2 workers"
    times = f"{1000 * real_s:>11.1f} ms {1000 * fixed_s:>11.1f} ms"
    print(f"{first:<34} {times} {speed:>7.2f} {SPEED_BAR:>6}")
    print(f"{second:<34} {ours_rate:>14,.0f} {usual_rate:>14,.0f} {images_ratio:>7.1f} {IMAGES_BAR:>6}")
    ratios = {
        "training_speed": {"ratio": round(speed, 3), "bar": SPEED_BAR, "holds": speed >= SPEED_BAR},
        "images_per_second": {
            "ratio": round(images_ratio, 2),
            "bar": IMAGES_BAR,
            "holds": images_ratio >= IMAGES_BAR,
        },
    }
    holds = all(entry["holds"] for entry in ratios.values())
    print(
        json.dumps(
            {"bench": "loader", "ratio": round(speed, 3), "bar": SPEED_BAR, "holds": holds, "ratios": ratios}
        )
    )


if __name__ == "__main__":
    main()
