"""The page and the figure of a face swap."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import face_swap_model
from experiments.face_swap_data import Case
from flaxnets import params, train
from flaxnets.report import html
from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Faces in a row of the figure.
SHOWN = 10
TITLES = {
    "frozen": "frozen encoder",
    "frozen_warped": "frozen, warped",
    "joint": "joint, warped",
}


@drawing.styled
def grid(rows: Mapping[str, np.ndarray], title: str) -> "Figure":
    """Rows of pictures of one size, each with its name at the left.

    Args:
        rows: uint8[N, H, W, C] by name.
        title: of the figure.
    """
    first = next(iter(rows.values()))
    _, height, width, _ = first.shape
    inch = 0.75
    count = len(first)
    tall = inch * height / width
    figure = drawing.figure(inch * count + 1.9, (tall + 0.06) * len(rows) + 0.6, title)
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(panels, rows.items(), strict=True):
        drawing.bare(axes)
        laid = drawing.mosaic(drawing.picture(images), count, gap=2, empty=1.0)
        axes.imshow(laid, interpolation="nearest")
        # What is left of the width is the names'.
        axes.set_anchor("E")
        drawing.name_row(axes, name, 9)
    return figure


def rows_of(
    case: Case,
    shape: face_swap_model.Shape,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    names: tuple[str, str],
) -> dict[str, np.ndarray]:
    """The rows of the figure: A, then A rebuilt and as B by each way, then B's truth.

    Args:
        case: the people.
        shape: of the networks.
        shown: leaves of each procedure's network.
        names: who is A and who B.
    """
    places = [case.people.index(name) for name in names]
    test = case.test[places[0]]
    at = np.linspace(0, len(test) - 1, min(SHOWN, len(test))).astype(int)
    given = test[at]
    rows = {"A": given}
    for procedure, leaves in shown.items():
        variables = params.unflatten(leaves)
        title = TITLES[procedure]
        for name, aligned, text in (
            (names[0], False, "A rebuilt"),
            (names[1], False, "A as B"),
            (names[1], True, "A as B, aligned"),
        ):
            swap = face_swap_model.swapper(
                shape, variables, names[0], name, aligned=aligned
            ).swap
            rows[f"{text}\n{title}"] = swap(given)
    if case.true:
        rows["B, the truth"] = case.test[places[1]][at]
    return rows


def write(
    folder: train.RunFolder,
    case: Case,
    shape: face_swap_model.Shape,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    result: Mapping[str, Any],
) -> None:
    """Draws the grid, and the page that holds it and the table."""
    names = (case.people[0], case.people[1])
    path = folder.path("figures/faces.png")
    path.parent.mkdir(exist_ok=True)
    figure = grid(rows_of(case, shape, shown, names), f"A as B: {case.name}")
    drawing.save(figure, path)
    sections = [
        html.Section(
            "The faces",
            "Pictures that were not trained on: A, what comes back through A's own "
            "decoder, what comes out of B's"
            + (", and B as it is in the same pose and light." if case.true else "."),
            path,
        ),
        html.Section(
            "The ways in numbers",
            "Means over the ordered pairs and their test pictures. Frozen: the encoder "
            "learned A alone, and B's decoder what it makes of B; warped: from warped "
            "pictures; joint: one encoder learned everyone at once. Aligned: each "
            "number of the code is brought from A's mean and deviation to B's. "
            + (
                "PSNR of the swap is against the truth; gain is above the better of "
                "two baselines, A unchanged and B's mean face."
                if case.true
                else "Without a truth, only what is rebuilt can be scored."
            ),
            text(result["table"]),
        ),
    ]
    html.write(
        folder.path("report.html"),
        "Face swap",
        summary={
            "data": ", ".join(result["data"]),
            "ordered_pairs": result["table"][0]["pairs"],
            "steps": result["steps"],
            "parameters": result["parameters"],
            "frozen_values_changed": "none"
            if all(one["unchanged"] for one in result["freeze_certificates"])
            else "some",
        },
        sections=sections,
    )


# Columns of the table: heading, name in a row, digits.
COLUMNS = (
    ("PSNR", "psnr", 2),
    ("SSIM", "ssim", 3),
    ("gain dB", "gain", 2),
    ("unchanged", "psnr_unchanged", 2),
    ("mean face", "psnr_mean_face", 2),
    ("A rebuilt", "psnr_rebuilt", 2),
    ("pose error", "pose_error", 2),
    ("of rebuilt", "pose_error_rebuilt", 2),
    ("of truth", "pose_error_true", 2),
    ("seconds", "seconds", 0),
)


def text(table: list[dict[str, Any]]) -> str:
    """The table as text; columns that no row has are left out."""
    columns = [one for one in COLUMNS if one[1] in table[0]]
    return html.table(
        ("way", *(head for head, _, _ in columns)),
        [
            (
                row["procedure"].replace("_", " ")
                + (", aligned" if row["aligned"] else ""),
                *(f"{row[name]:.{digits}f}" for _, name, digits in columns),
            )
            for row in table
        ],
    )
