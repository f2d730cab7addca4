import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from counterpoise.spaces.preview import SmallDecoder, fit_linear
from counterpoise.types import describe
from counterpoise.types import load as load_part

RNG = torch.Generator().manual_seed(0)
MIX = torch.randn(3, 4, generator=RNG) / 4
BLUR = torch.randn(12, 4, 3, 3, generator=RNG) / 6
QUICK = SmallDecoder(width=16, steps=150, batch=8)


def latents(n, seed, height=8, width=8):
    """Smooth, as latents are."""
    rough = torch.randn(n, 4, height // 2, width // 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(rough, (height, width), mode="bilinear")


def flat(z):
    """A decoder that is linear at every place, eight times as large."""
    return F.interpolate(torch.einsum("kc,nchw->nkhw", MIX, z) + 0.5, scale_factor=8.0)


def bent(z):
    """One that is neither, twice as large."""
    return F.pixel_shuffle(F.conv2d(z, BLUR, padding=1).sigmoid(), 2)


def error(preview, decode, z):
    made = preview(z)
    wanted = F.interpolate(decode(z), made.shape[2:], mode="area")
    return (made - wanted).square().mean().item()


def test_a_linear_decoder_is_found_exactly():
    found = fit_linear(latents(16, 1), flat(latents(16, 1)))
    torch.testing.assert_close(found.weight[:, :, 0, 0], MIX, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.bias, torch.full((3,), 0.5), atol=1e-5, rtol=1e-5)
    assert error(found, flat, latents(4, 2)) < 1e-10


def test_no_other_linear_map_errs_less():
    z = latents(16, 1)
    found = fit_linear(z, bent(z))
    least = error(found, bent, z)
    for weight in found.parameters():
        for index in range(weight.numel()):
            for step in (-0.01, 0.01):
                weight.view(-1)[index] += step
                assert error(found, bent, z) > least
                weight.view(-1)[index] -= step


def test_channels_that_say_nothing_do_no_harm():
    z = latents(16, 1)
    z[:, 3] = z[:, 2]
    assert error(fit_linear(z, flat(z)), flat, z) < 1e-10
    z[:, 3] = 7.0
    assert error(fit_linear(z, flat(z)), flat, z) < 1e-10


@pytest.mark.parametrize("doublings", [0, 1])
def test_a_small_decoder_sees_more_than_the_linear_map(doublings):
    z, unseen = latents(64, 1), latents(16, 2)
    small = SmallDecoder(width=16, steps=150, batch=8, doublings=doublings)(z, bent, seed=0)
    linear = fit_linear(z, bent(z))

    def large(z):
        return F.interpolate(linear(z), scale_factor=2.0**doublings, mode="bilinear")

    assert small(unseen).shape == (16, 3, 8 * 2**doublings, 8 * 2**doublings)
    assert error(small, bent, unseen) < 0.25 * error(large, bent, unseen)


def test_where_linear_is_right_nothing_is_unlearnt():
    small = SmallDecoder(doublings=0, steps=20, batch=8, width=8)(latents(32, 1), flat, seed=0)
    assert error(small, flat, latents(8, 2)) < 1e-4 * flat(latents(8, 2)).var()


def test_pictures_need_not_be_square():
    z = latents(16, 1, height=8, width=12)
    assert fit_linear(z, flat(z))(z).shape == (16, 3, 8, 12)
    assert SmallDecoder(steps=1)(z, flat, seed=0)(z).shape == (16, 3, 16, 24)


def test_gradients_pass_and_nothing_else_learns():
    z = latents(16, 1)
    for preview in (fit_linear(z, bent(z)), QUICK(z, bent, seed=0)):
        assert not any(weight.requires_grad for weight in preview.parameters())
        preview.double()
        x, away = z[:1].double().requires_grad_(), latents(1, 3).double()
        (slope,) = torch.autograd.grad(preview(x).square().sum(), x)
        with torch.no_grad():
            rise = [preview(x + step * away).square().sum() for step in (1e-5, -1e-5)]
        torch.testing.assert_close((slope * away).sum(), (rise[0] - rise[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_the_same_seed_teaches_the_same_and_a_file_keeps_it():
    z = latents(16, 1)
    first, again, other = (QUICK(z, bent, seed)(z) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    kept = QUICK.net(4)
    kept.load_state_dict(load(save(QUICK(z, bent, 0).state_dict())))
    assert torch.equal(kept(z), first)
    assert {*load(save(fit_linear(z, bent(z)).state_dict()))} == {"weight", "bias"}


def test_every_latent_is_decoded_once():
    seen = []
    SmallDecoder(steps=10, batch=5)(latents(12, 1), lambda z: seen.append(len(z)) or bent(z), seed=0)
    assert seen == [5, 5, 2]


def test_nothing_is_lost_in_a_description():
    assert load_part(describe(QUICK)) == QUICK
