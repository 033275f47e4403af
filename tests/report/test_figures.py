"""Figures carry the right numbers, names and pixels, and leave no trace."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from flaxnets import errors
from flaxnets.report import figures

NAMES = ("zero", "one", "two")
# Three classes, ten examples of each; 2 of class "one" seen as "two", 1 as "zero".
MATRIX = np.array([[10, 0, 0], [1, 7, 2], [0, 0, 10]])


def texts(figure) -> list[str]:
    return [
        text.get_text()
        for axes in (*figure.axes, *figure.axes[0].child_axes)
        for text in axes.texts
    ]


def titles(figure) -> str:
    return figure.get_suptitle() + "".join(
        axes.get_title(loc="left") for axes in figure.axes
    )


def shown(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def line(axes, index: int) -> np.ndarray:
    return np.asarray(axes.lines[index].get_xydata())


def records(losses: list[float]) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": 1 - loss / 10,
            "test_loss": 2 * loss,
            "test_accuracy": 1 - loss / 5,
        }
        for epoch, loss in enumerate(losses, start=1)
    ]


def test_curves_show_values_and_name_the_last_and_the_best() -> None:
    figure = figures.curves(records([0.5, 0.1, 0.2]))
    loss, accuracy = figure.axes
    np.testing.assert_allclose(line(loss, 0)[:, 1], [0.5, 0.1, 0.2])
    np.testing.assert_allclose(line(accuracy, 1)[:, 1], [0.9, 0.98, 0.96])
    assert [text.get_text() for text in loss.texts] == ["train 0.2000", "test 0.4000"]
    assert [text.get_text() for text in accuracy.texts] == [
        "train 98.00%",
        "test 96.00%",
    ]
    assert "0.2000, epoch 2" in loss.get_title(loc="left")
    assert "98.00%, epoch 2" in accuracy.get_title(loc="left")


def test_labels_of_curves_stand_at_their_ends_and_apart() -> None:
    figure = figures.curves(records([2.0, 0.5]))
    loss, accuracy = figure.axes
    for axes in (loss, accuracy):
        for index, text in enumerate(axes.texts):
            end = axes.transData.transform(line(axes, index)[-1])
            # A label may be moved by half of 0.07 of the height to stand apart.
            height = axes.transAxes.inverted().transform(end)[1]
            assert text.get_position()[1] == pytest.approx(height, abs=0.036)
        low, high = sorted(text.get_position()[1] for text in axes.texts)
        assert high - low >= 0.0699


def test_loss_is_logarithmic_only_where_it_falls_tenfold() -> None:
    assert figures.curves(records([0.5, 0.3])).axes[0].get_yscale() == "linear"
    assert figures.curves(records([0.5, 0.03])).axes[0].get_yscale() == "log"


def test_curves_of_a_diverged_run_and_of_one_epoch() -> None:
    figure = figures.curves(records([0.5, np.nan]))
    assert "test not finite" in texts(figure)
    figures.curves(records([np.nan]))
    assert figures.curves(records([0.5])).axes[0].lines[0].get_marker() == "o"


def test_measures_over_epochs_are_named_apart_with_their_last_values() -> None:
    series = {"a": [4.0, 1.5, 1.0], "b": [4.0, None, 1.1], "c": [4.0, 3.0, 1.01]}
    figure = figures.over_epochs((1, 2, 3), series, "Title", "note")
    (axes,) = figure.axes
    drawn = [line(axes, index)[:, 1] for index in range(3)]
    np.testing.assert_array_equal(drawn[:2], [[4, 1.5, 1], [4, np.nan, 1.1]])
    assert [text.get_text() for text in axes.texts] == ["a 1", "b 1.1", "c 1.01"]
    places = [text.get_position()[1] for text in axes.texts]
    assert places[1] - places[2] >= 0.0699 and places[2] - places[0] >= 0.0699
    assert axes.get_yscale() == "linear" and titles(figure) == "Titlenote"
    # More than a decade, but not of positive values alone.
    for least, scale in ((0.3, "log"), (0.0, "linear")):
        falling = figures.over_epochs((1, 2), {"a": [4.0, least]}, "Title", "note")
        assert falling.axes[0].get_yscale() == scale


def test_confusion_writes_counts_into_their_cells() -> None:
    figure = figures.confusion(MATRIX, NAMES)
    cells = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    rows, columns = np.nonzero(MATRIX)
    assert cells == {
        (column, row): str(MATRIX[row, column])
        for row, column in zip(rows, columns, strict=True)
    }
    assert "3 of 30 wrong" in titles(figure)
    # The second most frequent does not fit above so small a matrix.
    assert titles(figure).endswith("Most often one as two (2)")


def test_confusion_colours_errors_by_share_and_not_the_diagonal() -> None:
    colours = np.ma.masked_invalid(shown(figures.confusion(MATRIX, NAMES)))
    assert colours.mask.tolist() == np.eye(3, dtype=bool).tolist()
    assert colours[1, 2] == pytest.approx(0.2)
    assert colours[0, 1] == 0


def test_confusion_gives_each_class_its_recall() -> None:
    matrix = np.array([[10, 0, 0], [1, 7, 2], [0, 0, 0]])
    beside = figures.confusion(matrix, NAMES).axes[0].child_axes[0]
    found = [text.get_text() for text in beside.texts]
    assert found == ["100.0%", "70.0%", "–"]
    assert isinstance(beside, Axes)
    np.testing.assert_allclose(line(beside, 0)[:, 0], [1.0, 0.7])


@pytest.mark.parametrize("count", [1, 2, 30, 31, 100])
def test_confusion_of_any_number_of_classes(count: int, tmp_path: Path) -> None:
    matrix = np.full((count, count), 3)
    names = [f"class number {index}" for index in range(count)]
    figure = figures.confusion(matrix, names)
    assert len(figure.axes[0].texts) == (count**2 if count <= 30 else 0)
    figures.save(figure, tmp_path / "confusion.png")


def mistaken() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples 1, 2 and 4 are wrong; their own classes get 0.3, 0.02 and 0.1."""
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
    labels = np.array([0, 1, 2, 1, 0], np.int32)
    probabilities = np.array(
        [
            [0.9, 0.05, 0.05],
            [0.6, 0.3, 0.1],
            [0.97, 0.01, 0.02],
            [0.4, 0.5, 0.1],
            [0.1, 0.2, 0.7],
        ]
    )
    return np.broadcast_to(images, (5, 10, 10, 1)), labels, probabilities


def test_mistakes_are_the_worst_first_with_their_probabilities() -> None:
    figure = figures.mistakes(*mistaken(), NAMES)
    assert texts(figure) == [
        "true: two (2.0%)\nread: zero (97.0%)",
        "true: zero (10.0%)\nread: two (70.0%)",
        "true: one (30.0%)\nread: zero (60.0%)",
    ]
    assert "3 of 5 examples" in titles(figure)
    # Tiles of 10 pixels, 3 apart, in the order of the texts: images 2, 4 and 1.
    np.testing.assert_allclose(
        shown(figure)[5, [5, 18, 31], 0], np.array([100, 200, 50]) / 255
    )


def test_mistakes_shows_no_more_than_asked_for() -> None:
    assert len(texts(figures.mistakes(*mistaken(), NAMES, count=2))) == 2


def test_without_mistakes_the_least_certain_are_shown() -> None:
    images, _, probabilities = mistaken()
    figure = figures.mistakes(
        images, probabilities.argmax(axis=1), probabilities, NAMES, count=1
    )
    assert texts(figure) == ["true: one (50.0%)\nread: one (50.0%)"]
    assert "No mistakes" in titles(figure)


def test_samples_has_a_row_of_its_first_images_for_each_class() -> None:
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
    images = np.broadcast_to(images, (6, 12, 12, 3))
    figure = figures.samples(images, np.array([0, 1, 0, 0, 1, 0]), NAMES)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["zero  (4)", "one  (2)", "two  (0)"]
    # Tiles of 12 pixels, 1 apart; white where a class has no more examples.
    values = shown(figure)[6::13, 6::13, 0] * 255
    np.testing.assert_allclose(values[0, :5], [0, 80, 120, 200, 255])
    np.testing.assert_allclose(values[1, :3], [40, 160, 255])
    np.testing.assert_allclose(values[2], 255)
    assert figure.axes[0].get_yticks()[1] == pytest.approx(5.5 + 13)


def test_samples_of_many_classes_has_one_of_each() -> None:
    labels = np.arange(100)[::-1]
    images = np.broadcast_to(
        (labels[:, None, None, None] * 2).astype(np.uint8), (100, 12, 12, 1)
    )
    figure = figures.samples(images, labels, [f"c{index}" for index in range(100)])
    assert texts(figure) == [f"c{index}" for index in range(100)]
    # Tiles of 12 pixels with 1 between, and 4 below for the name.
    np.testing.assert_allclose(
        255 * shown(figure)[6::17, 6::13, 0].ravel(), 2 * np.arange(100)
    )


def test_kernels_of_one_channel_share_a_scale_around_zero() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 16))
    figure = figures.kernels(kernel)
    image = figure.axes[0].images[0]
    limit = np.abs(kernel).max()
    assert image.get_clim() == pytest.approx((-limit, limit))
    # Weights are blocks of 10 pixels, kernels 4 apart, eight in a row.
    tile = np.asarray(image.get_array())[34 + 5 : 68 : 10, 34 + 5 : 68 : 10]
    np.testing.assert_allclose(tile[:3, :3], kernel[:, :, 0, 9])


def test_kernels_of_three_channels_are_colours_with_grey_for_zero() -> None:
    kernel = np.zeros((2, 2, 3, 4))
    kernel[0, 0, 0, 0] = -2.0
    laid = shown(figures.kernels(kernel))
    np.testing.assert_allclose(laid[5, 5], [0, 0.5, 0.5])
    np.testing.assert_allclose(laid[15, 15], 0.5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 3, 20, 50), (5, 3, 2, 7)])
def test_kernels_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    figures.save(figures.kernels(np.zeros(shape)), tmp_path / "kernels.png")


def test_feature_maps_has_a_row_for_each_layer() -> None:
    rng = np.random.default_rng(0)
    endpoints = {
        "conv1": rng.random((1, 28, 28, 20)),
        "dense1": rng.random((1, 600)),
        "logits": np.array([[1.0, 5.0, -2.0]]),
    }
    figure = figures.feature_maps(np.zeros((28, 28, 1), np.uint8), endpoints)
    assert texts(figure) == [
        "input\n28 x 28 x 1",
        "conv1\n28 x 28 x 20",
        "dense1\n600",
        "logits\n3",
    ]
    _, maps, strip, bars = figure.axes
    laid = np.asarray(maps.images[0].get_array())
    # Map 17 is the second of the second row; tiles of 28 pixels, 2 apart.
    np.testing.assert_allclose(laid[30:58, 30:58], endpoints["conv1"][0, :, :, 17])
    np.testing.assert_allclose(
        np.asarray(strip.images[0].get_array()).ravel(), endpoints["dense1"][0]
    )
    drawn = [bar for bar in bars.patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in drawn] == [1.0, 5.0, -2.0]
    colours = [bar.get_facecolor() for bar in bars.patches]
    assert colours[0] == colours[2] != colours[1]


def test_feature_maps_of_a_deep_network_says_what_is_left_out() -> None:
    endpoints = {f"block{index}": np.zeros((1, 4, 4, 64)) for index in range(7)}
    figure = figures.feature_maps(np.zeros((8, 8, 3), np.float32), endpoints)
    assert texts(figure)[1] == "block0\n4 x 4 x 64\nfirst 16 maps"


def test_images_of_two_channels_are_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="2 channels"):
        figures.feature_maps(np.zeros((8, 8, 2), np.uint8), {})


def test_callers_settings_neither_matter_nor_change(tmp_path: Path) -> None:
    figures.save(figures.curves(records([0.5, 0.1])), tmp_path / "plain.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30}):
        figure = figures.curves(records([0.5, 0.1]))
        assert matplotlib.rcParams["font.size"] == 30
    figures.save(figure, tmp_path / "same.png")
    plain, same = (Image.open(tmp_path / f"{n}.png") for n in ("plain", "same"))
    with plain, same:
        np.testing.assert_array_equal(np.asarray(plain), np.asarray(same))
        assert plain.size == (1500, 600)


def test_needs_no_display_and_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, numpy; from pathlib import Path\n"
        "from flaxnets.report import figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure = figures.kernels(numpy.ones((3, 3, 1, 2)))\n"
        "figures.save(figure, Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    # No environment at all: no DISPLAY, no MPLBACKEND; matplotlib wants a folder.
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "kernels.png")],
        env={"MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    assert (tmp_path / "kernels.png").stat().st_size > 1000


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from flaxnets import errors
from flaxnets.report import figures
path = Path(sys.argv[1])
figure = figures.confusion(np.eye(2, dtype=int), ["a", "b"])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
try:
    figures.save(figure, path)
except errors.RunFolderError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_the_old_figure_stays(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        rf"{path}: cannot be written \(.*File too large.*\).*\n", done.stdout
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_intervals_are_drawn_where_they_are() -> None:
    names, values = ("frozen", "whole"), (0.957, 0.6)
    bounds = ((0.94, 0.97), (0.5, 0.7))
    figure = figures.intervals(names, values, bounds, "Two ways")
    (axes,) = figure.axes
    for place, (value, ends) in enumerate(zip(values, bounds, strict=True)):
        assert line(axes, 2 * place).tolist() == [[end, place] for end in ends]
        assert line(axes, 2 * place + 1).tolist() == [[value, place]]
    assert texts(figure) == ["95.7%", "60.0%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(names)
    # The first line is the upper one.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_codes_are_coloured_and_named_by_class() -> None:
    points = np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 5.0], [7.0, 7.0]])
    figure = figures.plane(points, np.array([0, 0, 2, 2]), NAMES, "Title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["zero", "two"]
    assert axes.texts[0].xy == (1.0, 0.5)
    drawn = [np.asarray(found.get_offsets()) for found in axes.collections]
    np.testing.assert_array_equal(drawn[1], points[2:])


def test_versions_of_pictures_stand_side_by_side() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (2, 10, 20, 3), np.uint8)
    second = generator.random((2, 10, 20, 1))
    figure = figures.side_by_side({"one": first, "two\n9 dB": second}, "Title", "note")
    laid = shown(figure)
    # A twentieth of the width lies between them.
    assert laid.shape == (21, 41, 3)
    np.testing.assert_allclose(laid[11:21, :20], first[1] / 255)
    np.testing.assert_allclose(laid[:10, 21:], second[0].repeat(3, axis=-1))
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["one", "two\n9 dB"]
    assert titles(figure) == "Titlenote"


def test_measures_by_depth_have_gaps_where_there_is_nothing() -> None:
    series = {"rebuilt": [30.0, 20.0, 15.0], "small": [None, 25.0, None]}
    figure = figures.by_depth(("a", "b", "c"), series, "Title", "decibels")
    (axes,) = figure.axes
    drawn = {tuple(np.nan_to_num(line(axes, index)[:, 1])) for index in (0, 1)}
    assert drawn == {(30.0, 20.0, 15.0), (0.0, 25.0, 0.0)}
    assert [text.get_text() for text in axes.texts] == ["small", "rebuilt"]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["a", "b", "c"]
