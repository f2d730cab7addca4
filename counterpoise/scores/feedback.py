"""What classifiers say of a sample: how much it would teach the one that learns, and whether another knows its class."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from counterpoise.diffusion.criteria import Entropy, Loss
from counterpoise.scores.batch import Batch, Opinion
from counterpoise.types import Refusal, part


@part
class Usefulness:
    """The criterion that guidance raises, by the teacher, of the sample as it was made: of unguided ones as well."""

    criterion: Any = Entropy()
    listens: ClassVar[bool] = True

    def calibrate(self, real: np.ndarray) -> float:
        return 0.0

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        return _heard(self.criterion(*_asked(batch.teacher, batch, "Usefulness asks a teacher")))


@part
class Fidelity:
    """log p(label) in nats by the judge, who may stop guides and leads none: 0 is certain, lower is stranger."""

    listens: ClassVar[bool] = True

    def calibrate(self, real: np.ndarray) -> float:
        return 0.0

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        return _heard(-Loss()(*_asked(batch.judge, batch, "Fidelity asks a judge")))


def _asked(classifier: Opinion | None, batch: Batch, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, C), features (n, k), labels (n,)."""
    if classifier is None:
        raise Refusal(f"{who}, and there is none: give the synthesis a tutor")
    logits, features = map(torch.as_tensor, classifier())
    return logits, features, torch.as_tensor(batch.labels, dtype=torch.long)


def _heard(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return values.numpy(), np.full(len(values), "")
