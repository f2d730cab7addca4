"""A picture network and a text network that map into one space: CLIP and SigLIP (Radford et al. 2021, Zhai et al. 2023).

Any such pair of transformers, opened as backbones are, with the folder's own tokenizer; ``openclip:MODEL/TAG`` is one of
open_clip. How near a picture is to a sentence is `scale` times the cosine of the two. Nothing here knows labels of a study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from counterpoise.nets.backbones import (
    Backbone,
    content_of,
    load,
    load_net,
    model_folder,
    open_backbone,
    pooled,
    preprocessing,
)
from counterpoise.nets.folders import hash_of, need, refusing
from counterpoise.nets.tokens import FILES, Tokens, has_vocabulary
from counterpoise.nets.words import prompts
from counterpoise.types import Refusal

OPEN_CLIP = "openclip:"
BATCH = {"cpu": 32, "cuda": 256}  # what goes through a network at once; a processor is no faster with more


def _of_transformers(net: Any, tokens: dict[str, Tensor]) -> Tensor:
    found = net.get_text_features(**tokens)
    return found if isinstance(found, Tensor) else found.pooler_output


@dataclass(frozen=True)
class ClipPair:
    """Pictures and sentences as unit vectors of one space."""

    backbone: Backbone
    tokens: Tokens
    scale: float  # by which cosines become logits
    content: bytes  # changes with the weights, the preprocessing and the tokenizer
    read: Callable[[Any, dict[str, Tensor]], Tensor] = _of_transformers  # what the network makes of tokens

    @torch.no_grad()
    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences => unit rows (n, d)."""
        tokens = {name: ids.to(self._device) for name, ids in self.tokens(sentences).items()}
        found = [
            self.read(
                self.backbone.net, {name: ids[start : start + self._batch] for name, ids in tokens.items()}
            )
            for start in range(0, len(sentences), self._batch)
        ]
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    def pictures(self, pixels: np.ndarray | Tensor) -> Tensor:
        """uint8 (n, h, w, c), grey ones as well => unit rows (n, d)."""
        found = [
            self.backbone(torch.from_numpy(np.array(pixels[start : start + self._batch]))).cpu()
            for start in range(0, len(pixels), self._batch)
        ]
        return F.normalize(torch.cat(found), dim=-1) if found else torch.zeros(0, self.backbone.dim)

    def classes(self, templates: Sequence[str], names: Sequence[str]) -> Tensor:
        """One unit row per class name (N, d): the mean over templates, as CLIP's zero-shot classifier has it."""
        said = torch.stack(
            [self.texts(prompts(template, names)) for template in templates]
        )  # (templates, N, d)
        return F.normalize(said.mean(0), dim=-1)

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    @property
    def _batch(self) -> int:
        return BATCH[self._device.type]


def open_tokens(name: str, revision: str | None = None, allow_pickle: bool = False) -> Tokens:
    """What reads the texts of the pair of this name: all that can be checked before the networks are opened."""
    if name.startswith(OPEN_CLIP):
        return _open_clip_tokens(name)
    return _folder_and_tokens(name, revision, allow_pickle)[1]


def open_clip_pair(
    name: str, revision: str | None = None, allow_pickle: bool = False, bf16: bool = False
) -> ClipPair:
    """The pair of this name, ``miniature``, a folder, a name on the hub, or openclip:MODEL/TAG; on the accelerator where there
    is one. `bf16`: pictures are looked at in it, texts never; it counts as rounding, and changes no digest.
    """
    pair = _of_open_clip(name) if name.startswith(OPEN_CLIP) else _of_folder(name, revision, allow_pickle)
    pair.backbone.bf16 = bf16
    pair.backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    return pair


# --- transformers ------------------------------------------------------------------------------------------


def _folder_and_tokens(name: str, revision: str | None, allow_pickle: bool) -> tuple[Path, Tokens]:
    if name.startswith("timm:"):
        raise Refusal(
            f"{name}: a picture network of timm has no text network beside it: name hf:OWNER/NAME, a folder or openclip:MODEL/TAG"
        )
    transformers = need("transformers", "hf")
    folder = model_folder(name, revision, allow_pickle, FILES, "text-image pair", "")
    config = load(transformers.AutoConfig, folder)
    if not (hasattr(config, "text_config") and hasattr(config, "vision_config")):
        raise Refusal(
            f"{name} is a {config.model_type} model, and a class name is compared with a picture by a text-image pair "
            "only: name a CLIP or SigLIP with both of its towers"
        )
    if not has_vocabulary(folder):
        raise Refusal(
            f"{name} has no tokenizer, and class names are read by the pair's own: put its tokenizer.json (or vocab.json and "
            "merges.txt) into the folder"
        )
    tokenizer = load(transformers.AutoTokenizer, folder)
    if len(tokenizer) > (known := config.text_config.vocab_size):
        raise Refusal(
            f"{name}: its tokenizer has {len(tokenizer)} words and its text tower knows {known}: they do not belong together; "
            "use the tokenizer it was trained with"
        )
    return folder, Tokens(name, tokenizer, config.text_config.max_position_embeddings)


def _of_folder(name: str, revision: str | None, allow_pickle: bool) -> ClipPair:
    folder, tokens = _folder_and_tokens(name, revision, allow_pickle)
    transformers = need("transformers", "hf")
    net, told = load_net(transformers.AutoModel, folder, output_loading_info=True)
    if not (
        hasattr(net, "get_text_features")
        and hasattr(net, "get_image_features")
        and hasattr(net, "logit_scale")
    ):
        raise Refusal(
            f"{name} is a {net.config.model_type} model, which compares no texts with pictures: name a CLIP or SigLIP"
        )
    if lacking := sorted(told["missing_keys"]):
        raise Refusal(
            f"{name} has no weights for {len(lacking)} of its parts, the first {lacking[0]}: name a CLIP or SigLIP with both "
            "of its towers"
        )
    backbone = Backbone(
        net, lambda x: pooled(net, x), content_of(folder), *preprocessing(folder, net.config, None)
    )
    words = hash_of(path for path in map(folder.joinpath, FILES) if path.is_file())
    return ClipPair(backbone, tokens, float(net.logit_scale.exp()), _content(backbone, words))


def _content(backbone: Backbone, words: bytes) -> bytes:
    return hashlib.blake2b(bytes.fromhex(backbone.digest) + words, digest_size=16).digest()


# --- open_clip ---------------------------------------------------------------------------------------------


class _Read(dict[str, Tensor]):
    """Tokens by the name that transformers gives them."""

    @property
    def input_ids(self) -> Tensor:
        return self["input_ids"]


@dataclass(frozen=True)
class _OpenClipTokenizer:
    """A tokenizer of open_clip, asked as those of transformers are. It cuts long texts and does not say so."""

    theirs: Any

    def __call__(self, texts: str | list[str], **_: Any) -> dict[str, Any]:
        if not isinstance(texts, str):
            return _Read(input_ids=self.theirs(texts))
        (ids,) = self.theirs([texts], context_length=8 * self.theirs.context_length).tolist()
        return {
            "input_ids": ids[: max(at for at, token in enumerate(ids) if token != ids[-1]) + 1]
        }  # unfilled


def _open_clip_tokens(name: str) -> Tokens:
    open_clip = need("open_clip", "openclip")
    model = name.removeprefix(OPEN_CLIP).partition("/")[0]
    with refusing(f"{name} has no tokenizer in open_clip", (AssertionError, OSError, ValueError)):
        theirs = open_clip.get_tokenizer(model)
    return Tokens(name, _OpenClipTokenizer(theirs), theirs.context_length)


def _of_open_clip(name: str) -> ClipPair:
    """Both towers are in the network whose picture half is the backbone of this name, and which tokenizer is in its name."""
    tokens, backbone = _open_clip_tokens(name), open_backbone(name)
    both: Any = backbone.net
    return ClipPair(
        backbone,
        tokens,
        float(both.logit_scale.exp()),
        _content(backbone, name.encode()),
        lambda net, ids: net.encode_text(ids["input_ids"]),
    )
