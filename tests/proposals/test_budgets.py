import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.proposals.budgets import FillUp, Multiply, chosen

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
