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
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from counterpoise.types import Refusal, differences

if TYPE_CHECKING:  # at run time inside the methods that need them: `status` answers without either
    import numpy as np
    import pyarrow as pa

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
        return _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> bool:
    """Link a finished file to its final name, unless something is there; fsync the folder that now names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


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
            raise Refusal(
                f"{path} has layout {found}, this version reads layout {LAYOUT}: use the version that made it"
            )
        return run

    @classmethod
    def create(
        cls, path: str | Path, recipe: Mapping[str, Any], begun: Callable[[Run, str], str | None]
    ) -> Run:
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
            raise Refusal(
                f"{path} cannot be written: {error.strerror}. Name another directory with --to"
            ) from None
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
        from counterpoise import tables

        return tables.read(self.path / name, columns)

    def table_group(self, name: str, number: int) -> pa.Table:
        """One group of rows, of a table that was put with `rows_per_group`."""
        from counterpoise import tables

        return tables.read_group(self.path / name, number)

    def meta(self, name: str) -> dict[str, Any]:
        from counterpoise import tables

        return tables.read_meta(self.path / name)

    def array(self, name: str) -> np.ndarray:
        """A memory-mapped array: only the rows that are looked at are read."""
        import numpy as np

        return np.load(self.path / name, mmap_mode="r", allow_pickle=False)

    # --- what came out -------------------------------------------------------------------------------------

    @property
    def verdict(self) -> dict[str, Any]:
        return self.json("verdict.json")

    @property
    def metrics(self) -> dict[str, Any]:
        return self.json("metrics.json")

    def predictions(self, arm: str = "") -> pa.Table:
        """Every test prediction of every trial, of one arm or of all."""
        import numpy as np
        import pyarrow as pa

        from counterpoise import tables

        files = sorted((self.path / "evaluate").glob("*/*.parquet"))
        found = pa.concat_tables([tables.read(file) for file in files])
        return found if not arm else found.filter(np.asarray(found["arm"]) == arm)

    def images(self, role: str = "train") -> tuple[np.ndarray, pa.Table]:
        """The decoded images of a role, memory-mapped, and their manifest, row by row."""
        return self.array(f"data/{role}/pixels.npy"), self.table(f"data/{role}/manifest.parquet")

    def samples(self, synthesis: str, draw: int = 0, round_: int = 0) -> tuple[np.ndarray, pa.Table]:
        """The kept samples of a synthesis, and the selection they were kept by."""
        place = f"selected/round_{round_}/{synthesis}/draw_{draw}"
        return self.array(f"{place}.npy"), self.table(f"{place}.parquet")

    # --- writing -------------------------------------------------------------------------------------------

    def put(self, name: str, write: Callable[[BinaryIO], object]) -> bool:
        return commit(self.path / name, write, self.path / SCRATCH)

    def put_json(self, name: str, value: Any) -> bool:
        return self.put(name, lambda file: file.write(_to_json(value)))

    def put_bytes(self, name: str, value: bytes) -> bool:
        return self.put(name, lambda file: file.write(value))

    def put_table(self, name: str, table: pa.Table, rows_per_group: int | None = None) -> bool:
        from counterpoise import tables

        return self.put_bytes(name, tables.to_bytes(table, rows_per_group))

    def put_array(self, name: str, array: np.ndarray) -> bool:
        import numpy as np

        return self.put(name, lambda file: np.save(file, array, allow_pickle=False))

    @contextmanager
    def building_array(self, name: str, shape: tuple[int, ...], dtype: str) -> Iterator[np.ndarray]:
        """An array filled piece by piece on disk, never whole in memory; it appears when the block ends."""
        import numpy as np
        from numpy.lib.format import open_memmap

        if 0 in shape:  # an empty file cannot be mapped
            yield (empty := np.zeros(shape, dtype))
            self.put_array(name, empty)
            return
        folder = self.path / SCRATCH
        folder.mkdir(exist_ok=True)
        handle, temporary = tempfile.mkstemp(suffix=".tmp", dir=folder)
        try:
            mapped = open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            yield mapped
            mapped.flush()
            os.fsync(handle)
            _publish(Path(temporary), self.path / name)
        finally:
            os.close(handle)
            Path(temporary).unlink(missing_ok=True)

    def tell(self, unit: str, share: float) -> None:
        """How much of a unit is done, for whoever watches. Nothing is decided by it, so nothing fails for it."""
        folder = self.path / SCRATCH / "progress"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / unit.replace("/", "+")).write_text(f"{share:.4f}")

    def told(self, units: Container[str]) -> float:
        """What `tell` said of these units, added up."""
        total = 0.0
        with suppress(OSError):
            for path in (self.path / SCRATCH / "progress").iterdir():
                if path.name.replace("+", "/") in units:
                    total += float(path.read_text() or 0)
        return total

    def tell_no_more(self, unit: str = "") -> None:
        """Forget what was told of a unit, or of all."""
        folder = self.path / SCRATCH / "progress"
        for path in [folder / unit.replace("/", "+")] if unit else list(folder.glob("*")):
            path.unlink(missing_ok=True)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line to what happened. Nothing is decided by the log; it tells what the work cost."""
        with open(self.path / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

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
        stamp = time.strftime("%Y%m%d-%H%M%S")
        free = (self.path / ASIDE / (f"{stamp}-{again}" if again else stamp) for again in count())
        folder = next(one for one in free if not one.exists())  # twice within a second
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
