"""A committed trial file: reading what one fit and its arms have learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from counterpoise.classifiers.heads import LinearHead
from counterpoise.recipe import Fit
from counterpoise.rundir import Run
from counterpoise.study import Study


def network_of(
    network: Any, shape: Mapping[str, Any], names: Sequence[str], seed: int, cosine: bool = False
) -> nn.Module:
    """A network for pictures of this size and for these classes, whose names are told to those that listen."""
    told = {"names": names} if getattr(network, "named", False) else {}
    return network(shape["channels"], len(names), shape["size"], seed=seed, cosine=cosine, **told)


def build_network(study: Study, fit: Fit, seed: int) -> nn.Module:
    return network_of(study.recipe.network, study.facts, study.called, seed, bool(fit.loss.cosine))


@dataclass(frozen=True)
class TrialFile:
    """A committed trial file."""

    run: Run
    unit: str

    def _open(self):  # type: ignore[no-untyped-def]
        return safe_open(self.run / self.unit, "np")

    @property
    def notes(self) -> dict[str, Any]:
        with self._open() as file:
            return json.loads(file.metadata()["notes"])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        with self._open() as file:
            return {
                name.removeprefix(prefix): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - a handle, not a mapping
                if name.startswith(prefix)
            }

    def head(self, trial: int, arm: str) -> LinearHead:
        return LinearHead.load(self.arrays(f"{trial}/{arm}/"))

    def val_logits(self, trial: int, arm: str) -> np.ndarray:
        with self._open() as file:
            return file.get_tensor(f"{trial}/{arm}/val_logits")

    def network(self, study: Study, trial: int) -> nn.Module | None:
        fit = study.recipe.fit(self.unit.split("/")[1])
        if study.linear(fit):
            return None
        net = build_network(study, fit, seed=0)
        net.load_state_dict({k: torch.from_numpy(v) for k, v in self.arrays(f"{trial}/net/").items()})
        return net.eval()


def file_of(study: Study, arm: str, trial: int) -> TrialFile:
    """Where one trial of one arm lies."""
    fit = study.recipe.fit(next(a.fit for a in study.recipe.arms if a.name == arm))
    unit = next(unit for unit in study.trial_units(fit) if trial in study.trials_in(unit))
    return TrialFile(study.run, unit)
