"""Losses for unevenly filled classes, all with soft labels and an explicit prior.

Every loss is called as ``loss(logits, targets, prior, progress)``:

- ``logits`` (..., B, C) and ``targets`` (..., B, C), rows of ``targets`` sum to one. Leading dimensions are
  independent trials that are trained at once;
- ``prior`` (C,) or (..., C): the label mass per class that the loader *really yields*, see `mixing.prior_of`.
  Only its proportions matter, except for `ClassBalanced`, which reads it as numbers of rows;
- ``progress`` in [0, 1]: the share of the training that is done.

It answers with one loss per sample (..., B) and never averages: the one mean is taken by whoever trains, so that
no normalisation hides in here. Logits at test time are the raw ones. With soft labels t the definitions are the
expectation over t: CE(z, t) = -sum t_c log p_c, margins sum t_c D_c e_c, weights sum t_c w_c.

Nothing here knows the network, the loader or groups (see `robust`).
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.types import Refusal, part


@runtime_checkable
class Loss(Protocol):
    """What the trainer needs: the losses, and whether the logits must be cosines in [-1, 1]."""

    @property
    def cosine(self) -> bool: ...
    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor: ...


def live_masses(prior: Tensor) -> Tensor:
    """The masses in double precision, with a class nobody carries counted like the rarest one that is there.

    A mass of zero would give log 0 and 1/0. A tiny floor would give the dead class so large a bonus that its raw
    logit is never pushed down, and it would win at test time.
    """
    masses = prior.double()
    assert bool((masses.amin(-1) >= 0).all() & (masses.amax(-1) > 0).all()), (
        f"no label mass in the prior {prior}"
    )
    rarest = masses.masked_fill(masses == 0, torch.inf).amin(-1, keepdim=True)
    return torch.where(masses > 0, masses, rarest)


def log_prior(prior: Tensor) -> Tensor:
    """log pi (..., C). Post-hoc logit adjustment predicts with ``logits - tau * log_prior``."""
    masses = live_masses(prior)
    return (masses / masses.sum(-1, keepdim=True)).log()


def _log_p(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * _log_p(logits)).sum(-1)


def _per_sample(per_class: Tensor, logits: Tensor) -> Tensor:
    """(..., C) => (..., 1, C): per-class numbers beside logits (..., B, C), in their precision."""
    return per_class.unsqueeze(-2).to(torch.promote_types(logits.dtype, torch.float32))


@part
class CE:
    """Plain cross-entropy."""

    cosine: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        return _cross_entropy(logits, targets)


@part
class Focal:
    """Focal loss (Lin et al. 2017, Equation 4, multi-class): -sum t_c (1 - p_c)^gamma log p_c.

    p comes from the logits, never from a loss that is already weighted: weights go around it, ``Weighted(loss=Focal())``.
    """

    gamma: Annotated[float, Field(ge=0)] = 1.0
    cosine: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        log_p = _log_p(logits)
        # the clamp keeps the slope of (1-p)^gamma finite at p = 1 for gamma < 1
        miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps)
        return -(targets * miss**self.gamma * log_p).sum(-1)


@part
class LDAM:
    """Label-distribution-aware margins (Cao et al. 2019, Equation 13): CE(s * (z - D_y e_y)), D_c ~ n_c^(-1/4).

    The rarest class has the whole ``margin``. The network must give cosines; the scale s is applied here.
    """

    margin: Annotated[float, Field(ge=0)] = 0.5
    scale: Annotated[float, Field(gt=0)] = 30.0
    cosine: ClassVar[bool] = True

    def margins(self, prior: Tensor) -> Tensor:
        masses = live_masses(prior)
        return self.margin * (masses.amin(-1, keepdim=True) / masses) ** 0.25

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        margins = _per_sample(self.margins(prior), logits)
        return _cross_entropy(self.scale * (logits - targets * margins), targets)


@part
class BalancedSoftmax:
    """CE(z + log n) (Ren et al. 2020, Equation 4). The same as `LogitAdjusted` with tau = 1."""

    cosine: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        return _cross_entropy(logits + _per_sample(log_prior(prior), logits), targets)


@part
class LogitAdjusted:
    """CE(z + tau log pi) (Menon et al. 2021, Equation 10). tau = 1 unless validation says otherwise."""

    tau: float = 1.0
    cosine: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        return _cross_entropy(logits + self.tau * _per_sample(log_prior(prior), logits), targets)


@part
class VS:
    """Vector scaling (Kini et al. 2021, Equation 3): CE(z_c / D_c + tau log pi_c), D_c = (n_max / n_c)^gamma.

    gamma = 0 is `LogitAdjusted`; tau = 0 is the class-dependent temperature (CDT).
    """

    gamma: Annotated[float, Field(ge=0)] = 0.3
    tau: float = 1.0
    cosine: ClassVar[bool] = False

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        masses = live_masses(prior)
        shrink = (masses / masses.amax(-1, keepdim=True)) ** self.gamma  # 1 / D
        adjust = _per_sample(log_prior(prior), logits)
        return _cross_entropy(logits * _per_sample(shrink, logits) + self.tau * adjust, targets)


def _mean_one(weights: Tensor, prior: Tensor) -> Tensor:
    """Scaled so that the classes that are there have weights of mean one (they sum to C); a dead class weighs nothing."""
    live = (prior > 0).to(weights.dtype)
    weights = weights * live
    return weights * live.sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)


def _weighted(
    loss: Loss, weights: Tensor, logits: Tensor, targets: Tensor, prior: Tensor, progress: float
) -> Tensor:
    per_sample = (targets * _per_sample(weights, logits)).sum(-1)
    return per_sample * loss(logits, targets, prior, progress)


@part
class Weighted:
    """Another loss times w_c = C n_c^-power / sum_k n_k^-power; power 1 is inverse frequency, 1/2 its square root.

    The weights have mean one over classes. The sum over a batch is later divided by the batch size, not by the
    weights in the batch (which is what PyTorch's ``weight=`` does): a batch with rare classes counts more.
    """

    power: Annotated[float, Field(ge=0)] = 1.0
    loss: Loss = CE()

    @property
    def cosine(self) -> bool:
        return self.loss.cosine

    def weights(self, prior: Tensor) -> Tensor:
        masses = live_masses(prior)
        return _mean_one((masses.amin(-1, keepdim=True) / masses) ** self.power, prior)

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        return _weighted(self.loss, self.weights(prior), logits, targets, prior, progress)


@part
class ClassBalanced:
    """Another loss times w_c ~ (1 - beta) / (1 - beta^n_c), mean one (Cui et al. 2019, Equation 12).

    n_c are numbers of rows, not probabilities: beta says how many rows still add something new, about 1 / (1 - beta).
    """

    beta: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    loss: Loss = CE()

    @property
    def cosine(self) -> bool:
        return self.loss.cosine

    def weights(self, prior: Tensor) -> Tensor:
        return _mean_one(-1 / torch.expm1(live_masses(prior) * math.log(self.beta)), prior)

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        return _weighted(self.loss, self.weights(prior), logits, targets, prior, progress)


@part
class Deferred:
    """One loss until ``after`` of the training is done, then another (Cao et al. 2019, Algorithm 1).

    The default is LDAM-DRW. The paper also drops the learning rate at that moment; that is the trainer's schedule.
    """

    first: Loss = LDAM()
    then: Loss = ClassBalanced(loss=LDAM())
    after: Annotated[float, Field(ge=0, le=1)] = 0.8

    def __post_init__(self) -> None:
        if self.first.cosine != self.then.cosine:
            raise Refusal(
                "Deferred switches the loss, not the network: both losses need cosine logits or neither does, found "
                f"{type(self.first).__name__} then {type(self.then).__name__}; use CE or LDAM on both sides"
            )

    @property
    def cosine(self) -> bool:
        return self.first.cosine

    def __call__(self, logits: Tensor, targets: Tensor, prior: Tensor, progress: float = 0.0) -> Tensor:
        loss = self.first if progress < self.after else self.then
        return loss(logits, targets, prior, progress)
