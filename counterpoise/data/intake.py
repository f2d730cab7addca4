"""One safe normaliser: any file becomes grey or RGB uint8, or a reason why it does not.

The magic bytes decide, never the name. What is done to the pixels is written down in `actions`; nothing is guessed
silently. It knows nothing of labels, folders or the cache. Colour profiles are not applied (no trainer does).
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from counterpoise.data.fitting import fit as fit  # what most callers want next
from counterpoise.data.plain import decode_plain

#: The decoders that hostile bytes may reach. Opened directly: `Image.open` would try them in turn and warn about size.
OPENERS: dict[str, Callable[..., ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

#: What a file name promises. Folders are searched for these suffixes.
SUFFIXES = (
    dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG")
    | dict.fromkeys((".png", ".apng"), "PNG")
    | dict.fromkeys((".tif", ".tiff"), "TIFF")
    | dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm", ".pfm"), "PPM")
    | {".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF"}
)

MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

#: Common strangers, so that the reason says what to do.
STRANGERS = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer, not an image: run git lfs pull"),
    (re.compile(rb"\s*<(!doctype html|html)", re.I), "a web page, not an image: the download failed"),
    (
        re.compile(rb"....ftyp(heic|heix|mif1|msf1|avif|avis)", re.S),
        "HEIC or AVIF is not read: convert it to JPEG or PNG",
    ),
    (re.compile(rb"\s*(<\?xml.{0,200})?<svg", re.I | re.S), "SVG is not read: convert it to PNG"),
)

TAG_BITS, TAG_PHOTOMETRIC, TAG_ORIENTATION, TAG_MAX_SAMPLE, TAG_FORMAT = 258, 262, 274, 281, 339


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of one file: `pixels` (h, w, 1 or 3) uint8, or None and the `reason`."""

    pixels: np.ndarray | None
    reason: str | None
    actions: tuple[str, ...]
    format: str  # "" where the magic bytes are unknown
    width: int  # as seen, after rotation; of the header where decoding failed
    height: int


class _Quiet:
    """Pillow's warnings off while any thread decodes. Filters are global: the first sets them, the last puts them back."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.users == 0:
                self.saved = warnings.catch_warnings()
                self.saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b")
            self.users += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.saved.__exit__(None, None, None)


QUIET = _Quiet()


def intake(data: bytes, name: str = "", max_pixels: int = 50_000_000) -> Intake:
    """Make pixels of a file's bytes. Never raises for what the bytes hold; `name` is only compared with them.

    >>> intake(b"").reason
    'the file is empty'
    """
    format = _sniff(data)
    if format is None:
        return Intake(None, _stranger(data), (), "", 0, 0)
    actions: list[str] = []
    suffix = name[name.rfind(".") :].lower()
    if SUFFIXES.get(suffix, format) != format:
        actions.append(f"named {suffix} but holds {format}")
    if plain := decode_plain(data, format, max_pixels):
        return Intake(_array(plain), None, tuple(actions), format, *plain.size)
    size = (0, 0)
    try:
        with QUIET:
            if format == "WEBP":  # its decoder claims the whole canvas when opened
                size = _webp_size(data)
                _check_size(size, max_pixels)
            opened = OPENERS[format](io.BytesIO(data))
            size = opened.size
            _check_size(size, max_pixels)
            pixels = _pixels(opened, data, format, actions)
    except _Unfit as error:
        return Intake(None, str(error), tuple(actions), format, *size)
    except Exception as error:  # noqa: BLE001 - on hostile bytes Pillow's decoders raise nearly anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        return Intake(None, f"cannot be decoded as {format}: {text}", tuple(actions), format, *size)
    return Intake(pixels, None, tuple(actions), format, pixels.shape[1], pixels.shape[0])


class _Unfit(Exception):
    """A readable file that gives no trustworthy pixels; the text is the reason."""


def _sniff(data: bytes) -> str | None:
    for magic, format in MAGIC:
        if data.startswith(magic):
            return format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return "PPM" if re.match(rb"P[1-6fF]\s", data) else None


def _stranger(data: bytes) -> str:
    if not data:
        return "the file is empty"
    known = ", ".join(OPENERS)
    return next(
        (text for rule, text in STRANGERS if rule.match(data[:512])), f"not an image that is read ({known})"
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    kind, little = data[12:16], lambda start, stop: int.from_bytes(data[start:stop], "little")
    if kind == b"VP8X":
        return 1 + little(24, 27), 1 + little(27, 30)
    if kind == b"VP8L":
        return 1 + (little(21, 25) & 0x3FFF), 1 + (little(21, 25) >> 14 & 0x3FFF)
    return little(26, 28) & 0x3FFF, little(28, 30) & 0x3FFF


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise _Unfit(f"too large: {size[0]} x {size[1]} pixels, the limit is {max_pixels:,}")
    if min(size) < 1:
        raise _Unfit(f"no pixels: {size[0]} x {size[1]}")


def _pixels(opened: ImageFile.ImageFile, data: bytes, format: str, actions: list[str]) -> np.ndarray:
    tags: Any = opened.tag_v2 if isinstance(opened, TiffImagePlugin.TiffImageFile) else {}
    raw = opened.tile[0].args if format == "PNG" and opened.tile else ""  # gone after load
    if tags.get(TAG_ORIENTATION, 1) in range(2, 9):
        actions.append(f"exif orientation {tags[TAG_ORIENTATION]} applied")  # by Pillow's own TIFF reader
    boxes: Any = [tile.extents for tile in opened.tile]
    if (
        tags
        and sum((right - left) * (low - top) for left, top, right, low in boxes)
        < opened.width * opened.height
    ):
        raise _Unfit("its strips do not cover the picture")  # Pillow would leave the rest black
    opened.load()
    image: Image.Image = opened
    if not image.info.keys().isdisjoint(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")):
        image = _upright(image, actions)
    if format in ("GIF", "PNG", "WEBP", "TIFF") and _animated(opened, data):
        actions.append("first frame only")
    if (
        image.mode not in ("RGB", "L")
        or image.info.get("transparency") is not None
        or tags
        or raw == "RGB;16B"
    ):
        if image.mode[0] in "IF":
            return _scaled(image, tags, actions)[:, :, None]
        image = _plain(image, tags, raw, actions)
    return _array(image)


def _array(image: Image.Image) -> np.ndarray:
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, -1)


def _upright(image: Image.Image, actions: list[str]) -> Image.Image:
    try:
        turn = image.getexif().get(TAG_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - broken metadata must not cost a good image
        actions.append("unreadable exif ignored")
        return image
    if turn not in range(2, 9):
        return image
    actions.append(f"exif orientation {turn} applied")
    return ImageOps.exif_transpose(image)


def _animated(opened: ImageFile.ImageFile, data: bytes) -> bool:
    try:
        # GIF answers by looking for a second frame, which replaces the first one: ask a second reader.
        fresh = GifImagePlugin.GifImageFile(io.BytesIO(data)) if opened.format == "GIF" else opened
        return bool(getattr(fresh, "is_animated", False))
    except Exception:  # noqa: BLE001 - a broken second frame does not concern the first
        return True


def _plain(image: Image.Image, tags: Any, raw: object, actions: list[str]) -> Image.Image:
    """Everything that has eight bits a sample once Pillow has read it."""
    mode = image.mode
    if str(raw).endswith(";16B") or max(tags.get(TAG_BITS, (8,))) > 8:
        # Pillow keeps the high byte of 16-bit colour, so what only uses the low bits would turn black.
        extrema: Any = image.getextrema()
        if mode in ("RGB", "RGBA") and max(top for _, top in extrema[:3]) < 16:
            raise _Unfit(
                "16-bit colour that only uses its lowest 12 bits would become black: convert it to 8 bits"
            )
        actions.append("16-bit colour reduced to its high byte")
    grey = mode in ("1", "L", "LA", "La") or raw == "LA;16B"
    if mode == "1":
        actions.append("1-bit")
    elif mode in ("P", "PA"):
        actions.append("palette to RGB")
    elif mode in ("CMYK", "YCbCr", "LAB"):
        actions.append(f"{mode} to RGB")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or image.info.get("transparency") is not None:
        actions.append("alpha on white")
        straight = {"La": "LA", "RGBa": "RGBA"}.get(mode)
        rgba = (image.convert(straight) if straight else image).convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(rgba)
        return image.getchannel("R") if grey else image.convert("RGB")
    return image.convert("L" if grey else "RGB")


def _scaled(image: Image.Image, tags: Any, actions: list[str]) -> np.ndarray:
    """Grey with more than eight bits (modes I and F) to uint8, by a range that is written down.

    The range is the one that the file states (TIFF: bits per sample under 16, or MaxSampleValue), else the first of
    255, 4095 and 65535 that holds the largest value: 12-bit sensors write into 16-bit files. (PNG's sBIT is no help:
    by its standard such samples are already stretched.) Floats in [0, 1] are taken times 255, other values from
    their minimum to their maximum.
    """
    values = np.asarray(image)
    if image.mode == "I" and tags.get(TAG_FORMAT, (2,))[0] == 1:
        values = values.view(np.uint32)  # Pillow has no unsigned 32-bit mode and lets them wrap
    least, most = float(values.min()), float(values.max())
    if not np.isfinite(least + most):
        raise _Unfit("holds NaN or infinite values")
    if image.mode == "F":
        low, high = (0.0, 1.0) if least >= 0 and most <= 1 else (least, most)
        kind = "float"
    else:
        bits, stated = tags.get(TAG_BITS, (16,))[0], tags.get(TAG_MAX_SAMPLE, (0,))[0]
        ranges = [2**bits - 1] if bits < 16 else [255, 4095, 65535]
        if stated >= max(most, 1):
            ranges = [stated]
        fits = [top for top in ranges if most <= top]
        low, high = (0.0, float(fits[0])) if least >= 0 and fits else (least, most)
        kind = "more than 8 bits"
    actions.append(f"{kind} scaled from {low:g}..{high:g}")
    result = np.empty(values.shape, np.uint8)
    step = max(1, 1_000_000 // values.shape[1])  # by blocks of rows: float64 of a giant would not fit
    for row in range(0, len(values), step):
        block = values[row : row + step].astype(np.float64) - low
        result[row : row + step] = np.rint(block * (255 / (high - low) if high > low else 0.0))
    if tags.get(TAG_PHOTOMETRIC) == 0:  # Pillow turns these round up to 8 bits only
        actions.append("white is zero: inverted")
        result = 255 - result
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        actions.append("alpha on white")
        result[values == transparent] = 255
    return result


def pixel_hash(pixels: np.ndarray) -> str:
    """Names the pixels, whatever file they came in: equal exactly when shape and values are.

    >>> pixel_hash(np.zeros((2, 3, 1), np.uint8)) == pixel_hash(np.zeros((3, 2, 1), np.uint8))
    False
    """
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
