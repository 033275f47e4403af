"""What the study of inverted networks leaves: pictures, a table, a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import files, train
from flaxnets.report import figures, html

# Held-out pictures that are shown.
SHOWN = 6


def keep(folder: train.RunFolder, name: str, rebuilt: np.ndarray) -> None:
    """Keeps pictures rebuilt from an endpoint for the page, f32[SHOWN, H, W, C]."""
    path = _kept(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = np.rint(255 * np.clip(rebuilt, 0, 1)).astype(np.uint8)
    with files.replacing(path) as fresh, fresh.open("wb") as file:
        np.save(file, shown)


def _kept(folder: train.RunFolder, name: str) -> Path:
    return folder.path(f"figures/rebuilt/{name}.npy")


def line(row: Mapping[str, Any]) -> str:
    """What one endpoint gave."""
    beside = ""
    if row["resized"]:
        beside = f"; made as small and large again {row['resized']['psnr']:.1f} dB"
    return (
        f"{row['endpoint']}: {row['psnr']:.1f} dB, SSIM {row['ssim']:.3f} "
        f"({row['seconds']:.0f} s){beside}"
    )


def write(
    folder: train.RunFolder, result: Mapping[str, Any], images: np.ndarray
) -> None:
    """Draws the pictures side by side and the measures by depth, and the page.

    Args:
        folder: of the run.
        result: as it is stored.
        images: the test pictures, uint8[N, H, W, C].
    """
    table, mean = result["table"], result["mean_picture"]
    columns = {"original\n": images[:SHOWN]}
    for row in table:
        above = f"{row['endpoint']}\n{row['psnr']:.1f} dB"
        columns[above] = np.load(_kept(folder, row["endpoint"]))
    weights = {"none": "random weights"}.get(result["weights"], "trained weights")
    side = folder.path("figures/side_by_side.png")
    figures.save(
        figures.side_by_side(
            columns,
            f"What is left of a picture in {result['backbone']}",
            f"{weights}, held-out pictures; above: PSNR, mean of "
            f"{result['test_pictures']:,}",
        ),
        side,
    )
    depth = folder.path("figures/depth.png")
    figures.save(
        figures.by_depth(
            [row["endpoint"] for row in table],
            {
                "rebuilt": [row["psnr"] for row in table],
                "only resized": [
                    row["resized"].get("psnr") if row["resized"] else None
                    for row in table
                ],
                "mean picture": [mean["psnr"]] * len(table),
            },
            f"PSNR by depth, {result['backbone']}, {weights}",
            "decibels, mean of the held-out pictures",
        ),
        depth,
    )
    picture = int(np.prod(result["image_shape"]))
    heads = ("endpoint", "its shape", "values", "of the picture's", "parameters")
    heads += ("seconds", "PSNR", "SSIM", "resized: PSNR", "SSIM")
    cells = [
        (
            row["endpoint"],
            "x".join(map(str, row["code_shape"])),
            f"{row['code_values']:,}",
            f"{row['code_values'] / picture:.2f}",
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            f"{row['psnr']:.2f}",
            f"{row['ssim']:.3f}",
            *(
                (f"{row['resized']['psnr']:.2f}", f"{row['resized']['ssim']:.3f}")
                if row["resized"]
                else ("-", "-")
            ),
        )
        for row in table
    ]
    random = (
        " The weights are random: this shows what such an architecture lets through, "
        "not what training keeps."
        if result["weights"] == "none"
        else ""
    )
    html.write(
        folder.path("report.html"),
        f"What is left of a picture in {result['backbone']}",
        summary={
            name: result[name]
            for name in (
                "dataset",
                "weights",
                "train_pictures",
                "test_pictures",
                "unpooling",
                "epochs",
            )
        },
        sections=[
            html.Section(
                "Pictures given back",
                "Held-out pictures, and what decoders make of the network's "
                f"activations, the shallowest first.{random}",
                side,
            ),
            html.Section(
                "By depth",
                "Beside it: the pictures made as small as the activations' maps and "
                "large again by cubic filters, with three values a place where the "
                "maps have many; and the mean of the training pictures for each.",
                depth,
            ),
            html.Section(
                "The same in numbers",
                f"The mean picture has {mean['psnr']:.2f} dB and SSIM "
                f"{mean['ssim']:.3f}. Parameters are the decoder's, seconds those of "
                "its training without compilation, and of the activations with it. The "
                "network's parameters stayed bit-equal: SHA-256 "
                f"{result['encoder_sha256'][:16]}…",
                html.table(heads, cells),
            ),
        ],
    )
