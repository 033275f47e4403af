"""The page and the figure of a face swap."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import face_swap_model
from experiments.face_swap_data import Case
from flaxnets import params, train
from flaxnets.report import figures, html

# Faces in a column of the figure.
SHOWN = 6
TITLES = {
    "frozen": "frozen",
    "frozen_warped": "frozen,\nwarped",
    "joint": "joint",
}


def columns_of(
    case: Case,
    shape: face_swap_model.Shape,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    names: tuple[str, str],
) -> dict[str, np.ndarray]:
    """The columns of the figure: A, rebuilt and as B by each way, and B's truth.

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
    columns = {"A": given}
    for procedure, leaves in shown.items():
        variables = params.unflatten(leaves)
        title = TITLES[procedure]
        for name, aligned, text in (
            (names[0], False, "A rebuilt"),
            (names[1], False, "A as B"),
            (names[1], True, "as B, aligned"),
        ):
            swap = face_swap_model.swapper(
                shape, variables, names[0], name, aligned=aligned
            ).swap
            columns[f"{text}\n{title}"] = swap(given)
    if case.true:
        columns["B,\nthe truth"] = case.test[places[1]][at]
    return columns


def write(
    folder: train.RunFolder,
    case: Case,
    shape: face_swap_model.Shape,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    result: Mapping[str, Any],
) -> None:
    """Draws the faces, and the page that holds them and the table."""
    names = (case.people[0], case.people[1])
    path = folder.path("figures/faces.png")
    path.parent.mkdir(exist_ok=True)
    columns = columns_of(case, shape, shown, names)
    figures.save(figures.side_by_side(columns, f"A as B: {case.name}"), path)
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
            f"The encoder is given {shape.sees}. "
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
