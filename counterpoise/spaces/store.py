"""Features or latents that some run on this machine has computed before, found again by the pixels they were computed from.

Below `features/SPACE` (digest of weights, preprocessing and kind of feature) lie files that never change: the features of
some rows, the rows' keys, and a check of each. There is no other index, so any number of processes may read and add.
Nothing depends on the store: what is missing, damaged or cannot be written is computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from counterpoise.rundir import commit

SUFFIX = ".safetensors"
DAMAGED = ".damaged"  # added to the name of a file that is not what was written; it is not read again


def cache_folder() -> Path:
    """$COUNTERPOISE_CACHE, or `counterpoise` where this user's caches lie. /dev/null can be neither read nor written."""
    if chosen := os.environ.get("COUNTERPOISE_CACHE"):
        return Path(chosen)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return folder / "counterpoise" if folder.is_absolute() else Path(os.devnull)  # a user without a home


class Store:
    """The features of one space, all of them or the last `most_bytes`."""

    def __init__(self, folder: Path, most_bytes: int | None = None) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._read: set[Path] = set()
        self._places: dict[bytes, tuple[Path, int]] = {}  # a row's key => its file, and where in it

    @classmethod
    def of(cls, digest: str, most_bytes: int | None = None) -> Store:
        return _opened(cache_folder() / "features" / digest, most_bytes)

    def rows(self, pixels: np.ndarray, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """encode(pixels) of one row or more, uint8 (n, h, w, c) => (n, d) float32; known rows are not encoded again.

        Where all are known or none is, the bytes are those of `encode`; else up to the rounding of another batch.
        """
        keys = [_key(row) for row in pixels]
        features = self._find(keys)
        missing = [i for i in range(len(keys)) if i not in features]
        if missing:
            made = encode(pixels[missing])
            self._add([keys[i] for i in missing], made)
            features |= dict(zip(missing, made, strict=True))
        return np.stack([features[i] for i in range(len(keys))])

    def _find(self, keys: Sequence[bytes]) -> dict[int, np.ndarray]:
        """Which of these rows are known: position in `keys` => features (d,)."""
        self._look()
        wanted: dict[Path, list[int]] = {}
        for i, key in enumerate(keys):
            if key in self._places:
                wanted.setdefault(self._places[key][0], []).append(i)
        found: dict[int, np.ndarray] = {}
        for path, positions in wanted.items():
            with self._reading(path), safe_open(path, "np") as file:
                features, checks = file.get_slice("features"), file.get_tensor("checks")
                places = [self._places[keys[i]][1] for i in positions]
                rows = [features[place : place + 1][0] for place in places]
                for i, place, row in zip(positions, places, rows, strict=True):
                    if _check(keys[i], row) != checks[place].tobytes():
                        raise SafetensorError("not the bytes that were written")
                found |= zip(positions, rows, strict=True)  # all of a file that are wanted, or none
        return found

    def _look(self) -> None:
        """Learn the keys in files that were not there before."""
        there: set[Path] = set()
        with suppress(OSError):  # there is no store yet, or it is not ours to look into
            there = {self.folder / name for name in os.listdir(self.folder) if name.endswith(SUFFIX)}
        for path in there - self._read:
            with self._reading(path), safe_open(path, "np") as file:
                self._places |= {key.tobytes(): (path, i) for i, key in enumerate(file.get_tensor("keys"))}
                self._read.add(path)

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """A file that was removed or may not be read is passed over. A damaged one goes out of the way of a sound one,
        which will have the same name."""
        try:
            yield
        except OSError:
            pass
        except (SafetensorError, IndexError):
            with suppress(OSError):
                os.replace(path, path.with_name(path.name + DAMAGED))
            self._read.discard(path)
            self._places = {key: place for key, place in self._places.items() if place[0] != path}

    def _add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Features that are not finite are not kept: whoever asks for them shall see them come from the backbone."""
        good = np.flatnonzero(np.isfinite(features).all(1)).tolist()
        if not good:
            return
        kept, rows = [keys[i] for i in good], features[good]
        checks = [_check(key, row) for key, row in zip(kept, rows, strict=True)]
        name = hashlib.blake2b(b"".join(kept), digest_size=16).hexdigest()
        body = save({"keys": _bytes(kept), "checks": _bytes(checks), "features": rows})
        with suppress(OSError):  # a full disk, a home that is read-only
            commit(self.folder / (name + SUFFIX), lambda file: file.write(body))
            if self.most_bytes is not None:
                self._forget(self.most_bytes)

    def _forget(self, most_bytes: int) -> None:
        """The files that were written first go until the others fit. Whoever reads one has it whole or computes."""
        kept = [path for path in self.folder.iterdir() if path.suffix in (SUFFIX, DAMAGED)]
        files = [(path.stat(), path) for path in kept]
        left = sum(found.st_size for found, _ in files)
        for found, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if left <= most_bytes:
                return
            path.unlink(missing_ok=True)
            left -= found.st_size


@lru_cache(maxsize=3)  # features, latents and what models are told of pictures
def _opened(folder: Path, most_bytes: int | None) -> Store:
    return Store(folder, most_bytes)


def _key(row: np.ndarray) -> bytes:
    """Pixels (h, w, c) => what they are known by."""
    return _digest(row, 16)


def _check(key: bytes, row: np.ndarray) -> bytes:
    return _digest(row, 8, key)


def _digest(row: np.ndarray, size: int, salt: bytes = b"") -> bytes:
    kind = f"{row.dtype} {row.shape}".encode()
    return hashlib.blake2b(salt + kind + row.tobytes(), digest_size=size).digest()


def _bytes(rows: Sequence[bytes]) -> np.ndarray:
    """(n, length) uint8"""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
