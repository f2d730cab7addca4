"""Cuts: LDAM's published counts and draw, bit by bit; every cut keeps a sorted subset and says what it could not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.data.cuts import FewShot, GroupGap, LongTail, parse_cut, shortfalls
from counterpoise.types import Refusal, describe, load

CIFAR10_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def shuffled(classes: int, each: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), each))


def ldam(targets: np.ndarray, classes: int, kind: str, factor: float) -> np.ndarray:
    """LDAM's procedure, from its description: global seed 0, then class by class shuffle and take the first n."""
    np.random.seed(0)  # noqa: NPY002
    top, ratio = len(targets) / classes, 1 / factor
    if kind == "exp":
        counts = [int(top * ratio ** (c / (classes - 1.0))) for c in range(classes)]
    else:
        counts = [int(top)] * (classes // 2) + [int(top * ratio)] * (classes // 2)
    kept = []
    for label, count in enumerate(counts):
        rows = np.where(targets == label)[0]
        np.random.shuffle(rows)  # noqa: NPY002
        kept.extend(rows[:count])
    return np.array(sorted(kept))


def test_the_published_counts():
    labels = shuffled(10, 5000)
    kept = LongTail("exp", 100, rule="ldam")(labels, None, 0)
    assert np.bincount(labels[kept]).tolist() == CIFAR10_100
    assert len(kept) == 12_406
    labels = shuffled(100, 500)
    counts = np.bincount(labels[LongTail("exp", 100, rule="ldam")(labels, None, 0)])
    assert (counts.sum(), counts[0], counts[-1]) == (10_847, 500, 5)
    assert ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum()) == (
        35,
        35,
        30,
    )


@pytest.mark.parametrize("kind", ["exp", "step"])
@pytest.mark.parametrize(("classes", "each"), [(10, 5000), (100, 500)])
@pytest.mark.parametrize("factor", [10, 50, 100, 200])
def test_ldam_bit_for_bit_whatever_the_seed(kind, classes, each, factor):
    labels = shuffled(classes, each, seed=factor)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    kept = LongTail(kind, factor, rule="ldam")(labels, None, 12_345)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002 - the global stream is untouched
    assert np.array_equal(kept, ldam(labels, classes, kind, factor))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200),
    st.sampled_from(["exp", "step"]),
    st.floats(1, 500),
    st.booleans(),
    st.integers(0, 2**63 - 1),
)
def test_a_long_tail_keeps_a_subset_of_the_wanted_size(labels, kind, factor, shuffle, seed):
    labels = np.array(labels)
    cut = LongTail(kind, factor, shuffle_classes=shuffle)
    kept = cut(labels, None, seed)
    assert np.array_equal(kept, np.unique(kept))
    assert np.array_equal(kept, cut(labels, None, seed))
    have, wanted = np.bincount(labels), cut.wanted(labels, seed)
    assert np.array_equal(np.bincount(labels[kept], minlength=len(have)), np.minimum(have, wanted))
    assert (
        (np.bincount(labels[kept], minlength=len(have)) > 0) == (have > 0)
    ).all()  # no class dies of a cut
    assert [c for c, _, _ in shortfalls(wanted, labels)] == np.flatnonzero(have < wanted).tolist()
    if not shuffle:
        assert wanted[0] == have.max()
        assert (np.diff(wanted) <= 0).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=100), st.integers(1, 30), st.booleans())
def test_a_long_tail_may_begin_lower(labels, top, shuffle):
    labels = np.array(labels)
    most = np.bincount(labels).max()
    cut, plain = (LongTail("exp", 10, shuffle_classes=shuffle, top=n) for n in (top, None))
    assert cut.wanted(labels, 3).max() == min(top, most)
    assert set(cut(labels, None, 3)) <= set(plain(labels, None, 3))
    if top >= most:
        assert np.array_equal(cut(labels, None, 3), plain(labels, None, 3))


@pytest.mark.parametrize(
    ("factor", "images", "singletons", "ratio"),
    [(100, 1242, 83, 29), (20, 1798, 21, 29), (10, 2238, 0, 14.5)],
)
def test_the_published_counts_of_cub(factor, images, singletons, ratio):
    """200 classes of 29 or 30 images, 5,994 in all (arXiv 2403.19600)."""
    sizes = np.full(200, 30)
    sizes[[3, 17, 60, 61, 130, 199]] = 29
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(200), sizes))
    kept = LongTail("exp", factor, rule="ranked")(labels, None, 3)
    counts = np.bincount(labels[kept])
    assert (len(kept), (counts == 1).sum(), counts.max() / counts.min()) == (images, singletons, ratio)


@given(st.lists(st.integers(0, 40), min_size=2, max_size=9), st.floats(1, 200))
def test_ranks_go_by_the_size_of_a_class_whatever_its_number(sizes, factor):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    wanted = LongTail("exp", factor, rule="ranked").wanted(labels, 0, len(sizes))
    order = np.argsort([-size for size in sizes], kind="stable")
    assert (np.diff(wanted[order]) <= 0).all()
    assert wanted.min() >= 1
    assert wanted.max() == max(int(len(labels) / len(sizes)), 1)


@pytest.mark.parametrize("rule", ["ldam", "ranked"])
def test_published_rules_have_their_own_top(rule):
    with pytest.raises(Refusal, match=r"LongTail.top.*found top=5; leave one of them out"):
        LongTail("exp", 10, rule=rule, top=5)


def test_a_harder_cut_is_a_subset_of_a_milder_one():
    labels = shuffled(5, 100)
    mild, hard = LongTail("exp", 5)(labels, None, 7), LongTail("exp", 50)(labels, None, 7)
    assert set(hard) < set(mild)
    assert set(LongTail("exp", 50)(labels, None, 8)) != set(hard)


def test_classes_that_are_only_named_count():
    labels = np.zeros(100, np.int64)  # of three classes, two have no training images
    assert LongTail("exp", 100)(labels, None, 0, ["a", "b", "c"]).tolist() == list(range(100))
    assert LongTail("exp", 100).wanted(labels, 0, 3).tolist() == [100, 10, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=100), st.integers(1, 20))
def test_few_shot(labels, k):
    labels = np.array(labels)
    kept = FewShot(k)(labels, None, 0)
    assert np.array_equal(np.bincount(labels[kept]), np.minimum(np.bincount(labels), k)[: labels.max() + 1])


def test_a_group_gap():
    labels, groups = np.repeat([0, 1], 200), np.tile([0, 1], 200)
    kept = GroupGap("snow", 0.05)(labels, groups, 3, ["dog", "cat"], ["grass", "snow"])
    table = np.array([[np.sum((labels[kept] == c) & (groups[kept] == g)) for g in (0, 1)] for c in (0, 1)])
    assert table.tolist() == [[100, 5], [100, 5]]
    kept = GroupGap("snow", 0, "dog")(labels, groups, 3, ["dog", "cat"], ["grass", "snow"])
    assert not ((labels[kept] == 0) & (groups[kept] == 1)).any()
    assert len(kept) == 300
    assert len(GroupGap("snow", 1)(labels, groups, 3, ["dog", "cat"], ["grass", "snow"])) == 400
    rare = GroupGap("snow", 0.01)(labels, groups, 3, ["dog", "cat"], ["grass", "snow"])
    assert np.sum(groups[rare] == 1) == 2  # a share above zero keeps at least one of each class


def test_a_gap_in_a_group_that_is_not_there_is_refused():
    labels = np.array([0, 1])
    with pytest.raises(Refusal, match="there is no group 'snow': the data have no groups"):
        GroupGap("snow", 0.5)(labels, None, 0)
    with pytest.raises(Refusal, match="the data have grass, sand"):
        GroupGap("snow", 0.5)(labels, labels, 0, ["a", "b"], ["grass", "sand"])
    with pytest.raises(Refusal, match="there is no class 'dgo': the data have dog"):
        GroupGap("snow", 0.5, "dgo")(labels, labels, 0, ["dog"], ["grass", "snow"])


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("none", None),
        ("exp:100", LongTail("exp", 100)),
        ("step:20", LongTail("step", 20)),
        ("exp:100:ldam", LongTail("exp", 100, rule="ldam")),
        ("exp:100:ranked", LongTail("exp", 100, rule="ranked")),
        ("step:2.5:shuffled", LongTail("step", 2.5, shuffle_classes=True)),
        ("exp:30:top=30", LongTail("exp", 30, top=30)),
        ("exp:30:top=30:shuffled", LongTail("exp", 30, top=30, shuffle_classes=True)),
        ("few:5", FewShot(5)),
        ("few:0", FewShot(0)),  # class names alone
        ("group:sketch:0.05", GroupGap("sketch", 0.05)),
        ("group:snow:dog:0", GroupGap("snow", 0, "dog")),
    ],
)
def test_cuts_that_users_write(text, cut):
    assert parse_cut(text) == cut
    assert load(describe(cut)) == cut


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exp",
        "exp:",
        "exp:0.5",
        "exp:x",
        "exp:10:no",
        "exp:10:top=0",
        "exp:10:top=many",
        "exp:10:top=5:ldam",
        "exp:10:top=5:ranked",
        "exp:10:shuffled:no",
        "few:1.5",
        "group:a",
        "group:a:2",
        "tail:3",
    ],
)
def test_other_words_are_refused(text):
    with pytest.raises(Refusal):
        parse_cut(text)


def test_the_refusal_lists_the_forms():
    with pytest.raises(Refusal, match=r"the forms are none, exp:FACTOR, step:FACTOR, .*exp:FACTOR:top=N"):
        parse_cut("tail:3")
