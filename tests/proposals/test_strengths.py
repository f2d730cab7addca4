from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.diffusion.ladder import cut
from counterpoise.proposals.strengths import between
from counterpoise.types import Refusal


@given(st.integers(1, 60), st.data())
def test_a_range_is_every_whole_step_within_it(steps, data):
    first = data.draw(st.integers(0, steps))
    last = data.draw(st.integers(first, steps))
    found = between(first / steps, last / steps, steps)
    assert [Fraction(s).limit_denominator(100) for s in found] == [
        Fraction(k, steps) for k in range(first, last + 1)
    ]


@pytest.mark.parametrize("steps", [6, 20, 25])
def test_each_of_them_is_another_ladder_as_a_plan_stores_it(steps):
    ladder = torch.linspace(1, 0, steps + 1)
    lengths = [len(cut(ladder, float(np.float32(s)))) - 1 for s in between(0.0, 1.0, steps)]
    assert lengths == list(range(steps + 1))


@pytest.mark.parametrize(
    ("low", "high", "steps"), [(0.51, 0.59, 10), (0.7, 0.3, 10), (0.5, 1.2, 10), (-0.2, 0.5, 10)]
)
def test_a_range_without_a_step_is_refused(low, high, steps):
    with pytest.raises(Refusal, match="no whole number of 10 steps: widen the range"):
        between(low, high, steps)
