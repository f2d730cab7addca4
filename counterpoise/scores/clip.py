"""Does a picture show its class? Asked of a text-image model, which knows the class by its name alone.

The filter of He et al. (ICLR 2023, "Is synthetic data from generative models ready for image recognition?", C.5.1), and other
numbers of the same two towers. They are rules together with `scores/select.py`:

    p > 1/N           AtLeast("clip", 1.0)           of Clip
    argmax = class    AtLeast("margin", 0.0)         of Margin
    the upper half    BestShare("margin", 0.5)       Clip's p of many is 1, and those are in no order
    no drawings       AtLeast("contrast", 0.5)       of Contrast
    as real ones are  AtLeast("among_real", 0.1)     of AmongReal (scores/among.py), whatever N is
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.stats import binomtest
from torch import Tensor

from counterpoise.nets.words import PLACES, prompts
from counterpoise.scores.batch import Batch
from counterpoise.scores.looking import MOST_ASKED, Looking, Model, opened
from counterpoise.types import part

Templates = str | Annotated[tuple[str, ...], Field(min_length=1)]


class Asking(Looking):
    """The work of a part that asks the model about class names; it says what it makes of the answers in `values`."""

    template: Templates
    par: ClassVar[float]  # what speaks neither for the class nor against it
    doubt: ClassVar[str] = "it does not know these names"  # where real pictures are below par

    def __post_init__(self) -> None:
        for template in self.templates:
            prompts(template, [])

    @property
    def templates(self) -> tuple[str, ...]:
        return _several(self.template)

    @property
    def asked(self) -> tuple[str, ...]:
        """All that is said of each class."""
        return self.templates

    def ready(self, classes: Sequence[str] | None) -> None:
        """Refuses what can be refused before anything is made; `classes` are none as long as nobody knows them."""
        tokens = self.tokens()
        if classes:
            for template in self.asked:
                tokens(_said_of(template, classes))

    def __call__(self, batch: Batch, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        values = self.values(batch.pictures, batch.labels, batch.classes)
        return values, np.full(len(values), "")

    def values(self, pictures: np.ndarray | None, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        raise NotImplementedError

    def logits(self, pictures: np.ndarray | None, classes: Sequence[str]) -> Tensor:
        """uint8 (n, h, w, c) => of every class, by its name (n, N)."""
        return self.pair().scale * self.seen(pictures) @ self.said(self.templates, classes).T

    def said(self, templates: tuple[str, ...], classes: Sequence[str]) -> Tensor:
        """Unit rows (N, d)."""
        return _said(self._named(), templates, tuple(classes))

    def of_real(self, real: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
        """What it says of the study's own pictures, some of each class: the share found under their names, and by class the
        share above par. A model that would drop most of a class's real pictures has no idea of it.
        """
        asked = some_of_each(labels, len(classes), MOST_ASKED)
        if not len(asked):
            return {}
        shown, own = real[asked], labels[asked]
        fine = self.values(shown, own, classes) >= self.par
        kept = {classes[label]: fine[own == label] for label in np.unique(own)}
        unknown = [
            name
            for name, some in kept.items()
            if binomtest(int(some.sum()), len(some), 0.5, "less").pvalue < 0.05
        ]
        if unknown:
            warnings.warn(
                f"{type(self).__name__}: {self.model} takes most real pictures of {len(unknown)} of {len(classes)} classes for "
                f"something else ({', '.join(unknown[:5])}): {self.doubt}, and filters by noise; name another model",
                stacklevel=2,
            )
        right = self.logits(shown, classes).argmax(1).numpy() == own
        return {
            "real_top1": float(right.mean()),
            "real_kept": {name: float(some.mean()) for name, some in kept.items()},
        }


@part
class Clip(Asking):
    """N p(label): how many times likelier than by chance the class is, of the N of the study. Higher is better.

    p is the softmax over all class names of what the model says of picture and name. In these units the published rule,
    keep where p > 1/N, is AtLeast("clip", 1.0) for any number of classes; p > 1/2 would be a limit of N/2. A model that
    also trained or initialised the classifier is a partial judge: name another.
    """

    model: str = "miniature"  # or a folder, a name on the hub, openclip:MODEL/TAG: any CLIP or SigLIP
    revision: str | None = None
    allow_pickle: bool = False
    template: Templates = "a photo of {a}"  # of several, the mean
    par: ClassVar[float] = 1.0

    def values(self, pictures: np.ndarray | None, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        return self.probabilities(pictures, classes)[np.arange(len(labels)), labels] * len(classes)

    def probabilities(self, pictures: np.ndarray | None, classes: Sequence[str]) -> np.ndarray:
        """uint8 (n, h, w, c) => of every class, by its name (n, N)."""
        return torch.softmax(self.logits(pictures, classes), 1).numpy()


@part
class Margin(Asking):
    """log p(label) - log p(the best other class), in nats: above 0 the class is the likeliest. Higher is better.

    As `Clip`, but it does not depend on how many classes there are, and tells apart what is certain.
    """

    model: str = "miniature"
    revision: str | None = None
    allow_pickle: bool = False
    template: Templates = "a photo of {a}"
    par: ClassVar[float] = 0.0

    def values(self, pictures: np.ndarray | None, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        said, own = self.logits(pictures, classes), torch.as_tensor(labels)[:, None]
        return (said.gather(1, own)[:, 0] - said.scatter(1, own, -torch.inf).amax(1)).numpy()


@part
class Contrast(Asking):
    """p that a picture is what `template` says of its class, and none of what `against` says of it. Higher is better.

    The softmax is over these prompts alone; other classes are not asked about. A prompt without {a} or {name} is the same
    for all classes ("an empty background").
    """

    model: str = "miniature"
    revision: str | None = None
    allow_pickle: bool = False
    template: Templates = "a photo of {a}"
    against: Templates = "a drawing of {a}"
    par: ClassVar[float] = 0.5
    doubt: ClassVar[str] = "its prompts do not tell them apart"

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in _several(self.against):
            _said_of(template, [])

    @property
    def asked(self) -> tuple[str, ...]:
        return (*self.templates, *_several(self.against))

    def values(self, pictures: np.ndarray | None, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        ways = [self.templates, *((template,) for template in _several(self.against))]
        said = torch.stack([self.said(way, classes)[labels] for way in ways], 1)  # (n, prompts, d)
        return torch.softmax(self.pair().scale * (said @ self.seen(pictures)[:, :, None])[:, :, 0], 1)[
            :, 0
        ].numpy()


def some_of_each(labels: np.ndarray, classes: int, most: int) -> np.ndarray:
    """Rows, class by class: at most so many altogether, but two of each class that has them.

    >>> some_of_each(np.array([1, 0, 1, 1, 1]), 3, most=3)
    array([1, 0, 4])
    """
    each = max(2, most // classes)
    places = [np.flatnonzero(labels == label) for label in range(classes)]
    return np.concatenate([rows[_evenly(len(rows), each)] for rows in places])


def _evenly(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def _several(templates: Templates) -> tuple[str, ...]:
    return (templates,) if isinstance(templates, str) else templates


def _said_of(template: str, names: Sequence[str]) -> list[str]:
    return prompts(template, names) if PLACES.search(template) else [template] * len(names)


@lru_cache(maxsize=4)
def _said(model: Model, templates: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """What the model makes of the class names (N, d): once for all batches of a study."""
    pair = opened(model)
    if PLACES.search(templates[0]):
        return pair.classes(templates, classes)
    (same,) = templates
    return pair.texts([same]).expand(len(classes), -1)
