"""The pixels of photographs of any type: nothing is clipped, inverted or turned without a word."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captum_sgcampp.explanation.photograph import pixels, to_rgb

GRAYS = np.arange(12).reshape(3, 4) * 23  # 8 bits, 0 to 253


def saved(image: Image.Image, file_format: str, **options: Any) -> Image.Image:
    """The image as Pillow reads it from a file."""
    file = BytesIO()
    image.save(file, file_format, **options)
    return Image.open(file)


def gray(image: Image.Image) -> Any:
    rgb = np.asarray(to_rgb(image)).astype(int)
    assert (rgb[..., :1] == rgb).all()
    return rgb[..., 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bits_are_scaled_not_clipped(file_format: str) -> None:
    image = saved(Image.fromarray((GRAYS * 257).astype(np.uint16)), file_format)
    assert image.mode.startswith("I")
    np.testing.assert_array_equal(gray(image), GRAYS)


def test_big_endian_12_bits_and_32_bits() -> None:
    big_endian = Image.frombytes("I;16B", (4, 3), (GRAYS * 257).astype(">u2").tobytes())
    np.testing.assert_array_equal(gray(big_endian), GRAYS)
    signed = (GRAYS / 255 * (2**31 - 1)).astype(np.int32)
    np.testing.assert_array_equal(gray(saved(Image.fromarray(signed), "TIFF")), GRAYS)
    twelve = saved(Image.fromarray((GRAYS / 255 * 4095).round().astype(np.uint16)), "TIFF")
    twelve.tag_v2[258] = (12,)  # type: ignore[attr-defined]  # as a camera writes it; Pillow cannot
    np.testing.assert_array_equal(gray(twelve), GRAYS)
    unsigned = Image.fromarray((GRAYS / 255 * (2**32 - 1)).astype(np.uint32).view(np.int32))
    file = saved(unsigned, "TIFF")
    file.tag_v2[339] = (1,)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(gray(file), GRAYS)


def test_white_is_zero() -> None:
    image = saved(Image.fromarray((GRAYS * 257).astype(np.uint16)), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(gray(image), 255 - GRAYS)


def test_floats_from_0_to_1() -> None:
    image = saved(Image.fromarray((GRAYS / 255).astype(np.float32)), "TIFF")
    np.testing.assert_array_equal(gray(image), GRAYS)


@pytest.mark.parametrize("value", [-0.1, 1.5, 255.0, np.nan])
def test_other_floats_are_refused(value: float) -> None:
    image = Image.fromarray(np.full((2, 2), value, dtype=np.float32))
    with pytest.raises(ValueError, match="they must be from 0 to 1, the range of their type"):
        to_rgb(image)


def test_negative_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="its pixels are from -5 to -5"):
        to_rgb(saved(Image.fromarray(np.full((2, 2), -5, dtype=np.int32)), "TIFF"))


def test_integers_of_unknown_range_are_refused() -> None:
    image = saved(Image.fromarray(np.full((2, 2), 9000, dtype=np.uint16)), "PNG").convert("I")
    with pytest.raises(ValueError, match="its range is not known from the mode I; give an array"):
        pixels(image)


def test_a_tiff_that_pillow_reads_wrongly_is_refused() -> None:
    image = saved(Image.new("RGB", (4, 3), (1, 2, 3)), "TIFF", tiffinfo={284: 2})
    image.tag_v2[258] = (16, 16, 16)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="a TIFF with more than 8 bits in separate planes"):
        to_rgb(image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "RGB", "I;16"])
def test_transparency_is_white(mode: str) -> None:
    if mode == "PA":
        image = Image.frombytes("PA", (2, 1), bytes([0, 0, 0, 255]))  # Pillow 11 loses what another mode has of it
    elif mode in {"RGBA", "LA"}:
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 255))
        image = image.convert(mode)
    else:
        image = Image.new(mode, (2, 1), 0)
        image.putpixel((1, 0), 1 if mode in {"P", "L"} else (1, 1, 1) if mode == "RGB" else 257)
        image.putpalette([0, 0, 0, 1, 1, 1]) if mode == "P" else None
        image = saved(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    left, right = gray(image)[0]
    assert left == 255
    assert right <= 1


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_photograph_is_upright(mode: str) -> None:
    image = Image.new(mode, (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert to_rgb(saved(image, "PNG", exif=exif)).size == (2, 4)


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_modes_are_pillows(mode: str) -> None:
    image = Image.new("RGB", (2, 2), (200, 100, 50)).convert(mode) if mode != "LAB" else Image.new("LAB", (2, 2))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_arrays_of_integers_are_scaled_by_their_type(dtype: type) -> None:
    array: Any = np.full((2, 3, 3), np.iinfo(dtype).max, dtype=dtype)
    np.testing.assert_array_equal(pixels(array), np.ones((2, 3, 3), dtype=np.float32))


def test_arrays_of_floats_and_images() -> None:
    np.testing.assert_array_equal(pixels(np.full((2, 3), 0.25)), np.full((2, 3, 3), 0.25))
    palette = Image.new("RGB", (2, 2), (255, 0, 0)).convert("P")  # an array of its indices would be another picture
    np.testing.assert_allclose(pixels(palette)[0, 0], [1, 0, 0], atol=0.02)


@pytest.mark.parametrize("array", [np.full((2, 2, 3), 300.0), np.zeros((2, 2, 4)), np.zeros((0, 2)), -np.eye(2)])
def test_other_arrays_are_refused(array: Any) -> None:
    with pytest.raises(ValueError, match=r"photograph: must be \(H, W, 3\)"):
        pixels(array)
