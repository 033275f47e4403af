"""Pictures are read by value from any format, and broken ones are named."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxnets import errors
from flaxnets.data import pictures

# Upper left black, upper right dark, lower left light, lower right white.
GREY = np.array([[0, 64], [192, 255]], np.uint8)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def grey_of(path: Path) -> list[list[int]]:
    image = pictures.read_image(path)
    assert image.dtype == np.uint8 and image.shape[2] == 3
    assert (image == image[:, :, :1]).all()
    return image[:, :, 0].tolist()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_modes_of_eight_bits_keep_their_values(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert(mode)
    assert grey_of(saved(tmp_path / "a.png", image)) == GREY.tolist()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tiff", "a.webp"])
def test_formats_keep_their_values(name: str, tmp_path: Path) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path / name, Image.fromarray(GREY), **options)
    assert grey_of(path) == GREY.tolist()


def test_a_wrong_extension_does_not_matter(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(GREY), format="PNG")
    assert grey_of(path) == GREY.tolist()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(GREY > 128)
    assert image.mode == "1"
    path = saved(tmp_path / "a.png", image)
    assert grey_of(path) == [[0, 0], [255, 255]]


def test_sixteen_bits_are_divided_by_257(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257 * 64], [257 * 192, 65535]], np.uint16))
    assert image.mode == "I;16"
    assert grey_of(saved(tmp_path / "a.png", image)) == GREY.tolist()
    assert grey_of(saved(tmp_path / "a.tiff", image)) == GREY.tolist()


def test_transparent_sixteen_bits_are_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 257 * 64]], np.uint16))
    path = saved(tmp_path / "a.png", image, transparency=0)
    assert grey_of(path) == [[255, 64]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0, 0.25], [0.75, 1.0]], [[0, 64], [191, 255]]),
        ([[0.2, 0.2], [0.4, 0.4]], [[51, 51], [102, 102]]),
        ([[-10.0, 0.0], [5.0, 10.0]], [[0, 128], [191, 255]]),
        ([[7.0, 7.0], [7.0, 7.0]], [[0, 0], [0, 0]]),
    ],
)
def test_floats_are_scaled_from_one_or_from_their_range(
    values, expected, tmp_path: Path
) -> None:
    image = Image.fromarray(np.array(values, np.float32))
    assert grey_of(saved(tmp_path / "a.tiff", image)) == expected


def test_integers_of_32_bits_are_scaled_from_their_range(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[-100, 0], [100, 300]], np.int32))
    path = saved(tmp_path / "a.tiff", image)
    assert grey_of(path) == [[0, 64], [128, 255]]


# The last one is a signalling NaN, of which numpy warns when it is converted.
@pytest.mark.parametrize("bits", [0x7F800000, 0x7FC00000, 0x7F800001])
def test_floats_that_are_not_finite_are_refused(tmp_path: Path, bits: int) -> None:
    image = Image.fromarray(np.array([[0, bits]], np.uint32).view(np.float32))
    path = saved(tmp_path / "a.tiff", image)
    with pytest.raises(errors.DataError, match="a.tiff: holds values .* not finite"):
        pictures.read_image(path)


def test_cmyk_is_inverted_and_darkened_by_black(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 0, 8, 8))
    read = pictures.read_image(saved(tmp_path / "a.tiff", image))
    assert read[0, [0, 7]].tolist() == [[0, 255, 255], [0, 0, 0]]
    jpeg = pictures.read_image(saved(tmp_path / "a.jpg", image, quality=95))
    # JPEG is lossy.
    np.testing.assert_allclose(jpeg[0, [0, 7]], [[0, 255, 255], [0, 0, 0]], atol=4)


def test_transparent_parts_show_white(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [100, 0, 0, 51]]], np.uint8)
    read = pictures.read_image(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    # A fifth of (100, 0, 0) on four fifths of white.
    assert read[0].tolist() == [[255, 255, 255], [0, 0, 0], [224, 204, 204]]


def test_transparent_palette_colour_shows_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    for name in ("a.png", "a.gif"):
        read = pictures.read_image(saved(tmp_path / name, image, transparency=0))
        assert read[0].tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize("name", ["a.gif", "a.tiff", "a.webp", "a.png"])
def test_first_frame_of_several_is_read(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("L", (4, 4), value) for value in (0, 255))
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(
        tmp_path / name, first, save_all=True, append_images=[second], **options
    )
    assert set(sum(grey_of(path), [])) == {0}


def test_what_is_not_kept_is_named(tmp_path: Path) -> None:
    plain = Image.new("RGB", (4, 4))

    def dropped(name: str, image: Image.Image, **options) -> list[str]:
        with saved(tmp_path / name, image, **options).open("rb") as file:
            return pictures.dropped(file, name)

    assert dropped("a.png", plain) == dropped("a.jpg", plain) == []
    assert dropped("a.gif", plain.convert("P")) == []
    assert dropped("a.png", plain.convert("L"), transparency=0) == [
        "transparency (white instead)"
    ]
    assert dropped("a.tiff", plain.convert("F")) == ["values of more than 8 bits"]
    assert dropped(
        "a.webp", plain, save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]
    ) == ["1 of its 2 frames"]


def test_a_colour_png_of_16_bits_is_known_though_8_are_read() -> None:
    """Pillow cannot write one, so this is made by the format's description."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    scanline = zlib.compress(b"\0" + struct.pack(">HHH", 0x1234, 0x8000, 0xFFFF))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", scanline), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    assert pictures.decode(io.BytesIO(content), "a").tolist() == [[[0x12, 128, 255]]]
    found = pictures.dropped(io.BytesIO(content), "a")
    assert found == ["values of more than 8 bits"]


# What each EXIF orientation says must be done to show the picture upright (JEITA
# CP-3451, "Orientation"), in numpy's terms.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.tiff", {}), ("a.tiff", {"compression": "tiff_lzw"})],
)
def test_exif_orientation_is_applied(
    orientation, name, options, tmp_path: Path
) -> None:
    stored = np.array([[0, 64, 128], [192, 224, 255]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, Image.fromarray(stored), exif=exif, **options)
    assert grey_of(path) == UPRIGHT[orientation](stored).tolist()


def jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return saved(path, Image.fromarray(noise)).read_bytes()


def test_truncated_pictures_are_named(tmp_path: Path) -> None:
    whole = jpeg(tmp_path / "whole.jpg")
    path = tmp_path / "half.jpg"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.DataError, match=r"half\.jpg: .*truncated or damaged"):
        pictures.read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><p>Not found", "is a web page"),
        (b"<html><p>Sign in", "is a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a picture"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"8BPS" + bytes(100), "is not a picture"),
    ],
)
def test_other_files_are_named_with_what_they_are(content, message, tmp_path) -> None:
    path = tmp_path / "digit.jpg"
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match=rf"digit\.jpg: .*{message}"):
        pictures.read_image(path)


def test_folders_and_absent_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    with pytest.raises(errors.DataError, match=r"folder\.jpg: is a folder"):
        pictures.read_image(folder)
    with pytest.raises(errors.DataError, match=r"absent\.jpg: there is no such file"):
        pictures.read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_bombs_are_refused_before_they_are_decoded(side: int, tmp_path: Path) -> None:
    """Pillow only warns of the smaller one. No pixel data follows the header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match=r"bomb\.png: refused before decoding"):
        pictures.read_image(path)


def test_damage_is_reported_as_nothing_but_data_errors(tmp_path: Path) -> None:
    """Bytes changed at random: read, or refused by name; any other error is a bug."""
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    refused = 0
    for name in ("a.jpg", "a.png", "a.gif", "a.bmp", "a.webp"):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        whole = saved(tmp_path / name, image).read_bytes()
        for _ in range(40):
            content = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, min(len(content), 200), 3)
            content[places] = rng.integers(0, 256, 3)
            path.write_bytes(content[: rng.integers(1, len(content) + 1)].tobytes())
            try:
                pictures.read_image(path)
            except errors.DataError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > 100


def test_read_digit_names_a_blank_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "blank.png", Image.new("L", (300, 200), 230))
    with pytest.raises(errors.DataError, match=r"blank\.png: no digit was found"):
        pictures.read_digit(path)


def test_read_digit_turns_a_photo_upright(tmp_path: Path) -> None:
    stroke = np.full((60, 40), 230, np.uint8)
    stroke[10:50, 15:20] = 20
    stroke[10:15, 15:32] = 20
    upright = pictures.read_digit(saved(tmp_path / "a.png", Image.fromarray(stroke)))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(stroke)))
    path = saved(tmp_path / "b.png", turned, exif=exif)
    np.testing.assert_array_equal(pictures.read_digit(path), upright)
    assert upright.shape == (28, 28, 1) and upright.dtype == np.uint8
