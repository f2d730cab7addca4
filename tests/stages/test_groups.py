"""Data with groups, and samples that start from noise and so belong to none, from the manifest to the report."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import photo

from counterpoise import Data, Holdout, Trials, open_source, run
from counterpoise.arms import by_group
from counterpoise.gathering import rows_of
from counterpoise.generators.simple import Copies
from counterpoise.proposals.pairings import FromNoise, SameClass
from counterpoise.recipes.balanced_diffusion import balanced_diffusion
from counterpoise.study import Study

ROWS = {"train": ((14, 6), (5, 4)), "val": ((4, 4), (4, 4)), "test": ((4, 4), (4, 4))}  # class x group
NAMES = ("field", "snow")


@pytest.fixture(name="grouped", scope="module")
def _grouped(tmp_path_factory) -> Path:
    """A manifest of two classes in two groups; one image of each class and split is in no group."""
    root = tmp_path_factory.mktemp("grouped")
    rows = [
        (label, name, split)
        for split, counts in ROWS.items()
        for label, cells in enumerate(counts)
        for name, count in [*zip(NAMES, cells, strict=True), ("", 1)]
        for _ in range(count)
    ]
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "split"])
        for number, (label, name, split) in enumerate(rows):
            photo(label, number, size=8).save(root / f"{number}.png")
            table.writerow([f"{number}.png", "ab"[label], name, split])
    return root / "metadata.csv"


@pytest.fixture(name="study", scope="module")
def _study(grouped, tmp_path_factory) -> Study:
    """Diffusion beside the arms that look at groups, to the report."""
    data = Data(open_source(str(grouped)), holdout=Holdout())
    recipe = balanced_diffusion(data, Trials(2), smoke=True, fit_steps=8, steps=6, width=4)
    copies = replace(recipe.synthesis[0], name="copies", generator=Copies())
    fits, arms = by_group(())
    recipe = replace(
        recipe,
        fits=(*recipe.fits, *fits),
        arms=(*recipe.arms, *arms),
        synthesis=(*recipe.synthesis, copies),
    )
    return Study.open(run(recipe, tmp_path_factory.mktemp("runs") / "run").path)


def test_it_ends_in_a_report_with_the_worst_group(study):
    assert (study.run / "report.html").exists()
    assert study.groups == list(NAMES)
    assert "worst_group" in study.run.json("verdict.json")["family"]["slices"]
    arms = study.run.json("metrics.json")["arms"]
    assert {"diffusion", "balanced_diffusion", "group_balanced", "group_dro", "dfr"} <= set(arms)
    assert all(0 <= trial["adjusted_average"] <= 1 for arm in arms.values() for trial in arm["trials"])


def test_a_sample_is_in_the_group_of_its_source_and_from_noise_in_none(study):
    pairings = {item.name: type(item.pairing) for item in study.recipe.synthesis}
    assert (pairings["diffusion"], pairings["copies"]) == (FromNoise, SameClass)
    for name in ("diffusion", "copies"):
        _, labels, groups, synthetic = rows_of(study, 0, name)
        assert len(labels) == len(groups) == len(synthetic)
        assert groups.dtype == np.int64
        assert sorted(set(groups[~synthetic])) == [-1, 0, 1], "real rows keep theirs, unknown ones included"
    _, _, groups, synthetic = rows_of(study, 0, "diffusion")
    assert (groups[synthetic] == -1).all()
    _, _, groups, synthetic = rows_of(study, 0, "copies")
    manifest, (_, selection) = study.manifest("train").to_pylist(), study.kept(study.lots()[-1])
    plan = {row["request_id"]: row for row in study.run.table(study.lots()[-1].plan).to_pylist()}
    group_of = {row["id"]: row["group"] for row in manifest}
    sources = [plan[name]["source_id"] for name in selection["request_id"].to_pylist()]
    assert groups[synthetic].tolist() == [group_of[source] for source in sources]
