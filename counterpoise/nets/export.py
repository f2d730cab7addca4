"""A finished classifier as a transformers folder of its own: the backbone's network with our linear head in place of its own.

What cannot be said that way (timm, open_clip, text-image pairs, networks that do not end in one Linear) is left alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from counterpoise.nets.backbones import head_path, model_folder, open_classifier, preprocessing, read_json


class Affine(Protocol):
    """A linear head, if it is one on raw features."""

    def plain(self) -> tuple[np.ndarray, np.ndarray] | None: ...


def export(name: str, head: Affine, labels: Sequence[str], out: Path, **more: Any) -> bool:
    """`replace_classifier` with a head; False as well where that is not affine in the features."""
    plain = head.plain()
    return plain is not None and replace_classifier(name, *plain, labels, out, **more)


def replace_classifier(
    name: str,
    weight: np.ndarray,
    bias: np.ndarray,
    labels: Sequence[str],
    out: Path,
    revision: str | None = None,
    allow_pickle: bool = False,
    size: int | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> bool:
    """Write a transformers folder whose logits are ``features @ weight.T + bias``; False if this network cannot say so.

    ``weight`` (C, D) and ``bias`` (C,) act on raw features; ``state`` are the weights of a backbone that was trained
    on. `AutoModelForImageClassification.from_pretrained(out)` opens it. The folder is there whole or not at all.
    """
    if name.startswith(("timm:", "openclip:")):
        return False
    found = f"{weight.shape}, {len(bias)} biases, {len(labels)} labels"
    assert weight.shape[0] == len(bias) == len(labels), found
    folder = model_folder(name, revision, allow_pickle)
    net = open_classifier(folder)
    where = head_path(net) if net is not None else None
    if net is None or where is None or net.get_submodule(where).in_features != weight.shape[1]:
        return False
    if state is not None:
        net.set_submodule(where, nn.Identity())
        net.load_state_dict(state)
    fresh = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        fresh.weight.copy_(torch.from_numpy(weight))
        fresh.bias.copy_(torch.from_numpy(bias))
    net.set_submodule(where, fresh)
    net.config.id2label = dict(enumerate(labels))
    # Two classes may share a name; the index is what counts.
    net.config.label2id = {label: index for index, label in reversed(list(enumerate(labels)))}
    settings = _processor(folder, net.config, size)

    def write(to: Path) -> None:
        net.save_pretrained(to)
        (to / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    put_folder(Path(out), write)
    return True


def _processor(folder: Path, config: Any, size: int | None) -> dict[str, Any]:
    (height, width), mean, std = preprocessing(folder, config, size)
    found = read_json(folder / "preprocessor_config.json")
    return {
        "image_processor_type": found.get("image_processor_type", "ViTImageProcessor"),
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def put_folder(out: Path, write: Callable[[Path], None]) -> None:
    """A folder under its final name once it is whole; one that is there already is left as it is."""
    if out.exists():
        return
    begun = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    begun.mkdir(parents=True)
    try:
        write(begun)
        for path in (path for path in begun.rglob("*") if path.is_file()):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        begun.rename(out)
    except OSError:
        if not out.is_dir():  # else another process was first
            raise
    finally:
        # Ours, if it failed, and what killed processes left behind: nobody needs it once the folder is there.
        for left in out.parent.glob(f".{out.name}.*.tmp") if out.is_dir() else [begun]:
            shutil.rmtree(left, ignore_errors=True)
