"""The feature space of a frozen backbone: what is kept of an image is one vector, computed once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from counterpoise.types import part

if TYPE_CHECKING:
    from counterpoise.nets.backbones import Backbone


@part
class Frozen:
    """Classifiers are linear heads on this backbone's features. `backbone` is hf:NAME_OR_PATH, a path, timm:… or openclip:…"""

    backbone: str
    revision: str | None = None
    size: Annotated[int, Field(ge=16)] | None = None  # input resolution; None: what the backbone was made for
    frozen: ClassVar[bool] = True

    def encode(self, pixels: np.ndarray, batch: int = 32) -> np.ndarray:
        """uint8 (n, h, w, c) => float32 (n, d)."""
        net = _opened(self)
        found = [
            net(torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch]))).cpu().numpy()
            for start in range(0, len(pixels), batch)
        ]
        return np.concatenate(found) if found else np.zeros((0, net.dim), np.float32)

    def digest(self) -> str:
        """Of the weights themselves, so that a changed file under the same name is seen."""
        return _opened(self).digest


@lru_cache(maxsize=1)
def _opened(space: Frozen) -> Backbone:
    from counterpoise.nets.backbones import open_backbone

    return open_backbone(space.backbone, revision=space.revision, size=space.size)
