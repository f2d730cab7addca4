"""What a report is told of feedback, from hand-written tables: two draws of three classes, a sweep, rounds and needs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
from safetensors.numpy import save

from counterpoise import Data, Holdout, Trials, open_source, parse_cut, tables
from counterpoise.gains import Gains
from counterpoise.gallery import twins
from counterpoise.listening import families, feedback, reference
from counterpoise.lots import Lot
from counterpoise.metrics.evidence import paired
from counterpoise.proposals.budgets import Adaptive, ByNeed
from counterpoise.recipes.feedback_guided import feedback_guided
from counterpoise.report import feedback as told
from counterpoise.rundir import Run
from counterpoise.study import Study

NAMES = ["frequent", "<b>rare</b>", "absent"]
REAL = [6, 2, 0]
TRIALS = 6
#: Balanced accuracy and recall of the rare class, by arm and trial.
ALL = {"unguided": [0.5] * 6, "entropy_1": [0.52, 0.5, 0.54, 0.51, 0.53, 0.55], "entropy_10": [0.4] * 6}


def a_recipe(sweep=(10.0, 1.0)):
    """The recipe with its sweep, and a synthesis in rounds behind it."""
    data = Data(open_source("digits"), cut=parse_cut("exp:20:top=40"), holdout=Holdout(val=0.3, test=0.3))
    recipe = feedback_guided(data, Trials(TRIALS), criterion="entropy", sweep=sweep, draws=2)
    rounds = Adaptive(ByNeed(share=0.5), rounds=3, patience=0, growth=0.0)
    practice = replace(recipe.synthesis[1], name="rounds", budget=rounds)
    return replace(recipe, synthesis=(*recipe.synthesis, practice))


def only(recipe, names: set[str]):
    """The recipe without its other syntheses."""
    fits = {fit.name for fit in recipe.fits if fit.synthesis is None or fit.synthesis in names}
    return replace(
        recipe,
        fits=tuple(fit for fit in recipe.fits if fit.name in fits),
        arms=tuple(arm for arm in recipe.arms if arm.fit in fits),
        synthesis=tuple(item for item in recipe.synthesis if item.name in names),
    )


def write(run: Run, recipe) -> Study:
    study = Study(run, recipe)
    sizes = {"train": 8, "val": 4, "test": 0, "pool": 0}
    run.put_json("data/facts.json", {"classes": NAMES, "groups": [], "sizes": sizes})
    run.put_array("data/train/pixels.npy", np.zeros((8, 2, 2, 1), np.uint8))
    for role, labels in (("train", np.repeat([0, 1], [6, 2])), ("val", [0, 0, 0, 1])):
        ids = [f"{role}{row}" for row in range(len(labels))]
        run.put_table(
            f"data/{role}/manifest.parquet", tables.table(tables.MANIFEST, {"id": ids, "label": labels})
        )
    for draw in range(2):
        rows = tables.pa.table({"row": np.arange(8)})
        run.put_table(f"data/train/draw_{draw}.parquet", rows)
        for item in recipe.synthesis[:-1]:
            a_lot(study, Lot(item.name, draw), wanted=[0, 4, 0])
        a_tutor(study, Lot("unguided", draw), [0.5])
    # The first draw makes every round, the second gives up after two.
    for draw, history in ((0, [0.5, 0.6, 0.7]), (1, [0.5, 0.45])):
        for number in range(3 if draw == 0 else 1):
            lot = Lot("rounds", draw, number)
            if number:
                a_tutor(study, lot, history[: number + 1])
            a_lot(study, lot, wanted=[1, 2, 0])
        if draw == 1:
            a_tutor(study, Lot("rounds", 1, 1), history)
    return study


def a_lot(study: Study, lot: Lot, wanted: list[int]) -> None:
    """Samples with numbers that can be checked by hand: one of them fails, is dropped by nothing, and has no score."""
    run, label = study.run, np.repeat(np.arange(3), wanted)
    ids = [f"{lot.round}-{lot.draw}-{i}" for i in range(len(label))]
    run.put_table(lot.plan, tables.table(tables.PLAN, {"request_id": ids}, {"shards": 1, "wanted": wanted}))
    guided = bool(study.synthesis(lot.synthesis).guides)
    held = [0.0, 0.5, *[1.0] * (len(ids) - 2)] if guided else [None] * len(ids)
    columns = {
        "request_id": ids,
        "status": ["made"] * (len(ids) - 1) + ["failed"],
        "x": [bytes([i] * 4) for i in range(len(ids))],
        "held": [*held[:-1], None],
        "unfelt": [0.1 if guided else None] * (len(ids) - 1) + [None],
    }
    meta = {"shape": [2, 2, 1], "dtype": "uint8", "seconds": 2.0}
    run.put_table(lot.samples(0), tables.table(tables.SAMPLES, columns, meta))
    p = np.array([0.9, 0.6, 0.2, 0.2])[: len(ids) - 1] if guided else np.full(len(ids) - 1, 0.8)
    values = {"nearest_real": [1.0, 5.0, 3.0], "useful": [0.5, 1.0, 1.5], "label": np.log(p)}
    for name, score in values.items():
        scores = {
            "request_id": ids[:-1],
            "score": np.asarray(score)[: len(ids) - 1],
            "nearest_id": [""] * (len(ids) - 1),
        }
        run.put_table(lot.scores(name, 0), tables.table(tables.SCORES, scores))
    funnel = {"asked": len(ids), "made": len(ids) - 1, "kept": len(ids) - 1, "dropped": {}}
    chosen = {"request_id": ids, "label": label, "drop": [None] * (len(ids) - 1) + ["failed: x"]}
    run.put_table(lot.selected, tables.table(tables.SELECTION, chosen, {"funnel": funnel}))


def a_tutor(study: Study, lot: Lot, history: list[float]) -> None:
    """It takes one of three frequent rows for a rare one, and, before the last round, the rare one for a frequent one."""
    logits = np.array(
        [[9, 0, 0], [9, 0, 0], [0, 9, 0], [0, 9, 0] if lot.round == 2 else [9, 0, 0]], np.float32
    )
    notes = {"history": history, "score": history[-1], "temperature": {}}
    study.run.put_bytes(lot.tutor, save({"val/logits": logits}, {"notes": json.dumps(notes)}))


def a_metrics(recipe) -> dict:
    arms = {}
    for at, arm in enumerate(recipe.arms):
        values = ALL.get(arm.name, [0.6] * TRIALS)
        trials = [{"balanced_accuracy": v, "few": v / 2, "worst_class": 0.1} for v in values]
        arms[arm.name] = {"trials": trials, "validation": [0.4 + 0.01 * at] * TRIALS}
    return {"arms": arms}


VERDICT = {"family": {"slices": ["all", "few", "worst_class"]}}


@pytest.fixture(name="study", scope="module")
def _study(tmp_path_factory) -> Study:
    return write(Run(tmp_path_factory.mktemp("listening")), a_recipe())


@pytest.fixture(name="found", scope="module")
def _found(study) -> dict:
    return feedback(study, a_metrics(study.recipe), VERDICT)


def test_the_numbers_of_a_synthesis_are_over_all_draws_and_rounds(found):
    rows = {row["synthesis"]: row for row in found["rows"]}
    assert list(rows) == ["unguided", "entropy_10", "entropy_1", "rounds"]
    guided, plain, rounds = rows["entropy_1"], rows["unguided"], rows["rounds"]
    assert (guided["asked"], guided["kept"]) == (8, 6)
    assert (rounds["asked"], rounds["kept"]) == (3 * (3 + 1), 2 * (3 + 1)), (
        "three rounds in one draw, one in the other"
    )
    assert guided["useful"] == pytest.approx(1.0)
    assert guided["nearest"] == 3.0, "the median"
    assert guided["p"] == pytest.approx((0.9 + 0.6 + 0.2) / 3)
    assert guided["fidelity"] == pytest.approx(2 / 3)
    assert guided["held"] == pytest.approx(0.5)
    assert guided["unfelt"] == pytest.approx(0.1)
    assert (plain["held"], plain["unfelt"], plain["fidelity"]) == (None, None, 1.0)
    assert (guided["guides"], plain["guides"]) == (["entropy × 1"], [])
    for row in rows.values():
        assert set(row) == set(get_type_hints(told.Listener))
    assert set(found) == set(get_type_hints(told.Feedback))
    json.dumps(found, allow_nan=False)


def test_a_gain_is_what_the_verdict_would_call_the_difference(study, found):
    gain = next(row for row in found["rows"] if row["synthesis"] == "entropy_1")["gain"]
    expected = paired(ALL["entropy_1"], ALL["unguided"])  # two draws tie nothing: six trials, six units
    assert list(gain) == ["all", "few"], "of all classes and of the rare ones"
    assert gain["all"] == pytest.approx(
        {"mean": 100 * expected.mean, "low": 100 * expected.low, "high": 100 * expected.high, "p": expected.p}
    )
    assert gain["few"]["mean"] == pytest.approx(50 * expected.mean)
    swapped = Gains(study, a_metrics(study.recipe), VERDICT)("unguided", "entropy_1")
    assert swapped["all"]["mean"] == pytest.approx(-gain["all"]["mean"])


def test_two_trials_bound_nothing_and_none_is_drawn():
    metrics = {
        "arms": {
            name: {"trials": [{"balanced_accuracy": v} for v in values[:1]]} for name, values in ALL.items()
        }
    }
    recipe = replace(a_recipe(), trials=Trials(1))
    gains = Gains(Study(Run(None), recipe), metrics, {"family": {"slices": ["all"]}})  # type: ignore[arg-type]
    assert gains("entropy_1", "unguided")["all"] == pytest.approx(
        {"mean": 2.0, "low": None, "high": None, "p": 1.0}
    )


def test_samples_are_compared_with_unguided_ones_of_the_same_number(study, found):
    rows = {row["synthesis"]: row for row in found["rows"]}
    assert (rows["unguided"]["against"], rows["unguided"]["gain"]) == ("", {})
    assert (rows["entropy_1"]["against"], rows["entropy_1"]["same_budget"]) == ("unguided", True)
    assert (rows["rounds"]["against"], rows["rounds"]["same_budget"]) == ("unguided", False)
    assert rows["rounds"]["gain"] == {}, "it has no arm"
    assert families(study) == [["unguided", "entropy_10", "entropy_1"]]
    later = replace(study.synthesis("unguided"), name="other", budget=study.synthesis("rounds").budget)
    more = Study(study.run, replace(study.recipe, synthesis=(*study.recipe.synthesis, later)))
    assert reference(more, more.synthesis("rounds")) == later
    assert reference(more, later) == more.synthesis("unguided")


def test_a_sweep_goes_from_unguided_to_strongest_and_names_what_validation_chose(found):
    (sweep,) = found["sweeps"]
    assert [point["scale"] for point in sweep["points"]] == [0, 1, 10]
    assert [point["synthesis"] for point in sweep["points"]] == ["unguided", "entropy_1", "entropy_10"]
    assert sweep["chosen"] == "entropy_1", "the last of these arms, which has the best validation here"
    assert sweep["guide"] == "entropy"


def test_one_scale_is_no_sweep(study):
    fewer = Study(study.run, only(study.recipe, {"unguided", "entropy_1"}))
    assert feedback(fewer, a_metrics(study.recipe), VERDICT)["sweeps"] == []


def test_rounds_say_why_they_ended(found):
    (practice,) = found["practices"]
    first, second = practice["draws"]
    assert first == {"history": [50.0, 60.0, 70.0], "learnt": [0, 2, 4], "asked": 9, "rounds": 3, "waited": 0}
    assert second == {"history": [50.0, 45.0], "learnt": [0, 2], "asked": 3, "rounds": 1, "waited": 1}
    assert practice["whole"] == 4, "two rare ones up to six"
    assert practice["sentence"] == (
        "In 1 of 2 draws it stopped after 1 round, none of them with gain; in 1 of 2 draws all 3 rounds were made."
    )


def test_the_neediest_come_first_with_what_they_got(found):
    (table,) = found["needs"]
    assert (table["synthesis"], table["of"], table["draws"], table["left_out"]) == ("rounds", "error", 2, 0)
    rare, frequent = table["rows"]
    assert rare == {"name": NAMES[1], "need": 1.0, "last": 0.0, "real": 2, "made": 6}
    assert frequent == pytest.approx({"name": "frequent", "need": 1 / 3, "last": 1 / 3, "real": 6, "made": 3})


def test_without_a_tutor_there_is_nothing(study):
    plain = only(study.recipe, {"unguided"})
    deaf = replace(plain.synthesis[0], tutor=None, scores=())
    assert feedback(Study(study.run, replace(plain, synthesis=(deaf,))), {}, {}) == {}


def test_twins_began_as_the_same_noise(study):
    (rare,) = twins(study, families(study))
    assert (rare["class_name"], rare["real"]) == (NAMES[1], 2)
    assert [line["synthesis"] for line in rare["lines"]] == ["unguided", "entropy_10", "entropy_1"]
    assert [[image.flat[0] for image in line["images"]] for line in rare["lines"]] == [[0, 1, 2]] * 3
    assert twins(study, []) == []
