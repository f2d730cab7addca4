"""Groups that only the test images name, as of Waterbirds: trained without them, judged by each, by their mean and the worst."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from studies import photo

from counterpoise import Data, Holdout, Refusal, Trials, open_source, run
from counterpoise.recipes.interclass_mix import interclass_mix
from counterpoise.study import Study

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

BIRDS = ("finch", "heron")
GROUPS = ("on land", "on water", "in the air")
TESTED = {"finch": (6, 5, 3), "heron": (4, 6, 0)}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    root = tmp_path_factory.mktemp("birds")
    rows = [
        (bird, "", split)
        for bird in BIRDS
        for split, count in (("train", 12), ("val", 5))
        for _ in range(count)
    ]
    rows += [
        (bird, group, "test")
        for bird in BIRDS
        for group, count in zip(GROUPS, TESTED[bird], strict=True)
        for _ in range(count)
    ]
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "split"])
        for number, (bird, group, split) in enumerate(rows):
            photo(BIRDS.index(bird), number, size=16).save(root / f"{number}.png")
            table.writerow([f"{number}.png", bird, group, split])
    return root / "metadata.csv"


def recipe(listed, **flags):
    data = Data(open_source(str(listed)), size=16, holdout=Holdout())
    flags = {"fit_steps": 2, "steps": 6, "width": 4, "times": 1.0, "superclass": "bird"} | flags
    return interclass_mix(data, Trials(2), base="miniature", strategies=("real-mix",), smoke=True, **flags)


@pytest.fixture(scope="module")
def study(listed, tmp_path_factory) -> Study:
    return Study.open(run(recipe(listed), tmp_path_factory.mktemp("runs") / "run").path)


def test_training_rows_are_in_no_group(study):
    assert study.groups == sorted(GROUPS)
    for role in ("train", "val"):
        assert (study.group_ids(role) == -1).all()
    assert np.bincount(study.group_ids("test")).tolist() == [3, 10, 11]


def test_every_arm_is_judged_by_group(study):
    """Accuracy of each group, their mean, whatever their sizes, and the worst; from the predictions themselves."""
    metrics = study.run.json("metrics.json")
    for name, arm in metrics["arms"].items():
        fit = arm["fit"]
        files = (study.run / "evaluate" / fit).glob("*.parquet")
        rows = [
            row
            for file in sorted(files)
            for row in study.run.table(str(file.relative_to(study.run.path))).to_pylist()
        ]
        for trial, found in enumerate(arm["trials"]):
            mine = [row for row in rows if (row["arm"], row["trial"]) == (name, trial)]
            each = [
                np.mean([row["predicted"] == row["label"] for row in mine if row["group"] == group])
                for group in range(3)
            ]
            assert found["group_mean"] == pytest.approx(np.mean(each))
            assert found["worst_group"] == pytest.approx(min(each))
            assert "adjusted_average" not in found, "of the training rows no group is known"
        hits = np.array([[group["accuracy"] * group["test"] for group in arm["groups"]]])
        assert [group["name"] for group in arm["groups"]] == study.groups
        assert [group["test"] for group in arm["groups"]] == [3, 10, 11]
        right = [
            sum(row["predicted"] == row["label"] for row in rows if row["arm"] == name and row["group"] == g)
            for g in range(3)
        ]
        assert hits[0] == pytest.approx(np.array(right) / 2)


def test_the_verdict_and_the_report_speak_of_the_worst_group(study):
    assert {"worst_group", "worst_cell"} <= set(study.run.json("verdict.json")["family"]["slices"])
    page = (study.run / "report.html").read_text(encoding="utf-8")
    table = page.split('<section id="groups">')[1].split("</section>")[0]
    for group in (*GROUPS, "mean of the groups", "worst group"):
        assert group in table


def test_arms_that_need_groups_to_learn_from_are_refused(listed, tmp_path):
    with pytest.raises(Refusal, match="group"):
        run(recipe(listed, groups=True), tmp_path / "run", until="teach")
