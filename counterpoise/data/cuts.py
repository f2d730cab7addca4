"""How training rows are thinned to make an uneven set: long tails, few shots, missing groups. Pure functions of labels.

A cut comes after `Holdout` (counterpoise.data.splits), on the rows that became train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from counterpoise.seeding import generator
from counterpoise.types import Refusal, build, part

CUTS = (
    "none, exp:FACTOR, step:FACTOR, exp:FACTOR:ldam, exp:FACTOR:ranked, exp:FACTOR:shuffled, exp:FACTOR:top=N, "
    "exp:FACTOR:top=N:shuffled, few:K, group:GROUP:SHARE, group:GROUP:CLASS:SHARE"
)


class Cut(Protocol):
    """Thins out training rows. `labels` and `groups` are indices into the names; the answer is the kept rows, sorted."""

    def __call__(
        self,
        labels: np.ndarray,
        groups: np.ndarray | None,
        seed: int,
        classes: Sequence[str] = (),
        group_names: Sequence[str] = (),
    ) -> np.ndarray: ...


@part
class LongTail:
    """Keep n_c = int(n_max * factor^(-c/(C-1))) images of class c ("exp"), or cut the second half of the classes ("step").

    rule "largest": n_max is the size of the largest class, or `top` if that is less, and every class that has images
    keeps one. rule "ldam": n_max is the mean size and the draw is RandomState(0), whatever the seed: given the
    original order this is the CIFAR-LT of LDAM (arXiv 1906.07413), image by image. rule "ranked": c is the rank of the
    class by size, n_max the mean size and the exponent c/(C-2): the counts of CUB-LT (arXiv 2403.19600), whose
    ratio is less than the factor where classes are small, for every class keeps one. A class with fewer images than
    wanted keeps what it has; `shortfalls` tells.
    """

    kind: Literal["exp", "step"]
    factor: Annotated[float, Field(ge=1)]
    shuffle_classes: bool = False
    rule: Literal["largest", "ldam", "ranked"] = "largest"
    top: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.rule != "largest" and self.top is not None:
            whose = {"ldam": "of LDAM", "ranked": "by rank"}[self.rule]
            raise Refusal(
                f"LongTail.top: the rule {whose} takes n_max from the data, found top={self.top}; leave one of them out"
            )

    def __call__(
        self,
        labels: np.ndarray,
        groups: np.ndarray | None,
        seed: int,
        classes: Sequence[str] = (),
        group_names: Sequence[str] = (),
    ) -> np.ndarray:
        wanted = self.wanted(labels, seed, len(classes))
        if self.rule == "ldam":
            stream = np.random.RandomState(0)  # the published draw, kept local
            kept = []
            for rows, count in zip(_by_class(labels, len(wanted)), wanted, strict=True):
                stream.shuffle(rows)
                kept.append(rows[:count])
            return np.sort(np.concatenate(kept))
        return _first(labels, wanted, "long tail", seed)

    def wanted(self, labels: np.ndarray, seed: int, classes: int = 0) -> np.ndarray:
        """How many images each class is to keep; more than it has is possible."""
        have = np.bincount(labels, minlength=max(classes, 1))
        count = len(have)
        top = int(have.max(initial=0)) if self.rule == "largest" else len(labels) / count
        top = min(top, self.top or top)
        ratio, last = 1 / self.factor, max(count - (2.0 if self.rule == "ranked" else 1.0), 1.0)
        if self.kind == "exp":
            sizes = [int(top * ratio ** (rank / last)) for rank in range(count)]
        else:
            sizes = [
                int(top) if rank < count // 2 or count == 1 else int(top * ratio) for rank in range(count)
            ]
        wanted = np.array(sizes)
        if self.rule != "ldam":
            wanted = np.maximum(wanted, 1)
        if self.rule == "ranked":
            wanted = wanted[np.argsort(np.argsort(-have, kind="stable"))]
        return generator("class order", seed).permutation(wanted) if self.shuffle_classes else wanted


@part
class FewShot:
    """Keep k images of every class; of none where a study begins with the names alone."""

    k: Annotated[int, Field(ge=0)]

    def __call__(
        self,
        labels: np.ndarray,
        groups: np.ndarray | None,
        seed: int,
        classes: Sequence[str] = (),
        group_names: Sequence[str] = (),
    ) -> np.ndarray:
        return _first(labels, np.full(labels.max(initial=0) + 1, self.k), "few shot", seed)


@part
class GroupGap:
    """Keep only this share of a group's images, in each class alike (or in one class: the dogs in snow are gone).

    Shares are rounded to the nearest count, but a share above zero keeps at least one image.
    """

    group: str
    keep: Annotated[float, Field(ge=0, le=1)]
    label: str | None = None

    def __call__(
        self,
        labels: np.ndarray,
        groups: np.ndarray | None,
        seed: int,
        classes: Sequence[str] = (),
        group_names: Sequence[str] = (),
    ) -> np.ndarray:
        if groups is None or self.group not in group_names:
            raise Refusal(
                f"there is no group {self.group!r}: the data have {', '.join(group_names) or 'no groups'}"
            )
        if self.label is not None and self.label not in classes:
            raise Refusal(f"there is no class {self.label!r}: the data have {', '.join(classes)}")
        meant = groups == list(group_names).index(self.group)
        if self.label is not None:
            meant &= labels == list(classes).index(self.label)
        rows = np.flatnonzero(meant)
        have = np.bincount(labels[rows], minlength=1)
        wanted = np.maximum((have * self.keep + 0.5).astype(int), int(self.keep > 0))
        kept = rows[_first(labels[rows], wanted, "group gap", seed)]
        return np.sort(np.concatenate([np.flatnonzero(~meant), kept]))


def _first(labels: np.ndarray, wanted: np.ndarray, *names: object) -> np.ndarray:
    """The first `wanted` rows of each class in an order of its own: a harder cut keeps a subset of a milder one."""
    kept = [np.empty(0, np.int64)]
    for label, rows in enumerate(_by_class(labels, len(wanted))):
        if len(rows):
            kept.append(generator(*names, label).permutation(rows)[: wanted[label]])
    return np.sort(np.concatenate(kept))


def _by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, in their order."""
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    return np.split(np.argsort(labels, kind="stable"), ends[:-1])


def shortfalls(wanted: np.ndarray, labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(class, wanted, found) where a class had fewer images than a cut asked for.

    >>> shortfalls(np.array([2, 2]), np.array([0, 0, 0, 1]))
    [(1, 2, 1)]
    """
    have = np.bincount(labels, minlength=len(wanted))
    return [(int(c), int(wanted[c]), int(have[c])) for c in np.flatnonzero(have[: len(wanted)] < wanted)]


def parse_cut(text: str) -> Cut | None:
    """The cut that a user writes in one word.

    >>> parse_cut("exp:100")
    LongTail(kind='exp', factor=100.0, shuffle_classes=False, rule='largest', top=None)
    >>> parse_cut("none") is None
    True
    """
    kind, *rest = text.split(":")
    match kind, rest:
        case "none", []:
            return None
        case (("exp" | "step"), [factor, ("ldam" | "ranked") as rule]):
            return build(LongTail, {"kind": kind, "factor": factor, "rule": rule})
        case (("exp" | "step"), [factor, *options]):
            settings = {"kind": kind, "factor": factor}
            if options and options[0].startswith("top="):
                settings["top"] = options.pop(0).removeprefix("top=")
            if options in ([], ["shuffled"]):
                return build(LongTail, settings | {"shuffle_classes": bool(options)})
        case "few", [k]:
            return build(FewShot, {"k": k})
        case "group", [group, share]:
            return build(GroupGap, {"group": group, "keep": share})
        case "group", [group, label, share]:
            return build(GroupGap, {"group": group, "keep": share, "label": label})
    raise Refusal(f"{text!r} is not a cut; the forms are {CUTS}")
