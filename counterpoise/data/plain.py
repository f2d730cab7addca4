"""The quick way into ordinary JPEG and PNG files: Pillow's decoders without Pillow's header readers.

Most files of a data set have plain headers, and reading those costs Pillow as long as decoding a small picture. What
has anything uncommon in its header, or does not decode, is left to the careful way in counterpoise.data.intake, so the
pixels and the reasons are the same on both ways.
"""

from __future__ import annotations

import re
import struct
import zlib

from PIL import Image

#: JPEG segments that say nothing of how the picture is to be shown: JFIF, colour profile, Adobe, tables, comment.
JPEG_DULL = frozenset((0xE0, 0xE2, 0xEE, 0xDB, 0xC4, 0xDD, 0xFE))
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
JPEG_SCAN = 0xDA
JPEG_MODES = {1: "L", 3: "RGB"}

#: PNG: 8 bits, grey or colour, not interlaced; then only these chunks.
PNG_HEAD = re.compile(rb"\x89PNG\r\n\x1a\n\0\0\0\rIHDR(....)(....)\x08([\0\x02])\0\0\0", re.S)
PNG_MODES = {b"\0": "L", b"\2": "RGB"}
PNG_DULL = frozenset((b"pHYs", b"gAMA", b"cHRM", b"sRGB"))


def decode_plain(data: bytes, format: str, max_pixels: int) -> Image.Image | None:
    """The picture, grey or RGB, if this is a plain file of at most so many pixels; else None, whatever the cause."""
    try:
        if format == "JPEG":
            return _jpeg(data, max_pixels)
        return _png(data, max_pixels) if format == "PNG" else None
    except (ValueError, OSError, IndexError, struct.error):
        return None


def _jpeg(data: bytes, max_pixels: int) -> Image.Image | None:
    place, frame = 2, None
    while True:
        fill, marker, length = struct.unpack_from(">BBH", data, place)
        if fill != 0xFF:
            return None
        if marker in JPEG_FRAMES:
            frame = struct.unpack_from(">BHHB", data, place + 4)  # bits, height, width, components
        elif marker == JPEG_SCAN:
            break
        elif marker not in JPEG_DULL:  # EXIF above all
            return None
        place += 2 + length
    if frame is None or frame[0] != 8 or frame[3] not in JPEG_MODES:
        return None
    mode, size = JPEG_MODES[frame[3]], (frame[2], frame[1])
    return Image.frombytes(mode, size, data, "jpeg", mode, "") if _fits(size, max_pixels) else None


def _png(data: bytes, max_pixels: int) -> Image.Image | None:
    head = PNG_HEAD.match(data)
    if head is None:
        return None
    size, place, bodies = struct.unpack(">II", data[16:24]), 8, []
    while True:
        length, kind = struct.unpack_from(">I4s", data, place)
        start, place = place + 8, place + 12 + length
        if kind == b"IDAT":
            bodies.append(data[start : start + length])
            continue
        (check,) = struct.unpack_from(">I", data, start + length)
        if zlib.crc32(data[start - 4 : start + length]) != check:
            return None
        if kind == b"IEND":
            break
        if kind not in PNG_DULL and kind != b"IHDR":
            return None
    if not bodies or not _fits(size, max_pixels):
        return None
    mode = PNG_MODES[head[3]]
    return Image.frombytes(mode, size, bodies[0] if len(bodies) == 1 else b"".join(bodies), "zip", mode, 0)


def _fits(size: tuple[int, int], max_pixels: int) -> bool:
    return min(size) > 0 and size[0] * size[1] <= max_pixels
