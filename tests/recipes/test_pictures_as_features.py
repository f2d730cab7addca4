"""Pictures that are made where classifiers see features of a frozen backbone: from a folder to a verdict."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from counterpoise import Data, Holdout, Refusal, Trials, open_source, run
from counterpoise.classifiers.tutor import Tutor
from counterpoise.cli import app
from counterpoise.encoding import as_classified
from counterpoise.gallery import galleries
from counterpoise.gathering import rows_of
from counterpoise.lots import Lot
from counterpoise.proposals.pairings import FromAny
from counterpoise.pupils import Pupil
from counterpoise.recipes.feedback_guided import feedback_guided
from counterpoise.recipes.interclass_mix import interclass_mix
from counterpoise.scores.feedback import Fidelity
from counterpoise.study import Study

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def recipe(photos, backbone, function=interclass_mix, **flags):
    data = Data(open_source(str(photos)), size=16, holdout=Holdout(val=0.2, test=0.25))
    flags = {
        "base": "miniature",
        "backbone": str(backbone),
        "components": 5,
        "smoke": True,
        "fit_steps": 3,
    } | flags
    return function(data, Trials(2), **flags)


@pytest.fixture(scope="module")
def done(photos, tiny, tmp_path_factory):
    made = recipe(photos, tiny, strategies=("diff-mix", "real-gen"), times=0.5)
    first = made.synthesis[0]
    tutor = dataclasses.replace(
        first,
        pairing=FromAny(by="confusion"),
        scores=(*first.scores, ("label", Fidelity())),
        tutor=Tutor("ce", members=1),
    )
    return run(
        dataclasses.replace(made, synthesis=(tutor, *made.synthesis[1:])),
        tmp_path_factory.mktemp("runs") / "run",
    )


def test_samples_are_pictures_and_classifiers_see_features(done):
    study, lot = Study.open(done.path), Lot("diff-mix", 0)
    kept, _ = study.kept(lot)
    assert kept.dtype == np.uint8
    assert kept.shape[1:] == (16, 16, 3)
    rows, labels, _, synthetic = rows_of(study, 0, "diff-mix")
    assert rows.raw(np.arange(len(rows))).shape == (len(labels), 5)
    assert synthetic.sum() == len(kept) > 0
    made = rows.raw(np.flatnonzero(synthetic))
    assert np.allclose(made, study.brought_down(study.recipe.network.encode(kept), 0), atol=1e-4)
    assert np.array_equal(as_classified(study, lot, kept[:3]), as_classified(study, lot, kept[:3]))


def test_other_views_count_as_real_rows_but_make_no_class_less_rare(done):
    study = Study.open(done.path)
    taught = Pupil.of(study, study.recipe.fit("diff-mix"), 0)
    counts, views = study.counts(), len(study.kept(Lot("rand_augmented", 0))[0])
    real = len(study.draw_rows(0))
    assert not taught.synthetic[: real + views].any()
    assert taught.synthetic[real + views :].all()
    assert taught.labelled(np.zeros((len(taught.labels), 1))).real.sum() == real
    masses = np.bincount(taught.wanted, taught.weights[taught.synthetic], minlength=len(counts))
    assert np.ptp((masses * (counts + 1))[masses > 0]) < 1e-6 * masses.max()
    assert taught.weights[taught.synthetic].sum() / taught.weights.sum() == pytest.approx(0.3)


def test_every_arm_is_measured_and_a_tutor_hears_features(done):
    assert {"diff-mix", "diff-mix_adjusted", "real-gen", "crt", "logit_adjustment"} <= set(
        done.metrics["arms"]
    )
    study = Study.open(done.path)
    scores = study.score(Lot("diff-mix", 0), "label")
    assert np.isfinite(scores).all()
    assert (scores <= 0).all()  # log probabilities


def test_pictures_are_shown_and_taken_away(done, tmp_path):
    assert "image/png" in (done.path / "report.html").read_text()
    assert galleries(Study.open(done.path))[0]["title"].startswith("real-gen:"), "not those of a control"
    told = CliRunner().invoke(
        app,
        [
            "export",
            str(done.path),
            "--to",
            "imagefolder",
            "--arm",
            "real-gen",
            "--out",
            str(tmp_path / "out"),
        ],
    )
    assert told.exit_code == 0, told.output
    made = done.samples("real-gen")[0]
    real = len(Study.open(done.path).draw_rows(0))
    assert len(list((tmp_path / "out").rglob("*.png"))) == real + len(made)


def test_they_can_be_judged_by_another_network(done, tiny):
    from counterpoise.judging import judge_run

    assert set(judge_run(done.path, str(tiny), "real-gen")) == {"real-gen"}


def test_the_opponent_of_the_miniature_sees_with_its_eyes_and_has_other_views(photos):
    asked = recipe(photos, "auto", strategies=("diff-mix",))
    assert asked.network.backbone == "miniature"
    roles = {
        arm.name: arm.role for arm in asked.arms if arm.fit in ("augmented", "rand_augmented", "diff-mix")
    }
    assert roles["augmented"] == roles["rand_augmented"] == roles["augmented_adjusted"] == "control"
    assert roles["diff-mix"] == "candidate"
    budgets = {item.name: item.budget for item in asked.synthesis}
    assert budgets["augmented"] == budgets["diff-mix"], "as many"
    assert asked.fit("augmented").mix.p == asked.fit("diff-mix").mix.p, "as often"


def test_other_views_are_views_of_the_pictures(done):
    study = Study.open(done.path)
    kept, _ = study.kept(Lot("augmented", 0))
    plan = study.wishes(Lot("augmented", 0), ["source_id", "label", "source_label"]).to_pydict()
    assert plan["label"] == plan["source_label"]
    place = {name: row for row, name in enumerate(study.manifest("train")["id"].to_pylist())}
    sources = study.pixels("train")[[place[name] for name in plan["source_id"]]]
    changed = (kept != sources).any((1, 2, 3))
    assert changed.mean() > 0.5


def test_guides_of_a_tutor_that_hears_features_are_refused(photos, tiny):
    with pytest.raises(
        Refusal, match=r"guides: a tutor of this study hears features .* leave out --backbone"
    ):
        recipe(photos, tiny, feedback_guided)


def test_a_clip_needs_pictures(photos, tiny):
    with pytest.raises(Refusal, match="make pictures with --base"):
        recipe(photos, tiny, feedback_guided, base="", clip="miniature")
    assert recipe(photos, tiny, clip="miniature").synthesis[0].scores[-1][0] == "clip"


def test_flags_that_would_say_nothing_are_refused(photos, tiny):
    with pytest.raises(Refusal, match="--guidance 2 is of a generator of pictures"):
        recipe(photos, tiny, feedback_guided, base="", guidance=2.0)
    with pytest.raises(Refusal, match="--components says something of a frozen backbone"):
        recipe(photos, "", feedback_guided, components=5)
