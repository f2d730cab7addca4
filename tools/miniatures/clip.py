"""CLIP in small: a vision and a text transformer that learn which caption belongs to which picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig

from counterpoise.nets.words import prompts
from miniatures.captions import Captions
from miniatures.learning import Place, Timetable, draws, train
from miniatures.pictures import Pictures, batch
from miniatures.words import LENGTH, VOCABULARY

BATCH, TEXTS = 128, 128
FREEZE = 1000  # steps, after which the texts stand still and the pictures go on: the diffusion model needs them early
WIDTH = 192
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SHARPEST = float(np.log(50))  # of the logit scale, in training and in the file


def build() -> CLIPModel:
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH, num_hidden_layers=4,
        num_attention_heads=6, max_position_embeddings=LENGTH, hidden_act="gelu", bos_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1,
        pad_token_id=VOCABULARY - 1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH, num_hidden_layers=6, num_attention_heads=6,
        image_size=32, patch_size=4, hidden_act="gelu",
    )  # fmt: skip
    model = CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    )
    model.set_attn_implementation("eager")
    return model


def fit(
    real: Pictures,
    held: Pictures,
    tokenizer: CLIPTokenizer,
    work: Path,
    place: Place,
    steps: int,
    minutes: float | None,
) -> nn.Module | None:
    from counterpoise.data.augment import Chain, Crop, Flip, RandAugment

    net, captions = build(), Captions(real.names)
    ids = tokens(tokenizer, captions.texts)
    said_by_all: list[Tensor] = []
    timetable = Timetable(steps, 1e-3, warm=500, cool=max(1, steps // 4), decay=0.1)
    change = Chain((Crop(border="reflect"), Flip(), RandAugment(ops=1)))

    def loss_of(step: int, place: Place) -> Tensor:
        rng = draws("clip", step, place.rank)
        rows = place.mine(batch(len(real.labels), BATCH, "clip", step))
        labels = real.labels[rows]
        x = real.pixels[torch.from_numpy(rows)]
        x, _ = change(x, torch.zeros(len(x), 1), torch.Generator().manual_seed(int(rng.integers(2**31))))
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = _erased(x, rng) if step >= timetable.steps - timetable.cool else x
        texts = np.unique(
            captions.draw(
                np.concatenate([labels, rng.integers(len(real.names), size=TEXTS - len(labels) // 2)]), rng
            )
        )
        true = torch.from_numpy(captions.true_of[texts][:, labels].T.astype(np.float32))  # (pictures, texts)
        if step >= FREEZE and not said_by_all:
            net.text_model.requires_grad_(False)
            net.text_projection.requires_grad_(False)
            with torch.no_grad():
                said_by_all.append(torch.cat([embed_texts(net, part) for part in ids.split(128)]))
        with torch.autocast("cpu", torch.bfloat16):
            kept = patches_kept(net, len(x), rng) if step < timetable.steps - timetable.cool else None
            seen = embed_pictures(net, x * 2 - 1, kept)
            said = said_by_all[0][texts] if said_by_all else embed_texts(net, ids[texts])
            logits = (seen @ said.T).float() * net.logit_scale.clamp(max=SHARPEST).exp()
        # Several captions are true of a picture and several pictures of a caption: all of them share the target
        # (UniCL, Yang et al. 2022).
        by_picture = -(F.log_softmax(logits, 1) * _shared(true)).sum(1).mean()
        some = true.any(0)
        by_text = -(F.log_softmax(logits, 0).T[some] * _shared(true.T[some])).sum(1).mean()
        return by_picture + 0.5 * by_text

    def look(net: nn.Module, step: int) -> dict[str, float]:
        return {"zero_shot": zero_shot(net, tokenizer, held, 2000)}

    return train(net, loss_of, timetable, work, place, minutes, look)


def _shared(true: Tensor) -> Tensor:
    return true / true.sum(1, keepdim=True).clamp(min=1)


def _erased(x: Tensor, rng: np.random.Generator) -> Tensor:
    """A grey square over half of the pictures (Zhong et al. 2017)."""
    x = x.clone()
    size = x.shape[-1]
    for i in np.flatnonzero(rng.random(len(x)) < 0.5):
        side = int(rng.integers(4, 14))
        top, left = rng.integers(0, size - side + 1, 2)
        x[i, :, top : top + side, left : left + side] = 0.5
    return x


def patches_kept(net: nn.Module, n: int, rng: np.random.Generator) -> Tensor:
    """Half of the patches of each picture, and its class token: twice as fast until the rate falls (Li et al. 2023, FLIP)."""
    patches = int(net.vision_model.embeddings.num_patches)  # type: ignore[union-attr, arg-type]
    chosen = rng.random((n, patches)).argpartition(patches // 2, 1)[:, : patches // 2]
    return torch.from_numpy(np.concatenate([np.zeros((n, 1), np.int64), np.sort(chosen, 1) + 1], 1))


def embed_pictures(net: nn.Module, x: Tensor, kept: Tensor | None = None) -> Tensor:
    if kept is None:
        return F.normalize(net.get_image_features(pixel_values=x).pooler_output, dim=-1)  # type: ignore[operator]
    tower: Any = net.vision_model
    shown = tower.embeddings(x)
    shown = shown.gather(1, kept[:, :, None].expand(-1, -1, shown.shape[-1]))
    out = tower.encoder(inputs_embeds=tower.pre_layrnorm(shown)).last_hidden_state
    return F.normalize(net.visual_projection(tower.post_layernorm(out[:, 0])), dim=-1)  # type: ignore[operator]


def embed_texts(net: nn.Module, ids: Tensor) -> Tensor:
    return F.normalize(net.get_text_features(input_ids=ids).pooler_output, dim=-1)  # type: ignore[operator]


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def zero_shot(net: nn.Module, tokenizer: CLIPTokenizer, held: Pictures, n: int) -> float:
    """Top-1 of "a photo of a NAME", per cent."""
    said = embed_texts(net, tokens(tokenizer, prompts("a photo of {a}", held.names)))
    right = [
        (embed_pictures(net, held.seen(rows)) @ said.T).argmax(1).numpy() == held.labels[rows]
        for rows in np.array_split(np.arange(n), max(1, n // 250))
    ]
    return 100 * float(np.concatenate(right).mean())


def text_tower(work: Path) -> CLIPTextModel:
    """The text half as it was frozen, for the diffusion model to read with."""
    state = load_file(work / "state.safetensors")
    if int(state["at"]) < FREEZE:
        raise SystemExit(
            f"CLIP's text half stands still from step {FREEZE} on, and it is at {int(state['at'])}: train clip first"
        )
    tower = CLIPTextModel(build().config.text_config)
    names = {
        f"net/{name}" if name.startswith("text_model.") else f"net/text_model.{name}": name
        for name in tower.state_dict()
    }
    tower.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})
    return tower.eval().requires_grad_(False)
