"""A given backbone whose every weight is trained on, with a linear head beside it.

It is used like the small residual network: pixels in [0, 1] in, penultimate features out. Losses, data and
training are not known here; which weights there are is known by nets/backbones.py alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoise.nets.resnet import Headed
from counterpoise.types import part

if TYPE_CHECKING:
    from counterpoise.nets.backbones import Backbone
    from counterpoise.nets.export import Affine

ROWS_AT_ONCE = (
    32  # at the backbone's own resolution, so that reading features needs no more memory than training
)


class FinetunedNet(Headed):
    """The backbone stays in eval mode while it is trained.

    Then dropout draws nothing (all randomness is the trial's), and BatchNorm keeps the statistics it was given: those
    of our few and, with balanced sampling, differently mixed images would be poor ones, and networks between
    the given and the trained one (WiSE-FT) have no statistics to mix. The price: nothing tames large steps, so the
    learning rate must be small.
    """

    def __init__(self, backbone: Backbone, classes: int, cosine: bool) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(True)
        self.head = nn.Linear(backbone.dim, classes, bias=not cosine)
        self.cosine = cosine

    def features(self, x: Tensor) -> Tensor:  # (b, c, h, w) in [0, 1] => (b, d)
        if torch.is_grad_enabled():
            return self.backbone.embed(x)
        return torch.cat([self.backbone.embed(some) for some in x.split(ROWS_AT_ONCE)])


@part
class Finetuned:
    """The whole backbone is trained, from its given weights. `backbone` is hf:NAME_OR_PATH, a path, timm:… or openclip:…"""

    backbone: str
    revision: str | None = None
    size: Annotated[int, Field(ge=16)] | None = None  # input resolution; None: what the backbone was made for
    pretrained: ClassVar[bool] = True

    def __call__(
        self, channels: int, classes: int, size: int, seed: int, cosine: bool = False
    ) -> FinetunedNet:
        from counterpoise.nets.backbones import open_backbone

        backbone = open_backbone(self.backbone, revision=self.revision, size=self.size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return FinetunedNet(backbone, classes, cosine)

    def export(self, head: Affine, labels: Sequence[str], out: Path, net: FinetunedNet) -> bool:
        """The trained network with this head as a transformers folder; False where there is no such form."""
        from counterpoise.nets.export import export

        state = net.backbone.net.state_dict()
        return export(self.backbone, head, labels, out, revision=self.revision, size=self.size, state=state)
