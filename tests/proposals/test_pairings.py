from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.neighbors import NearestNeighbors

from counterpoise import tables
from counterpoise.proposals.pairings import FromAny, FromLarger, FromNoise, Neighbours, SameClass, TrainRows
from counterpoise.proposals.strengths import ByShots, Enough
from counterpoise.types import Refusal, build

ANY = [FromAny(), FromAny(by="image", strength=(0.3, 0.7)), FromAny(by="confusion"), FromAny(neighbours=2)]
PAIRINGS = [SameClass(), Neighbours(), Neighbours(kind="adasyn"), Neighbours(k=1), FromLarger(), *ANY]


def train_rows(sizes, seed=0, groups=True):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    ids = np.array([f"row{i}" for i in range(len(labels))])
    vectors = (rng.normal(size=(len(labels), 4)) + labels[:, None]).astype(np.float32)
    groups_ = rng.integers(2, size=len(labels)) if groups else None
    return TrainRows(ids, labels, groups_, vectors, rng.dirichlet(np.ones(len(sizes)), len(sizes)))


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
        assert row["source_label"] == row["label"] or isinstance(pairing, FromLarger | FromAny)
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


@pytest.mark.parametrize(
    "pairing", [FromNoise(), SameClass(strength=(0.2, 0.4, 0.6)), FromLarger(), *ANY], ids=repr
)
def test_more_rows_change_none_of_the_earlier_ones(pairing):
    train = train_rows([20, 7, 3, 1])
    few, many = (pairing(np.array(wanted), train, 4).to_pylist() for wanted in ([3, 0, 9, 1], [8, 5, 40, 9]))
    later = {row["request_id"]: row for row in many}
    assert [later[row["request_id"]] for row in few] == few


# --- strengths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", [SameClass, FromLarger, FromAny])
def test_several_strengths_are_dealt_evenly_in_every_class_and_change_nothing_else(pairing):
    train, wanted = train_rows([9, 4]), np.array([11, 30])
    one, several = (pairing(strength=s)(wanted, train, 3) for s in (0.5, (0.3, 0.5, 0.7, 0.9)))
    assert one.drop_columns("strength").equals(several.drop_columns("strength"))
    found = several["strength"].to_numpy().reshape(-1)
    for rows in (found[:11], found[11:]):
        values, times = np.unique(rows, return_counts=True)
        assert values == pytest.approx([0.3, 0.5, 0.7, 0.9])
        assert times.max() - times.min() <= 1
    by_source = [len(set(found[11:][several["source_id"].to_numpy()[11:] == name])) for name in train.ids]
    assert max(by_source) > 1, "sources and strengths are dealt apart"


@pytest.mark.parametrize("bad", [1.5, -0.1, (0.3, 2.0), ()])
def test_strengths_are_shares(bad):
    with pytest.raises(Refusal, match=r"FromAny\.strength: .*share of the way, from 0 to 1"):
        build(FromAny, {"strength": bad})


@pytest.mark.parametrize("pairing", [SameClass, FromLarger, FromAny])
def test_a_pilot_tries_all_strengths_alike_and_what_it_found_goes_to_each_class(pairing):
    train, wanted = train_rows([9, 4, 6]), np.array([12, 30, 7])
    found = replace(train, enough=np.array([0.9, 0.3, 0.5]))
    asked = pairing(strength=Enough(among=(0.3, 0.5, 0.9)))
    tried, later = (asked(wanted, rows, 3) for rows in (train, found))
    assert tried.equals(pairing(strength=(0.3, 0.5, 0.9))(wanted, train, 3))
    assert later.drop_columns("strength").equals(tried.drop_columns("strength"))
    assert later["strength"].to_numpy() == pytest.approx(np.repeat([0.9, 0.3, 0.5], wanted))


# --- from any class ---------------------------------------------------------------------------------------------

SIZES = [60, 25, 10, 5]
CONFUSION = np.array([[0.7, 0.2, 0.1, 0], [0.3, 0.6, 0.1, 0], [0.4, 0, 0.5, 0.1], [0, 0.1, 0.3, 0.6]])


def confused(sizes=SIZES, confusion=CONFUSION):
    train = train_rows(sizes)
    return TrainRows(train.ids, train.labels, None, train.vectors, confusion)


@pytest.mark.parametrize(
    ("by", "share"),
    [
        ("class", [1 / 4] * 4),
        ("image", [0.6, 0.25, 0.1, 0.05]),
        ("confusion", [0.5 / 1.0, 0.1 / 1.0, 0, 0.4 / 1.0]),  # of class 2, which is its own source never
    ],
)
def test_classes_lend_as_often_as_stated(by, share):
    """Over seeds the first rows of a plan are like independent draws (chi-square); a long plan is as even as can be."""
    pairing, share = FromAny(by=by), np.array(share)
    first = [
        pairing(np.array([0, 0, 2, 0]), confused(), seed)["source_label"].to_pylist() for seed in range(400)
    ]
    for place in np.transpose(first):
        times = np.bincount(place, minlength=4)
        assert times[share == 0].sum() == 0
        assert chisquare(times[share > 0], 400 * share[share > 0]).pvalue > 1e-3
    sources = pairing(np.array([0, 0, 1000, 0]), confused(), 7)["source_label"].to_numpy()
    assert chisquare(np.bincount(sources, minlength=4)[share > 0], 1000 * share[share > 0]).pvalue > 0.5
    assert np.abs(np.bincount(sources, minlength=4) - 1000 * share).max() <= 3


def test_classes_wanted_take_different_sources_of_a_seed():
    plan = FromAny()(np.array([50, 50, 50, 50]), confused(), 0)
    sources = plan["source_label"].to_numpy().reshape(4, 50)
    assert len({tuple(row) for row in sources.tolist()}) == 4
    table = np.array([np.bincount(row, minlength=4) for row in sources])
    assert np.abs(table - 12.5).max() <= 2, "1/C of the rows stay in their class, as published"


def test_rows_of_a_class_are_used_evenly_though_the_class_is_drawn():
    plan = FromAny()(np.array([0, 0, 90, 0]), confused(), 5)
    times = Counter(plan["source_id"].to_pylist())
    for label in range(4):
        used = [times[name] for name in confused().ids[confused().labels == label]]
        assert max(used) - min(used) <= 1


def test_backgrounds_come_from_the_head_where_the_tail_is_wanted():
    """CMO's pairs: what is filled up is the tail, what lends its rows is whatever there is most of."""
    wanted = np.array([0, 35, 50, 55])
    plan = FromAny(by="image")(wanted, confused(), 0)
    assert np.bincount(plan["label"].to_numpy(), minlength=4).tolist() == wanted.tolist()
    assert np.bincount(plan["source_label"].to_numpy(), minlength=4) == pytest.approx([84, 35, 14, 7], abs=4)


@pytest.mark.parametrize("k", [1, 2])
def test_nearest_prototypes_are_those_of_the_class_means_and_never_the_own(k):
    train = spread_out()
    train.vectors[:, 1] = 0
    near = {0: [2, 3], 1: [3, 2], 2: [3, 1], 3: [2, 1]}  # on the line: 0, 9, 5, 6
    plan = FromAny(neighbours=k)(np.full(4, 12), train, 3)
    for label, others in near.items():
        rows = [row["source_label"] for row in plan.to_pylist() if row["label"] == label]
        assert sorted(set(rows)) == sorted(others[:k])
    tail = np.array([0, 0, 0, 30])
    same = (FromAny(by="image", neighbours=k), FromLarger(neighbours=k))
    sets = [set(pairing(tail, train, 1)["source_label"].to_pylist()) for pairing in same]
    assert sets[0] == sets[1], "of the smallest class all others are larger"


def test_confusion_counts_in_both_directions_and_no_class_lends_what_it_has_not():
    shares = FromAny(by="confusion").shares(confused([60, 25, 0, 5]), 4)
    expected = CONFUSION + CONFUSION.T
    np.fill_diagonal(expected, 0)
    expected[:, 2] = 0
    np.testing.assert_allclose(shares, expected)


def test_a_class_that_nobody_takes_for_another_starts_from_any_image():
    train = confused(confusion=np.eye(4))
    assert FromAny(by="confusion").shares(train, 4).tolist() == [[60, 25, 10, 5]] * 4
    alone = train_rows([6])
    assert FromAny(neighbours=3)(np.array([4]), alone, 0)["source_label"].to_pylist() == [0] * 4


def test_confusion_needs_a_tutor():
    train = confused(confusion=None)
    assert FromAny(by="confusion").listens
    assert not FromAny().listens
    with pytest.raises(Refusal, match="give the synthesis a tutor"):
        FromAny(by="confusion")(np.array([1, 1, 1, 1]), train, 0)


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


# --- few real rows, and none ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", [SameClass, FromAny])
def test_by_shots_a_class_is_left_as_far_as_the_generator_says_for_its_number_of_rows(pairing):
    sizes = [1, 3, 16, 40]
    train = replace(train_rows(sizes), share_of=lambda snr_db: 0.5 - snr_db / 100)
    plan = pairing(strength=ByShots())(np.full(4, 5), train, 3)
    for label, size in enumerate(sizes):
        found = {row["strength"] for row in plan.to_pylist() if row["label"] == label}
        assert found == {float(np.float32(0.5 - ByShots()(size) / 100))}


def test_a_generator_without_noise_cannot_be_told_a_ratio():
    with pytest.raises(Refusal, match="adds no noise to its sources: give a strength from 0 to 1"):
        SameClass(strength=ByShots())(np.array([2]), train_rows([3]), 0)


@pytest.mark.parametrize("strength", [0.0, (0.3, 0.5), ByShots()])
def test_a_class_without_rows_starts_from_noise_and_the_others_do_not(strength):
    train = replace(train_rows([3, 0, 2]), share_of=lambda snr_db: 0.25)
    wanted = np.array([4, 4, 4])
    plan = SameClass(strength=strength)(wanted, train, 5).to_pylist()
    none = [row for row in plan if row["source_id"] is None]
    assert [row["label"] for row in none] == [1] * 4
    assert all((row["strength"], row["source_label"]) == (1, None) for row in none)
    full = SameClass(strength=strength)(wanted * [1, 0, 1], train, 5).to_pylist()
    assert [row for row in plan if row["label"] != 1] == full


def test_without_any_row_there_is_noise_to_start_from_and_nothing_else():
    train, wanted = replace(train_rows([0, 0]), confusion=np.eye(2)), np.array([2, 3])
    plan = FromNoise()(wanted, train, 1)
    assert plan.equals(SameClass(strength=0.3)(wanted, train, 1))
    assert plan["seed"].equals(FromNoise()(wanted, train_rows([5, 5]), 1)["seed"])
    for pairing in (FromLarger(), Neighbours(), *ANY):
        with pytest.raises(Refusal, match="starts samples from real rows, and this study has none"):
            pairing(wanted, train, 1)
