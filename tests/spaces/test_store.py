"""The store of features: found again by any process and any cut, never wrong, never in the way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterpoise.spaces import store
from counterpoise.spaces.store import Store, cache_folder

D = 6


class Encoder:
    """Features that depend on a row alone, and a count of the rows that were encoded."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.rows += len(pixels)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32)
        return np.sin(flat[:, :D] + flat.sum(1, keepdims=True)).astype(np.float32)


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
EXPECTED = Encoder()(PIXELS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    store._opened.cache_clear()
    return tmp_path / "cache" / "features" / "space"


def damage(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[body.index(EXPECTED[11].tobytes()) + 2] ^= 1
    path.write_bytes(body)


def asked(pixels: np.ndarray, space: str = "space") -> tuple[np.ndarray, int]:
    """The features of these rows as a fresh process gets them, and how many had to be computed."""
    store._opened.cache_clear()
    encode = Encoder()
    return Store.of(space).rows(pixels, encode), encode.rows


def test_another_order_cut_or_split_finds_the_same_rows():
    first, computed = asked(PIXELS[:30])
    assert computed == 30
    assert first.tobytes() == EXPECTED[:30].tobytes()
    assert asked(PIXELS[:30]) == (pytest.approx(EXPECTED[:30], abs=0), 0)
    some = np.array([35, 3, 29, 3, 38, 0])
    found, computed = asked(PIXELS[some])
    assert computed == 2
    assert (found == EXPECTED[some]).all()
    assert asked(PIXELS)[1] == 8


def test_a_row_is_known_by_its_pixels_and_their_shape():
    asked(PIXELS)
    assert asked(PIXELS.reshape(40, 8, 2, 3))[1] == 40
    assert asked(PIXELS, "other weights")[1] == 40
    changed = PIXELS.copy()
    changed[7, 0, 0, 0] ^= 1
    assert asked(changed)[1] == 1


def test_what_one_process_adds_another_sees_at_once():
    mine, yours = Store(cache_folder() / "x"), Store(cache_folder() / "x")
    for start in (0, 10, 20):
        encode = Encoder()
        mine.rows(PIXELS[start : start + 10], encode)
        yours.rows(PIXELS[: start + 10], encode)
        assert encode.rows == 10


def test_processes_at_once(folder):
    code = f"""
import numpy as np
from counterpoise.spaces.store import Store
pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
for start in [(7 * i) % 40 for i in range(20)]:
    rows = np.arange(start, start + 9) % 40
    made = Store.of("space").rows(pixels[rows], lambda some: some.reshape(len(some), -1)[:, :{D}].astype(np.float32))
    assert (made == pixels[rows].reshape(9, -1)[:, :{D}]).all()
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert {path.suffix for path in folder.iterdir()} == {".safetensors"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), change=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_costs_time_only(folder, at, change, cut):
    shutil.rmtree(folder, ignore_errors=True)
    asked(PIXELS[:20])
    asked(PIXELS)
    path = min(folder.iterdir())
    body = bytearray(path.read_bytes())
    place = int(at * (len(body) - 1))
    if cut:
        del body[place:]
    else:
        body[place] ^= change
    path.write_bytes(body)
    assert (asked(PIXELS)[0] == EXPECTED).all()
    assert asked(PIXELS)[1] == 0, "what was damaged has been made again"
    assert (asked(PIXELS[::-1])[0] == EXPECTED[::-1]).all()


def test_a_damaged_file_is_kept_aside_and_made_again(folder):
    asked(PIXELS)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert (asked(PIXELS)[0] == EXPECTED).all()
    assert path.read_bytes() == whole
    assert sorted(found.suffix for found in folder.iterdir()) == [".damaged", ".safetensors"]
    assert asked(PIXELS)[1] == 0


def test_a_damaged_file_that_cannot_be_moved_is_computed_around(folder, monkeypatch):
    asked(PIXELS)
    (path,) = folder.iterdir()
    damage(path)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    for _ in range(2):
        assert (asked(PIXELS)[0] == EXPECTED).all()
    one = Store.of("space")
    for _ in range(2):
        assert (one.rows(PIXELS, Encoder()) == EXPECTED).all()


def test_a_store_that_is_removed_meanwhile(folder):
    one = Store.of("space")
    one.rows(PIXELS, Encoder())
    one.rows(PIXELS, Encoder())
    shutil.rmtree(folder)
    for rows in (40, 0):
        encode = Encoder()
        assert (one.rows(PIXELS, encode) == EXPECTED).all()
        assert encode.rows == rows


@pytest.mark.parametrize("place", [os.devnull, "file", "full"])
def test_a_store_that_cannot_be_written_fails_nothing(tmp_path, monkeypatch, place):
    if place == "file":
        (tmp_path / "file").write_bytes(b"")
        place = str(tmp_path / "file")
    if place == "full":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        place = str(tmp_path / "full")
    monkeypatch.setenv("COUNTERPOISE_CACHE", place)
    for _ in range(2):
        found, computed = asked(PIXELS)
        assert computed == 40
        assert (found == EXPECTED).all()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]


def test_features_that_are_not_finite_are_not_kept():
    def encode(pixels):
        made = Encoder()(pixels)
        made[pixels[:, 0, 0, 0] == PIXELS[3, 0, 0, 0], 1] = np.nan
        return made

    broken = int((PIXELS[:, 0, 0, 0] == PIXELS[3, 0, 0, 0]).sum())
    found = Store.of("space").rows(PIXELS, encode)
    assert np.isnan(found[3, 1])
    again, computed = asked(PIXELS)
    assert computed == broken
    assert (again == EXPECTED).all()


def test_a_bounded_one_forgets_what_was_written_first(folder):
    bounded = Store(folder, most_bytes=3 * 900)
    for start in range(0, 40, 5):
        assert (bounded.rows(PIXELS[start : start + 5], Encoder()) == EXPECTED[start : start + 5]).all()
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 3 * 900
    kept = [asked(PIXELS[start : start + 5])[1] == 0 for start in range(0, 40, 5)]
    assert kept == sorted(kept), "the last ones are still there"
    assert 1 < sum(kept) < 8
    for _ in range(2):  # what it has forgotten it computes
        assert (bounded.rows(PIXELS, Encoder()) == EXPECTED).all()


def test_where_it_lies(monkeypatch):
    monkeypatch.setenv("COUNTERPOISE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("COUNTERPOISE_CACHE")
    assert cache_folder() == Path("/b/counterpoise")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/counterpoise")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/nowhere")  # the system's rule: what is not absolute is not used
    assert cache_folder() == Path(os.devnull)
