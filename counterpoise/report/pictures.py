"""Pictures as data: URIs, small enough that a gallery of them fits into one page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

LONGEST = 128  # pixels; larger pictures are scaled down, they are shown at about 80
TINY = 64  # up to here a picture is kept exactly, as PNG, and the page magnifies it without smoothing


def uri(picture: Any) -> str:
    """The data: URI of an (h, w), (h, w, 1) or (h, w, 3) uint8 array, or of the bytes of a PNG."""
    if isinstance(picture, bytes):
        assert picture.startswith(b"\x89PNG\r\n\x1a\n"), "pictures are arrays or the bytes of a PNG"
        return "data:image/png;base64," + base64.b64encode(picture).decode()
    array = np.asarray(picture, dtype=np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    assert array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3), array.shape
    image, sink = Image.fromarray(array), io.BytesIO()
    if max(image.size) <= TINY:
        image.save(sink, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
    image.thumbnail((LONGEST, LONGEST))
    image.save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def is_tiny(picture: Any) -> bool:
    """Whether magnifying it must not smooth it."""
    return not isinstance(picture, bytes) and max(np.shape(picture)[:2]) <= TINY
