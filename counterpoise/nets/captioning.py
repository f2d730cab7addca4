"""Other people's models that say in words what a picture shows: BLIP, GIT, LLaVA and whatever else of transformers does.

Weights are safetensors unless pickle is allowed by name; remote code never runs. Nothing here knows labels of a study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from counterpoise.nets.backbones import load, model_folder
from counterpoise.nets.folders import need
from counterpoise.nets.language import ALSO, LONGEST, greedy, opened, silence
from counterpoise.nets.tokens import has_vocabulary
from counterpoise.types import Refusal

BATCH = 16
QUESTION = "Describe this picture in one short sentence: what it shows, where, and in what light."
PROCESSORS = ["preprocessor_config.json", "processor_config.json"]


@dataclass(frozen=True)
class Captioner:
    """Pictures in words: of what it says always the likeliest."""

    processor: Any
    net: Any

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray) -> list[str]:
        """uint8 (n, h, w, c), grey ones as well => a caption for each."""
        return [
            text
            for start in range(0, len(pixels), BATCH)
            for text in self._say(pixels[start : start + BATCH])
        ]

    def _say(self, pixels: np.ndarray) -> Iterator[str]:
        pictures = [Image.fromarray(np.asarray(one).squeeze()).convert("RGB") for one in pixels]
        asked = {"text": [self._question] * len(pictures)} if self._talks else {}
        given = self.processor(images=pictures, return_tensors="pt", **asked).to(self.net.device)
        given["pixel_values"] = given["pixel_values"].to(self.net.dtype)
        settings = greedy(self.net, self.processor.tokenizer, LONGEST)
        with silence():
            out = self.net.generate(**given, generation_config=settings)
        if asked:
            out = out[:, given["input_ids"].shape[1] :]
        yield from (text.strip() for text in self.processor.batch_decode(out, skip_special_tokens=True))

    @property
    def _talks(self) -> bool:
        """Whether it has to be asked; the others know only one thing to say."""
        return bool(getattr(self.processor, "chat_template", None))

    @property
    def _question(self) -> str:
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        return self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)


def captioner_folder(name: str, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """The folder of this name, where it could be opened."""
    transformers = need("transformers", "hf")
    also = [*ALSO, *PROCESSORS, "chat_template.json"]
    folder = model_folder(name, revision, allow_pickle, also, "captioning model", "")
    config = load(transformers.AutoConfig, folder)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise Refusal(
            f"{name} is a {config.model_type} model, which does not say what a picture shows: name one that does, such as BLIP"
        )
    if not has_vocabulary(folder) or not any((folder / file).is_file() for file in PROCESSORS):
        raise Refusal(
            f"{name} has no tokenizer or says nothing of how it sees pictures: put its tokenizer.json and "
            f"{PROCESSORS[0]} into the folder"
        )
    return folder


def open_captioner(name: str, revision: str | None = None, allow_pickle: bool = False) -> Captioner:
    """The model of this name, a folder or a name on the hub; on the accelerator where there is one."""
    folder, transformers = captioner_folder(name, revision, allow_pickle), need("transformers", "hf")
    processor = load(transformers.AutoProcessor, folder)
    return Captioner(processor, opened(name, transformers.AutoModelForImageTextToText, folder))
