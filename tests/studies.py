"""Small folders of pictures, and the baselines recipe at its smallest: what tests of whole runs start from and end with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load_file

CLASSES = {"<img src=x onerror=alert(1)>": 60, "con": 30, "🦔 .. and more": 14, "x" * 200: 4}


def photo(label: int, index: int, size: int = 16) -> Image.Image:
    """A coloured ramp with noise: easy to tell apart, never twice the same."""
    rng = np.random.default_rng([label, index])
    y, x = np.mgrid[:size, :size] / size
    base = np.stack([np.cos(3 * x + label), np.sin(4 * y - label), x * y * label], -1)
    pixels = np.clip(120 + 70 * base + rng.normal(0, 25, (size, size, 3)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def fill(root: Path, classes: dict[str, int] = CLASSES, size: int = 16) -> Path:
    for label, (name, count) in enumerate(classes.items()):
        folder = root / name.replace("/", "_")
        folder.mkdir(parents=True)
        for index in range(count):
            photo(label, index, size).save(folder / f"{index:03d}.png")
    return root


def small(source: str, **flags):
    """The baselines recipe at its smallest, over any source."""
    from counterpoise import Data, Holdout, Trials, open_source, parse_cut
    from counterpoise.recipes.baselines import baselines

    cut = parse_cut(flags.pop("cut", "none"))
    data = Data(open_source(str(source)), cut=cut, holdout=flags.pop("holdout", Holdout(val=0.2, test=0.25)))
    return baselines(data, Trials(flags.pop("trials", 2)), smoke=True, **({"steps": 6, "width": 4} | flags))


def outcome(to: Path) -> dict[str, object]:
    """All that a run decided, file by file; what it cost and when is left out."""
    found: dict[str, object] = {}
    for path in sorted(to.rglob("*")):
        name = str(path.relative_to(to))
        scaffold = name.startswith("data/slices") and path.suffix == ".npy"
        if path.is_dir() or name.startswith(".") or scaffold:
            continue
        if path.suffix == ".parquet":
            found[name] = pq.read_table(path, partitioning=None).to_pylist()
        elif path.suffix == ".safetensors":
            found[name] = {key: value.tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".npy":
            found[name] = np.load(path).tobytes()
        elif path.suffix == ".json" and path.name not in ("report.json", "command.json"):
            found[name] = json.loads(path.read_text())
    return found
