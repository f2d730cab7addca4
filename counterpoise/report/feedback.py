"""The facts of syntheses that listen to a classifier, the sentences about them, and which of them a plot puts side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

MOST_NEEDY = 12  # rows of a table of needs
UNFELT = 0.05  # share of the noise levels without a gradient from which a teacher is a bad one
HELD = 0.5  # share of the noise levels at which samples were left alone from which guidance did little
LOST = 0.05  # of label fidelity, compared with unguided samples


class Gain(TypedDict, total=False):
    """Mean paired difference to the arm of unguided samples, in points, with its interval before any correction."""

    mean: float
    low: float
    high: float
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
    """What a reader has to know before anything here is believed, one sentence each."""
    said, known = [], {row["synthesis"]: row for row in rows}
    for row in rows:
        name, held, unfelt = row["synthesis"], row["held"], row["unfelt"]
        if unfelt is not None and unfelt > UNFELT:
            said.append(
                f"{name}: the teacher gave no gradient at {100 * unfelt:.0f} % of the noise levels, so it guided less "
                "than was asked for."
            )
        if held is not None and held > HELD:
            said.append(
                f"{name}: samples were left alone at {100 * held:.0f} % of the noise levels, because the judge did not "
                "see their class in them: it was hardly guided."
            )
        beside = known.get(row["against"], {}).get("fidelity") if row["guides"] else None
        if beside is not None and row["fidelity"] is not None and row["fidelity"] < beside - LOST:
            said.append(
                f"{name}: guidance costs labels. The judge names the class of {100 * row['fidelity']:.0f} % of the "
                f"samples, and of {100 * beside:.0f} % of the unguided ones."
            )
    return said


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
        where = f"in {times} of {len(draws)} draws " if len(draws) > 1 else ""
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
    made = [
        _panel(
            title, [(scale, factor * row[key], None) for scale, row in points if row[key] is not None], least
        )
        for title, key, factor, least in measures
    ]
    for name in told["slices"]:
        gains = [(scale, row["gain"].get(name)) for scale, row in points]
        shown = [(scale, gain["mean"], (gain["low"], gain["high"])) for scale, gain in gains if gain]
        if shown and points[0][0] == 0:
            shown = [(0.0, 0.0, None), *shown]
        made.append(_panel(f"gain on {name.replace('_', ' ')}, points", shown, 2, sign=True))
    return [panel | {"chosen": chosen} for panel in made if len(panel["values"]) > 1]  # type: ignore[typeddict-item, misc]


def _panel(title: str, points: Sequence[tuple[float, float, Any]], least: float, sign: bool = False) -> Panel:
    scales, values, ends = (list(column) for column in zip(*points, strict=True)) if points else ([], [], [])
    return Panel(
        title=title, scales=scales, values=values, ends=ends, chosen=None, least=least, sign=sign
    )
