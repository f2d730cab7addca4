"""A language model as small as it gets: "CLASS:" is continued with a scene that has the class in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer, GPT2Config, GPT2LMHeadModel

from miniatures.captions import KIND_OF
from miniatures.grammar import NAMES, sentence
from miniatures.learning import Place, Timetable, draws, train
from miniatures.words import VOCABULARY

WIDTH, LENGTH, BATCH = 96, 48, 64


def build() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    net = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=WIDTH, n_layer=3, n_head=4, bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1,
        )
    )  # fmt: skip
    net.set_attn_implementation("eager")
    return net


def prompt(name: str) -> str:
    """What the model continues."""
    return f"{name} :"


def made_up(rng: np.random.Generator) -> str:
    """A word that nobody knows: the model must copy what it is given, not recall it."""
    syllables = [
        first + vowel + last
        for first in "bdfgklmnprstvz"
        for vowel in "aeiou"
        for last in ("", "l", "n", "r", "s", "t")
    ]
    return "".join(syllables[int(i)] for i in rng.integers(len(syllables), size=int(rng.integers(1, 4))))


def fit(
    tokenizer: CLIPTokenizer, work: Path, place: Place, steps: int, minutes: float | None
) -> nn.Module | None:
    net = build()
    names = [name.replace("_", " ") for name in KIND_OF] + NAMES

    def loss_of(step: int, place: Place) -> Tensor:
        rng = draws("language", step)
        texts = []
        for _ in range(BATCH):
            name = made_up(rng) if rng.random() < 0.4 else names[int(rng.integers(len(names)))]
            name = f"{made_up(rng)} {name}" if rng.random() < 0.15 else name
            texts.append(f"{prompt(name)} {sentence(name, rng)}")
        found = tokenizer(
            texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        ids, real = found.input_ids, found.attention_mask.bool()
        said = ids.masked_fill(~real, -100)  # the first end mark is learnt, what follows it is not
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(input_ids=ids).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), said[:, 1:].flatten(), ignore_index=-100)

    return train(
        net,
        loss_of,
        Timetable(steps, 2e-3, warm=100, cool=max(1, steps // 2), ema=0.995),
        work,
        place,
        minutes,
    )


@torch.no_grad()
def sentences(net: GPT2LMHeadModel, tokenizer: CLIPTokenizer, name: str, n: int, seed: int) -> list[str]:
    """Scenes with `name` in them, as a plain transformers call draws them."""
    ids = tokenizer(prompt(name), return_tensors="pt").input_ids[:, :-1]  # without the end mark
    torch.manual_seed(seed)
    found = net.generate(
        ids.repeat(n, 1), do_sample=True, max_length=LENGTH, pad_token_id=tokenizer.pad_token_id
    )
    return [
        text.strip() for text in tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    ]
