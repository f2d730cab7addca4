"""Networks of Stable Diffusion 1.5's shape at 512 pixels on a GPU: `python -m bench._full_size`. It needs one, so that `make bench` leaves it out.

Weights are random: no cost depends on them. Plain pictures come from noise in 25 steps, translated ones from a source in
17 of them, guided ones are translated while a classifier is listened to through the preview decoder. diffusers' pipeline
translates the same rows in the same run, one picture per call in fp16, as the published code does. The last line is JSON.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench._translating import (
    CLASSES,
    SD15,
    Shape,
    context,
    forgetting,
    pictures,
    planned,
    sampler,
    saved,
    theirs,
    translating,
    written,
)
from counterpoise.diffusion.feedback import Feedback
from counterpoise.diffusion.ranks import Ranks
from counterpoise.generators.generator import Context
from counterpoise.nets.resnet import SmallResNet

SOURCES, ROWS, BATCH = 8, 32, 8
SEEN = 64  # pixels that the classifier looks at


def teacher(device: torch.device) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    net: nn.Module = SmallResNet()(3, len(CLASSES), SEEN, 0).to(device).eval().requires_grad_(False)

    def say(seen: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        small = F.interpolate(seen, (SEEN, SEEN), mode="bilinear", antialias=True)
        return net(small), torch.zeros(len(seen), 1, device=device)

    return say


def timed(work: Callable[[], object], pictures_made: int, device: torch.device) -> dict[str, float]:
    """Pictures per second, and the most memory that tensors took, GiB."""
    work()  # warms up
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    made = {"per second": pictures_made / (time.perf_counter() - start)}
    return made | ({"peak GiB": torch.cuda.max_memory_allocated() / 2**30} if device.type == "cuda" else {})


def measured(shape: Shape, work: Path, rows_n: int = ROWS, batch: int = BATCH) -> dict[str, dict[str, float]]:
    device = Ranks.alone().device
    forgetting(work / "cache")
    folder, out = saved(shape, work / "base"), work / "made"
    out.mkdir()
    pixels = pictures(SOURCES, shape.size)
    rows = planned(pixels, rows_n)
    from_noise = [row | {"strength": 1.0, "source_id": None} for row in rows]
    ours = sampler(folder, pixels, bf16=True)
    heard = Context(context(pixels).real, guides=(Feedback(),), teacher=teacher(device))
    guided = sampler(folder, pixels, bf16=True, ctx=heard, looks=True)
    found = {
        "plain": timed(lambda: written(ours, from_noise, batch, out), rows_n, device),
        "translated": timed(lambda: written(ours, rows, batch, out), rows_n, device),
        "guided by feedback": timed(lambda: written(guided, rows, batch, out), rows_n, device),
    }
    few = rows[: max(1, rows_n // 4)]
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    translate: Any = translating(theirs(folder, dtype, device.type), pixels, shape.size, out)

    def one_by_one() -> None:
        for row in few:
            translate(row, f"a photo of a {CLASSES[row['label']]}")

    return found | {"translated by diffusers": timed(one_by_one, len(few), device)}


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit(
            "networks at full size are timed on a GPU, and torch sees none here: `python -m bench.translation` is for processors"
        )
    warnings.simplefilter("ignore")  # the libraries' own
    with TemporaryDirectory() as name:
        found = measured(SD15, Path(name))
    for what, one in found.items():
        print(f"{what:>24}: " + ", ".join(f"{value:.2f} {unit}" for unit, value in one.items()))
    ratio = found["translated"]["per second"] / found["translated by diffusers"]["per second"]
    print(
        json.dumps(
            {"bench": "full_size", "ratio": round(ratio, 2), "device": torch.cuda.get_device_name(), **found}
        )
    )


if __name__ == "__main__":
    main()
