import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.proposals.budgets import (
    PRIOR_ROWS,
    Adaptive,
    ByNeed,
    Even,
    FillUp,
    Fixed,
    Multiply,
    Needs,
    Piloted,
    Sqrt,
    chosen,
    smoothed,
    whole,
)
from counterpoise.types import Refusal, build, describe, load

counts = st.lists(st.integers(0, 500), min_size=1, max_size=20).map(np.array)


@given(counts, st.integers(1, 600))
def test_fill_up_meets_its_target_exactly_and_never_takes_away(n, to):
    made = FillUp(strategy="all", to=to)(n)
    assert (made >= 0).all()
    assert ((n + made)[n > 0] == np.maximum(n, to)[n > 0]).all()
    assert (made[n == 0] == 0).all(), "nothing can be made from an empty class"


@given(counts)
def test_words_mean_what_imbalanced_learn_means(n):
    there = n > 0
    assert (chosen("all", n) == there).all()
    assert (chosen("minority", n) | chosen("not minority", n) == there).all()
    assert not (chosen("minority", n) & chosen("not minority", n)).any()
    assert not chosen("not majority", n)[n == n.max()].any()


def test_fill_up_agrees_with_imbalanced_learn():
    from imblearn.over_sampling import RandomOverSampler

    y = np.repeat([0, 1, 2], [50, 12, 3])
    n = np.bincount(y)
    for words in ("minority", "not minority", "not majority", "all"):
        _, theirs = RandomOverSampler(sampling_strategy=words, random_state=0).fit_resample(
            np.zeros((len(y), 1)), y
        )
        assert (n + FillUp(strategy=words)(n) == np.bincount(theirs)).all(), words


def test_multiply_rounds_to_whole_samples():
    assert Multiply(times=0.5)(np.array([3, 4])).tolist() == [2, 2]


@given(counts, st.integers(1, 600), st.sampled_from(["minority", "not minority", "not majority", "all"]))
def test_fixed_is_the_same_number_for_all_that_are_chosen(n, each, words):
    assert np.array_equal(Fixed(each, words)(n), each * chosen(words, n))


@given(counts)
def test_sqrt_lies_between_the_data_as_they_are_and_filled_up_and_keeps_their_order(n):
    made = Sqrt()(n)
    assert (made >= 0).all()
    assert (made <= FillUp()(n)).all()
    assert (np.diff((n + made)[np.argsort(n)]) >= 0).all()


def test_sqrt_takes_the_root_of_every_ratio():
    n = np.array([40_000, 10_000, 100, 4])
    after = n + Sqrt()(n)
    assert (after / after[0]).tolist() == np.sqrt(n / n[0]).tolist()


# --- by need ----------------------------------------------------------------------------------------------------


def heard(error, rows=None):
    error = np.array(error, float)
    rows = np.full(len(error), 30) if rows is None else np.array(rows)
    return Needs(rows, np.where(rows > 0, error, np.nan), 2 * error, error**2)


def problems(n=300):
    """Classes with few and many rows, some without any, some unheard of; and every kind of bound."""
    for seed in range(n):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(1, 40))
        counts = np.geomspace(1, 500, classes).astype(int) * rng.integers(0, 4, classes)
        counts[rng.integers(classes)] += 1
        rows = rng.integers(0, 60, classes) * rng.integers(0, 2, classes)
        needs = heard(rng.beta(0.5, 1, classes) * rng.integers(0, 4, classes).clip(max=1), rows)
        yield (
            counts,
            needs,
            ByNeed(
                total=int(rng.integers(1, 3000)),
                floor=float(rng.choice([0.0, 0.3, 1.0, rng.random()])),
                cap=rng.choice([None, 1.0, 1.5, 1 + 5 * rng.random()]),
            ),
        )


def test_by_need_spends_its_total_exactly_within_its_bounds_and_makes_nothing_from_nothing():
    for counts, needs, budget in problems():
        made, there = budget(counts, needs), counts > 0
        even = budget.total / there.sum()
        assert made.dtype.kind == "i"
        assert made.sum() == budget.total
        assert not made[~there].any()
        assert made[there].min() >= np.floor(budget.floor * even)
        assert made.max() <= np.ceil(even * (budget.cap or np.inf))


def test_by_need_does_not_care_in_which_order_classes_come():
    for seed, (counts, needs, budget) in enumerate(problems()):
        counts = counts * 64 + (counts > 0) * np.arange(
            len(counts)
        )  # no two alike: a tie has to go somewhere
        order = np.random.default_rng(seed).permutation(len(counts))
        shuffled = Needs(needs.rows[order], needs.error[order], needs.loss[order], needs.entropy[order])
        assert np.array_equal(budget(counts[order], shuffled), budget(counts, needs)[order])


def test_more_need_never_gets_less():
    for counts, needs, budget in problems():
        equally_known = Needs(np.full(len(counts), 12), np.nan_to_num(needs.error), needs.loss, needs.entropy)
        made, there = budget(counts, equally_known), counts > 0
        assert (np.diff(made[there][np.argsort(equally_known.error[there], kind="stable")]) >= -1).all()
        for i in np.flatnonzero(there):
            more = there & (equally_known.error > equally_known.error[i])
            assert (made[more] >= made[i]).all()


def test_between_the_bounds_samples_are_in_proportion_to_need():
    made = ByNeed(power=1.0, total=60_000, floor=0.3, cap=2.0)(
        np.array([500, 100, 20, 9]), heard([0.01, 0.2, 0.4, 0.95], [10**9] * 4)
    )
    assert made[0] == 4_500, "the floor: 0.3 of 15,000"
    assert made[3] == 30_000, "the cap: twice 15,000"
    assert made[1:3].tolist() == [8_500, 17_000]


def test_equal_needs_are_an_even_split_and_what_is_over_goes_to_the_rarest():
    counts = np.array([50, 3, 20])
    for needs in (heard([0.4] * 3), heard([0.0] * 3), heard([0.4] * 3, [0, 30, 0]), Needs.unheard(3)):
        assert ByNeed(total=90)(counts, needs).tolist() == [30, 30, 30]
        assert ByNeed(total=91)(counts, needs).tolist() == [30, 31, 30]
        assert ByNeed(total=92)(counts, needs).tolist() == [30, 31, 31]
    assert ByNeed(total=92, floor=1.0)(counts, heard([0.9, 0.1, 0.1])).tolist() == [31, 31, 30]


def test_a_single_class_gets_everything():
    for budget in (ByNeed(total=17), ByNeed(total=17, cap=1.0), ByNeed(total=17, floor=0.0)):
        assert budget(np.array([0, 4, 0]), heard([0.5, 0.5, 0.5])).tolist() == [0, 17, 0]


def test_the_total_is_that_of_the_inner_budget_which_hears_the_needs_too():
    counts, needs = np.array([100, 10, 1]), heard([0.1, 0.1, 0.9])
    for inner in (FillUp(), Sqrt(), ByNeed(total=55), Fixed(7)):
        assert ByNeed(inner)(counts, needs).sum() == inner(counts, needs).sum()
    nothing = ByNeed(FillUp(to=1))(counts, needs)
    assert nothing.tolist() == [0, 0, 0]


def test_each_kind_of_need_is_read_from_its_own_column():
    needs = Needs(np.full(2, 10**9), np.array([0.2, 0.6]), np.array([3.0, 1.0]), np.array([0.5, 0.5]))
    found = {of: ByNeed(of=of, total=400)(np.array([9, 5]), needs).tolist() for of in ("error", "loss")}
    assert found == {"error": [50, 350], "loss": [350, 50]}  # (1/3)^2 = 1/9: the floor stands above it
    plain = ByNeed(power=1.0, total=400)(np.array([9, 5]), needs).tolist()
    assert plain == [100, 300]
    assert ByNeed(of="entropy", total=400)(np.array([9, 5]), needs).tolist() == [200, 200]


def test_by_need_says_what_it_lacks_and_refuses_bounds_that_no_split_can_keep():
    with pytest.raises(Refusal, match="give the synthesis a tutor"):
        ByNeed()(np.array([5, 2]))
    for bad in ({"cap": 0.9}, {"floor": 1.1}, {"total": 0}, {"of": "margin"}, {"budget": 3}):
        with pytest.raises(Refusal, match=rf"ByNeed\.{next(iter(bad))}"):
            build(ByNeed, bad)
    assert load(describe(ByNeed(Sqrt(), cap=None))) == ByNeed(Sqrt(), cap=None)


def test_few_rows_count_for_less_than_many():
    found = smoothed(np.array([1.0, 1.0, 0.2, 0.2]), np.array([2, 40, 40, 40]))
    assert 0.2 < found[2] < found[0] < found[1] < 1
    assert smoothed(np.array([0.9, 0.1]), np.array([10**9, 10**9])) == pytest.approx([0.9, 0.1])
    n, e = PRIOR_ROWS, np.array([0.8, 0.2])
    assert smoothed(e, np.array([n, n])) == pytest.approx([0.65, 0.35]), "half its own, half the mean"


def test_a_class_without_validation_rows_is_the_mean_class_whatever_the_size_of_the_others():
    error, rows = np.array([0.1, 0.7, np.nan]), np.array([10_000, 1_000, 0])
    assert smoothed(error, rows)[2] == pytest.approx(0.4, abs=0.01)  # by rows it would be 0.15


def test_smoothing_comes_nearer_to_the_true_needs_than_taking_them_as_found():
    """Errors of 0.35 +- 0.2, rows as in a long tail: the distance between found and true shares of the total."""
    gap = {"raw": 0.0, "smoothed": 0.0}
    rng = np.random.default_rng(0)
    rows = np.rint(np.geomspace(60, 2, 20)).astype(int)
    for _ in range(200):
        true = rng.beta(0.35 * 4.7, 0.65 * 4.7, 20)
        found = rng.binomial(rows, true) / rows
        for name, need in {"raw": found, "smoothed": smoothed(found, rows)}.items():
            gap[name] += np.abs(need / need.sum() - true / true.sum()).sum() / 2 / 200
    assert gap["smoothed"] < 0.8 * gap["raw"]


def test_whole_numbers_sum_to_the_total_and_are_no_further_than_one_away():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        exact = rng.dirichlet(np.ones(9)) * 50
        made = whole(exact, 50)
        assert made.sum() == 50
        assert (np.abs(made - exact) < 1).all()
    assert whole(np.array([1.5, 1.5, 2.0]), 5, np.array([1, 2, 9])).tolist() == [1, 2, 2]


# --- rounds -----------------------------------------------------------------------------------------------------


def rounds_made(budget, scores):
    """How many rounds a run makes whose tutors score so."""
    made = 0
    while budget.goes_on(scores[: made + 1]):
        made += 1
    return made


def test_adaptive_asks_what_its_inner_budget_asks():
    counts, needs = np.array([100, 10, 1]), heard([0.1, 0.1, 0.9])
    assert np.array_equal(Adaptive(ByNeed(total=50))(counts, needs), ByNeed(total=50)(counts, needs))
    assert np.array_equal(Adaptive(FillUp())(counts), FillUp()(counts))


def test_what_gets_better_goes_on_to_the_end_and_no_further():
    for rounds in (1, 3, 8):
        assert rounds_made(Adaptive(rounds=rounds, patience=0, growth=0.0), np.arange(20)) == rounds


def test_what_gets_no_better_stops_when_patience_ends():
    for patience in range(4):
        still = Adaptive(rounds=50, patience=patience, growth=0.0)
        assert rounds_made(still, [0.5] * 60) == patience + 1, "an equal score is no better one"
        assert rounds_made(still, [0.1, 0.2, 0.3] + [0.2] * 60) == 2 + patience + 1
    # the best in round 0: stops at the first r with r > 1 + r / 2
    assert rounds_made(Adaptive(rounds=50, patience=1, growth=0.5), [0.5] * 60) == 3


def test_patience_grows_with_the_rounds_made():
    budget = Adaptive(rounds=100, patience=1, growth=0.25)
    waits = [
        rounds_made(budget, [*np.linspace(0, 1, best + 1), *[0.0] * 120]) - best for best in range(0, 41, 4)
    ]
    assert waits == sorted(waits)
    assert waits[0] == 2
    assert waits[-1] > 10


# --- even, and in two rounds ------------------------------------------------------------------------------------


@given(counts, st.floats(0.01, 9))
def test_even_spends_times_the_rows_and_no_class_gets_more_than_one_sample_more(n, times):
    made = Even(times=times)(n)
    assert (made[n == 0] == 0).all()
    if n.any():
        assert made.sum() == round(times * n.sum())
        assert np.ptp(made[n > 0]) <= 1


@given(
    counts, st.integers(1, 90), st.sampled_from([FillUp(), Multiply(times=3.0), Fixed(40), Even(times=2.0)])
)
def test_a_pilot_and_the_rest_are_the_budget(n, pilot, inner):
    budget = Piloted(inner, pilot=pilot)
    if n.any():
        first, later = budget(n), budget.rest(n)
        assert (first + later == inner(n)).all()
        assert first.max(initial=0) <= pilot
        assert (later >= 0).all()


def test_a_pilot_is_followed_by_one_round_whatever_validation_says():
    assert Piloted().rounds == 2
    assert Piloted().goes_on([0.9, 0.1])
    assert Piloted().listens
