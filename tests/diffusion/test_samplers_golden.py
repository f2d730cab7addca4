"""Our samplers beside the schedulers of diffusers: the same network must see the same inputs at the same times.

Where theirs works on sqrt(abar) x, what the network sees is that in both; so whole paths are compared, not only ends.
"""

from itertools import count

import pytest
import torch
from mixture import MIXTURE

from counterpoise.diffusion import samplers
from counterpoise.diffusion.denoisers import EDM, Cond, Eps, Flow, Schedule, Velocity
from counterpoise.diffusion.ladder import discrete, karras
from counterpoise.diffusion.start import row_noise

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # theirs

SEEDS, SHAPE = [3, 4, 5], (6, 2)
COND = Cond(torch.tensor([0, 1, -1]))
SCHEDULES = [
    (Schedule(), 20),
    (Schedule(100, 1e-3, 0.2), 100),
]  # 20 steps of 1,000; every step of a short one
DIFFUSERS = {"beta_schedule": "linear", "timestep_spacing": "trailing"}


class Net:
    """The mixture's best network for a target, and a record of what it was shown."""

    def __init__(self, read):
        self.read, self.xs, self.times = read, [], []

    def __call__(self, x, time, cond):
        self.xs.append(x)
        self.times.append(time[0].item())
        wide = time.double()[:, None, None]
        if isinstance(self.read, EDM):
            sigma = (4 * wide).exp()
            scale = (sigma**2 + self.read.sigma_data**2).sqrt()
            clean = self.clean(x * scale, sigma, cond)
            return (
                (clean - self.read.sigma_data**2 / scale * x) * scale / (sigma * self.read.sigma_data)
            ).float()
        if isinstance(self.read, Flow):
            return ((x - self.clean(x / (1 - wide), wide / (1 - wide), cond)) / wide).float()  # n - x0
        sigma = self.read.schedule.sigmas[time.round().long()][:, None, None]
        root = (1 + sigma**2).rsqrt()
        clean = self.clean(x / root, sigma, cond)
        noise = (x / root - clean) / sigma
        return (noise if isinstance(self.read, Eps) else root * noise - sigma * root * clean).float()

    def clean(self, x, sigma, cond):
        return MIXTURE.denoise(x.double(), sigma, cond)


def theirs(scheduler, net, x, per_time=1.0):
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        raw = net(shown, torch.full((len(x),), time.item() / per_time), COND)
        x = scheduler.step(raw, time, x).prev_sample
    return x


def compare(name, read, ladder, scheduler, start, per_time=1.0, atol=3e-5):
    """`start` is the factor from our first x to theirs."""
    ours, others = Net(read), Net(read)
    x = ladder[0].item() * row_noise(SEEDS, SHAPE)
    made = samplers.SAMPLERS[name](read.denoiser(ours), x, ladder, COND, SEEDS)
    other = theirs(scheduler, others, x * start, per_time)
    torch.testing.assert_close(torch.tensor(ours.times), torch.tensor(others.times), rtol=0, atol=1e-3)
    torch.testing.assert_close(torch.stack(ours.xs), torch.stack(others.xs), rtol=0, atol=atol)
    torch.testing.assert_close(made, other, rtol=0, atol=atol)


def preserving(ladder):
    """x / sqrt(1 + sigma^2): from our space to sqrt(abar) x."""
    return (1 + ladder[0].item() ** 2) ** -0.5


def trained(schedule):
    return {
        "num_train_timesteps": schedule.steps,
        "beta_start": schedule.beta_first,
        "beta_end": schedule.beta_last,
    }


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
@pytest.mark.parametrize(
    ("name", "variance"), [("ancestral", "fixed_large"), ("ancestral_small", "fixed_small")]
)
def test_ddpm(monkeypatch, schedule, steps, name, variance):
    """With the noise of our rows fed to theirs.

    Theirs adds noise in every step with t > 0, so with steps left out even to the finished sample: there it gets zeros.
    """
    streams = count(1)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda shape, **kwargs: row_noise(SEEDS, shape[1:], stream := next(streams)) * (stream < steps),
    )
    scheduler = diffusers.DDPMScheduler(
        **trained(schedule), **DIFFUSERS, clip_sample=False, variance_type=variance
    )
    scheduler.set_timesteps(steps)
    ladder = discrete(schedule, steps)
    compare(name, Eps(schedule), ladder, scheduler, preserving(ladder), atol=3e-4)


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
@pytest.mark.parametrize("read", [Eps, Velocity])
def test_ddim(schedule, steps, read):
    kind = {Eps: "epsilon", Velocity: "v_prediction"}[read]
    scheduler = diffusers.DDIMScheduler(
        **trained(schedule), **DIFFUSERS, clip_sample=False, prediction_type=kind
    )
    scheduler.set_timesteps(steps)
    ladder = discrete(schedule, steps)
    compare("ddim", read(schedule), ladder, scheduler, preserving(ladder))


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
@pytest.mark.parametrize(
    ("name", "theirs"), [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler")]
)
def test_discrete_euler_and_heun(schedule, steps, name, theirs):
    scheduler = getattr(diffusers, theirs)(**trained(schedule), **DIFFUSERS)
    scheduler.set_timesteps(steps)
    compare(name, Eps(schedule), discrete(schedule, steps), scheduler, 1.0)


@pytest.mark.parametrize(("schedule", "steps"), SCHEDULES)
def test_dpm_solver(schedule, steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(**trained(schedule), **DIFFUSERS)
    scheduler.set_timesteps(steps)
    ladder = discrete(schedule, steps)
    compare("dpmpp_2m", Eps(schedule), ladder, scheduler, preserving(ladder))


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_lcm(monkeypatch, steps):
    """Where their times are ours (other numbers of steps are rounded to the 50 that LCM is distilled on), with our noise.

    Scaled up, times are far from the boundary, where theirs keeps a little of x.
    """
    streams = count(1)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor",
        lambda shape, **kwargs: row_noise(SEEDS, shape[1:], next(streams)),
    )
    scheduler = diffusers.LCMScheduler(**trained(Schedule()), beta_schedule="linear", timestep_scaling=1000.0)
    scheduler.set_timesteps(steps)
    ladder = discrete(Schedule(), steps)
    compare("lcm", Eps(Schedule()), ladder, scheduler, preserving(ladder), atol=3e-4)


@pytest.mark.parametrize("steps", [1, 2, 12, 40])
@pytest.mark.parametrize(
    ("name", "theirs"), [("euler", "EDMEulerScheduler"), ("dpmpp_2m", "EDMDPMSolverMultistepScheduler")]
)
def test_edm(steps, name, theirs):
    scheduler = getattr(diffusers, theirs)()
    scheduler.set_timesteps(steps)
    ladder = karras(steps, 0.002, 80.0)
    torch.testing.assert_close(ladder, scheduler.sigmas.double(), rtol=1e-5, atol=0)
    compare(name, EDM(), ladder, scheduler, 1.0)


def test_flow():
    """Euler along straight lines in t is Euler in sigma = t / (1 - t)."""
    times = torch.linspace(0.98, 0.02, 25, dtype=torch.float64)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=times.tolist())
    ladder = torch.cat([times / (1 - times), times.new_zeros(1)])
    compare("euler", Flow(), ladder, scheduler, 1 - times[0].item(), per_time=1000.0)


@pytest.mark.parametrize("steps", [1, 7, 30, 1000])
def test_discrete_ladders_stand_on_their_timesteps(steps):
    scheduler = diffusers.DDPMScheduler(**DIFFUSERS)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(discrete(Schedule(), steps)[:-1], Schedule().sigmas[scheduler.timesteps])
