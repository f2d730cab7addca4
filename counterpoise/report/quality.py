"""From what `measure` wrote of each lot to the rows of a table: means over the draws, and warnings said once.

Features of one space are no measure for those of another, so every space has tables of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MEASURES = ("fd", "kid", "precision", "recall", "density", "coverage")
BANDS = ("all", "many", "medium", "few", "rarest")  # a draw has some of them
AGAINST = {"val": "validation images", "train": "training images"}


def quality(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Facts (`report.facts.Quality`, one per space) from the measures of every synthesis, a list with one per draw."""
    spaces = dict.fromkeys(lot["space"] for draws in found.values() for lot in draws)
    return [
        _quality(space, {name: draws for name, draws in found.items() if draws[0]["space"] == space})
        for space in spaces
    ]


def _quality(space: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        "space": space,
        "draws": max(len(draws) for draws in found.values()),
        "tables": [{"against": words, "rows": _rows(found, side)} for side, words in AGAINST.items()],
        "notes": _notes(found),
    }


def _rows(found: Mapping[str, Sequence[Mapping[str, Any]]], side: str) -> list[dict[str, Any]]:
    return [
        _row(name, band, those)
        for name, draws in found.items()
        for band in BANDS
        if (those := [draw[side][band] for draw in draws if band in draw[side]])
    ]


def _row(name: str, band: str, draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What samples score, and real rows at like numbers: means over the draws in which there is such a thing."""
    floors = [draw["floor"] for draw in draws if draw["floor"] is not None]

    def mean(whose: str, key: str) -> float | None:
        return float(np.mean([each[whose][key] for each in floors])) if floors else None

    return {
        "synthesis": name,
        "band": band,
        "n": round(np.mean([draw["floor_n"] for draw in draws])),
        "cells": {key: {"made": mean("samples", key), "real": mean("real", key)} for key in MEASURES},
        "error": mean("samples", "kid_error"),
    }


def _notes(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Every warning and every reason of the main table once, with the bands it is about."""
    where: dict[str, dict[str, None]] = {}
    there: set[str] = set()
    for draws in found.values():
        for draw in draws:
            for band, measured in draw["val"].items():
                there.add(band)
                for sentence in [*measured["warnings"], *measured["undefined"].values()]:
                    where.setdefault(sentence, {})[band] = None
    bands = [band for band in BANDS if band in there]
    return [f"{said[0].upper()}{said[1:]} ({_among(list(of), bands)})." for said, of in where.items()]


def _among(some: list[str], every: list[str]) -> str:
    """
    >>> _among(["few"], ["all", "few"]), _among(["few", "all"], ["all", "few"])
    ('few', 'every row')
    """
    return "every row" if len(some) == len(every) > 1 else ", ".join(sorted(some, key=every.index))
