"""A CLIP or SigLIP that learns a little: low-rank adapters beside its frozen layers, and class names for a classifier.

Like other networks it takes pixels in [0, 1] and has a linear head beside it. Features are unit vectors, and logits `scale` times
the cosine of picture and class: until it is trained it says what the pair says zero-shot. The pair lies where it was; what is
learnt is all that a state holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from counterpoise.nets.finetuned import ROWS_AT_ONCE
from counterpoise.nets.lora import changed, fresh_adapters
from counterpoise.nets.precision import has_bf16
from counterpoise.nets.prompted import Learnt, Uses
from counterpoise.nets.resnet import Headed
from counterpoise.nets.words import prompts
from counterpoise.seeding import derive
from counterpoise.types import Refusal, part

if TYPE_CHECKING:
    from counterpoise.nets.backbones import Backbone
    from counterpoise.nets.clip import ClipPair

LAYERS = r".*\.layers\.\d+\.self_attn\.(q|k|v|out)_proj"  # of a tower; those between are no better, and a third slower


class Sees(nn.Module):
    """Pictures (b, c, h, w) in [0, 1] => unit vectors (b, d)."""

    tower: ClassVar[str] = "vision_model"

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor, bf16: bool) -> Tensor:
        self.backbone.bf16 = bf16
        return F.normalize(self.backbone.embed(x), dim=-1)


class Reads(nn.Module):
    """Tokens of texts => unit vectors (texts, d)."""

    tower: ClassVar[str] = "text_model"

    def __init__(self, pair: ClipPair) -> None:
        super().__init__()
        self.net, self.read = pair.backbone.net, pair.read

    def forward(self, tokens: dict[str, Tensor], bf16: bool) -> Tensor:
        with torch.autocast(tokens["input_ids"].device.type, torch.bfloat16, enabled=bf16):
            found = self.read(self.net, tokens)
        return F.normalize(found.float(), dim=-1)


class Adapting(Uses):
    """A tower that is frozen, with adapters beside the layers of its transformer."""

    def __init__(self, net: Sees | Reads, rank: int, seed: int) -> None:
        super().__init__(net)
        found = fresh_adapters(net, rf"\b{net.tower}\b{LAYERS}", rank, derive(net.tower, seed))
        if not found:
            raise Refusal(
                f"adapters lie beside layers as a CLIP or SigLIP of transformers has them, and this pair's {net.tower} has none: "
                "name such a pair"
            )
        self.learnt = Learnt(found)

    def forward(self, given: Any) -> Tensor:
        weights = changed(self.frozen.net, self.learnt.weights)
        device = next(iter(weights.values())).device
        return self.frozen(weights, given, self.training and has_bf16(device))  # answers are exact


class ClassRows(nn.Module):
    """A linear head whose weights are made anew of what is learnt."""

    def __init__(self, pair: ClipPair, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.scale, self.in_features, self.bias = pair.scale, pair.backbone.dim, bias

    @property
    def weight(self) -> Tensor:  # (classes, d)
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class Said(ClassRows):
    """Its rows are what the text tower makes of the class names: the mean over templates, `scale` long."""

    def __init__(self, pair: ClipPair, tower: Adapting, tokens: dict[str, Tensor], classes: int) -> None:
        super().__init__(pair, bias=None)
        self.tower, self.classes = tower, classes
        for name, ids in tokens.items():  # (templates * classes, length)
            self.register_buffer(name, ids, persistent=False)

    @property
    def weight(self) -> Tensor:
        said = self.tower(dict(self.named_buffers(recurse=False))).unflatten(0, (-1, self.classes))
        return self.scale * F.normalize(said.mean(0), dim=-1)


class Free(ClassRows):
    """Its rows start as they are said, and go where they like.

    They are learnt `scale`^1/2 shorter than they are, which makes their steps `scale` times as long: at the rates of adapters they
    would hardly turn.
    """

    def __init__(self, pair: ClipPair, said: Tensor, biased: bool) -> None:  # said: unit rows
        super().__init__(pair, nn.Parameter(torch.zeros(len(said))) if biased else None)
        self.rows = nn.Parameter(self.scale**0.5 * said)

    @property
    def weight(self) -> Tensor:
        return self.scale**0.5 * self.rows


class AdaptedNet(Headed):
    """Its state names the pair that it belongs beside, and is refused by any other."""

    def __init__(self, pair: ClipPair, head: ClassRows, rank: int, cosine: bool, seed: int) -> None:
        super().__init__()
        self.tower = Adapting(Sees(pair.backbone), rank, seed)
        self.head, self.cosine = head, cosine  # type: ignore[assignment]
        self.name, self.content = pair.tokens.name, pair.content

    def features(self, x: Tensor) -> Tensor:  # (b, c, h, w) in [0, 1] => unit vectors (b, d)
        if torch.is_grad_enabled():
            return self.tower(x)
        return torch.cat([self.tower(some) for some in x.split(ROWS_AT_ONCE)])

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(self.content), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if bytes(state.tolist()) != self.content:
            raise Refusal(
                f"the weights of {self.name} are not those that these adapters were learnt beside: put them back"
            )


@part
class Adapted:
    """Adapters are learnt beside a CLIP or SigLIP of transformers; `backbone` is hf:NAME_OR_PATH, a path or miniature.

    With `text` its text tower has adapters as well, and the classifier is what it makes of the class names in `templates`,
    all of which are read at every step. Without, the classifier starts from there and is trained freely.

    Adapters are products: halfway between two states is not halfway between the weights that they make, as WiSE-FT wants it, so
    that is not offered. Nor is a folder of transformers: none of its classifiers brings features to unit length.
    """

    backbone: str = "miniature"
    revision: str | None = None
    rank: Annotated[int, Field(ge=1)] = 16
    text: bool = True
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = ("a photo of {a}",)
    named: ClassVar[bool] = True  # it is told what its classes are called

    def __post_init__(self) -> None:
        for template in self.templates:
            prompts(template, [])

    def ready(self, classes: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is trained; `classes` are none as long as nobody knows them."""
        from counterpoise.nets.clip import open_tokens

        tokens = open_tokens(self.backbone, self.revision)
        if classes:
            tokens(self._prompts(classes))

    def __call__(
        self, channels: int, classes: int, size: int, seed: int, cosine: bool = False, *, names: Sequence[str]
    ) -> AdaptedNet:
        from counterpoise.nets.clip import open_clip_pair

        assert len(names) == classes, f"{classes} classes, and names of {len(names)}"
        pair = open_clip_pair(self.backbone, self.revision)
        pair.backbone.cpu()  # where other classifiers are trained
        made = AdaptedNet(pair, self._head(pair, names, cosine, seed), self.rank, cosine, seed)
        if has_bf16(torch.device("cpu")):
            net: Any = pair.backbone.net
            net.set_attn_implementation("eager")  # torch's own is slow on its way back (nets/attention.py)
        return made.eval()

    def _head(self, pair: ClipPair, names: Sequence[str], cosine: bool, seed: int) -> ClassRows:
        if not self.text:
            return Free(pair, pair.classes(self.templates, names), biased=not cosine)
        tower = Adapting(Reads(pair), self.rank, seed)
        return Said(pair, tower, _tokens(pair, self._prompts(names)), len(names))

    def _prompts(self, names: Sequence[str]) -> list[str]:
        """Of all classes, template after template."""
        return [text for template in self.templates for text in prompts(template, names)]


def _tokens(pair: ClipPair, texts: Sequence[str]) -> dict[str, Tensor]:
    """CLIP reads from left to right: behind the end of a text there is nothing for it to hear. SigLIP hears the filling too."""
    tokens: dict[str, Tensor] = dict(pair.tokens(texts))
    if pair.backbone.net.config.model_type != "clip":  # type: ignore[union-attr]
        return tokens
    longest = int(tokens["attention_mask"].sum(1).max())
    return {name: ids[:, :longest] for name, ids in tokens.items()}
