"""The pictures of CIFAR-100, decoded once."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    pixels: Tensor  # (n, 3, 32, 32) uint8
    labels: np.ndarray
    names: list[str]

    def seen(self, rows: np.ndarray) -> Tensor:
        """In [-1, 1]."""
        return self.pixels[torch.from_numpy(rows)].float() / 127.5 - 1


def load(data: Path, split: str, work: Path) -> Pictures:
    cached = work / f"{split}.npz"
    path = data / f"{split}.parquet"
    header = json.loads(pq.read_schema(path).metadata[b"huggingface"])
    names = header["info"]["features"]["label"]["names"]
    if not cached.exists():
        table = pq.read_table(path)
        shown = [
            np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB"))
            for row in table["image"].to_pylist()
        ]
        work.mkdir(parents=True, exist_ok=True)
        np.savez(cached.with_suffix(".new.npz"), pixels=np.stack(shown), labels=table["label"].to_numpy())
        cached.with_suffix(".new.npz").replace(cached)
    held = np.load(cached)
    pixels = torch.from_numpy(held["pixels"]).permute(0, 3, 1, 2).contiguous()
    return Pictures(pixels, held["labels"].astype(np.int64), names)


def batch(n: int, size: int, name: str, step: int) -> np.ndarray:
    """Which rows step `step` looks at: passes over all of them, each in an order of its own."""
    from miniatures.learning import draws

    views = np.arange(size * step, size * (step + 1))
    orders = {turn: draws(name, "pass", turn).permutation(n) for turn in np.unique(views // n)}
    return np.array([orders[v // n][v % n] for v in views])
