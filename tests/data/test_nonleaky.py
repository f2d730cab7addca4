import pytest
import torch

from counterpoise.data.nonleaky import NonLeaky


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(n: int = 64) -> torch.Tensor:
    return torch.nn.functional.interpolate(
        torch.rand(n, 1, 4, 4, generator=rng(1)) * 2 - 1, 32, mode="bicubic"
    )


def test_nothing_is_done_and_told_at_probability_zero():
    x = smooth().clamp(-1, 1)
    changed, told = NonLeaky(p=0.0, flip=False)(x, rng())
    torch.testing.assert_close(changed, x, atol=1e-5, rtol=1e-5)
    assert told.shape == (64, 9)
    assert not told.any()


def test_what_is_told_says_which_images_changed():
    x = smooth().clamp(-1, 1)
    changed, told = NonLeaky(p=0.3)(x, rng())
    gap = (changed - x).abs().amax((1, 2, 3))
    assert (gap[(told == 0).all(1)] < 1e-4).all()
    assert (gap[(told != 0).any(1)] > 1e-2).all()


def test_mirrored_images_are_mirrored_and_a_fair_coin():
    x = smooth(2000).clamp(-1, 1)
    changed, told = NonLeaky(p=0.0)(x, rng())
    mirrored = told[:, 0] == 1
    assert 0.45 < mirrored.float().mean() < 0.55
    torch.testing.assert_close(changed[mirrored], x[mirrored].flip(3), atol=1e-5, rtol=1e-5)


def test_each_change_comes_as_often_as_asked():
    _, told = NonLeaky(p=0.12)(smooth(4000), rng())
    for column in (1, 2, 4, 7, 8):
        assert (told[:, column] != 0).float().mean() == pytest.approx(0.12, abs=0.03)


def test_things_with_a_hand_are_neither_mirrored_nor_turned_far():
    _, told = NonLeaky(p=1.0, flip=False, turn=0.05)(smooth(500), rng())
    assert not told[:, :2].any()
    assert (told[:, 3] > -0.06).all()  # cos of at most 18 degrees


def test_shift_is_an_eighth_of_the_image_per_unit():
    """A dot in the middle moves by what is told."""
    x = -torch.ones(200, 1, 32, 32)
    x[:, :, 15:17, 15:17] = 1
    part = NonLeaky(p=1.0, flip=False, turn=0.0)
    changed, told = part(x, rng(3))
    weight = (changed + 1).clamp(min=0)
    total = weight.sum((1, 2, 3))
    place = torch.arange(32) - 15.5
    across = (weight.sum((1, 2)) * place).sum(1) / total
    down = (weight.sum((1, 3)) * place).sum(1) / total
    near = (told[:, 7].abs() < 1.2) & (told[:, 8].abs() < 1.2) & (total > 1)
    torch.testing.assert_close(across[near], told[near, 7] * 4, atol=0.5, rtol=0.05)
    torch.testing.assert_close(down[near], told[near, 8] * 4, atol=0.5, rtol=0.05)
