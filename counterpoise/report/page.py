"""One self-contained HTML page from one plain dictionary of facts.

`render(facts)` takes the mapping that ``counterpoise.report.facts.Facts`` describes, key by key (title, data, recipe,
made_at, version, command, fingerprint, verdict, audit, recalls, confusion, galleries, funnel, maps, quality,
mixtures, sheets, feedback, twins, prior, cost, reproduce). Every key is optional: a section whose facts are missing is not there. The same facts give the
same bytes.

The page runs no script and loads nothing; its policy allows its one style sheet by hash, and data: pictures.
Names are data: everything is escaped, and cleaned of what could break a line or turn its direction.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from counterpoise.report import dials, figures, marks, pictures, scatter
from counterpoise.report.facts import Facts as Facts
from counterpoise.report.feedback import panels
from counterpoise.report.names import plain

HERE = Path(__file__).parent
WIDTHS = (760, 344)  # pixels of a drawing on a desktop and on a phone
LISTED = 200  # rows of a list before it says how many more there are
TAIL = 12  # rows and columns of the confusion of the tail
PICTURES = 900_000  # bytes of pictures in one page, more or less
REAL, MADE = 12, 18  # pictures shown per gallery


def render(facts: Mapping[str, Any]) -> str:
    """The page. Facts are described by `counterpoise.report.facts.Facts`.

    >>> "no evidence" in render({"verdict": {"headline": "Nothing found.", "outcome": "no evidence"}}).lower()
    True
    """
    facts = _clean(facts)
    style = (HERE / "style.css").read_text("utf-8").replace("\r\n", "\n")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = ENVIRONMENT.get_template("page.html.j2")
    return template.render(
        facts,
        style=Markup(style),  # noqa: S704  # our own file
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        hero=_hero(facts.get("verdict", {})),
        forests=_forests(facts.get("verdict", {})),
        tail=_tail(facts.get("confusion", {})),
        laid=[_laid(each) for each in facts.get("maps", ())],
        mixtures=[_mixed(each, facts.get("sheets", {})) for each in facts.get("mixtures", ())],
        feedback=_fed_back(facts.get("feedback") or {}, facts.get("twins", ())),
        prior=_prior(facts.get("prior", {})),
        shown=_galleries(facts.get("galleries", ())),
        many=figures.MANY,
    )


def _clean(value: Any) -> Any:
    """The same facts with every text on one line and encodable, and no number that is not finite."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _hero(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The arm the headline is about, with its slices as rows of a small forest plot."""
    rows, slices = verdict.get("rows", []), verdict.get("slices", [])
    main = slices[0] if slices else ""
    measured = [row for row in rows if (row["slices"].get(main) or {}).get("mean") is not None]
    candidates = [row for row in measured if row.get("role") == "candidate"]
    wanted = verdict.get("arm") or (verdict.get("recommendation") or {}).get("arm")
    named = [row for row in measured if row["arm"] == wanted]
    best = max(candidates or measured, key=lambda row: row["slices"][main]["mean"], default=None)
    arm = named[0] if named else best
    if arm is None:
        return {}
    found = [{"name": name, "role": arm.get("role"), **(arm["slices"].get(name) or {})} for name in slices]
    found[0]["bold"] = True
    return {"arm": arm["arm"], "main": main, "rows": found, **arm["slices"][main]}


def _forests(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One forest per slice, all arms in it, the highest difference first."""
    made = []
    for name in verdict.get("slices", []):
        rows = [
            {"name": row["arm"], "role": row.get("role"), **(row["slices"].get(name) or {})}
            for row in verdict.get("rows", [])
        ]
        for row in rows:
            row["mean"] = 0.0 if row["role"] == "opponent" else row.get("mean")
        known = sorted((row for row in rows if row["mean"] is not None), key=lambda row: -row["mean"])
        if known:
            made.append({"slice": name, "rows": known})
    return made


def _tail(confusion: Mapping[str, Any]) -> dict[str, Any]:
    """Shares per rare class: the rare classes themselves as the first columns, so that hits lie on the diagonal,
    then the classes they are most often taken for; the rest is one column."""
    rows, columns = list(confusion.get("rows", []))[:TAIL], list(confusion.get("columns", []))
    arms = confusion.get("arms", [])
    if not (rows and columns and arms):
        return {}
    matrices = [np.asarray(arm["matrix"], float)[: len(rows)] for arm in arms]
    shares = [matrix / np.maximum(matrix.sum(1, keepdims=True), 1e-12) for matrix in matrices]
    own = [columns.index(name) for name in rows if name in columns]
    by_mass = np.argsort(-sum(share.sum(0) for share in shares), kind="stable").tolist()
    room = max(TAIL - len(own), 3)
    rest = [column for column in by_mass if column not in own]
    kept, left = own + rest[:room], rest[room:]
    names = [columns[column] for column in kept] + ([f"{len(left)} others"] if left else [])
    folded = [
        np.hstack([s[:, kept], s[:, left].sum(1, keepdims=True)] if left else [s[:, kept]]) for s in shares
    ]
    found = [{"arm": arm["arm"], "shares": share.tolist()} for arm, share in zip(arms, folded, strict=True)]
    return {"rows": rows, "columns": names, "arms": found, "left_out": len(confusion["rows"]) - len(rows)}


def _prior(prior: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the label mass per arm; many classes are summed in twenty equal groups, as they come."""
    names, arms = list(prior.get("classes", [])), prior.get("arms", [])
    if not (names and arms):
        return {}
    parts = np.array_split(np.arange(len(names)), 20 if len(names) > figures.MANY // 2 else len(names))
    labels = [names[p[0]] if len(p) == 1 else f"{p[0] + 1} to {p[-1] + 1}" for p in parts]
    mass = np.array([np.asarray(arm["shares"], float) / max(sum(arm["shares"]), 1e-12) for arm in arms])
    grouped = np.stack([mass[:, part].sum(1) for part in parts], axis=1)
    return {
        "rows": [arm["arm"] for arm in arms],
        "columns": labels,
        "shares": grouped.tolist(),
        "top": float(grouped.max()),
        "grouped": len(parts) < len(names),
    }


def _laid(found: Mapping[str, Any]) -> dict[str, Any]:
    """A map with its panels drawn, all in one window."""
    real, classes = found["real"], found["classes"]
    window = scatter.Window(real["xy"], [panel["samples"]["xy"] for panel in found["panels"]])
    panels = []
    for panel in found["panels"]:
        made = panel["samples"]
        alt = f"{panel['synthesis']}: {len(made['xy'])} samples as dots among {len(real['xy'])} real images as rings"
        alt += f" on two axes. In colour: {', '.join(classes)}."
        drawing = scatter.scatter(real, made, window, len(classes), alt)
        # An XML serialiser wrote it, which escaped every name.
        panels.append({**panel, "drawing": Markup(drawing), "outside": window.outside(made["xy"])})  # noqa: S704
    every = [label for points in (real, *(panel["samples"] for panel in panels)) for label in points["label"]]
    return {**found, "panels": panels, "others": -1 in every}


def _mixed(found: Mapping[str, Any], sheets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A latent mixture, the use of its components as a table, and its pictures as data: URIs."""
    mine = sheets.get(found["syntheses"][0], {})
    uris = {name: pictures.uri(mine[name]) for name in ("reconstructions", "components") if name in mine}
    return {**found, **uris, "lines": mine.get("lines", []), "use": _prior(found["use"])}


def _fed_back(told: Mapping[str, Any], twins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What feedback did, the panels of its sweeps, and its pictures as data: URIs."""
    if not told:
        return {}
    known = {row["synthesis"]: row for row in told["rows"]}
    sweeps = [
        {
            **sweep,
            "panels": panels(told, sweep),
            "rows": [{**known[p["synthesis"]], **p} for p in sweep["points"]],
        }
        for sweep in told["sweeps"]
    ]
    shown = [
        {
            **each,
            "lines": [
                {**one, "images": [_picture(image) for image in one["images"]]} for one in each["lines"]
            ],
        }
        for each in twins
    ]
    return {**told, "sweeps": sweeps, "twins": shown}


def _galleries(galleries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Galleries with their pictures as data: URIs, until the page has its share of bytes."""
    made: list[dict[str, Any]] = []
    spent, left_out = 0, 0
    for gallery in galleries:
        real, synthetic = gallery.get("real", [])[:REAL], gallery.get("synthetic", [])[:MADE]
        if spent > PICTURES:
            left_out += 1
            continue
        items = [
            {**item, "uri": _picture(item["image"]), "near": _picture(item.get("nearest"))}
            for item in synthetic
        ]
        shown = [_picture(picture) for picture in real]
        every = [*shown, *(item[key] for item in items for key in ("uri", "near") if item[key])]
        spent += sum(len(picture["uri"]) for picture in every)
        made.append({**gallery, "real": shown, "synthetic": items})
    return {"galleries": made, "left_out": left_out}


def _picture(picture: Any) -> dict[str, Any] | None:
    return None if picture is None else {"uri": pictures.uri(picture), "tiny": pictures.is_tiny(picture)}


def duration(seconds: float) -> str:
    """
    >>> duration(0.42), duration(12), duration(200), duration(4000)
    ('0.4 s', '12 s', '3 min 20 s', '1 h 7 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return (
        f"{whole // 60} min {whole % 60} s"
        if whole < 3600
        else f"{whole // 3600} h {round(whole % 3600 / 60)} min"
    )


def chance(p: float | None) -> str:
    """
    >>> chance(0.00195), chance(0.0002), chance(None)
    ('0.002', '< 0.001', '')
    """
    return "" if p is None else "< 0.001" if p < 0.0005 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def both(draw: Any, *args: Any, widths: tuple[int, int] = WIDTHS, **kwargs: Any) -> Markup:
    """The wide and the narrow drawing of the same rows; the style sheet shows one of them."""
    wide, narrow = (draw(*args, width=width, **kwargs) for width in widths)
    # The drawings come from an XML serialiser, which escaped every name in them.
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')  # noqa: S704


def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"signed": marks.signed, "short": marks.short, "duration": duration, "chance": chance}
    made.globals |= {
        "both": both,
        "counts": figures.counts,
        "recalls_figure": figures.recalls,
        "forest": figures.forest,
        "cells": figures.cells,
        "descent": figures.descent,
        "dial": dials.dial,
        "practice": dials.practice,
        "needs": dials.needs,
        "stacks": figures.stacks,
        "markup": Markup,
        "listed": LISTED,
    }
    return made


ENVIRONMENT = _environment()
