"""Pictures of the unlabelled pool as samples: real ones, found by what a text-image model says of them.

Nothing is made. Real pictures that are retrieved match or beat pictures made by a model of the same knowledge (Geng et al.
2024, "The unmet promise of synthetic training images"), so that whoever makes some has to beat this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.numpy import load_file, save
from torch import Tensor

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.checkpoints import refusing_full_disk
from counterpoise.generators.fitted import CONFIG, WEIGHTS, digest, read_config, refuse_another
from counterpoise.generators.generator import Context, Failed, Lesson, Row, Sampler, one_by_one
from counterpoise.nets.clip import ClipPair, open_clip_pair, open_tokens
from counterpoise.nets.words import prompts, with_article
from counterpoise.rundir import commit
from counterpoise.spaces.store import Store
from counterpoise.types import Refusal, describe, fingerprint, part

OPEN_AT_ONCE = 512  # rows of a pool of any size, while they are looked at
BATCH = 64  # of them go through the network together


@part
class Retrieved:
    """Of the pool the pictures that show a class most surely, the surest first, none of them twice.

    A picture is of the one class that it resembles most: p is the softmax over all classes of its cosines with their names,
    as zero-shot CLIP has it, and p is what the pictures of a class are sorted by. With `by_pictures` a class is known by its
    real pictures as well, and the mean of both cosines counts; but by names alone where some class has no picture. Copies, of
    a picture of the pool or of a real one, are left out.
    """

    model: str = "miniature"  # or a folder, or a name on the hub: any CLIP or SigLIP of transformers
    revision: str | None = None
    allow_pickle: bool = False
    template: str | Annotated[tuple[str, ...], Field(min_length=1)] = "a photo of {a}"  # of several, the mean
    by_pictures: bool = False  # helps where the model does not know the names, else it hurts
    learns: ClassVar[bool] = True
    takes_guides: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False
    spaces: ClassVar[tuple[str, ...]] = ("pixels",)
    own_space: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for template in self.templates:
            prompts(template, [])

    @property
    def templates(self) -> tuple[str, ...]:
        return (self.template,) if isinstance(self.template, str) else self.template

    def ready(self, classes: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is opened; `classes` are none as long as nobody knows them."""
        tokens = open_tokens(self.model, self.revision, self.allow_pickle)
        if classes:
            for template in self.templates:
                tokens(prompts(template, classes))

    def fit(self, lesson: Lesson, out: Path, seed: int) -> None:
        """Puts the pool in order. A seed has no part in that."""
        if lesson.pool is None:
            raise Refusal(
                "pictures are retrieved from unlabelled ones, and the data have none: name a folder of them with --pool DIR, or "
                "put some aside with --pool SHARE"
            )
        pair = open_clip_pair(self.model, self.revision, self.allow_pickle)
        config = {"classes": list(lesson.classes), "content": pair.content.hex()}
        decides = {"templates": self.templates, "by_pictures": self.by_pictures, "data": digest(lesson)}
        identity = fingerprint(config | decides)
        if not refuse_another(out, identity):
            arrays = ranked(pair, self._known(pair, lesson), lesson)
            with refusing_full_disk(out):
                commit(out / WEIGHTS, lambda file: file.write(save(arrays, {"identity": identity})))
        told = {"generator": describe(self)} | config
        with refusing_full_disk(out):
            commit(out / CONFIG, lambda file: file.write(json.dumps(told, indent=2).encode()))
        lesson.hear(1.0)

    def _known(self, pair: ClipPair, lesson: Lesson) -> Tensor:
        """What pictures are compared with: by the cosine with it of a unit vector (N, d)."""
        names = pair.classes(self.templates, lesson.classes)
        if not self.by_pictures or not np.bincount(lesson.labels, minlength=len(names)).all():
            return names
        shown = torch.zeros_like(names)
        for places in _slices(lesson.rows):
            shown.index_add_(0, torch.from_numpy(lesson.labels[places]), seen(pair, lesson.rows.raw(places)))
        return (names + F.normalize(shown, dim=-1)) / 2

    def load(self, out: Path, ctx: Context) -> Sampler:
        found, names = load_file(out / WEIGHTS), read_config(out)["classes"]

        def sample(row: Row) -> np.ndarray:
            assert ctx.pool is not None
            first, end = found["starts"][row["label"] : row["label"] + 2].tolist()
            if first + row["ordinal"] >= end:
                raise Failed(
                    f"the pool holds {end - first} pictures like {with_article(names[row['label']])}"
                )
            return ctx.pool.raw(found["places"][[first + row["ordinal"]]])[0]

        return one_by_one(sample)


def ranked(pair: ClipPair, known: Tensor, lesson: Lesson) -> dict[str, np.ndarray]:
    """The places in the pool class by class, the likeliest first, with their p; those of class c are starts[c]:starts[c + 1]."""
    pool = lesson.pool
    assert pool is not None
    label, p, prints = (np.empty(len(pool), kind) for kind in (np.int64, np.float64, np.uint64))
    for places in _slices(pool):
        pixels = pool.raw(places)
        cosines = seen(pair, pixels).double() @ known.double().T  # in single precision many p are 1
        p[places], label[places] = (found.numpy() for found in torch.softmax(pair.scale * cosines, 1).max(1))
        prints[places] = _prints(pixels)
        lesson.hear((places[-1] + 1) / len(pool))
    _, first = np.unique(prints, return_index=True)
    real = [_prints(lesson.rows.raw(places)) for places in _slices(lesson.rows)]
    fresh = np.sort(first[~np.isin(prints[first], np.concatenate([*real, prints[:0]]))])
    order = fresh[np.lexsort((-p[fresh], label[fresh]))]
    starts = np.searchsorted(label[order], np.arange(len(known) + 1))
    return {"places": order, "p": p[order], "starts": starts}


def seen(pair: ClipPair, pixels: np.ndarray) -> Tensor:
    """uint8 (n, h, w, c) => unit rows (n, d). Each picture is looked at once on a machine, whoever asks for its features."""

    def encode(pixels: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(pixels).split(BATCH)
        return torch.cat([pair.backbone(batch).cpu() for batch in batches]).numpy()

    return F.normalize(torch.from_numpy(Store.of(pair.backbone.digest).rows(pixels, encode)), dim=-1)


def _slices(rows: Rows) -> Iterator[np.ndarray]:
    """The places of all rows, a few at a time."""
    for start in range(0, len(rows), OPEN_AT_ONCE):
        yield np.arange(start, min(start + OPEN_AT_ONCE, len(rows)))


def _prints(pixels: np.ndarray) -> np.ndarray:
    """A number for each picture (n,): equal pictures have equal ones."""
    found = [hashlib.blake2b(picture.tobytes(), digest_size=8).digest() for picture in pixels]
    return np.frombuffer(b"".join(found), np.uint64)
