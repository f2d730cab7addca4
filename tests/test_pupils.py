"""Rows of a trial and the one matrix that heads are trained on: a label lies where its row does."""

import numpy as np
import pytest

from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.mixing import Instance
from counterpoise.data.pixels import Rows
from counterpoise.pupils import Pupil
from counterpoise.recipe import Fit

REAL, MADE = np.arange(12.0, dtype=np.float32).reshape(6, 2), -np.arange(8.0, dtype=np.float32).reshape(4, 2)
ORDER = np.array([4, 0, 5, 6, 7, 8, 9])  # three of the real rows, in an order of their own


def pupil(labels, *arrays, order=ORDER, groups=None):
    synthetic = np.arange(len(order)) >= 3
    return Pupil(
        Fit("x", CE(), Instance()), 3, Rows.of(*arrays, order=order), np.asarray(labels), groups, synthetic
    )


@pytest.mark.parametrize("soft", [False, True])
def test_the_matrix_holds_every_row_where_its_label_is(soft):
    labels = np.array([2, 0, 1, 1, 1, 0, 2])
    labels = np.eye(3, dtype=np.float32)[labels] if soft else labels
    one = pupil(labels, REAL, MADE, groups=np.array([1, 0, 1, -1, -1, -1, 0]))
    laid, groups = one.laid_out
    assert np.array_equal(one.matrix[ORDER], one.rows.raw(np.arange(7)))
    assert np.array_equal(laid[ORDER], labels)
    assert np.array_equal(groups[ORDER], one.groups)
    assert len(laid) == len(groups) == len(one.matrix) == 10
    assert np.array_equal(one.within(one.matrix).features, one.rows.raw(np.arange(7)))
    assert one.laid_out[0] is laid, "trials that share a pupil share its labels"


def test_no_real_rows_leave_the_matrix_to_the_others():
    one = pupil([0, 1, 2, 2], np.zeros((0, 1), np.float32), MADE, order=np.arange(4))
    assert np.array_equal(one.matrix, MADE)
    assert one.matrix.shape == (4, 2)


def test_a_single_array_is_copied_only_where_it_cannot_be_written():
    asleep = MADE.copy()
    asleep.flags.writeable = False
    for array, shared in ((REAL, True), (asleep, False)):
        found = pupil([0] * 3, array, order=np.arange(3)).matrix
        assert np.shares_memory(found, array) == shared
        assert found.flags.writeable
