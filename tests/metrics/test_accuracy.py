import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score

from counterpoise.metrics.accuracy import SLICES, confusion, measure, per_class, shot_bins, slices, wilson


def measured(label, predicted, counts, n_classes, group=None, group_counts=None):
    n = len(label)
    return measure(
        np.array(label),
        np.array(predicted),
        np.full(n, 0.9),
        np.full(n, 0.1),
        group,
        counts,
        n_classes,
        group_counts,
    )


pairs = st.integers(2, 7).flatmap(
    lambda c: st.tuples(
        st.just(c), st.lists(st.tuples(st.integers(0, c - 1), st.integers(0, c - 1)), min_size=1, max_size=60)
    )
)


@given(pairs)
def test_agrees_with_scikit_learn_on_the_classes_that_have_test_images(drawn):
    c, rows = drawn
    label, predicted = np.array(rows).T
    found = measured(label, predicted, np.arange(c), c)
    shown = np.unique(label)
    assert found["accuracy"] == pytest.approx((label == predicted).mean())
    assert found["macro_f1"] == pytest.approx(
        f1_score(label, predicted, labels=shown, average="macro", zero_division=0)
    )
    if len(shown) > 1:  # scikit-learn warns otherwise
        assert np.array_equal(
            confusion(label, predicted, c), confusion_matrix(label, predicted, labels=range(c))
        )
    if len(shown) > 1 and set(predicted) <= set(label):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))
    assert found["untested_classes"] == c - len(shown)
    assert found["worst_class"] <= found["worst_classes"] <= found["balanced_accuracy"] + 1e-12
    assert all(math.isfinite(value) for value in found.values())


def test_wilson_is_the_root_of_the_score_test():
    low, high = wilson(7, 10)
    z = norm.ppf(0.975)
    for rate in (low, high):
        assert abs(0.7 - rate) == pytest.approx(z * math.sqrt(rate * (1 - rate) / 10))
    assert wilson(0, 5)[0] == 0
    assert 0 < wilson(0, 5)[1] < 1


def test_g_mean_of_the_card_survives_a_dead_class():
    label = np.repeat([0, 1, 2], 10)
    predicted = np.concatenate([[0] * 9 + [1], [1] * 5 + [0] * 5, [0] * 10])
    found = measured(label, predicted, [100, 10, 1], 3)
    assert found["g_mean"] == pytest.approx(0.0766, abs=5e-5)
    assert found["dead_classes"] == 1
    assert found["worst_class"] == 0


def test_bins_follow_the_card_at_their_edges():
    assert shot_bins([101, 100, 20, 19, 0]) == {"many": [0], "medium": [1, 2], "few": [3, 4]}


def test_the_rarest_third_stands_in_only_where_no_class_is_under_twenty():
    counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert shot_bins(counts)["rarest"] == [7, 8, 9]
    assert "few" not in shot_bins(counts)
    assert "rarest" not in shot_bins([*counts, 19])
    assert set(shot_bins([50] * 9)) == {"medium"}, "an even set has no rarest classes"


def test_a_class_without_test_images_is_left_out_and_an_empty_bin_is_absent():
    found = measured([0, 0, 1, 1], [0, 0, 1, 0], [500, 50, 3], 3)
    assert found["balanced_accuracy"] == 0.75
    assert found["untested_classes"] == 1
    assert "few" not in found
    assert "tail_to_head" not in found
    last = per_class([0, 0, 1, 1], [0, 0, 1, 0], [500, 50, 3], 3)[2]
    assert last["test"] == 0
    assert last["recall"] is None


def test_bins_by_real_counts_and_the_mass_that_moves_from_tail_to_head():
    label = np.repeat([0, 1, 2, 3], 10)
    predicted = np.concatenate([[0] * 10, [1] * 8 + [0] * 2, [2] * 4 + [0] * 3 + [1] * 3, [3] * 5 + [0] * 5])
    found = measured(label, predicted, [900, 60, 10, 5], 4)
    assert found["many"] == 1
    assert found["medium"] == pytest.approx(0.8)
    assert found["few"] == pytest.approx(0.45)
    assert found["tail_to_head"] == pytest.approx((0.3 + 0.5) / 2)


def test_groups_worst_worst_tenth_and_adjusted_average():
    group = np.repeat(np.arange(20), 10)
    label = np.zeros(200, int)
    predicted = label.copy()
    predicted[:6] = 1  # group 0: .4
    predicted[10:13] = 1  # group 1: .7
    found = measured(label, predicted, [9, 9], 2, group, [100] + [0] * 18 + [300])
    assert found["worst_group"] == pytest.approx(0.4)
    assert found["group_mean"] == pytest.approx((0.4 + 0.7 + 18) / 20)
    assert found["worst_groups"] == pytest.approx(0.55), "the lowest two of twenty"
    assert found["adjusted_average"] == pytest.approx(0.25 * 0.4 + 0.75 * 1)
    unknown = measured(label, predicted, [9, 9], 2, np.where(group == 0, -1, group))
    assert unknown["worst_group"] == pytest.approx(0.7)
    assert "worst_group" not in measured(label, predicted, [9, 9], 2, np.full(200, -1))


def test_the_minimum_of_many_small_groups_is_lower_than_the_worst_tenth():
    """The card's example: 360 groups of 50 images that all have a true rate of .80."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(360), 50)
    label = np.zeros(len(group), int)
    runs = [measured(label, (rng.random(len(group)) > 0.8).astype(int), [9, 9], 2, group) for _ in range(20)]
    assert np.mean([run["worst_group"] for run in runs]) == pytest.approx(0.62, abs=0.015)
    assert np.mean([run["worst_groups"] for run in runs]) > 0.68


def test_order_of_the_measures_is_fixed_and_slices_are_rates_read_from_them():
    rng = np.random.default_rng(1)
    label, group = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    runs = [measured(label, rng.integers(0, 4, 300), [300, 60, 9, 9], 4, group, [1, 1, 1]) for _ in range(3)]
    assert len({tuple(run) for run in runs}) == 1
    cut = slices(runs[0])
    assert list(cut) == ["all", "many", "medium", "few", "worst_class", "worst_group", "worst_cell"]
    assert cut["all"] == runs[0]["balanced_accuracy"]
    assert all(0 <= value <= 1 for value in cut.values())
    assert set(SLICES) - set(cut) == {"rarest"}


def test_per_class_recall_lies_in_its_interval():
    rng = np.random.default_rng(2)
    label, predicted = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    rows = per_class(label, predicted, [5, 4, 3, 2, 1], 5)
    assert [row["train"] for row in rows] == [5, 4, 3, 2, 1]
    assert sum(row["test"] for row in rows) == 400
    assert all(row["low"] < row["recall"] < row["high"] for row in rows)
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(f1_score(label, predicted, average="macro"))


def test_a_label_that_is_no_class_is_our_mistake():
    with pytest.raises(AssertionError, match="predicted"):
        confusion(np.array([0, 1]), np.array([0, 2]), 2)
