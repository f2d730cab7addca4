"""The latent mixture as a generator and as a classifier: on features whose best classifier is known, and on digits."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from counterpoise.data.augment import Crop, Flip
from counterpoise.data.pixels import Rows
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.generators.latent_mixture import PUBLISHED, LatentMixture
from counterpoise.nets.vae import ImageVAE, VectorVAE
from counterpoise.types import Refusal, load

SMALL = VectorVAE(width=16, latent=4)
QUICK = LatentMixture(network=SMALL, fit_steps=20, batch=16)
COUNTS = (400, 80, 20)
CENTRES = np.array([[3.0, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0], [1.5, 1.5, 1.5, 0, 0, 0]])


def blobs(counts=COUNTS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit Gaussians around known centres, in units and places of their own."""
    labels = np.repeat(np.arange(len(counts)), counts)
    x = CENTRES[labels] + np.random.default_rng(seed).normal(size=(len(labels), 6))
    return (x * 7 + 100).astype(np.float32), labels


def lesson(x: np.ndarray, labels: np.ndarray, classes: int = 3) -> Lesson:
    return Lesson(Rows.of(x), labels, None, [str(c) for c in range(classes)])


def context(x: np.ndarray) -> Context:
    return Context(lambda ids: np.stack([x[int(i)] for i in ids]))


def row(i: int, label: int, source: int | None = None, source_label: int | None = None) -> dict:
    return {
        "request_id": str(i),
        "label": label,
        "seed": 10**12 + i,
        "strength": 1.0,
        "source_id": None if source is None else str(source),
        "source_label": source_label,
    }


def logits(head: dict, codes: np.ndarray) -> np.ndarray:
    return (
        codes @ head["weight"].T
        + codes**2 @ head.get("square", np.zeros_like(head["weight"])).T
        + head["bias"]
    )


def recall(found: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([(found[labels == c] == c).mean() for c in np.unique(labels)]))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    out = tmp_path_factory.mktemp("blobs")
    model = LatentMixture(network=VectorVAE(width=32, latent=8), fit_steps=400, batch=64, lr=3e-3)
    model.fit(lesson(*blobs()), out, seed=1)
    return model, out


# --- a classifier ---------------------------------------------------------------------------------------------


def test_the_generative_rule_is_good_for_all_classes(learnt):
    """Without any head retrained, it comes near Bayes' rule for balanced classes; the softmax head favours the large one."""
    model, out = learnt
    x, labels = blobs((1000, 1000, 1000), seed=9)
    codes = model.encoder(out)(x)
    best = -((((x - 100) / 7)[:, None] - CENTRES) ** 2)
    softmax, mixture = (
        recall(logits(model.head(out, kind), codes).argmax(1), labels) for kind in ("softmax", "mixture")
    )
    bayes = recall(best.sum(2).argmax(1), labels)
    assert mixture > bayes - 0.06
    assert mixture > softmax + 0.03


@pytest.mark.parametrize("variances", ["tied", "diagonal"])
def test_the_mixture_head_is_the_log_density_of_the_components(variances, tmp_path):
    model = dataclasses.replace(QUICK, variances=variances)
    model.fit(lesson(*blobs()), tmp_path, seed=1)
    codes = model.encoder(tmp_path)(blobs()[0][:50])
    fitted, _ = model._opened(tmp_path)
    head = model.head(tmp_path, "mixture")
    assert ("square" in head) == (variances == "diagonal")
    found = torch.from_numpy(logits(head, codes)).log_softmax(1)
    torch.testing.assert_close(
        found, fitted.prior.log_density(torch.from_numpy(codes)).log_softmax(1), atol=1e-3, rtol=0
    )
    softmax = logits(model.head(tmp_path, "softmax"), codes)
    torch.testing.assert_close(
        torch.from_numpy(softmax), fitted.vae.head(torch.from_numpy(codes)), atol=1e-4, rtol=0
    )
    assert all(value.dtype == np.float32 for value in (codes, *head.values()))


def test_codes_do_not_depend_on_the_units_of_the_rows(tmp_path):
    x, labels = blobs()
    codes = []
    for name, rows in (("a", x), ("b", x * np.float32(4) - 8)):
        QUICK.fit(lesson(rows, labels), tmp_path / name, seed=1)
        codes.append(QUICK.encoder(tmp_path / name)(rows))
    np.testing.assert_allclose(*codes, atol=1e-3)


# --- a generator ----------------------------------------------------------------------------------------------


def test_case_2_draws_from_the_posterior_of_the_source(learnt):
    model, out = learnt
    x, labels = blobs()
    rows = [row(i, 2, source=485, source_label=2) for i in range(4000)]
    made = np.stack(model.load(out, context(x))(rows))
    (mu,), (variance,) = model._opened(out)[0].posteriors(Rows.of(x[485:486]))
    assert labels[485] == 2
    np.testing.assert_allclose(made.mean(0), mu, atol=5 * np.sqrt(variance / 4000).max())
    np.testing.assert_allclose(made.var(0), variance, rtol=0.15)


def test_case_1_moves_a_posterior_to_the_mean_of_the_class_with_the_covariance_kept(learnt):
    """Mean m_i, and covariance P S P with S that of the sources' codes."""
    model, out = learnt
    x, labels = blobs()
    sources = np.flatnonzero(labels == 0)
    rows = [row(i, 2, source=sources[i % 400], source_label=0) for i in range(8000)]
    own = [one | {"label": 0} for one in rows]  # the same draws of the same posteriors, unmoved
    for energy in (0.5, 1.0):
        sample = dataclasses.replace(model, energy=energy).load(out, context(x))
        made, z = np.stack(sample(rows)), np.stack(sample(own))
        moments = model._opened(out)[1]
        q = moments.directions[:, : moments.rank(energy)]
        scale = np.sqrt(z.var(0).max())
        np.testing.assert_allclose(made.mean(0), moments.means[2], atol=0.05 * scale)
        np.testing.assert_allclose(np.cov(made.T), q @ q.T @ np.cov(z.T) @ q @ q.T, atol=1e-3 * scale**2)
        if energy == 1.0:
            np.testing.assert_allclose(made - moments.means[2], z - moments.means[0], atol=1e-3 * scale)
    assert moments.rank(0.5) < moments.rank(1.0)


def test_without_a_source_a_code_comes_from_the_component_of_its_class(learnt):
    model, out = learnt
    made = np.stack(model.load(out, context(blobs()[0]))([row(i, 1) for i in range(4000)]))
    prior = model._opened(out)[0].prior
    scale = prior.variance[1].sqrt().max().item()
    np.testing.assert_allclose(made.mean(0), prior.mean[1], atol=5 * scale / 4000**0.5)
    np.testing.assert_allclose(made.var(0), prior.variance[1], rtol=0.15)
    x, labels = blobs((300, 300, 300), seed=5)
    kinds = [row(i, int(label)) for i, label in enumerate(labels)]
    codes = np.stack(model.load(out, context(x))(kinds))
    assert recall(logits(model.head(out, "mixture"), codes).argmax(1), labels) > 0.8


def test_a_sample_depends_on_its_row_alone(learnt):
    model, out = learnt
    x, labels = blobs()
    sample = model.load(out, context(x))
    rows = [row(i, i % 3, *[(None, None), (7 * i, int(labels[7 * i]))][i % 2]) for i in range(12)]
    first = sample(rows)
    order = np.random.default_rng(0).permutation(12)
    for place, made in zip(order, sample([rows[i] for i in order]), strict=True):
        assert np.array_equal(made, first[place])
    for i in range(12):
        np.testing.assert_allclose(sample([rows[i]])[0], first[i], atol=1e-4)
    assert first[0].shape == (8,)
    assert first[0].dtype == np.float32
    assert len(np.unique(np.stack(first), axis=0)) == 12


def test_codes_become_rows_again(learnt):
    model, out = learnt
    x, _ = blobs()
    again = model.decoder(out)(model.encoder(out)(x))
    assert again.shape == x.shape
    assert again.dtype == np.float32
    assert ((again - x) ** 2).mean() < ((x - x.mean(0)) ** 2).mean()


def test_weights_that_blew_up_fail_their_rows_and_not_the_run(tmp_path):
    x, labels = blobs()
    QUICK.fit(lesson(x, labels), tmp_path, seed=1)
    weights = load_file(tmp_path / "weights.safetensors")
    weights["prior.mean"][2] = torch.nan
    save_file(weights, tmp_path / "weights.safetensors")
    one, other = QUICK.load(tmp_path, context(x))([row(0, 0), row(1, 2)])
    assert isinstance(one, np.ndarray)
    assert isinstance(other, Failed)


# --- pictures -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits")
    found = load_digits()
    x = (found.images * 255 / 16).round().astype(np.uint8)[..., None]
    model = LatentMixture(network=ImageVAE(width=8, latent=16), fit_steps=150, batch=64, lr=5e-3)
    model.fit(lesson(x[:1000], found.target[:1000], 10), out, seed=1)
    return model, out, x, found.target


def test_digits_are_told_apart_and_drawn(digits):
    model, out, x, labels = digits
    codes = model.encoder(out)(x[1000:])
    assert codes.shape == (797, 16)
    assert recall(logits(model.head(out, "softmax"), codes).argmax(1), labels[1000:]) > 0.85
    assert recall(logits(model.head(out, "mixture"), codes).argmax(1), labels[1000:]) > 0.85
    with Image.open(out / "reconstructions.png") as sheet:
        assert sheet.size == (10 * 9, 2 * 9)
        tiles = np.asarray(sheet).astype(float)
    above, below = tiles[:8].reshape(8, 10, 9)[..., :8], tiles[9:17].reshape(8, 10, 9)[..., :8]
    assert ((above - below) ** 2).mean() < 0.5 * ((above - above.mean(1, keepdims=True)) ** 2).mean()
    with Image.open(out / "components.png") as sheet:
        assert sheet.size == (10 * 9, 10 * 9)


def test_pictures_have_codes_as_samples(digits):
    model, out, x, labels = digits
    made = model.load(out, context(x))(
        [row(0, 3), row(1, int(labels[5]), 5, int(labels[5])), row(2, 3, 5, 5)]
    )
    assert all(code.shape == (16,) and code.dtype == np.float32 for code in made)


def test_pictures_may_be_augmented_and_have_colours(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (12, 32, 30, 3), np.uint8)[:, :30]
    model = LatentMixture(network=ImageVAE(width=4, latent=4), fit_steps=3, batch=4, augment=(Crop(), Flip()))
    model.fit(lesson(x, np.arange(12) % 3), tmp_path, seed=1)
    assert model.encoder(tmp_path)(x).shape == (12, 4)
    assert (tmp_path / "components.png").exists()


def test_the_published_setting_runs_on_small_pictures(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    model = dataclasses.replace(PUBLISHED, network=ImageVAE(width=4, latent=32), fit_steps=3, batch=4)
    model.fit(lesson(x, np.arange(6) % 3), tmp_path, seed=1)
    assert PUBLISHED.network.latent == 2048
    assert len(model.load(tmp_path, context(x))([row(0, 2)])) == 1


# --- what is hard about data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["label", "soft"])
@pytest.mark.parametrize("variances", ["tied", "diagonal"])
@pytest.mark.parametrize("prior", ["uniform", "train"])
def test_every_setting_learns_and_samples(posterior, variances, prior, tmp_path):
    x, labels = blobs()
    model = dataclasses.replace(
        QUICK, posterior=posterior, variances=variances, prior=prior, warmup=0.0, ramp=0.0
    )
    model.fit(lesson(x, labels), tmp_path, seed=1)
    assert all(
        isinstance(code, np.ndarray) for code in model.load(tmp_path, context(x))([row(0, 0), row(1, 2)])
    )


def test_classes_of_one_row_and_of_none_and_features_that_never_change(tmp_path):
    x, labels = blobs((30, 5, 1))
    x[:, 4] = 3.0
    model = QUICK
    model.fit(lesson(x, labels, classes=50), tmp_path, seed=1)  # more classes than rows: 47 have none
    rows = [row(0, 2), row(1, 49), row(2, 2, 35, 2), row(3, 2, 0, 0), row(4, 49, 0, 0)]
    assert all(isinstance(code, np.ndarray) for code in model.load(tmp_path, context(x))(rows))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert sum(summary["component_use_mean"]) == pytest.approx(1)


def test_as_many_classes_as_rows(tmp_path):
    x = blobs()[0][:4]
    QUICK.fit(lesson(x, np.arange(4), classes=4), tmp_path, seed=1)
    made = QUICK.load(tmp_path, context(x))([row(0, 1, 0, 0), row(1, 3)])
    assert np.isfinite(np.stack(made)).all()


def test_rows_that_do_not_suit_are_refused(tmp_path):
    x, labels = blobs()
    x[3, 2] = np.nan
    with pytest.raises(Refusal, match="must be finite"):
        QUICK.fit(lesson(x, labels), tmp_path / "nan", seed=1)
    for size in (4, 80):
        pictures = np.zeros((4, size, size, 1), np.uint8)
        with pytest.raises(Refusal, match=f"8 to 64 pixels, found {size} x {size}"):
            LatentMixture().fit(lesson(pictures, np.arange(4) % 3), tmp_path / "size", seed=1)
    with pytest.raises(Refusal, match="augment changes pictures"):
        dataclasses.replace(QUICK, augment=(Flip(),)).fit(lesson(*blobs()), tmp_path / "flip", seed=1)


# --- on disk --------------------------------------------------------------------------------------------------


def test_the_same_seed_learns_the_same_weights_and_a_finished_fit_is_left_alone(tmp_path):
    x, labels = blobs()
    for name in ("a", "b"):
        QUICK.fit(lesson(x, labels), tmp_path / name, seed=3)
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "ab")
    assert one == other
    (tmp_path / "a" / "summary.json").unlink()  # killed before it was written
    QUICK.fit(lesson(x, labels), tmp_path / "a", seed=3)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == one
    assert (tmp_path / "a" / "summary.json").read_bytes() == (tmp_path / "b" / "summary.json").read_bytes()
    assert not list(tmp_path.glob("**/state-*"))


@pytest.mark.parametrize("change", ["seed", "data", "fit_steps", "network"])
def test_finished_weights_of_other_settings_or_data_are_refused(change, tmp_path):
    x, labels = blobs()
    QUICK.fit(lesson(x, labels), tmp_path, seed=3)
    changed = {"fit_steps": {"fit_steps": 21}, "network": {"network": VectorVAE(width=24, latent=4)}}.get(
        change, {}
    )
    data = (x[:-1], labels[:-1]) if change == "data" else (x, labels)
    with pytest.raises(Refusal, match="fitted with other settings or other data"):
        dataclasses.replace(QUICK, **changed).fit(lesson(*data), tmp_path, seed=4 if change == "seed" else 3)


def test_how_far_a_translation_goes_may_change_over_finished_weights(tmp_path):
    x, labels = blobs()
    made = []
    for energy in (0.3, 1.0):
        model = dataclasses.replace(QUICK, energy=energy)
        model.fit(lesson(x, labels), tmp_path, seed=3)
        made.append(model.load(tmp_path, context(x))([row(0, 2, 0, 0)])[0])
    assert not np.allclose(*made)


def test_a_fitted_one_opens_whatever_the_defaults_have_become(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = LatentMixture(fit_steps=2, batch=4)
    model.fit(Lesson(Rows.of(x), np.arange(20) % 2, None, ["a", "b"]), tmp_path, seed=0)
    told = json.loads((tmp_path / "config.json").read_text())
    assert load(told["network"]) == VectorVAE()
    with pytest.raises(Refusal, match="ImageVAE does not work on rows of the shape"):
        LatentMixture(network=ImageVAE(), fit_steps=2).fit(
            Lesson(Rows.of(x), np.arange(20) % 2, None, ["a", "b"]), tmp_path / "other", seed=0
        )


@pytest.mark.parametrize("kind", ["softmax", "mixture"])
def test_nothing_is_predicted_to_be_of_a_class_without_rows(kind, tmp_path):
    labels = np.arange(60) % 2 * 2  # class 1 is between the two others, and empty
    x = (np.random.default_rng(0).normal(size=(60, 3)) + labels[:, None]).astype(np.float32)
    model = LatentMixture(network=VectorVAE(width=16, latent=4), fit_steps=40, batch=16)
    model.fit(Lesson(Rows.of(x), labels, None, ["a", "b", "c"]), tmp_path, seed=0)
    told, z = model.head(tmp_path, kind), model.encoder(tmp_path)(x)
    logits = z @ told["weight"].T + told["bias"] + (z**2 @ told["square"].T if "square" in told else 0)
    assert 1 not in logits.argmax(1)
    assert kind == "softmax" or set(logits.argmax(1)) == {0, 2}
