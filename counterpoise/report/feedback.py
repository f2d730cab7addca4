"""The facts of syntheses that listen to a classifier, the sentences about them, and which of them a plot puts side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

MOST_NEEDY = 12  # rows of a table of needs
UNFELT = 0.05  # share of the noise levels without a gradient from which a teacher is a bad one
HELD = 0.5  # share of the noise levels at which samples were left alone from which guidance did little
POOR = 0.5  # label fidelity under which nothing can be said of samples that have no others beside them
LOST = 0.05  # of label fidelity, compared with unguided samples


class Gain(TypedDict, total=False):
    """Mean paired difference to the arm of unguided samples, in points, with its interval before any correction."""

    mean: float
    low: float | None  # None: so few trials bound nothing
    high: float | None
    p: float


class Listener(TypedDict, total=False):
    """A synthesis with a tutor; means over all its samples, of all draws and rounds."""

    synthesis: str
    guides: Sequence[str]  # in words; none: unguided
    criterion: str  # which number of the teacher's `useful` is
    asked: int
    kept: int
    useful: float | None
    p: float | None  # of the class, by the judge
    fidelity: float | None  # share whose class has a p of one half or more
    nearest: float | None  # median distance to a real row, in copy thresholds
    held: float | None  # share of the guided noise levels at which the judge held a sample back
    unfelt: float | None  # share of them at which the teacher gave no gradient
    validation: float | None  # of its arm, per cent
    against: str  # the unguided synthesis beside it
    same_budget: bool  # whether that has as many samples
    gain: Mapping[str, Gain]  # by slice


class Teacher(TypedDict):
    fit: str
    members: int
    score: float  # on validation, in the first round, per cent


class Point(TypedDict):
    synthesis: str
    scale: float  # 0: unguided


class Sweep(TypedDict):
    """Syntheses that differ in one scale only, weakest first."""

    guide: str
    points: Sequence[Point]
    chosen: str  # the one that validation likes best


class Draw(TypedDict):
    history: Sequence[float]  # validation score of every tutor, per cent
    learnt: Sequence[int]  # samples that each of them had seen
    asked: int  # samples of all rounds
    rounds: int  # that were begun
    waited: int  # tutors since the best one


class Practice(TypedDict):
    """A synthesis that works in rounds."""

    synthesis: str
    most: int  # rounds
    draws: Sequence[Draw]
    whole: float  # samples that filling up would take
    sentence: str  # why it stopped


class NeedRow(TypedDict):
    name: str
    need: float | None  # before the first round; None: no validation rows
    last: float | None  # after the last round that a tutor saw
    real: int
    made: int


class NeedTable(TypedDict):
    synthesis: str
    draws: int  # of the study: the rows are about the first
    of: str  # "error", "loss" or "entropy"
    cells: str  # "class" or "class × group"
    rows: Sequence[NeedRow]  # the neediest first
    left_out: int


class Feedback(TypedDict, total=False):
    teacher: Teacher
    slices: Sequence[str]  # those in which gains are told
    rows: Sequence[Listener]
    warnings: Sequence[str]
    sweeps: Sequence[Sweep]
    practices: Sequence[Practice]
    needs: Sequence[NeedTable]


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader has to know before anything here is believed, one sentence for each kind of trouble."""
    known = {row["synthesis"]: row for row in rows}

    def beside(row: Mapping[str, Any]) -> float | None:
        return known.get(row["against"], {}).get("fidelity") if row["guides"] else None

    blind = [row for row in rows if (row["unfelt"] or 0) > UNFELT]
    held = [row for row in rows if (row["held"] or 0) > HELD]
    told = [row for row in rows if row["fidelity"] is not None]
    poor = [row for row in told if beside(row) is None and row["fidelity"] < POOR]
    lost = [row for row in told if row["fidelity"] < (beside(row) or 0) - LOST]
    said = []
    if blind:
        said.append(
            f"{_names(blind)}: the teacher gave no gradient at {_shares(blind, 'unfelt')} of the noise levels, so it "
            "guided less than was asked for."
        )
    if held:
        said.append(
            f"{_names(held)}: samples were left alone at {_shares(held, 'held')} of the noise levels, because the judge "
            "did not see their class in them. They were hardly guided."
        )
    if poor:
        said.append(
            f"{_names(poor)}: the judge names the class of only {_shares(poor, 'fidelity')} of the samples. What makes "
            "them or the judge itself is not good enough yet."
        )
    if lost:
        said.append(
            f"{_names(lost)}: guidance costs labels. The judge names the class of {_shares(lost, 'fidelity')} of the "
            "samples, fewer than of the unguided ones beside them."
        )
    return said


def _names(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(row["synthesis"] for row in rows)


def _shares(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """
    >>> _shares([{"held": 0.9}, {"held": 0.934}], "held"), _shares([{"held": 0.9}], "held")
    ('90 to 93 %', '90 %')
    """
    low, high = (f"{100 * end(row[key] for row in rows):.0f}" for end in (min, max))
    return f"{low} %" if low == high else f"{low} to {high} %"


def stopped(draws: Sequence[Mapping[str, Any]], most: int) -> str:
    """Why rounds ended, in all draws.

    >>> stopped([{"rounds": 6, "waited": 0}, {"rounds": 3, "waited": 2}], 6)
    'In 1 of 2 draws it stopped after 3 rounds, 2 of them without gain; in 1 of 2 draws all 6 rounds were made.'
    """
    ways = Counter(
        "" if draw["rounds"] == most else _gave_up(draw["rounds"], draw["waited"]) for draw in draws
    )
    parts = []
    for way, times in sorted(ways.items(), reverse=True):
        where = f"in {times} of {len(draws)} draws " if times < len(draws) else ""
        parts.append(where + (f"it stopped after {way}" if way else f"all {most} rounds were made"))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _gave_up(rounds: int, waited: int) -> str:
    whole = f"{rounds} round{'s' if rounds > 1 else ''}"
    return f"{whole}, {'none of them with' if waited >= rounds else f'{waited} of them without'} gain"


class Panel(TypedDict):
    title: str
    scales: list[float]
    values: list[float]
    ends: list[tuple[float, float] | None]  # intervals
    chosen: float | None
    least: float  # span of the axis below which differences are not blown up
    sign: bool  # of differences


def panels(told: Mapping[str, Any], sweep: Mapping[str, Any]) -> list[Panel]:
    """What the scale changes, each on an axis of its own."""
    known = {row["synthesis"]: row for row in told["rows"]}
    points = [(point["scale"], known[point["synthesis"]]) for point in sweep["points"]]
    chosen = next((scale for scale, row in points if row["synthesis"] == sweep["chosen"]), None)
    criterion = points[-1][1]["criterion"]
    measures: list[tuple[str, str, float, float]] = [
        (f"{criterion or 'criterion'}, by the teacher", "useful", 1, 0.1),
        ("label fidelity, %", "fidelity", 100, 5),
        ("nearest real, copy thresholds", "nearest", 1, 0.5),
        ("validation accuracy, %", "validation", 1, 2),
    ]
    made = []
    for title, key, factor, least in measures:
        alike = [at for at in points if key != "useful" or at[1]["criterion"] == criterion]
        shown = [(scale, factor * row[key], None) for scale, row in alike if row[key] is not None]
        made.append(_panel(title, shown, least))
    for name in told["slices"]:
        gains = [(scale, row["gain"].get(name)) for scale, row in points if scale]
        gained = [(scale, gain["mean"], _ends(gain)) for scale, gain in gains if gain]
        if gained and points[0][0] == 0:
            gained = [(0.0, 0.0, None), *gained]
        made.append(_panel(f"gain on {name.replace('_', ' ')}, points", gained, 2, sign=True))
    return [panel | {"chosen": chosen} for panel in made if len(panel["values"]) > 1]


def _ends(gain: Mapping[str, Any]) -> tuple[float, float] | None:
    return None if gain["low"] is None else (gain["low"], gain["high"])


def _panel(title: str, points: Sequence[tuple[float, float, Any]], least: float, sign: bool = False) -> Panel:
    scales, values, ends = (list(column) for column in zip(*points, strict=True)) if points else ([], [], [])
    return Panel(title=title, scales=scales, values=values, ends=ends, chosen=None, least=least, sign=sign)
