"""Pictures side by side in one PNG, a frame around each; and the one of what a model makes of the same requests every time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from counterpoise.generators.generator import Context, Failed
from counterpoise.seeding import derive

GAP, FRAME = 1, 128  # pixels between the tiles, and their grey


def contact_sheet(tiles: Sequence[np.ndarray], columns: int) -> bytes:
    """Tiles (h, w, c) uint8, row by row; their number is a multiple of the columns."""
    framed = [np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=FRAME) for tile in tiles]
    lines = [framed[at : at + columns] for at in range(0, len(framed), columns)]
    sheet = np.concatenate([np.concatenate(line, 1) for line in lines])
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Grid:
    """So many samples from noise of each of the first classes, a row for a class."""

    classes: int
    columns: int

    def __call__(
        self, model: Any, space: Any, config: dict[str, Any], seed: int
    ) -> Callable[[int, nn.Module], bytes]:
        """Draws what the network of a diffusion model makes of them, a class at a time."""
        labels = range(min(len(config["classes"]), self.classes))
        blank = np.zeros((config["size"], config["size"], config["channels"]), np.uint8)

        def draw(step: int, net: nn.Module) -> bytes:
            # The weak copy of autoguidance is not there yet: away from itself is nowhere.
            sample = model.sampled(net, net, space, Context(lambda ids: np.zeros(0)))
            made = [one for label in labels for one in sample(self._asked(label, seed))]
            return contact_sheet([blank if isinstance(x, Failed) else x for x in made], self.columns)

        return draw

    def _asked(self, label: int, seed: int) -> list[dict[str, Any]]:
        return [
            {"label": label, "seed": derive("grid", seed, label, column), "strength": 1.0}
            for column in range(self.columns)
        ]
