import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from counterpoise.diffusion.denoisers import Schedule, snr_to_sigma
from counterpoise.diffusion.ladder import (
    LARGEST_FLOW,
    cut,
    discrete,
    flow,
    from_sigma,
    karras,
    strength_of,
)
from counterpoise.nets import noise_schedules
from counterpoise.types import Refusal

STEPS = st.integers(1, 60)
LADDERS = st.one_of(
    st.builds(karras, STEPS, st.floats(1e-3, 0.1), st.floats(1.0, 200.0), st.floats(1.0, 9.0)),
    st.builds(discrete, st.just(Schedule()), STEPS),
    st.builds(flow, STEPS, st.floats(0.5, 12.0)),
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


def test_a_flow_comes_down_as_published():
    t = flow(4, shift=3.0)
    times = t / (1 + t)
    even = torch.tensor([1, 0.75, 0.5, 0.25], dtype=torch.float64)
    assert times[:-1].tolist() == pytest.approx((3 * even / (1 + 2 * even)).tolist(), abs=1e-6)  # Equation 23
    assert t[0] == LARGEST_FLOW
    assert flow(3, last=0.2)[2].item() == pytest.approx(0.25)  # t / (1 - t)


@pytest.mark.parametrize("steps", [1, 2, 7, 28])
@pytest.mark.parametrize(
    ("settings", "patches", "by_step"),
    [({"shift": 3.0}, 9, False), ({"shift": 1.0}, 9, False), ({"use_dynamic_shifting": True}, 4096, True),
     ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, 1024, True),
     ({"use_dynamic_shifting": True, "max_shift": 0.9}, 16, False)],
)  # fmt: skip
def test_a_flow_comes_down_the_ladder_of_its_own_scheduler(settings, patches, by_step, steps):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    theirs = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    more = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if by_step else {"num_inference_steps": steps}
    if settings.get("use_dynamic_shifting"):
        more["mu"] = calculate_shift(patches, max_shift=settings.get("max_shift", 1.15))
    theirs.set_timesteps(**more)
    told = noise_schedules.flow("x", dict(theirs.config) | {"_class_name": "FlowMatch"}, patches, by_step)
    ours = flow(steps, told["shift"], told["last"])
    torch.testing.assert_close((ours / (1 + ours)).float(), theirs.sigmas, atol=2e-6, rtol=0)


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
    assert -1e-4 < strength * steps - (len(kept) - 1) < 1
    assert (kept.diff() < 0).all()
    below = ladder[len(ladder) - len(kept) :]
    assert (kept >= below - 1e-12).all()  # it begins in the step above, or on the rung
    assert torch.equal(cut(ladder, (len(kept) - 1) / steps), below)
    assert torch.equal(cut(ladder, 1.0), ladder)
    assert cut(ladder, 0.0).tolist() == [0.0]


@given(LADDERS, st.floats(0.02, 1), st.integers(1, 12))
def test_a_cut_has_its_least_steps_and_begins_where_its_strength_says(ladder, strength, least):
    steps = len(ladder) - 1
    least = min(least, steps)
    kept = cut(ladder, float(np.float32(strength)), least)
    assert len(kept) - 1 == max(least, int(round(strength * steps, 4)))
    assert kept[-1] == 0
    assert (kept.diff() < 0).all()
    assert strength_of(ladder, float(kept[0])) == pytest.approx(strength, abs=1e-4)
    assert cut(ladder, 0.0, least).tolist() == [0.0]


@given(LADDERS, st.integers(1, 60))
def test_a_noise_level_is_found_again_at_its_strength(ladder, rung):
    steps = len(ladder) - 1
    assert strength_of(ladder, float(ladder[-1 - min(rung, steps)])) == pytest.approx(
        min(rung, steps) / steps
    )
    assert strength_of(ladder, 2 * float(ladder[0])) == 1
    middle = min(float(ladder[0]) / 3, 1.0)
    assert cut(ladder, strength_of(ladder, middle), 2)[0].item() == pytest.approx(middle, rel=1e-3)


#: abar that real guidance noises its sources to (He et al. 2023), and the step of Stable Diffusion's 1,000 with as much.
GUIDED = [(0.941, 60), (0.899, 96), (0.720, 221), (0.647, 266), (0.494, 357)]


@pytest.mark.parametrize(("abar", "step"), GUIDED)
@pytest.mark.parametrize("steps", [10, 20, 25, 50, 1000])
def test_the_noise_of_real_guidance_on_the_schedule_of_stable_diffusion(abar, step, steps):
    schedule = Schedule(1000, 0.00085, 0.012, "scaled_linear")
    sigma = snr_to_sigma(abar / (1 - abar))
    assert schedule.time(torch.tensor(sigma)).item() == pytest.approx(step, abs=0.6)
    ladder = discrete(schedule, steps)
    strength = strength_of(ladder, sigma)
    if steps > 10:  # below the lowest rung of few there is no schedule to follow
        assert strength == pytest.approx((step + 1) / 1000, abs=0.002)
    begun = cut(ladder, float(np.float32(strength)), 3)[0].item()
    assert 1 / (1 + begun**2) == pytest.approx(abar, abs=1e-4)


@pytest.mark.parametrize(
    ("strength", "calls"), [(0.1, 2), (0.3, 7), (0.5, 12), (0.7, 17), (0.9, 22), (1.0, 25)]
)
def test_as_many_steps_as_published_of_25(strength, calls):
    ladder = torch.linspace(1, 0, 26)
    for stored in (strength, float(np.float32(strength))):  # as a plan keeps it
        assert len(cut(ladder, stored)) - 1 == calls


@given(st.integers(1, 1000), st.integers(0, 1000))
def test_a_decimal_strength_takes_exactly_its_whole_steps(steps, thousandths):
    ladder, exact = torch.linspace(1, 0, steps + 1), steps * thousandths // 1000
    for strength in (thousandths / 1000, float(np.float32(thousandths / 1000))):
        assert len(cut(ladder, strength)) - 1 == exact


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
