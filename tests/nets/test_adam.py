from __future__ import annotations

import pytest
import torch

from counterpoise.nets.adam import Adam

SHAPES = [(3, 4), (5,), (), (2, 3, 2, 2)]


def weights():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def slopes(step):
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) * 10 ** (step % 3 - 1) for shape in SHAPES]


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.95)])
def test_the_numbers_are_torchs(clip, betas):
    ours, theirs = weights(), [torch.nn.Parameter(weight) for weight in weights()]
    adam = Adam(ours, betas=betas, clip=clip)
    reference = torch.optim.Adam(theirs, betas=betas)
    for step in range(30):
        rate = 1e-2 / (1 + step)
        for weight, slope in zip(theirs, slopes(step), strict=True):
            weight.grad = slope
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs, clip)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        found = adam(slopes(step), rate)
        if clip is not None:
            torch.testing.assert_close(found, norm)
    for weight, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(weight, expected.data, atol=1e-6, rtol=0)


def test_slopes_are_left_as_they_are():
    given, kept = slopes(0), slopes(0)
    Adam(weights(), clip=0.1)(given, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


def test_a_stopped_training_goes_on_exactly():
    whole, stopped = weights(), weights()
    adam = Adam(whole)
    for step in range(10):
        adam(slopes(step), 1e-2)
    first = Adam(stopped)
    for step in range(4):
        first(slopes(step), 1e-2)
    state = {name: value.clone() for name, value in first.state().items()}
    assert set(state) == {"step"} | {f"{kind}/{i}" for kind in "mv" for i in range(len(SHAPES))}
    second = Adam(stopped)
    second.load(state)
    for step in range(4, 10):
        second(slopes(step), 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(whole, stopped, strict=True))
