"""What a report may be told: every key is optional, and a section without its facts is simply not there.

Accuracies, recalls and their differences are in per cent (points), 0 to 100. Shares are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Outcome = Literal["helps", "no evidence", "hurts"]
Action = Literal["generate", "use a cheap arm", "do not generate"]
Role = Literal["baseline", "control", "candidate", "opponent"]
#: (h, w), (h, w, 1) or (h, w, 3) uint8, or the bytes of a PNG.
Picture = Any


class Slice(TypedDict, total=False):
    """One arm on one slice: its difference to the opponent in points, and its own mean."""

    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Outcome
    value: float  # the arm's own mean over trials, in per cent


class Arm(TypedDict, total=False):
    arm: str
    role: Role
    slices: Mapping[str, Slice]  # the opponent needs only `value` in each


class Recommendation(TypedDict, total=False):
    action: Action
    arm: str  # the arm to use
    sentence: str


class Verdict(TypedDict, total=False):
    headline: str  # the one sentence the page begins with, interval included
    outcome: Outcome  # of the arm the headline is about
    arm: str  # that arm; else the candidate with the largest mean on the first slice
    metric: str  # what the first slice measures: "balanced accuracy"
    recommendation: Recommendation
    would_change: Sequence[str]  # what would change this verdict, one sentence each
    missing_variance: Sequence[str]  # what the trials did not redraw
    trials: int
    draws: int  # of the bootstrap
    opponent: str  # the strongest cheap arm
    slices: Sequence[str]  # the first is the main one
    rows: Sequence[Arm]


class ClassRow(TypedDict, total=False):
    name: str
    train: int
    val: int
    test: int
    after: int  # training images with the synthetic ones
    bin: str


class Refused(TypedDict, total=False):
    uri: str
    label: str
    reason: str


class Audit(TypedDict, total=False):
    scope: str  # which trials the page is about, where the rare classes of others are not the same
    images: int
    channels: str  # "grey" or "RGB"
    size: str  # "8 × 8"
    classes: Sequence[ClassRow]
    after_arm: str  # the arm whose synthetic images `after` counts
    duplicates: Sequence[Sequence[str]]  # groups of places that hold the same pixels
    leaks: Sequence[Sequence[str]]  # the same, across splits
    conflicts: Sequence[Sequence[str]]  # the same, under different labels
    quarantine: Sequence[Refused]
    notes: Sequence[str]


class RecallRow(TypedDict, total=False):
    name: str
    count: int  # real training images
    before: float
    after: float
    low: float  # interval of after - before
    high: float


class Recalls(TypedDict, total=False):
    before_arm: str
    after_arm: str
    rows: Sequence[RecallRow]


class ConfusionArm(TypedDict):
    arm: str
    matrix: Sequence[Sequence[float]]  # counts, one row per rare class, one column per predicted class


class Confusion(TypedDict, total=False):
    rows: Sequence[str]  # the rare true classes, rarest first
    columns: Sequence[str]  # all predicted classes
    arms: Sequence[ConfusionArm]


class Synthetic(TypedDict, total=False):
    image: Picture
    nearest: Picture  # the nearest real training image
    distance: float
    kept: bool
    reason: str  # why it was dropped


class Gallery(TypedDict, total=False):
    title: str
    class_name: str
    real: Sequence[Picture]
    synthetic: Sequence[Synthetic]


class Funnel(TypedDict, total=False):
    arm: str
    asked: int
    made: int
    failed: int
    dropped: Mapping[str, int]
    kept: int


class QualityCell(TypedDict):
    """A measure of the samples, and what real images score; None where too few rows define none."""

    made: float | None
    real: float | None


class QualityRow(TypedDict, total=False):
    """Means over the draws, samples and real images from like numbers of rows."""

    synthesis: str
    band: str  # "all", "many", "medium", "few" or "rarest"
    n: int  # rows a side
    cells: Mapping[str, QualityCell]  # fd, kid, precision, recall, density, coverage
    error: float | None  # standard error of the kid of the samples


class QualityTable(TypedDict):
    against: str  # what the samples are held against: "validation images"
    rows: Sequence[QualityRow]


class Quality(TypedDict, total=False):
    space: str  # whose features
    draws: int
    tables: Sequence[QualityTable]  # the first is the main one
    notes: Sequence[str]  # what the numbers are too small for, one sentence each


class PriorArm(TypedDict):
    arm: str
    shares: Sequence[float]  # of the label mass the loader really yielded, one per class


class Prior(TypedDict, total=False):
    classes: Sequence[str]  # most frequent first
    arms: Sequence[PriorArm]


class Cost(TypedDict, total=False):
    stages: Mapping[str, float]  # seconds
    arms: Mapping[str, float]  # seconds
    seconds: float  # all of it; else the sum of the stages
    machine: str


class Reproduce(TypedDict, total=False):
    command: str
    seeds: Mapping[str, Any]
    versions: Mapping[str, str]
    fingerprints: Mapping[str, str]
    warnings: Sequence[str]


class Facts(TypedDict, total=False):
    """Everything in the report, as plain values; only pictures may be arrays or bytes."""

    title: str
    data: str
    recipe: str
    made_at: str
    version: str
    command: str
    fingerprint: str
    verdict: Verdict
    audit: Audit
    recalls: Recalls
    confusion: Confusion
    galleries: Sequence[Gallery]
    funnel: Sequence[Funnel]
    quality: Quality
    prior: Prior
    cost: Cost
    reproduce: Reproduce
