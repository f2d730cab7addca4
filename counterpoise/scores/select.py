"""Which samples are kept. Every dropped one has a reason; nothing is refilled silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from counterpoise.types import part


@part
class KeepAll:
    """Keep whatever was made."""

    def __call__(self, scores: Mapping[str, np.ndarray]) -> list[str | None]:
        length = len(next(iter(scores.values()))) if scores else 0
        return [None] * length


@part
class AtLeast:
    """Drop what scores below a limit in the named score."""

    score: str = "nearest_real"
    limit: float = 1.0

    def __call__(self, scores: Mapping[str, np.ndarray]) -> list[str | None]:
        if self.score not in scores:
            raise ValueError(
                f"AtLeast looks at the score {self.score!r}; scores made: {', '.join(scores) or 'none'}"
            )
        return [
            None if value >= self.limit else f"{self.score} below {self.limit:g}"
            for value in scores[self.score]
        ]


@part
class Every:
    """Keep what every one of the given selects keeps; the first that drops a sample says why."""

    selects: Annotated[tuple[Any, ...], Field(min_length=1)]

    def __call__(self, scores: Mapping[str, np.ndarray]) -> list[str | None]:
        said = [select(scores) for select in self.selects]
        return [next(filter(None, reasons), None) for reasons in zip(*said, strict=True)]
