"""Other people's language models: asked something, they answer in words that are drawn by seed.

Any text-to-text or causal model of transformers. Weights are safetensors unless pickle is allowed by name; remote code never
runs. Nothing here knows what the answers are for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from counterpoise.nets import miniatures
from counterpoise.nets.backbones import load, load_net, model_folder
from counterpoise.nets.folders import need
from counterpoise.nets.tokens import FILES, has_vocabulary
from counterpoise.types import Refusal

#: How a model wants to be asked: the miniature continues "dolphin :", others a text or a turn in a talk, or answer one.
Kind = Literal["miniature", "causal", "chat", "text2text"]
ALSO = [*FILES, "generation_config.json", "chat_template.jinja"]
LONGEST, LEAST = 48, 8  # tokens of an answer
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclass(frozen=True)
class Script:
    """A model as far as it is known before its network is opened: how texts are put to it, and what it reads."""

    name: str
    folder: Path
    tokenizer: Any
    kind: Kind
    positions: int | None  # tokens of question and answer together; None: any number

    def tokens(self, asked: str, begun: str = "") -> dict[str, Tensor]:
        """A question as it is read, with the beginning of the answer (1, length)."""
        if self.kind == "text2text" and begun:
            raise Refusal(
                f"{self.name} answers a text, and begins its answers itself: ask without '|' ({asked!r})"
            )
        if self.kind == "chat":
            turn = [{"role": "user", "content": asked}]
            more = {
                "add_generation_prompt": True,
                "enable_thinking": False,
            }  # templates pass what they do not know
            asked = self.tokenizer.apply_chat_template(turn, tokenize=False, **more)
        read = self.tokenizer(
            asked + begun, return_tensors="pt", add_special_tokens=self.kind != "chat", verbose=False
        )
        ids = read.input_ids
        # Behind an end nothing would follow.
        ends = self.kind != "text2text" and ids[0, -1] == self.tokenizer.eos_token_id
        ids = ids[:, :-1] if ends else ids
        if self.room(ids) < LEAST:
            raise Refusal(
                f"{self.name} reads {self.positions} tokens, and {ids.shape[1]} are asked, which leaves too few for an answer: shorten "
                f"the name or the question {asked + begun!r}"
            )
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def room(self, ids: Tensor) -> int:
        """Tokens of its answer, at most."""
        asked = 0 if self.kind == "text2text" else ids.shape[1]
        return LONGEST if self.positions is None else min(LONGEST, self.positions - asked)


@dataclass(frozen=True)
class Writer:
    """A language model that answers."""

    script: Script
    net: Any

    @torch.no_grad()
    def __call__(
        self, asked: str, seeds: Sequence[int], begun: str = "", temperature: float = 1.0, top_p: float = 1.0
    ) -> list[str]:
        """An answer for each seed, and no two seeds know of each other.

        All rows ask the same: none is filled up, and where as many are asked at once every answer is the same bit for bit.
        """
        tokenizer, asked_ = self.script.tokenizer, self.script.tokens(asked, begun)
        rows = {name: value.expand(len(seeds), -1).to(self.net.device) for name, value in asked_.items()}
        settings = greedy(self.net, tokenizer, self.script.room(asked_["input_ids"]))
        with silence():
            out = self.net.generate(
                **rows, generation_config=settings, logits_processor=[Drawn(seeds, temperature, top_p)]
            )
        own = out if self.script.kind == "text2text" else out[:, asked_["input_ids"].shape[1] :]
        said = tokenizer.batch_decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [f"{begun} {text.strip()}".strip() for text in said]


class Drawn:
    """Makes the most probable token one that is drawn: each row by numbers of its own seed.

    From the most probable ones that have a share of `top_p` together (nucleus sampling, Holtzman et al. 2020).
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.temperature, self.top_p = temperature, top_p

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:  # (rows, tokens so far), (rows, vocabulary)
        p, order = (scores.double() / self.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        p = p * (p.cumsum(-1) - p < self.top_p)
        edges = p.cumsum(-1)
        drawn = (
            torch.tensor([[rng.random()] for rng in self.rngs], dtype=p.dtype, device=p.device)
            * edges[:, -1:]
        )
        chosen = order.gather(1, (edges <= drawn).sum(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


@contextmanager
def silence() -> Iterator[None]:
    """transformers warns of rows that look as if they were filled up."""
    logging = need("transformers", "hf").utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def greedy(net: Any, tokenizer: Any, longest: int) -> Any:
    """Settings that take the most probable token: of those that come with a model only its special tokens count."""
    ids = {name: getattr(net.generation_config, name, None) for name in IDS}
    if ids["eos_token_id"] is None:
        ids["eos_token_id"] = tokenizer.eos_token_id
    if ids["pad_token_id"] is None:
        ends = ids["eos_token_id"]
        ids["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    config = need("transformers", "hf").GenerationConfig
    return config(do_sample=False, num_beams=1, max_new_tokens=longest, **ids)


def open_script(name: str, revision: str | None = None, allow_pickle: bool = False) -> Script:
    """All that can be checked of a model before its network is opened."""
    transformers, ours = need("transformers", "hf"), name.removeprefix("hf:") == "miniature"
    place = str(miniatures.folder("language")) if ours else name
    folder = model_folder(place, revision, allow_pickle, ALSO, "language model", "")
    config = load(transformers.AutoConfig, folder)
    if type(config) in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and config.is_encoder_decoder:
        kind: Kind = "text2text"
    elif type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = "miniature" if ours else "causal"
    else:
        raise Refusal(
            f"{name} is a {config.model_type} model, which writes no texts: name a causal or a text-to-text language model"
        )
    if not has_vocabulary(folder):
        raise Refusal(f"{name} has no tokenizer: put its tokenizer.json into the folder")
    tokenizer = load(transformers.AutoTokenizer, folder)
    text = config.get_text_config()
    if len(tokenizer) > text.vocab_size:
        raise Refusal(
            f"{name}: its tokenizer has {len(tokenizer)} words and its network knows {text.vocab_size}: they do not belong "
            "together; use the tokenizer it was trained with"
        )
    kind = "chat" if kind == "causal" and tokenizer.chat_template else kind
    return Script(name, folder, tokenizer, kind, getattr(text, "max_position_embeddings", None))


def open_writer(name: str, revision: str | None = None, allow_pickle: bool = False) -> Writer:
    """The model of this name, ``miniature``, a folder, or a name on the hub; on the accelerator where there is one."""
    script, transformers = open_script(name, revision, allow_pickle), need("transformers", "hf")
    text2text = script.kind == "text2text"
    auto = transformers.AutoModelForSeq2SeqLM if text2text else transformers.AutoModelForCausalLM
    return Writer(script, opened(name, auto, script.folder))


def opened(name: str, auto: Any, folder: Path) -> Any:
    """The whole network, ready to write."""
    net, told = load_net(auto, folder, output_loading_info=True)
    if lacking := sorted(told["missing_keys"]):
        raise Refusal(
            f"{name} has no weights for {len(lacking)} of its parts, the first {lacking[0]}: name a model that was trained to write"
        )
    fast = torch.cuda.is_available()
    return (
        net.eval()
        .requires_grad_(False)
        .to("cuda" if fast else "cpu", torch.bfloat16 if fast else torch.float32)
    )
