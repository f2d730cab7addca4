"""CPU twins of the recipes whose samples a classifier asks for: one shot, rounds, groups; resumed, refused, told."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from studies import fill, outcome

from counterpoise import (
    Arm,
    Data,
    Fit,
    Holdout,
    Recipe,
    Refusal,
    Run,
    Synthesis,
    Trials,
    open_source,
    parse_cut,
    run,
)
from counterpoise.classifiers.losses import CE
from counterpoise.classifiers.mixing import Instance
from counterpoise.classifiers.training import Training
from counterpoise.classifiers.tutor import Tutor
from counterpoise.data.packed import Digits
from counterpoise.diffusion.feedback import Feedback
from counterpoise.gathering import rows_of, samples_in
from counterpoise.generators.latent_mixture import LatentMixture
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.generators.simple import Copies
from counterpoise.lots import Lot
from counterpoise.nets.resnet import SmallResNet
from counterpoise.pipeline import begun, set_aside
from counterpoise.proposals.budgets import Adaptive, ByNeed, FillUp
from counterpoise.proposals.pairings import FromNoise, SameClass
from counterpoise.recipes.deliberate import deliberate
from counterpoise.recipes.feedback_guided import PUBLISHED, feedback_guided
from counterpoise.scores.feedback import Fidelity
from counterpoise.study import Study
from counterpoise.tutoring import TutorFile, needs_of


def study(function, source, trials=Trials(2), **flags):
    data = Data(open_source(str(source)), cut=parse_cut("exp:4:top=12"), holdout=Holdout(val=0.2, test=0.25))
    return function(data, trials, smoke=True, **flags)


def practice(photos, tiny, **flags):
    return study(deliberate, photos, backbone=str(tiny), components=5, draws=2, rounds=3, share=0.3, **flags)


@pytest.fixture(scope="session")
def rounds(photos, tiny, tmp_path_factory):
    return run(practice(photos, tiny), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """On pixels, with two scales of which the first is none; a judge taught for 30 steps is better not heeded."""
    data = Data(Digits(), cut=parse_cut("exp:4:top=8:shuffled"), holdout=Holdout(val=0.05, test=0.1))
    flags = {"fit_steps": 30, "steps": 30, "width": 4, "sweep": (0.0, 3.0), "floor": -50.0}
    recipe = feedback_guided(data, Trials(2), smoke=True, flip=False, coverage=0.0, **flags)
    return run(recipe, tmp_path_factory.mktemp("runs") / "run")


# --- rounds ------------------------------------------------------------------------------------------------------


def test_every_round_reads_the_one_before_and_all_are_learnt_from(rounds):
    study = Study.open(rounds.path)
    for first in study.first_lots():
        lots = study.rounds(first)
        assert (len(lots) > 1) == (first.synthesis == "deliberate")
        _, labels, _, synthetic = rows_of(study, first.draw, first.synthesis)
        kept = [study.run.meta(lot.selected)["funnel"]["kept"] for lot in lots]
        assert synthetic.sum() == sum(kept)
        assert len(labels) == study.counts(first.draw).sum() + sum(kept)
        names = [name for lot in lots for name in study.run.table(lot.plan)["request_id"].to_pylist()]
        assert len(set(names)) == len(names)
        for lot in lots[1:]:
            history = study.history(lot)
            assert history[:-1] == study.history(lot.before)
            assert len(history) == lot.round + 1
            assert study.synthesis(lot.synthesis).budget.goes_on(history)


def test_a_round_asks_for_its_share_of_what_is_still_missing(rounds):
    study = Study.open(rounds.path)
    for lot in study.rounds(Lot("deliberate", 1)):
        _, labels, _, _ = rows_of(study, 1, "deliberate", lot.round)
        counts = np.bincount(labels, minlength=3)
        asked = study.run.meta(lot.plan)["wanted"]
        assert sum(asked) == round(0.3 * (counts.max() - counts).sum())


def test_needs_are_those_of_the_tutor_on_validation(rounds):
    study, lot = Study.open(rounds.path), Lot("deliberate", 0, 1)
    needs, labels = needs_of(study, lot), study.labels("val")
    said = TutorFile(study, lot).arrays("val/")["logits"].argmax(1)
    assert needs.rows.tolist() == np.bincount(labels).tolist()
    for label in range(3):
        assert needs.error[label] == pytest.approx((said[labels == label] != label).mean())
    assert (needs.loss >= 0).all()
    assert study.history(lot)[-1] == pytest.approx(1 - needs.error.mean())


def test_the_teacher_hears_what_validation_heard(rounds):
    study, lot = Study.open(rounds.path), Lot("deliberate", 0, 1)
    import torch

    teacher, judge = TutorFile(study, lot).open()
    val, labels = torch.from_numpy(study.vectors("val", 0)), torch.from_numpy(study.labels("val"))
    said, features = teacher(val, labels)
    kept = TutorFile(study, lot).arrays("val/")["logits"]
    np.testing.assert_allclose(said.log_softmax(1).numpy(), kept, atol=1e-5)
    assert features.shape == (len(val), 5)
    assert not np.allclose(judge(val, labels)[0].log_softmax(1).numpy(), kept, atol=0.01)


def test_a_tutor_without_gain_ends_the_rounds(rounds, tmp_path):
    shutil.copytree(rounds.path, tmp_path / "run")
    study = Study.open(tmp_path / "run")
    late = study.run / Lot("deliberate", 0, 1).tutor
    arrays = load_file(late)
    late.unlink()
    save_file(arrays, late, {"notes": json.dumps({"history": [0.9, 0.8]})})
    assert len(study.rounds(Lot("deliberate", 0))) == 2  # patience 1
    late.unlink()
    item = study.synthesis("deliberate")
    hasty = dataclasses.replace(item, budget=dataclasses.replace(item.budget, patience=0, growth=0.0))
    recipe = dataclasses.replace(study.recipe, synthesis=(*study.recipe.synthesis[:-1], hasty))
    save_file(arrays, late, {"notes": json.dumps({"history": [0.9, 0.8]})})
    assert study.rounds(Lot("deliberate", 0))[1:]
    assert not Study(study.run, recipe).rounds(Lot("deliberate", 0))[1:]


def test_stopped_anywhere_and_run_again_is_the_same_with_any_number_of_workers(
    rounds, photos, tiny, tmp_path
):
    recipe = practice(photos, tiny)
    for until in ("tutor", "plan", "score"):
        run(recipe, tmp_path / "run", until=until)
    again = run(recipe, tmp_path / "run", processes=2)
    assert outcome(again.path) == outcome(rounds.path)


def test_what_a_crash_left_in_the_middle_of_a_round_is_made_again(rounds, photos, tiny, tmp_path):
    shutil.copytree(rounds.path, tmp_path / "run")
    lost = [name for name in ("samples", "scores", "selected", "tutors") for name in [f"{name}/round_1"]]
    for name in [
        *lost,
        "tutors/round_2",
        "plan/round_2",
        "samples/round_2",
        "scores/round_2",
        "selected/round_2",
    ]:
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    for stage in ("train", "fidelity", "evaluate"):
        shutil.rmtree(tmp_path / "run" / stage)
    again = run(practice(photos, tiny), tmp_path / "run")
    assert outcome(again.path) == outcome(rounds.path)


@pytest.fixture(scope="session")
def gentler(photos, tiny, tmp_path_factory):
    return run(practice(photos, tiny, feedback=2.0, floor=-50.0), tmp_path_factory.mktemp("runs") / "run")


@pytest.mark.parametrize("stage", ["plan", "generate"])
def test_a_stage_done_again_with_another_setting_leaves_nothing_of_later_rounds(
    stage, rounds, gentler, photos, tiny, tmp_path
):
    shutil.copytree(rounds.path, tmp_path / "run")
    set_aside(Run.open(tmp_path / "run"), stage)
    again = run(practice(photos, tiny, feedback=2.0, floor=-50.0), tmp_path / "run")
    assert outcome(again.path) == outcome(gentler.path)


def test_a_changed_tutor_is_refused_by_name(rounds, photos, tiny):
    assert begun(rounds, "synthesis[0].tutor.members") == "tutor"
    assert begun(rounds, "synthesis[0].guides[0].scale") == "generate"
    with pytest.raises(Refusal, match=r"scale.*--redo generate"):
        run(practice(photos, tiny, feedback=0.123), rounds.path)


# --- guided and not ----------------------------------------------------------------------------------------------


def samples(study, name):
    lot = Lot(name, 0)
    return {shard: samples_in(study.run, lot.samples(shard)) for shard in study.shards(lot)}


def test_guided_and_unguided_share_generator_tutor_and_luck(swept):
    study = Study.open(swept.path)
    assert [item.name for item in study.recipe.synthesis] == ["unguided", "loss_0", "loss_3"]
    lots = [Lot(item.name, 0) for item in study.recipe.synthesis]
    assert len({study.generator_of(lot) for lot in lots}) == len({study.tutor_of(lot) for lot in lots}) == 1
    plans = [study.run.table(lot.plan)["seed"].to_pylist() for lot in lots]
    assert plans[0] == plans[1] == plans[2]
    for shard, (x, ids) in samples(study, "unguided").items():
        same, guided = samples(study, "loss_0")[shard], samples(study, "loss_3")[shard]
        assert np.array_equal(x, same[0])  # card T2, from the plan to the disk
        assert ids == guided[1]
        assert not np.array_equal(x, guided[0])


def test_guidance_raises_what_it_is_told_to_and_the_samples_tell(swept):
    study = Study.open(swept.path)
    useful = {}
    for name in ("unguided", "loss_3"):
        lot = Lot(name, 0)
        tables = [study.run.table(lot.scores("useful", shard)) for shard in study.shards(lot)]
        useful[name] = np.concatenate([table["score"].to_numpy() for table in tables])
    assert useful["loss_3"].mean() > useful["unguided"].mean()
    plain, guided = (study.run.table(Lot(name, 0).samples(0)) for name in ("unguided", "loss_3"))
    assert plain["held"].null_count == plain.num_rows
    assert guided["unfelt"].null_count == 0
    assert all(0 <= share <= 1 for share in guided["unfelt"].to_pylist())


def test_the_tutor_is_no_arm_and_no_trial(swept):
    study = Study.open(swept.path)
    net = TutorFile(study, Lot("unguided", 0)).arrays("0/net/")
    judge = TutorFile(study, Lot("unguided", 0)).arrays("judge/net/")
    trial = load_file(study.run / "teach/balanced_softmax/trial_000.safetensors")
    name = next(name for name in net if name.endswith("conv1.weight"))
    assert not np.array_equal(net[name], judge[name])
    assert not np.array_equal(net[name], trial[f"0/net/{name}"])
    assert "tutor" not in swept.metrics["arms"]


# --- groups ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def grouped(tmp_path_factory):
    """Pictures in two groups, one of them rare in one class."""
    photos = fill(tmp_path_factory.mktemp("grouped") / "photos", {"cat": 64, "dog": 32, "owl": 32})
    file = photos.parent / "list.csv"
    with open(file, "w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["path", "label", "group"])
        for folder in sorted(photos.iterdir()):
            for at, path in enumerate(sorted(folder.iterdir())):
                rare = folder.name == "cat"
                table.writerow(
                    [
                        path.relative_to(photos.parent),
                        folder.name,
                        "snow" if at % (8 if rare else 2) == 0 else "grass",
                    ]
                )
    return file


def test_cells_of_class_and_group_are_filled_and_asked_for(grouped, tiny, tmp_path):
    data = Data(open_source(str(grouped)), holdout=Holdout(val=0.3, test=0.3))
    recipe = feedback_guided(
        data, Trials(2), smoke=True, groups=True, need="error", backbone=str(tiny), components=4, fill_to=20
    )
    done = run(recipe, tmp_path / "run")
    study = Study.open(done.path)
    cells = study.cells("train")
    counts = np.bincount(cells, minlength=6)
    plan = study.run.table(Lot("unguided", 0).plan).to_pylist()
    asked = np.bincount([row["label"] * 2 + row["group"] for row in plan], minlength=6)
    assert asked.tolist() == np.where(counts > 0, np.maximum(20 - counts, 0), 0).tolist()
    needy = study.run.meta(Lot("by_need", 0).plan)["wanted"]
    assert len(needy) == 6
    assert sum(needy) == asked.sum()
    assert json.loads((study.run / study.generator_of(Lot("unguided", 0)) / "config.json").read_text())[
        "classes"
    ] == ["cat / grass", "cat / snow", "dog / grass", "dog / snow", "owl / grass", "owl / snow"]
    _, _labels, groups, synthetic = rows_of(study, 0, "unguided")
    assert (groups[synthetic] >= 0).all()
    assert {"group_balanced", "group_dro", "dfr"} <= set(done.metrics["arms"])
    _, ids = samples_in(study.run, Lot("unguided", 0).samples(0))
    assert len(ids) == len(plan)


# --- what is refused ---------------------------------------------------------------------------------------------


def composed(**synthesis):
    made = {
        "name": "s",
        "generator": PixelDiffusion(),
        "budget": FillUp(),
        "pairing": FromNoise(),
    } | synthesis
    fits = (Fit("plain", CE(), Instance()), Fit("made", CE(), Instance(), synthesis="s"))
    arms = (Arm("plain", "plain"), Arm("made", "made"))
    return Recipe("r", Data(Digits()), SmallResNet(), Training(), Trials(), fits, arms, (Synthesis(**made),))


@pytest.mark.parametrize(
    ("synthesis", "rule"),
    [
        ({"guides": (Feedback(),)}, "s.tutor: Feedback listen"),
        ({"budget": ByNeed()}, "s.tutor: ByNeed listen"),
        ({"budget": Adaptive()}, "s.tutor: Adaptive listen"),
        ({"scores": (("label", Fidelity()),)}, "s.tutor: Fidelity listen"),
        ({"tutor": Tutor("made")}, r"s.tutor.fit: .*found 'made' \(such fits: plain\)"),
        (
            {
                "generator": LatentMixture(),
                "scores": (("label", Fidelity()),),
                "tutor": Tutor("plain"),
                "budget": FillUp(),
            },
            "leave out Fidelity",
        ),
        (
            {"generator": Copies(), "pairing": SameClass(), "guides": (Feedback(),), "tutor": Tutor("plain")},
            "Copies has no denoiser",
        ),
    ],
)
def test_what_cannot_listen_is_refused_before_anything_is_made(synthesis, rule):
    with pytest.raises(Refusal, match=rule):
        composed(**synthesis)
    assert composed(tutor=Tutor("plain"), guides=(Feedback(),), budget=Adaptive())


def test_groups_without_a_group_column_are_refused(photos, tiny, tmp_path):
    with pytest.raises(Refusal, match="this data has none: give a group column"):
        run(study(feedback_guided, photos, groups=True, backbone=str(tiny)), tmp_path / "run", until="plan")


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
def test_published_settings_are_those_of_the_card(preset):
    recipe = feedback_guided(Data(Digits()), Trials(), published=preset)
    guide = recipe.synthesis[1].guides[0]
    assert (guide.scale, guide.every, guide.mode) == (0.03, 5, "published")
    assert type(guide.criterion).__name__ == "Entropy"
    assert recipe.synthesis[1].budget.to == (1300 if preset == "imagenet_lt" else None)
    assert recipe.synthesis[1].by_group == (preset == "nico")
    with pytest.raises(Refusal, match="--criterion would"):
        feedback_guided(Data(Digits()), Trials(), published=preset, criterion="loss")


@pytest.mark.parametrize(
    ("flags", "rule"),
    [({"rounds": 10, "share": 0.3}, "--rounds times --share is at most 1"), ({"rounds": 0}, "found 0 x")],
)
def test_rounds_that_would_make_more_than_everything_are_refused(flags, rule):
    with pytest.raises(Refusal, match=rule):
        deliberate(Data(Digits()), Trials(), **flags)


def test_flags_that_another_one_settles_are_refused():
    for flags in ({"sweep": (1.0,), "feedback": 2.0}, {"mode": "published", "floor": -1.0}):
        with pytest.raises(Refusal, match="leave one of them out"):
            feedback_guided(Data(Digits()), Trials(), **flags)
