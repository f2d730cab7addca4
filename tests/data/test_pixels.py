import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.data.pixels import Rows, as_float


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.data())
def test_several_arrays_read_as_one(sizes, data):
    arrays = [np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1) + 10 * i for i, n in enumerate(sizes)]
    whole = np.concatenate(arrays)
    order = data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=9)) if len(whole) else []
    rows = Rows.of(*arrays, order=np.array(order, int))
    assert np.array_equal(rows.raw(np.arange(len(rows))), whole[np.array(order, int)])
    assert rows.batch(np.arange(len(rows))).shape == (len(rows), 1, 2, 2)


def test_only_the_rows_asked_for_are_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = Rows.of(mapped)
    assert rows.raw(np.array([9, 0]))[:, 0, 0, 0].tolist() == [36, 0]


def test_bytes_become_floats_between_0_and_1():
    assert as_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0.0, 1.0]
    assert as_float(torch.tensor([0.25])).tolist() == [0.25]
