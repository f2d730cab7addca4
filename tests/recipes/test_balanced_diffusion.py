"""The CPU twin of class-balancing diffusion, end to end, and what is taken home from it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from studies import fill

from counterpoise import Data, Holdout, Refusal, Run, Trials, open_source, run
from counterpoise.delivery import export_data, export_generator
from counterpoise.judging import judge_run
from counterpoise.pipeline import execute
from counterpoise.recipes.auto import auto
from counterpoise.recipes.balanced_diffusion import balanced_diffusion
from counterpoise.recipes.pixel_diffusion import pixel_diffusion

COUNTS = {"circle": 40, "bar": 16, "dot": 7}


def data(folder: Path, **holdout) -> Data:
    return Data(open_source(str(folder)), holdout=Holdout(**({"val": 0.2, "test": 0.25} | holdout)))


def study(folder: Path, pool: float = 0.2, **flags):
    made = balanced_diffusion(
        data(folder, pool=pool), Trials(2), smoke=True, **({"steps": 6, "width": 4, "fit_steps": 8} | flags)
    )
    return dataclasses.replace(made, rows_per_shard=8, rows_per_batch=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("diffusion") / "photos", COUNTS, size=12)


@pytest.fixture(scope="module")
def done(photos, tmp_path_factory) -> Run:
    return run(study(photos), tmp_path_factory.mktemp("runs") / "run")


def test_the_twin_reaches_its_report(done):
    verdict = done.verdict
    arms = {row["arm"] for row in verdict["comparisons"]}
    assert {"diffusion", "balanced_diffusion", "pool_diffusion"} <= arms
    page = (done / "report.html").read_text(encoding="utf-8")
    for word in ("balanced_diffusion", "Are the samples any good?", "pseudo_labels"):
        assert word in page
    told = done.json("fidelity/round_0/balanced_diffusion/draw_0.json")
    assert set(told) >= {"val", "train", "train_against_val", "kept"}


def test_budgets_are_met_exactly_and_no_copy_or_blank_is_kept(done):
    for name in ("diffusion", "balanced_diffusion", "pool_diffusion"):
        plan = done.table(f"plan/round_0/{name}/draw_0.parquet")
        counts = np.bincount(done.table("data/train/manifest.parquet")["label"].to_numpy())
        asked = np.bincount(plan["label"].to_numpy(), minlength=3)
        assert (counts + asked == counts.max()).all()
        x, selection = done.samples(name)
        kept = [row for row in selection.to_pylist() if row["drop"] is None]
        assert len(x) == len(kept)
        assert all(image.min() < image.max() for image in x)


def test_the_generators_differ_in_what_they_are_named_for_alone(photos):
    made = {item.name: item.generator for item in study(photos).synthesis if item.generator.learns}
    plain, balanced, pool = made["diffusion"], made["balanced_diffusion"], made["pool_diffusion"]
    assert dataclasses.replace(balanced, balance=None) == plain
    assert dataclasses.replace(pool, schooling=plain.schooling) == plain
    assert balanced.balance.law == "train"
    assert study(photos, init="x").synthesis[2].generator.balance.law == "uniform"


def test_published_settings_are_the_cards(photos):
    (cbdm,) = [
        i.generator for i in study(photos, 0.0, published="cbdm").synthesis if i.name == "balanced_diffusion"
    ]
    assert (cbdm.balance.tau, cbdm.balance.gamma, cbdm.balance.law) == (1.0, 0.25, "train")
    assert (cbdm.guides[0].scale, cbdm.sampler, cbdm.steps) == (2.6, "ancestral", 1000)
    assert (cbdm.schooling.lr, cbdm.schooling.batch, cbdm.schooling.ema) == (2e-4, 48, 0.9999)
    net = cbdm.network(3, 10, 32, 0)
    assert abs(sum(p.numel() for p in net.parameters()) / 35.9e6 - 1) < 0.12


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"published": "cbdm", "tau": 3.0, "network": "mlp"}, "--tau, --network"),
        ({"published": "cbdm_finetune"}, "name it with --init"),
    ],
    ids=["clash", "finetune"],
)
def test_published_settings_are_not_mixed_with_others(photos, flags, said):
    with pytest.raises(Refusal, match=said):
        study(photos, **flags)


def test_images_that_come_without_labels_are_a_pool(tmp_path):
    folder = fill(tmp_path / "photos", COUNTS, size=12)
    fill(tmp_path / "more", {"x": 5}, size=12)
    (tmp_path / "more" / "x").rename(folder / "unlabelled")
    names = {item.name for item in study(folder, pool=0.0).synthesis}
    assert "pool_diffusion" in names


def test_the_control_is_the_same_study_without_the_balancing_loss(photos):
    names = [item.name for item in pixel_diffusion(data(photos), Trials(2), smoke=True).synthesis]
    assert names == ["oversample", "diffusion"]


def test_auto_takes_what_suits_the_data_or_what_the_flags_ask_for(photos, tmp_path):
    assert auto(data(photos), Trials(2), smoke=True).name == "balanced_diffusion"
    assert auto(data(photos), Trials(2), smoke=True, all_arms=True).name == "baselines"
    large = fill(tmp_path / "large", {"a": 4, "b": 4}, size=48)
    assert auto(data(large), Trials(2), smoke=True).name == "baselines"
    assert auto(data(large), Trials(2), smoke=True, guidance=2.0).name == "balanced_diffusion"
    with pytest.raises(Refusal, match="no one recipe takes --guidance, --all-arms"):
        auto(data(large), Trials(2), guidance=2.0, all_arms=True)


def test_a_class_without_images_and_one_with_a_single_image_survive(tmp_path):
    folder = fill(tmp_path / "few", {"many": 30, "some": 8, "one": 1}, size=8)
    (folder / "none").mkdir()
    made = run(study(folder, pool=0.0), tmp_path / "run")
    assert made.verdict["headline"]
    plan = made.table("plan/round_0/diffusion/draw_0.parquet")
    assert set(plan["label"].to_pylist()) <= {1, 2, 3}


def test_mixed_and_narrow_pictures_are_brought_to_one_shape(tmp_path):
    from PIL import Image

    folder = fill(tmp_path / "mixed", {"a": 20, "b": 8}, size=16)
    for i, size in enumerate(((9, 31), (40, 12), (16, 17))):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)).save(
            folder / "b" / f"x{i}.png"
        )
    made = run(study(folder, pool=0.0), tmp_path / "run")
    x, _ = made.samples("diffusion")
    assert x.shape[1:] == (16, 16, 3)


# --- work can be cut short and shared out ---------------------------------------------------------------------------


def test_any_number_of_workers_in_any_order_and_after_a_kill_makes_the_same_samples(photos, tmp_path):
    recipe = study(photos)
    execute(recipe, tmp_path / "0", until="plan")
    for name in "13":
        shutil.copytree(tmp_path / "0", tmp_path / name)
    execute(recipe, tmp_path / "0", until="generate")
    # One worker, killed with some shards done, then two to go on.
    code = f"import sys; sys.path[:0] = {sys.path!r}\nfrom counterpoise.study import Study\nfrom counterpoise.pipeline import execute\nexecute(Study.open({str(tmp_path / '1')!r}).recipe, {str(tmp_path / '1')!r}, until='generate')"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    for _ in range(2000):
        if len(list((tmp_path / "1" / "samples").rglob("*.parquet"))) >= 2 or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    execute(recipe, tmp_path / "1", 2, until="generate")
    execute(recipe, tmp_path / "3", 3, until="generate")
    files = sorted(
        path.relative_to(tmp_path / "0") for path in (tmp_path / "0" / "samples").rglob("*.parquet")
    )
    assert len(files) > 10
    whole = {file: Run(tmp_path / "0").table(str(file)) for file in files}
    for name in "13":
        for file in files:
            assert Run(tmp_path / name).table(str(file)).equals(whole[file]), f"{name}: {file}"


def test_changed_settings_over_a_fitted_generator_are_refused(done, photos):
    with pytest.raises(Refusal, match=r"synthesis\[diffusion\].*schooling.steps was 8.*--redo fit"):
        run(study(photos, fit_steps=9), done.path)
    with pytest.raises(Refusal, match=r"guides\[0\].scale was 1.0.*--redo generate"):
        run(study(photos, guidance=2.0), done.path)
    with pytest.raises(Refusal, match=r"budget.to was null.*--redo plan"):
        run(study(photos, fill_to=99), done.path)


@pytest.mark.slow
def test_two_processes_of_torchrun_learn_what_one_learns(photos, tmp_path):
    recipe = study(photos)
    for item in recipe.synthesis:
        if item.generator.learns:  # in fp32, so that both are comparable to rounding
            object.__setattr__(
                item.generator, "schooling", dataclasses.replace(item.generator.schooling, bf16=False)
            )
    execute(recipe, tmp_path / "one", until="teach")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = [sys.executable, "-m", "counterpoise", "fit"]
    together = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "counterpoise",
        "fit",
    ]
    for command, name in ((alone, "one"), (together, "two")):
        subprocess.run([*command, str(tmp_path / name)], env=env, check=True, timeout=250)
    for path in (tmp_path / "one" / "generators").rglob("weights.safetensors"):
        one, two = load_file(path), load_file(tmp_path / "two" / path.relative_to(tmp_path / "one"))
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-4


# --- taking it home ---------------------------------------------------------------------------------------------------


def test_the_generator_leaves_as_a_diffusers_pipeline(done, tmp_path):
    pytest.importorskip("diffusers")
    assert export_generator(done.path, tmp_path / "pipe", "balanced_diffusion") == "balanced_diffusion"
    index = json.loads((tmp_path / "pipe" / "model_index.json").read_text())
    assert index["classes"] == sorted(COUNTS)
    assert (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    with pytest.raises(Refusal, match="nothing is written over"):
        export_generator(done.path, tmp_path / "pipe", "balanced_diffusion")
    with pytest.raises(Refusal, match="oversample has no generator"):
        export_generator(done.path, tmp_path / "other", "oversample")


def test_the_balanced_data_leave_as_folders(done, tmp_path):
    written = export_data(done.path, "imagefolder", tmp_path / "out", "diffusion")
    assert written == len(list((tmp_path / "out").rglob("*.png")))


def test_other_networks_judge_the_samples_and_bad_names_are_refused(done, tmp_path):
    with pytest.raises(Refusal, match="no synthesis 'x'"):
        judge_run(done.path, "inception:none.safetensors", "x")
    with pytest.raises(Refusal, match="no selected samples of draw 7"):
        judge_run(done.path, "inception:none.safetensors", "diffusion", draw=7)
