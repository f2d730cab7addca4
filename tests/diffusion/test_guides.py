import pytest
import torch
from mixture import MIXTURE, Mixture

from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.guides import CFG, AutoGuidance, Clamp, Context, Interval, guided
from counterpoise.diffusion.ladder import karras
from counterpoise.diffusion.samplers import SAMPLERS, calls
from counterpoise.diffusion.start import from_noise
from counterpoise.types import Refusal, describe, load

COND = Cond(torch.tensor([0, 1, 0, -1]), torch.zeros(4, 9))
X = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
#: The same mixture, blurred: what a less trained model has learned.
BLURRED = Mixture(MIXTURE.means, MIXTURE.stds + 0.3, MIXTURE.weights, MIXTURE.classes)
WEAK = Context(weak=BLURRED.denoise)


class Counted:
    """The mixture's denoiser, and how many rows each call had."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, sigma, cond):
        assert len(x) == len(sigma) == len(cond.label) == len(cond.augment)
        self.rows.append(len(x))
        return MIXTURE.denoise(x, sigma, cond)


def at(sigma):
    return torch.full((4,), sigma)


def plain(sigma, cond=COND):
    return MIXTURE.denoise(X, at(sigma), cond)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_cfg_is_exact_in_one_call(scale, sigma):
    counted = Counted()
    found = CFG(scale)(counted, Context())(X, at(sigma), COND)
    conditional, null = plain(sigma), plain(sigma, COND.null())
    torch.testing.assert_close(found, null + scale * (conditional - null))
    omega = scale - 1  # as class-balancing diffusion writes it
    torch.testing.assert_close(found, (1 + omega) * conditional - omega * null)
    torch.testing.assert_close(found[3], plain(sigma)[3])  # a row asked for nothing is not pulled
    assert counted.rows == [4 if scale in (0, 1) else 8]


def test_cfg_follows_the_sharpened_posterior():
    """D = x + sigma^2 score, so guidance follows the score of p(x) (p(x | y) / p(x))^scale, here by autograd."""
    sigma, scale = 0.8, 3.0
    x = X.clone().requires_grad_()

    def log_density(label):
        total = MIXTURE.stds**2 + sigma**2
        log = (
            MIXTURE.weights_of(label).log()[:, None]
            - ((x[..., None, :] - MIXTURE.means) ** 2 / total).sum(-1) / 2
        )
        return (log - total.log().sum(-1) / 2).logsumexp(-1)

    null = log_density(COND.null().label)
    tilted = null + scale * (log_density(COND.label) - null)
    (score,) = torch.autograd.grad(tilted.sum(), x)
    found = CFG(scale)(MIXTURE.denoise, Context())(X, at(sigma).double(), COND)
    torch.testing.assert_close(found, X + sigma**2 * score)


def test_cfg_makes_samples_purer():
    """Two classes that overlap: guidance takes points away from the border."""
    overlapping = Mixture(MIXTURE.means / 3, MIXTURE.stds * 2, MIXTURE.weights, MIXTURE.classes)
    ladder, cond = karras(30, 0.01, 20.0), Cond(torch.tensor([1, 1]))

    def share(scale):
        denoise = guided(overlapping.denoise, [CFG(scale)], Context())
        made = SAMPLERS["heun"](denoise, from_noise(ladder, [1, 2], (500, 2)), ladder, cond, [1, 2])
        return overlapping.classes[overlapping.component(made)].double().mean().item()

    shares = [share(scale) for scale in (0.0, 1.0, 2.0, 4.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.3  # the mixture's own share, less what falls over the border
    assert shares[-1] > 0.95


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_autoguidance_is_exact(scale):
    found = AutoGuidance(scale)(MIXTURE.denoise, WEAK)(X, at(0.7), COND)
    weak = BLURRED.denoise(X, at(0.7), COND)
    torch.testing.assert_close(found, weak + scale * (plain(0.7) - weak))


def test_autoguidance_needs_the_weak_copy():
    with pytest.raises(Refusal, match="less trained"):
        guided(MIXTURE.denoise, [AutoGuidance(2.0)], Context())


def test_outside_its_interval_a_guide_is_not_there():
    counted, guide = Counted(), Interval(CFG(3.0), low=0.3, high=2.0)
    denoise = guide(counted, Context())
    inside = CFG(3.0)(MIXTURE.denoise, Context())
    for sigma, acts in [(0.1, False), (0.3, False), (0.31, True), (2.0, True), (2.01, False), (50.0, False)]:
        found = denoise(X, at(sigma), COND)
        assert torch.equal(found, inside(X, at(sigma), COND) if acts else plain(sigma)), sigma
        assert counted.rows.pop() == (8 if acts else 4)
    assert not counted.rows


def test_bounds_that_are_rungs_survive_single_precision():
    """float32(0.28) is above 0.28: the bound itself must still be inside, and a lower bound outside."""
    counted = Counted()
    Interval(CFG(3.0), low=0.1, high=0.28)(counted, Context())(X, at(0.28), COND)
    Interval(CFG(3.0), low=0.28, high=2.0)(counted, Context())(X, at(0.28), COND)
    assert counted.rows == [8, 4]


@pytest.mark.parametrize("name", SAMPLERS)
def test_guides_act_by_sigma_under_every_sampler(name):
    """Heun calls twice a step: the doubled batches are those whose sigma is inside, whatever the count of calls."""
    ladder, seen = karras(12, 0.01, 20.0), []

    def denoise(x, sigma, cond):
        seen.append((len(x), float(sigma[0])))
        return MIXTURE.denoise(x, sigma, cond)

    guides = [Interval(CFG(2.0), low=0.1, high=3.0), Clamp(-3, 3)]
    x = from_noise(ladder, [1, 2, 3, 4], (5, 2))
    SAMPLERS[name](guided(denoise, guides, Context(ladder)), x, ladder, COND, [1, 2, 3, 4])
    assert len(seen) == calls(name, 12)
    assert all(rows == (8 if 0.1 < sigma <= 3 else 4) for rows, sigma in seen)
    assert {rows for rows, _ in seen} == {4, 8}


def test_an_interval_of_nothing_leaves_samples_bit_equal():
    ladder, x = karras(8, 0.01, 20.0), from_noise(karras(8, 0.01, 20.0), [1, 2, 3, 4], (5, 2))
    never = guided(MIXTURE.denoise, [Interval(CFG(9.0), low=30.0, high=40.0)], Context())
    for sample in SAMPLERS.values():
        free = sample(MIXTURE.denoise, x, ladder, COND, [1, 2, 3, 4])
        assert torch.equal(sample(never, x, ladder, COND, [1, 2, 3, 4]), free)


def test_guides_nest_the_first_innermost():
    both = guided(MIXTURE.denoise, [AutoGuidance(2.0), CFG(3.0), Clamp(-0.5, 0.5)], WEAK)
    strong = AutoGuidance(2.0)(MIXTURE.denoise, WEAK)
    wanted, null = strong(X, at(0.7), COND), strong(X, at(0.7), COND.null())
    torch.testing.assert_close(both(X, at(0.7), COND), (null + 3 * (wanted - null)).clamp(-0.5, 0.5))
    clamped_first = guided(MIXTURE.denoise, [Clamp(-0.5, 0.5), CFG(3.0)], Context())(X, at(0.7), COND)
    assert clamped_first.abs().max() > 0.5
    assert guided(MIXTURE.denoise, [], Context()) == MIXTURE.denoise


def test_guides_let_gradients_through():
    x = X.clone().requires_grad_()
    guides = [AutoGuidance(2.0), Interval(CFG(3.0), low=0.1, high=1.0), Clamp(-9, 9)]
    guided(MIXTURE.denoise, guides, WEAK)(x, at(0.7), COND).sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("make", [lambda: Interval(CFG(2.0), 2.0, 1.0), lambda: Clamp(1.0, -1.0)])
def test_empty_ranges_are_refused(make):
    with pytest.raises(Refusal, match="below"):
        make()


def test_nested_guides_are_described_and_loaded_back():
    guide = Interval(CFG(2.0), 0.1, 1.0)
    assert load(describe(guide)) == guide
