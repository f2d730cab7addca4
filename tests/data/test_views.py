"""Views of pictures: parts of them, and other colours."""

import pytest
import torch

from counterpoise.data.views import Tint, Zoom

LABELS = torch.eye(3).repeat(200, 1)[:400]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ramps(count=400, size=32):
    """Red says how far right a pixel is, green how far down: in units of the image, from the middle of its pixels."""
    at = (torch.arange(size) + 0.5) / size
    image = torch.stack(
        [at.expand(size, size), at[:, None].expand(size, size), torch.full((size, size), 0.5)]
    )
    return image.expand(count, -1, -1, -1)


@pytest.mark.parametrize("least", [0.2, 1.0])
def test_a_zoom_shows_a_part_that_lies_inside_and_is_as_large_as_asked(least):
    made, targets = Zoom(least)(ramps(), LABELS, seeded())
    assert targets is LABELS
    inner = made[:, :, 8:24, 8:24]  # at the border a picture is continued, not resampled
    steps = inner.diff(dim=3)[:, 0] * 32, inner.diff(dim=2)[:, 1] * 32
    assert all(torch.allclose(step, step[:, :1, :1].expand_as(step), atol=1e-4) for step in steps)
    wide, high = (step[:, 0, 0] for step in steps)
    area = wide * high
    assert area.min() > least * 0.85  # a side that would be longer than the picture is cut
    assert area.max() <= 1 + 1e-4
    assert (wide / high).min() > 0.74
    assert (wide / high).max() < 1.35
    left = inner[:, 0, 0, 0] - wide * 8.5 / 32
    assert left.min() > -1e-3
    assert (left + wide).max() < 1 + 1e-3
    if least < 1:
        assert area.min() < 0.25
        assert area.max() > 0.9
        assert left.std() > 0.1


def test_tints_keep_places_and_change_colours_in_most_images():
    x = torch.rand(400, 3, 8, 8, generator=seeded(1)) * 0.4 + 0.3
    made, _ = Tint(grey=0.0)(x, LABELS, seeded())
    same = (made - x).abs().amax((1, 2, 3)) < 1e-6
    assert 0.13 < same.float().mean() < 0.27
    assert (made.amax((1, 2, 3)) <= 1).all()
    faded, _ = Tint(p=0.0, grey=1.0)(x, LABELS, seeded())
    assert torch.allclose(faded, faded[:, :1].expand_as(faded), atol=1e-5)
    some, _ = Tint()(x, LABELS, seeded())
    grey = (some[:, 0] - some[:, 1]).abs().amax((1, 2)) < 1e-5
    assert 0.13 < grey.float().mean() < 0.27


@pytest.mark.parametrize("change", [Zoom(), Tint()], ids=repr)
def test_grey_pictures_bytes_and_seeds(change):
    x = (torch.rand(40, 1, 8, 8, generator=seeded(2)) * 255).to(torch.uint8)
    before = x.clone()
    made = [change(x, LABELS[:40], seeded(seed))[0] for seed in (3, 3, 4)]
    assert torch.equal(x, before)
    assert made[0].shape == x.shape
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].min() >= 0
    assert made[0].max() <= 1
