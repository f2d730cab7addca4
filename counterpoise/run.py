"""The run directory: the only truth there is. Present means done; nothing is ever overwritten.

A file appears under its final name in one step (`commit`), so that a process may be killed between any two
instructions. Whoever comes second finds the file there and leaves it as it is.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from counterpoise import tables
from counterpoise.types import Refusal, differences

MARKER = "recipe.json"
SCRATCH = ".scratch"  # unfinished files; safe to remove while nothing runs
ASIDE = ".aside"  # what --redo moved out of the way
LAYOUT = 1  # raised when the meaning of a file in a run directory changes


def commit(path: Path, write: Callable[[BinaryIO], object], scratch: Path | None = None) -> bool:
    """Put a file under its final name if nothing is there yet; False if something already was.

    Temporary name, fsync, link without replace, fsync of the folder: after a crash the file is whole or absent.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch or path.parent
    scratch.mkdir(parents=True, exist_ok=True)
    temporary = scratch / f".{path.name[-80:]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        _sync_folder(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Run:
    """A run directory. Paths are relative to it; reading is free, writing goes through `put_*`."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    # --- opening -------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run, for reading."""
        run = cls(Path(path))
        if not run.has(MARKER):
            raise Refusal(f"{path} is not a run directory: it has no {MARKER}")
        found = run.json(MARKER).get("layout")
        if found != LAYOUT:
            raise Refusal(f"{path} has layout {found}, this version reads layout {LAYOUT}: use the version that made it")
        return run

    @classmethod
    def create(cls, path: str | Path, recipe: Mapping[str, Any], begun: Callable[[Run, str], str | None]) -> Run:
        """A new run, or the same one again. `begun(run, field)` names the stage that already used a field, if any.

        Settings that changed under artefacts which depend on them are refused, naming the field.
        """
        run = cls(Path(path))
        if run.path.is_symlink() and not run.path.exists():
            raise Refusal(f"{path} is a dangling link: name another directory")
        if run.path.exists() and not run.path.is_dir():
            raise Refusal(f"{path} is a file: a run needs a directory of its own, name another with --to")
        if run.path.is_dir() and not run.has(MARKER) and _foreign(run.path):
            raise Refusal(
                f"{path} is not empty and was not made by Counterpoise: nothing is written into it, "
                "name another directory with --to"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            body = {"layout": LAYOUT, "recipe": recipe}
            run.put_json(MARKER, body)
        except OSError as error:
            raise Refusal(f"{path} cannot be written: {error.strerror}. Name another directory with --to") from None
        old = cls.open(path).json(MARKER)["recipe"]
        changed = differences(old, dict(recipe))
        for field, was, now in changed:
            if stage := begun(run, field):
                raise Refusal(
                    f"{field} was {_short(was)}, the recipe now says {_short(now)}: "
                    f"use another directory, or --redo {stage}"
                )
        if changed:  # nothing that depends on these fields exists yet: the newer wish counts
            run._replace_json(MARKER, body)
        return run

    # --- reading -------------------------------------------------------------------------------------------

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return tables.read(self.path / name, columns)

    def meta(self, name: str) -> dict[str, Any]:
        return tables.read_meta(self.path / name)

    def array(self, name: str) -> np.ndarray:
        """A memory-mapped array: only the rows that are looked at are read."""
        return np.load(self.path / name, mmap_mode="r", allow_pickle=False)

    # --- writing -------------------------------------------------------------------------------------------

    def put(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        return commit(self.path / name, write, self.path / SCRATCH)

    def put_json(self, name: str, value: Any) -> bool:
        return self.put(name, lambda file: file.write(_to_json(value)))

    def put_bytes(self, name: str, value: bytes) -> bool:
        return self.put(name, lambda file: file.write(value))

    def put_table(self, name: str, table: pa.Table) -> bool:
        return self.put_bytes(name, tables.to_bytes(table))

    def put_array(self, name: str, array: np.ndarray) -> bool:
        return self.put(name, lambda file: np.save(file, array, allow_pickle=False))

    @contextmanager
    def building_array(self, name: str, shape: tuple[int, ...], dtype: str) -> Iterator[np.ndarray]:
        """An array filled piece by piece on disk, never whole in memory; it appears when the block ends."""
        from numpy.lib.format import open_memmap

        folder = self.path / SCRATCH
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=folder)
        os.close(handle)
        try:
            if 0 in shape:
                array = np.zeros(shape, dtype)
                yield array
                np.save(open(temporary, "wb"), array)  # noqa: SIM115 - the name matters, not the handle
            else:
                mapped = open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
                yield mapped
                mapped.flush()
                del mapped
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, target)
            except FileExistsError:
                return
            _sync_folder(target.parent)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _replace_json(self, name: str, value: Any) -> None:
        fresh = self.path / SCRATCH / f"{name}.{secrets.token_hex(4)}.tmp"
        fresh.parent.mkdir(exist_ok=True)
        fresh.write_bytes(_to_json(value))
        os.replace(fresh, self.path / name)

    def set_aside(self, names: list[str]) -> Path | None:
        """Move artefacts out of the way, for `--redo`. They are kept, never deleted."""
        there = [name for name in names if self.has(name)]
        if not there:
            return None
        folder = self.path / ASIDE / time.strftime("%Y%m%d-%H%M%S")
        for name in there:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.path / name, target)
        return folder


def _foreign(path: Path) -> bool:
    return any(entry.name not in (SCRATCH, ".DS_Store") for entry in path.iterdir())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
