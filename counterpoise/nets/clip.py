"""A picture network and a text network that map into one space: CLIP and SigLIP (Radford et al. 2021, Zhai et al. 2023).

Any such pair of transformers, opened as backbones are, with the folder's own tokenizer. How near a picture is to a
sentence is `scale` times the cosine of the two. Nothing here knows labels of a study.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    pooled,
    preprocessing,
)
from counterpoise.nets.folders import hash_of, need
from counterpoise.nets.tokens import FILES, Tokens, has_vocabulary
from counterpoise.nets.words import prompts
from counterpoise.types import Refusal

BATCH = 64


@dataclass(frozen=True)
class ClipPair:
    """Pictures and sentences as unit vectors of one space."""

    backbone: Backbone
    tokens: Tokens
    scale: float  # by which cosines become logits
    content: bytes  # changes with the weights, the preprocessing and the tokenizer

    @torch.no_grad()
    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences => unit rows (n, d)."""
        net: Any = self.backbone.net
        tokens = self.tokens(sentences).to(net.device)
        found = []
        for start in range(0, len(sentences), BATCH):
            out = net.get_text_features(**{name: ids[start : start + BATCH] for name, ids in tokens.items()})
            found.append(out if isinstance(out, Tensor) else out.pooler_output)
        return F.normalize(torch.cat(found).float(), dim=-1).cpu()

    def pictures(self, pixels: np.ndarray | Tensor) -> Tensor:
        """uint8 (n, h, w, c), grey ones as well => unit rows (n, d)."""
        found = [
            self.backbone(torch.from_numpy(np.array(pixels[start : start + BATCH]))).cpu()
            for start in range(0, len(pixels), BATCH)
        ]
        return F.normalize(torch.cat(found), dim=-1) if found else torch.zeros(0, self.backbone.dim)

    def classes(self, templates: Sequence[str], names: Sequence[str]) -> Tensor:
        """One unit row per class name (N, d): the mean over templates, as CLIP's zero-shot classifier has it."""
        said = torch.stack(
            [self.texts(prompts(template, names)) for template in templates]
        )  # (templates, N, d)
        return F.normalize(said.mean(0), dim=-1)


def open_tokens(name: str, revision: str | None = None, allow_pickle: bool = False) -> tuple[Path, Tokens]:
    """The folder of the pair of this name, and what reads its texts: all that can be checked before the networks are opened."""
    if name.startswith(("timm:", "openclip:")):
        raise Refusal(
            f"{name}: text-image pairs are had from transformers only: name hf:OWNER/NAME or a folder"
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


def open_clip_pair(name: str, revision: str | None = None, allow_pickle: bool = False) -> ClipPair:
    """The pair of this name, ``miniature``, a folder, or a name on the hub; on the accelerator where there is one."""
    folder, tokens = open_tokens(name, revision, allow_pickle)
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
    content = hashlib.blake2b(bytes.fromhex(backbone.digest) + words, digest_size=16).digest()
    scale = float(net.logit_scale.exp())
    return ClipPair(backbone.to("cuda" if torch.cuda.is_available() else "cpu"), tokens, scale, content)
