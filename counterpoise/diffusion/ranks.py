"""One process, or several that train together (torchrun): which part of a batch is mine, and where it is computed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device
    accelerator: Any = None

    @classmethod
    def alone(cls) -> Ranks:
        return cls(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def here(cls) -> Ranks:
        """What torchrun's environment says; without it, this process alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls.alone()
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device, accelerator)

    @property
    def leads(self) -> bool:
        """Files are written by one."""
        return self.rank == 0

    def wrap(self, net: nn.Module) -> nn.Module:
        """A network whose gradients are averaged over all processes."""
        return net if self.accelerator is None else self.accelerator.prepare(net)

    def mean(self, number: Tensor) -> float:
        """The same for all, so that all decide alike."""
        return float(number if self.accelerator is None else self.accelerator.reduce(number, "mean"))

    def wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
