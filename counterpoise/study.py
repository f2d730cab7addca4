"""A run as the stages see it: the recipe, where each artefact lies, and typed reading of what earlier stages wrote.

Only intake writes `data/`, and only `evaluate` may ask for `role="test"`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors import safe_open

from counterpoise.lots import Lot
from counterpoise.material import LISTING, Material
from counterpoise.proposals.quotas import Tally
from counterpoise.recipe import Fit
from counterpoise.rundir import MARKER, Run
from counterpoise.seeding import derive
from counterpoise.types import Refusal, load


@dataclass(frozen=True)
class Study(Material):
    """The same, with all that is made of them."""

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

    # --- samples -------------------------------------------------------------------------------------------

    def first_lots(self) -> list[Lot]:
        """Those of the first round: one per draw and synthesis."""
        draws = range(self.recipe.trials.draws)
        return [Lot(item.name, draw) for draw in draws for item in self.recipe.synthesis]

    def lots(self) -> list[Lot]:
        """Every lot of samples that the study has so far."""
        return [lot for first in self.first_lots() for lot in self.rounds(first)]

    def rounds(self, lot: Lot) -> list[Lot]:
        """The lots of a synthesis and draw: the first, and one for each round whose tutor or quota said to go on."""
        found = [replace(lot, round=0)]
        for number in range(1, self.synthesis(lot.synthesis).rounds):
            later = replace(lot, round=number)
            if not self._goes_on(later):
                break
            found.append(later)
        return found

    def _goes_on(self, lot: Lot) -> bool:
        """Whether there is this round, as all before it have been."""
        item = self.synthesis(lot.synthesis)
        if item.retold:
            return self.run.has(lot.tutor) and item.budget.goes_on(self.history(lot))
        return self.run.has(lot.before.selected) and bool(self.more(lot).any())

    def more(self, lot: Lot) -> np.ndarray:
        """What a quota asks of this round, after what became of the ones before."""
        before = [replace(lot, round=number) for number in range(lot.round)]
        return self.synthesis(lot.synthesis).budget.more(self._wanted(lot), self.tally(before))

    def _wanted(self, lot: Lot) -> np.ndarray:
        """What the first round asked for: of a quota, all that it wants to keep."""
        return np.array(self.run.meta(replace(lot, round=0).plan)["wanted"])

    def tally(self, lots: Sequence[Lot]) -> Tally:
        """What became of the samples of some rounds."""
        asked = [self.run.meta(one.plan)["wanted"] for one in lots]
        return Tally(np.sum(asked, 0), np.sum([self._kept_by_cell(one) for one in lots], 0))

    def room(self, lot: Lot) -> np.ndarray:
        """How many samples of each class a quota still takes when this round begins."""
        before = [replace(lot, round=number) for number in range(lot.round)]
        return self._wanted(lot) - (self.tally(before).kept if before else 0)

    def _kept_by_cell(self, lot: Lot) -> np.ndarray:
        cells = self.cells_of(self.wishes(lot, ["label", "group"]), lot.synthesis)
        return np.bincount(cells, minlength=self.cell_count(lot.synthesis))

    def cells_of(self, plan: pa.Table, synthesis: str) -> np.ndarray:
        """What the rows of a plan are of, as its budget counts."""
        labels = plan["label"].to_numpy()
        return (
            labels * len(self.groups) + plan["group"].to_numpy()
            if self.synthesis(synthesis).by_group
            else labels
        )

    def history(self, lot: Lot) -> list[float]:
        """Validation scores of the tutors of all rounds up to this one; the first has seen real rows only."""
        with safe_open(self.run / self.tutor_of(lot), "np") as file:
            return json.loads(file.metadata()["notes"])["history"]

    def tutor_of(self, lot: Lot) -> str:
        """Where the tutor of a lot lies. In the first round, before any sample, equal tutors are one."""
        mine = self.synthesis(lot.synthesis)
        if lot.round and mine.retold:
            return lot.tutor
        alike = lambda item: (item.tutor, item.by_group) == (mine.tutor, mine.by_group)  # noqa: E731
        return Lot(next(item.name for item in self.recipe.synthesis if alike(item)), lot.draw).tutor

    def generator_of(self, lot: Lot) -> str:
        """Where the weights lie that make this lot. Syntheses that differ only in their plans share them."""
        return f"generators/{self._fitted(lot).place}"

    def row_shape(self, synthesis: str = "") -> tuple[tuple[int, ...], str]:
        """Of a sample: its shape and dtype. No rows are read."""
        if self.pictures(synthesis):
            return self.pixels("train").shape[1:], "uint8"
        if self.own_space(synthesis):
            return self.run.array(self.codes(Lot(synthesis, 0), "train")).shape[1:], "float32"
        if self.projected:
            return (self.projection(0).basis.shape[1],), "float32"
        return self.run.array(self.feature_units("train")[0]).shape[1:], "float32"

    def code_units(self, role: str) -> list[str]:
        if not self.facts["sizes"][role]:
            return []
        return list(
            dict.fromkeys(self.codes(lot, role) for lot in self.lots() if self.own_space(lot.synthesis))
        )

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
        arrays, chosen = zip(*(self.kept(one) for one in self.rounds(lot)), strict=True)
        return _stacked(arrays), pa.concat_tables(chosen)

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
        return self._in_groups(self.classes)

    def told_names(self, synthesis: str) -> list[str]:
        """The same as text models are told them."""
        return self._in_groups(self.called) if self.synthesis(synthesis).by_group else self.called

    def _in_groups(self, names: Sequence[str]) -> list[str]:
        return [f"{name} / {group}" for name in names for group in self.groups]

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
            **({"first weights": drawn} if any(fit.start for fit in self.recipe.fits) else {}),
        }

    def seed(self, *names: object) -> int:
        return derive(self.recipe.trials.seed, *names)


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
