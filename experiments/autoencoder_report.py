"""What a run of `experiments.autoencoder` leaves: pictures, figures and report."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxnets import data, files, train
from flaxnets.models import autoencoder
from flaxnets.report import figures, html

HEADS = ("noise", "method", "PSNR", "SSIM", "checkerboard", "parameters", "seconds")
NOISY = "noisy"


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Stores arrays, whole or not at all, for a report that is made later."""
    with files.replacing(path) as fresh, fresh.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def kept(folder: train.RunFolder, row: dict[str, Any]) -> Path:
    """Where a row's restored pictures are."""
    return folder.path(f"pictures/row{row['step']}.npz")


def line(row: dict[str, Any]) -> str:
    """What one row says."""
    return (
        f"{row['noise']:>19}  {row['method']:<15}  {row['psnr']:5.2f} dB  "
        f"SSIM {row['ssim']:.4f}  checkerboard {row['checkerboard']:6.2%}"
    )


def gains(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each noise, the best filter and network by PSNR, and the gain in decibels."""
    found = []
    for noise in dict.fromkeys(row["noise"] for row in rows):
        own = [row for row in rows if row["noise"] == noise]
        networks = [row for row in own if row["method"] in autoencoder.UNPOOLINGS]
        others = [row for row in own if row not in networks]
        best = max(networks, key=lambda row: row["psnr"])
        gain: dict[str, Any] = {
            "noise": noise,
            "network": best["method"],
            "network_psnr": best["psnr"],
        }
        if others:
            classical = max(
                (row for row in others if row["method"] != NOISY),
                key=lambda row: row["psnr"],
            )
            gain |= {
                "noisy_psnr": others[0]["psnr"],
                "filter": classical["method"],
                "filter_psnr": classical["psnr"],
                "gain": best["psnr"] - classical["psnr"],
            }
        found.append(gain)
    return found


def write(
    folder: train.RunFolder, result: dict[str, Any], dataset: data.Dataset
) -> None:
    """Draws the pictures, and the page that holds them."""
    folder.path("figures").mkdir(exist_ok=True)
    rows = result["rows"]
    sections = [
        html.Section(
            "What is gained",
            "The best network beside the best filter, by PSNR.",
            html.table(
                ("noise", "noisy", "best filter", "", "best network", "", "gain"),
                [_gain_cells(gain) for gain in result["gains"]],
            ),
        ),
        html.Section(
            "Every kind of un-pooling",
            f"PSNR of the mean squared error over {result['test_pictures']:,} test "
            "pictures, mean SSIM, and the share of the error's energy that repeats "
            "with the stride (of white noise "
            f"{_white(dataset.test.images.shape[1:3]):.1%}). Seconds are those of the "
            "steps. Filters were tuned on training pictures. The switches of "
            "max un-pooling are those of the noisy picture.",
            html.table(HEADS, [_cells(row) for row in rows]),
        ),
    ]
    for number, noise in enumerate(dict.fromkeys(row["noise"] for row in rows)):
        own = [row for row in rows if row["noise"] == noise]
        shown = {_above(row): np.load(kept(folder, row))["restored"] for row in own}
        count = len(next(iter(shown.values())))
        title = "Rebuilt" if noise == "none" else f"Restored from {noise}"
        path = folder.path(f"figures/restored{number}.png")
        pictures = {"clean": dataset.test.images[:count], **shown}
        figures.save(figures.side_by_side(pictures, title), path)
        sections.append(
            html.Section(title, "The first test pictures, and each method's.", path)
        )
    if result["codes"]:
        sections += _codes(folder, result["codes"], dataset)
    html.write(
        folder.path("report.html"),
        "Autoencoders: every way back from features to a picture",
        summary={
            name: result[name]
            for name in ("dataset", "test_pictures", "steps", "batch_size")
        },
        sections=sections,
    )


def _codes(
    folder: train.RunFolder, described: dict[str, Any], dataset: data.Dataset
) -> list[html.Section]:
    """A plane of codes, and what lies between two digits."""
    small, large = sorted(described, key=int)
    plane = folder.path("figures/codes.png")
    codes = np.load(folder.path(f"pictures/code{small}.npz"))["codes"]
    figures.save(
        figures.plane(
            codes,
            dataset.test.labels[: len(codes)],
            dataset.class_names,
            f"A code of {small} numbers",
        ),
        plane,
    )
    path = folder.path("figures/between.png")
    between = np.load(folder.path(f"pictures/code{large}.npz"))["between"]
    shares = np.linspace(0, 1, between.shape[1])
    columns = {f"{share:.0%}": between[:, place] for place, share in enumerate(shares)}
    title = f"From one digit to another, in codes of {large} numbers"
    figures.save(figures.side_by_side(columns, title), path)
    return [
        html.Section(
            f"Digits in {small} numbers",
            "Learned without labels, which only colour them. Rebuilt from it: "
            f"{described[small]['psnr']:.1f} dB.",
            plane,
        ),
        html.Section(
            "Between two digits",
            "The left and right columns are rebuilt digits; between them, codes on the "
            f"line from one to the other. Rebuilt: {described[large]['psnr']:.1f} dB.",
            path,
        ),
    ]


def _above(row: dict[str, Any]) -> str:
    """The words above a method's pictures, in lines that are short."""
    name = row["method"].replace("_", " ").replace(" ", "\n", 1)
    return f"{name}\n{row['psnr']:.1f} dB"


def _white(shape: tuple[int, ...]) -> float:
    """The checkerboard measure of white noise, for a period of 2.

    A row of the spectrum counts if the height is even, a column if the width is.
    """
    height, width = shape
    even = height % 2 == 0, width % 2 == 0
    counted = even[0] * width + even[1] * height - all(even)
    return counted / (height * width - 1)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = row.get("seconds")
    return (
        row["noise"],
        row["method"].replace("_", " "),
        f"{row['psnr']:.2f}",
        f"{row['ssim']:.4f}",
        f"{row['checkerboard']:.2%}",
        f"{row['parameters']:,}" if "parameters" in row else row.get("setting", ""),
        "" if seconds is None else f"{seconds:.0f}",
    )


def _gain_cells(gain: dict[str, Any]) -> tuple[str, ...]:
    best = (gain["network"].replace("_", " "), f"{gain['network_psnr']:.2f}")
    if "gain" not in gain:
        return gain["noise"], "", "", "", *best, ""
    return (
        gain["noise"],
        f"{gain['noisy_psnr']:.2f}",
        gain["filter"],
        f"{gain['filter_psnr']:.2f}",
        *best,
        f"{gain['gain']:+.2f}",
    )
