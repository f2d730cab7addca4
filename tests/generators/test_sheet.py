from __future__ import annotations

import io

import numpy as np
from PIL import Image

from counterpoise.generators.generator import Failed
from counterpoise.generators.sheet import Grid, contact_sheet


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_tiles_stand_row_by_row_in_frames():
    tiles = [np.full((2, 3, 3), 10 * i, np.uint8) for i in range(6)]
    found = opened(contact_sheet(tiles, 3))
    assert found.shape == (2 * 3, 3 * 4, 3)
    assert found[0, ::4, 0].tolist() == [0, 10, 20]
    assert found[3, ::4, 0].tolist() == [30, 40, 50]
    assert (found[2] == 128).all()
    grey = opened(contact_sheet([tile[..., :1] for tile in tiles], 2))
    assert grey.shape == (3 * 3, 2 * 4)


class Model:
    """Paints the label; what has seed of one request fails."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def sampled(self, net, weak, space, ctx):
        def sample(rows):
            self.asked += rows
            made = [np.full((4, 4, 1), 50 + row["label"], np.uint8) for row in rows]
            return [*made[:-1], Failed("bad luck")]

        return sample


def test_a_grid_asks_for_the_same_every_time_and_shows_failures_black():
    model, config = Model(), {"classes": list("abcde"), "size": 4, "channels": 1}
    draw = Grid(classes=3, columns=2)(model, None, config, seed=7)
    first, again = draw(1, None), draw(2, None)
    assert first == again
    assert opened(first)[::5, ::5].tolist() == [[50, 0], [51, 0], [52, 0]]
    assert model.asked[:6] == model.asked[6:]
    assert len({row["seed"] for row in model.asked}) == 6
