"""The folder of a fitted generator: whose it is, reading it, and going on from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from counterpoise.generators.generator import Lesson
from counterpoise.types import Refusal

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
LABELS = "class_embedding.weight"  # (classes + 1, width); the last row is "of no class"


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def digest(lesson: Lesson) -> str:
    """Of what is learnt from: the labels, the first rows of each side, and what is said of them."""
    found = hashlib.blake2b(lesson.labels.tobytes(), digest_size=8)
    for rows in (lesson.rows, lesson.pool):
        if rows is not None:
            found.update(len(rows).to_bytes(8, "little"))
            found.update(rows.raw(np.arange(min(len(rows), 64))).tobytes())
    if lesson.captions is not None:
        found.update(repr(list(lesson.captions)).encode())
    return found.hexdigest()


def refuse_another(folder: Path, identity: str) -> bool:
    """Whether the weights are there already; those of other settings or other data are refused."""
    path = folder / WEIGHTS
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get("identity")
    if found != identity:
        raise Refusal(
            f"{path} was fitted with other settings or other data ({found}, this fit is {identity}): "
            "use another directory, or --redo fit"
        )
    return True


def begin_from(folder: Path, net: nn.Module, ours: dict[str, Any], classes: Sequence[str]) -> None:
    """Take the weights of an earlier generator. What it calls `ours` must agree; its classes may be others.

    A label keeps what was learnt for the class of its name; new classes begin as they were initialised.
    """
    if not (folder / CONFIG).exists() or not (folder / WEIGHTS).exists():
        raise Refusal(
            f"{folder} is no fitted pixel diffusion: {CONFIG} and {WEIGHTS} are looked for in it, "
            "for example runs/digits/generators/round_0/diffusion/draw_0"
        )
    found = read_config(folder)
    if "generator" not in found:
        raise Refusal(f"{folder / CONFIG} was not written by a pixel diffusion of this package")
    theirs = found | found["generator"]
    for field, value in ours.items():
        if theirs.get(field) != value:
            raise Refusal(
                f"{folder}: its {field} is {theirs.get(field)}, this run's is {value}: they must agree"
            )
    state, mine = load_file(folder / WEIGHTS), net.state_dict()
    for name in [name for name in mine if name.endswith(LABELS)]:
        state[name] = _by_name(state[name], found["classes"], mine[name], classes)
    net.load_state_dict(state)


def _by_name(old: Tensor, old_names: Sequence[str], new: Tensor, names: Sequence[str]) -> Tensor:
    found, place = new.clone(), {name: row for row, name in enumerate(old_names)}
    found[-1] = old[-1]
    for row, name in enumerate(names):
        if name in place:
            found[row] = old[place[name]]
    return found
