"""One small but complete run, on a folder as hostile as users' folders are, shared by the tests that look at runs."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pytest
from studies import fill, photo, small

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # else scikit-learn's checks of our samplers skip some
CACHE = tempfile.TemporaryDirectory(
    prefix="counterpoise-tests-"
)  # no test sees the features of another machine's day
os.environ["COUNTERPOISE_CACHE"] = CACHE.name


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """An image folder with truncated, empty, doubled and misnamed files, and an empty class."""
    root = fill(tmp_path_factory.mktemp("data") / "photos")
    whole = io.BytesIO()
    photo(0, 999, 64).save(whole, "JPEG")
    (root / "con" / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (root / "con" / "nothing.png").write_bytes(b"")
    (root / "con" / "text.png").write_text("not an image")
    (root / "con" / "named.png").write_bytes(whole.getvalue())
    (root / "con" / "again.png").write_bytes((root / "con" / "000.png").read_bytes())
    (root / "nobody").mkdir()
    return root


@pytest.fixture(scope="session")
def finished(hostile, tmp_path_factory):
    """A finished run over that folder."""
    from counterpoise import run

    return run(small(hostile), tmp_path_factory.mktemp("runs") / "run")
