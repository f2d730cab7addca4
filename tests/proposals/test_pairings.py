import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from counterpoise import tables
from counterpoise.proposals.pairings import FromLarger, FromNoise, Neighbours, SameClass, TrainRows

PAIRINGS = [SameClass(), Neighbours(), Neighbours(kind="adasyn"), Neighbours(k=1), FromLarger()]


def train_rows(sizes, seed=0, groups=True):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.array([f"row{i}" for i in range(len(labels))])
    vectors = (rng.normal(size=(len(labels), 4)) + labels[:, None]).astype(np.float32)
    return TrainRows(ids, labels, rng.integers(2, size=len(labels)) if groups else None, vectors)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=repr)
@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    n=st.integers(0, 30),
    seed=st.integers(0, 2**40),
)
def test_contract(pairing, sizes, n, seed):
    """Every pairing meets its budget exactly, uses training rows of the right class, and is fixed by its seed."""
    train = train_rows(sizes)
    wanted = np.full(len(sizes), n)
    plan = pairing(wanted, train, seed)
    assert plan.schema.names == tables.PLAN.names
    assert np.bincount(plan["label"].to_numpy(), minlength=len(sizes)).tolist() == wanted.tolist()
    label_of = dict(zip(train.ids, train.labels, strict=True))
    for row in plan.to_pylist():
        assert label_of[row["source_id"]] == row["source_label"]
        assert row["source_label"] == row["label"] or isinstance(pairing, FromLarger)
        if row["partner_id"] is not None:
            assert label_of[row["partner_id"]] == row["label"]
            assert row["partner_id"] != row["source_id"]
    assert plan.equals(pairing(wanted, train, seed))
    assert len(set(plan["request_id"].to_pylist())) == len(plan)
    assert len(set(plan["seed"].to_pylist())) == len(plan)


def test_another_seed_is_another_plan():
    train = train_rows([10, 3])
    plans = [SameClass()(np.array([0, 7]), train, seed) for seed in (0, 1)]
    assert not plans[0].equals(plans[1])


def test_sources_are_used_as_evenly_as_possible():
    plan = SameClass()(np.array([0, 10]), train_rows([5, 4]), 0)
    times = np.unique(plan["source_id"].to_pylist(), return_counts=True)[1]
    assert sorted(times.tolist()) == [2, 2, 3, 3]


def test_a_single_image_has_no_partner():
    plan = Neighbours()(np.array([0, 3]), train_rows([5, 1]), 0)
    assert plan["partner_id"].to_pylist() == [None] * 3


def test_partners_are_among_the_k_nearest_of_the_class():
    train = train_rows([30, 9])
    plan = Neighbours(k=3)(np.array([40, 0]), train, 5)
    place = {name: i for i, name in enumerate(train.ids)}
    for row in plan.to_pylist():
        source, partner = place[row["source_id"]], place[row["partner_id"]]
        distance = np.linalg.norm(train.vectors[:30] - train.vectors[source], axis=1)
        assert distance[partner] <= np.sort(distance)[3]


def test_adasyn_spreads_as_imbalanced_learn_does():
    """How many samples start from each image: our shares against those that ADASYN's own code draws from."""
    from imblearn.over_sampling import ADASYN

    train = train_rows([40, 12], seed=3)
    theirs = ADASYN(random_state=0, n_neighbors=5, sampling_strategy={1: 12 + 60})
    x, _ = theirs.fit_resample(train.vectors, train.labels)
    index = NearestNeighbors(n_neighbors=6).fit(train.vectors)
    around = index.kneighbors(train.vectors[40:], return_distance=False)[:, 1:]
    share = (train.labels[around] != 1).sum(1) / 5
    expected = np.rint(share / share.sum() * 60).astype(int)  # as ADASYN does
    assert len(x) - 52 == expected.sum()
    plan = Neighbours(kind="adasyn")(np.array([0, 60]), train, 0)
    ours = np.array([plan["source_id"].to_pylist().count(name) for name in train.ids[40:]])
    assert np.abs(ours - expected).max() <= 1
    assert ours.sum() == 60, "we meet the budget; ADASYN rounds"


# --- from larger classes ----------------------------------------------------------------------------------------


def spread_out(sizes=(20, 12, 6, 3), at=(0.0, 9.0, 5.0, 6.0)):
    """Classes on a line; the last is nearest to 2, then 1, then 0. A second dimension is large and says nothing."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    line = np.array(at)[labels] + rng.normal(0, 0.05, len(labels))
    vectors = np.stack([line, 1000 * rng.normal(size=len(labels))], 1).astype(np.float32)
    return TrainRows(np.array([f"row{i}" for i in range(len(labels))]), labels, None, vectors)


@pytest.mark.parametrize(
    ("neighbours", "sources"), [(1, {2}), (2, {2, 1}), (3, {2, 1, 0}), (9, {2, 1, 0}), (None, {2, 1, 0})]
)
def test_from_larger_uses_the_nearest_of_the_larger_classes(neighbours, sources):
    train = spread_out()
    train.vectors[:, 1] -= np.array([train.vectors[train.labels == c, 1].mean() for c in range(4)])[
        train.labels
    ]
    plan = FromLarger(neighbours=neighbours, strength=0.5)(np.array([0, 0, 0, 60]), train, 7)
    label_of = dict(zip(train.ids, train.labels, strict=True))
    assert set(plan["source_label"].to_pylist()) == sources
    assert all(label_of[row["source_id"]] == row["source_label"] for row in plan.to_pylist())
    assert set(plan["label"].to_pylist()) == {3}
    assert set(plan["strength"].to_pylist()) == {0.5}
    used = np.unique(plan["source_id"].to_pylist(), return_counts=True)[1]
    assert used.max() - used.min() <= 1
    assert len(used) == min(60, np.isin(train.labels, list(sources)).sum())


def test_the_units_of_a_dimension_do_not_decide_who_is_near():
    train = spread_out()
    train.vectors[:, 0] *= 1e-6  # still the only dimension in which the classes differ
    train.vectors[:, 1] = np.random.default_rng(0).permutation(train.vectors[:, 1]) * 0.2
    train.vectors[:, 1] -= np.array([train.vectors[train.labels == c, 1].mean() for c in range(4)])[
        train.labels
    ]
    plan = FromLarger(neighbours=1)(np.array([0, 0, 0, 6]), train, 0)
    assert set(plan["source_label"].to_pylist()) == {2}


def test_the_largest_class_and_its_equals_start_from_their_own_rows():
    train = train_rows([6, 6, 2])
    plan = FromLarger()(np.array([4, 4, 4]), train, 0)
    for row in plan.to_pylist():
        assert row["source_label"] in ([row["label"]] if row["label"] < 2 else [0, 1])


def test_a_class_without_rows_can_still_be_asked_for():
    train = train_rows([6, 3])
    plan = FromLarger(neighbours=1)(np.array([0, 0, 5]), train, 0)
    assert plan["label"].to_pylist() == [2] * 5
    assert None not in plan["source_id"].to_pylist()


def test_constant_vectors_are_no_reason_to_fail():
    train = train_rows([6, 3])
    train.vectors[:] = 7
    assert len(FromLarger()(np.array([0, 5]), train, 0)) == 5


def test_strength_is_a_setting_and_nothing_else_of_the_plan_changes():
    train = train_rows([9, 4])
    still, moved = (SameClass(strength=s)(np.array([0, 7]), train, 3) for s in (0.0, 0.25))
    assert set(moved["strength"].to_pylist()) == {0.25}
    assert still.drop_columns("strength").equals(moved.drop_columns("strength"))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4),
    n=st.integers(0, 30),
    dropout=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_dropout_takes_the_source_of_exactly_its_share_of_every_class(sizes, n, dropout, seed):
    train, wanted = train_rows(sizes), np.full(len(sizes), n)
    pairing = SameClass(strength=0.25, dropout=dropout)
    plan = pairing(wanted, train, seed)
    assert plan.equals(pairing(wanted, train, seed))
    label_of = dict(zip(train.ids, train.labels, strict=True))
    for label in range(len(sizes)):
        rows = [row for row in plan.to_pylist() if row["label"] == label]
        lost = [row for row in rows if row["source_id"] is None]
        assert (len(rows), len(lost)) == (n, round(dropout * n))
        for row in lost:
            assert (row["strength"], row["source_label"], row["group"]) == (1, None, None)
        left = [row for row in rows if row["source_id"] is not None]
        assert all((row["strength"], label_of[row["source_id"]]) == (0.25, label) for row in left)
        times = [sum(row["source_id"] == name for row in left) for name in train.ids[train.labels == label]]
        assert max(times) - min(times) <= 1, "what keeps its source is spread evenly"


def test_dropout_changes_neither_ids_nor_seeds_and_falls_anywhere():
    train, wanted = train_rows([9, 4]), np.array([40, 40])
    with_all, without = (SameClass(dropout=share)(wanted, train, 3) for share in (0.0, 0.5))
    for column in ("request_id", "label", "seed"):
        assert with_all[column].equals(without[column])
    lost = np.array([source is None for source in without["source_id"].to_pylist()]).reshape(2, 40)
    assert (np.abs(lost[:, :20].sum(1) - 10) < 8).all(), "not the first ones, nor the last"
    assert not np.array_equal(lost[0], lost[1])


def test_dropout_of_all_asks_nothing_of_the_rows():
    plan = SameClass(strength=0.5, dropout=1.0)(np.array([2, 0, 3]), train_rows([3, 2]), 0)
    assert plan.equals(FromNoise()(np.array([2, 0, 3]), train_rows([3, 2]), 0))


def test_the_plan_of_a_seed_stays_what_it_was():
    """Request ids and seeds are in runs that exist."""
    plan = FromNoise()(np.array([1, 2]), train_rows([3, 2]), 11)
    assert plan["request_id"].to_pylist() == [
        "0000000b-00000-0000000",
        "0000000b-00001-0000000",
        "0000000b-00001-0000001",
    ]
    assert plan["seed"].to_pylist() == [6035736137748369927, 1572083863835793369, 1963401264837332903]
    sources = SameClass()(np.array([2, 3]), train_rows([3, 2]), 11)["source_id"].to_pylist()
    assert sources == ["row2", "row0", "row3", "row4", "row3"]
