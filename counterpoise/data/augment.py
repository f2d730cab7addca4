"""Augmentation of whole batches: one tensor operation for all images, each image with its own random choice.

An augmentation is called as ``change(x, targets, rng, **aid)`` and returns the new ``(x, targets)``:

- ``x`` (B, C, H, W): uint8, or float in [0, 1]; grey or RGB, from 8 pixels on. Crops, flips and pasting keep bytes
  bytes (which is cheapest: put them first), the others return floats. Normalising is the network's business;
- ``targets`` (B, classes): soft labels; each row keeps its mass;
- ``rng``: all randomness comes from it, so the same generator gives the same batch;
- ``aid``: ``progress`` in [0, 1], ``partner`` a second batch (x, targets) of the same size (for parts that say
  ``partners``: `CMO`) and ``prior`` (classes,) label masses (for `Remix`). Parts take what they need.

Inputs are never changed in place. Nothing here knows rows, networks or losses.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from counterpoise.data import operations
from counterpoise.data.pixels import as_float
from counterpoise.types import Refusal, part

Batch = tuple[Tensor, Tensor]
Alpha = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@runtime_checkable
class Augmentation(Protocol):
    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch: ...


def _uniform(size: int, rng: torch.Generator, x: Tensor) -> Tensor:
    return torch.rand(size, generator=rng, device=rng.device).to(x.device)


def _integers(high: int, size: int, rng: torch.Generator, x: Tensor) -> Tensor:
    return torch.randint(high, (size,), generator=rng, device=rng.device).to(x.device)


def _beta(alpha: float, size: int, rng: torch.Generator, x: Tensor) -> Tensor:
    """(size,) draws of Beta(alpha, alpha). torch's takes no generator, so numpy's is seeded from ours."""
    seed = int(torch.randint(2**63 - 1, (), generator=rng, device=rng.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, size)).float().to(x.device)


def _order(rng: torch.Generator, x: Tensor) -> Tensor:
    """Who is whose partner inside a batch."""
    return torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)


def _taken(x: Tensor, order: Tensor) -> Tensor:
    """x[order]; with pixels last in memory, as the cache gives them, images are copied in one piece."""
    return x.permute(0, 2, 3, 1).index_select(0, order).permute(0, 3, 1, 2)


@part
class Chain:
    """One augmentation after the other."""

    parts: tuple[Augmentation, ...] = ()

    @property
    def partners(self) -> bool:
        return any(getattr(change, "partners", False) for change in self.parts)

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        for change in self.parts:
            x, targets = change(x, targets, rng, **aid)
        return x, targets


@part
class Crop:
    """Pad each side by ``share`` of the image (4 of 32 pixels, 1 of 8), cut the old size out at a random place."""

    share: Share = 0.125
    border: Literal["zero", "reflect"] = "zero"

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        b, c, h, w = x.shape
        pad = round(self.share * min(h, w))
        padded = self._padded(x.permute(0, 2, 3, 1), pad).view(-1)
        top, left = (_integers(2 * pad + 1, b, rng, x)[:, None] for _ in range(2))
        image, line = (torch.arange(size, device=x.device) for size in (b, h))
        # with pixels last, a line of the crop is one run of w*c numbers: lines are copied, not pixels (5x faster)
        runs = padded.as_strided((padded.numel() - w * c + 1, w * c), (1, 1))
        first = ((image[:, None] * (h + 2 * pad) + top + line) * (w + 2 * pad) + left) * c  # (b, h)
        return runs.index_select(0, first.view(-1)).view(b, h, w, c).permute(0, 3, 1, 2), targets

    def _padded(self, pixels: Tensor, pad: int) -> Tensor:  # (b, h, w, c)
        b, h, w, c = pixels.shape
        if self.border == "zero":
            padded = pixels.new_zeros(b, h + 2 * pad, w + 2 * pad, c)
            padded[:, pad : pad + h, pad : pad + w] = pixels
            return padded
        if pad >= min(h, w):
            raise Refusal(
                f"Crop.share: reflecting needs less padding than image, found {pad} for {h} x {w} pixels"
            )
        rows, columns = (_reflected(size, pad, pixels) for size in (h, w))
        return pixels.index_select(1, rows).index_select(2, columns)


def _reflected(size: int, pad: int, like: Tensor) -> Tensor:
    """Where a padded line comes from: 2 1 [0 1 2 3] 2 1."""
    at = torch.arange(-pad, size + pad, device=like.device).abs()
    return (size - 1) - (size - 1 - at).abs()


@part
class Flip:
    """Left becomes right with probability ``p`` per image. Grey images stay unless asked: digits and X-rays have a left."""

    p: Share = 0.5
    grey: bool = False

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        if x.shape[1] == 1 and not self.grey:
            return x, targets
        chosen = _uniform(len(x), rng, x) < self.p
        mirrored = _taken(x, chosen.nonzero()[:, 0]).flip(3)
        # where each image is found in (all, mirrored): only the chosen ones are mirrored
        place = torch.where(chosen, chosen.cumsum(0) - 1 + len(x), torch.arange(len(x), device=x.device))
        return _taken(torch.cat([x, mirrored]), place), targets


@part
class RandAugment:
    """``ops`` random operations per image, one ``magnitude`` of 0..30 for all (Cubuk et al. 2020), see `operations`."""

    ops: Annotated[int, Field(ge=0)] = 2
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        x = as_float(x).contiguous()
        count = len(operations.NAMES) - (x.shape[1] != 3)  # the last one needs colours
        for _ in range(self.ops):
            sign = 1.0 - 2.0 * _integers(2, len(x), rng, x)
            x = operations.apply(x, _integers(count, len(x), rng, x), sign * self.magnitude / 30)
        # pixels last again, as the other parts leave them: convolutions on CPUs train 1.6x faster on that
        return x.contiguous(memory_format=torch.channels_last), targets


@part
class Mixup:
    """lam x + (1 - lam) x' and labels alike, lam ~ Beta(alpha, alpha) per image (Zhang et al. 2018)."""

    alpha: Alpha = 1.0

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        x, order = as_float(x), _order(rng, x)
        share = _beta(self.alpha, len(x), rng, x)[:, None]
        return torch.lerp(_taken(x, order), x, share[..., None, None]), torch.lerp(
            targets[order], targets, share.to(targets)
        )


@part
class Remix:
    """Mixup whose label goes to the rarer class where the image allows it (Chou et al. 2020, Equation 7).

    It moves label mass towards the tail on purpose, so the prior it leaves is not the loader's: use it with plain CE.
    """

    alpha: Alpha = 1.0
    kappa: Annotated[float, Field(ge=1)] = 3.0
    tau: Share = 0.5

    def label_share(self, share: Tensor, ratio: Tensor) -> Tensor:
        """How much of the label is the first image's, which has this `share` of the pixels; ratio = n_i / n_j."""
        mine = torch.where((ratio >= self.kappa) & (share < self.tau), 0.0, share)
        return torch.where((ratio <= 1 / self.kappa) & (1 - share < self.tau), 1.0, mine)

    def __call__(
        self, x: Tensor, targets: Tensor, rng: torch.Generator, *, prior: Tensor | None = None, **aid: Any
    ) -> Batch:
        assert prior is not None, "Remix compares class counts: the caller passes prior="
        x, order = as_float(x), _order(rng, x)
        share = _beta(self.alpha, len(x), rng, x)
        counts = targets @ prior.to(targets)  # of the class of each image
        mine = self.label_share(share, counts / counts[order]).to(targets)[:, None]
        return torch.lerp(_taken(x, order), x, share[:, None, None, None]), torch.lerp(
            targets[order], targets, mine
        )


def _paste(x: Tensor, targets: Tensor, patch: Batch, p: float, alpha: float, rng: torch.Generator) -> Batch:
    """A box of each patch over its image with probability p (Yun et al. 2019, Equation 2); labels by the area covered."""
    b, c, h, w = x.shape
    side = (1 - _beta(alpha, b, rng, x)).sqrt()
    spans = []
    for size in (h, w):
        length = (size * side).round().long()
        first = (_integers(size, b, rng, x) - length // 2)[:, None]
        at = torch.arange(size, device=x.device)
        spans.append((at >= first) & (at < first + length[:, None]))
    chosen = _uniform(b, rng, x) < p
    rows, columns = spans[0] & chosen[:, None], spans[1]
    # a line of an image is w*c numbers in a row, so is the box
    box = rows[:, :, None] & columns.repeat_interleave(c, 1)[:, None, :]
    below, above = (image.permute(0, 2, 3, 1).reshape(b, h, w * c) for image in (x, patch[0]))
    made = torch.where(box, above, below).view(b, h, w, c).permute(0, 3, 1, 2)
    covered = (rows.sum(1) * columns.sum(1) / (h * w)).to(targets)[:, None]
    return made, torch.lerp(targets, patch[1], covered)


@part
class CutMix:
    """A box of another image of the batch with probability ``p`` per image, labels by area (Yun et al. 2019)."""

    alpha: Alpha = 1.0
    p: Share = 0.5

    def __call__(self, x: Tensor, targets: Tensor, rng: torch.Generator, **aid: Any) -> Batch:
        order = _order(rng, x)
        return _paste(x, targets, (_taken(x, order), targets[order]), self.p, self.alpha, rng)


@part
class CMO:
    """Context-rich minority oversampling (Park et al. 2022): boxes of a tail-heavy batch over ordinary images.

    The caller draws the partner batch with `mixing.patch_weights`. Off in the first and last ``rest`` of the
    training. It changes the prior: `pasted` is the share of label mass that comes from the partners.
    """

    partners: ClassVar[bool] = True
    alpha: Alpha = 1.0
    p: Share = 0.5
    rest: Annotated[float, Field(ge=0, lt=0.5)] = 0.015  # 3 epochs of 200

    def active(self, progress: float) -> bool:
        return self.rest <= progress < 1 - self.rest

    def pasted(self, progress: float) -> float:
        """The expected share of the labels that is the partners': p E[(r - r^2/4)^2], r the side of a box.

        A box around a uniform centre loses r^2/4 of its side at the borders; r^2 ~ Beta(alpha, alpha).
        """
        if not self.active(progress):
            return 0.0
        a = self.alpha
        log = math.lgamma(a + 1.5) + math.lgamma(2 * a) - math.lgamma(2 * a + 1.5) - math.lgamma(a)
        return self.p * (1 / 2 - math.exp(log) / 2 + (a + 1) / (2 * (2 * a + 1)) / 16)

    def __call__(
        self,
        x: Tensor,
        targets: Tensor,
        rng: torch.Generator,
        *,
        partner: Batch | None = None,
        progress: float = 0.5,
        **aid: Any,
    ) -> Batch:
        assert partner is not None, "CMO pastes from a second batch: the caller passes partner="
        if not self.active(progress):
            return x, targets
        patch = partner[0] if partner[0].dtype == x.dtype else as_float(partner[0])
        x = x if patch.dtype == x.dtype else as_float(x)
        return _paste(x, targets, (patch, partner[1]), self.p, self.alpha, rng)
