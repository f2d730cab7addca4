"""The loop: a training that was killed goes on to the same weights."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.generators.generator import Lesson
from counterpoise.generators.latent_mixture import LatentMixture
from counterpoise.nets.vae import ImageVAE, VectorVAE
from counterpoise.types import Refusal

RNG = np.random.default_rng(0)
LABELS = np.arange(30) % 3
FEATURES = RNG.normal(size=(30, 5)).astype(np.float32) + LABELS[:, None]
PICTURES = RNG.integers(0, 256, (30, 8, 8, 1), np.uint8)
NETWORKS = {"features": VectorVAE(width=16, latent=4), "pixels": ImageVAE(width=4, latent=4)}


class Killed(Exception):
    pass


def lesson(rows: np.ndarray, hear=lambda share: None) -> Lesson:
    return Lesson(Rows.of(rows), LABELS, None, ["a", "b", "c"], hear=hear)


@pytest.fixture
def saving(monkeypatch):
    """Every step is saved, and the process dies after the sixth of them."""

    def dying(at: int):
        save = Folder.save

        def save_and_die(self, step, state):
            save(self, step, state)
            if step == at:
                raise Killed

        monkeypatch.setattr(Folder, "due", lambda self: True)
        monkeypatch.setattr(Folder, "save", save_and_die)

    return dying


@pytest.mark.parametrize("kind", ["features", "pixels"])
@pytest.mark.parametrize("at", [3, 6, 17])  # in the warm-up, where the components begin, after it
def test_a_killed_fit_goes_on_to_the_same_weights(kind, at, saving, monkeypatch, tmp_path):
    model = LatentMixture(network=NETWORKS[kind], fit_steps=20, batch=8, warmup=0.3)
    rows = FEATURES if kind == "features" else PICTURES
    model.fit(lesson(rows), tmp_path / "whole", seed=1)
    saving(at)
    with pytest.raises(Killed):
        model.fit(lesson(rows), tmp_path / "killed", seed=1)
    with pytest.raises(Refusal, match="the state of another training"):
        dataclasses.replace(model, mixture=0.2).fit(lesson(rows), tmp_path / "killed", seed=1)
    monkeypatch.undo()
    model.fit(lesson(rows), tmp_path / "killed", seed=1)
    whole, again = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == again


def test_the_terms_are_logged_apart_and_progress_is_told(tmp_path):
    told: list[float] = []
    model = LatentMixture(network=NETWORKS["features"], fit_steps=250, batch=8)
    model.fit(lesson(FEATURES, told.append), tmp_path, seed=1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [100, 200, 250]
    assert told == [0.4, 0.8, 1.0]
    last = lines[-1]
    parts = {"classification": 10, "reconstruction": 10, "kl": 0.1}
    assert last["total"] == pytest.approx(sum(weight * last[name] for name, weight in parts.items()))
    assert last["classification"] < lines[0]["classification"]


def test_a_training_that_blows_up_is_stopped_with_its_rate(tmp_path):
    model = LatentMixture(network=NETWORKS["features"], fit_steps=50, batch=8, lr=1e30)
    with pytest.raises(Refusal, match=r"stopped at step .* Lower the learning rate \(it is 1e\+30\)"):
        model.fit(lesson(FEATURES), tmp_path, seed=1)
    assert not (tmp_path / "weights.safetensors").exists()
