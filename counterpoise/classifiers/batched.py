"""Many linear classifiers as one batched problem: what one step of all of them asks of their weights.

Jobs differ in rows, loss, prior and seed only, so that logits and gradients of all are three matrix products. Jobs that
read the same rows (the arms of one paired trial) share the gathered features as well: with wide features that is where
the time goes. How weights begin and how they are moved is others' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from counterpoise.classifiers.robust import Mean, Reduction

if TYPE_CHECKING:
    from counterpoise.classifiers.heads import LinearHead

Loss = Callable[
    [Tensor, Tensor, Tensor, float], Tensor
]  # logits (..., B, C), targets, prior (..., C) => (..., B)
MEAN = Mean()
Prior = np.ndarray | Callable[[float], Tensor | np.ndarray]  # (C,) masses, fixed or by progress


@dataclass(frozen=True, eq=False)
class HeadJob:
    """One trial: which rows each step sees, what they claim to be, what is minimised, which seed starts it."""

    rows: np.ndarray  # (steps, batch) into the one feature matrix all jobs share
    targets: np.ndarray  # (N,) labels or (N, C) soft, for that whole matrix
    loss: Loss
    prior: Prior  # of what `rows` really yields
    seed: int
    reduction: Reduction = MEAN
    groups: np.ndarray | None = None  # (N,) group of each row, for the reductions that look at them
    start: LinearHead | None = None  # goes on from this head, which was standardised on the same rows


@dataclass(frozen=True)
class _Table:
    """Distinct per-row arrays of several jobs, one below the other; jobs that share an array share its place."""

    values: Tensor  # (U * N, ...)
    offset: Tensor  # (G, 1) where each job's array begins

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], dtype: torch.dtype) -> _Table:
        distinct = {id(array): array for array in arrays}
        begins = {name: at * len(arrays[0]) for at, name in enumerate(distinct)}
        values = torch.cat([torch.as_tensor(array, dtype=dtype) for array in distinct.values()])
        return cls(values, torch.tensor([[begins[id(array)]] for array in arrays]))

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.values[rows + self.offset]


class _Group:
    """Jobs of a block that one call of the loss serves: same loss, same reduction."""

    def __init__(self, jobs: Sequence[HeadJob], members: list[int], arms: int) -> None:
        mine = [jobs[index] for index in members]
        first = mine[0]
        self.loss, self.reduction = first.loss, first.reduction
        self.where = torch.tensor(members)  # (G,) positions in the block
        self.stream = self.where // arms  # (G,) which stream of rows each of them reads
        self.moving = [(at, job.prior) for at, job in enumerate(mine) if callable(job.prior)]
        priors = [job.prior(0.0) if callable(job.prior) else job.prior for job in mine]
        self.prior = torch.stack([torch.as_tensor(prior, dtype=torch.float32) for prior in priors])  # (G, C)
        self.soft = np.ndim(first.targets) == 2
        self.targets = _Table.of([job.targets for job in mine], torch.float32 if self.soft else torch.int64)
        self.groups = None if first.groups is None else torch.as_tensor(first.groups, dtype=torch.int64)
        self.state = self.reduction.start(self.groups)  # trials get a state each with the first losses

    def slope(self, logits: Tensor, rows: Tensor, progress: float) -> Tensor:
        """Gradient of every job's objective in its logits (G, B, C); `rows` is (S, B)."""
        rows = rows[self.stream]
        targets = self.targets[rows]
        if not self.soft:
            targets = torch.zeros_like(logits).scatter_(-1, targets[..., None], 1.0)
        for at, prior in self.moving:
            self.prior[at] = torch.as_tensor(prior(progress), dtype=torch.float32)
        with torch.enable_grad():
            logits.requires_grad_()
            losses = self.loss(logits, targets, self.prior, progress)
            groups = None if self.groups is None else self.groups[rows]
            total, self.state = self.reduction(losses, groups, self.state)
            (slope,) = torch.autograd.grad(total, logits, torch.ones_like(total))
        return slope


def _groups(jobs: Sequence[HeadJob], arms: int) -> list[_Group]:
    found: list[list[int]] = []
    for index, job in enumerate(jobs):
        for members in found:
            first = jobs[members[0]]
            alike = (first.loss, first.reduction) == (job.loss, job.reduction) and first.groups is job.groups
            if alike and np.shape(first.targets) == np.shape(job.targets):
                members.append(index)
                break
        else:
            found.append([index])
    return [_Group(jobs, members, arms) for members in found]


class Slopes:
    """The gradients of all jobs, step by step; T jobs are S streams of rows x A arms that read each, stream by stream."""

    def __init__(self, x: Tensor, jobs: Sequence[HeadJob], arms: int) -> None:
        rows = [torch.as_tensor(job.rows, dtype=torch.int64) for job in jobs[::arms]]
        self.x, self.arms, self.rows = x, arms, torch.stack(rows, 1)  # (steps, S, B)
        self.groups = _groups(jobs, arms)
        steps, streams, batch = self.rows.shape
        self.steps, self.classes = steps, self.groups[0].prior.shape[1]
        self._gathered = x.new_empty(streams * batch, x.shape[1])
        self._slope = x.new_empty(len(jobs), batch, self.classes)

    def __call__(self, step: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (S, D, A C) and biases (S, 1, A C) => what each job's objective of this step has as gradients in them."""
        (streams, batch), arms, classes = self.rows.shape[1:], self.arms, self.classes
        torch.index_select(self.x, 0, self.rows[step].view(-1), out=self._gathered)
        views = self._gathered.view(streams, batch, -1)
        flat = torch.baddbmm(bias, views, weight)
        logits = flat.view(streams, batch, arms, classes).transpose(1, 2).reshape(self._slope.shape)
        for group in self.groups:
            self._slope[group.where] = group.slope(logits[group.where], self.rows[step], step / self.steps)
        back = self._slope.view(streams, arms, batch, classes).transpose(1, 2).reshape(flat.shape)
        return torch.bmm(views.transpose(1, 2), back), back.sum(1, keepdim=True)
