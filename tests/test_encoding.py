"""Where features are asked for: computed once on a machine, written into every run, refused where they are no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from counterpoise.encoding import BACKBONE, backbone_unit, encode_unit
from counterpoise.rundir import Run
from counterpoise.types import Refusal

PIXELS = np.random.default_rng(0).integers(0, 256, (600, 2, 2, 3), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))


@dataclass
class Space:
    """Twelve numbers of a row, and a count of rows; from `broken` on, a backbone that overflows."""

    broken: int | None = None
    weights: str = "a"
    backbone: str = "hf:x"
    asked: int = 0

    def digest(self) -> str:
        return self.weights

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        self.asked += len(pixels)
        made = pixels.reshape(len(pixels), -1).astype(np.float32)
        if self.broken is not None:
            made[(pixels == PIXELS[self.broken]).all((1, 2, 3)), 5] = np.inf
        return made


def study(folder: Path, space: Space, uris: list[str | None] | None = None) -> SimpleNamespace:
    folder.mkdir(exist_ok=True)
    uris = uris or [f"a/{i}.png" for i in range(600)]
    manifest = pa.table({"id": [f"id{i}" for i in range(600)], "uri": pa.array(uris, pa.string())})
    return SimpleNamespace(
        run=Run(folder),
        recipe=SimpleNamespace(network=space),
        pixels=lambda role: PIXELS,
        manifest=lambda role: manifest,
    )


def encoded(study: SimpleNamespace) -> np.ndarray:
    units = ["features/train/00000.npy", "features/train/00001.npy"]
    backbone_unit(study, BACKBONE)
    for unit in units:
        encode_unit(study, unit)
    return np.concatenate([study.run.array(unit) for unit in units])


def test_a_second_run_over_the_same_images_computes_nothing_and_has_its_own_copy(tmp_path):
    first, second, other = Space(), Space(), Space(weights="b")
    made = encoded(study(tmp_path / "one", first))
    assert (made == PIXELS.reshape(600, -1)).all()
    assert (encoded(study(tmp_path / "two", second)) == made).all()
    encoded(study(tmp_path / "three", other))
    assert (first.asked, second.asked, other.asked) == (600, 0, 600)


@pytest.mark.parametrize("uri", ["a/530.png", None])
def test_features_that_are_not_finite_are_refused_with_the_image_named(tmp_path, uri):
    uris = [f"a/{i}.png" if uri else None for i in range(600)]
    for _ in range(2):
        with pytest.raises(Refusal, match=rf"1 of 88 train images .* those of {uri or 'id530'}: .* hf:x"):
            encoded(study(tmp_path / "run", Space(broken=530), uris))
    assert not Run(tmp_path / "run").has("features/train/00001.npy")
    assert Run(tmp_path / "run").has("features/train/00000.npy")
    mended = Space()
    assert np.isfinite(encoded(study(tmp_path / "run", mended))).all()
    assert mended.asked == 1


def test_weights_that_changed_are_refused(tmp_path):
    one = study(tmp_path / "run", Space())
    encoded(one)
    one.recipe.network.weights = "b"
    with pytest.raises(Refusal, match="changed since this run was begun"):
        encode_unit(one, "features/val/00000.npy")
