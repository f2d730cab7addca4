from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from mixture import MIXTURE, Mixture
from torch.nn import functional as F

from counterpoise.diffusion.criteria import Entropy, Hardness, Loss
from counterpoise.diffusion.denoisers import EDM, NO_LABEL, Cond, Eps, Flow, Velocity, wide
from counterpoise.diffusion.feedback import Coverage, Feedback, acting
from counterpoise.diffusion.guides import CFG, Context, guided
from counterpoise.diffusion.ladder import cut, discrete, karras
from counterpoise.diffusion.samplers import SAMPLERS
from counterpoise.diffusion.start import from_noise
from counterpoise.types import Refusal, describe, load

LADDER = karras(20, 0.01, 20.0)
SEEDS = list(range(1, 65))
LABEL = torch.arange(64) % 2
#: Two classes side by side that meet at 0.
PAIR = Mixture(
    means=torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64),
    stds=torch.tensor([[0.5, 0.8], [0.5, 0.8]], dtype=torch.float64),
    weights=torch.tensor([0.5, 0.5], dtype=torch.float64),
    classes=torch.tensor([0, 1]),
)


def linear(seen, label):
    """Right about every sign, but less sure than it could be: log p(0) - log p(1) = 4 x, and 8 x is the truth."""
    lead = 2 * seen.flatten(1)[:, :1]
    return torch.cat([lead, -lead], 1), seen.flatten(1)


class Heard:
    """What guides told, and of which rows."""

    def __init__(self):
        self.rows = {}

    def __call__(self, what, rows):
        self.rows.setdefault(what, []).append(rows)

    def __getitem__(self, what):
        return torch.stack(self.rows[what])  # (times, b)


def context(label=LABEL, ladder=LADDER, model=PAIR.denoise, **more):
    more = {"teacher": linear, "look": lambda x: x, "spread": 0.8} | more
    return Context(ladder=ladder, model=model, label=label, **more)


def sampled(
    guides, ctx=None, sampler="euler", seeds=SEEDS, model=PAIR.denoise, shape=(2,), dtype=torch.float32
):
    """(b, *shape); the labels are the teacher's."""
    ctx = ctx or context()
    x = from_noise(ctx.ladder, seeds, shape).to(dtype)
    with torch.no_grad():
        return SAMPLERS[sampler](guided(model, guides, ctx), x, ctx.ladder, Cond(ctx.label), seeds)


def value(made, criterion=Entropy(), label=LABEL):
    return criterion(*linear(made.double(), label), label)


PLAIN = sampled([])

# --- what is asked of every guide ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("criterion", [Entropy(), Loss(cap=2.0)], ids=repr)
def test_the_criterion_rises_with_the_scale_and_falls_below_none(criterion, sampler):
    scales = (-0.3, 0.0, 0.3, 1.0, 3.0)
    found = [value(sampled([Feedback(criterion, s, floor=None)], sampler=sampler), criterion) for s in scales]
    means = [one.mean().item() for one in found]
    assert means == sorted(means)
    assert (found[0] < found[1]).double().mean() >= 0.95
    assert (found[2] > found[1]).double().mean() >= 0.95  # later some have been at the border and beyond


def test_the_published_mode_rises_as_well():
    found = [value(sampled([Feedback(scale=s, every=5, mode="published")])) for s in (-0.03, 0.0, 0.03, 0.1)]
    assert [one.mean().item() for one in found] == sorted(one.mean().item() for one in found)
    assert (found[2] > found[1]).double().mean() >= 0.95
    assert (found[0] < found[1]).double().mean() >= 0.95


@pytest.mark.parametrize("guide", [Feedback(scale=0.0), Feedback(scale=0.0, mode="published"), Coverage(0.0)])
def test_no_scale_is_no_guide(guide):
    assert guide(MIXTURE.denoise, Context()) == MIXTURE.denoise


@pytest.mark.parametrize(
    "guide", [Feedback(scale=2.0), Feedback(scale=0.1, every=5, mode="published"), Coverage(0.3)]
)
def test_a_row_is_made_alike_in_any_batch(guide):
    dealt = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    whole = sampled([CFG(1.5), guide], context(judge=linear, dealt=dealt))
    for row in range(0, 64, 9):
        ctx = context(LABEL[row : row + 1], judge=linear, dealt=dealt[row : row + 1])
        alone = sampled([CFG(1.5), guide], ctx, seeds=SEEDS[row : row + 1])
        torch.testing.assert_close(alone[0], whole[row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole, sampled([CFG(1.5)]), atol=1e-3)


def raw(read, x, sigma, clean):
    """What a network of this parametrisation would have to say for this estimate, and the input it would get."""
    if isinstance(read, EDM):
        total = sigma**2 + read.sigma_data**2
        return (clean - wide(read.sigma_data**2 / total, x) * x) / wide(
            sigma * read.sigma_data / total.sqrt(), x
        )
    noise = (x - clean) / wide(sigma, x)
    if isinstance(read, Velocity):
        root = wide((1 + sigma**2).rsqrt(), x)  # sqrt(abar)
        return root * noise - wide(sigma, x) * root * clean
    return noise - clean if isinstance(read, Flow) else noise


def network(read):
    """The network that has learnt PAIR perfectly: it hears its own input and its own idea of the time."""

    def net(scaled, time, cond):
        if isinstance(read, EDM):
            sigma = (4 * time).exp()
            x = scaled * wide((sigma**2 + read.sigma_data**2).sqrt(), scaled)
        elif isinstance(read, Flow):
            sigma = time / (1 - time)
            x = scaled / wide(1 - time, scaled)
        else:
            sigmas = read.schedule.sigmas
            below = time.long().clamp(max=len(sigmas) - 2)
            log = torch.lerp(sigmas.log()[below], sigmas.log()[below + 1], (time - below).double())
            sigma = log.exp().to(scaled)
            x = scaled * wide((1 + sigma**2).sqrt(), scaled)
        return raw(read, x, sigma, PAIR.denoise(x, sigma, cond))

    return net


@pytest.mark.parametrize("guide", [Feedback(scale=3.0), Feedback(scale=0.05, every=4, mode="published")])
@pytest.mark.parametrize("read", [EDM(), Eps(), Velocity(), Flow()], ids=lambda read: type(read).__name__)
def test_every_parametrisation_is_guided_alike(read, guide):
    model = read.denoiser(network(read))
    found = sampled([guide], context(model=model), model=model)
    torch.testing.assert_close(found, sampled([guide]), atol=2e-3, rtol=2e-3)
    assert (found - PLAIN).abs().mean() > 0.02  # and far from unguided


# --- the fast mode -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_on_a_gaussian_the_fast_mode_is_the_tilted_posterior(sigma):
    """p(x0) = N(m, s^2), C = a x0: p exp(scale C) is N(m + scale s^2 a, s^2), whose posterior mean is known."""
    spread, scale = 0.6, 0.4
    mean, towards = torch.tensor([0.5, -1.0]), torch.tensor([0.8, -0.3])
    total = spread**2 + sigma**2

    def posterior(x, mean):
        return (spread**2 * x + sigma**2 * mean) / total

    ctx = context(spread=spread, teacher=lambda seen, label: (torch.zeros(len(seen), 2), seen))
    guide = Feedback(lambda logits, features, label: features @ towards, scale, after=0, before=1)
    x = from_noise(LADDER, SEEDS, (2,)) / 20 * sigma
    found = guide(lambda x, sigma, cond: posterior(x, mean), ctx)(x, torch.full((64,), sigma), Cond())
    torch.testing.assert_close(found, posterior(x, mean + scale * spread**2 * towards))


def test_samples_of_a_gaussian_come_from_the_tilted_density():
    """The same down a whole ladder: the mean moves by scale s^2 a, the spread stays."""
    spread, towards = 0.6, torch.tensor([1.0, 0.0])
    one = Mixture(
        *(torch.full((1, 2), v, dtype=torch.float64) for v in (0.0, spread)), torch.ones(1), torch.zeros(1)
    )
    seeds, ladder = list(range(2000)), karras(60, 0.01, 40.0)
    ctx = context(
        torch.zeros(2000, dtype=torch.long),
        ladder,
        spread=spread,
        teacher=lambda seen, label: (torch.zeros(len(seen), 2), seen),
    )
    guide = Feedback(lambda logits, features, label: features @ towards, 1.0, after=0, before=1)
    plain, made = (sampled(guides, ctx, "heun", seeds, one.denoise) for guides in ([], [guide]))
    torch.testing.assert_close(made - plain, (spread**2 * towards).expand(2000, 2), atol=0.01, rtol=0.01)


def test_a_pull_ends_where_its_linear_step_means_nothing():
    """However steep: three standard deviations of what x0 may still be, and every row its own."""
    sigma, spread = 0.5, 0.8
    still = sigma * spread / (sigma**2 + spread**2) ** 0.5
    x = from_noise(LADDER, SEEDS, (2,)) / 20
    at, cond = torch.full((64,), sigma), Cond(LABEL)
    found = Feedback(Loss(), scale=1e6, after=0, before=1)(PAIR.denoise, context())(x, at, cond)
    torch.testing.assert_close((found - PAIR.denoise(x, at, cond)).norm(dim=1), torch.full((64,), 3 * still))


@pytest.mark.parametrize(
    ("sampler", "strength"), [("euler", 1.0), ("heun", 1.0), ("euler", 0.5), ("dpmpp_2m", 0.4)]
)
@pytest.mark.parametrize("every", [1, 3])
def test_it_acts_by_noise_level_alone(sampler, strength, every):
    """With spread 1, the share of data at sigma is 1 / (1 + sigma): Heun's second calls and cut ladders change nothing."""
    ladder, heard, seen = cut(LADDER, strength), Heard(), []

    def model(x, sigma, cond):
        seen.append(float(sigma[0]))
        return PAIR.denoise(x, sigma, cond)

    asked = []
    guide = Feedback(
        lambda logits, features, label: asked.append(seen[-1]) or Entropy()(logits, features, label),
        every=every,
        after=0.2,
        before=0.8,
    )
    sampled([guide], context(ladder=ladder, spread=1.0, tell=heard), sampler, model=model)
    rungs = ladder[::every].float().tolist()
    wanted = [sigma for sigma in seen if 0.25 < sigma <= 4 and sigma in rungs]
    assert asked == wanted
    assert len(heard["guided"]) == len(wanted) > 0
    assert heard["guided"].all()


def test_fewer_rungs_pull_as_far_in_all():
    """What is left out is made up for by the others: half the rungs, about the same criterion."""
    gains = [value(sampled([Feedback(scale=0.3, every=e)])).mean() - value(PLAIN).mean() for e in (1, 2, 3)]
    assert 0.75 < gains[1] / gains[0] < 1.25
    assert 0.6 < gains[2] / gains[0] < 1.6


# --- the judge -----------------------------------------------------------------------------------------------


def test_rows_that_the_judge_gives_up_are_left_alone_and_counted():
    """A judge that believes in no odd pair: those come out as they were, the others as without a judge."""
    odd, heard = torch.arange(64) % 4 >= 2, Heard()

    def judge(seen, label):
        return F.one_hot(LABEL, 2) * torch.where(odd, -9.0, 9.0)[:, None], seen

    found = sampled([Feedback(scale=2.0)], context(judge=judge, tell=heard))
    free = sampled([Feedback(scale=2.0)])
    assert torch.equal(found[odd], PLAIN[odd])
    assert torch.equal(found[~odd], free[~odd])
    assert torch.equal(heard["held"], odd.expand(len(heard["guided"]), 64))


def test_no_row_is_pulled_below_the_floor():
    """The judge looks where a row would go, not where it is."""
    x, cond = 0.3 * torch.randn(64, 2, generator=torch.Generator().manual_seed(5)), Cond(LABEL)
    at, floor = torch.full((64,), 0.5), -0.7
    clean = PAIR.denoise(x, at, cond)
    free = Feedback(Loss(), 3.0, floor=None)(PAIR.denoise, context())(x, at, cond)
    heard = Heard()
    found = Feedback(Loss(), 3.0, floor=floor)(PAIR.denoise, context(judge=linear, tell=heard))(x, at, cond)
    over = value(free, Loss()) > -floor
    assert torch.equal(found, torch.where(over[:, None], clean, free))
    assert torch.equal(heard["held"][0], over)
    assert 0.1 < over.double().mean() < 0.9


@pytest.mark.parametrize("scale", [10.0, 30.0])
def test_the_floor_keeps_labels(scale):
    """A steep pull takes most over the border; with the floor nearly all stay, and still are harder than before."""
    free, kept = (
        sampled([Feedback(Loss(), scale, floor=floor)], context(judge=linear)) for floor in (None, -0.5)
    )
    right = [(linear(made, LABEL)[0].argmax(1) == LABEL).double().mean() for made in (PLAIN, free, kept)]
    assert right[1] < right[0] - 0.2
    assert right[2] > right[0] - 0.05
    assert value(kept, Loss()).mean() > 1.5 * value(PLAIN, Loss()).mean()


def blurred(more, shift):
    """What a classifier knows of MIXTURE that saw too little of it: wider components, a little beside the true ones."""
    means, stds = MIXTURE.means + shift, MIXTURE.stds + more

    def says(seen, label):
        away = (seen[:, None] - means.to(seen)) / stds.to(seen)
        log = (MIXTURE.weights.log() - stds.log().sum(1)).to(seen) - away.square().sum(2) / 2
        return torch.stack([log[:, MIXTURE.classes == c].logsumexp(1) for c in (0, 1)], 1), seen

    return says


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_at_the_default_settings_samples_become_more_useful_and_keep_their_labels(sampler):
    """The judge has learnt other things than the teacher; the referee, whom nobody asks, knows the truth."""
    seeds, label, teacher, truth = list(range(500)), torch.arange(500) % 2, blurred(0.3, 0.05), blurred(0, 0)
    ctx = context(label, model=MIXTURE.denoise, teacher=teacher, judge=blurred(0.3, -0.05), spread=1.0)
    plain, made = (
        sampled(guides, ctx, sampler, seeds, MIXTURE.denoise).double() for guides in ([], [Feedback()])
    )
    assert (truth(made, label)[0].argmax(1) == label).double().mean() >= 0.97
    before, after = (Feedback().criterion(*teacher(x, label), label) for x in (plain, made))
    assert (after > before).double().mean() >= 0.95
    assert after.mean() > 1.5 * before.mean()


# --- teachers that say nothing -------------------------------------------------------------------------------

SURE = torch.tensor([1e4, 0.0])
SILENT = {
    "saturated": lambda seen, label: (SURE + 0 * seen[:, :1], seen),
    "constant": lambda seen, label: (torch.zeros(len(seen), 2), seen),
    "not a number": lambda seen, label: (torch.full((len(seen), 2), torch.nan) * seen, seen),
    "infinitely steep": lambda seen, label: (seen * torch.inf, seen),
}


@pytest.mark.parametrize("mode", ["fast", "published"])
@pytest.mark.parametrize("teacher", SILENT.values(), ids=SILENT)
def test_nothing_felt_is_nothing_done(teacher, mode):
    heard = Heard()
    found = sampled([Feedback(scale=1.0, mode=mode)], context(teacher=teacher, tell=heard))
    torch.testing.assert_close(found, PLAIN, atol=0, rtol=0)
    assert heard["unfelt"].all()
    assert heard["guided"].all()


@pytest.mark.parametrize("mode", ["fast", "published"])
def test_only_the_rows_that_feel_nothing_are_spared(mode):
    blind, heard = torch.arange(64) % 3 == 0, Heard()

    def teacher(seen, label):
        return linear(torch.where(blind[:, None], torch.nan, seen), label)

    found = sampled([Feedback(scale=0.1, mode=mode)], context(teacher=teacher, tell=heard))
    assert torch.equal(found[blind], PLAIN[blind])
    assert (found[~blind] != PLAIN[~blind]).any(1).all()
    assert torch.equal(heard["unfelt"], blind.expand(len(heard["unfelt"]), 64))


@pytest.mark.parametrize("guide", [Feedback(), Feedback(mode="published"), Coverage()])
def test_somebody_has_to_be_listened_to(guide):
    with pytest.raises(Refusal, match="tutor"):
        guide(PAIR.denoise, Context(ladder=LADDER, label=LABEL, look=lambda x: x))


@pytest.mark.parametrize(
    ("classes", "label"), [(1, torch.zeros(64, dtype=torch.long)), (2, torch.full((64,), 2)), (1, LABEL)]
)
def test_a_teacher_has_to_know_what_is_asked_for(classes, label):
    def teacher(seen, label):
        return seen[:, :1].expand(-1, classes), seen

    with pytest.raises(Refusal, match="at least two classes and all that are asked for"):
        sampled([Feedback()], context(label, teacher=teacher))


# --- the published mode --------------------------------------------------------------------------------------

PICTURES = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def denoise_pictures(x, sigma, cond):
    """Pictures around two others of their class, or around all four."""
    total = 0.25 + sigma**2
    away = (x[:, None] - PICTURES.to(x)).flatten(2).square().sum(2) / (2 * total[:, None])  # (b, k)
    mine = (cond.label[:, None] == NO_LABEL) | (cond.label[:, None] == torch.arange(4) // 2)
    share = torch.where(mine, -away, -torch.inf).softmax(1)
    mean = torch.einsum("bk,kchw->bchw", share.to(x), PICTURES.to(x))
    return mean + wide(0.25 / total, x) * (x - mean)


WEIGHTS = torch.randn(48, 2, generator=torch.Generator().manual_seed(4)) / 3


def classify(seen, label):
    features = seen.flatten(1)
    return (2 * features @ WEIGHTS.to(seen)).sin() * 3, features


@pytest.mark.parametrize("criterion", [Entropy(), Loss()], ids=repr)
@pytest.mark.parametrize("every", [1, 5])
def test_the_published_mode_is_the_published_loop(criterion, every):
    """Section by section what the paper's pipeline does, one sample at a time, in the space of z = sqrt(abar) x."""
    read, scale, strength = Eps(), 0.03, 4.0
    ladder = discrete(read.schedule, 15)
    labels, seeds = torch.tensor([0, 1, 0, 1]), [5, 6, 7, 8]

    def noise_of(z, abar, cond):
        sigma, x = ((1 - abar) / abar).sqrt(), z / abar.sqrt()
        return (x - denoise_pictures(x, sigma[None], cond)) / sigma

    start = from_noise(ladder, seeds, (3, 4, 4)).double()
    wanted = []
    for label, x in zip(labels, start, strict=True):
        cond = Cond(label[None])
        abars = 1 / (1 + ladder**2)
        z = x[None] * abars[0].sqrt()
        for i, (abar, abar_next) in enumerate(pairwise(abars)):
            with torch.no_grad():
                null = noise_of(z, abar, cond.null())
                eps = null + strength * (noise_of(z, abar, cond) - null)
            if i % every == 0:
                z = z.detach().requires_grad_()
                estimate = (z - (1 - abar).sqrt() * noise_of(z, abar, cond)) / abar.sqrt()
                blend = (1 - abar).sqrt()
                image = blend * estimate + (1 - blend) * z
                low, high = image.min().detach(), image.max().detach()
                (slope,) = torch.autograd.grad(
                    criterion(*classify((image - low) / (high - low), label[None]), label[None]).sum(), z
                )
                slope = slope / (slope.norm() + 1e-8) * z.detach().norm()
                z = z.detach() + scale * slope  # up
            clean = (z - (1 - abar).sqrt() * eps) / abar.sqrt()  # DDIM with the noise found before the nudge
            z = abar_next.sqrt() * clean + (1 - abar_next).sqrt() * eps
        wanted.append(z[0])

    guides = [CFG(strength), Feedback(criterion, scale, every=every, mode="published")]
    ctx = context(labels, ladder, denoise_pictures, teacher=classify)
    found = sampled(guides, ctx, "ddim", seeds, denoise_pictures, (3, 4, 4), torch.float64)
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-5, rtol=1e-5)
    plain = sampled(guides[:1], ctx, "ddim", seeds, denoise_pictures, (3, 4, 4), torch.float64)
    assert (found - plain).abs().max() > 0.05


# --- coverage ------------------------------------------------------------------------------------------------


def test_samples_come_nearer_to_the_rows_they_were_dealt():
    dealt = PAIR.sample(LABEL, 1, seed=2)[:, 0].float()
    distance = [
        (sampled([Coverage(scale)], context(dealt=dealt)) - dealt).norm(dim=1)
        for scale in (0.0, 0.3, 1.0, 3.0)
    ]
    means = [one.mean().item() for one in distance]
    assert means == sorted(means, reverse=True)
    assert (distance[2] < distance[0]).double().mean() >= 0.95
    assert torch.equal(sampled([Coverage(0.0)], context(dealt=dealt)), PLAIN)


def test_both_guides_go_together():
    """Useful and near to real rows: each still does its work beside the other."""
    dealt = PAIR.sample(LABEL, 1, seed=2)[:, 0].float()
    ctx = context(dealt=dealt)
    near, both = sampled([Coverage(1.0)], ctx), sampled([Coverage(1.0), Feedback(scale=0.3)], ctx)
    assert value(both).mean() > value(near).mean()
    far = [(made - dealt).norm(dim=1).mean() for made in (both, sampled([Feedback(scale=0.3)], ctx))]
    assert far[0] < far[1]


@pytest.mark.parametrize("guide", [Feedback(Hardness(), 0.5, every=2, floor=None), Coverage(2.0)])
def test_nothing_is_lost_in_a_description(guide):
    assert load(describe(guide)) == guide
    assert replace(guide) == guide


@pytest.mark.parametrize("every", [1, 2, 3, 7, 50])
def test_a_guide_acts_at_least_once_in_its_window(every):
    """Counted from the first rung in the window: counted from the top, every seventh might all lie outside."""
    ladder = karras(6, 0.05, 10.0)
    acts = acting(Context(ladder=ladder, spread=1.0), every, 0.4, 0.9)
    shares = 1 / (1 + ladder[:-1])
    inside = [i for i, share in enumerate(shares.tolist()) if 0.4 <= share < 0.9]
    found = [i for i, sigma in enumerate(ladder[:-1]) if acts(sigma.reshape(1))]
    assert found == inside[::every]
    assert found
