"""From what `measure` laid out of each lot to one map per space, with a panel for each synthesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def maps(
    found: Mapping[str, Mapping[str, Any]], names: Sequence[str], counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Facts (`report.facts.FlatMap`, one per space) from the measures of the first draw of every synthesis."""
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for synthesis, lot in found.items():
        laid = lot["map"]
        told = {label: place for place, label in enumerate(laid["rarest"])}
        one = made.setdefault(
            (lot["space"], laid["method"]),
            {
                "space": lot["space"],
                "method": laid["method"],
                "share": laid["share"],
                "classes": [names[label] for label in told],
                "counts": [int(counts[label]) for label in told],
                "real": _told(laid["real"], told),
                "panels": [],
            },
        )
        one["panels"].append({"synthesis": synthesis, "samples": _told(laid["samples"], told)})
    return list(made.values())


def _told(points: Mapping[str, Any], told: Mapping[int, int]) -> dict[str, Any]:
    return {"xy": points["xy"], "label": [told.get(label, -1) for label in points["label"]]}
