"""The feature space of a frozen backbone: what is kept of an image is one vector, computed once.

The vector is what the backbone's own classifier would see, or its last feature map laid out in one row. Bringing it down
to its principal components, those of the training rows, is the business of spaces/projection.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from counterpoise.types import part

if TYPE_CHECKING:
    from counterpoise.nets.backbones import Backbone
    from counterpoise.nets.export import Affine


@part
class Frozen:
    """Classifiers are linear heads on this backbone's features. `backbone` is hf:NAME_OR_PATH, a path, timm:… or openclip:…"""

    backbone: str
    revision: str | None = None
    size: Annotated[int, Field(ge=16)] | None = None  # input resolution; None: what the backbone was made for
    maps: bool = False  # what comes before the last pooling, flattened, instead of one vector
    components: Annotated[int, Field(ge=1)] | None = (
        None  # principal components kept; None: features as they are
    )
    frozen: ClassVar[bool] = True

    def encode(self, pixels: np.ndarray, batch: int = 32) -> np.ndarray:
        """uint8 (n, h, w, c) => float32 (n, d)."""
        net = self._backbone()
        found = [
            net(torch.from_numpy(np.array(pixels[start : start + batch]))).cpu().numpy()
            for start in range(0, len(pixels), batch)
        ]
        return np.concatenate(found) if found else np.zeros((0, net.dim), np.float32)

    def digest(self) -> str:
        """Of the weights themselves, so that a changed file under the same name is seen."""
        return self._backbone().digest

    def export(self, head: Affine, labels: Sequence[str], out: Path, net: None = None) -> bool:
        """The backbone with this head as a transformers folder; False where there is no such form."""
        from counterpoise.nets.export import export

        if self.maps:  # its classifier sees pooled features
            return False
        return export(self.backbone, head, labels, out, revision=self.revision, size=self.size)

    def _backbone(self) -> Backbone:
        folder = Path(self.backbone.removeprefix("hf:")).expanduser()
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return _opened(self, tuple((path.name, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=1)
def _opened(space: Frozen, state: tuple[tuple[str, int], ...]) -> Backbone:
    """`state` is not read: a folder whose files changed is opened anew."""
    from counterpoise.nets.backbones import open_backbone

    return open_backbone(space.backbone, revision=space.revision, size=space.size, maps=space.maps)
