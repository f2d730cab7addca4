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

from counterpoise.types import Refusal, part

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

    def said(self, templates: Sequence[str], names: Sequence[str]) -> tuple[np.ndarray, float]:
        """Class names as the text half of the backbone has them: unit rows (N, d), and by what cosines become logits."""
        self._check_whole()
        rows, scale = _said(self, self._state(), tuple(templates), tuple(names))
        return rows.copy(), scale

    def hears(self, templates: Sequence[str], names: Sequence[str] | None) -> None:
        """Refuses a backbone that reads no class names, or not these, before anything is computed; None: nobody knows them."""
        from counterpoise.nets.clip import open_clip_pair, open_tokens
        from counterpoise.nets.words import prompts

        self._check_whole()
        tokens = open_tokens(self.backbone, self.revision)
        for template in templates if names else ():
            tokens(prompts(template, names or ()))
        pair = open_clip_pair(self.backbone, self.revision)
        texts, pictures = pair.texts(["a thing"]).shape[1], pair.backbone.dim
        if texts != pictures:
            raise Refusal(
                f"{self.backbone}: its texts have {texts} numbers and its pictures {pictures}, so that they cannot be compared: "
                "name a CLIP or SigLIP whose towers end in one space"
            )

    def _check_whole(self) -> None:
        if self.maps or self.components is not None:
            found = "feature maps" if self.maps else f"{self.components} principal components"
            raise Refusal(
                f"class names are said in a backbone's own features, and classifiers here see {found}: leave out "
                f"{'maps' if self.maps else '--components'}"
            )

    def _backbone(self) -> Backbone:
        return _opened(self, self._state())

    def _state(self) -> tuple[tuple[str, int], ...]:
        folder = Path(self.backbone.removeprefix("hf:")).expanduser()
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return tuple((path.name, path.stat().st_mtime_ns) for path in files)


@lru_cache(maxsize=1)
def _opened(space: Frozen, state: tuple[tuple[str, int], ...]) -> Backbone:
    """`state` is not read: a folder whose files changed is opened anew."""
    from counterpoise.nets.backbones import open_backbone

    return open_backbone(space.backbone, revision=space.revision, size=space.size, maps=space.maps)


@lru_cache(maxsize=4)
def _said(
    space: Frozen, state: tuple[tuple[str, int], ...], templates: tuple[str, ...], names: tuple[str, ...]
) -> tuple[np.ndarray, float]:
    """`state` as above."""
    from counterpoise.nets.clip import open_clip_pair

    pair = open_clip_pair(space.backbone, space.revision)
    if space.size is None and pair.backbone.digest != _opened(space, state).digest:
        raise Refusal(
            f"{space.backbone}: its text tower comes with other weights than the features: name a --revision"
        )
    return pair.classes(templates, names).numpy(), pair.scale
