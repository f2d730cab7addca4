"""Pictures side by side in one PNG, a frame around each."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP, FRAME = 1, 128  # pixels between the tiles, and their grey


def contact_sheet(tiles: Sequence[np.ndarray], columns: int) -> bytes:
    """Tiles (h, w, c) uint8, row by row; their number is a multiple of the columns."""
    framed = [np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=FRAME) for tile in tiles]
    lines = [framed[at : at + columns] for at in range(0, len(framed), columns)]
    sheet = np.concatenate([np.concatenate(line, 1) for line in lines])
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet).save(file, "PNG")
    return file.getvalue()
