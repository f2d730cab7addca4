"""What a manifest says of its pictures reaches the generator row by row, through split and cut, and nothing else does."""

from __future__ import annotations

import csv

from studies import photo

from counterpoise import Data, Holdout, Trials, open_source, parse_cut
from counterpoise.generators.pixel_diffusion import PixelDiffusion
from counterpoise.recipes.balanced_diffusion import balanced_diffusion
from counterpoise.stages import fit
from counterpoise.study import Study


def taught(folder, to, monkeypatch, captioned: bool):
    from counterpoise.pipeline import execute

    folder.mkdir()
    with open(folder / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split", "caption"])
        for number in range(60):
            split = "unlabelled" if number % 10 == 0 else "train" if number % 3 else "test"
            photo(number % 2, number, size=8).save(folder / f"{number}.png")
            caption = f"caption {number}" if captioned and number % 4 else ""
            table.writerow([f"{number}.png", "ab"[number % 2], split, caption])
    data = Data(open_source(str(folder / "metadata.csv")), cut=parse_cut("exp:5"), holdout=Holdout(val=0.2))
    recipe = balanced_diffusion(data, Trials(1), smoke=True, fit_steps=2, steps=2, width=4)
    study = Study.open(execute(recipe, to, until="audit").path)
    lessons = []
    monkeypatch.setattr(PixelDiffusion, "fit", lambda self, lesson, out, seed: lessons.append(lesson))
    fit.work(study, fit.units(study)[0])
    kept = study.manifest("train").take(study.draw_rows(0))
    return study, lessons[0], kept["uri"].to_pylist()


def test_a_caption_stays_with_its_row(tmp_path, monkeypatch):
    study, lesson, uris = taught(tmp_path / "data", tmp_path / "run", monkeypatch, captioned=True)
    numbers = [int(uri.removesuffix(".png")) for uri in uris]
    assert len(numbers) > 4
    assert lesson.captions == [f"caption {number}" if number % 4 else None for number in numbers]
    assert study.manifest("pool")["caption"].null_count == len(study.manifest("pool")) > 0


def test_where_nobody_said_anything_there_are_none(tmp_path, monkeypatch):
    _, lesson, _ = taught(tmp_path / "data", tmp_path / "run", monkeypatch, captioned=False)
    assert lesson.captions is None
