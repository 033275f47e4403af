"""Whole pictures and folders converted, with a swap that paints faces."""

import json
import os
import resource
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from experiments import face_swap_convert as convert
from experiments.face_swap_model import Framing, Swapper
from flaxnets import errors
from flaxnets.data import pictures, provenance

PAINT = (30, 90, 200)
AS_FOUND = Framing()
RANDOM = np.random.default_rng(0)


def _painted(faces: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array(PAINT, np.uint8), faces.shape).copy()


def _load(
    swap: Callable[[np.ndarray], np.ndarray] = _painted,
    framing: Framing = AS_FOUND,
    sha256: str = "12ab",
) -> convert.LoadSwapper:
    return lambda run, direction: Swapper(swap, (32, 24), 3, framing, sha256)


def _config(images, out: Path, **options) -> convert.ConvertConfig:
    given = {"run": Path("trained"), "match_colours": False, **options}
    return convert.ConvertConfig(images=tuple(images), out=out, **given)


def _noise(height: int = 40, width: int = 60) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Five pictures that are a face as a whole, one of them a folder lower."""
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "d.png", "more/a.png"):
        Image.fromarray(_noise()).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_photograph_gets_another_face_and_says_so(tmp_path: Path, capsys) -> None:
    photograph = data.astronaut()
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    out = tmp_path / "out"
    assert convert.run(_config([tmp_path / "photo.png"], out), _load()) == 0
    with Image.open(out / "pictures/photo.png") as image:
        made = np.asarray(image)
    assert provenance.is_marked(out / "pictures/photo.png")
    assert (tmp_path / "photo.png").read_bytes() == before
    said = capsys.readouterr().out
    assert "photo.png: 1 face" in said and "marked as synthetic" in said
    (row,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    ((left, top, width, height),) = row["boxes"]
    assert width / height == pytest.approx(24 / 32, abs=0.01)
    # The middle of the face in the photograph.
    assert tuple(made[118, 224]) == PAINT
    changed = (made != photograph).any(axis=2)
    changed[top : top + height, left : left + width] = False
    assert not changed.any()
    result = json.loads((out / "result.json").read_text())
    assert (result["converted"], result["faces"], result["left_out"]) == (1, 1, [])


def test_a_network_gets_what_its_framing_says_but_for_scale(tmp_path: Path) -> None:
    Image.fromarray(data.astronaut()).save(tmp_path / "photo.png")
    boxes = []
    for number, (framing, scale) in enumerate(
        [(AS_FOUND, None), (Framing(1.5, 0.25, -0.5), None), (Framing(1.5), 2.0)]
    ):
        out = tmp_path / str(number)
        config = _config([tmp_path / "photo.png"], out, scale=scale)
        convert.run(config, _load(framing=framing))
        row = json.loads((out / "metrics.jsonl").read_text())
        ((left, top, width, height),) = row["boxes"]
        boxes.append(np.array([left + width / 2, top + height / 2, height]))
    face, framed, scaled = boxes
    moved = face + face[2] * np.array([-0.5, 0.25, 0.5])
    # Whole pixels, of a corner and of a length.
    np.testing.assert_allclose(framed, moved, atol=1.5)
    np.testing.assert_allclose(scaled, [*face[:2], 2 * face[2]], atol=1.5)


def test_the_largest_face_or_all(tmp_path: Path) -> None:
    face = Image.fromarray(data.astronaut()).crop((130, 0, 330, 200))
    picture = Image.new("RGB", (420, 260), "grey")
    picture.paste(face.resize((120, 120)), (0, 0))
    picture.paste(face, (180, 20))
    picture.save(tmp_path / "two.png")
    middles = {"small": (71, 56), "large": (138, 274)}
    for which, expected in (("largest", {"large"}), ("all", {"small", "large"})):
        out = tmp_path / which
        convert.run(_config([tmp_path / "two.png"], out, faces=which), _load())
        made = pictures.read_image(out / "pictures/two.png")
        painted = {name for name, at in middles.items() if tuple(made[at]) == PAINT}
        assert painted == expected


@pytest.mark.parametrize("mark", ["metadata", "visible", "both", "none"])
def test_the_mark_that_was_asked_for(tmp_path: Path, mark, capsys) -> None:
    noise = _noise(120, 160)
    Image.fromarray(noise).save(tmp_path / "a.png")
    out = tmp_path / "out"
    config = _config([tmp_path / "a.png"], out, box="60,10,32,24", mark=mark)
    assert convert.run(config, _load()) == 0
    path = out / "pictures/a.png"
    assert provenance.is_marked(path) == (mark in ("metadata", "both"))
    corner = pictures.read_image(path)[-8:, :30]
    assert (corner != noise[-8:, :30]).any() == (mark in ("visible", "both"))
    assert ("NOT marked" in capsys.readouterr().out) == (mark == "none")


def test_pictures_of_every_kind_become_their_upright_selves(
    tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    colour = Image.fromarray(_noise())
    colour.convert("L").save(folder / "grey.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(RANDOM.integers(0, 65536, (40, 60), np.uint16)).save(
        folder / "deep.png"
    )
    Image.fromarray(RANDOM.integers(0, 256, (40, 60, 4), np.uint8)).save(
        folder / "transparent.png"
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=turned)
    colour.save(folder / "plain.webp")
    out = tmp_path / "out"
    assert convert.run(_config([folder], out, box="10,8,24,20"), _load()) == 0
    said = capsys.readouterr().out
    assert f"{out / 'pictures/grey.png'}\n" in said
    assert "deep.png, without its values of more than 8 bits\n" in said
    assert "transparent.png, without its transparency (white instead)\n" in said
    made = {path.name for path in (out / "pictures").iterdir()}
    assert made == {
        "grey.png",
        "cmyk.jpg.png",
        "deep.png",
        "transparent.png",
        "turned.jpg.png",
        "plain.webp.png",
    }
    for given in folder.iterdir():
        name = given.name if given.suffix == ".png" else f"{given.name}.png"
        with Image.open(out / "pictures" / name) as image:
            assert "exif" not in image.info
            found = np.asarray(image)
        expected = pictures.read_image(given)
        assert found.shape == ((60, 40, 3) if "turned" in name else (40, 60, 3))
        assert tuple(found[18, 22]) == PAINT
        found, expected = found.copy(), expected.copy()
        found[8:28, 10:34] = expected[8:28, 10:34] = 0
        np.testing.assert_array_equal(found, expected)
        assert provenance.is_marked(out / "pictures" / name)


def test_jpeg_keeps_colour_profiles_and_names(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(_noise()).save(tmp_path / "a.jpg", icc_profile=profile)
    out = tmp_path / "out"
    config = _config([tmp_path / "a.jpg"], out, box="whole", format="jpeg")
    assert convert.run(config, _load()) == 0
    with Image.open(out / "pictures/a.jpg") as image:
        assert image.format == "JPEG" and image.info["icc_profile"] == profile
    assert provenance.is_marked(out / "pictures/a.jpg")


def test_bad_pictures_stop_it_or_are_left_out_with_a_line_each(
    tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.fromarray(data.astronaut()).save(folder / "face.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.png")
    whole = (folder / "face.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no picture")
    out = tmp_path / "out"
    with pytest.raises(errors.DataError, match="coffee.png: no face.*--box.*skip"):
        convert.run(_config([folder], out), _load())
    config = _config([folder], out, on_bad_image="skip")
    assert convert.run(config, _load()) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said].count("left out") == 3
    assert "converted 1 of 4 pictures, left out 3" in said[-1]
    result = json.loads((out / "result.json").read_text())
    assert [Path(line.partition(": ")[0]).name for line in result["left_out"]] == [
        "coffee.png",
        "half.png",
        "text.jpg",
    ]
    assert list(_contents(out / "pictures")) == ["face.png"]
    # What was repaired is tried again, and only that.
    (folder / "half.png").write_bytes(whole)
    config = _config([folder], out, on_bad_image="skip", resume=True)
    assert convert.run(config, _load()) == 0
    assert json.loads((out / "result.json").read_text())["converted"] == 2
    (folder / "face.png").unlink()
    (folder / "half.png").unlink()
    config = _config([folder], tmp_path / "none", on_bad_image="skip")
    with pytest.raises(errors.DataError, match="none of 2 .*coffee.png: no face"):
        convert.run(config, _load())


def test_a_killed_conversion_goes_on_where_it_was(
    photographs: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    given = _contents(photographs)
    convert.run(_config([photographs], whole, box="whole"), _load())
    calls = []

    def killed(faces: np.ndarray) -> np.ndarray:
        calls.append(len(faces))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return _painted(faces)

    with pytest.raises(KeyboardInterrupt):
        convert.run(_config([photographs], out, box="whole"), _load(killed))
    pictures_made = out / "pictures"
    assert list(_contents(pictures_made)) == ["a.png", "b.png"]
    # What a kill in the middle of writing leaves.
    (pictures_made / ".c.png.new").write_bytes(b"half")
    inode = (pictures_made / "a.png").stat().st_ino
    with pytest.raises(errors.RunFolderError, match="--resume"):
        convert.run(_config([photographs], out, box="whole"), _load())
    with pytest.raises(errors.RunFolderError, match="mark is 'none', was 'metadata'"):
        convert.run(
            _config([photographs], out, box="whole", mark="none", resume=True),
            _load(),
        )
    with pytest.raises(errors.RunFolderError, match="network_sha256 is '34cd'"):
        convert.run(
            _config([photographs], out, box="whole", resume=True), _load(sha256="34cd")
        )
    calls.clear()
    assert (
        convert.run(
            _config([photographs], out, box="whole", resume=True),
            _load(lambda faces: (calls.append(0), _painted(faces))[1]),
        )
        == 0
    )
    assert len(calls) == 3
    assert (pictures_made / "a.png").stat().st_ino == inode
    assert _contents(pictures_made) == _contents(whole / "pictures")
    assert _contents(photographs) == given


def test_ctrl_c_ends_after_a_whole_picture_and_says_how_to_go_on(
    photographs: Path, tmp_path: Path, capsys
) -> None:
    def interrupting(faces: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return _painted(faces)

    out = tmp_path / "out"
    config = _config([photographs], out, box="whole", faces="all", format="jpeg")
    assert convert.run(config, _load(interrupting)) == 130
    assert list(_contents(out / "pictures")) == ["a.png.jpg"]
    said = capsys.readouterr().out.splitlines()[-1]
    assert "stopped by SIGINT, 4 of 5 pictures are left" in said
    command = shlex.split(said.partition("Go on with: ")[2])
    assert command[:4] == ["python", "-m", "experiments.face_swap", "convert"]
    assert convert.main(command[4:], _load()) == 0
    assert len(_contents(out / "pictures")) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ()}, "no picture"),
        ({"out": "photographs/out"}, "--out .* lies in the input"),
        ({"out": "photographs"}, "lies in --out"),
        ({"out": "."}, "photographs lies in --out"),
        ({"images": ("photographs", "photographs/more")}, "would both become a.png"),
        ({"images": ("absent.png",)}, "absent.png: cannot be read"),
        ({"images": ("photographs/notes.txt",)}, "notes.txt: is not a picture"),
        ({"images": ("empty",)}, "empty: no picture"),
        ({"box": "1,2,3"}, "--box is '1,2,3', but must be whole, or LEFT"),
        ({"box": "1,2,3,0"}, "--box"),
        ({"box": "50,2,30,10"}, "a.png: has 60x40 pixels, so that --box 50,2,30,10"),
        ({"box": None, "scale": 0.0}, "--scale is 0.0"),
        ({"box": None, "search_side": 5}, "--search-side is 5"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    photographs: Path, tmp_path: Path, options, message: str, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    before = _contents(photographs)
    given = {"images": ("photographs",), "out": "out", "box": "whole", **options}
    images, out = map(Path, given.pop("images")), Path(given.pop("out"))
    with pytest.raises((errors.ArgumentError, errors.DataError), match=message) as says:
        convert.run(_config(images, out, **given), _load())
    assert "\n" not in str(says.value)
    assert _contents(photographs) == before


def test_a_link_to_the_input_is_the_input(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photographs)
    config = _config([photographs], tmp_path / "link" / "out", box="whole")
    with pytest.raises(errors.ArgumentError, match="lies in the input"):
        convert.run(config, _load())


def test_a_full_disk_is_one_line_and_can_be_gone_on_from(
    photographs: Path, tmp_path: Path
) -> None:
    Image.fromarray(_noise(200, 200)).save(photographs / "c.png")
    out = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(errors.RunFolderError, match="c.png.*bytes are free"):
            convert.run(_config([photographs], out, box="10,10,20,20"), _load())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(_contents(out / "pictures")) == ["a.png", "b.png"]
    config = _config([photographs], out, box="10,10,20,20", resume=True)
    assert convert.run(config, _load()) == 0
    assert len(_contents(out / "pictures")) == 5
