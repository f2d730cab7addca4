"""Where the models that come with the package lie: small, trained from scratch by tools/train_miniatures.py.

Their name is ``miniature`` wherever a base model, a CLIP or a backbone is named. Nothing here opens one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from counterpoise.types import Refusal

PACKAGE = Path(__file__).parents[1]


def folder(kind: Literal["text_to_image", "clip", "language"]) -> Path:
    """The folder of one of them: of the installed package, or of the repository that it is an editable install of."""
    places = [root / "assets" / "miniatures" / kind for root in (PACKAGE, PACKAGE.parent)]
    for place in places:
        if place.is_dir():
            return place
    raise Refusal(
        f"the miniature {kind} model is not in this installation: {places[0]} is missing. Install counterpoise from "
        "its wheel or sdist, run tools/train_miniatures.py in the repository, or name another model"
    )
