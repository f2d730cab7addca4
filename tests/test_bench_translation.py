"""The benchmarks of translation at a tiny shape: they go through, and what cannot be measured here is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

from bench import _full_size, translation  # noqa: E402
from bench._translating import Shape, planned  # noqa: E402

TINY = Shape(side=4, unet=(16, 32), vae=(8, 8, 8, 8), text=64, layers=1, groups=8, heads=2)


@pytest.fixture(autouse=True)
def caches(monkeypatch):
    """What a benchmark sets ends with it."""
    monkeypatch.setenv("COUNTERPOISE_CACHE", "/dev/null")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr("bench._translating.STEPS", 4)


def test_every_way_is_measured_and_makes_files(tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "together", lambda *_: translation.Cost(1.0, 1.0))
    monkeypatch.setattr(translation, "BATCH", 4)
    found = dict(translation.measured(TINY, tmp_path, threads=1))
    assert set(translation.STAIRS) <= set(found)
    assert all(one.wall > 0 for one in found.values())
    assert len(list((tmp_path / "made").glob("*.png"))) >= 4


def test_a_worker_says_when_it_began_and_ended(tmp_path):
    class Line:
        waited, told = False, ()

        def wait(self):
            self.waited = True

        def put(self, found):
            self.told = found

    folder = translation.saved(TINY, tmp_path / "base")
    pixels = translation.pictures(2, TINY.size)
    np.save(tmp_path / "pixels.npy", pixels)
    line = Line()
    translation.worker(folder, tmp_path / "pixels.npy", planned(pixels, 3), tmp_path, line, line)
    assert line.waited
    assert line.told[1] >= line.told[0]
    assert len(list(Path(tmp_path).glob("*.png"))) == 3


def test_what_no_network_takes_is_measured_between_networks_that_do_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(translation, "SD15", TINY)
    assert 0 < translation.outside(tmp_path, n=4) < 5
    assert set(translation.stable_diffusion()) == {"guided call", "encode", "decode"}


def test_fewer_steps_of_the_better_solver_do():
    assert 2 <= translation.fewer(rows=2) < translation.CALLS


def test_full_size_goes_through_at_a_tiny_one_and_is_refused_without_a_gpu(tmp_path, monkeypatch):
    found = _full_size.measured(TINY, tmp_path, rows_n=4, batch=2)
    assert all(one["per second"] > 0 for one in found.values())
    assert json.dumps(found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees none here"):
        _full_size.main()
