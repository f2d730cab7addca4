"""Bad and odd files, one by one: a clear reason or right pixels, never an exception, never a silent wrong pixel."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from counterpoise.data.fitting import Fitting, fit, statistics
from counterpoise.data.intake import intake, pixel_hash
from counterpoise.data.plain import decode_plain


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return made[:, :, 0] if channels == 1 else made


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, lines: bytes, extra: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(values: np.ndarray, colour: int) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour, rows)


def pixels(data: bytes, name: str = "") -> np.ndarray:
    found = intake(data, name)
    assert found.pixels is not None, found.reason
    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == (found.height, found.width, found.pixels.shape[2])
    assert found.pixels.shape[2] in (1, 3)
    return found.pixels


# --- the ordinary case ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_come_back_bit_for_bit(format, channels):
    image = noise(7, 5, channels)
    found = intake(encoded(image, format), f"a.{format.lower()}")
    assert np.array_equal(found.pixels.squeeze(), image)
    assert found.actions == ()
    assert (found.format, found.width, found.height, found.reason) == (format, 5, 7, None)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_what_pillow_decodes(mode):
    data = encoded(Image.fromarray(noise(9, 8)).convert(mode), "JPEG")
    assert np.array_equal(pixels(data).squeeze(), np.asarray(Image.open(io.BytesIO(data))))


def test_a_lossless_webp_comes_back_bit_for_bit():
    assert np.array_equal(pixels(encoded(noise(6, 9), "WEBP", lossless=True)), noise(6, 9))


# --- unreadable ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_truncated(format):
    whole = encoded(noise(64, 64), format)
    found = intake(whole[: len(whole) // 2], "half")
    assert found.pixels is None
    assert "cannot be decoded" in found.reason


def test_zero_byte():
    assert intake(b"").reason == "the file is empty"


@pytest.mark.parametrize(
    "data",
    [
        png(20_000, 20_000, 8, 2, b""),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6 20000 20000 255\n",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (15_999).to_bytes(3, "little") * 2,
        b"GIF89a" + struct.pack("<HHBBB", 20_000, 20_000, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 20_000, 20_000, 0) + b"\x08\0;",
    ],
    ids=["png", "bmp", "ppm", "webp", "gif"],
)  # fmt: skip
def test_giant_is_rejected_from_its_header(data):
    import tracemalloc

    tracemalloc.start()
    start = time.perf_counter()
    found = intake(data)
    spent, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pixels is None
    assert "too large" in found.reason
    assert "000 x " in found.reason
    assert found.width >= 16_000
    assert spent < 0.5
    assert peak < 5_000_000


def test_the_pixel_limit_is_exact():
    data = encoded(noise(10, 10), "PNG")
    assert intake(data, max_pixels=100).reason is None
    assert intake(data, max_pixels=99).reason == "too large: 10 x 10 pixels, the limit is 99"


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"hello, world", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    ],
)
def test_no_image_says_what_it_is(data, word):
    assert word in intake(data, "a.jpg").reason


# --- odd ------------------------------------------------------------------------------------------------------


def test_16_bit_png_uses_the_full_range():
    values = np.array([[0, 257, 32_768], [40_000, 65_280, 65_535]])
    found = intake(png16(values, 0))
    assert found.pixels[:, :, 0].tolist() == [[0, 1, 128], [156, 254, 255]]
    assert found.actions == ("more than 8 bits scaled from 0..65535",)


def test_12_bits_in_a_16_bit_png_do_not_become_black():
    found = intake(png16(np.array([[0, 2048, 4095]]), 0))
    assert found.pixels.ravel().tolist() == [0, 128, 255]
    assert found.actions == ("more than 8 bits scaled from 0..4095",)


def test_16_bit_colour_keeps_its_high_byte_or_is_refused():
    bright = np.array([[[0, 256, 65_535], [1024, 32_768, 65_280]]]).reshape(1, -1)
    rows = b"\0" + bright.astype(">u2").tobytes()
    found = intake(png(2, 1, 16, 2, rows))
    assert found.pixels.tolist() == [[[0, 1, 255], [4, 128, 255]]]
    assert found.actions == ("16-bit colour reduced to its high byte",)
    dark = intake(png(2, 1, 16, 2, b"\0" + np.full(6, 4095, ">u2").tobytes()))
    assert dark.pixels is None
    assert "would become black" in dark.reason


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_16_bit_tiff(compression):
    data = encoded(np.array([[0, 65_535], [255, 257]], np.uint16), "TIFF", compression=compression)
    assert pixels(data)[:, :, 0].tolist() == [[0, 255], [1, 1]]


def test_a_tiff_that_states_its_largest_value_is_believed():
    data = encoded(np.array([[0, 1000]], np.uint16), "TIFF", tiffinfo={281: 2000})
    assert intake(data).actions == ("more than 8 bits scaled from 0..2000",)
    assert pixels(data).ravel().tolist() == [0, 128]


def test_white_is_zero_is_turned_round():
    values = np.array([[0, 65_535]], np.uint16)
    found = intake(encoded(values, "TIFF", tiffinfo={262: 0}))
    assert found.pixels.ravel().tolist() == [255, 0]
    assert "white is zero: inverted" in found.actions


def test_float_tiff():
    found = intake(encoded(np.array([[0, 0.25], [0.5, 1]], np.float32), "TIFF"))
    assert found.pixels[:, :, 0].tolist() == [[0, 64], [128, 255]]
    assert found.actions == ("float scaled from 0..1",)
    found = intake(encoded(np.array([[-10, 0], [5, 10]], np.float32), "TIFF"))
    assert found.pixels[:, :, 0].tolist() == [[0, 128], [191, 255]]
    assert found.actions == ("float scaled from -10..10",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_nan_or_infinity(bad):
    found = intake(encoded(np.array([[0, bad]], np.float32), "TIFF"))
    assert (found.pixels, found.reason) == (None, "holds NaN or infinite values")


@pytest.mark.parametrize("top", [255, 4095, 65_535])
def test_a_giant_range_in_blocks_equals_one_piece(top):
    values = np.random.default_rng(0).integers(0, top + 1, (1500, 900)).astype(np.uint16)
    values[0, 0] = top
    assert np.array_equal(pixels(encoded(values, "TIFF"))[:, :, 0], np.rint(values * (255 / top)))


def test_a_tiff_whose_strips_end_too_soon_is_no_picture_with_a_black_end():
    data = bytearray(encoded(noise(24, 20), "TIFF"))
    entry = data.index(struct.pack("<H", 257))  # ImageLength
    data[entry + 8 : entry + 10] = struct.pack("<H", 48)  # twice the height
    assert intake(bytes(data)).reason == "its strips do not cover the picture"


def test_cmyk_jpeg():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))  # full cyan
    found = intake(encoded(image, "JPEG", quality=95))
    assert np.abs(found.pixels.astype(int) - [0, 255, 255]).max() <= 3
    assert found.actions == ("CMYK to RGB",)


def test_palette_with_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    found = intake(encoded(image, "PNG", transparency=b"\xff\x00"))
    assert found.pixels.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert found.actions == ("palette to RGB", "alpha on white")


def test_alpha_is_composited_on_white():
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    assert pixels(encoded(rgba, "PNG")).tolist() == [[[10, 20, 30], [255, 255, 255], [127, 127, 127]]]
    grey = Image.new("LA", (1, 1), (7, 0))
    assert pixels(encoded(grey, "PNG")).tolist() == [[[255]]]  # stays grey


def test_one_transparent_colour():
    lines = b"\0" + bytes([10, 20, 30, 1, 2, 3])
    data = png(2, 1, 8, 2, lines, chunk(b"tRNS", struct.pack(">3H", 10, 20, 30)))
    assert pixels(data).tolist() == [[[255, 255, 255], [1, 2, 3]]]
    deep = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 9, 65_535), chunk(b"tRNS", struct.pack(">H", 9)))
    assert pixels(deep).ravel().tolist() == [255, 255]


def test_one_bit():
    found = intake(encoded(Image.fromarray(np.array([[True, False]])), "PNG"))
    assert (found.pixels.tolist(), found.actions) == ([[[255], [0]]], ("1-bit",))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotated(format):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, :20] = 255  # the left half is white
    exif = Image.Exif()
    exif[274] = 6  # turn clockwise to see it upright: left becomes top
    found = intake(encoded(image, format, exif=exif), f"a.{format.lower()}")
    assert (found.width, found.height) == (20, 40)
    assert found.pixels[:18].min() > 240
    assert found.pixels[22:].max() < 15
    assert found.actions == ("exif orientation 6 applied",)


@pytest.mark.parametrize("orientation", [0, 1, 9, 60_000])
def test_an_exif_without_a_turn_does_nothing(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(noise(4, 6), "PNG", exif=exif)
    assert intake(data).actions == ()
    assert np.array_equal(pixels(data), noise(4, 6))


def test_broken_exif_does_not_cost_the_image():
    data = encoded(noise(4, 6), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    assert np.array_equal(pixels(data), noise(4, 6))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_gives_its_first_frame(format):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "lime")]
    extra = {"lossless": True} if format == "WEBP" else {}
    found = intake(encoded(frames[0], format, save_all=True, append_images=frames[1:], **extra))
    assert (found.pixels == [255, 0, 0]).all()
    assert "first frame only" in found.actions


def test_wrong_suffix_is_written_down_and_the_magic_decides():
    found = intake(encoded(noise(4, 4), "PNG"), "folder.jpg/cat.JPG")
    assert (found.format, found.actions) == ("PNG", ("named .jpg but holds PNG",))
    assert intake(encoded(noise(4, 4), "JPEG"), "a.jpeg").actions == ()
    assert intake(encoded(noise(4, 4), "JPEG"), "no suffix").actions == ()


# --- anything -------------------------------------------------------------------------------------------------

VALID = {
    format: encoded(noise(24, 20), format) for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
} | {
    "progressive": encoded(noise(24, 20), "JPEG", progressive=True),
    "lzw": encoded(noise(24, 20), "TIFF", compression="tiff_lzw"),
    "16": png16(noise(24, 20, 1).astype(int) * 257, 0),
    "float": encoded(noise(24, 20, 1).astype(np.float32), "TIFF"),
    "lossless": encoded(noise(24, 20), "WEBP", lossless=True),
    "apng": encoded(
        Image.fromarray(noise(24, 20)),
        "PNG",
        save_all=True,
        append_images=[Image.fromarray(noise(24, 20, seed=1))],
    ),
}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=6),
    st.data(),
)
def test_flipped_bytes_never_raise(kind, flips, data):
    hurt = bytearray(VALID[kind])
    near = data.draw(st.sampled_from([64, len(hurt)]))  # headers are the tender place
    for place, change in flips:
        hurt[place % near] ^= change
    found = intake(bytes(hurt), "a.png", max_pixels=1_000_000)
    assert (found.pixels is None) == bool(found.reason)
    assert found.reason is None or ("\n" not in found.reason and len(found.reason) < 300)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALID)), st.floats(0, 1, exclude_max=True))
def test_cut_files_give_a_reason_or_the_same_pixels(kind, share):
    whole = VALID[kind]
    found = intake(whole[: int(len(whole) * share)])
    if found.pixels is None:
        assert found.reason
    else:
        assert np.array_equal(found.pixels, intake(whole).pixels)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"P6 ", b"RIFF\0\0\0\0WEBP", b""]
    ),
    st.binary(max_size=200),
)
def test_random_bytes_after_a_magic_never_raise(magic, tail):
    found = intake(magic + tail)
    assert (found.pixels is None) == bool(found.reason)


def test_threads_agree_and_leave_the_warning_filters_alone():
    before = list(warnings.filters)
    kinds = sorted(VALID) * 8
    with ThreadPoolExecutor(8) as pool:
        hashes = list(pool.map(lambda kind: pixel_hash(intake(VALID[kind]).pixels), kinds))
    assert hashes == [pixel_hash(pixels(VALID[kind])) for kind in kinds]
    assert list(warnings.filters) == before


# --- fit and hash ---------------------------------------------------------------------------------------------


def test_fit_does_nothing_to_what_already_fits():
    image = noise(8, 8)
    assert fit(image, 8, 3) is image


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
)
def test_fit_gives_the_asked_shape_and_keeps_flat_colour(height, width, found, size, channels):
    made = fit(np.full((height, width, found), 77, np.uint8), size, channels)
    assert made.shape == (size, size, channels)
    assert made.dtype == np.uint8
    assert (made == 77).all()


def test_fit_takes_the_centre_and_averages_when_it_shrinks():
    image = np.zeros((32, 96, 1), np.uint8)
    image[:, 32:64] = 200
    assert fit(image, 8, 1)[:, 1:7].min() >= 195
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    small = fit(checks.astype(np.uint8)[:, :, None], 8, 1)
    assert np.abs(small.astype(int) - 128).max() <= 6  # no aliasing


def test_grey_and_colour():
    assert np.array_equal(fit(noise(8, 8, 1)[:, :, None], 8, 3), np.repeat(noise(8, 8, 1)[:, :, None], 3, 2))
    assert fit(np.array([[[255, 0, 0]]], np.uint8), 1, 1).item() == 76  # luma


def test_the_hash_is_of_pixels_not_of_files():
    assert pixel_hash(pixels(encoded(noise(5, 5), "PNG"))) == pixel_hash(pixels(encoded(noise(5, 5), "BMP")))
    changed = noise(5, 5)
    changed[0, 0, 0] ^= 1
    assert pixel_hash(changed) != pixel_hash(noise(5, 5))
    assert pixel_hash(noise(4, 6)[:, ::-1]) == pixel_hash(np.ascontiguousarray(noise(4, 6)[:, ::-1]))
    assert pixel_hash(np.zeros((1, 3, 1), np.uint8)) != pixel_hash(np.zeros((1, 1, 3), np.uint8))
    assert len(pixel_hash(noise(2, 2))) == 32


# --- the quick ways give what the careful ones give ----------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{}, {"progressive": True, "quality": 30}, {"dpi": (72, 72)}])
def test_a_plain_file_is_decoded_as_pillow_does(format, channels, options):
    data = encoded(noise(61, 47, channels), format, **options)
    made = decode_plain(data, format, 10_000)
    assert made is not None
    assert np.array_equal(np.asarray(made), np.asarray(Image.open(io.BytesIO(data))))
    assert decode_plain(data, format, 61 * 47 - 1) is None


def test_what_needs_care_is_not_decoded_quickly():
    turned = Image.Exif()
    turned[274] = 6
    for data, format in (
        (encoded(noise(9, 9), "JPEG", exif=turned), "JPEG"),
        (encoded(Image.fromarray(noise(9, 9)).convert("CMYK"), "JPEG"), "JPEG"),
        (encoded(Image.fromarray(noise(9, 9)).convert("RGBA"), "PNG"), "PNG"),
        (encoded(Image.fromarray(noise(9, 9)).convert("P"), "PNG"), "PNG"),
        (encoded(noise(9, 9), "PNG", exif=turned), "PNG"),
        (png16(np.ones((4, 4), int), 0), "PNG"),
        (encoded(noise(9, 9), "JPEG")[:-40], "JPEG"),
        (encoded(noise(99, 99), "PNG")[:-4000], "PNG"),
    ):
        assert decode_plain(data, format, 1_000_000) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_many_are_fitted_as_each_alone_and_as_pillow_does_it(channels):
    images = [
        noise(height, width, found, seed).reshape(height, width, found)
        for seed, (height, width) in enumerate(
            [(40, 40), (40, 60), (41, 40), (16, 16), (200, 90), (40, 40), (9, 13), (24, 18), (60, 32)]
        )
        for found in (1, 3)
    ]
    cache = np.zeros((len(images), 16, 16, channels), np.uint8)
    fitting = Fitting(cache)
    for row, image in enumerate(images):
        fitting.put(row, image)
    fitting.finish()
    for made, image in zip(cache, images, strict=True):
        assert np.array_equal(made, fit(image, 16, channels))
        height, width = image.shape[:2]
        side = min(height, width)
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        picture = Image.fromarray(image.squeeze())
        picture = picture.convert("L") if channels == 1 else picture
        wanted = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC, box=box).convert("RGB"))
        assert np.abs(made.astype(int) - wanted[:, :, :channels]).max() <= 1


def test_statistics_are_those_of_each_image():
    images = np.stack([noise(30, 30, 3, seed) // (seed % 200 + 1) for seed in range(400)])
    mean, std = statistics(images)
    assert np.allclose(mean, images.mean((1, 2, 3)), atol=1e-3)
    assert np.allclose(std, images.std((1, 2, 3)), atol=1e-3)
    assert statistics(np.full((2, 64, 64, 3), 201, np.uint8))[1].tolist() == [0, 0]
