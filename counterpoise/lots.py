"""Where the artefacts of one synthesis lie, for one draw, in one round."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Lot:
    """The samples of one synthesis, for one draw, in one round: where its plan, shards, scores and selection lie."""

    synthesis: str
    draw: int
    round: int = 0

    @classmethod
    def of(cls, unit: str) -> Lot:
        """The lot a unit belongs to.

        >>> Lot.of("samples/round_0/copies/draw_3/00017.parquet")
        Lot(synthesis='copies', draw=3, round=0)
        """
        round_, synthesis, draw = unit.split("/")[1:4]
        return cls(
            synthesis, int(draw.removeprefix("draw_").split(".")[0]), int(round_.removeprefix("round_"))
        )

    @property
    def place(self) -> str:
        return f"round_{self.round}/{self.synthesis}/draw_{self.draw}"

    @property
    def plan(self) -> str:
        return f"plan/{self.place}.parquet"

    def samples(self, shard: int) -> str:
        return f"samples/{self.place}/{shard:05d}.parquet"

    def scores(self, score: str, shard: int) -> str:
        return f"scores/{self.place}/{score}/{shard:05d}.parquet"

    def calibration(self, score: str) -> str:
        return f"scores/{self.place}/{score}/calibration.json"

    @property
    def tutor(self) -> str:
        return f"tutors/{self.place}.safetensors"

    @property
    def before(self) -> Lot:
        """The lot of the round before."""
        return replace(self, round=self.round - 1)

    @property
    def selected(self) -> str:
        return f"selected/{self.place}.parquet"

    @property
    def kept(self) -> str:
        return f"selected/{self.place}.npy"

    @property
    def embedded(self) -> str:
        """The kept ones that are pictures, as classifiers of features see them."""
        return f"embedded/{self.place}.npy"
