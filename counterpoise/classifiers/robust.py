"""From one loss per sample to the one number that is minimised: the plain mean, or the worst groups first.

A reduction is called as ``reduction(losses, groups, state) -> (loss, state)``: losses (..., B) of samples whose
groups are (B,) or (..., B). Its state begins with ``reduction.start(groups of all training rows)``. Leading
dimensions are independent trials. Nothing here knows classes or logits.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from counterpoise.types import Refusal, part


@runtime_checkable
class Reduction(Protocol):
    def start(self, groups: Tensor | None) -> Any: ...
    def __call__(self, losses: Tensor, groups: Tensor | None, state: Any) -> tuple[Tensor, Any]: ...


@part
class Mean:
    """The ordinary mean over the batch."""

    def start(self, groups: Tensor | None) -> None:
        return None

    def __call__(self, losses: Tensor, groups: Tensor | None, state: None) -> tuple[Tensor, None]:
        return losses.mean(-1), None


class GroupWeights(NamedTuple):
    """What GroupDRO remembers between steps."""

    q: Tensor  # (..., G) sums to one; 0 for a group without rows
    counts: Tensor  # (..., G) training rows per group


def group_means(losses: Tensor, groups: Tensor, count: int) -> Tensor:
    """The mean loss of each group in the batch (..., G); 0 for a group that is not in it."""
    members = torch.nn.functional.one_hot(groups.long() % count, count).to(
        losses
    )  # (..., B, G); -1 is the last
    return (losses.unsqueeze(-1) * members).sum(-2) / members.sum(-2).clamp_min(1)


@part
class GroupDRO:
    """Group distributionally robust optimisation (Sagawa et al. 2020, Algorithm 1 and Equation 5).

    q_g <- q_g exp(step_size (l_g + adjust / sqrt(n_g))), normalised; the loss is sum q_g (l_g + adjust / sqrt(n_g)).
    Rows without a group (-1) are one group more, the last. A group that is missing in a batch has loss 0 there and so loses weight against the others: sample with
    `mixing.GroupBalanced`. It only works with strong regularisation or early stopping.
    """

    step_size: Annotated[float, Field(ge=0)] = 0.01
    adjust: Annotated[float, Field(ge=0)] = 0.0

    def start(self, groups: Tensor | None) -> GroupWeights:
        if groups is None:
            raise Refusal(
                "GroupDRO balances groups, and this data set has none: give each row a group, or use Mean"
            )
        groups = groups.long().flatten()
        count = int(groups.max()) + 1 + int((groups < 0).any())
        counts = torch.bincount(groups % count, minlength=count).float()
        live = (counts > 0).float()
        return GroupWeights(live / live.sum(), counts)

    def step(self, q: Tensor, losses: Tensor, groups: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the algorithm as a pure function: (loss (...), new q (..., G))."""
        means = group_means(losses, groups, counts.shape[-1])
        # an empty group is adjusted like a group of one row: its q is 0, and 0 * inf would not be
        means = means + self.adjust / counts.clamp_min(1).to(means).sqrt()
        # subtracting the largest changes nothing after normalising, and no exponential overflows
        grown = q * torch.exp(self.step_size * (means - means.amax(-1, keepdim=True))).detach()
        q = grown / grown.sum(-1, keepdim=True)
        return (q * means).sum(-1), q

    def __call__(
        self, losses: Tensor, groups: Tensor | None, state: GroupWeights
    ) -> tuple[Tensor, GroupWeights]:
        assert groups is not None, "start() has refused data without groups"
        state = GroupWeights(state.q.to(losses.device), state.counts.to(losses.device))
        loss, q = self.step(state.q, losses, groups.to(losses.device), state.counts)
        return loss, GroupWeights(q, state.counts)
