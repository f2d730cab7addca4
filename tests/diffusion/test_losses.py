import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from counterpoise.diffusion.denoisers import EDM, NO_LABEL, Cond, Eps, Flow, Schedule, Velocity, wide
from counterpoise.diffusion.losses import (
    ClassBalancing,
    LogitNormal,
    LogNormal,
    UniformTime,
    denoising_loss,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, classes: int = 3):
    x0 = torch.randn(n, 1, 4, 4, generator=rng(1)) * 0.5
    noise = torch.randn(n, 1, 4, 4, generator=rng(2))
    sigma = torch.linspace(0.1, 3, n)
    label = torch.arange(n) % classes
    return x0, sigma, noise, label


class Tables(torch.nn.Module):
    """A raw network whose answer to each label is a parameter of its own, so that branches have their own gradients."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.answers = torch.nn.Parameter(torch.randn(classes + 1, 1, 4, 4, generator=rng(3)))

    def forward(self, x, noise, cond):
        return self.answers[cond.label] * torch.tanh(noise.abs() + 1)[:, None, None, None]


OBJECTIVES = [LogNormal(), UniformTime(), UniformTime(Velocity()), LogitNormal()]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_the_loss_is_the_error_of_what_the_paper_of_each_target_writes_down(objective):
    """||eps - h||^2, ||v - v'||^2, ||(n - x0) - u||^2, and lambda ||x0 - D||^2 for EDM."""
    x0, sigma, noise, label = batch()
    read, net, cond = objective.parametrisation, Tables(), Cond(label)
    raw: list[torch.Tensor] = []

    def spy(x, level, cond):
        raw.append(net(x, level, cond))
        return raw[-1]

    found, pull = denoising_loss(read.denoiser(spy), objective, x0, sigma, noise, cond)
    root = wide((1 + sigma**2).rsqrt(), x0)
    match read:
        case Eps():
            target, scale = noise, torch.ones(len(x0))
        case Velocity():
            target, scale = root * noise - wide(sigma, x0) * root * x0, torch.ones(len(x0))
        case Flow():
            target, scale = noise - x0, torch.ones(len(x0))
        case EDM():  # effective target of F (Karras et al. 2022, Equation 8) has unit weight
            total = sigma**2 + read.sigma_data**2
            skip, out = read.sigma_data**2 / total, sigma * read.sigma_data / total.sqrt()
            target = (x0 - wide(skip, x0) * (x0 + wide(sigma, x0) * noise)) / wide(out, x0)
            scale = torch.ones(len(x0))
    expected = scale * (raw[0] - target).square().flatten(1).mean(1)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)
    assert not pull.any()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_noise_levels_stay_inside_what_the_parametrisation_can_read(objective):
    sigma = objective.draw(20_000, rng())
    assert sigma.shape == (20_000,)
    assert torch.isfinite(objective.weight(sigma)).all()
    if not isinstance(objective, LogNormal):
        assert sigma.min() >= objective.parametrisation.sigma_min * (1 - 1e-5)
        assert sigma.max() <= objective.parametrisation.sigma_max * (1 + 1e-5)
    else:
        assert abs(float(sigma.log().mean()) + 1.2) < 0.03
        assert abs(float(sigma.log().std()) - 1.2) < 0.03


def balanced(balance, label, other, objective=None, net=None):
    x0, sigma, noise, _ = batch(len(label))
    objective, net = objective or UniformTime(), net or Tables()
    denoise = objective.parametrisation.denoiser(net)
    return net, denoising_loss(denoise, objective, x0, sigma, noise, Cond(label), balance, other)


def test_tau_zero_gives_the_gradients_of_plain_training():
    label, other = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 2, 1, 1])
    plain, (errors, _) = balanced(None, label, None)
    errors.mean().backward()
    with_zero, (errors, pulls) = balanced(ClassBalancing(tau=0.0), label, other)
    (errors + pulls).mean().backward()
    torch.testing.assert_close(plain.answers.grad, with_zero.answers.grad)


def test_the_same_label_twice_gives_no_regulariser():
    label = torch.tensor([0, 1, 2])
    _, (_, pulls) = balanced(ClassBalancing(), label, label)
    assert not pulls.any()


def test_value_and_split_are_the_cards():
    """Value 1.25 mean w_t ||h - h'||^2; the branch of y gets four times the gradient of the branch of y'."""
    label, other = torch.tensor([0, 0]), torch.tensor([1, 1])
    net, (_, pulls) = balanced(ClassBalancing(), label, other)
    _, sigma, _, _ = batch(2)
    gap = (net.answers[0] - net.answers[1]) * torch.tanh(Schedule().time(sigma).abs() + 1)[
        :, None, None, None
    ]
    weight = Schedule().time(sigma) / 1000
    torch.testing.assert_close(pulls, 1.25 * weight * gap.square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)
    pulls.sum().backward()
    torch.testing.assert_close(net.answers.grad[0], -4 * net.answers.grad[1], rtol=1e-4, atol=1e-6)


def test_the_weight_rises_linearly_in_the_step_from_zero():
    sigmas, balance = Schedule().sigmas.float(), ClassBalancing(tau=2.0)
    weight = balance.weight(sigmas)
    assert weight[0] == 0
    torch.testing.assert_close(weight, 2.0 * torch.arange(1000) / 1000, rtol=1e-3, atol=2e-5)


def test_rows_without_a_label_are_not_regularised():
    label, other = torch.tensor([0, NO_LABEL, 2]), torch.tensor([1, 1, 1])
    _, (_, pulls) = balanced(ClassBalancing(), label, other)
    assert pulls[0] > 0
    assert pulls[1] == 0


@pytest.mark.parametrize("law", ["train", "sqrt", "uniform"])
def test_other_labels_follow_their_law(law):
    counts = torch.tensor([600.0, 80.0, 20.0])
    mass = {"train": counts, "sqrt": counts.sqrt(), "uniform": torch.ones(3)}[law]
    drawn = ClassBalancing(law=law).draw(counts, 20_000, rng())
    seen = np.bincount(drawn.numpy(), minlength=3)
    assert chisquare(seen, (mass.double() / mass.double().sum() * 20_000).numpy()).pvalue > 1e-3


def test_the_regulariser_keeps_its_place_beside_the_error_under_edm():
    """Both are weighed alike, so the balance between them at a noise level is the published one."""
    label, other = torch.tensor([0, 1]), torch.tensor([2, 2])
    _, sigma, _, _ = batch(2)
    found = {}
    for objective in (LogNormal(), UniformTime()):
        # The same estimates of x0 for both: a denoiser, not a raw network.
        x0, sigma, noise, _ = batch(2)
        answers = torch.randn(3, 1, 4, 4, generator=rng(5))
        errors, pulls = denoising_loss(
            lambda x, s, c, answers=answers: answers[c.label],
            objective,
            x0,
            sigma,
            noise,
            Cond(label),
            ClassBalancing(),
            other,
        )
        found[type(objective).__name__] = pulls / errors
    torch.testing.assert_close(found["LogNormal"], found["UniformTime"])
