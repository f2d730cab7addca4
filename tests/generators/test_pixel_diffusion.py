import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from counterpoise.data.nonleaky import Mirror, NonLeaky
from counterpoise.data.pixels import Rows
from counterpoise.diffusion.guides import CFG, AutoGuidance, Interval
from counterpoise.diffusion.losses import ClassBalancing, LogitNormal, UniformTime
from counterpoise.diffusion.training import Schooling
from counterpoise.generators.generator import Context, Failed, Lesson
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.nets.mlp import MLP
from counterpoise.nets.unet import UNet
from counterpoise.types import Refusal

SMALL = MLP(width=32, depth=1)
QUICK = Schooling(steps=6, batch=8)


def bars(n: int = 40, size: int = 8, channels: int = 1, classes: int = 2) -> Lesson:
    """Class 0 is bright on the left, class 1 on the right."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    x = rng.integers(0, 60, (n, size, size, channels))
    for i, label in enumerate(labels):
        x[i, :, (label % 2) * size // 2 :][:, : size // 2] += 180
    return Lesson(Rows.of(x.astype(np.uint8)), labels, None, [str(c) for c in range(classes)])


def asked(n: int = 10, classes: int = 2, **more) -> list[dict]:
    return [
        {"label": i % classes, "seed": 10**12 + i, "strength": 1.0, "source_id": str(i)} | more
        for i in range(n)
    ]


def context(lesson: Lesson) -> Context:
    return Context(lambda ids: np.stack([lesson.rows.raw(np.array([int(i)]))[0] for i in ids]))


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A model that has learnt the bars."""
    out = tmp_path_factory.mktemp("bars")
    model = PixelDiffusion(
        network=MLP(width=64, depth=2), schooling=Schooling(steps=1000, batch=32, ema=0.99, lr=5e-3)
    )
    model.fit(bars(), out, seed=1)
    return model, out


def sides(images) -> np.ndarray:
    """Which half is brighter: 0 left, 1 right."""
    x = np.stack(images).astype(float)
    half = x.shape[2] // 2
    return (x[:, :, half:].mean((1, 2, 3)) > x[:, :, :half].mean((1, 2, 3))).astype(int)


def test_samples_are_of_the_class_that_was_asked_for(learnt):
    model, out = learnt
    rows = asked(60)
    right = sides(model.load(out, context(bars()))(rows)) == [row["label"] for row in rows]
    assert right.mean() > 0.95


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler", "ancestral"])
def test_a_sample_depends_on_its_row_alone(learnt, sampler):
    model, out = learnt
    sample = dataclasses.replace(model, sampler=sampler, steps=5).load(out, context(bars()))
    rows = asked(9)
    first = sample(rows)
    order = [4, 0, 8, 2, 6, 1, 3, 5, 7]
    shuffled = sample([rows[i] for i in order])
    for place, i in enumerate(order):  # same batch size: the same bits
        assert np.array_equal(shuffled[place], first[i])
    alone = sample(rows[3:4])[0]
    assert np.abs(alone.astype(int) - first[3].astype(int)).max() <= 1
    assert first[0].shape == (8, 8, 1)
    assert first[0].dtype == np.uint8
    assert not np.array_equal(first[0], first[2])


def test_strength_goes_from_the_source_to_the_class(learnt):
    model, out = learnt
    lesson = bars()
    sample = model.load(out, context(lesson))
    rows = [row | {"label": 1 - row["label"]} for row in asked(20)]  # every source is of the other class
    sources = np.stack([context(lesson).real([row["source_id"]])[0] for row in rows]).astype(int)
    gap = []
    for strength in (0.0, 0.3, 1.0):
        made = np.stack(sample([row | {"strength": strength} for row in rows]))
        gap.append(np.abs(made.astype(int) - sources).mean())
        if strength == 1.0:
            assert (sides(made) == [row["label"] for row in rows]).mean() > 0.9
    assert gap[0] <= 1
    assert gap[0] < gap[1] < gap[2]


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": UniformTime(), "sampler": "ancestral", "steps": 8},
        {"objective": UniformTime()},
        {"objective": LogitNormal()},
        {"balance": ClassBalancing()},
        {"augment": NonLeaky()},
        {"guides": (Interval(CFG(scale=2.0), 0.1, 2.0),)},
        {"guides": (AutoGuidance(scale=1.5), CFG(scale=1.5))},
        {"guides": (Interval(AutoGuidance(scale=1.5), 0.1, 2.0),)},
        {"augment": Mirror()},
        {"network": UNet(width=8, levels=(1,))},
        {"schooling": Schooling(steps=3, batch=4, bf16=True)},
    ],
    ids=lambda s: ",".join(s),
)
def test_every_setting_learns_and_samples(settings, tmp_path):
    model = dataclasses.replace(PixelDiffusion(network=SMALL, schooling=QUICK, steps=3), **settings)
    model.fit(bars(), tmp_path, seed=1)
    made = model.load(tmp_path, context(bars()))(asked(4))
    assert all(isinstance(x, np.ndarray) for x in made)
    assert not list(tmp_path.glob("**/state-*"))


@pytest.mark.parametrize(("size", "channels"), [(9, 1), (28, 1), (30, 3), (32, 3)])
def test_sizes_and_colours(size, channels, tmp_path):
    lesson = bars(12, size, channels)
    model = PixelDiffusion(
        network=UNet(width=8, levels=(1, 2)), schooling=Schooling(steps=2, batch=4), steps=2
    )
    model.fit(lesson, tmp_path, seed=1)
    (made,) = model.load(tmp_path, context(lesson))(asked(1))
    assert made.shape == (size, size, channels)
    with Image.open(next(tmp_path.glob("grid-*.png"))) as sheet:
        assert sheet.size == (8 * (size + 1), 2 * (size + 1))


def test_too_small_and_too_large_pictures_are_refused(tmp_path):
    for size in (4, 80):
        with pytest.raises(Refusal, match=f"works on 8 to 64 pixels, found {size} x {size}"):
            PixelDiffusion(network=SMALL).fit(bars(4, size), tmp_path, seed=1)


def test_classes_with_one_image_with_none_and_three_hundred_of_them(tmp_path):
    lesson = bars(60)
    labels = np.zeros(60, np.int64)
    labels[-1] = 299  # one image; the 298 between have none
    lesson = dataclasses.replace(lesson, labels=labels, classes=[str(c) for c in range(300)])
    model = PixelDiffusion(network=SMALL, schooling=QUICK, steps=2, balance=ClassBalancing())
    model.fit(lesson, tmp_path, seed=1)
    made = model.load(tmp_path, context(lesson))([asked(1)[0] | {"label": label} for label in (0, 150, 299)])
    assert len(made) == 3


def test_a_network_that_blew_up_fails_its_rows_and_not_the_run(tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=QUICK, steps=2)
    model.fit(bars(), tmp_path, seed=1)
    weights = load_file(tmp_path / "weights.safetensors")
    weights["out.bias"][:] = torch.nan
    save_file(weights, tmp_path / "weights.safetensors")
    made = dataclasses.replace(model, steps=3).load(tmp_path, context(bars()))(asked(3))
    assert all(isinstance(x, Failed) and str(x) == "not finite" for x in made)


def test_the_same_seed_learns_the_same_weights_and_a_finished_fit_is_left_alone(tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=QUICK)
    for name in ("a", "b"):
        model.fit(bars(), tmp_path / name, seed=3)
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "ab")
    assert one == other
    model.fit(bars(), tmp_path / "a", seed=3)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == one


@pytest.mark.parametrize("change", ["seed", "data", "steps"])
def test_finished_weights_of_other_settings_or_data_are_refused(change, tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=QUICK)
    model.fit(bars(), tmp_path, seed=3)
    other = dataclasses.replace(model, schooling=Schooling(steps=7, batch=8)) if change == "steps" else model
    with pytest.raises(Refusal, match="fitted with other settings or other data"):
        other.fit(bars(41) if change == "data" else bars(), tmp_path, seed=4 if change == "seed" else 3)


def test_how_samples_are_drawn_may_change_over_finished_weights(tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=QUICK)
    model.fit(bars(), tmp_path, seed=3)
    before = (tmp_path / "weights.safetensors").read_bytes()
    dataclasses.replace(model, steps=5, sampler="heun", guides=()).fit(bars(), tmp_path, seed=3)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_weights_that_were_fitted_anew_are_read_anew(tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=QUICK, steps=3)
    made = []
    for seed in (3, 4):
        model.fit(bars(), tmp_path, seed=seed)
        made.append(model.load(tmp_path, context(bars()))(asked(2))[0])
        (tmp_path / "weights.safetensors").unlink()
        (tmp_path / "config.json").unlink()
    assert not np.array_equal(*made)


# --- going on from an earlier one -------------------------------------------------------------------------------


def test_fine_tuning_begins_with_the_earlier_weights(learnt, tmp_path):
    model, out = learnt
    further = dataclasses.replace(model, init=str(out), schooling=Schooling(steps=1, batch=4, lr=1e-9))
    further.fit(bars(), tmp_path, seed=9)
    rows = asked(4)
    before, after = (m.load(where, context(bars()))(rows) for m, where in ((model, out), (further, tmp_path)))
    for a, b in zip(before, after, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_fine_tuning_to_more_classes_keeps_all_but_the_labels(learnt, tmp_path):
    model, out = learnt
    further = dataclasses.replace(model, init=str(out), schooling=Schooling(steps=1, batch=4, lr=1e-9))
    further.fit(bars(classes=5), tmp_path, seed=9)
    assert json.loads((tmp_path / "config.json").read_text())["classes"] == list("01234")
    (before,), (after,) = (
        [
            v
            for k, v in load_file(where / "weights.safetensors").items()
            if k.endswith("class_embedding.weight")
        ]
        for where in (out, tmp_path)
    )
    kept = [0, 1, -1]  # the classes of the same names, and the label that says none
    torch.testing.assert_close(after[kept], before[kept], atol=1e-6, rtol=0)


def test_labels_of_other_classes_are_not_taken_over(learnt, tmp_path):
    model, out = learnt
    further = dataclasses.replace(model, init=str(out), schooling=Schooling(steps=1, batch=4, lr=1e-9))
    further.fit(dataclasses.replace(bars(), classes=["cat", "dog"]), tmp_path, seed=9)
    (before,), (after,) = (
        [
            v
            for k, v in load_file(where / "weights.safetensors").items()
            if k.endswith("class_embedding.weight")
        ]
        for where in (out, tmp_path)
    )
    assert not torch.allclose(after[:2], before[:2], atol=1e-3)
    torch.testing.assert_close(after[-1], before[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("lesson", "change", "field"),
    [
        (bars(8, 12), {}, "size"),
        (bars(8, 8, 3), {}, "channels"),
        (bars(), {"network": SMALL}, "network"),
        (bars(), {"augment": NonLeaky()}, "augment"),
    ],
    ids=["size", "channels", "network", "augment"],
)
def test_the_checkpoint_of_another_recipe_is_refused_naming_the_field(
    learnt, lesson, change, field, tmp_path
):
    model, out = learnt
    further = dataclasses.replace(model, init=str(out), **change)
    with pytest.raises(Refusal, match=f"its {field} is .* must agree"):
        further.fit(lesson, tmp_path, seed=9)


def test_a_folder_that_holds_no_generator_is_refused(tmp_path):
    with pytest.raises(Refusal, match="no fitted pixel diffusion"):
        PixelDiffusion(network=SMALL, init=str(tmp_path)).fit(bars(), tmp_path / "out", seed=1)


def test_a_pool_that_is_not_there_is_refused(tmp_path):
    model = PixelDiffusion(network=SMALL, schooling=Schooling(steps=4, batch=4, pool_share=0.5))
    with pytest.raises(Refusal, match="--pool SHARE"):
        model.fit(bars(), tmp_path, seed=1)
