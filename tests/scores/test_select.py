import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.scores.select import AtLeast, BestCount, BestShare, Every, KeepAll
from counterpoise.types import Refusal, build, describe, load

SCORES = {"nearest_real": np.array([0.5, 1.0, 2.0, 0.2]), "fidelity": np.array([0.0, -0.1, -3.0, -9.0])}
LABELS = np.array([0, 1, 0, 1])
NO_COPY, KNOWN = AtLeast(), AtLeast("fidelity", -1.0)
HALF, ONE = BestShare("fidelity", 0.5), BestCount("fidelity", 1)


def test_selection_gives_every_drop_a_reason():
    scores, labels = {"nearest_real": np.array([0.5, 1.0, 2.0, np.nan])}, np.zeros(4, np.int64)
    assert AtLeast()(scores, labels) == ["nearest_real below 1", None, None, "nearest_real below 1"]
    assert KeepAll()(scores, labels) == [None] * 4
    assert KeepAll()({}, labels) == [None] * 4
    with pytest.raises(ValueError, match="no score 'clip'; scores made: nearest_real"):
        AtLeast(score="clip")(scores, labels)


def test_every_keeps_what_all_keep_and_the_first_to_drop_says_why():
    both = Every((NO_COPY, KNOWN))
    assert both(SCORES, LABELS) == [
        "nearest_real below 1",
        None,
        "fidelity below -1",
        "nearest_real below 1",
    ]
    assert Every((KNOWN, NO_COPY))(SCORES, LABELS)[3] == "fidelity below -1"
    assert (
        Every((KeepAll(), KNOWN))(SCORES, LABELS) == KNOWN(SCORES, LABELS) == Every((KNOWN,))(SCORES, LABELS)
    )
    assert Every((NO_COPY, Every((KNOWN, KeepAll()))))(SCORES, LABELS) == both(SCORES, LABELS)
    assert both({name: values[:0] for name, values in SCORES.items()}, LABELS[:0]) == []


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), max_size=40),
    st.floats(0.01, 1),
    st.integers(1, 9),
)
def test_the_best_of_each_class_are_kept_and_as_many_as_were_asked_for(rows, share, count):
    labels, values = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    for rule in (BestShare("x", share), BestCount("x", count)):
        kept = np.array([reason is None for reason in rule({"x": values}, labels)], bool)
        for label in np.unique(labels):
            mine = labels == label
            wanted = (
                min(count, mine.sum())
                if rule.__class__ is BestCount
                else np.ceil(round(share * mine.sum(), 6))
            )
            assert kept[mine].sum() == wanted
            assert values[mine & kept].min(initial=99) >= values[mine & ~kept].max(initial=-99)


def test_of_equals_the_first_and_what_is_no_number_last():
    values, labels = np.array([np.nan, 1.0, 1.0, 1.0]), np.zeros(4, np.int64)
    reason = "x not in the best 2 of its class"
    assert BestCount("x", 2)({"x": values}, labels) == [reason, None, None, reason]
    assert BestShare("x", 0.25)({"x": values}, labels)[0] == "x not in the best 25 % of its class"
    assert BestShare("x", 0.07)({"x": np.arange(100.0)}, np.zeros(100, np.int64)).count(None) == 7


def test_the_order_in_every_is_that_of_a_funnel():
    """A share of what is good enough is not what is good enough of a share."""
    scores, labels = (
        {"x": np.array([5.0, 4.0, 3.0, 2.0]), "y": np.array([0.0, 0.0, 1.0, 1.0])},
        np.zeros(4, np.int64),
    )
    fine, half = AtLeast("y", 1.0), BestShare("x", 0.5)
    assert [reason is None for reason in Every((fine, half))(scores, labels)] == [False, False, True, False]
    assert [reason is None for reason in Every((half, fine))(scores, labels)] == [False] * 4
    assert Every((fine, half))(scores, labels)[3] == "x not in the best 50 % of its class"


def test_a_rule_that_rejects_everything_says_so_of_each_and_leaves_the_others_nothing_to_do():
    scores, labels = {"x": np.arange(6.0)}, np.arange(6) % 3
    for after in (BestShare("x", 0.5), BestCount("x", 800), AtLeast("x", 0.0), KeepAll()):
        assert Every((AtLeast("x", 99.0), after))(scores, labels) == ["x below 99"] * 6
    some = Every((AtLeast("x", 3.0), BestCount("x", 800)))(scores, np.array([0, 0, 0, 1, 1, 1]))
    assert [reason is None for reason in some] == [False] * 3 + [True] * 3, "a class that is never accepted"


def test_rules_do_not_depend_on_the_order_of_class_folders():
    order, labels = np.array([2, 0, 3, 1]), np.random.default_rng(0).integers(0, 4, 50)
    scores = {"x": np.random.default_rng(1).normal(size=50)}
    for rule in (HALF, ONE, Every((AtLeast("x", -0.5), BestShare("x", 0.3)))):
        rule = rule if isinstance(rule, Every) else type(rule)("x")
        assert rule(scores, order[labels]) == rule(scores, labels)


def test_rules_are_described_with_what_they_hold_and_checked():
    for rule in (HALF, ONE, Every((NO_COPY, HALF, ONE))):
        assert load(describe(rule)) == rule
    with pytest.raises(Refusal, match=r"Every\.selects"):
        build(Every, {"selects": ()})
    with pytest.raises(Refusal, match=r"BestShare\.share"):
        build(BestShare, {"share": 0.0})
    with pytest.raises(Refusal, match=r"BestCount\.count"):
        build(BestCount, {"count": 0})
