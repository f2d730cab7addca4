from itertools import pairwise

import pytest
import torch
from mixture import MIXTURE, Mixture

from counterpoise.diffusion.denoisers import NO_LABEL, Cond, Schedule
from counterpoise.diffusion.ladder import cut, discrete, karras
from counterpoise.diffusion.samplers import SAMPLERS, calls, euler, heun
from counterpoise.diffusion.start import from_noise, from_source

LABELS = torch.tensor([0, 1, NO_LABEL])
ONE = Mixture(
    means=torch.tensor([[0.7, -0.4]], dtype=torch.float64),
    stds=torch.tensor([[0.3, 0.6]], dtype=torch.float64),
    weights=torch.ones(1, dtype=torch.float64),
    classes=torch.tensor([0]),
)
STOCHASTIC = ["ancestral", "ancestral_small"]
DETERMINISTIC = sorted(set(SAMPLERS) - {*STOCHASTIC, "lcm"})
OF_ANY_DENOISER = sorted(set(SAMPLERS) - {"lcm"})  # of which the estimate need not be a sample


def every(names):
    return pytest.mark.parametrize("name", names)


class Spy:
    """The mixture's denoiser, and what it was asked."""

    def __init__(self):
        self.sigmas = []

    def __call__(self, x, sigma, cond):
        assert sigma.dtype == torch.float32
        assert sigma.shape == (len(x),)
        assert (sigma == sigma[0]).all()
        self.sigmas.append(float(sigma[0]))
        return MIXTURE.denoise(x, sigma, cond)


@every(SAMPLERS)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 8])
def test_calls_are_as_many_as_said_and_never_at_zero(name, steps):
    spy, ladder = Spy(), karras(steps, 0.01, 20.0)
    x = 20 * torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    made = SAMPLERS[name](spy, x, ladder, Cond(torch.tensor([0, 1])), [1, 2])
    assert len(spy.sigmas) == calls(name, steps)
    assert all(sigma > 0 for sigma in spy.sigmas)
    assert spy.sigmas == sorted(spy.sigmas, reverse=True)
    assert made.shape == x.shape
    assert made.dtype == x.dtype
    assert torch.equal(made, x) == (steps == 0)


@every(SAMPLERS)
def test_one_step_is_the_estimate(name):
    x = 5 * torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = SAMPLERS[name](
        MIXTURE.denoise, x, torch.tensor([5.0, 0.0], dtype=torch.float64), Cond(LABELS), [1, 2, 3]
    )
    torch.testing.assert_close(made, MIXTURE.denoise(x, torch.full((3,), 5.0), Cond(LABELS)))


@pytest.mark.parametrize(
    ("name", "ladder"),
    [
        ("euler", karras(200, 0.002, 80.0)),
        ("heun", karras(40, 0.002, 80.0)),
        ("dpmpp_2m", karras(50, 0.002, 80.0)),
        ("ddim", discrete(Schedule(), 250)),
        ("ancestral", discrete(Schedule(), 1000)),
        ("ancestral_small", discrete(Schedule(), 1000)),
    ],
)
def test_many_steps_give_the_mixture(name, ladder):
    """Means, covariances and weights within five Monte-Carlo errors of 4,000 points, plus 0.01 for finite steps.

    Points start from data with noise on them, so that the first rung has exactly the marginal it should have.
    """
    points, slack = 4000, 0.01
    x0 = MIXTURE.sample(LABELS, points, seed=2)
    x = from_source(ladder, x0[torch.randperm(3, generator=torch.Generator().manual_seed(3))], [1, 2, 3])
    x = (
        x if ladder[0] < 100 else x - x.mean(1, keepdim=True) * 0
    )  # the source is forgotten at sigma 80 and more
    made = SAMPLERS[name](MIXTURE.denoise, x.float(), ladder, Cond(LABELS), [1, 2, 3]).double()
    for label, found in zip(LABELS.tolist(), made, strict=True):
        mean, covariance = MIXTURE.moments(label)
        spread = covariance.diag().sqrt()
        assert ((found.mean(0) - mean).abs() < 5 * spread / points**0.5 + slack).all()
        away = found - found.mean(0)
        products = away[:, :, None] * away[:, None, :]
        error = products.std(0) / points**0.5
        assert ((products.mean(0) - covariance).abs() < 5 * error + slack).all()
        weights = MIXTURE.weights_of(torch.tensor([label]))[0]
        shares = torch.bincount(MIXTURE.component(found), minlength=4) / points
        assert ((shares - weights).abs() < 5 * (weights * (1 - weights) / points).sqrt() + slack).all()
        for component in weights.nonzero()[:, 0].tolist():
            within = found[MIXTURE.component(found) == component].std(0)
            torch.testing.assert_close(within, MIXTURE.stds[component], rtol=5 / (2 * 400) ** 0.5, atol=slack)


@every(DETERMINISTIC)
def test_deterministic_samplers_follow_the_exact_curve(name):
    """For one Gaussian the curve is known: x - mean shrinks with sqrt(std^2 + sigma^2), then one step to the estimate."""
    ladder = karras(400, 0.002, 80.0)
    x = 80 * torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    made = SAMPLERS[name](ONE.denoise, x, ladder, Cond(), [0])
    variance, low, high = ONE.stds**2, 0.002**2, 80.0**2
    exact = ONE.means + (x - ONE.means) * variance / ((variance + low) * (variance + high)).sqrt()
    torch.testing.assert_close(made, exact, rtol=0, atol=0.02 if SAMPLERS[name] is euler else 1e-4)


@pytest.fixture(scope="module")
def curve():
    """Starting points, a ladder for any number of steps, and where a very fine Heun and a very fine Euler arrive."""

    def ladder(steps):
        return karras(steps, 0.05, 10.0)

    x = 10 * torch.randn(3, 40, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cond = Cond(LABELS)
    fine = heun(MIXTURE.denoise, x, ladder(800), cond, [])
    torch.testing.assert_close(euler(MIXTURE.denoise, x, ladder(2000), cond, []), fine, rtol=0, atol=0.01)
    return x, ladder, cond, fine


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_convergence_orders(curve, name, order):
    """Halving the steps' length divides the error by 2^order."""
    x, ladder, cond, fine = curve
    errors = [  # the median: a point on the watershed between two components may fall to either side
        (SAMPLERS[name](MIXTURE.denoise, x, ladder(steps), cond, []) - fine).abs().median().item()
        for steps in (40, 80, 160)
    ]
    for coarse, finer in pairwise(errors):
        assert 2 ** (order - 0.3) < coarse / finer < 2 ** (order + 0.5), errors
    assert errors[-1] < {1: 0.05, 2: 0.002}[order]


@every(SAMPLERS)
def test_a_row_depends_on_itself_alone(name):
    """Bit-equal beside other rows of the same batch size; to a tolerance in another order or split."""
    ladder, seeds, label = karras(12, 0.01, 20.0), [7, 8, 9, 2**50, 3, 4], torch.tensor([0, 1, -1, 0, 1, 1])

    def sample(rows):
        own = [seeds[i] for i in rows]
        return SAMPLERS[name](
            MIXTURE.denoise, from_noise(ladder, own, (5, 2)), ladder, Cond(label[rows]), own
        )

    whole = sample([0, 1, 2, 3, 4, 5])
    assert torch.equal(whole, sample([0, 1, 2, 3, 4, 5]))
    beside = sample([0, 5, 2, 1, 4, 3])
    assert torch.equal(beside[[0, 2, 4]], whole[[0, 2, 4]])
    torch.testing.assert_close(beside[[1, 3, 5]], whole[[5, 1, 3]])
    torch.testing.assert_close(torch.cat([sample([0, 1]), sample([2, 3, 4]), sample([5])]), whole)
    assert not torch.allclose(whole[0], whole[3])


@every(OF_ANY_DENOISER)
def test_sdedit_returns_the_source_at_0_and_switches_its_class_at_1(name):
    ladder = discrete(Schedule(), 100)
    source = MIXTURE.sample(torch.tensor([0, 0]), 300, seed=6).float()
    wanted = Cond(torch.tensor([1, 1]))

    def edited(strength):
        rungs = cut(ladder, strength)
        return SAMPLERS[name](MIXTURE.denoise, from_source(rungs, source, [1, 2]), rungs, wanted, [1, 2])

    assert torch.equal(edited(0.0), source)
    made = [edited(strength) for strength in (0.1, 0.4, 1.0)]
    distance = [(x - source).square().mean().item() for x in made]
    assert distance == sorted(distance)
    switched = [MIXTURE.classes[MIXTURE.component(x)].double().mean().item() for x in made]
    assert switched[-1] > 0.99


@every(OF_ANY_DENOISER)
def test_sdedit_keeps_the_class_of_a_source_that_moves_little(name):
    """Without a label, a little noise cannot carry a point to another class; with all of it, the source is forgotten."""
    ladder = discrete(Schedule(), 100)
    source = MIXTURE.sample(torch.tensor([1]), 600, seed=7).float()

    def share_of_the_other_class(strength):
        rungs = cut(ladder, strength)
        made = SAMPLERS[name](MIXTURE.denoise, from_source(rungs, source, [1]), rungs, Cond(), [1])
        return (MIXTURE.classes[MIXTURE.component(made)] == 0).double().mean().item()

    assert share_of_the_other_class(0.05) < 0.01
    assert share_of_the_other_class(1.0) == pytest.approx(0.7, abs=0.08)  # the mixture's share


@every(STOCHASTIC)
def test_ancestral_noise_is_the_rows_and_the_rungs(name):
    """The same start with other seeds goes elsewhere; the variance of one step is the published one."""
    rungs = discrete(Schedule(), 1000)[[500, 501, -1]]
    seen = []

    def nothing(x, sigma, cond):
        seen.append(x)
        return torch.zeros_like(x)

    SAMPLERS[name](nothing, torch.zeros(40, 5000), rungs, Cond(), range(40))
    high, low = rungs[:2].tolist()
    abar, abar_low = 1 / (1 + high**2), 1 / (1 + low**2)
    beta = 1 - abar / abar_low
    published = beta if name == "ancestral" else (1 - abar_low) / (1 - abar) * beta
    assert (seen[1].var() * abar_low).item() == pytest.approx(published, rel=0.02)
    assert len({tuple(row[:3].tolist()) for row in seen[1]}) == 40


def test_lcm_noises_each_estimate_anew():
    """The variance at the next rung is that rung's, row by row, whatever x was before."""
    rungs, seen = discrete(Schedule(), 4), []

    def estimate(x, sigma, cond):
        seen.append(x)
        return torch.full_like(x, len(seen))

    made = SAMPLERS["lcm"](estimate, torch.zeros(40, 5000), rungs, Cond(), range(40))
    assert (made == 4).all()
    for number, (x, sigma) in enumerate(zip(seen[1:], rungs[1:-1].tolist(), strict=True), 1):
        assert x.mean().item() == pytest.approx(number, abs=0.02 * sigma)
        assert x.std().item() == pytest.approx(sigma, rel=0.01)
        assert len({tuple(row[:3].tolist()) for row in x}) == 40
