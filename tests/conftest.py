"""One small but complete run, on a folder as hostile as users' folders are, shared by the tests that look at runs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("HF_HUB_OFFLINE", "1")

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


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """An image folder with truncated, empty, doubled and misnamed files, and an empty class."""
    root = fill(tmp_path_factory.mktemp("data") / "photos")
    whole = io.BytesIO()
    photo(0, 999, 64).save(whole, "JPEG")
    (root / "con" / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (root / "con" / "nothing.png").write_bytes(b"")
    (root / "con" / "text.png").write_text("not an image")
    (root / "con" / "named.png").write_bytes(whole.getvalue())
    (root / "con" / "again.png").write_bytes((root / "con" / "000.png").read_bytes())
    (root / "nobody").mkdir()
    return root


def small(source: str, **flags):
    """The baselines recipe at its smallest, over any source."""
    from counterpoise import Data, Holdout, Trials, open_source, parse_cut
    from counterpoise.recipes.baselines import baselines

    cut = parse_cut(flags.pop("cut", "none"))
    data = Data(open_source(str(source)), cut=cut, holdout=flags.pop("holdout", Holdout(val=0.2, test=0.25)))
    return baselines(data, Trials(flags.pop("trials", 2)), smoke=True, **({"steps": 6, "width": 4} | flags))


@pytest.fixture(scope="session")
def finished(hostile, tmp_path_factory):
    """A finished run over that folder."""
    from counterpoise import run

    return run(small(hostile), tmp_path_factory.mktemp("runs") / "run")
