"""Linear heads on frozen features, and the training of many of them as one batched problem (see `batched`).

Nothing here knows images, backbones, arms or the disk; rows come as index arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from counterpoise.classifiers.batched import HeadJob, Slopes
from counterpoise.seeding import derive
from counterpoise.types import Refusal


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A linear classifier and the feature transform that belongs to it.

    ``logits = g(features) @ weight.T + bias`` with ``g(f) = (f - center) / scale``, brought to unit length
    if ``normalise``. A head trained on cosine logits is this, with weight rows of one common length. With ``square``,
    ``g(features)^2 @ square.T`` is added: Gaussian classes with variances of their own are quadratic.
    """

    weight: np.ndarray  # (C, D)
    bias: np.ndarray  # (C,)
    center: np.ndarray  # (D,)
    scale: np.ndarray  # (D,)
    normalise: bool = False
    square: np.ndarray | None = None  # (C, D)

    @classmethod
    def on_raw(
        cls, weight: np.ndarray, bias: np.ndarray, square: np.ndarray | None = None, normalise: bool = False
    ) -> LinearHead:
        """On features as they are."""
        dim = weight.shape[1]
        return cls(weight, bias, np.zeros(dim, np.float32), np.ones(dim, np.float32), normalise, square)

    def transform(self, features: Tensor) -> Tensor:
        moved = (features.float() - _like(self.center, features)).div_(_like(self.scale, features))
        return F.normalize(moved, dim=-1) if self.normalise else moved

    @overload
    def logits(self, features: Tensor) -> Tensor: ...
    @overload
    def logits(self, features: np.ndarray) -> np.ndarray: ...
    def logits(self, features: Tensor | np.ndarray) -> Tensor | np.ndarray:
        """(N, D) => (N, C), of the kind that came in."""
        if isinstance(features, np.ndarray):
            return self.logits(torch.from_numpy(np.asarray(features, np.float32))).numpy()
        x = self.transform(features)
        found = F.linear(x, _like(self.weight, features), _like(self.bias, features))
        return found if self.square is None else found + F.linear(x * x, _like(self.square, features))

    def plain(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(weight, bias) on the raw features, or None where the transform is not affine."""
        if self.normalise or self.square is not None:
            return None
        weight = self.weight.astype(np.float64) / self.scale
        bias = self.bias - weight @ self.center.astype(np.float64)
        return weight.astype(np.float32), bias.astype(np.float32)

    def after(self, mean: np.ndarray, basis: np.ndarray) -> LinearHead | None:
        """This head of `(features - mean) @ basis` as one on the features, or None where the transform is not affine."""
        plain = self.plain()
        if plain is None:
            return None
        weight = plain[0] @ basis.T
        return LinearHead.on_raw(weight, plain[1] - weight @ mean)

    def save(self) -> dict[str, np.ndarray]:
        """Named arrays, for safetensors."""
        arrays = {"weight": self.weight, "bias": self.bias, "center": self.center, "scale": self.scale}
        arrays["normalise"] = np.asarray([self.normalise], np.uint8)
        if self.square is not None:
            arrays["square"] = self.square
        return {
            name: np.ascontiguousarray(array) for name, array in arrays.items()
        }  # safetensors ignores strides

    @classmethod
    def load(cls, arrays: Mapping[str, np.ndarray]) -> LinearHead:
        flag = bool(arrays["normalise"][0])
        weight, bias, center, scale = (arrays[name] for name in ("weight", "bias", "center", "scale"))
        return cls(weight, bias, center, scale, flag, arrays.get("square"))


def standardisation(features: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per feature; a constant feature keeps scale 1."""
    std, mean = torch.std_mean(features, dim=0, correction=0)
    return mean.numpy(), torch.where(std > 1e-6, std, torch.ones_like(std)).numpy()


def train_heads(
    features: Tensor | np.ndarray,
    jobs: Sequence[HeadJob],
    *,
    real: np.ndarray | None = None,
    standardise: bool = True,
    optimiser: Literal["sgd", "adamw"] = "sgd",
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> list[LinearHead]:
    """Train all jobs at once; each result is what it would have been alone, to float tolerance.

    ``real`` names the rows that the standardisation is computed on (all, if None). The learning rate of sgd is
    in units of 1 / mean squared feature length, so that one value fits any width: the curvature of softmax
    regression is at most half that length, and 1.0 is stable with momentum 0.9. It decays by a cosine to 0.
    """
    features = torch.as_tensor(features, dtype=torch.float32)
    dim = features.shape[1]
    center, scale, moved = np.zeros(dim, np.float32), np.ones(dim, np.float32), features
    if standardise:
        center, scale = standardisation(_rows(features, real))
        moved = (features - torch.from_numpy(center)).div_(torch.from_numpy(scale))
    heads: dict[int, LinearHead] = {}
    for cosine, arms, block in _blocks(jobs):
        x = F.normalize(moved, dim=1) if cosine else moved
        rate = lr
        if optimiser == "sgd":
            known = _rows(x, real)
            rate *= len(known) / float(known.norm().square())
        update = _Update(optimiser, rate, momentum, weight_decay)
        weight, bias = _train_block(x, [jobs[index] for index in block], arms, update, cosine)
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise Refusal(f"training of linear heads diverged: lower the learning rate (it is {lr})")
        for at, index in enumerate(block):
            rows = weight[at]
            if cosine:  # the loss multiplies cosines by its own scale: so does the head
                rows = F.normalize(rows, dim=1) * cosine_scale(jobs[index].loss)
            heads[index] = LinearHead(rows.numpy(), bias[at].numpy(), center, scale, normalise=cosine)
    return [heads[index] for index in range(len(jobs))]


def _rows(x: Tensor, real: np.ndarray | None) -> Tensor:
    """These rows; without a copy where they are all there are."""
    return x if real is None or len(real) == len(x) else x[torch.as_tensor(real)]


def cosine_scale(loss: Any) -> float:
    """The factor a loss gives to cosines; wrappers (weights, deferral) keep it in the loss they wrap."""
    while not hasattr(loss, "scale") and (
        inner := getattr(loss, "loss", None) or getattr(loss, "first", None)
    ):
        loss = inner
    return float(getattr(loss, "scale", 1.0))


def _blocks(jobs: Sequence[HeadJob]) -> list[tuple[bool, int, list[int]]]:
    """Jobs that make one rectangular problem: streams of rows, each read by the same number of arms, stream by stream."""
    streams: dict[tuple[bool, tuple[int, ...], bytes], list[int]] = {}
    for index, job in enumerate(jobs):
        rows = np.ascontiguousarray(job.rows, np.int64)
        name = hashlib.blake2b(rows.tobytes()).digest()
        streams.setdefault((bool(getattr(job.loss, "cosine", False)), rows.shape, name), []).append(index)
    blocks: dict[tuple[bool, tuple[int, ...], int], list[int]] = {}
    for (cosine, shape, _), members in streams.items():
        blocks.setdefault((cosine, shape, len(members)), []).extend(members)
    return [(cosine, arms, members) for (cosine, _, arms), members in blocks.items()]


@dataclass
class _Update:
    kind: str
    lr: float
    momentum: float
    weight_decay: float

    def state(self, value: Tensor) -> list[Tensor]:
        return [torch.zeros_like(value) for _ in range(1 if self.kind == "sgd" else 2)]

    def __call__(self, step: int, steps: int, value: Tensor, grad: Tensor, state: list[Tensor]) -> None:
        """One update in place."""
        lr = self.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        if self.kind == "sgd":
            (velocity,) = state
            velocity.mul_(self.momentum).add_(grad).add_(value, alpha=self.weight_decay)
            value.add_(velocity, alpha=-lr)
            return
        first, second = state
        first.lerp_(grad, 1 - self.momentum)
        second.mul_(0.999).addcmul_(grad, grad, value=0.001)
        size = second.div(1 - 0.999 ** (step + 1)).sqrt_().add_(1e-8)
        value.mul_(1 - lr * self.weight_decay)
        value.addcdiv_(first, size, value=-lr / (1 - self.momentum ** (step + 1)))


@torch.no_grad()
def _train_block(
    x: Tensor, jobs: Sequence[HeadJob], arms: int, update: _Update, cosine: bool
) -> tuple[Tensor, Tensor]:
    """Weights (T, C, D) and biases (T, C)."""
    slopes, dim = Slopes(x, jobs, arms), x.shape[1]
    steps, streams, _ = slopes.rows.shape
    begun = [_begun(job, slopes.classes, dim) for job in jobs]
    weight = torch.stack([weight for weight, _ in begun]).view(streams, -1, dim).transpose(1, 2).contiguous()
    bias = torch.stack([bias for _, bias in begun]).view(streams, 1, -1)
    update_bias = replace(update, weight_decay=0.0)
    state, state_bias = update.state(weight), update.state(bias)
    unit, length = weight, torch.ones(())
    for step in range(steps):
        if cosine:
            length = weight.norm(dim=1, keepdim=True)
            unit = weight / length
        grad, grad_bias = slopes(step, unit, bias)
        if cosine:
            grad.addcmul_(unit, (grad * unit).sum(1, keepdim=True), value=-1).div_(length)
        else:
            update_bias(step, steps, bias, grad_bias, state_bias)
        update(step, steps, weight, grad, state)
    weight = weight.transpose(1, 2).reshape(len(jobs), -1, dim)
    return weight, bias.view(len(jobs), -1)


def _begun(job: HeadJob, classes: int, dim: int) -> tuple[Tensor, Tensor]:
    """First weights (C, D) and biases (C,)."""
    if job.start is not None:
        return torch.from_numpy(job.start.weight), torch.from_numpy(job.start.bias)
    rng = torch.Generator().manual_seed(derive("head", job.seed))
    return (torch.rand(classes, dim, generator=rng) * 2 - 1) / math.sqrt(dim), torch.zeros(classes)


def _like(array: np.ndarray, other: Tensor) -> Tensor:
    return torch.as_tensor(array, device=other.device)
