"""The rows of a run, as the stages see them: what intake saw, the data of each role, and the space that classifiers work in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from safetensors import safe_open

from counterpoise import tables
from counterpoise.data.pixels import Rows
from counterpoise.lots import Lot
from counterpoise.nets.words import called
from counterpoise.recipe import Fit, Recipe, Synthesis
from counterpoise.rundir import Run
from counterpoise.spaces.projection import Projection

LISTING = "data/listing.parquet"
ROWS_PER_SLICE = 500
ROWS_PER_FEATURE_FILE = 512


@dataclass(frozen=True)
class Material:
    """The rows of a run."""

    run: Run
    recipe: Recipe

    # --- what intake saw ---------------------------------------------------------------------------------------

    def slices(self) -> list[str]:
        """The listing in fixed slices: a table each of what was found in its images."""
        rows = self.run.table(LISTING, ["id"]).num_rows
        return [f"data/slices/{i:05d}.parquet" for i in range(-(-rows // ROWS_PER_SLICE))]

    def seen(self, columns: list[str] | None = None) -> pa.Table:
        """Every listed image with what intake found in it, whatever its role."""
        empty = tables.INTAKE.empty_table()
        found = [self.run.table(name, columns) for name in self.slices()]
        return pa.concat_tables(found or [empty.select(columns or empty.column_names)])

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

    def codes(self, lot: Lot, role: str) -> str:
        return f"codes/{self._fitted(lot).place}/{role}.npy"

    def _fitted(self, lot: Lot) -> Lot:
        """The lot whose generator this one samples from: the first one with the same settings."""
        mine = self.synthesis(lot.synthesis)
        alike = lambda item: (item.generator, item.by_group) == (mine.generator, mine.by_group)  # noqa: E731
        return Lot(next(item.name for item in self.recipe.synthesis if alike(item)), lot.draw)

    def synthesis(self, name: str) -> Synthesis:
        return next(item for item in self.recipe.synthesis if item.name == name)

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
            return self.recipe.network.encode(self.pixels(role))
        return np.concatenate([self.brought_down(part, draw) for part in parts])

    def brought_down(self, features: np.ndarray, draw: int) -> np.ndarray:
        """Features of the backbone as the classifier sees them."""
        return self.projection(draw)(features) if self.projected else features

    def shown(self, role: str, draw: int, synthesis: str) -> np.ndarray:
        """Every row of a role as the generator of a synthesis sees it."""
        return self.pixels(role) if self.pictured(synthesis) else self.vectors(role, draw)

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
