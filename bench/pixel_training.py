"""Pixel diffusion training: images a second against plain fp32 eager training of the same network, at equal loss.

Also which network is best after equal time: the Fréchet distance of several, on digits (8 px) and, where the data
lie beside the project, on CIFAR-10-LT (32 px). The loss curve of the first steps is kept in bench/golden.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from bench._digits import judge, lesson
from counterpoise.data.intake import intake
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.batches import Batches, Material
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.losses import LogNormal
from counterpoise.diffusion.precision import has_bf16
from counterpoise.diffusion.training import Schooling, train_denoiser
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.pixel_diffusion import PixelDiffusion, network_for
from counterpoise.metrics.frechet import Statistics, frechet
from counterpoise.nets.adam import Adam
from counterpoise.nets.dit import DiT
from counterpoise.nets.judges import open_judge
from counterpoise.nets.mlp import MLP
from counterpoise.nets.unet import UNet
from counterpoise.seeding import derive

BAR, STEPS, BATCH = 1.5, 60, 64
GOLDEN = Path(__file__).parent / "golden" / "pixel_training.json"
SHARED = Path(__file__).parents[2] / "shared"
SAMPLES = {8: 1800, 32: 1000}
NETWORKS: dict[int, dict[str, Any]] = {
    8: {
        "U-Net": UNet(),
        "U-Net, unshuffled": UNet(width=64, levels=(1,), unshuffle=2),
        "DiT": DiT(width=96, depth=4, patch=2),
        "MLP": MLP(width=192, depth=3),
    },
    32: {
        "U-Net": UNet(width=32, levels=(1, 2, 2), unshuffle=1),
        "U-Net, unshuffled": UNet(width=64, levels=(1, 1, 2), unshuffle=2),
        "DiT": DiT(),
    },
}
SECONDS = {8: 40.0, 32: 100.0}  # of processor time


class Clock:
    """Keeps nothing; stops a training when its time is up."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self.end, self.losses = time.process_time() + seconds, []  # type: list[float]

    def resume(self) -> None: ...
    def save(self, step: int, state: dict) -> None: ...
    def preview(self, step: int, net: Any) -> None: ...
    def due(self) -> bool:
        return False

    def log(self, row: dict[str, Any]) -> None:
        self.losses.append(row["loss"])


def pictures(size: int = 32, n: int = 512) -> Material:
    """Smooth coloured noise: the speed of training does not depend on what it sees."""
    rng = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 4, 4, generator=rng) * 2 - 1
    x = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")
    return Material(lambda picked: x[picked], np.arange(n) % 10, 10)


def ours(bf16: bool | None) -> tuple[float, list[float]]:
    net = network_for(32)(3, 10, 32, 0)
    clock, settings = (
        Clock(),
        Schooling(steps=STEPS, batch=BATCH, bf16=bf16, warmup=0.0, lr=1e-3, decay="none"),
    )
    start = time.process_time()
    train_denoiser(net, LogNormal(), pictures(), settings, 0, clock)  # type: ignore[arg-type]
    return STEPS * BATCH / (time.process_time() - start), clock.losses


def plain() -> tuple[float, list[float]]:
    """The same steps as one would first write them: fp32, a mean of weighted squares, an average kept tensor by tensor."""
    net, objective = network_for(32)(3, 10, 32, 0), LogNormal()
    settings = Schooling(steps=STEPS, batch=BATCH)
    batches, weights = Batches(pictures(), settings, 0), list(net.parameters())
    adam, mean, losses = Adam(weights), [w.detach().clone() for w in weights], []
    data = objective.parametrisation.sigma_data
    start = time.process_time()
    for step in range(STEPS):
        batch = batches(step, objective)
        sigma = batch.sigma[:, None, None, None]
        total = sigma**2 + data**2
        x = batch.x0 + sigma * batch.noise
        raw = net(x / total.sqrt(), batch.sigma.log() / 4, Cond(batch.cond.label))
        denoised = data**2 / total * x + sigma * data / total.sqrt() * raw
        loss = (total / (sigma * data) ** 2 * (denoised - batch.x0) ** 2).mean()
        loss.backward()
        adam([w.grad if w.grad is not None else torch.zeros_like(w) for w in weights], 1e-3)
        for weight, averaged in zip(weights, mean, strict=True):
            weight.grad = None
            averaged.mul_(0.998).add_(weight.detach(), alpha=0.002)
        losses.append(float(loss.detach()))
    return STEPS * BATCH / (time.process_time() - start), [float(np.mean(losses))]


def matmul_rate(dtype: torch.dtype, n: int = 1024) -> float:
    """GFLOP/s of a square product, the most this process can hope for."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = float("inf")
    for _ in range(8):
        start = time.process_time()
        a @ b
        best = min(best, time.process_time() - start)
    return 2 * n**3 / best / 1e9


def flops(net: torch.nn.Module) -> float:
    """Of one image, forward and backward (backward counts twice)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 32, 32), torch.zeros(1), Cond(torch.zeros(1, dtype=torch.long)))
    return 3.0 * counter.get_total_flops()


def cifar() -> tuple[Any, Lesson, np.ndarray] | None:
    """CIFAR-10-LT, and its judge, where they are."""
    folder, weights = SHARED / "data" / "cifar10_lt100", SHARED / "models" / "cifar10_resnet32.safetensors"
    if not (folder.exists() and weights.exists()):
        return None

    def opened(name: str) -> tuple[np.ndarray, np.ndarray]:
        table = pq.read_table(folder / name)
        pixels = [intake(row["bytes"], row["path"] or "").pixels for row in table["image"].to_pylist()]
        return np.stack(pixels), table["label"].to_numpy()  # type: ignore[arg-type]

    (train, labels), (test, _) = opened("train.parquet"), opened("test.parquet")
    lesson_ = Lesson(Rows.of(train), labels, None, [str(c) for c in range(10)])
    return open_judge(f"cifar-resnet:{weights}"), lesson_, test


def step_seconds(model: PixelDiffusion, known: Lesson, few: int = 8, more: int = 32) -> float:
    """From two short trainings, so that what comes once (loading, the last grid) is not counted."""
    taken = []
    for steps in (few, more):
        with TemporaryDirectory() as out:
            start = time.process_time()
            dataclasses.replace(model, schooling=Schooling(steps=steps, batch=BATCH)).fit(
                known, Path(out), seed=1
            )
            taken.append(time.process_time() - start)
    return (taken[1] - taken[0]) / (more - few)


def compare(
    size: int, features: Any, known: Lesson, reference: np.ndarray, seconds: float
) -> dict[str, float]:
    """Fréchet distance of each network after the same processor time."""
    real, found = Statistics.of(features(reference)), {}
    labels = np.arange(SAMPLES[size]) % 10
    rows = [{"label": int(c), "seed": derive("bench", i), "strength": 1.0} for i, c in enumerate(labels)]
    for name, network in NETWORKS[size].items():
        trial = PixelDiffusion(network=network, schooling=Schooling(steps=12, batch=BATCH))
        per_step = step_seconds(trial, known)
        steps = max(20, int(seconds / per_step))
        model = dataclasses.replace(trial, schooling=Schooling(steps=steps, batch=BATCH))
        with TemporaryDirectory() as out:
            start = time.process_time()
            model.fit(known, Path(out), seed=0)
            took = time.process_time() - start
            sample = model.load(Path(out), Context(lambda ids: np.zeros(0)))
            made = np.stack([x for at in range(0, len(rows), BATCH) for x in sample(rows[at : at + BATCH])])  # type: ignore[misc]
        found[name] = frechet(Statistics.of(features(made)), real)
        print(
            f"{size} px, {name:>18}: Fréchet {found[name]:8.3f} after {took:.0f} s, {steps} steps", flush=True
        )
    return found


def main() -> None:
    torch.set_num_threads(1)
    chip = has_bf16(torch.device("cpu"))
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else None
    fast, (fast_loss,) = max(ours(None), ours(None))
    slow, (slow_loss,) = max(plain(), plain())
    _, (same_loss,) = ours(False)
    if golden is None:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"fp32": same_loss, "default": fast_loss}, indent=2) + "\n")
        golden = json.loads(GOLDEN.read_text())
    equal = abs(fast_loss / slow_loss - 1) < 0.02 and abs(same_loss / golden["fp32"] - 1) < 0.02
    net = network_for(32)(3, 10, 32, 0)
    rate, best = fast * flops(net) / 1e9, matmul_rate(torch.bfloat16 if chip else torch.float32)
    print(
        f"images/s: {fast:.0f} (ours) and {slow:.0f} (plain fp32); loss {fast_loss:.4f}, {slow_loss:.4f}, fp32 {same_loss:.4f}, golden {golden['fp32']:.4f}"
    )
    print(
        f"{rate:.0f} of {best:.0f} GFLOP/s of a matrix product: {rate / best:.0%}; bf16 in the chip: {chip}"
    )
    tables = {}
    if "--speed-only" not in sys.argv:
        features, known, reference = judge()
        tables["8 px"] = compare(8, features, lesson(*known), reference, SECONDS[8])
        if (there := cifar()) is not None:
            tables["32 px"] = compare(32, *there, SECONDS[32])
    ratio = fast / slow
    print(
        json.dumps(
            {
                "bench": "pixel_training",
                "ratio": round(ratio, 2),
                "bar": BAR,
                "holds": bool(equal and (ratio >= BAR or not chip)),
                "bf16": chip,
                "matmul_share": round(rate / best, 3),
                "frechet": {size: {k: round(v, 3) for k, v in row.items()} for size, row in tables.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
