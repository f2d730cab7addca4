import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.diffusion.denoisers import Schedule, snr_to_sigma
from counterpoise.diffusion.ladder import cut, discrete, from_sigma, karras
from counterpoise.types import Refusal

STEPS = st.integers(1, 60)
LADDERS = st.one_of(
    st.builds(karras, STEPS, st.floats(1e-3, 0.1), st.floats(1.0, 200.0), st.floats(1.0, 9.0)),
    st.builds(discrete, st.just(Schedule()), STEPS),
)


@given(LADDERS, STEPS)
def test_ladders_fall_to_zero_in_double_precision(ladder, steps):
    assert ladder.dtype == torch.float64
    assert ladder.ndim == 1
    assert (ladder.diff() < 0).all()
    assert ladder[-1] == 0


def test_karras_is_the_published_ladder():
    ladder = karras(18, 0.002, 80.0)
    top, bottom = 80 ** (1 / 7), 0.002 ** (1 / 7)
    equation_5 = [(top + i / 17 * (bottom - top)) ** 7 for i in range(18)]
    assert ladder.tolist() == pytest.approx([*equation_5, 0.0])
    assert ladder[:3].tolist() == pytest.approx([80.0, 57.586, 40.7856], abs=1e-4)
    assert karras(5, 0.002, 80.0, rho=1.0)[:-1].diff().std() < 1e-12  # rho 1: evenly spaced
    assert karras(1, 0.002, 80.0).tolist() == pytest.approx([80.0, 0.0])


def test_discrete_rungs_are_those_of_the_schedule():
    schedule = Schedule()
    assert torch.equal(discrete(schedule, 1000)[:-1], schedule.sigmas.flip(0))
    assert torch.equal(discrete(schedule, 20)[:-1], schedule.sigmas[49::50].flip(0))
    for steps in (1, 3, 7, 999):
        passed = schedule.time(discrete(schedule, steps)[:-1]).round()
        assert passed[0] == 999
        lengths = -torch.cat([passed, torch.tensor([-1.0])]).diff()
        assert lengths.max() - lengths.min() <= 1  # evenly spaced, the step to clean data among them
    with pytest.raises(Refusal, match="1000"):
        discrete(schedule, 1001)


@given(LADDERS, st.floats(0, 1))
def test_cut_keeps_the_lower_end(ladder, strength):
    steps = len(ladder) - 1
    kept = cut(ladder, strength)
    assert len(kept) == 1 + round(strength * steps)
    assert torch.equal(kept, ladder[len(ladder) - len(kept) :])
    assert torch.equal(cut(ladder, 1.0), ladder)
    assert cut(ladder, 0.0).tolist() == [0.0]


@given(LADDERS, st.floats(1e-3, 300.0))
def test_from_sigma_begins_exactly_there(ladder, sigma):
    entered = from_sigma(ladder, sigma)
    assert entered[0] == sigma
    assert entered[-1] == 0
    assert (entered[1:-1] < 0.99 * entered[0]).all()  # no tiny first step
    assert torch.equal(entered[1:], ladder[ladder < 0.99 * sigma])


def test_from_sigma_on_a_rung_does_not_double_it():
    ladder = karras(10, 0.002, 80.0)
    assert from_sigma(ladder, 0.0).tolist() == [0.0]
    for k in range(10):
        near = snr_to_sigma(1 / ladder[k].item() ** 2)  # the rung, up to rounding
        torch.testing.assert_close(from_sigma(ladder, near), ladder[k:])
