"""Augmentations: what every one of them promises, and what each does exactly."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoise.data.augment import (
    CMO,
    Augmentation,
    Chain,
    Crop,
    CutMix,
    Flip,
    Mixup,
    RandAugment,
    Remix,
)
from counterpoise.types import Refusal, build, describe, load

PARTS: list[Augmentation] = [
    Chain(),
    Crop(),
    Crop(0.2, border="reflect"),
    Flip(grey=True),
    RandAugment(),
    RandAugment(3, 30),
    Mixup(0.2),
    Remix(),
    CutMix(),
    CMO(),
    Chain((Crop(), Flip(), CMO(), RandAugment(1), CutMix(p=1.0))),
]
contract = pytest.mark.parametrize("change", PARTS, ids=repr)
shapes = pytest.mark.parametrize(
    ("channels", "height", "width"), [(3, 32, 32), (1, 8, 8), (3, 9, 14), (1, 28, 28)], ids=str
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(
    seed: int, channels: int = 3, height: int = 32, width: int = 32, size: int = 24
) -> tuple[Tensor, Tensor]:
    """Pixels last in memory, as the cache gives them."""
    x = torch.randint(0, 256, (size, height, width, channels), generator=rng(seed), dtype=torch.uint8)
    labels = torch.randint(0, 5, (size,), generator=rng(seed))
    return x.permute(0, 3, 1, 2), torch.nn.functional.one_hot(labels, 5).float()


def aid(*shape: int) -> dict[str, Any]:
    return {"partner": batch(99, *shape), "progress": 0.5, "prior": torch.tensor([100.0, 50, 20, 5, 1])}


def in_bytes(x: Tensor) -> Tensor:
    return x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)


@contract
@shapes
@pytest.mark.parametrize("floats", [False, True], ids=["bytes", "floats"])
def test_contract_shape_range_labels_and_seed(
    change: Augmentation, channels: int, height: int, width: int, floats: bool
) -> None:
    x, targets = batch(1, channels, height, width)
    x = x / 255 if floats else x
    kept = x.clone(), targets.clone()
    help_ = aid(channels, height, width)
    found, labels = change(x, targets, rng(7), **help_)
    again, labels_again = change(x, targets, rng(7), **help_)
    assert found.shape == x.shape
    assert found.dtype == (torch.uint8 if found.dtype == torch.uint8 and not floats else torch.float32)
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= (255 if found.dtype == torch.uint8 else 1)
    torch.testing.assert_close(labels.sum(1), torch.ones(len(x)))
    assert (labels >= 0).all()
    assert torch.equal(found, again)
    assert torch.equal(labels, labels_again)
    assert torch.equal(x, kept[0])  # inputs are left alone
    assert torch.equal(targets, kept[1])


@pytest.mark.parametrize("change", PARTS[1:], ids=repr)
def test_contract_each_image_has_its_own_randomness_and_each_call_new_one(change: Augmentation) -> None:
    """The same picture a hundred times becomes different pictures, and the generator moves on."""
    x, targets = (value[:1].expand(100, *value.shape[1:]) for value in batch(2))
    source = rng(3)
    first, _ = change(x, targets, source, **aid() | {"partner": batch(99, size=100)})
    second, _ = change(x, targets, source, **aid() | {"partner": batch(99, size=100)})
    if isinstance(
        change, Mixup | Remix | CutMix
    ):  # a picture mixed with itself is itself: mix different ones
        x, targets = batch(2, size=100)
        first, labels = change(x, targets, source, **aid())
        second, _ = change(x, targets, source, **aid())
        assert len(labels.unique(dim=0)) > 10
    else:
        assert len(first.unique(dim=0)) >= (2 if isinstance(change, Flip) else 10)
    assert not torch.equal(first, second)


@contract
def test_contract_memory_layout_does_not_matter(change: Augmentation) -> None:
    x, targets = batch(4)
    for other in (x.contiguous(), x.contiguous(memory_format=torch.channels_last)):
        found = change(other, targets, rng(1), **aid())
        torch.testing.assert_close(found, change(x, targets, rng(1), **aid()), rtol=1e-5, atol=1e-5)


@contract
def test_contract_pixels_stay_last_in_memory(change: Augmentation) -> None:
    """The layout of the cache, on which convolutions are fastest on CPUs, survives every part."""
    found, _ = change(*batch(4), rng(), **aid())
    assert found.is_contiguous(memory_format=torch.channels_last)


@contract
def test_contract_described_and_loaded_back(change: Augmentation) -> None:
    assert load(describe(change)) == change


@contract
def test_contract_a_batch_of_one(change: Augmentation) -> None:
    x, targets = batch(5, size=1)
    found, labels = change(x, targets, rng(), **aid() | {"partner": batch(6, size=1)})
    assert found.shape == x.shape
    assert labels.shape == targets.shape


@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_crop_is_a_window_of_the_padded_image(border: str) -> None:
    x, targets = batch(6, 3, 12, 10, size=40)
    found, labels = build(Crop, {"share": 0.3, "border": border})(x, targets, rng(1))
    kind = {"zero": "constant", "reflect": "reflect"}[border]
    padded = torch.nn.functional.pad(x.float(), (3, 3, 3, 3), mode=kind).to(torch.uint8)
    offsets = set()
    for image, around in zip(found, padded, strict=True):
        places = [
            (i, j)
            for i in range(7)
            for j in range(7)
            if torch.equal(image, around[:, i : i + 12, j : j + 10])
        ]
        assert len(places) == 1
        offsets.update(places)
    assert len(offsets) > 20
    assert labels is targets


def test_crop_without_padding_is_the_image_and_too_much_reflection_is_refused() -> None:
    x, targets = batch(7, 1, 8, 8)
    assert torch.equal(Crop(0)(x, targets, rng())[0], x)
    with pytest.raises(Refusal, match="pad"):
        Crop(1.0, border="reflect")(x, targets, rng())


def test_flip_is_an_involution_and_as_often_as_said() -> None:
    x, targets = batch(8, size=400)
    always = Flip(1.0, grey=True)
    assert torch.equal(always(x, targets, rng())[0], x.flip(3))
    assert torch.equal(always(*always(x, targets, rng()), rng())[0], x)
    assert torch.equal(Flip(0.0, grey=True)(x, targets, rng())[0], x)
    mirrored = (Flip(0.25, grey=True)(x, targets, rng())[0] != x).flatten(1).any(1)
    assert mirrored.float().mean() == pytest.approx(0.25, abs=0.09)


def test_randaugment_at_magnitude_zero_only_stretches_contrast() -> None:
    """Every operation with a strength is the identity at 0; autocontrast has none, full-range images are its fixed points."""
    x, targets = batch(9, size=100)
    x = x.clone()
    x[:, :, 0, 0], x[:, :, 0, 1] = 0, 255
    found, _ = RandAugment(3, 0)(x, targets, rng())
    torch.testing.assert_close(found, x / 255, atol=1e-5, rtol=0)
    assert torch.equal(RandAugment(0)(x, targets, rng())[0], x / 255)


def test_mixup_mixes_images_and_labels_by_the_same_share() -> None:
    """Images that are constant at a number of their own tell where each result came from."""
    own = torch.arange(50) / 100
    x, targets = own[:, None, None, None].expand(50, 3, 8, 8), torch.eye(50)
    for alpha in (0.2, 1.0):
        found, labels = Mixup(alpha)(x, targets, rng(2))
        torch.testing.assert_close(found[:, 0, 0, 0], labels @ own)
        assert ((labels > 0).sum(1) <= 2).all()


def test_mixup_shares_follow_their_beta() -> None:
    x, targets = torch.zeros(20_000, 1, 8, 8), torch.zeros(20_000, 2)
    targets[::2, 0], targets[1::2, 1] = 1, 1
    _, labels = Mixup(0.2)(x, targets, rng())
    mixed = labels[(labels > 0).all(1)][:, 0]
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert mixed.var() == pytest.approx(0.25 / (2 * 0.2 + 1), abs=0.01)  # of Beta(a, a)


def test_remix_gives_the_label_to_the_rarer_class() -> None:
    share = torch.tensor([0.3, 0.7, 0.3, 0.7, 0.3, 0.7])
    ratio = torch.tensor([10.0, 10.0, 0.1, 0.1, 2.0, 0.5])
    assert Remix(kappa=3, tau=0.5).label_share(share, ratio).tolist() == pytest.approx(
        [0, 0.7, 0.3, 1, 0.3, 0.7]
    )
    x, targets = batch(10, size=2000)
    _, labels = Remix()(x, targets, rng(), prior=torch.tensor([1000.0, 1000, 1000, 1000, 1]))
    rare = float(targets[:, 4].mean())
    # in a mixed pair the rare class has the whole label in half of the cases: 5/8 of it instead of 1/2
    assert float(labels[:, 4].mean()) == pytest.approx(rare * (1 + (1 - rare) / 4), abs=0.01)
    even = torch.full((5,), 7.0)
    for got, expected in zip(
        Remix()(x, targets, rng(3), prior=even), Mixup()(x, targets, rng(3)), strict=True
    ):
        torch.testing.assert_close(got, expected)  # with equal counts it is mixup


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_pasted_labels_are_exactly_the_area(alpha: float) -> None:
    """Black images with white patches: the white share of the pixels is the patch's share of the label."""
    black, white = (
        torch.zeros(500, 3, 20, 12, dtype=torch.uint8),
        torch.full((500, 3, 20, 12), 255, dtype=torch.uint8),
    )
    first, second = torch.eye(2)[0].expand(500, 2), torch.eye(2)[1].expand(500, 2)
    found, labels = CMO(alpha=alpha, p=0.7)(black, first, rng(4), partner=(white, second), progress=0.5)
    assert found.dtype == torch.uint8
    area = (found.float() / 255).mean((1, 2, 3))
    torch.testing.assert_close(labels[:, 1], area)
    assert (area == 0).float().mean() == pytest.approx(0.3, abs=0.1)
    for image in found[area > 0][:20, 0]:  # a box: all white pixels between its corners
        rows, columns = image.nonzero().amin(0), image.nonzero().amax(0) + 1
        assert (image[rows[0] : columns[0], rows[1] : columns[1]] == 255).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_cmo_states_the_label_mass_it_pastes(alpha: float) -> None:
    """What the loader really yields: needed by prior-based losses."""
    x, targets = torch.zeros(40_000, 1, 32, 32, dtype=torch.uint8), torch.eye(2)[0].expand(40_000, 2)
    change = CMO(alpha=alpha)
    _, labels = change(x, targets, rng(5), partner=(x, targets.flip(1)), progress=0.5)
    assert labels[:, 1].mean() == pytest.approx(change.pasted(0.5), abs=0.005)


def test_a_chain_asks_for_partners_where_a_link_does() -> None:
    assert CMO().partners
    assert Chain((Crop(), Chain((CMO(),)))).partners
    assert not Chain((Crop(), CutMix())).partners


def test_cmo_rests_at_both_ends() -> None:
    x, targets = batch(11)
    for progress, rests in [(0.0, True), (0.014, True), (0.02, False), (0.98, False), (0.99, True)]:
        found, _ = CMO()(x, targets, rng(), **aid() | {"progress": progress})
        assert torch.equal(found, x) == rests
        assert (CMO().pasted(progress) == 0) == rests


def test_cutmix_and_mixup_keep_the_label_mass_of_the_batch_on_average() -> None:
    x, targets = batch(12, 1, 8, 8, size=20_000)
    for change in (CutMix(p=1.0), Mixup()):
        _, labels = change(x, targets, rng(6))
        torch.testing.assert_close(labels.mean(0), targets.mean(0), atol=0.01, rtol=0)
        assert not torch.equal(labels, targets)


def test_bad_settings_are_refused() -> None:
    for cls, bad in [
        (Crop, {"share": -1}),
        (RandAugment, {"magnitude": 31}),
        (Mixup, {"alpha": 0}),
        (CutMix, {"p": 2}),
    ]:
        with pytest.raises(Refusal, match=cls.__name__):
            build(cls, bad)


def test_crop_and_flip_take_a_moment() -> None:
    """Under 2 ms for 128 CIFAR images on one idle core (0.9 measured); the bound leaves room for a busy machine."""
    x, targets = batch(13, size=128)
    change, source = Chain((Crop(), Flip())), rng()
    spent = []
    for _ in range(30):
        begin = time.thread_time()
        change(x, targets, source)
        spent.append(time.thread_time() - begin)
    assert sorted(spent)[5] < 5e-3
