"""Image operations against what they are defined to do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from counterpoise.data.operations import COLOURS, GEOMETRY, NAMES, apply


def images(channels: int = 3, size: int = 6) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (size, channels, 16, 12), generator=rng).float() / 255


def one(name: str, x: Tensor, strength: float) -> Tensor:
    return apply(x, torch.full((len(x),), NAMES.index(name)), torch.full((len(x),), strength))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_contract_ranges_strengths_and_batches(name: str, channels: int) -> None:
    x = images(channels)
    for strength in (-1.0, -0.3, 0.3, 1.0):
        found = one(name, x, strength)
        assert found.shape == x.shape
        assert found.min() >= 0
        assert found.max() <= 1
        idle = name == "identity" or (name == "saturation" and channels == 1)
        if not idle and name != "autocontrast" and abs(strength) == 1:
            assert not torch.allclose(found, x, atol=1e-3)
        alone = torch.cat([one(name, x[i : i + 1], strength) for i in range(len(x))])
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    if name != "autocontrast":
        torch.testing.assert_close(one(name, x, 0.0), x, atol=1e-5, rtol=0)


def test_every_image_gets_its_own_operation_and_strength() -> None:
    x = images(size=2 * len(NAMES))
    which = torch.arange(2 * len(NAMES)) % len(NAMES)
    strength = torch.linspace(-1, 1, len(which))
    found = apply(x, which, strength)
    for i in range(len(x)):
        alone = apply(x[i : i + 1], which[i : i + 1], strength[i : i + 1])
        torch.testing.assert_close(found[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_shifts_move_pixels_and_rotations_turn_them() -> None:
    x = images(1)
    columns = 3 / 12 / GEOMETRY["shift_x"]  # a strength that is three whole pixels
    found = one("shift_x", x, columns)
    torch.testing.assert_close(found[..., :-3], x[..., 3:], atol=1e-4, rtol=0)
    assert (found[..., -3:] < 1e-4).all()
    smooth = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)), (40, 24), mode="bicubic").clamp(0, 1)  # fmt: skip
    back = one("rotate", one("rotate", smooth, 1.0), -1.0)
    torch.testing.assert_close(back[..., 14:26, 8:16], smooth[..., 14:26, 8:16], atol=0.05, rtol=0)
    # a bright spot 8 pixels right of the centre of a non-square image is still 8 pixels away after a turn by 30 degrees
    spot = torch.zeros(1, 1, 41, 31)
    spot[..., 20, 23] = 1
    turned = one("rotate", spot, 1.0)[0, 0]
    rows, cols = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(31.0) - 15, indexing="ij")
    at = float((turned * cols).sum() / turned.sum()), float((turned * rows).sum() / turned.sum())
    assert math.hypot(*at) == pytest.approx(8, abs=0.3)
    assert abs(math.degrees(math.atan2(at[1], at[0]))) == pytest.approx(30, abs=2)


def test_colour_operations_by_their_definition() -> None:
    x = images()
    torch.testing.assert_close(one("brightness", x, -1.0), 0.1 * x)
    assert set((one("posterize", x, 1.0) * 255).round().int().flatten().tolist()) <= set(range(0, 256, 16))
    torch.testing.assert_close(one("solarize", x, 1.0)[x > 0], 1 - x[x > 0])
    torch.testing.assert_close(one("solarize", x, 0.25), torch.where(x > 0.75, 1 - x, x))
    stretched = one("autocontrast", 0.2 + 0.3 * x, 0.5)
    torch.testing.assert_close(stretched.amin((2, 3)), torch.zeros(6, 3))
    torch.testing.assert_close(stretched.amax((2, 3)), torch.ones(6, 3))
    even = torch.full((2, 3, 8, 8), 0.4)
    for name in COLOURS:  # nothing divides by an empty range
        assert one(name, even, 0.5).isfinite().all()
    torch.testing.assert_close(one("autocontrast", even, 1.0), even)
    assert one("saturation", x, -1.0).std(1).mean() < 0.2 * x.std(1).mean()
    assert one("contrast", x, -1.0).std((2, 3)).mean() < 0.2 * x.std((2, 3)).mean()
    torch.testing.assert_close(one("sharpness", x, 0.7)[..., 0, :], x[..., 0, :])  # the outermost pixels stay
