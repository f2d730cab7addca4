"""A run as the stages see it: the recipe, where each artefact lies, and typed reading of what earlier stages wrote.

Only intake writes `data/`, and only `evaluate` may ask for `role="test"`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import safe_open

from counterpoise.data.pixels import Rows
from counterpoise.lots import Lot
from counterpoise.nets.words import called
from counterpoise.recipe import Fit, Recipe, Synthesis
from counterpoise.rundir import MARKER, Run
from counterpoise.seeding import derive
from counterpoise.spaces.projection import Projection
from counterpoise.types import Refusal, load

LISTING = "data/listing.parquet"
ROWS_PER_SLICE = 500
ROWS_PER_FEATURE_FILE = 512


@dataclass(frozen=True)
class Study:
    run: Run
    recipe: Recipe

    @classmethod
    def open(cls, path: str | Path) -> Study:
        run = Run.open(path)
        return cls(run, load(run.json(MARKER)["recipe"]))

    def check_source(self) -> None:
        """Refuse to go on with data that changed since they were listed."""
        if not self.run.has(LISTING):
            return
        listed = self.run.meta(LISTING)["state"]
        if self.recipe.data.source.state() != listed:
            raise Refusal(
                f"the data in {self.recipe.data.source} changed since this run listed them: "
                "use another directory, or --redo intake"
            )

    # --- what intake saw ---------------------------------------------------------------------------------------

    def slices(self) -> list[str]:
        """The listing in fixed slices: a table each of what was found in its images."""
        rows = self.run.table(LISTING, ["id"]).num_rows
        return [f"data/slices/{i:05d}.parquet" for i in range(-(-rows // ROWS_PER_SLICE))]

    def seen(self, columns: list[str] | None = None) -> pa.Table:
        """Every listed image with what intake found in it, whatever its role."""
        return pa.concat_tables([self.run.table(name, columns) for name in self.slices()])

    # --- the data ------------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> dict:
        """What intake decided: class and group names, working size, channels, counts."""
        return self.run.json("data/facts.json")

    @property
    def classes(self) -> list[str]:
        return self.facts["classes"]

    @cached_property
    def called(self) -> list[str]:
        """The classes as text models are told them."""
        return called(self.classes, dict(self.recipe.data.glossary))

    @property
    def groups(self) -> list[str]:
        return self.facts["groups"]

    def manifest(self, role: str) -> pa.Table:
        return self.run.table(f"data/{role}/manifest.parquet")

    def pool(self, draw: int = 0, synthesis: str = "") -> Rows | None:
        """The unlabelled images, where there are any, as its generator sees them."""
        return Rows.of(self.shown("pool", draw, synthesis)) if self.facts["sizes"]["pool"] else None

    def pixels(self, role: str) -> np.ndarray:
        """The decoded cache of a role: a memory-mapped uint8 array (n, h, w, c)."""
        return self.run.array(f"data/{role}/pixels.npy")

    def draw_rows(self, draw: int) -> np.ndarray:
        """Which rows of data/train the cut of this draw keeps."""
        return self.run.table(f"data/train/draw_{draw}.parquet", ["row"])["row"].to_numpy()

    def labels(self, role: str) -> np.ndarray:
        return self.manifest(role)["label"].to_numpy().astype(np.int64)

    def group_ids(self, role: str) -> np.ndarray | None:
        if not self.groups:
            return None
        return self.manifest(role)["group"].to_numpy().astype(np.int64)

    def counts(self, draw: int = 0) -> np.ndarray:
        """Real training images per class: shot bins are always by these."""
        return np.bincount(self.labels("train")[self.draw_rows(draw)], minlength=len(self.classes))

    # --- the space a classifier works in ---------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether classifiers are heads on cached features of a frozen backbone."""
        return bool(getattr(self.recipe.network, "frozen", False))

    @property
    def projected(self) -> bool:
        """Whether those features are brought down to their principal components, those of each draw's training rows."""
        return self.frozen and self.recipe.network.components is not None

    def own_space(self, synthesis: str | None) -> bool:
        """Whether the samples of a synthesis are codes of its generator's own encoder."""
        found = [item.generator for item in self.recipe.synthesis if item.name == synthesis]
        return any(generator.own_space for generator in found)

    def pictured(self, synthesis: str | None) -> bool:
        """Whether its samples are pictures, though classifiers see features."""
        found = [item.generator.spaces for item in self.recipe.synthesis if item.name == synthesis]
        return self.frozen and any("features" not in spaces for spaces in found)

    def pictures(self, synthesis: str) -> bool:
        """Whether its samples can be looked at."""
        return self.pictured(synthesis) or not (self.frozen or self.own_space(synthesis))

    def linear(self, fit: Fit) -> bool:
        """Whether a fit trains linear heads on vectors that are there, not a network."""
        return self.frozen or self.own_space(fit.synthesis)

    def vectors(self, role: str, draw: int = 0, synthesis: str | None = None) -> np.ndarray:
        """Every row of a role as the classifier sees it: pixels (n, h, w, c) uint8, features or codes (n, d) float32.

        Codes are those of the generator that `synthesis` fitted to this draw, if it has a space of its own.
        """
        if self.own_space(synthesis):
            assert synthesis is not None
            return np.array(self.run.array(self.codes(Lot(synthesis, draw), role)))
        if not self.frozen:
            return self.pixels(role)
        parts = [self.run.array(name) for name in self.feature_units(role)]
        if not parts:
            return np.zeros((0, 1), np.float32)
        return np.concatenate([self.brought_down(part, draw) for part in parts])

    def brought_down(self, features: np.ndarray, draw: int) -> np.ndarray:
        """Features of the backbone as the classifier sees them."""
        return self.projection(draw)(features) if self.projected else features

    def shown(self, role: str, draw: int, synthesis: str) -> np.ndarray:
        """Every row of a role as the generator of a synthesis sees it."""
        return self.pixels(role) if self.pictured(synthesis) else self.vectors(role, draw)

    def row_shape(self, synthesis: str = "") -> tuple[tuple[int, ...], str]:
        """Of a sample: its shape and dtype. No rows are read."""
        if self.pictures(synthesis):
            return self.pixels("train").shape[1:], "uint8"
        if self.own_space(synthesis):
            return self.run.array(self.codes(Lot(synthesis, 0), "train")).shape[1:], "float32"
        if self.projected:
            return (self.projection(0).basis.shape[1],), "float32"
        return self.run.array(self.feature_units("train")[0]).shape[1:], "float32"

    def feature_units(self, role: str) -> list[str]:
        if not self.frozen:
            return []
        files = -(-self.facts["sizes"][role] // ROWS_PER_FEATURE_FILE)
        return [f"features/{role}/{i:05d}.npy" for i in range(files)]

    def projection(self, draw: int) -> Projection:
        with safe_open(self.run / self.projection_unit(draw), "np") as file:
            return Projection.from_arrays({name: file.get_tensor(name) for name in ("mean", "basis")})

    def projection_unit(self, draw: int) -> str:
        return f"features/projection/draw_{draw}.safetensors"

    def codes(self, lot: Lot, role: str) -> str:
        return f"codes/{self._fitted(lot).place}/{role}.npy"

    def code_units(self, role: str) -> list[str]:
        if not self.facts["sizes"][role]:
            return []
        return list(
            dict.fromkeys(self.codes(lot, role) for lot in self.lots() if self.own_space(lot.synthesis))
        )

    # --- samples -------------------------------------------------------------------------------------------

    def synthesis(self, name: str) -> Synthesis:
        return next(item for item in self.recipe.synthesis if item.name == name)

    def first_lots(self) -> list[Lot]:
        """Those of the first round: one per draw and synthesis."""
        draws = range(self.recipe.trials.draws)
        return [Lot(item.name, draw) for draw in draws for item in self.recipe.synthesis]

    def lots(self) -> list[Lot]:
        """Every lot of samples that the study has so far."""
        return [lot for first in self.first_lots() for lot in self.rounds(first)]

    def rounds(self, lot: Lot) -> list[Lot]:
        """The lots of a synthesis and draw: the first, and one for each round whose tutor said to go on."""
        item, found = self.synthesis(lot.synthesis), [replace(lot, round=0)]
        for number in range(1, item.rounds):
            later = replace(lot, round=number)
            if not self.run.has(later.tutor) or not item.budget.goes_on(self.history(later)):
                break
            found.append(later)
        return found

    def history(self, lot: Lot) -> list[float]:
        """Validation scores of the tutors of all rounds up to this one; the first has seen real rows only."""
        with safe_open(self.run / self.tutor_of(lot), "np") as file:
            return json.loads(file.metadata()["notes"])["history"]

    def tutor_of(self, lot: Lot) -> str:
        """Where the tutor of a lot lies. In the first round, before any sample, equal tutors are one."""
        if lot.round:
            return lot.tutor
        mine = self.synthesis(lot.synthesis)
        alike = lambda item: (item.tutor, item.by_group) == (mine.tutor, mine.by_group)  # noqa: E731
        return Lot(next(item.name for item in self.recipe.synthesis if alike(item)), lot.draw).tutor

    def _fitted(self, lot: Lot) -> Lot:
        """The lot whose generator this one samples from: the first one with the same settings."""
        mine = self.synthesis(lot.synthesis)
        alike = lambda item: (item.generator, item.by_group) == (mine.generator, mine.by_group)  # noqa: E731
        return Lot(next(item.name for item in self.recipe.synthesis if alike(item)), lot.draw)

    def generator_of(self, lot: Lot) -> str:
        """Where the weights lie that make this lot. Syntheses that differ only in their plans share them."""
        return f"generators/{self._fitted(lot).place}"

    def shards(self, lot: Lot) -> range:
        return range(self.run.meta(lot.plan)["shards"])

    def kept(self, lot: Lot) -> tuple[np.ndarray, pa.Table]:
        """The selected samples of one round and their rows of the selection, in the same order."""
        selection = self.run.table(lot.selected)
        return self.run.array(lot.kept), selection.filter(pc.is_null(selection["drop"]))

    def kept_vectors(self, lot: Lot) -> np.ndarray:
        """The selected samples of one round as the classifier sees them."""
        return self.run.array(lot.embedded if self.pictured(lot.synthesis) else lot.kept)

    def kept_of(self, lot: Lot) -> tuple[np.ndarray, pa.Table]:
        """The selected samples of all its rounds, one behind the other, and their rows of the selections."""
        arrays, tables = zip(*(self.kept(one) for one in self.rounds(lot)), strict=True)
        return _stacked(arrays), pa.concat_tables(tables)

    def kept_vectors_of(self, lot: Lot) -> np.ndarray:
        """The same samples as the classifier sees them."""
        return _stacked([self.kept_vectors(one) for one in self.rounds(lot)])

    def wishes(self, lot: Lot, columns: list[str]) -> pa.Table:
        """What the plan says of the selected samples of one round, in the same order: `select` keeps that of the plan."""
        return self.run.table(lot.plan, columns).filter(
            pc.is_null(self.run.table(lot.selected, ["drop"])["drop"])
        )

    def score(self, lot: Lot, name: str) -> np.ndarray:
        """One score of the selected samples of one round, in the same order."""
        files = (self.run.table(lot.scores(name, shard)) for shard in self.shards(lot))
        found = {row["request_id"]: row["score"] for file in files for row in file.to_pylist()}
        kept = self.wishes(lot, ["request_id"])["request_id"].to_pylist()
        return np.array([found[request] for request in kept], np.float64)

    # --- cells: a class in a group -------------------------------------------------------------------------

    def cells(self, role: str) -> np.ndarray:
        """Class x group cell of every row of a role: class * groups + group."""
        groups = self.group_ids(role)
        if groups is None or (groups < 0).any():
            raise Refusal(
                f"by_group needs the group of every row, found {'none' if groups is None else (groups < 0).sum()} "
                f"{'at all' if groups is None else f'rows of {role} without one'}: add a group column, or use by_group=False"
            )
        return self.labels(role) * len(self.groups) + groups

    def cell_count(self, synthesis: str) -> int:
        """Classes, or class x group cells where a synthesis fills those."""
        return len(self.classes) * (len(self.groups) if self.synthesis(synthesis).by_group else 1)

    def cell_names(self, synthesis: str) -> list[str]:
        if not self.synthesis(synthesis).by_group:
            return self.classes
        return [f"{name} / {group}" for name in self.classes for group in self.groups]

    # --- trials --------------------------------------------------------------------------------------------

    def trial_units(self, fit: Fit) -> list[str]:
        """One file per trial; heads on a frozen backbone are one batched problem and so one file."""
        stage = "teach" if fit.synthesis is None else "train"
        n = self.recipe.trials.n
        if self.linear(fit):
            return [f"{stage}/{fit.name}/trials_000-{n:03d}.safetensors"]
        return [f"{stage}/{fit.name}/trial_{trial:03d}.safetensors" for trial in range(n)]

    def trials_in(self, unit: str) -> list[int]:
        name = Path(unit).stem
        if name.startswith("trials_"):
            first, last = name.removeprefix("trials_").split("-")
            return list(range(int(first), int(last)))
        return [int(name.removeprefix("trial_"))]

    def draw_of(self, trial: int) -> int:
        return trial % self.recipe.trials.draws

    @property
    def trial_seeds(self) -> dict[str, list[int]]:
        """What was drawn anew in which trial, by factor: `metrics.evidence.independent_units` reads it."""
        trials = range(self.recipe.trials.n)
        drawn = [self.draw_of(trial) for trial in trials]
        moving = self.recipe.data.cut is not None  # without a cut every draw has the same training images
        return {
            "split": drawn if moving else [0] * len(drawn),
            "generator": drawn,
            "classifier": list(trials),
        }

    def seed(self, *names: object) -> int:
        return derive(self.recipe.trials.seed, *names)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
