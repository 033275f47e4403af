"""The face swap, whole, at small size, and the parts that it is made of."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import face_swap, face_swap_data, face_swap_model, face_swap_scores
from flaxnets import errors, models, params, train, transfer
from flaxnets.train import optimizers, reconstruction

SHAPE = face_swap_model.Shape((16, 16), 3, (4,), 8)


def _config(out: Path, **options) -> face_swap.Config:
    small = {
        "pairs": 1,
        "pictures": 12,
        "procedures": ("frozen", "joint"),
        "size": 16,
        "steps": 4,
        "batch_size": 4,
        "widths": (4,),
        "code": 8,
    }
    return face_swap.Config(out=out, **{**small, **options})


def test_a_run_leaves_scores_faces_and_a_network_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert face_swap.run(_config(out)) == 0
    result = json.loads((out / "result.json").read_text())
    assert [(row["procedure"], row["aligned"]) for row in result["table"]] == [
        ("frozen", False),
        ("frozen", True),
        ("joint", False),
        ("joint", True),
    ]
    for row in result["table"]:
        best = max(row["psnr_unchanged"], row["psnr_mean_face"])
        assert row["pairs"] == 1 and row["gain"] == pytest.approx(row["psnr"] - best)
        assert row["pose_error_true"] < row["pose_error"]
    (certificate,) = result["freeze_certificates"]
    assert certificate["sha256_before"] == certificate["sha256_after"]
    assert (out / "figures/faces.png").stat().st_size > 5_000
    assert "data:image/png" in (out / "report.html").read_text()

    # What was saved does what was scored.
    case = face_swap_data.rendered(0, pictures=12, size=16, seed=0)
    swapper = face_swap_model.load_swapper(out)
    assert (swapper.size, swapper.channels) == ((16, 16), 3)
    psnr, _ = face_swap_scores.likeness(swapper.swap(case.test[0]), case.test[1])
    assert psnr == pytest.approx(max(row["psnr"] for row in result["table"]))
    back = face_swap_model.load_swapper(out, "b_to_a").swap(case.test[1][:3])
    assert back.shape == (3, 16, 16, 3) and back.dtype == np.uint8
    with pytest.raises(errors.ArgumentError, match="takes uint8"):
        swapper.swap(case.test[0][:, :8])

    # Killed in the second training, or with a network lost, it trains what is missing
    # and ends the same.
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 2
    for row in result["table"]:
        del row["seconds"]
    for lost, written in ((1, lines[0] + lines[1][:20]), (0, "".join(lines))):
        shutil.rmtree(out / f"checkpoints/{lost}")
        (out / "metrics.jsonl").write_text(written)
        (out / "result.json").unlink()
        with pytest.raises(errors.RunFolderError, match="not finished"):
            face_swap_model.load_swapper(out)
        assert face_swap.run(_config(out, resume=True)) == 0
        again = json.loads((out / "result.json").read_text())
        for row in again["table"]:
            del row["seconds"]
        assert again["table"] == result["table"]
        assert again["swapper"] == result["swapper"]
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows] == [0, 1]
        renewed = face_swap_model.load_swapper(out)
        assert renewed.sha256 == swapper.sha256
    assert swapper.sha256 != face_swap_model.load_swapper(out, "b_to_a").sha256
    # The faces in the pictures are found, and a network says how they lie in them.
    scale, down, across = result["swapper"]["framings"]["a"]
    assert swapper.framing == (scale, down, across)
    assert 1.2 < scale < 2.2 and max(abs(down), abs(across)) < 0.3


def test_a_frozen_encoder_is_bit_equal_and_the_other_decoder_learns() -> None:
    variables = SHAPE.initialize(jax.random.key(0))
    frozen = ("encoder/**", "decoder_a/**")
    optimizer, _ = optimizers.make("adam", learning_rate=1e-2, total_steps=4)
    loss = reconstruction.reconstruction(face_swap_model.own_decoders(SHAPE, ("b",)))
    step = jax.jit(train.make_step(loss, optimizer, frozen=frozen))
    state = train.create(variables, optimizer, key=jax.random.key(1), frozen=frozen)
    held = params.select(state.params, frozen)
    before = transfer.fingerprint(state, held)
    images = jax.random.uniform(jax.random.key(2), (4, 16, 16, 3))
    first = None
    for _ in range(4):
        state, metrics = step(state, {"image": images, "label": jnp.zeros(4)})
        first = first or float(metrics["loss"])
    assert transfer.fingerprint(state, held) == before
    assert float(metrics["loss"]) < first
    for name, leaf in params.flatten(state.params).items():
        same = np.array_equal(leaf, params.flatten(variables["params"])[name])
        assert same == (name in held)


def test_each_decoder_is_that_of_an_autoencoder_of_its_own() -> None:
    """Against `Autoencoder` with the same parameters, for every way to call it."""
    network = models.SharedAutoencoder(
        (3, 5), 2, ("a", "b", "c"), unpooling="max_unpool"
    )
    images = jax.random.uniform(jax.random.key(0), (3, 2, 8, 12, 2))
    variables = params.initialize(network, jax.random.key(1), (1, 8, 12, 2))
    single = models.Autoencoder((3, 5), 2, "max_unpool")

    def expected(name: str, images: jax.Array) -> jax.Array:
        own = {
            "encoder": variables["params"]["encoder"],
            "decoder": variables["params"][f"decoder_{name}"],
        }
        return single.apply({"params": own}, images)[0]

    @jax.jit
    def everything(images: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        own = network.apply(variables, images[:2], "cb", method="own")
        every, endpoints = network.apply(variables, images[0])
        one = network.apply(variables, images[0], "b", method="translate")
        of = [expected(name, images[0]) for name in "abc"]
        return {
            "own": (own, jnp.stack([of[2], expected("b", images[1])])),
            "every": (every, jnp.stack(of)),
            "output": (endpoints["output"], every),
            "translate": (one, of[1]),
        }

    for name, (found, right) in everything(images).items():
        np.testing.assert_allclose(found, right, atol=1e-6, err_msg=name)
    with pytest.raises(errors.ArgumentError, match="no decoder 'd'; there are a, b, c"):
        network.apply(variables, images[0], "d", method="translate")


@pytest.mark.parametrize("sees", ["edges", "pictures"])
def test_what_is_trained_is_what_swaps(sees: face_swap_model.Sees) -> None:
    """Against the encoder and a decoder one after the other, on what `seen` gives."""
    shape = dataclasses.replace(SHAPE, sees=sees)
    variables = shape.initialize(jax.random.key(0))
    network, generator = shape.network(), np.random.default_rng(0)
    faces = generator.integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    strip = face_swap_model.strip_of(jnp.float32(faces) / 255)
    found, _ = face_swap_model.own_decoders(shape, ("a", "b"))(variables, strip)
    given = shape.seen(jnp.float32(faces) / 255)
    assert given.shape[-1] == (4 if sees == "edges" else 3)

    def translated(images: jax.Array, name: str) -> jax.Array:
        return network.apply(variables, images, name, method="translate")

    own = [translated(given[place], name) for place, name in enumerate("ab")]
    np.testing.assert_allclose(
        face_swap_model.people_of(found, 2), jnp.stack(own), atol=1e-5
    )
    swap = face_swap_model.swapper(shape, variables, "a", "b").swap
    expected = 255 * np.clip(translated(given[0], "b"), 0, 1)
    # Half of a grey value is what rounding does.
    np.testing.assert_allclose(swap(faces[0]), expected, atol=0.51)
    means = face_swap_model.with_codes(shape, variables, {"a": faces[0]})["codes"]
    codes = network.apply(variables, given[0], method="encode").values
    np.testing.assert_allclose(means["a"]["mean"][0], codes.mean(0), atol=1e-5)


def test_under_several_lights_the_encoder_is_given_pictures(tmp_path: Path) -> None:
    """Which side the light comes from is all that differs, and edges do not tell."""
    yale = {"yale": tmp_path / "yale.npz"}
    assert face_swap.sees_of(_config(tmp_path)) == "edges"
    assert face_swap.sees_of(_config(tmp_path, **yale)) == "pictures"
    assert face_swap.sees_of(_config(tmp_path, sees="edges", **yale)) == "edges"


def test_an_encoder_of_edges_does_not_see_which_side_is_brighter() -> None:
    shape = dataclasses.replace(SHAPE, sees="edges")
    images = jax.random.uniform(jax.random.key(0), (2, 5, 16, 16, 3))
    seen, inverted = shape.seen(images), shape.seen(1 - images)
    np.testing.assert_allclose(seen[..., :3], inverted[..., :3], atol=1e-5)
    brightness = np.asarray(images).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(seen[..., 7, 9, 3], brightness, atol=1e-6)
    np.testing.assert_allclose(inverted[..., 2, 0, 3], 1 - brightness, atol=1e-6)


def test_strips_come_apart_again_and_use_each_picture_equally_often() -> None:
    generator = np.random.default_rng(0)
    one, two = (
        generator.integers(0, 256, (count, 4, 6, 1), np.uint8) for count in (3, 2)
    )
    strip = face_swap_model.strips([one, two], 6).images
    assert strip.shape == (6, 8, 6, 1)
    parts = face_swap_model.people_of(jnp.asarray(strip), 2)
    np.testing.assert_array_equal(parts[0], one[[0, 1, 2, 0, 1, 2]])
    np.testing.assert_array_equal(parts[1], two[[0, 1, 0, 1, 0, 1]])
    np.testing.assert_array_equal(face_swap_model.strip_of(parts), strip)


def test_blended_lights_are_sums_of_one_person_s_pictures() -> None:
    # Of person k, picture n is the constant 10 k + n.
    images = jnp.arange(4.0)[None] + 10 * jnp.arange(2.0)[:, None]
    images = jnp.broadcast_to(images.reshape(8, 1, 1, 1), (8, 2, 2, 1))
    keys = jax.random.split(jax.random.key(0), 300)
    blended = jax.jit(jax.vmap(face_swap.blended_lights(2), (0, None)))(keys, images)
    value = np.asarray(blended).reshape(300, 2, 4, 4)
    np.testing.assert_allclose(value.min(axis=-1), value.max(axis=-1), atol=1e-6)
    for person in range(2):
        assert value[:, person].min() >= 10 * person
        assert value[:, person].max() <= 10 * person + 3
    # Half of them stay as they are: 300 draws, within four deviations of a half.
    kept = np.isclose(value[:, 0, 1, 0], 1.0, atol=1e-6).mean()
    assert abs(kept - 0.5) < 4 * np.sqrt(0.25 / 300)


def test_pose_is_read_from_pictures_and_wrong_ones_show() -> None:
    case = face_swap_data.rendered(1, pictures=150, size=16, seed=0)
    assert case.poses is not None and case.test_poses is not None
    reader = face_swap_scores.PoseReader(case.train[0], case.poses[0])
    right = reader.error(case.test[0], case.test_poses)
    guess = np.abs(case.test_poses - case.poses[0].mean(axis=0)).mean()
    assert right < guess / 4
    other = np.roll(case.test[0], 1, axis=0)
    assert reader.error(other, case.test_poses) > guess
    # The test views are nobody's training views.
    assert not set(map(tuple, case.test_poses)) & set(map(tuple, case.poses[0]))
    assert not set(map(tuple, case.poses[1])) & set(map(tuple, case.poses[0]))


@pytest.mark.parametrize(("height", "width"), [(32, 16), (24, 40)])
def test_poses_are_read_from_whole_pictures(height: int, width: int) -> None:
    """Block by block against a loop, also where blocks are of several sizes."""
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    found = face_swap_scores._coarse(images)
    means = [
        image[
            height * row // 16 : height * (row + 1) // 16,
            width * column // 16 : width * (column + 1) // 16,
        ].mean(axis=(0, 1))
        for image in images
        for row in range(16)
        for column in range(16)
    ]
    flat = np.reshape(means, (2, -1))
    flat = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found, flat, atol=1e-12)


def _yale(path: Path, **changed) -> Path:
    lights = 30
    azimuth, elevation = np.arange(lights, dtype=np.int16), np.zeros(lights, np.int16)
    arrays = {
        # Picture of person p under light n: p + 3 n everywhere.
        "images": np.broadcast_to(
            (np.arange(3)[:, None] + 3 * np.arange(lights)[None]).reshape(-1, 1, 1),
            (3 * lights, 24, 20),
        ).astype(np.uint8),
        "person": np.repeat([1, 2, 3], lights).astype(np.uint8),
        "azimuth": np.tile(azimuth, 3),
        "elevation": np.tile(elevation, 3),
    }
    np.savez(path, **{**arrays, **changed})
    return path


def test_yale_has_the_same_lights_aside_for_everyone(tmp_path: Path) -> None:
    case = face_swap_data.yale(_yale(tmp_path / "yale.npz"), size=16, seed=1)
    assert case.people == ("p1", "p2", "p3") and case.shape == (16, 13, 1)
    lights = []
    for person, (train_, test) in enumerate(zip(case.train, case.test, strict=True)):
        test_lights = (test[:, 0, 0, 0].astype(int) - person) // 3
        train_lights = (train_[:, 0, 0, 0].astype(int) - person) // 3
        assert len(test_lights) == face_swap_data.TEST_LIGHTS
        assert not set(test_lights) & set(train_lights)
        assert len(set(test_lights) | set(train_lights)) == 30
        lights.append((test_lights.tolist(), train_lights.tolist()))
    assert lights[0][0] == lights[1][0] == lights[2][0]
    assert lights[0][1] != lights[1][1]
    other = face_swap_data.yale(tmp_path / "yale.npz", size=16, seed=2)
    assert not np.array_equal(other.test[0], case.test[0])
    _yale(tmp_path / "odd.npz", azimuth=np.arange(90, dtype=np.int16))
    with pytest.raises(errors.DataError, match="do not have the same lights"):
        face_swap_data.yale(tmp_path / "odd.npz", size=16, seed=0)
    twice = np.tile(np.arange(30, dtype=np.int16) // 2, 3)
    _yale(tmp_path / "twice.npz", azimuth=twice)
    with pytest.raises(errors.DataError, match="30 pictures .* under 15 lights"):
        face_swap_data.yale(tmp_path / "twice.npz", size=16, seed=0)


def _folder(path: Path, modes: list[str], *, colour: int) -> Path:
    path.mkdir()
    for number, mode in enumerate(modes):
        size = (20 + 3 * number, 18 + 2 * number)
        picture = Image.new("RGB", size, (colour, 10 * number, 90)).convert(mode)
        picture.save(path / f"{number}.png")
    return path


def test_own_pictures_of_any_size_and_kind(tmp_path: Path, capsys) -> None:
    modes = ["RGB", "L", "RGBA", "LA", "P", "RGB", "1", "RGB", "RGB", "RGB"]
    first = _folder(tmp_path / "a", modes, colour=200)
    second = _folder(tmp_path / "b", modes, colour=20)
    (first / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (first / "notes.txt").write_text("no picture")
    case = face_swap_data.own(first, second, size=16, seed=0)
    assert not case.true and case.shape == (16, 16, 3)
    assert [len(images) for images in case.train] == [8, 8]
    assert [len(images) for images in case.test] == [2, 2]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("left out: ") and "broken.jpg" in line
    # A copy is not another picture, and may not lie on both sides of what is set aside.
    for number in range(2):
        shutil.copy(second / "0.png", second / f"copy{number}.png")
    again = face_swap_data.own(first, second, size=16, seed=0)
    assert f"left out: 2 copies in {second}" in capsys.readouterr().out
    assert [len(images) for images in again.train] == [8, 8]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    good = _folder(tmp_path / "good", ["RGB"] * 8, colour=3)
    single = _folder(tmp_path / "single", ["RGB"], colour=3)
    (tmp_path / "empty").mkdir()

    def fails(second: Path, kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            face_swap_data.own(good, second, size=16, seed=0)

    fails(tmp_path / "none", errors.DataError, "--b .*none: there is no such folder")
    fails(single, errors.DataError, "--b .*single: 1 pictures .* at least 8")
    fails(tmp_path / "empty", errors.DataError, "--b .*empty: 0 pictures")
    fails(good, errors.ArgumentError, "both")
    fails(tmp_path, errors.ArgumentError, f"{good} lies in {tmp_path}")
    inner = _folder(good / "inner", ["RGB"] * 8, colour=4)
    fails(inner, errors.ArgumentError, f"{inner} lies in {good}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a": Path("x")}, "--a is given without --b"),
        ({"b": Path("x")}, "--b is given without --a"),
        ({"a": Path("x"), "b": Path("y"), "yale": Path("z")}, "--yale is given with"),
        ({"steps": 6}, "--steps is 6, but must be a multiple of 4"),
        ({"size": 17}, "--size is 17, but must be a multiple of 2 from 16 on"),
        ({"pairs": 0}, "--pairs is 0"),
        ({"procedures": ()}, "--procedures is empty"),
        ({"procedures": ("joint", "joint")}, "--procedures is joint joint"),
        ({"widths": ()}, "--widths is empty"),
        ({"warp": -0.1}, "--warp is -0.1"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_what_cannot_be_asked_for(options, message: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        face_swap.run(_config(tmp_path / "run", **options))
    assert not list(tmp_path.iterdir())
