"""Does a picture show its class? Asked of a text-image model, which knows the class by its name alone.

The filter of He et al. (ICLR 2023, "Is synthetic data from generative models ready for image recognition?", C.5.1).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.stats import binomtest

from counterpoise.nets.backbones import state_of
from counterpoise.nets.clip import ClipPair, open_clip_pair, open_tokens
from counterpoise.nets.words import prompts
from counterpoise.scores.batch import Batch
from counterpoise.types import Refusal, part

MOST_ASKED = 500  # pictures


@part
class Clip:
    """N p(label): how many times likelier than by chance the class is, of the N of the study. Higher is better.

    p is the softmax over all class names of what the model says of picture and name. In these units the published rule,
    keep where p > 1/N, is AtLeast("clip", 1.0) for any number of classes; p > 1/2 would be a limit of N/2. A model that
    also trained or initialised the classifier is a partial judge: name another.
    """

    model: str = "miniature"  # or a folder, or a name on the hub: any CLIP or SigLIP of transformers
    revision: str | None = None
    allow_pickle: bool = False
    template: str | Annotated[tuple[str, ...], Field(min_length=1)] = "a photo of {a}"  # of several, the mean
    spaces: ClassVar[tuple[str, ...]] = ("pixels",)

    def __post_init__(self) -> None:
        for template in self.templates:
            prompts(template, [])

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.template,) if isinstance(self.template, str) else self.template

    def ready(self, classes: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is made; `classes` are none as long as nobody knows them."""
        _, tokens = open_tokens(self.model, self.revision, self.allow_pickle)
        if classes:
            for template in self.templates:
                tokens(prompts(template, classes))

    @property
    def content(self) -> str:
        """Of the model: numbers of one content only are comparable."""
        return self._pair().content.hex()

    def calibrate(self, real: np.ndarray) -> float:
        return 0.0

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        p = self.probabilities(batch.pictures, batch.classes)
        own = p[np.arange(len(batch.labels)), batch.labels]
        return own * len(batch.classes), np.full(len(own), "")

    def of_real(self, real: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
        """What it says of the study's own pictures, some of each class: the share found under their names, and by class the
        share that the published rule would keep. A model that would drop most of a class's real pictures has no idea of it.
        """
        most = max(2, MOST_ASKED // len(classes))
        places = {name: np.flatnonzero(labels == label) for label, name in enumerate(classes)}
        asked = np.concatenate([_evenly(rows, most) for rows in places.values()])
        # Lots of one draw have the same real rows.
        p = _known(self, self.content, classes, Pictures.of(real[asked]))
        fine = p[np.arange(len(asked)), labels[asked]] * len(classes) >= 1
        kept = {name: fine[np.isin(asked, rows)] for name, rows in places.items() if len(rows)}
        unknown = [
            name
            for name, some in kept.items()
            if binomtest(int(some.sum()), len(some), 0.5, "less").pvalue < 0.05
        ]
        if unknown:
            warnings.warn(
                f"Clip: {self.model} takes most real pictures of {len(unknown)} of {len(classes)} classes for something else "
                f"({', '.join(unknown[:5])}): it does not know these names, and filters by noise; name another model",
                stacklevel=2,
            )
        right = float((p.argmax(1) == labels[asked]).mean())
        return {"real_top1": right, "real_kept": {name: float(some.mean()) for name, some in kept.items()}}

    def probabilities(self, pictures: np.ndarray | None, classes: tuple[str, ...]) -> np.ndarray:
        """uint8 (n, h, w, c) => of every class, by its name (n, N)."""
        if pictures is None or pictures.dtype != np.uint8:
            raise Refusal(
                "Clip looks at pictures, and this study's samples are features: leave out --backbone, or the score"
            )
        pair, names = self._pair(), _said(self, self.content, classes)
        return torch.softmax(pair.scale * pair.pictures(pictures) @ names.T, 1).numpy()

    def seconds(
        self, channels: int, size: int, classes: Sequence[str], batch: int = 16
    ) -> tuple[float, float]:
        """About how long it looks at the study's own pictures here, and at a sample: timed on a few."""
        few = np.zeros((batch, size, size, channels), np.uint8)
        for _ in range(2):  # the first one opens the model
            start = perf_counter()
            self.probabilities(few, tuple(classes))
        each = (perf_counter() - start) / batch
        return MOST_ASKED * each, each

    def _pair(self) -> ClipPair:
        return _opened(self.model, self.revision, self.allow_pickle, state_of(self.model))


@dataclass(frozen=True)
class Pictures:
    """Pictures that are equal where their digests are."""

    digest: bytes
    pixels: np.ndarray = field(compare=False)

    @classmethod
    def of(cls, pixels: np.ndarray) -> Pictures:
        digest = hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()
        return cls(digest, pixels)


@lru_cache(maxsize=2)
def _known(clip: Clip, content: str, classes: tuple[str, ...], pictures: Pictures) -> np.ndarray:
    """`content` is not read: another model is asked anew."""
    return clip.probabilities(pictures.pixels, classes)


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


@lru_cache(maxsize=1)
def _opened(name: str, revision: str | None, allow_pickle: bool, state: object) -> ClipPair:
    """`state` is not read: a model whose files changed is opened anew."""
    return open_clip_pair(name, revision, allow_pickle)


@lru_cache(maxsize=1)
def _said(clip: Clip, content: str, classes: tuple[str, ...]) -> torch.Tensor:
    """What it makes of the class names (N, d): once for all batches of a study."""
    return clip._pair().classes(clip.templates, classes)
