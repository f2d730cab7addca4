import pytest
import torch
from mixture import MIXTURE

from counterpoise.diffusion.denoisers import (
    EDM,
    NO_LABEL,
    Cond,
    Eps,
    Flow,
    Schedule,
    Velocity,
    snr_to_sigma,
)

SCHEDULE = Schedule()
PARAMETRISATIONS = [EDM(), EDM(sigma_data=1.0), Eps(), Velocity(), Flow(), Flow(sigma_max=2.0**20)]


def level(read, time):
    """The noise level of a network's time, from each paper's definition."""
    if isinstance(read, EDM):
        return torch.exp(4 * time)
    if isinstance(read, Flow):
        return time / (1 - time)
    known = SCHEDULE.sigmas.log()
    below = time.floor().long().clamp(max=SCHEDULE.steps - 2)
    return torch.lerp(known[below], known[below + 1], time - below).exp()


def raw_input(read, x0, noise, sigma):
    """What each paper gives its network to see, written with its own symbols."""
    if isinstance(read, EDM):
        return (x0 + sigma * noise) / (sigma**2 + read.sigma_data**2).sqrt()
    if isinstance(read, Flow):
        t = sigma / (1 + sigma)
        return (1 - t) * x0 + t * noise
    abar = 1 / (1 + sigma**2)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise


def target(read, x0, noise, sigma):
    """What each paper asks its network for."""
    if isinstance(read, EDM):
        skip = read.sigma_data**2 / (sigma**2 + read.sigma_data**2)
        return (
            (x0 - skip * (x0 + sigma * noise))
            * (sigma**2 + read.sigma_data**2).sqrt()
            / (sigma * read.sigma_data)
        )
    if isinstance(read, Eps):
        return noise
    if isinstance(read, Flow):
        return noise - x0
    abar = 1 / (1 + sigma**2)
    return abar.sqrt() * noise - (1 - abar).sqrt() * x0


def spread(read, rows=9):
    """Noise levels over the whole range of a parametrisation."""
    ends = torch.tensor([read.sigma_min, read.sigma_max], dtype=torch.float64).log()
    return torch.lerp(ends[0], ends[1], torch.linspace(0, 1, rows, dtype=torch.float64)).exp()


@pytest.mark.parametrize("read", PARAMETRISATIONS, ids=repr)
def test_a_network_that_answers_its_training_target_gives_back_the_clean_x(read):
    rng = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 9, 3, 4, 4, generator=rng, dtype=torch.float64)
    sigma = spread(read)
    wide = sigma[:, None, None, None]
    seen = {}

    def net(x, time, cond):
        seen.update(x=x, time=time, cond=cond)
        return target(read, x0, noise, wide)

    cond = Cond(torch.arange(9))
    torch.testing.assert_close(read.denoiser(net)(x0 + wide * noise, sigma, cond), x0, rtol=0, atol=1e-9)
    torch.testing.assert_close(seen["x"], raw_input(read, x0, noise, wide))
    torch.testing.assert_close(level(read, seen["time"]), sigma)
    assert seen["time"].shape == (9,)
    assert seen["cond"] is cond


@pytest.mark.parametrize("read", PARAMETRISATIONS, ids=repr)
def test_the_closed_form_network_recovers_the_mixtures_denoiser(read):
    """The network that perfect training would give: E[target | x], as every target is linear in x0 and noise."""
    sigma = spread(read)
    x0 = MIXTURE.sample(torch.full((9,), NO_LABEL), 5, seed=1)
    x = x0 + sigma[:, None, None] * torch.randn(
        x0.shape, dtype=x0.dtype, generator=torch.Generator().manual_seed(2)
    )
    cond = Cond(torch.arange(9) % 3 - 1)

    def net(scaled, time, cond):
        sigma = level(read, time)
        wide = sigma[:, None, None]
        x = scaled / raw_input(read, torch.zeros(()), 1 / wide, wide)
        clean = MIXTURE.denoise(x, sigma, cond)
        return target(read, clean, (x - clean) / wide, wide)

    found = read.denoiser(net)(x, sigma, cond)
    torch.testing.assert_close(found, MIXTURE.denoise(x, sigma, cond), rtol=0, atol=1e-8)


def test_edm_sees_and_asks_for_unit_variance_at_every_level():
    read, rng = EDM(), torch.Generator().manual_seed(3)
    x0 = 0.5 * torch.randn(7, 200_000, generator=rng, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=rng, dtype=torch.float64)
    sigma = spread(read, 7)[:, None]
    for values in (raw_input(read, x0, noise, sigma), target(read, x0, noise, sigma)):
        torch.testing.assert_close(values.var(1), torch.ones(7, dtype=torch.float64), rtol=0.02, atol=0)


def test_the_schedule_is_ho_et_als():
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(SCHEDULE.sigmas, ((1 - abar) / abar).sqrt())
    assert abar[-1].item() == pytest.approx(
        4.036e-5, rel=1e-3
    )  # the published chain ends almost in pure noise
    assert Eps().sigma_min == SCHEDULE.sigmas[0]
    assert Velocity().sigma_max == SCHEDULE.sigmas[-1]


THEIRS = {
    "stable diffusion": (
        Schedule(1000, 0.00085, 0.012, "scaled_linear"),
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    ),
    "cosine": (Schedule(500, shape="cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
    "zero": (
        Schedule(1000, 0.00085, 0.012, "scaled_linear", zero_terminal=True),
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "rescale_betas_zero_snr": True,
        },
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_other_schedules_are_those_of_diffusers(name):
    diffusers = pytest.importorskip("diffusers")
    ours, settings = THEIRS[name]
    theirs = diffusers.DDIMScheduler(num_train_timesteps=ours.steps, **settings).alphas_cumprod.double()
    torch.testing.assert_close(1 / (1 + ours.sigmas**2), theirs, rtol=1e-3, atol=1e-6)
    assert (ours.sigmas.diff() > 0).all()
    assert ours.sigmas.isfinite().all()


def test_noise_alone_is_still_a_noise_level():
    read = Velocity(THEIRS["zero"][0])
    assert read.sigma_max == pytest.approx(2**12, rel=1e-6)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((3,), read.sigma_max)
    wide = sigma[:, None, None, None]
    found = read.denoiser(lambda x, time, cond: target(read, x0, noise, wide))(
        x0 + wide * noise, sigma, Cond()
    )
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_undoes_the_schedule_and_stays_inside_it(dtype):
    steps = torch.arange(1000, dtype=dtype)
    torch.testing.assert_close(SCHEDULE.time(SCHEDULE.sigmas.to(dtype)), steps, rtol=0, atol=2e-4)
    assert SCHEDULE.time(torch.tensor([1e-5, 1e5], dtype=dtype)).tolist() == [0, 999]
    between = SCHEDULE.time(torch.logspace(-2, 2, 500, dtype=dtype))
    assert (between.diff() >= 0).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs
def test_time_is_the_one_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EulerDiscreteScheduler(beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    theirs.set_timesteps(30)
    torch.testing.assert_close(
        SCHEDULE.time(theirs.sigmas[:-1].double()), theirs.timesteps.double(), rtol=0, atol=0.01
    )


def test_conditions():
    cond = Cond(torch.tensor([3, 1]), torch.ones(2, 9))
    assert cond.null().label.tolist() == [NO_LABEL, NO_LABEL]
    assert cond.null().augment is cond.augment
    assert Cond().null().label is None
    other = cond.relabelled(torch.tensor([0, 2]))
    both = Cond.cat(cond, other)
    assert both.label.tolist() == [3, 1, 0, 2]
    assert both.augment.shape == (4, 9)


def test_the_signal_to_noise_ratio_of_unit_data():
    for snr in (0.01, 1.0, 25.0):
        x0, noise = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(4))
        assert (x0.var() / (snr_to_sigma(snr) * noise).var()).item() == pytest.approx(snr, rel=0.02)


def test_a_flow_sees_its_noise_exactly_where_there_is_all_but_nothing_else():
    noise, seen = torch.randn(2, 3, 4, 4), []
    sigma = torch.full((2,), 2.0**20)
    Flow(sigma_max=2.0**20).denoiser(lambda x, t, cond: seen.append(x) or x)(sigma[0] * noise, sigma, Cond())
    torch.testing.assert_close(seen[0], noise, rtol=2e-6, atol=0)
