"""What a text-image model saw of a picture is seen once, and by that model alone."""

import os
import warnings

import numpy as np
import pytest
import torch
from pairs import saved_pair

from counterpoise.nets import clip as towers
from counterpoise.scores import looking
from counterpoise.scores.among import AmongReal
from counterpoise.scores.batch import Batch
from counterpoise.scores.clip import Clip, Contrast, Margin
from counterpoise.scores.real import Clearance

pytest.importorskip("transformers", reason="the hf extra is not installed")
RNG = np.random.default_rng(0)
PICTURES, LABELS = RNG.integers(0, 256, (12, 16, 16, 3), np.uint8), np.arange(12) % 4
REAL, REAL_LABELS = RNG.integers(0, 256, (20, 16, 16, 3), np.uint8), np.arange(20) % 4
NAMES = ("oak_tree", "rose", "pickup_truck", "x-ray")
VECTORS = np.zeros((20, 2), np.float32)
BATCH = Batch(
    VECTORS[:12], LABELS, VECTORS, np.arange(20).astype(str), REAL_LABELS,
    pictures=PICTURES, classes=NAMES, real_pictures=REAL,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    looking._place.cache_clear()


@pytest.fixture(name="model")
def _model(tmp_path) -> str:
    return str(saved_pair(tmp_path / "clip"))


@pytest.fixture(name="looks")
def _looks(monkeypatch) -> list[int]:
    """How many pictures went through a network, each time that some did."""
    seen = []
    look = towers.ClipPair.pictures
    monkeypatch.setattr(towers.ClipPair, "pictures", lambda self, x: seen.append(len(x)) or look(self, x))
    return seen


def test_several_scores_of_a_shard_share_one_look(model, looks):
    with warnings.catch_warnings(action="ignore"):
        for score in (Clip(model), Margin(model), Contrast(model), AmongReal(Clip(model)), Clearance(model)):
            threshold = score.of_real(REAL, REAL_LABELS, NAMES).get("threshold", 0.0)
            values, _ = score(BATCH, threshold)
            assert np.isfinite(values).all()
    assert sorted(looks) == [12, 20]


def test_what_was_seen_is_found_again_by_another_process_and_for_other_company(model, looks):
    first = Clip(model).seen(PICTURES)
    looking._place.cache_clear()
    assert torch.equal(Clip(model).seen(PICTURES), first)
    assert torch.equal(Clip(model).seen(PICTURES[::-1].copy()), first.flip(0))
    assert looks == [12]
    Clip(model).seen(np.concatenate([PICTURES[:3], REAL[:2]]))
    assert looks == [12, 2]


def test_another_clip_never_reads_it(tmp_path, looks):
    """Not even one that differs in the size of its projection alone, or that lies where the first one lay."""
    first = saved_pair(tmp_path / "first", projection=12)
    other = saved_pair(tmp_path / "other", projection=24)
    found = {folder: Clip(str(folder)).seen(PICTURES) for folder in (first, other)}
    assert [found[folder].shape[1] for folder in (first, other)] == [12, 24]
    saved_pair(first, projection=24)
    again = Clip(str(first)).seen(PICTURES)
    assert looks == [12, 12], "the same weights in another place are known"
    assert torch.equal(again, found[other])
    saved_pair(first, seed=1)
    assert not torch.equal(Clip(str(first)).seen(PICTURES), found[first])
    assert looks == [12, 12, 12]


def test_nothing_depends_on_the_store(model, monkeypatch, looks):
    kept = Clip(model).seen(PICTURES)
    looking._place.cache_clear()
    monkeypatch.setenv("COUNTERPOISE_CACHE", os.devnull)
    assert torch.equal(Clip(model).seen(PICTURES), kept)
    assert looks == [12, 12]


def test_full_precision_and_bf16_are_kept_apart(model, monkeypatch, looks):
    for wanted in (False, True):
        looking.opened.cache_clear()
        looking._place.cache_clear()
        monkeypatch.setattr(looking, "has_bf16", lambda device, wanted=wanted: wanted)
        Clip(model).seen(PICTURES)
    assert looks == [12, 12]


def test_an_estimate_times_pictures_that_nobody_has_kept(model, looks):
    once, each = Clip(model).seconds(3, 16, NAMES)
    assert once > each > 0
    Clip(model).seconds(3, 16, NAMES)
    assert looks == [16, 16, 16, 16]
