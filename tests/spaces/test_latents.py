from __future__ import annotations

import copy
import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.data.pixels import Rows
from counterpoise.nets.stable_diffusion import Autoencoder, open_base
from counterpoise.spaces import store
from counterpoise.spaces.latents import Latents, preview_of, taught

CHANNELS, SIZE, FOLD = 12, 16, 2


class Folding(nn.Module):
    """An autoencoder that loses nothing: squares of pixels are channels."""

    config = SimpleNamespace(scaling_factor=0.5, shift_factor=0.1)

    def __init__(self):
        super().__init__()
        self.seen = []
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    def encode(self, x):
        self.seen.append(x)
        mean = F.pixel_unshuffle(x, FOLD)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 0.25)))

    def decode(self, z):
        return SimpleNamespace(sample=F.pixel_shuffle(z, FOLD))


def space_of(channels=3, size=SIZE, preview=None) -> Latents:
    shape = (CHANNELS, SIZE // FOLD, SIZE // FOLD)
    return Latents(Autoencoder(Folding()), preview, shape, SIZE, (channels, size))


def smooth(n: int, size: int, channels: int, seed: int = 0) -> np.ndarray:
    x = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(x, (size, size), mode="bicubic").clamp(0, 1) * 255
    return x.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def test_rows_come_back_to_the_byte():
    rows, space = smooth(5, SIZE, 3), space_of()
    x = space.into(rows, np.empty(0))
    assert x.shape == (5, *space.shape)
    assert np.array_equal(np.stack(space.back(x, np.empty(0))), rows)


@pytest.mark.parametrize(("size", "off"), [(SIZE, 0), (8, 6), (48, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_another_size_or_without_colour_come_back_as_such(size, off, channels):
    rows, space = smooth(4, size, channels), space_of(channels, size)
    back = np.stack(space.back(space.into(rows, np.empty(0)), np.empty(0)))
    assert back.shape == rows.shape
    assert np.abs(back.astype(int) - rows).mean() <= off
    shown = torch.cat(space.autoencoder.net.seen)
    assert shown.shape == (4, 3, SIZE, SIZE)
    assert shown.min() >= -1
    assert shown.max() <= 1
    if channels == 1:
        assert torch.equal(shown[:, 0], shown[:, 2])


def test_a_coloured_answer_to_a_grey_study_is_as_bright_as_pillow_has_it():
    from PIL import Image

    rows = smooth(3, SIZE, 3)
    grey = space_of(channels=1)
    found = np.stack(grey.back(space_of().into(rows, np.empty(0)), np.empty(0)))[..., 0]
    expected = np.stack([np.asarray(Image.fromarray(row).convert("L")) for row in rows])
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_latents_are_scaled_and_have_their_deviation_and_a_mirror():
    rows, space = smooth(3, SIZE, 3), space_of()
    mean, deviation = space.posterior(rows)
    pixels = torch.from_numpy(rows).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(mean, (F.pixel_unshuffle(pixels, FOLD) - 0.1) * 0.5)
    assert torch.equal(deviation, torch.full_like(mean, 0.125))
    mirrored, _ = space.posterior(rows, mirrored=True)
    assert torch.equal(mirrored, space.posterior(rows[:, :, ::-1].copy())[0])


def test_rows_go_through_the_autoencoder_a_few_at_a_time_and_none_at_all(monkeypatch):
    monkeypatch.setattr("counterpoise.spaces.latents.PIXELS_AT_ONCE", 3 * SIZE**2)
    rows, space = smooth(7, SIZE, 3), space_of()
    x = space.into(rows, np.empty(0))
    assert max(len(seen) for seen in space.autoencoder.net.seen) <= 3
    assert torch.equal(x[6:], space.into(rows[6:], np.empty(0)))
    assert len(space.back(x, np.empty(0))) == 7
    assert space.back(x[:0], np.empty(0)) == []


def test_a_picture_that_is_none_says_why():
    space = space_of()
    x = space.into(smooth(4, SIZE, 3), np.empty(0))
    x[1, 0, 0, 0] = float("nan")
    x[2] = -0.6
    found = space.back(x, np.empty(0))
    assert [one if isinstance(one, str) else one.shape for one in found] == [
        (SIZE, SIZE, 3),
        "not finite",
        "black",
        (SIZE, SIZE, 3),
    ]


def test_sources_are_the_real_rows():
    rows, space = smooth(3, SIZE, 3), space_of()
    ctx = SimpleNamespace(real=lambda ids: rows[[int(i) for i in ids]])
    found = space.sources([{"source_id": "2"}, {"source_id": "0"}], ctx)
    assert torch.equal(found, space.into(rows[[2, 0]], np.empty(0)))


@pytest.fixture(name="cache")
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    store._opened.cache_clear()
    return tmp_path / "cache"


def rows_from(*ids):
    return [{"source_id": str(i)} for i in ids]


def test_a_source_is_encoded_once_whoever_asks(cache):
    rows = smooth(6, SIZE, 3)
    ctx = SimpleNamespace(real=lambda ids: rows[[int(i) for i in ids]])
    first, later = space_of(), space_of()
    found = first.sources(rows_from(2, 0, 2, 5), ctx)
    assert [len(seen) for seen in first.autoencoder.net.seen] == [1, 1, 1]  # alone, and the doubled one once
    store._opened.cache_clear()  # another process
    again = later.sources(rows_from(5, 2, 0, 1), ctx)
    assert len(later.autoencoder.net.seen) == 1
    assert torch.equal(again[[1, 2, 1, 0]], found)
    shutil.rmtree(cache)
    assert torch.equal(later.sources(rows_from(2, 0, 2, 5), ctx), found)


def test_latents_of_other_weights_sizes_or_pictures_are_others(cache):
    rows = smooth(2, SIZE, 3)
    others = [space_of(), space_of(), space_of(), space_of()]
    others[1].autoencoder.net.weight.fill_(1.0)
    others[2].autoencoder.scale = 0.25
    others[3] = dataclasses.replace(others[3], size=8, shape=(CHANNELS, 4, 4))
    assert len({space.digest for space in others}) == 4
    assert space_of().digest == others[0].digest
    for space in others:
        ctx = SimpleNamespace(real=lambda ids: rows[[int(i) for i in ids]])
        found = space.sources(rows_from(0, 1), ctx)
        assert torch.equal(found, space.into(rows, np.empty(0)))
        changed = rows.copy()
        changed[1, 0, 0, 0] ^= 1
        ctx = SimpleNamespace(real=lambda ids, changed=changed: changed[[int(i) for i in ids]])
        assert torch.equal(space.sources(rows_from(0, 1), ctx), space.into(changed, np.empty(0)))


@pytest.mark.filterwarnings("ignore")  # theirs
def test_a_picture_larger_than_memory_goes_through_in_tiles(monkeypatch):
    """The trained miniature at twice its size: seams are not seen, and a quarter of the pixels is in memory at once."""
    base = open_base("miniature")
    rows = smooth(3, 64, 3)
    whole = Latents(copy.deepcopy(base.autoencoder), None, (6, 16, 16), 64, (3, 64))
    monkeypatch.setattr("counterpoise.spaces.latents.PIXELS_AT_ONCE", 32 * 32)
    tiled = Latents(copy.deepcopy(base.autoencoder), None, whole.shape, 64, (3, 64))
    seen = []
    tiled.autoencoder.net.encoder.register_forward_hook(lambda net, x, made: seen.append(x[0].shape))
    tiled.autoencoder.net.decoder.register_forward_hook(lambda net, x, made: seen.append(made.shape))
    x, whole_x = (space.into(rows, np.empty(0)) for space in (tiled, whole))
    assert (x - whole_x).abs().mean() < 0.2 * whole_x.std()
    back, whole_back = (np.stack(space.back(whole_x, np.empty(0))).astype(int) for space in (tiled, whole))
    assert max(shape[-1] * shape[-2] * shape[0] for shape in seen) <= 32 * 32
    contrast = np.abs(rows - rows.mean((1, 2), keepdims=True)).mean()
    assert np.abs(back - whole_back).mean() < 0.2 * contrast
    assert np.abs(back - rows).mean() < 1.5 * np.abs(whole_back - rows).mean()  # 5.8 and 4.3 of 255


@pytest.mark.filterwarnings("ignore")  # theirs
def test_as_many_at_once_as_memory_holds_are_the_same(monkeypatch):
    base = open_base("miniature")
    rows, space = smooth(5, 32, 3), Latents(base.autoencoder, None, base.shape, base.size, (3, 32))
    x = space.into(rows, np.empty(0))
    whole = np.stack(space.back(x, np.empty(0))).astype(int)
    monkeypatch.setattr("counterpoise.spaces.latents.PIXELS_AT_ONCE", 2 * 32 * 32)
    torch.testing.assert_close(space.into(rows, np.empty(0)), x, atol=1e-4, rtol=1e-4)
    assert np.abs(np.stack(space.back(x, np.empty(0))) - whole).max() <= 1


@pytest.mark.parametrize(("channels", "size"), [(3, SIZE), (1, 8)])
def test_a_look_is_about_what_comes_back_and_passes_gradients(channels, size):
    rows = smooth(40, size, channels)
    state = taught(space_of(channels, size), Rows.of(rows))
    again = taught(space_of(channels, size), Rows.of(rows))
    assert all(np.array_equal(state[name], again[name]) for name in state)
    space = space_of(channels, size, preview_of(state, torch.device("cpu")))
    fresh = smooth(10, size, channels, seed=1)
    x = space.into(fresh, np.empty(0)).requires_grad_()
    seen = space.look(x, torch.zeros(10))
    assert seen.shape == (10, channels, size, size)
    shown = np.stack(space.back(x.detach(), np.empty(0))) / 255
    assert (seen.detach().permute(0, 2, 3, 1).numpy() - shown).std() < 0.15 * shown.std()
    assert torch.autograd.grad(seen.sum(), x)[0].flatten(1).norm(dim=1).min() > 0
