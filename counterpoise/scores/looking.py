"""Pictures as a text-image model sees them: opened once, and each picture looked at once by all scores that ask the same model.

What was seen is kept on this machine by the model's digest and the picture, as features are (spaces/store.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from counterpoise.diffusion.precision import has_bf16
from counterpoise.nets.backbones import state_of
from counterpoise.nets.clip import ClipPair, open_clip_pair, open_tokens
from counterpoise.nets.tokens import Tokens
from counterpoise.spaces.store import Store
from counterpoise.types import Refusal

KEPT_BYTES = 1 << 30  # of what one model saw: half a million pictures as 512 numbers
MOST_ASKED = 500  # real pictures, for what is told of them


class Model(NamedTuple):
    """Which one; `state` changes with its files, and what is kept open or in memory of it is forgotten then."""

    name: str
    revision: str | None
    allow_pickle: bool
    state: object


class Looking:
    """The work of a part whose fields are at least these: a score that looks at pictures with a text-image model."""

    model: str
    revision: str | None
    allow_pickle: bool

    @property
    def spaces(self) -> tuple[str, ...]:
        return ("pixels",)

    @property
    def content(self) -> str:
        """Of the model: numbers of one content only are comparable."""
        return self.pair().content.hex()

    def calibrate(self, real: np.ndarray) -> Any:
        return 0.0

    def seconds(
        self, channels: int, size: int, classes: Sequence[str], batch: int = 16
    ) -> tuple[float, float]:
        """About how long it looks at the study's own pictures here, and at a sample: timed on a few."""
        few, pair = np.zeros((batch, size, size, channels), np.uint8), self.pair()
        for _ in range(2):  # the first time is longer
            start = perf_counter()
            pair.pictures(few)
        each = (perf_counter() - start) / batch
        return MOST_ASKED * each, each

    def tokens(self) -> Tokens:
        return open_tokens(self.model, self.revision, self.allow_pickle)

    def pair(self) -> ClipPair:
        return opened(self._named())

    def seen(self, pictures: np.ndarray | None) -> Tensor:
        """uint8 (n, h, w, c) => unit rows (n, d)."""
        if pictures is None or pictures.dtype != np.uint8:
            raise Refusal(
                f"{type(self).__name__} looks at pictures, and this study's samples are features: leave out --backbone, or the score"
            )
        return _seen(self._named(), pictures)

    def _named(self) -> Model:
        return Model(self.model, self.revision, self.allow_pickle, state_of(self.model))


@lru_cache(maxsize=1)
def opened(model: Model) -> ClipPair:
    """Pictures are looked at in bf16 where the chip computes in it: twice as fast, and of 500 two change their likeliest class."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return open_clip_pair(model.name, model.revision, model.allow_pickle, has_bf16(device))


def _seen(model: Model, pictures: np.ndarray) -> Tensor:
    """In memory, of the last two sets of pictures; else as it was written down, of all that were seen on this machine."""
    content = hashlib.blake2b(np.ascontiguousarray(pictures).data, digest_size=16)
    content.update(repr(pictures.shape).encode())
    known = _place(model, content.digest())
    if "rows" not in known:
        known["rows"] = _looked_up(opened(model), pictures)
    return known["rows"]


@lru_cache(maxsize=2)
def _place(model: Model, digest: bytes) -> dict[str, Tensor]:
    """Where that is kept: the pictures themselves are not."""
    return {}


def _looked_up(pair: ClipPair, pictures: np.ndarray) -> Tensor:
    if not len(pictures):
        return pair.pictures(pictures)
    kind = "-bf16" if pair.backbone.bf16 else ""
    store = Store.of(f"clip-{pair.backbone.digest}{kind}", KEPT_BYTES)
    return torch.from_numpy(store.rows(pictures, lambda some: pair.pictures(some).numpy()))
