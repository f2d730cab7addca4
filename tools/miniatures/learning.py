"""One resumable loop for all of the miniatures: Muon for matrices, Adam for the rest, an average of the weights.

The rate is level after a short warm-up and falls to zero over the last `cool` steps, so that a training can be made
longer after the fact: ask for more steps before the fall has begun. Every draw of a step is made from the step's
number, so a stopped training goes on as if nothing had happened, with one process or several.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SAVE_EVERY_S, LOG_EVERY = 120, 50


@dataclass(frozen=True)
class Timetable:
    steps: int
    rate: float
    warm: int = 200
    cool: int = 1000
    ema: float = 0.999
    decay: float = 0.02  # of the weights of matrices
    clip: float = 1.0

    def rate_at(self, step: int) -> float:
        return self.rate * min(1.0, (step + 1) / self.warm, (self.steps - step) / self.cool)


@dataclass(frozen=True)
class Place:
    """Which of several processes (torchrun) this is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Place:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        dist.init_process_group("gloo" if not torch.cuda.is_available() else "nccl")
        return cls(dist.get_rank(), dist.get_world_size())

    def mine(self, rows: np.ndarray) -> np.ndarray:
        """My part of a batch that everyone has drawn alike."""
        return rows[self.rank :: self.world]


def draws(*name: object) -> np.random.Generator:
    return np.random.default_rng(
        np.random.SeedSequence([sum(ord(c) * 257**i for i, c in enumerate(str(n))) % 2**63 for n in name])
    )


class Muon:
    """Matrices move along their gradient's nearest orthogonal matrix (Jordan 2024), scaled as an Adam step would be
    (Liu et al. 2025, Moonlight); vectors, embeddings and what is nearest to data by Adam."""

    def __init__(self, net: nn.Module, timetable: Timetable) -> None:
        self.timetable, self.step = timetable, 0
        named = [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]
        self.matrices = [w for name, w in named if self._is_matrix(name, w)]
        self.others = [w for name, w in named if not self._is_matrix(name, w)]
        self.momentum = [torch.zeros_like(w) for w in self.matrices]
        self.mean, self.square = ([torch.zeros_like(w) for w in self.others] for _ in range(2))

    @staticmethod
    def _is_matrix(name: str, weight: Tensor) -> bool:
        return weight.ndim >= 2 and not any(
            word in name for word in ("embedding", "conv_in", "conv_out", "wte", "wpe")
        )

    @torch.no_grad()
    def __call__(self, rate: float) -> float:
        # what has been frozen since stays where it is, momentum and decay included
        moving = [i for i, w in enumerate(self.matrices) if w.requires_grad]
        matrices, momentum = ([values[i] for i in moving] for values in (self.matrices, self.momentum))
        moving = [i for i, w in enumerate(self.others) if w.requires_grad]
        others, mean, square = (
            [values[i] for i in moving] for values in (self.others, self.mean, self.square)
        )
        weights = matrices + others
        slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        norm = torch.stack(torch._foreach_norm(slopes)).norm()
        torch._foreach_mul_(slopes, (self.timetable.clip / (norm + 1e-6)).clamp(max=1.0))
        self.step += 1
        turned, rest = slopes[: len(matrices)], slopes[len(matrices) :]
        if turned:
            torch._foreach_lerp_(momentum, turned, 0.05)
            ahead = torch._foreach_lerp(turned, momentum, 0.95)  # Nesterov's
            torch._foreach_mul_(matrices, 1 - rate * self.timetable.decay)
            alike: dict[torch.Size, list[int]] = {}
            for i, matrix in enumerate(ahead):
                alike.setdefault(matrix.flatten(1).shape, []).append(i)
            for shape, which in alike.items():
                steps = orthogonal(torch.stack([ahead[i].flatten(1) for i in which]))
                for i, move in zip(which, steps, strict=True):
                    matrices[i].add_(move.view_as(matrices[i]), alpha=-rate * 0.2 * max(shape) ** 0.5)
        if rest:
            torch._foreach_lerp_(mean, rest, 0.1)
            torch._foreach_mul_(square, 0.99)
            torch._foreach_addcmul_(square, rest, rest, 0.01)
            root = torch._foreach_sqrt(square)
            torch._foreach_div_(root, (1 - 0.99**self.step) ** 0.5)
            torch._foreach_add_(root, 1e-8)
            torch._foreach_addcdiv_(others, mean, root, -rate / (1 - 0.9**self.step))
        for weight in weights:
            weight.grad = None
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        lists = {"momentum": self.momentum, "mean": self.mean, "square": self.square}
        return {f"{n}/{i}": v for n, values in lists.items() for i, v in enumerate(values)} | {
            "step": torch.tensor(self.step)
        }

    def load(self, state: dict[str, Tensor]) -> None:
        self.step = int(state["step"])
        for n, values in {"momentum": self.momentum, "mean": self.mean, "square": self.square}.items():
            for i, value in enumerate(values):
                value.copy_(state[f"{n}/{i}"])


def orthogonal(g: Tensor) -> Tensor:
    """(n, rows, columns) => their nearest orthogonal matrices, roughly: five Newton-Schulz steps (Jordan 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(g.dtype)


def train(
    net: nn.Module,
    loss_of: Callable[[int, Place], Tensor],
    timetable: Timetable,
    work: Path,
    place: Place,
    minutes: float | None = None,
    look: Callable[[nn.Module, int], dict[str, float]] | None = None,
) -> nn.Module | None:
    """The network with averaged weights, or None where the time was up before the last step: run again to go on."""
    work.mkdir(parents=True, exist_ok=True)
    muon = Muon(net, timetable)
    mean = {name: value.detach().clone() for name, value in net.state_dict().items()}
    first, began, saved = 0, time.monotonic(), time.monotonic()
    if (work / "state.safetensors").exists():
        state = load_file(work / "state.safetensors")
        net.load_state_dict(_under(state, "net"))
        mean, first = _under(state, "mean"), int(state["at"])
        muon.load(_under(state, "muon"))
    losses: list[float] = []
    clock = time.monotonic()
    for step in range(first, timetable.steps):
        torch.manual_seed(int(draws("torch", step, place.rank).integers(2**31)))
        loss = loss_of(step, place)
        loss.backward()
        if place.world > 1:
            _average([w for w in net.parameters() if w.requires_grad], place.world)
        norm = muon(timetable.rate_at(step))
        share = 1 - min(timetable.ema, (1 + step) / (10 + step))
        now = net.state_dict()
        for name, value in mean.items():
            if value.is_floating_point():
                value.lerp_(now[name], share)
            else:
                value.copy_(now[name])
        losses.append(float(loss.detach()))
        done = step + 1
        late = minutes is not None and time.monotonic() - began > 60 * minutes
        if place.world > 1:
            flag = torch.tensor(float(late))
            dist.broadcast(flag, 0)
            late = bool(flag)
        if place.rank == 0 and done % LOG_EVERY == 0:
            row = {"step": done, "of": timetable.steps, "loss": float(np.mean(losses)), "norm": norm,
                   "seconds": (time.monotonic() - clock) / len(losses)}  # fmt: skip
            if look is not None and done % (10 * LOG_EVERY) == 0:
                row |= _looked(net, mean, look, done)
            with open(work / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            losses, clock = [], time.monotonic()
        if place.rank == 0 and (late or done == timetable.steps or time.monotonic() - saved > SAVE_EVERY_S):
            parts = {"net": net.state_dict(), "mean": mean, "muon": muon.state()}
            flat = {
                f"{part}/{k}": v.detach().contiguous().clone()
                for part, values in parts.items()
                for k, v in values.items()
            }
            save_file(flat | {"at": torch.tensor(done)}, work / "state.new")
            (work / "state.new").replace(work / "state.safetensors")
            saved = time.monotonic()
        if late and done < timetable.steps:
            return None
    net.load_state_dict(mean)
    return net.eval()


def averaged(net: nn.Module, work: Path) -> tuple[nn.Module, int]:
    """The weights as they stand, before the training has ended."""
    state = load_file(work / "state.safetensors")
    net.load_state_dict(_under(state, "mean"))
    return net.eval(), int(state["at"])


def _looked(net: nn.Module, mean: dict[str, Tensor], look: Callable, step: int) -> dict[str, float]:  # type: ignore[type-arg]
    now = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(mean)
    with torch.no_grad():
        seen = look(net.eval(), step)
    net.train().load_state_dict(now)
    return seen


def _under(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}


def _average(weights: list[Tensor], world: int) -> None:
    slopes = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    flat = torch.cat([slope.flatten() for slope in slopes])
    dist.all_reduce(flat)
    flat /= world
    for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
        weight.grad = part.view_as(weight)
