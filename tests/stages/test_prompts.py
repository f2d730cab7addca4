"""Texts reach the rows of a plan: of their class or cell, in its order, from captions of the draw; and so do strengths by shots."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from studies import photo, small

from counterpoise import Holdout
from counterpoise.diffusion.ladder import cut
from counterpoise.generators.stable_diffusion import StableDiffusion
from counterpoise.lots import Lot
from counterpoise.pipeline import execute
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import FromNoise, SameClass, ordinal
from counterpoise.proposals.prompts import Captions, Grammar, Shown, Templates
from counterpoise.proposals.strengths import ByShots
from counterpoise.recipe import Synthesis
from counterpoise.stages import plan
from counterpoise.study import Study

pytest.importorskip("diffusers", reason="the generative extra is not installed")
PLACES = ("field", "snow")


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    """Two classes in two groups, and a caption for most pictures."""
    root = tmp_path_factory.mktemp("captioned")
    with open(root / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group", "split", "caption"])
        for number in range(40):
            label, group = number % 2, number // 2 % 2
            photo(label, number, size=8).save(root / f"{number}.png")
            split = ("train", "train", "train", "val", "test")[number // 8]
            caption = "" if number % 8 == 0 else f"a {('fox', 'crane')[label]} in place {number}"
            table.writerow([f"{number}.png", ("fox", "crane")[label], PLACES[group], split, caption])
    return root / "metadata.csv"


def planned(data, to, **settings) -> tuple[Study, list[dict], dict]:
    recipe = small(data, steps=2, holdout=Holdout(), cut=settings.pop("cut", "none"))
    more = {"generator": StableDiffusion(), "budget": Fixed(6), "pairing": FromNoise()} | settings
    glossary = (("crane", "crane, a bird"),)
    recipe = replace(
        recipe,
        data=replace(recipe.data, glossary=glossary),
        synthesis=(*recipe.synthesis, Synthesis("made", **more)),
    )
    study = Study.open(execute(recipe, to, until="audit").path)
    lot = Lot("made", 0)
    assert lot.plan in plan.units(study)
    plan.work(study, lot.plan)
    return study, study.run.table(lot.plan).to_pylist(), study.run.meta(lot.plan)


def test_without_a_writer_the_generator_has_its_own(data, tmp_path):
    _, rows, meta = planned(data, tmp_path / "run")
    assert [row["prompt"] for row in rows] == [None] * 12
    assert "prompts" not in meta


def test_each_row_has_the_text_of_its_class_and_number(data, tmp_path):
    study, rows, meta = planned(
        data, tmp_path / "run", prompts=Grammar(), pairing=SameClass(strength=(0.3, 0.9))
    )
    made = Grammar()(["crane, a bird", "fox"], np.array([6, 6]), study.seed("prompts", 0, 0))
    assert len({row["strength"] for row in rows}) == 2, "so that they are not in the order of the pairing"
    for row in rows:
        assert row["prompt"] == made.texts[row["label"]][ordinal(row["request_id"])]
    assert meta["prompts"] == made.told
    assert (meta["shards"], meta["wanted"]) == (1, [6, 6])


def test_cells_are_told_with_their_groups(data, tmp_path):
    names = ["crane, a bird / field", "crane, a bird / snow", "fox / field", "fox / snow"]
    study, rows, _ = planned(data, tmp_path / "run", prompts=Templates("cifar10"), by_group=True)
    made = Templates("cifar10")(names, np.full(4, 6), study.seed("prompts", 0, 0))
    for row in rows:
        assert row["prompt"] == made.texts[2 * row["label"] + row["group"]][ordinal(row["request_id"])]


def test_captions_are_those_of_the_draw(data, tmp_path):
    study, rows, _ = planned(data, tmp_path / "run", prompts=Captions(), cut="exp:3", budget=Fixed(40))
    known = study.manifest("train")
    kept = study.draw_rows(0)
    assert len(kept) < len(known)
    for label in (0, 1):
        said = {row["prompt"] for row in rows if row["label"] == label}
        mine = [row for row in kept.tolist() if known["label"][row].as_py() == label]
        there = {known["caption"][row].as_py() for row in mine} - {None}
        assert said == {f"{{a}} {text.split(' ', 2)[2]}" for text in there}


def test_the_pictures_of_the_draw_are_what_a_captioner_would_see(data, tmp_path, monkeypatch):
    seen: list[Shown] = []
    whole = Captions.__call__
    monkeypatch.setattr(
        Captions,
        "__call__",
        lambda self, names, wanted, seed, captions: (
            seen.append(captions) or whole(self, names, wanted, seed, captions)
        ),
    )
    study, _, _ = planned(data, tmp_path / "run", prompts=Captions(), cut="exp:3")
    (shown,) = seen
    everyone, kept = np.arange(len(study.draw_rows(0))), study.draw_rows(0)
    np.testing.assert_array_equal(shown.pictures.raw(everyone), study.pixels("train")[kept])
    np.testing.assert_array_equal(shown.labels, study.labels("train")[kept])


def test_strengths_by_shots_are_those_of_the_generators_own_ladder(data, tmp_path):
    study, rows, _ = planned(data, tmp_path / "run", pairing=SameClass(strength=ByShots()), cut="exp:3")
    counts, ladder = study.counts(), StableDiffusion().ladder()
    assert counts[0] != counts[1]
    for row in rows:
        assert row["strength"] == pytest.approx(
            StableDiffusion().strength_at(ByShots()(int(counts[row["label"]]))), abs=1e-6
        )
        assert 0 < len(cut(ladder, row["strength"])) <= len(ladder)
