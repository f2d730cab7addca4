"""Scenes that words alone make, without a model: a medium, a place, the light there and a view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from counterpoise.proposals.mentions import Mentions


def parts(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


MEDIA = parts("""
a photo of | a picture of | a snapshot of | a close-up photo of | a colour photo of | an old photo of | a bright photo of |
a sharp photo of | a blurry photo of | a low resolution photo of
""")
OUTSIDE = parts("""
in the snow | on the grass | on a beach | in a forest | near the water | on a street | in a field | under a blue sky | on a
rock | by a river | in a garden | on a road | in the desert | at a harbour | in the mountains | in a city | behind a fence |
near a lake | on a farm | in a park | on a hill | beside a tree | on wet ground | in tall grass | in a yard |
by a wall | in a village | under a bridge | on a path
""")
INSIDE = parts("""
in a room | on a table | in front of a wall | in a kitchen | on the floor | on a white background | on a black background | in
a studio | beside a window | in a corner | in a hall | on a carpet | in a shop | in a museum
""")
DAYLIGHT = parts("""
at night | at sunset | at dawn | at noon | at dusk | in the sun | in the fog | in the rain | on a cloudy day | in the shade | in
winter | in spring | in summer | in autumn
""")
LAMPLIGHT = parts("""
in bright light | in dim light | in soft light | lit from the side | lit from behind | in hard light | in warm light
""")
VIEWS = parts("""
seen from the side | seen from above | seen from the front | seen from behind | seen from below | from far away | close up | partly
hidden | out of focus
""")


class Scenes:
    """Sentences over these classes, each a template. What names one of them is not said: it would be in the picture as well."""

    def __init__(self, names: Sequence[str]) -> None:
        mentions = Mentions(names)

        def free(found: Sequence[str]) -> list[str]:
            return [part for part in found if not mentions(part)]

        self.media = free(MEDIA) or MEDIA[:1]
        self.places = [(place, DAYLIGHT) for place in free(OUTSIDE)] + [
            (place, LAMPLIGHT) for place in free(INSIDE)
        ]
        self.places = [(place, free(light)) for place, light in self.places] or [("", [])]
        self.views = free(VIEWS)

    def __len__(self) -> int:
        """Of different sentences."""
        return len(self.media) * (1 + len(self.views)) * sum(1 + len(light) for _, light in self.places)

    def __call__(self, rng: np.random.Generator) -> Iterator[str]:
        """All of them, each once, in the order of these draws; a place always, light and view half of the time."""
        seen: set[str] = set()
        while len(seen) < len(self):
            place, light = self.places[rng.integers(len(self.places))]
            tail = [
                some[rng.integers(len(some))] for some in (light, self.views) if rng.random() < 0.5 and some
            ]
            text = ", ".join([f"{self.media[rng.integers(len(self.media))]} {{a}} {place}".strip(), *tail])
            if text not in seen:
                seen.add(text)
                yield text
