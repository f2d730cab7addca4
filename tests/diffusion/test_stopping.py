from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from counterpoise.diffusion.batches import Material
from counterpoise.diffusion.checkpoints import Folder
from counterpoise.diffusion.losses import LogNormal
from counterpoise.diffusion.stopping import FEWEST, EarlyStop, Looks
from counterpoise.diffusion.training import Schooling, train_denoiser
from counterpoise.nets.mlp import MLP

ROWS = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (48, 1, 8, 8)).astype(np.float32))


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=5), share=st.floats(0.01, 0.99))
def test_only_large_classes_spare_rows_and_keep_some(counts, share):
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    aside = EarlyStop(share=share).aside(labels)
    for label, count in enumerate(counts):
        spared = aside[labels == label].sum()
        assert spared == (min(max(1, round(share * count)), count - 1) if count >= FEWEST else 0)
        assert spared < max(1, count)
    assert np.array_equal(aside, EarlyStop(share=share).aside(labels))


def test_the_weights_of_the_best_look_come_back():
    net = nn.Linear(1, 1, bias=False).requires_grad_(False)
    looks, ended = Looks(EarlyStop(patience=2), net), []
    for step, error in enumerate([3.0, 1.0, 2.0, 0.5, 0.7, 0.6]):
        net.weight.fill_(step)
        ended.append(looks(error))
    assert ended == [False] * 5 + [True]
    again = Looks(EarlyStop(patience=2), nn.Linear(1, 1, bias=False))
    again.load(looks.state())
    for one in (looks, again):
        one.finish()
        assert one.net.weight.item() == 3
        assert (one.best, one.since) == (0.5, 2)


class Often(Folder):
    """Saves after every third step, and dies when a test says so."""

    die_at = 10**9
    steps = 0

    def due(self) -> bool:
        self.steps += 1
        if self.steps == self.die_at:
            raise KeyboardInterrupt
        return self.steps % 3 == 0


def train(folder: Folder, stop: EarlyStop | None, steps: int = 400) -> dict[str, torch.Tensor]:
    """Few rows of noise: all that can be learnt of them is what they are, which says nothing of the others."""
    aside = Material(lambda r: ROWS[8 + r], np.zeros(40, np.int64), 1)
    material = Material(lambda r: ROWS[r], np.zeros(8, np.int64), 1)
    if stop is not None:
        material = dataclasses.replace(material, aside=aside, stop=stop)
    schooling = Schooling(steps=steps, batch=16, lr=4e-3, warmup=0.0, decay="none", ema=0.9, bf16=False)
    net = MLP(width=64, depth=1)(1, 1, 8, 0, 0)
    return train_denoiser(net, LogNormal(), material, schooling, 7, folder).state_dict()


def lines(folder: Folder) -> list[dict]:
    return [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]


def test_it_ends_when_rows_put_aside_are_denoised_worse(tmp_path):
    stop = EarlyStop(every=10, patience=3)
    folder = Folder(tmp_path / "stopped", "x")
    made = train(folder, stop)
    told = [line for line in lines(folder) if "aside" in line]
    errors = [line["aside"] for line in told]
    best = int(np.argmin(errors))
    assert told[-1]["step"] == told[-1]["of"] < 400
    assert len(errors) == best + 1 + stop.patience
    # It is a look, and no more: the same training without looks has the same weights at that step.
    plain = train(Often(tmp_path / "plain", "x"), None, steps=told[best]["step"])
    assert all(torch.equal(made[name], value) for name, value in plain.items())


@pytest.mark.parametrize("die_at", [8, 38])
def test_a_training_that_was_stopped_goes_on_exactly(tmp_path, die_at):
    stop = EarlyStop(every=10, patience=3)
    whole = train(Folder(tmp_path / "whole", "x"), stop)
    folder = Often(tmp_path / "halves", "x")
    folder.die_at = die_at
    with pytest.raises(KeyboardInterrupt):
        train(folder, stop)
    halves = train(Folder(tmp_path / "halves", "x"), stop)
    assert all(torch.equal(halves[name], value) for name, value in whole.items())
