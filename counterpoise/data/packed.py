"""Data sets that come as arrays: CIFAR's python files and scikit-learn's digits.

A row's uri is `file#number`. Pickles are opened with an allow-list, never with what they ask for.
"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from counterpoise.data.sources import Item, Place, Row, files_state, in_order, make_listing
from counterpoise.types import Refusal, part


@part
class Cifar:
    """CIFAR-10 or CIFAR-100 as its python files, in their original order (long-tail cuts depend on it)."""

    root: Place

    def listing(self) -> pa.Table:
        rows: list[Row] = []
        names = self._names()
        for name in self._files():
            labels = _cifar_batch(os.path.join(self.root, name))[1]
            split = "test" if name.startswith("test") else "train"
            called = [names[label] if label < len(names) else str(label) for label in labels]
            rows += [Row(f"{name}#{row}", label, None, split) for row, label in enumerate(called)]
        return make_listing(rows, classes=names or in_order({str(row.label) for row in rows}))

    def read(self, rows: pa.Table) -> Iterator[Item]:
        name, pixels = None, np.empty(0)
        for uri in rows.column("uri").to_pylist():
            wanted, _, row = uri.rpartition("#")
            if wanted != name:
                if wanted not in self._files():
                    yield OSError(errno.ENOENT, "no such file")
                    continue
                name, pixels = wanted, _cifar_batch(os.path.join(self.root, wanted))[0]
            yield np.ascontiguousarray(pixels[int(row)].reshape(3, 32, 32).transpose(1, 2, 0))

    def state(self) -> str:
        return files_state(os.path.join(self.root, name) for name in self._files())

    def _files(self) -> list[str]:
        names = [f"data_batch_{number}" for number in range(1, 6)] + ["train", "test_batch", "test"]
        found = [name for name in names if os.path.isfile(os.path.join(self.root, name))]
        if not found:
            raise Refusal(f"{self.root} holds none of CIFAR's files ({', '.join(names)})")
        return found

    def _names(self) -> list[str]:
        for file, key in (("batches.meta", b"label_names"), ("meta", b"fine_label_names")):
            path = os.path.join(self.root, file)
            if os.path.isfile(path):
                return [str(name, "utf-8") for name in _unpickle(path).get(key, [])]
        return []


def find_cifar(folder: Path) -> Cifar | None:
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        if (place / "data_batch_1").is_file() or ((place / "meta").is_file() and (place / "train").is_file()):
            return Cifar(str(place))
    return None


def _cifar_batch(path: str) -> tuple[np.ndarray, list[int]]:
    found = _unpickle(path)
    pixels, labels = found.get(b"data"), found.get(b"labels", found.get(b"fine_labels"))
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
    ):
        raise Refusal(f"{path} is not a CIFAR file: it has no array `data` of n x 3072 bytes")
    if (
        not isinstance(labels, list)
        or len(labels) != len(pixels)
        or not all(type(label) is int for label in labels)
    ):
        raise Refusal(f"{path} is not a CIFAR file: it needs a whole-number label for each image")
    return pixels, labels


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the encoding {encoding!r} is not needed for CIFAR")
    return text.encode("latin1")


class _OnlyArrays(pickle.Unpickler):
    """A pickle can name any function to call. Ours may name what rebuilds a numpy array, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) == ("_codecs", "encode"):  # how newer Pythons write bytes into old pickles
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _unpickle(path: str) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:
            found = _OnlyArrays(file, encoding="bytes").load()
    except Exception as error:  # noqa: BLE001 - a hostile pickle can fail in any way
        raise Refusal(f"{path} is not opened: it is no plain CIFAR file ({str(error)[:200]})") from None
    if not isinstance(found, dict):
        raise Refusal(f"{path} is not a CIFAR file: it holds a {type(found).__name__}")
    return found


# --- digits --------------------------------------------------------------------------------------------------


@part
class Digits:
    """Scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 grey pixels, with no download."""

    def listing(self) -> pa.Table:
        labels = [str(label) for label in _digits()[1]]
        return make_listing([Row(f"digits#{row:04d}", label) for row, label in enumerate(labels)])

    def read(self, rows: pa.Table) -> Iterator[Item]:
        pixels = _digits()[0]
        for uri in rows.column("uri").to_pylist():
            yield pixels[int(uri.rpartition("#")[2])]

    def state(self) -> str:
        return f"digits {len(_digits()[1])}"


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images[:, :, :, None] * (255 / 16)).astype(np.uint8)  # values 0..16 => 0..255
    pixels.flags.writeable = False
    return pixels, found.target
