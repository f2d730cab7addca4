"""What this machine has, as rows that a person can read. It imports nothing heavy unless it is there and asked about."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

OPTIONAL = {
    "transformers": "hf: backbones from the hub or a folder",
    "diffusers": "generative: Stable Diffusion",
    "datasets": "hub-data: data sets from the hub",
    "timm": "timm: its backbones",
    "open_clip": "openclip: its backbones",
}


def checks() -> list[dict[str, Any]]:
    rows = [_row("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    rows += [_package(name) for name in ("torch", "numpy", "scikit-learn", "pillow", "pyarrow")]
    rows.append(_accelerator())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows.append(_row("cores", True, f"{cores}; a run uses one process each (--workers)"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else 0.0
    rows.append(_row("memory", memory == 0 or memory > 2, f"{memory:.1f} GB"))
    free = shutil.disk_usage(".").free / 1e9
    rows.append(_row("disk here", free > 1, f"{free:.1f} GB free"))
    for name, what in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        extra = what.split(":")[0]
        rows.append(
            _row(name, there, what if there else f"absent: pip install 'counterpoise[{extra}]' for {what}")
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    rows.append(_row("hub", True, "offline: only local folders are read" if offline else "online"))
    return rows


def _row(name: str, ok: bool, found: str) -> dict[str, Any]:
    return {"name": name, "ok": bool(ok), "found": found}


def _package(name: str) -> dict[str, Any]:
    try:
        return _row(name, True, version(name))
    except PackageNotFoundError:
        return _row(name, False, "not installed")


def _accelerator() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        return _row("accelerator", True, torch.cuda.get_device_name(0))
    return _row("accelerator", True, "none: everything runs on the processor")
