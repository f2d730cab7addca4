"""One contract for every part, and one per family. A part without an example here fails the suite: add it below."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
import torch

import counterpoise
from counterpoise.classifiers import claims, decoupling, groups, losses, mixing, pseudo, robust
from counterpoise.classifiers.heads import LinearHead
from counterpoise.classifiers.pretraining import Pretraining
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tuning import Tuning
from counterpoise.classifiers.tutor import Cloud, Ensemble, Member, Tutor
from counterpoise.data import augment, cuts
from counterpoise.data.chest import ChestXray14
from counterpoise.data.embedded import EmbeddedParquet, Hub
from counterpoise.data.folders import Folder, Loose
from counterpoise.data.lists import SplitLists
from counterpoise.data.manifests import Manifest
from counterpoise.data.names import Names
from counterpoise.data.nonleaky import Mirror, NonLeaky
from counterpoise.data.packed import Cifar, Digits
from counterpoise.data.pixels import Rows
from counterpoise.data.pooled import WithPool
from counterpoise.data.splits import Holdout
from counterpoise.data.views import Tint, Zoom
from counterpoise.diffusion import criteria, denoisers, feedback, guides
from counterpoise.diffusion import losses as targets
from counterpoise.diffusion.denoisers import Cond
from counterpoise.diffusion.min_snr import MinSNR
from counterpoise.diffusion.stopping import EarlyStop
from counterpoise.diffusion.training import Schooling
from counterpoise.generators import simple, transfer
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.exemplars import Exemplars
from counterpoise.generators.feature_diffusion import FeatureDiffusion
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.latent_mixture import LatentMixture
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.nets import vae
from counterpoise.nets.dit import DiT
from counterpoise.nets.image_adapters import ImageAdapter
from counterpoise.nets.lora_files import Adapter
from counterpoise.nets.mlp import MLP
from counterpoise.nets.resnet import SmallResNet
from counterpoise.nets.unet import UNet
from counterpoise.nets.words import SENTENCES
from counterpoise.proposals import budgets, pairings, prompts
from counterpoise.proposals.quotas import Quota
from counterpoise.proposals.strengths import ByShots, Enough
from counterpoise.recipe import Arm, Data, Fit, Recipe, Synthesis, Trials
from counterpoise.scores import duplicates, select
from counterpoise.scores import feedback as said
from counterpoise.scores.batch import Batch
from counterpoise.spaces import preview
from counterpoise.spaces.features import Frozen
from counterpoise.types import Refusal, build, describe, fingerprint, load

FAMILIES = {
    "loss": [
        losses.CE(),
        losses.Focal(),
        losses.LDAM(),
        losses.BalancedSoftmax(),
        losses.LogitAdjusted(tau=0.5),
        losses.VS(),
        losses.Weighted(),
        losses.ClassBalanced(loss=losses.Focal()),
        losses.Deferred(),
    ],
    "reduction": [robust.Mean(), robust.GroupDRO()],
    "sampler": [
        mixing.Instance(),
        mixing.Sqrt(),
        mixing.ClassBalancedSampling(),
        mixing.Progressive(),
        mixing.GroupBalanced(),
    ],
    "mix": [
        mixing.Concatenate(),
        mixing.Concatenate(claims=claims.ByStrength(gamma=0.5)),
        mixing.Replace(p=0.3),
        mixing.Replace(p=0.3, rare=True),
    ],
    "augmentation": [
        augment.Crop(),
        augment.Flip(),
        augment.RandAugment(),
        augment.Mixup(),
        augment.Remix(),
        augment.CutMix(),
        augment.CMO(),
        augment.Chain((augment.Crop(), augment.CutMix())),
    ],
    "after": [
        decoupling.CRT(),
        decoupling.LWS(),
        decoupling.TauNorm(),
        decoupling.NCM(),
        decoupling.PosthocLA(),
        groups.DFR(refits=2, grid=(0.1,)),
    ],
    "generator": [
        simple.Copies(),
        simple.Oversample(augment=(augment.Crop(), augment.Flip())),
        simple.Interpolate(),
        PixelDiffusion(network=MLP(width=16, depth=1), schooling=Schooling(steps=3, batch=4), steps=3),
        transfer.ClassGaussian(),
        transfer.Translation(),
        FeatureDiffusion(network=MLP(width=16, depth=1), schooling=Schooling(steps=3, batch=4), steps=3),
        LatentMixture(network=vae.VectorVAE(width=8, latent=3), fit_steps=3, batch=4),
        LatentMixture(network=vae.ImageVAE(width=4, latent=3), fit_steps=3, batch=4),
        StableDiffusion(steps=3),
        StableDiffusion(adapt=Adapt(rank=2), schooling=Schooling(steps=3, batch=4), steps=3),
    ],
    "network": [
        MLP(width=16, depth=2),
        UNet(width=8, levels=(1, 2)),
        UNet(width=8, levels=(1,), unshuffle=2),
        DiT(width=16, depth=1, heads=2),
    ],
    "parametrisation": [
        denoisers.EDM(),
        denoisers.Eps(),
        denoisers.Velocity(),
        denoisers.Velocity(denoisers.Schedule(1000, 0.00085, 0.012, "scaled_linear", zero_terminal=True)),
        denoisers.Flow(),
    ],
    "objective": [
        targets.LogNormal(),
        targets.UniformTime(),
        targets.UniformTime(denoisers.Velocity()),
        targets.LogitNormal(),
        MinSNR(),
        MinSNR(denoisers.Velocity()),
    ],
    "guide": [
        guides.CFG(),
        guides.CFG(scale=2.0),
        guides.AutoGuidance(),
        guides.Interval(guides.CFG(2.0), 0.1, 3.0),
        guides.Clamp(),
        feedback.Feedback(),
        feedback.Feedback(criteria.Loss(), scale=-2.0, every=2, floor=None),
        feedback.Feedback(criteria.Entropy(), scale=0.1, mode="published"),
        feedback.Coverage(),
    ],
    "criterion": [
        criteria.Loss(),
        criteria.Loss(cap=1.0),
        criteria.Entropy(),
        criteria.Entropy(on_label=0.5),
        criteria.Hardness(),
        criteria.Margin(),
    ],
    "budget": [
        budgets.FillUp(),
        budgets.Multiply(),
        budgets.Fixed(5),
        Quota(budgets.Fixed(5)),
        budgets.Sqrt(),
        budgets.ByNeed(),
        budgets.ByNeed(total=40, of="entropy", cap=None),
        budgets.Adaptive(),
        budgets.Even(2.0),
        budgets.Piloted(),
    ],
    "pairing": [
        pairings.FromNoise(),
        pairings.SameClass(),
        pairings.SameClass(strength=0.5),
        pairings.SameClass(strength=0.5, dropout=0.4),
        pairings.SameClass(strength=(0.3, 0.7)),
        pairings.FromAny(),
        pairings.FromAny(by="image", neighbours=2, strength=(0.3, 0.7)),
        pairings.FromLarger(),
        pairings.FromLarger(neighbours=None, strength=0.5),
        pairings.Neighbours(),
        pairings.Neighbours(kind="adasyn"),
    ],
    "score": [duplicates.NearestReal(), said.Usefulness(), said.Fidelity()],
    "select": [
        select.KeepAll(),
        select.AtLeast(),
        select.BestShare(share=0.5),
        select.BestCount(count=2),
        select.Every((select.AtLeast(), select.BestShare())),
    ],
    "cut": [
        cuts.LongTail("exp", 10.0),
        cuts.LongTail("exp", 10.0, rule="ranked"),
        cuts.FewShot(3),
        cuts.GroupGap("a", 0.1),
    ],
}
OTHERS = [
    Folder("photos"),
    Manifest("list.csv"),
    SplitLists("photos", "train.txt"),
    EmbeddedParquet("data"),
    Hub("someone/something"),
    Cifar("cifar"),
    Digits(),
    Holdout(),
    SmallResNet(),
    preview.SmallDecoder(width=8, steps=5),
    vae.VectorVAE(),
    vae.ImageVAE(),
    ChestXray14("chest"),
    Frozen(backbone="hf:x"),
    Frozen(backbone="hf:x", maps=True, components=8),
    Training(),
    Schooling(),
    pseudo.PseudoLabels("bs"),
    claims.ByStrength(),
    claims.Confident(),
    claims.Measured(),
    Enough(),
    EarlyStop(),
    Adapter("a.safetensors", 0.8),
    ImageAdapter("a.safetensors", "encoder"),
    Exemplars(elements=0.5),
    Adapt(places=("attention", "text"), prior=0.25),
    Adapt(templates=SENTENCES[:2], captioned=0.5, stop=EarlyStop()),
    Tutor("bs"),
    Tuning(steps=5, towards="names"),
    Pretraining(),
    Zoom(),
    Tint(),
    Names(("cat", "dog")),
    Loose("unsorted"),
    WithPool(Digits(), Loose("unsorted")),
    prompts.Templates("cifar10"),
    prompts.Grammar(),
    prompts.Language(),
    prompts.Captions(),
    ByShots(),
    NonLeaky(),
    Mirror(),
    denoisers.Schedule(),
    targets.ClassBalancing(),
    Adapt(kind="full", words=0, min_snr=5.0),
    Trials(),
    Data(Digits()),
    Synthesis("s", simple.Copies(), budgets.FillUp(), pairings.SameClass()),
    Fit("f", losses.CE(), mixing.Instance()),
    Arm("a", "f"),
    Recipe(
        "r",
        Data(Digits()),
        SmallResNet(),
        Training(),
        Trials(),
        (Fit("f", losses.CE(), mixing.Instance()),),
        (Arm("a", "f"),),
    ),
]
#: Parts whose example needs more than their settings, and where their own tests are.
ELSEWHERE = {
    "Clip": "tests/scores/test_clip.py",
    "AmongReal": "tests/scores/test_among.py",
    "Clearance": "tests/scores/test_real.py",
    "Contrast": "tests/scores/test_clip.py",
    "Margin": "tests/scores/test_clip.py",
    "Retrieved": "tests/generators/test_retrieval.py",
    "Adapted": "tests/nets/test_clip_tuned.py",
    "Turned": "tests/scores/test_turned.py",
    "Finetuned": "tests/nets/test_finetuned.py",
    "WiSE": "tests/classifiers/test_decoupling.py",
}

EXAMPLES = [item for items in FAMILIES.values() for item in items] + OTHERS


def family(name):
    return pytest.mark.parametrize("item", FAMILIES[name], ids=lambda part: repr(part)[:60])


def test_every_part_of_the_package_has_an_example():
    shown = {type(item) for item in EXAMPLES}
    missing = []
    for info in pkgutil.walk_packages(counterpoise.__path__, "counterpoise."):
        if not info.name.endswith("__main__"):
            module = importlib.import_module(info.name)
            for name, item in vars(module).items():
                ours = inspect.isclass(item) and item.__module__ == info.name
                if (
                    ours
                    and getattr(item, "__is_part__", False)
                    and item not in shown
                    and name not in ELSEWHERE
                ):
                    missing.append(f"{info.name}.{name}")
    assert not missing


@pytest.mark.parametrize("item", EXAMPLES, ids=lambda part: repr(part)[:60])
def test_every_part_is_frozen_described_and_loaded_back(item):
    told = describe(item)
    assert load(json.loads(json.dumps(told))) == item
    assert fingerprint(load(told)) == fingerprint(item)
    with pytest.raises(Refusal, match="settings:"):
        build(type(item), {"no_such_setting": 1})
    for field in dataclasses.fields(item):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(item, field.name, None)


# --- one contract per family ----------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PRIOR = torch.tensor([50.0, 10.0, 2.0, 0.0])


@family("loss")
def test_losses_answer_per_sample_finite_with_gradients_and_alike_for_hard_and_soft_labels(item):
    logits = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1).requires_grad_()
    targets = torch.eye(4)[torch.randint(0, 3, (5, 7), generator=torch.Generator().manual_seed(1))]
    found = item(logits, targets, PRIOR, 0.5)
    assert found.shape == (5, 7)
    (slope,) = torch.autograd.grad(found.sum(), logits)
    assert torch.isfinite(found).all()
    assert torch.isfinite(slope).all()
    alone = torch.stack([item(logits[i], targets[i], PRIOR, 0.5) for i in range(5)])
    assert torch.allclose(found, alone, atol=1e-5)
    assert isinstance(item.cosine, bool)


@family("reduction")
def test_reductions_keep_their_state_outside(item):
    losses_, groups_ = torch.rand(8), torch.arange(8) % 2
    state = item.start(groups_)
    first, after = item(losses_, groups_, state)
    again, _ = item(losses_, groups_, state)
    assert first.ndim == 0
    assert torch.equal(first, again)
    item(losses_, groups_, after)


@family("sampler")
def test_samplers_stream_exactly_the_views_asked_for_and_say_with_which_prior(item):
    labels, groups_ = np.repeat([0, 1, 2], [60, 12, 3]), np.arange(75) % 3
    stream = mixing.stream(item, labels, np.ones(75), 40, 50, seed=3, groups=groups_)
    assert stream.shape == (40, 50)
    assert np.array_equal(stream, mixing.stream(item, labels, np.ones(75), 40, 50, seed=3, groups=groups_))
    times = np.linspace(0, 1, 40, endpoint=False)
    prior = np.mean([mixing.prior_of(item, labels, np.ones(75), t, groups_, 3) for t in times], 0)
    seen = np.bincount(labels[stream].ravel(), minlength=3) / stream.size
    assert np.abs(seen - prior / prior.sum()).max() < 0.05


@family("mix")
def test_mixes_give_every_row_a_weight(item):
    real, made = np.arange(10) % 3, np.arange(4) % 3
    weights = item(np.ones(10), np.ones(4), (real, made))
    assert weights.shape == (14,)
    assert (weights >= 0).all()
    assert item(np.ones(10), np.ones(0), (real, made[:0])).shape == (10,)


@family("augmentation")
def test_augmentations_keep_shape_range_and_label_mass_and_repeat_by_seed(item):
    x = torch.from_numpy(RNG.integers(0, 256, (6, 3, 16, 16), np.uint8))
    targets = torch.eye(3)[torch.arange(6) % 3]
    aid = {"partner": (x.flip(0), targets.flip(0)), "progress": 0.5, "prior": torch.tensor([9.0, 3.0, 1.0])}

    def call():
        return item(x.clone(), targets, torch.Generator().manual_seed(4), **aid)

    (found, labels), (again, labels_again) = call(), call()
    assert found.shape == x.shape
    assert torch.allclose(labels.sum(1), torch.ones(6), atol=1e-5)
    assert torch.equal(found, again)
    assert torch.equal(labels, labels_again)
    top = 255 if found.dtype == torch.uint8 else 1
    assert found.min() >= 0
    assert found.max() <= top


@family("after")
def test_second_stages_return_a_head_for_the_same_features_and_say_what_they_chose(item):
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1, 2], [40, 20, 8])
    rows = decoupling.Rows(
        (rng.normal(size=(68, 5)) + 2 * labels[:, None]).astype(np.float32), labels, np.arange(68) % 2
    )
    head = LinearHead(
        rng.normal(size=(3, 5)).astype(np.float32),
        np.zeros(3, np.float32),
        np.zeros(5, np.float32),
        np.ones(5, np.float32),
    )
    made, chosen = item(head, rows, rows, np.bincount(labels).astype(float), seed=1)
    again, _ = item(head, rows, rows, np.bincount(labels).astype(float), seed=1)
    assert made.logits(rows.features).shape == (68, 3)
    assert np.array_equal(made.logits(rows.features), again.logits(rows.features))
    json.dumps(chosen)


@family("generator")
@pytest.mark.parametrize("space", ["pixels", "features"])
def test_generators_depend_on_the_row_alone(item, space, tmp_path):
    real, wanted = _lesson(item, space, tmp_path)
    ctx = Context(lambda ids: np.stack([real[int(i)] for i in ids]))
    first = item.load(tmp_path, ctx)(wanted)
    other = item.load(tmp_path, ctx)
    like = item.encoder(tmp_path)(real) if item.own_space else real
    for sample, again in zip(
        reversed(first), other(wanted[::-1]), strict=True
    ):  # the same batch size: the same bits
        # Codes go through an encoder, whose products round the rows of a batch by their place in it.
        np.testing.assert_allclose(again, sample, rtol=0, atol=1e-5 if item.own_space else 0)
        assert again.dtype == like.dtype
        assert again.shape == like.shape[1:]
    for sample, row in zip(first, wanted, strict=True):
        (alone,) = other([row])
        grain = 1 if like.dtype == np.uint8 else 1e-4  # a grey level, for batched products
        assert np.abs(alone.astype(float) - sample).max() <= int(item.learns) * grain
    assert isinstance(item.learns, bool)
    assert isinstance(item.takes_guides, bool)


@family("generator")
@pytest.mark.parametrize("space", ["pixels", "features"])
def test_generators_fit_alike_from_the_same_seed_and_refuse_what_they_did_not_learn(item, space, tmp_path):
    if not item.learns:
        pytest.skip("there is nothing to fit")
    for name in ("one", "two"):
        real, wanted = _lesson(item, space, tmp_path / name)
    ctx = Context(lambda ids: np.stack([real[int(i)] for i in ids]))
    one, two = (item.load(tmp_path / name, ctx)(wanted) for name in ("one", "two"))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    with pytest.raises(Refusal, match="--redo fit"):
        item.fit(Lesson(Rows.of(real), np.arange(4) % 2, None, ["a", "c"]), tmp_path / "one", seed=1)


def _lesson(item, space: str, out):
    """Four real rows of two classes, learnt if there is anything to learn, and six rows of a plan."""
    meant = {vae.VectorVAE: "features", vae.ImageVAE: "pixels"}.get(
        type(getattr(item, "network", None)), space
    )
    if space not in item.spaces or space != meant:
        pytest.skip(f"does not work on {space}")
    rng = np.random.default_rng(3)
    real = (
        rng.integers(0, 256, (4, 8, 8, 1), np.uint8)
        if space == "pixels"
        else rng.normal(size=(4, 6)).astype(np.float32)
    )
    if item.learns:
        item.fit(Lesson(Rows.of(real), np.arange(4) % 2, None, ["a", "b"]), out, seed=1)
    row = {"label": 1, "strength": 0.0 if not item.takes_guides else 1.0}
    sources = [{"source_id": str(i), "source_label": i % 2, "partner_id": str((i + 1) % 4)} for i in range(4)]
    return real, [row | sources[i % 4] | {"seed": i} for i in range(6)]


def a_tutor(dim=3, classes=4):
    """Two linear members that disagree."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(40, dim)).astype(np.float32), np.arange(40) % classes
    cloud = Cloud.of(x + y[:, None], y, classes)
    heads = [
        LinearHead.on_raw(*(rng.normal(size=s).astype(np.float32) for s in ((classes, dim), (classes,))))
    ]
    heads.append(cloud.classifier(np.ones(classes, bool)))
    members = [Member(torch.Tensor.float, head, 1.5, cloud) for head in heads]
    return Ensemble(members, torch.device("cpu"))


def asked(n: int) -> Cond:
    return Cond(torch.arange(n) % 3)


@family("network")
def test_networks_answer_row_by_row_from_their_seed_and_start_at_zero(item):
    before = torch.random.get_rng_state()
    net = item(2, 3, 8, seed=5, augment=9)
    assert torch.equal(before, torch.random.get_rng_state())
    x, noise = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 4)
    assert not net(x, noise, asked(4)).any()
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(1))
    net.eval()
    whole = net(x, noise, asked(4))
    assert whole.shape == x.shape
    for i in range(4):
        torch.testing.assert_close(
            net(x[i : i + 1], noise[i : i + 1], Cond(torch.tensor([i % 3])))[0],
            whole[i],
            atol=1e-4,
            rtol=1e-3,
        )
    null = net(x, noise, asked(4).null())
    assert not torch.allclose(null, whole)
    torch.testing.assert_close(null, net(x, noise, Cond()))
    told = Cond(asked(4).label, torch.zeros(4, 9))
    torch.testing.assert_close(net(x, noise, told), whole)


@family("parametrisation")
def test_parametrisations_denoise_between_their_noise_levels(item):
    net = MLP(width=16, depth=1)(1, 3, 4, seed=0)
    denoise = item.denoiser(net)
    assert 0 < item.sigma_min < item.sigma_max
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for sigma in (item.sigma_min, 1.0, item.sigma_max):
        found = denoise(x * sigma, torch.full((3,), sigma), asked(3))
        assert found.shape == x.shape
        assert torch.isfinite(found).all()
    nearly = denoise(x, torch.full((3,), item.sigma_min), asked(3))
    assert (nearly - x).abs().max() < 20 * item.sigma_min  # next to no noise: next to nothing to take away


@family("objective")
def test_objectives_draw_noise_levels_by_their_generator(item):
    one, other = (item.draw(50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, other)
    assert (one > 0).all()
    assert (item.weight(one) > 0).all()


@family("guide")
def test_guides_are_denoisers_that_keep_rows_apart(item):
    def denoise(x, sigma, cond):
        return x / (1 + sigma[:, None]) + 0.1 * cond.label[:, None]

    x, sigma = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.7)
    label, dealt = torch.tensor([0, 1, 2, 3]), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))

    def guided(rows):
        ctx = guides.Context(
            ladder=torch.tensor([5.0, 2.0, 0.7, 0.1, 0.0], dtype=torch.float64),
            weak=lambda x, sigma, cond: 0.5 * x,
            model=denoise,
            label=label[rows],
            look=lambda x: 2 * x,
            teacher=a_tutor(),
            judge=a_tutor(),
            dealt=dealt[rows],
        )
        return item(denoise, ctx)(x[rows], sigma[rows], Cond(asked(4).label[rows]))

    whole = guided(slice(0, 4))
    assert whole.shape == x.shape
    assert torch.isfinite(whole).all()
    for i in range(4):
        torch.testing.assert_close(guided(slice(i, i + 1))[0], whole[i])


@family("criterion")
def test_criteria_say_one_number_per_row_with_gradients_whatever_its_company(item):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    found = item(*a_tutor()(x, label), label)
    assert found.shape == (6,)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert torch.isfinite(slope).all()
    alone = [item(*a_tutor()(x[i : i + 1], label[i : i + 1]), label[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), found)


@family("budget")
def test_budgets_ask_for_whole_numbers_and_nothing_from_nothing(item):
    needs = budgets.Needs(np.array([9, 9, 9, 0]), *np.tile([0.1, 0.6, 0.9, np.nan], (3, 1)))
    asked = item(np.array([30, 7, 0, 1]), needs)
    assert asked.shape == (4,)
    assert asked.dtype.kind == "i"
    assert (asked >= 0).all()
    assert asked[2] == 0


@family("pairing")
def test_pairings_meet_their_budget_from_training_rows(item):
    labels = np.repeat([0, 1], [9, 4])
    ids = np.array([f"i{i}" for i in range(13)])
    train = pairings.TrainRows(ids, labels, None, RNG.normal(size=(13, 3)).astype(np.float32))
    plan = item(np.array([2, 5]), train, seed=8)
    assert plan["label"].to_pylist() == [0, 0, 1, 1, 1, 1, 1]
    assert set(plan["source_id"].to_pylist()) <= {*ids, None}
    assert {row["strength"] for row in plan.to_pylist() if row["source_id"] is None} <= {1.0}
    assert len(set(plan["seed"].to_pylist())) == 7
    assert plan.equals(item(np.array([2, 5]), train, seed=8))


@family("score")
def test_scores_give_one_number_per_sample_whatever_its_company(item):
    real = RNG.random((20, 4)).astype(np.float32)
    x = RNG.random((9, 4)).astype(np.float32)
    ids = np.array([f"i{i}" for i in range(20)])

    def score(part):
        label, tutor = np.zeros(len(part), int), a_tutor(dim=4)

        def opinion():
            return tuple(one.numpy() for one in tutor(torch.from_numpy(part), torch.from_numpy(label)))

        batch = Batch(part, label, real, ids, np.zeros(20, int), opinion, opinion)
        return item(batch, item.calibrate(real))

    values, nearest = score(x)
    assert values.shape == nearest.shape == (9,)
    assert np.isfinite(values).all()
    assert set(nearest) <= {*ids, ""}
    split = np.concatenate([score(x[i : i + 2])[0] for i in range(0, 9, 2)])
    np.testing.assert_allclose(values, split, rtol=1e-5)


@family("select")
def test_selections_answer_for_every_sample(item):
    found = item({"nearest_real": np.array([0.0, 0.5, 3.0, 2.0])}, np.array([0, 0, 0, 2]))
    assert len(found) == 4
    assert found[3] is None  # nothing is wrong with it, and it is the only one of its class
    assert all(reason is None or reason for reason in found)
    assert item({"nearest_real": np.zeros(0)}, np.zeros(0, np.int64)) == []


@family("cut")
def test_cuts_only_take_away_and_repeat_by_seed(item):
    labels, groups_ = np.repeat([0, 1, 2], 30), np.arange(90) % 2
    names = {"classes": ["x", "y", "z"], "group_names": ["a", "b"]}
    kept = item(labels, groups_, 4, **names)
    assert (np.diff(kept) > 0).all()
    assert len(kept) < 90
    assert np.array_equal(kept, item(labels, groups_, 4, **names))
