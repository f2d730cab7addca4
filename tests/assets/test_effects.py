"""What text does to pictures, asserted on the miniatures: where random weights could only show shapes.

All comparisons are paired: the same noise, the same source, one thing changed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from counterpoise.data.pixels import Rows
from counterpoise.diffusion.criteria import Entropy
from counterpoise.diffusion.feedback import Feedback
from counterpoise.diffusion.guides import CFG
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.adapting import Adapt
from counterpoise.generators.generator import Context, Lesson
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.metrics.evidence import sign_flip_p
from counterpoise.nets.clip import open_clip_pair
from counterpoise.nets.stable_diffusion import open_base
from counterpoise.scores.clip import Clip
from counterpoise.spaces.latents import Latents, preview_of, taught

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

NAMES = ["palm tree", "sunflower", "cloud", "apple"]
NOBODY = Context(lambda ids: np.zeros(0))


def drawn(generator: StableDiffusion, folder, labels, real=None, strength: float = 1.0, first: int = 0):
    """(n, 32, 32, 3): row i has seed first + i, and starts from real[i] where strength is below 1."""
    ctx = NOBODY if real is None else Context(lambda ids: np.stack([real[int(i)] for i in ids]))
    rows = [
        {"label": int(label), "seed": first + i, "strength": strength, "source_id": str(i)}
        for i, label in enumerate(labels)
    ]
    return np.stack(generator.load(folder, ctx)(rows))


def fitted(generator: StableDiffusion, folder, rows: np.ndarray, labels, names):
    generator.fit(Lesson(Rows.of(rows), np.asarray(labels), None, names), folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def by_name(tmp_path_factory):
    """Sixteen pictures of each name, and the folder they were drawn with."""
    generator = StableDiffusion(steps=12, guides=(CFG(3.0),))
    blank = np.zeros((4, 32, 32, 3), np.uint8)
    folder = fitted(generator, tmp_path_factory.mktemp("names"), blank, range(4), NAMES)
    labels = np.arange(64) % 4
    return generator, folder, drawn(generator, folder, labels), labels


def said(pictures: np.ndarray, names=tuple(NAMES)) -> np.ndarray:
    return Clip().probabilities(pictures, names)


def test_pictures_show_their_name(by_name):
    _, _, pictures, labels = by_name
    own = said(pictures)[np.arange(64), labels]
    assert own.mean() > 0.6  # chance is .25
    counts = [(own[labels == label] > 0.25).mean() for label in range(4)]
    assert min(counts) > 0.4


def test_guidance_makes_the_name_clearer(by_name):
    _, folder, guided, labels = by_name
    plain = drawn(StableDiffusion(steps=12, guides=()), folder, labels)
    gain = said(guided)[np.arange(64), labels] - said(plain)[np.arange(64), labels]
    assert gain.mean() > 0.05
    assert sign_flip_p(gain[:20]) < 0.05 or sign_flip_p(gain[20:40]) < 0.05


def test_the_target_grows_with_strength_and_the_source_fades(by_name):
    """Translation of one class to another (SDEdit), as inter-class mixing has it."""
    generator, folder, pictures, labels = by_name
    sources, target = pictures[labels == 2], 1  # clouds towards sunflowers
    wanted = np.full(len(sources), target)
    shown = [drawn(generator, folder, wanted, sources, strength) for strength in (0.25, 0.5, 0.75, 1.0)]
    towards = np.stack([said(x)[:, target] for x in shown])
    assert (np.diff(towards.mean(1)) > 0).all()
    assert towards[-1].mean() - towards[0].mean() > 0.3
    away = [np.abs(x.astype(float) - sources).mean() for x in shown]
    assert (np.diff(away) > 0).all()


def test_no_strength_is_the_source_through_the_autoencoder(by_name):
    generator, folder, pictures, labels = by_name
    same = drawn(generator, folder, labels[:8], pictures[:8], strength=0.0)
    error = (same.astype(float) - pictures[:8]) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 24


@pytest.mark.timeout(600)
def test_learnt_words_beat_a_name_the_model_never_heard(by_name, tmp_path):
    """Two classes under names that say nothing; sixteen pictures each teach the words."""
    _, _, pictures, labels = by_name
    some = np.flatnonzero(labels < 2)
    names, true = ["wug", "blicket"], tuple(NAMES[:2])
    wanted = np.arange(24) % 2

    def p_true(generator: StableDiffusion, folder) -> np.ndarray:
        fitted(generator, folder, pictures[some], labels[some], names)
        return said(drawn(generator, folder, wanted, first=1000), true)[np.arange(24), wanted]

    bare = StableDiffusion(steps=12, guides=(CFG(3.0),))
    school = Schooling(steps=60, batch=16, lr=1e-2)
    named = p_true(bare, tmp_path / "named")
    taught_ = p_true(
        StableDiffusion(adapt=Adapt(kind="words"), schooling=school, steps=12, guides=(CFG(3.0),)),
        tmp_path / "taught",
    )
    assert (taught_ - named).mean() > 0.15
    assert taught_.mean() > 0.65


def test_previews_show_what_the_decoder_would(by_name):
    """The linear one does well, the convolutional one better; both at a small part of the decoder's work."""
    _, _, pictures, _ = by_name
    base = open_base("miniature")
    space = Latents(base.autoencoder, None, base.shape, base.size, (3, 32))
    net = preview_of(taught(space, Rows.of(pictures)), torch.device("cpu"))
    x = space.into(pictures, np.empty(0))
    with torch.no_grad():
        full = base.autoencoder.decode(x)
        small = torch.nn.functional.interpolate(full, net(x).shape[2:], mode="area")
        linear = torch.nn.functional.interpolate(net.linear(x), small.shape[2:], mode="bilinear")

    def psnr(shown: torch.Tensor) -> float:
        return float(10 * torch.log10(4 / (shown - small).square().mean()))

    assert psnr(linear) > 15
    assert psnr(net(x)) > psnr(linear) + 1


def test_feedback_raises_entropy_and_keeps_labels(by_name, tmp_path):
    """In latents, through the preview: the same noise with and without a guide; both are heard on finished pictures."""
    pair = open_clip_pair("miniature")
    flowers = ("rose", "poppy", "tulip", "orchid")

    def teacher(template: str):
        names = pair.classes((template,), flowers)

        def hear(seen, label):
            found = torch.nn.functional.normalize(pair.backbone.embed(seen), dim=-1)
            return 1.5 * pair.scale * found @ names.T, seen.new_zeros(len(seen), 0)

        return hear

    generator = StableDiffusion(steps=12)
    _, _, pictures, _ = by_name
    folder = fitted(generator, tmp_path, pictures[:16], np.arange(16) % 4, list(flowers))
    wanted = np.arange(32) % 4
    rows = [{"label": int(c), "seed": i, "strength": 1.0} for i, c in enumerate(wanted)]

    def heard(guides) -> np.ndarray:
        ctx = Context(NOBODY.real, guides, teacher("a photo of {a}"), teacher("a picture of {a}"))
        made = np.stack(generator.load(folder, ctx)(rows))
        with torch.no_grad():
            x = torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255
            return teacher("a photo of {a}")(x, None)[0].softmax(1).numpy()

    plain, guided = heard(()), heard((Feedback(Entropy(), scale=20.0),))
    gain = entropy(guided, axis=1) - entropy(plain, axis=1)
    assert gain.mean() > 0.03
    assert sign_flip_p(gain[:20]) < 0.05
    own = guided[np.arange(32), wanted]
    assert (own > 0.25).mean() >= (plain[np.arange(32), wanted] > 0.25).mean() - 0.1
