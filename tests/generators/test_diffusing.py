"""How far a source is left: the same signal-to-noise ratio on every schedule, and from the source itself to noise alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import text_to_image
import torch
from torch import Tensor, nn

from counterpoise.diffusion.denoisers import Schedule, Velocity
from counterpoise.diffusion.losses import UniformTime
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.generator import Context
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets.mlp import MLP

SHAPE = (1, 64, 64)
SOURCE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
GUIDED_DB = (12.0, 9.5, 4.1, 2.6, -0.1)  # of He et al. 2023, for 16 to 1 rows of a class
CONTEXT = Context(lambda ids: np.zeros(0))
COSINE = Schedule(shape="cosine")
BASES = {
    "sd": {},
    "sd v": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "sd3": {},
    "flux": {},
}
OTHERS = {
    "edm": PixelDiffusion(),
    "ddpm": PixelDiffusion(objective=UniformTime()),
    "cosine v": PixelDiffusion(objective=UniformTime(Velocity(COSINE)), steps=50),
    "features": FeatureDiffusion(sampler="euler"),
}


@dataclass(frozen=True)
class Whole:
    """x as it is, from one source."""

    shape: tuple[int, ...] = SHAPE
    guides: tuple = ()
    spread: float = 1.0

    def sources(self, rows, ctx):
        return SOURCE.expand(len(rows), *SHAPE)

    def back(self, x, labels):
        return x.numpy()

    def look(self, x, labels):
        return x


class Zero(nn.Module):
    """Says nothing, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("here", torch.zeros(1))
        self.shown: list[Tensor] = []

    def forward(self, x, noise, cond):
        self.shown.append(x)
        return torch.zeros_like(x)


@pytest.fixture(params=[*BASES, *OTHERS])
def model(request, tmp_path):
    if request.param in OTHERS:
        return OTHERS[request.param]
    kind, schedule = request.param.split()[0], BASES[request.param]
    return StableDiffusion(base=str(text_to_image.save(tmp_path / "base", kind=kind, **schedule)), guides=())


def asked(strength, n=8):
    return [
        {"label": 0, "seed": i, "strength": float(np.float32(strength)), "source_id": "a"} for i in range(n)
    ]


def test_a_ratio_is_that_of_source_and_noise_in_what_a_network_is_shown(model):
    for snr_db in (*GUIDED_DB, -6.0):
        net = Zero()
        model.sampled(net, None, Whole(), CONTEXT)(asked(model.strength_at(snr_db)))
        assert len(net.shown) >= model.steps / 4, "not one step, though there is little noise"
        x = net.shown[0]
        signal = (x * SOURCE).mean() / SOURCE.square().mean()
        noise = (x - signal * SOURCE).square().mean()
        assert 10 * torch.log10(signal**2 / noise).item() == pytest.approx(snr_db, abs=0.1)


def test_the_more_noise_the_larger_the_strength_from_none_to_all(model):
    found = [model.strength_at(snr_db) for snr_db in (80.0, 20.0, *GUIDED_DB, -10.0, -20.0, -400.0)]
    assert found == sorted(found)
    assert 0 < found[0] < 0.01
    assert found[-1] == 1


def test_whole_steps_are_taken_as_ever(model):
    """A quarter of them and more; as many as published, from the rung where they begin."""
    ladder = model.ladder().float()
    rungs = []
    net = Zero()
    read = type(model.objective.parametrisation)
    keep = read.denoiser

    def note(self, net):
        inner = keep(self, net)
        return lambda x, sigma, cond: rungs.append(sigma[0].item()) or inner(x, sigma, cond)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "denoiser", note)
        sample = model.sampled(net, None, Whole(), CONTEXT)
        for steps in (model.steps, model.steps // 2):
            rungs.clear()
            sample(asked(steps / model.steps, 1))
            assert rungs == ladder[model.steps - steps : -1].tolist()


# --- V4 of the method card: from the reference to text alone -----------------------------------------------------


def away(made, source):
    return float(np.sqrt(((np.stack(made).astype(float) - source) ** 2).mean()))


def test_a_pixel_diffusion_goes_from_its_source_to_what_it_makes_of_noise():
    """Untrained it is the exact denoiser of a Gaussian (EDM's network begins at zero)."""
    model = PixelDiffusion(network=MLP(width=16, depth=1), guides=())
    config = model.supposed(3, 8, ["a", "b"])
    rows = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    context = Context(lambda ids: rows[[int(name) for name in ids]])
    sample = model.sampled(model.network_for(config, 0), None, model.space(config, {}), context)
    goes_all_the_way(model, sample, rows)


def test_the_miniature_goes_from_a_picture_to_what_it_makes_of_the_words_alone():
    model = StableDiffusion(steps=12)
    config = model.supposed(3, 32, ["fox", "apple", "bus"])
    net, space = model.network_for(config, 0), model.space(config, {})
    drawn = model.sampled(net, None, space, CONTEXT)
    rows = np.stack(drawn([{"label": i % 3, "seed": 50 + i, "strength": 1.0} for i in range(6)]))
    context = Context(lambda ids: rows[[int(name) for name in ids]])
    back = np.stack(space.back(space.into(rows, np.zeros(0)).contiguous(), np.zeros(0)))
    goes_all_the_way(model, model.sampled(net, None, space, context), back)


def goes_all_the_way(model, sample, source):
    def made(strength, **more):
        row = {"strength": float(np.float32(strength)), **more}
        return sample([row | {"label": i % 2, "seed": i, "source_id": str(i)} for i in range(6)])

    assert np.abs(np.stack(made(0.0)).astype(int) - source).max() <= 1
    alone = sample([{"label": i % 2, "seed": i, "strength": 1.0} for i in range(6)])
    assert np.array_equal(made(1.0), alone)
    far = [away(made(model.strength_at(snr_db)), source) for snr_db in (18.0, *GUIDED_DB, -10.0)]
    assert far == sorted(far)
    assert 0 < far[0] < far[3] < far[-1] <= away(alone, source)
