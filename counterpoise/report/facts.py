"""What a report may be told: every key is optional, and a section without its facts is simply not there.

Accuracies, recalls and their differences are in per cent (points), 0 to 100. Shares are 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from counterpoise.report.feedback import Feedback

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


class GroupRow(TypedDict, total=False):
    name: str
    test: int  # images; none in the rows at the end
    before: float
    after: float


class Groups(TypedDict, total=False):
    before_arm: str
    after_arm: str
    rows: Sequence[GroupRow]
    ends: Sequence[GroupRow]  # mean and worst: of each trial first, and then over them


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
    told: str  # what the model that drew it was told


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
    notes: Sequence[str]


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


class Points(TypedDict):
    xy: Sequence[Sequence[float]]
    label: Sequence[int]  # place in the map's `classes`, -1 for any other class


class Panel(TypedDict):
    synthesis: str
    samples: Points


class FlatMap(TypedDict):
    """Rows of one space on two axes that were found in its real rows."""

    space: str  # whose features
    method: str  # "PCA" or "UMAP"
    share: float | None  # of the real rows' variance that the two axes hold
    classes: Sequence[str]  # those told apart, rarest first
    counts: Sequence[int]  # their real training images
    real: Points
    panels: Sequence[Panel]


class PriorArm(TypedDict):
    arm: str
    shares: Sequence[float]  # of the label mass the loader really yielded, one per class


class Prior(TypedDict, total=False):
    classes: Sequence[str]  # most frequent first
    arms: Sequence[PriorArm]


class Curve(TypedDict):
    term: str
    steps: Sequence[int]
    values: Sequence[float]


class Mixture(TypedDict, total=False):
    """A fitted latent mixture, of the first draw."""

    syntheses: Sequence[str]  # those whose samples it makes
    collapsed: Literal["no", "partly", "wholly"]
    sentence: str  # the same, in words
    entropy: float  # of the responsibilities, nats
    entropy_share: float  # of log C
    unused: Sequence[str]  # classes with training images whose component is the likeliest of none
    between_within: float  # variance of the codes between classes over that within
    posterior_variance: float  # mean
    active: int  # dimensions of the code that differ between images
    rank: int  # directions that a translation keeps
    terms: Mapping[str, float]  # of the ELBO, over all training images
    use: Prior  # of the components: training images, by argmax, by mean responsibility
    curves: Sequence[Curve]


class Sheets(TypedDict, total=False):
    """Pictures side by side, as the bytes of a PNG."""

    reconstructions: bytes  # a line of real pictures, a line of what their codes say
    components: bytes  # draws of a component each line, decoded
    lines: Sequence[str]  # the classes of these lines


class Line(TypedDict):
    synthesis: str
    images: Sequence[Picture]


class Twins(TypedDict):
    """Samples of a class that began as the same noise, a line of each synthesis."""

    class_name: str
    real: int  # training images
    lines: Sequence[Line]  # unguided first


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
    groups: Groups
    confusion: Confusion
    galleries: Sequence[Gallery]
    funnel: Sequence[Funnel]
    maps: Sequence[FlatMap]  # one per space
    quality: Sequence[Quality]  # one per space
    mixtures: Sequence[Mixture]
    sheets: Mapping[str, Sheets]  # by the first synthesis of a mixture
    feedback: Feedback
    twins: Sequence[Twins]
    prior: Prior
    cost: Cost
    reproduce: Reproduce
