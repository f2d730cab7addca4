"""What a classifier may not see, no generator sees: from the fit to the scores, every row that is handed over is looked at."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from counterpoise import Data, Holdout, Refusal, Trials, open_source, parse_cut, run
from counterpoise.crossfitting import FoldFile, fold_units
from counterpoise.generators.diffusing import Diffusing
from counterpoise.generators.generator import Context
from counterpoise.generators.simple import Copies
from counterpoise.lots import Lot
from counterpoise.proposals.budgets import Fixed
from counterpoise.proposals.pairings import FromAny
from counterpoise.recipes.interclass_mix import interclass_mix
from counterpoise.spaces.latents import Latents
from counterpoise.spaces.store import Store
from counterpoise.stages.generate import real_rows
from counterpoise.study import Study

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

CLASSES = {"apple": 30, "rose": 24, "trout": 20}
DRAWS = 2


class Watch:
    """All pictures that reach a generator, by the draw whose generator it is and by the way they come."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
        self.draw = 0
        fit, posterior, rows = Diffusing.fit, Latents.posterior, Store.rows

        def watched_fit(generator, lesson, out, seed):
            self.turn(out)
            self.note("lesson", lesson.rows.raw(np.arange(len(lesson.rows))))
            fit(generator, lesson, out, seed)

        def watched_load(load):
            def opened(generator, out, ctx):
                self.turn(out)

                def real(ids):
                    found = ctx.real(ids)
                    self.note("sources", found)
                    return found

                return load(generator, out, replace(ctx, real=real))

            return opened

        def watched_posterior(space, pictures, mirrored=False):
            self.note("encoded", pictures)
            return posterior(space, pictures, mirrored)

        def watched_rows(store, pictures, encode):
            if "latents" in str(store.folder):
                self.note("cached", pictures)
            return rows(store, pictures, encode)

        patch.setattr(Diffusing, "fit", watched_fit)
        patch.setattr(Latents, "posterior", watched_posterior)
        patch.setattr(Store, "rows", watched_rows)
        for kind in (Diffusing, Copies):
            patch.setattr(kind, "load", watched_load(kind.load))

    def turn(self, out) -> None:
        self.draw = int(out.name.removeprefix("draw_"))

    def note(self, way: str, pictures: np.ndarray) -> None:
        self.seen[way][self.draw] |= {np.asarray(picture).tobytes() for picture in pictures}


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Every picture is one colour of its own, so that none is taken for another."""
    root = tmp_path_factory.mktemp("canaries")
    rng = np.random.default_rng(0)
    for name, count in CLASSES.items():
        (root / "photos" / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((16, 16, 3), rng.integers(1, 255, 3), np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{index}.png")
    data = Data(
        open_source(str(root / "photos")),
        size=16,
        holdout=Holdout(val=0.15, test=0.2, pool=0.1),
        cut=parse_cut("few:5"),
    )
    recipe = interclass_mix(
        data,
        Trials(2),
        base="miniature",
        backbone="none",
        strategies=("diff-mix",),
        adaptive=True,
        measured=True,
        times=1.5,
        draws=DRAWS,
        fit_steps=2,
        steps=4,
        width=4,
        smoke=True,
    )
    (mix,) = recipe.synthesis
    few = replace(mix.budget, pilot=4)
    mix = replace(mix, generator=replace(mix.generator, steps=4), budget=few)
    copies = replace(mix, name="copies", generator=Copies(), budget=Fixed(9), pairing=FromAny())
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        made = run(replace(recipe, synthesis=(mix, copies)), root / "run", until="train")
    return Study.open(made.path), watch.seen


def allowed(study: Study, draw: int) -> set[bytes]:
    pixels = study.pixels("train")
    return {np.asarray(pixels[row]).tobytes() for row in study.draw_rows(draw)}


def test_there_are_canaries_of_every_kind(watched):
    study, _ = watched
    sizes = study.facts["sizes"]
    assert min(sizes[role] for role in ("val", "test", "pool")) > 3
    assert all(len(study.draw_rows(draw)) == 15 < sizes["train"] for draw in range(DRAWS))
    assert allowed(study, 0) != allowed(study, 1), "a draw's canaries are another's rows"
    known = [np.asarray(p).tobytes() for role in ("train", "val", "test", "pool") for p in study.pixels(role)]
    assert len(set(known)) == len(known)


def test_no_generator_is_ever_given_what_its_draw_has_not(watched):
    study, seen = watched
    assert {lot.round for lot in study.lots()} == {0, 1}
    assert set(seen) == {"lesson", "sources", "encoded", "cached"}
    for way, draws in seen.items():
        assert set(draws) == set(range(DRAWS)), way
        for draw, pictures in draws.items():
            assert pictures, way
            assert pictures <= allowed(study, draw), f"{way} of draw {draw}"
    assert all(seen["lesson"][draw] == allowed(study, draw) for draw in range(DRAWS)), "and all of it is used"


def test_plans_and_teachers_name_rows_of_their_draw_only(watched):
    study, _ = watched
    named = study.manifest("train")["id"].to_pylist()
    for lot in study.lots():
        mine = {named[row] for row in study.draw_rows(lot.draw)}
        asked = study.run.table(lot.plan, ["source_id", "partner_id"]).to_pydict()
        assert set(asked["source_id"]) | set(asked["partner_id"]) <= mine | {None}
        if lot.synthesis == "diff-mix":
            for unit in fold_units(study, lot, 5):
                assert set(FoldFile(study, unit).notes["unseen"]) <= mine


def test_a_row_that_is_cut_away_or_held_out_is_refused_by_name(watched):
    study, _ = watched
    lot = Lot("copies", 0)
    read, named = real_rows(study, lot), study.manifest("train")["id"].to_pylist()
    mine = study.draw_rows(0)
    assert (read([named[mine[3]]]) == study.pixels("train")[mine[3]]).all()
    (cut_away, *_) = set(range(len(named))) - set(mine.tolist())
    others = [study.manifest(role)["id"][0].as_py() for role in ("val", "test", "pool")]
    for stranger in (named[cut_away], *others):
        with pytest.raises(Refusal, match=r"asks for 1 others.*--redo plan"):
            read([named[mine[0]], stranger])


def test_the_run_stops_at_such_a_plan(watched, tmp_path):
    """A plan that somebody changed: the row is not read, whatever else is right about it."""
    study, _ = watched
    lot = Lot("copies", 0)
    plan = study.run.table(lot.plan).to_pylist()
    named = study.manifest("train")["id"].to_pylist()
    (cut_away, *_) = set(range(len(named))) - set(study.draw_rows(0).tolist())
    with pytest.raises(Refusal, match=named[cut_away]):
        study.synthesis("copies").generator.load(tmp_path, Context(real_rows(study, lot)))(
            [plan[0] | {"source_id": named[cut_away]}]
        )
