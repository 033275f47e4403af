"""How right a swapped face is: likeness to the truth, and the pose that it shows."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments import face_swap_model
from experiments.face_swap_data import Case
from flaxnets.train import reconstruction

# Pixels along a side of what the pose is read from.
COARSE = 16

_likeness = jax.jit(reconstruction.likeness)


def likeness(images: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Mean PSNR in decibels and mean SSIM of pictures uint8[N, H, W, C]."""
    found = _likeness(images.astype(np.float32) / 255, targets.astype(np.float32) / 255)
    return float(np.mean(found["psnr"])), float(np.mean(found["ssim"]))


class PoseReader:
    """Yaw and pitch of one person's face, by kernel ridge regression.

    It sees coarse pictures, each brought to mean 0 and deviation 1, so that a swap is
    not judged by its light.

    Args:
        images: uint8[N, H, W, C] of the person.
        poses: f32[N, 2], degrees.
    """

    def __init__(self, images: np.ndarray, poses: np.ndarray) -> None:
        from sklearn.kernel_ridge import KernelRidge

        seen = _coarse(images)
        # Half of what would be 1 / (features x variance), the usual width.
        options: Any = {"alpha": 1e-3, "gamma": 0.5 / seen.shape[1]}
        self._fitted = KernelRidge(kernel="rbf", **options).fit(seen, poses)

    def error(self, images: np.ndarray, poses: np.ndarray) -> float:
        """Mean absolute error of yaw and pitch, in degrees."""
        return float(np.abs(self._fitted.predict(_coarse(images)) - poses).mean())


def _coarse(images: np.ndarray) -> np.ndarray:
    """Means over blocks that are as even as they can be, normalised, f64[N, D]."""
    means = images.astype(np.float64)
    for axis in (1, 2):
        ends = np.arange(COARSE + 1) * images.shape[axis] // COARSE
        sums = np.add.reduceat(means, ends[:-1], axis=axis)
        sizes = np.diff(ends)
        means = sums / np.expand_dims(sizes, tuple({0, 1, 2, 3} - {axis}))
    flat = means.reshape(len(images), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6)


class Scorer:
    """Scores the swaps of one case.

    Args:
        case: the people.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._readers: dict[str, PoseReader] = {}

    def swap(
        self,
        shape: face_swap_model.Shape,
        variables: Any,
        first: str,
        second: str,
        *,
        aligned: bool,
    ) -> dict[str, Any]:
        """What turning the first person's test pictures into the second's is worth.

        Args:
            shape, variables, first, second, aligned: see `face_swap_model.swapper`.

        Returns:
            `psnr_rebuilt` and `ssim_rebuilt`, of the first person's pictures given
            back; and where the truth is known `psnr` and `ssim` of the swap,
            `psnr_unchanged` and `psnr_mean_face`, of the two baselines (with `ssim_`
            likewise), and `gain`, the decibels above the better one. Where poses are,
            `pose_error` of the swap, `pose_error_rebuilt` of the second person's
            pictures given back and `pose_error_true` of them as they are, in degrees.
        """
        case = self._case
        place = {name: index for index, name in enumerate(case.people)}
        given = case.test[place[first]]
        back = face_swap_model.swapper(shape, variables, first, first).swap(given)
        row: dict[str, Any] = {"first": first, "second": second, "aligned": aligned}
        row["psnr_rebuilt"], row["ssim_rebuilt"] = likeness(back, given)
        if not case.true:
            return row
        truth = case.test[place[second]]
        swapped = face_swap_model.swapper(
            shape, variables, first, second, aligned=aligned
        ).swap(given)
        mean = np.rint(case.train[place[second]].mean(axis=0)).astype(np.uint8)
        for name, images in (
            ("", swapped),
            ("_unchanged", given),
            ("_mean_face", np.broadcast_to(mean, truth.shape)),
        ):
            row[f"psnr{name}"], row[f"ssim{name}"] = likeness(images, truth)
        row["gain"] = row["psnr"] - max(row["psnr_unchanged"], row["psnr_mean_face"])
        if case.poses is not None and case.test_poses is not None:
            if second not in self._readers:
                self._readers[second] = PoseReader(
                    case.train[place[second]], case.poses[place[second]]
                )
            reader = self._readers[second]
            row["pose_error"] = reader.error(swapped, case.test_poses)
            again = face_swap_model.swapper(shape, variables, second, second)
            row["pose_error_rebuilt"] = reader.error(again.swap(truth), case.test_poses)
            row["pose_error_true"] = reader.error(truth, case.test_poses)
        return row


def mean_of(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    """Means of the numbers that all rows have."""
    names = [
        name
        for name, value in rows[0].items()
        if isinstance(value, float) and all(name in row for row in rows)
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def table_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means of each procedure over the ordered pairs that all of them did.

    Each is there twice: as it is, and with the codes aligned.
    """
    done_by: dict[tuple[str, bool], dict[tuple[str, ...], Any]] = {}
    for row in rows:
        for swap in row["swaps"]:
            pair = (row["case"], swap["first"], swap["second"])
            way = (row["procedure"], swap["aligned"])
            done_by.setdefault(way, {})[pair] = swap
    common = set.intersection(*(set(swaps) for swaps in done_by.values()))
    return [
        {
            "procedure": procedure,
            "aligned": aligned,
            "pairs": len(common),
            **mean_of([swap for pair, swap in swaps.items() if pair in common]),
            "seconds": sum(
                row["seconds"] for row in rows if row["procedure"] == procedure
            ),
        }
        for (procedure, aligned), swaps in done_by.items()
    ]


def chosen(
    rows: Sequence[dict[str, Any]],
    table: Sequence[dict[str, Any]],
    shape: face_swap_model.Shape,
) -> dict[str, Any]:
    """The network that converts pictures: of the first people, by the better way.

    Where the truth is not known, that is the joint one if it was trained, as it is.
    """
    best = max(
        table,
        key=lambda entry: (
            entry.get("gain", 0.0),
            entry["procedure"] == "joint",
            not entry["aligned"],
        ),
    )
    row = next(row for row in rows if row["procedure"] == best["procedure"])
    return {
        "procedure": best["procedure"],
        "aligned": best["aligned"],
        "checkpoint": row["step"],
        "names": [row["swaps"][0]["first"], row["swaps"][0]["second"]],
        "shape": dataclasses.asdict(shape),
    }


def line(row: dict[str, Any]) -> str:
    """What one training gave."""
    plain, aligned = (
        mean_of([swap for swap in row["swaps"] if swap["aligned"] == way])
        for way in (False, True)
    )
    text = f"{row['case']}, {row['procedure'].replace('_', ' ')}: "
    if "psnr" in plain:
        text += (
            f"swapped {plain['psnr']:.2f} dB, aligned {aligned['psnr']:.2f}, unchanged "
            f"{plain['psnr_unchanged']:.2f}, mean face {plain['psnr_mean_face']:.2f}; "
        )
    if "pose_error" in plain:
        text += (
            f"pose error {plain['pose_error']:.2f} degrees, aligned "
            f"{aligned['pose_error']:.2f}, rebuilt {plain['pose_error_rebuilt']:.2f}; "
        )
    return f"{text}rebuilt {plain['psnr_rebuilt']:.2f} dB ({row['seconds']:.0f} s)"
