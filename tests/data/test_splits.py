"""Holding out: balanced, never too much, blind to order, never parting twins or patients; and leaks are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoise.data.splits import Holdout, conflicts, overlaps
from counterpoise.types import Refusal, build, describe, load


def ids(count: int) -> list[str]:
    return [f"id{row}" for row in range(count)]


def hold(holdout: Holdout, labels, groups=None, given=None, hashes=None, seed=0, names=None) -> np.ndarray:
    labels = np.asarray(labels)
    groups = None if groups is None else np.asarray(groups)
    nothing = [None] * len(labels)
    return holdout(names or ids(len(labels)), labels, groups, given or nothing, hashes or nothing, seed)


def counts(roles: np.ndarray, cells: np.ndarray, role: str) -> list[int]:
    return np.bincount(np.asarray(cells)[roles == role], minlength=max(cells) + 1).tolist()


def test_whole_numbers_are_images_per_class():
    labels = np.repeat([0, 1, 2], [100, 50, 40])
    roles = hold(Holdout(5, 10), labels)
    assert counts(roles, labels, "val") == [5, 5, 5]
    assert counts(roles, labels, "test") == [10, 10, 10]


def test_a_fraction_of_val_is_balanced_and_a_fraction_of_test_is_stratified():
    labels = np.repeat([0, 1], [300, 100])
    roles = hold(Holdout(0.1, 0.2), labels)
    assert counts(roles, labels, "val") == [20, 20]
    assert counts(roles, labels, "test") == [60, 20]


def test_nothing_asked_nothing_taken():
    assert set(hold(Holdout(0, 0), [0] * 10)) == {"train"}
    assert set(hold(Holdout(0, 0.0), [0] * 10)) == {"train"}


def test_no_more_than_half_of_a_class_and_one_image_stays():
    labels = np.repeat(np.arange(6), [1, 2, 3, 4, 10, 100])
    roles = hold(Holdout(10, 10), labels)
    assert counts(roles, labels, "train") == [1, 1, 2, 2, 5, 80]
    assert counts(roles, labels, "test") == [0, 1, 1, 1, 3, 10]
    assert counts(roles, labels, "val") == [0, 0, 0, 1, 2, 10]


def test_class_by_group():
    labels = np.repeat([0, 0, 1, 1], [60, 20, 30, 50])
    groups = np.repeat([0, 1, 0, 1], [60, 20, 30, 50])
    roles = hold(Holdout(8, 0.1), labels, groups)
    assert counts(roles, labels * 2 + groups, "val") == [4, 4, 4, 4]
    assert counts(roles, labels * 2 + groups, "test") == [6, 2, 3, 5]


def test_given_splits_are_honoured():
    labels = [0] * 40 + [1] * 40
    given = (["test"] * 10 + ["train"] * 20 + [None] * 10) * 2
    roles = hold(Holdout(5, 0.5), labels, given=given)
    assert ((roles == "test") == (np.array(given) == "test")).all()
    assert counts(roles, labels, "val") == [5, 5]
    everything = ["val"] * 20 + ["test"] * 20 + ["train"] * 40
    assert hold(Holdout(5, 5), labels, given=everything).tolist() == everything
    assert hold(Holdout(5, 5), [0, 0], given=["test", "val"]).tolist() == ["test", "val"]


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)
AMOUNT = st.integers(0, 8) | st.floats(0, 0.9)


@settings(deadline=None)
@given(LABELS, AMOUNT, AMOUNT, st.integers(0, 5), st.booleans(), st.randoms(use_true_random=False))
def test_rules_hold_for_any_data(labels, val, test, seed, grouped, random):
    rows = len(labels)
    groups = [random.randrange(-1, 3) for _ in range(rows)] if grouped else None
    hashes = [random.choice(["same", "twin", None, f"own{row}"]) for row in range(rows)]
    labels = np.array(labels)
    roles = hold(Holdout(val, test), labels, groups, hashes=hashes, seed=seed)
    cells = list(zip(labels.tolist(), groups or [0] * rows, strict=True))
    for cell in set(cells):
        mine = np.array([other == cell for other in cells])
        held = int(np.sum(roles[mine] != "train"))
        assert held <= mine.sum() // 2
        for role, amount in (("val", val), ("test", test)):
            if isinstance(amount, int):
                assert np.sum(roles[mine] == role) <= amount
    for name in ("same", "twin"):
        assert len({role for role, hash_ in zip(roles, hashes, strict=True) if hash_ == name}) <= 1
    # a shuffled table gives every row the same role
    order = list(range(rows))
    random.shuffle(order)
    again = hold(
        Holdout(val, test),
        labels[order],
        [groups[row] for row in order] if groups else None,
        hashes=[hashes[row] for row in order],
        seed=seed,
        names=[f"id{row}" for row in order],
    )
    assert (again == roles[order]).all()
    assert overlaps(hashes, roles.tolist()) == []


@settings(deadline=None)
@given(LABELS, st.integers(1, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_patients_stay_together(labels, patients, seed, random):
    groups = [random.randrange(-1, patients) for _ in labels]
    labels = np.array(labels)
    roles = hold(Holdout(2, 0.2, together=True), labels, groups, seed=seed)
    for patient in range(patients):
        assert len({role for role, group in zip(roles, groups, strict=True) if group == patient}) <= 1
    for label in set(labels.tolist()):
        assert np.sum(roles[labels == label] != "train") <= np.sum(labels == label) // 2


@settings(deadline=None)
@given(LABELS, AMOUNT, AMOUNT, AMOUNT, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_the_pool_takes_from_train_alone(labels, val, test, pool, grouped, together, random):
    rows = len(labels)
    groups = np.array([random.randrange(-1, 4) for _ in range(rows)]) if grouped else None
    hashes = [random.choice(["same", "twin", None, f"own{row}"]) for row in range(rows)]
    labels = np.array(labels)
    without = hold(Holdout(val, test, together), labels, groups, hashes=hashes)
    roles = hold(Holdout(val, test, together, pool), labels, groups, hashes=hashes)
    assert ((roles == without) | ((roles == "pool") & (without == "train"))).all(), (
        "val and test as without it"
    )
    cells = [(label, None if together or groups is None else groups[row]) for row, label in enumerate(labels)]
    for cell in set(cells):
        mine = np.array([other == cell for other in cells])
        if (without[mine] == "train").any():
            assert (roles[mine] == "train").any(), "an image with its label is left in every cell"
        if isinstance(pool, int) and not together:
            assert np.sum(roles[mine] == "pool") <= pool
    for name in ("same", "twin"):
        assert len({role for role, hash_ in zip(roles, hashes, strict=True) if hash_ == name}) <= 1
    if together and groups is not None:
        for patient in set(groups.tolist()) - {-1}:
            assert len(set(roles[groups == patient])) == 1


def test_amounts_of_the_pool():
    labels = np.repeat([0, 1, 2], [200, 40, 10])
    assert counts(hold(Holdout(0.1, 0.2, pool=0.5), labels), labels, "pool") == [100, 20, 4]
    assert counts(hold(Holdout(0, 0, pool=0.5), labels), labels, "pool") == [100, 20, 5]
    assert counts(hold(Holdout(0, 0, pool=30), labels), labels, "pool") == [30, 30, 9]
    first, more = (set(np.flatnonzero(hold(Holdout(5, 5, pool=n), labels) == "pool")) for n in (8, 16))
    assert first < more, "a larger pool holds the smaller one"
    assert (hold(Holdout(5, 5, pool=9), labels) != hold(Holdout(5, 5, pool=9), labels, seed=1)).any()


def test_a_given_pool_is_kept_and_needs_no_label():
    labels, given = [0] * 30 + [1] * 30 + [-1] * 20, ["train"] * 60 + ["pool"] * 20
    roles = hold(Holdout(5, 5, pool=10), labels, given=given)
    assert ((roles == "pool") == (np.array(given) == "pool")).all()
    assert counts(roles[:60], labels[:60], "test") == [5, 5]


def test_patients_are_held_out_until_the_number_is_met():
    labels, groups = np.repeat([0, 1], 300), np.tile(np.repeat(np.arange(30), 10), 2)
    roles = hold(Holdout(20, 40, together=True), labels, groups)
    assert counts(roles, labels, "val") == [20, 20]
    assert counts(roles, labels, "test") == [40, 40]


def test_the_seed_matters_and_new_rows_do_not_move_old_ones():
    labels = np.zeros(400, np.int64)
    first = hold(Holdout(20, 20), labels)
    assert (first == hold(Holdout(20, 20), labels)).all()
    assert (first != hold(Holdout(20, 20), labels, seed=1)).any()
    more = hold(Holdout(20, 20), np.zeros(401, np.int64))[:400]
    assert np.sum(more != first) <= 2


def test_a_twin_under_another_label_stays_in_train():
    labels = [0] * 20 + [1] * 20
    hashes = ["both", *(f"a{i}" for i in range(19)), "both", *(f"b{i}" for i in range(19))]
    for seed in range(10):
        roles = hold(Holdout(5, 5), labels, hashes=hashes, seed=seed)
        assert (roles[0], roles[20]) == ("train", "train")


@pytest.mark.parametrize("settings", [{"val": -1}, {"val": 1.5}, {"test": "x"}, {"test": -0.1}])
def test_amounts_are_checked(settings):
    with pytest.raises(Refusal, match="Holdout"):
        build(Holdout, settings)


def test_whole_numbers_and_fractions_survive_being_written_down():
    for made in (Holdout(1, 0.25), Holdout(0.5, 7, together=True, pool=3), Holdout(pool=0.5)):
        again = load(describe(made))
        assert again == made
        for name in ("val", "test", "pool"):
            assert type(getattr(again, name)) is type(getattr(made, name))


def test_leaks_and_conflicts():
    hashes = ["a", "b", "a", None, None, "b", "c", "c"]
    (leak,) = overlaps(hashes, ["train", "val", "test", "train", "test", "val", "train", "train"])
    assert (leak.pixel_hash, leak.rows, leak.values) == ("a", (0, 2), ("train", "test"))
    found = conflicts(hashes, ["x", "x", "x", "x", "y", "y", "x", "y"])
    assert [(twins.pixel_hash, twins.rows) for twins in found] == [("b", (1, 5)), ("c", (6, 7))]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["train", "val", "test"])), max_size=12))
def test_leaks_are_exactly_the_hashes_seen_in_two_roles(rows):
    hashes, roles = [row[0] for row in rows], [row[1] for row in rows]
    expected = {name for name in hashes if len({role for other, role in rows if other == name}) > 1}
    assert {leak.pixel_hash for leak in overlaps(hashes, roles)} == expected
