"""Faces swapped in whole pictures, by a network that `experiments.face_swap` trained.

    python -m experiments.face_swap convert --run runs/face-swap --out swapped photo.jpg
    python -m experiments.face_swap convert --run runs/face-swap --out swapped photos/

Each face is found, goes through the network, and is blended back into its place. The
pictures say that they are synthetic, in their metadata unless --mark asks for another
way. The input is never changed; a stopped conversion goes on with --resume.
"""

import dataclasses
import io
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from experiments import commands, face_swap_faces
from experiments.face_swap_model import Direction, Swapper
from flaxnets import console, errors, files, machine, train
from flaxnets.data import folders, pictures, provenance
from flaxnets.train import signals

DESCRIPTION = "A neural network swapped faces in this picture."
_SUFFIXES = {"png": (".png",), "jpeg": (".jpg", ".jpeg")}

LoadSwapper = Callable[[Path, Direction], Swapper]


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Swap the faces in pictures."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Pictures, or folders of them with all that is below."""
    run: Path
    """The run folder whose network swaps."""
    out: Path
    """A folder for the new pictures, in `pictures` there; the input is not changed."""
    direction: Direction = "a_to_b"
    """Whose faces are there, and whose are put in their place."""
    faces: Literal["largest", "all"] = "largest"
    """Which of the faces that are found in a picture."""
    box: str | None = None
    """Where the face is instead: LEFT,TOP,WIDTH,HEIGHT in pixels of the upright
    picture, or whole for pictures that are a face and nothing else."""
    scale: float | None = None
    """How high the rectangle is that the network gets, in heights of a face as it is
    found; by default as in the pictures that the run learned from, and 1 where no faces
    were found in those."""
    search_side: int = face_swap_faces.SIDE
    """Pixels of the longer side to which a larger picture is reduced while faces are
    looked for; a face must be 24 of them wide."""
    match_colours: bool = True
    """Whether a new face gets the old one's mean and spread of colours."""
    format: provenance.Format = "png"
    """png keeps what is outside the faces bit for bit; jpeg is several times smaller
    and keeps it nearly."""
    mark: Literal["metadata", "visible", "both", "none"] = "metadata"
    """How a picture says that it is synthetic: in its metadata, by a label on it."""
    on_bad_image: Literal["raise", "skip"] = "raise"
    """What to do about a picture that cannot be read, or in which no face is found."""
    resume: bool = False
    """Go on with the conversion in --out."""
    overwrite: bool = False
    """Replace the conversion in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


class Job(NamedTuple):
    """A picture to convert.

    Attributes:
        folder: where it is read from.
        name: its path below that.
        output: the path of the new one below the folder of pictures.
    """

    folder: Path
    name: str
    output: str

    @property
    def path(self) -> Path:
        """The picture's path."""
        return self.folder / self.name


def run(config: ConvertConfig, load_swapper: LoadSwapper) -> int:
    """Converts the pictures; returns the exit code.

    Args:
        config: of the command line.
        load_swapper: `face_swap_model.load_swapper`, or another with its arguments.

    Raises:
        ArgumentError: an option cannot be used, or --out and the input overlap.
        DataError: a picture cannot be converted and none is to be skipped, or none
            could be.
        RunFolderError: nothing can be written, or --out holds another conversion.
    """
    box = _checked(config)
    jobs = jobs_of(config)
    device = machine.select_device(config.device)
    swapper = load_swapper(config.run, config.direction)
    began = time.perf_counter()
    with train.RunFolder.open(
        config.out,
        described(config, swapper),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        rows = folder.truncate_metrics() if folder.resumed else []
        tried = {row["picture"]: row for row in rows}
        with signals.StopRequests() as requests:
            for place, job in enumerate(jobs):
                target = folder.path("pictures") / job.output
                # Those that could not be converted are tried again.
                if str(job.path) in tried and target.exists():
                    continue
                if requests.received is not None:
                    console.say(
                        f"stopped by {requests.received.name}, {len(jobs) - place} of "
                        f"{len(jobs)} pictures are left. Go on with: "
                        f"{resume_command(config)}"
                    )
                    return 128 + requests.received
                row = {"step": len(rows), "picture": str(job.path), "boxes": []}
                try:
                    boxes, dropped = convert(config, job, target, box, swapper)
                    row.update(boxes=boxes, dropped=dropped)
                    row["output"] = str(target.relative_to(config.out))
                    without = f", without its {', '.join(dropped)}" if dropped else ""
                    console.say(f"{job.path}: {said(boxes)}, {target}{without}")
                except errors.DataError as error:
                    if config.on_bad_image == "raise":
                        hint = "; leave such pictures out: --on-bad-image skip"
                        raise errors.DataError(
                            f"{error}{hint if len(jobs) > 1 else ''}"
                        ) from error
                    row["problem"] = str(error)
                    console.say(f"left out: {error}")
                folder.log(row)
                rows.append(row)
                tried[row["picture"]] = row
        done = [tried[str(job.path)] for job in jobs]
        problems = [row["problem"] for row in done if "problem" in row]
        if len(problems) == len(jobs):
            raise errors.DataError(
                f"none of {len(jobs)} pictures could be converted, the first: "
                f"{problems[0]}"
            )
        result = {
            "run": str(config.run),
            "pictures": len(jobs),
            "converted": len(jobs) - len(problems),
            "faces": sum(len(row["boxes"]) for row in done),
            "left_out": problems,
            "mark": config.mark,
            "seconds": time.perf_counter() - began,
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        console.say(
            f"converted {result['converted']} of {len(jobs)} pictures, left out "
            f"{len(problems)}; {MARKS[config.mark]}: {folder.path('pictures')}"
        )
    return 0


# What is said of the new pictures.
MARKS = {
    "metadata": "marked as synthetic in their metadata",
    "visible": "marked as synthetic by a label",
    "both": "marked as synthetic by a label and in their metadata",
    "none": "NOT marked as synthetic: tell those who see them",
}


def convert(
    config: ConvertConfig,
    job: Job,
    target: Path,
    box: face_swap_faces.Box | Literal["whole"] | None,
    swapper: Swapper,
) -> tuple[list[face_swap_faces.Box], list[str]]:
    """Converts one picture and writes it.

    Returns:
        The boxes that were changed; what the new picture does not have any more.

    Raises:
        DataError: it cannot be read, no face is found, or the box is outside.
        RunFolderError: the new one cannot be written.
    """
    with folders.Source(job.folder) as source:
        content = source.content(job.name)
    shown = str(job.path)
    picture = pictures.decode(io.BytesIO(content), shown)
    boxes = places(config, picture, box, swapper, shown)
    new = face_swap_faces.swapped(picture, boxes, swapper, match=config.match_colours)
    if config.mark in ("visible", "both"):
        new = provenance.labelled(new)
    with files.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    provenance.save(
        new,
        target,
        format=config.format,
        source_type=(
            provenance.COMPOSITE if config.mark in ("metadata", "both") else None
        ),
        description=DESCRIPTION,
        profile=pictures.rgb_profile(io.BytesIO(content), shown),
    )
    return boxes, pictures.dropped(io.BytesIO(content), shown)


def places(
    config: ConvertConfig,
    picture: np.ndarray,
    box: face_swap_faces.Box | Literal["whole"] | None,
    swapper: Swapper,
    shown: str,
) -> list[face_swap_faces.Box]:
    """The boxes of a picture that are to be changed."""
    height, width, _ = picture.shape
    if box == "whole":
        return [face_swap_faces.Box(0, 0, width, height)]
    if box is not None:
        if box.left + box.width > width or box.top + box.height > height:
            raise errors.DataError(
                f"{shown}: has {width}x{height} pixels, so that --box {config.box} "
                "reaches out of it"
            )
        return [box]
    found = face_swap_faces.detect(picture, config.search_side)
    if not found:
        raise errors.DataError(
            f"{shown}: no face was found in its {width}x{height} pixels; say where it "
            "is (--box LEFT,TOP,WIDTH,HEIGHT or --box whole), or look for smaller "
            f"faces with a --search-side above {config.search_side}"
        )
    chosen = found if config.faces == "all" else found[:1]
    framing = swapper.framing
    if config.scale is not None:
        framing = framing._replace(scale=config.scale)
    return [face_swap_faces.framed(one, framing, swapper.size) for one in chosen]


def jobs_of(config: ConvertConfig) -> list[Job]:
    """The pictures to convert, in order, once nothing can be overwritten by it."""
    if not config.images:
        raise errors.ArgumentError(
            "convert got no picture; name pictures or folders after the options"
        )
    jobs: dict[str, Job] = {}
    for path in config.images:
        _apart(path, config.out)
        if path.is_dir():
            names = sorted(
                name
                for name in folders.file_names(path)
                if name.lower().endswith(folders.SUFFIXES)
            )
            if not names:
                raise errors.DataError(
                    f"{path}: no picture ({', '.join(folders.SUFFIXES)}) lies in it"
                )
        else:
            names = [path.name]
        for name in names:
            folder = path if path.is_dir() else path.parent
            output = name
            if not name.lower().endswith(_SUFFIXES[config.format]):
                output += _SUFFIXES[config.format][0]
            job = Job(folder, name, output)
            other = jobs.setdefault(output, job)
            if other.path.absolute() != job.path.absolute():
                raise errors.ArgumentError(
                    f"{other.path} and {job.path} would both become {output}; convert "
                    "them one after the other, each with its own --out"
                )
    return list(jobs.values())


def _apart(path: Path, out: Path) -> None:
    """Raises ArgumentError where the input lies in --out, or --out in the input."""
    given, made = path.resolve(), out.resolve()
    if given.is_relative_to(made):
        raise errors.ArgumentError(
            f"{path} lies in --out {out}, where it might be replaced; choose another "
            "--out"
        )
    if made.is_relative_to(given):
        raise errors.ArgumentError(
            f"--out {out} lies in the input {path}, so that new pictures would become "
            "input; choose another --out"
        )


def _checked(config: ConvertConfig) -> face_swap_faces.Box | Literal["whole"] | None:
    """What --box says, once the options are right."""
    if config.scale is not None and not config.scale > 0:
        raise errors.ArgumentError(f"--scale is {config.scale}, but must be above 0")
    if config.search_side < face_swap_faces.SMALLEST:
        raise errors.ArgumentError(
            f"--search-side is {config.search_side}, but must be at least "
            f"{face_swap_faces.SMALLEST}"
        )
    if config.box is None or config.box == "whole":
        return config.box
    try:
        box = face_swap_faces.Box(*map(int, config.box.split(",")))
    except (ValueError, TypeError):
        box = face_swap_faces.Box(0, 0, 0, 0)
    if min(box.width, box.height) < 1 or min(box.left, box.top) < 0:
        raise errors.ArgumentError(
            f"--box is {config.box!r}, but must be whole, or LEFT,TOP,WIDTH,HEIGHT in "
            "pixels, such as 40,20,96,96"
        )
    return box


def described(config: ConvertConfig, swapper: Swapper) -> dict[str, Any]:
    """What a conversion is, for comparing it at a resume."""
    chosen = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name
        not in ("run", "out", "on_bad_image", "resume", "overwrite", "device")
    }
    return {
        "study": "face_swap_convert",
        **chosen,
        "network_sha256": swapper.sha256,
        "framing": list(swapper.framing),
        "images": [str(path) for path in config.images],
    }


def said(boxes: Sequence[face_swap_faces.Box]) -> str:
    """How many faces there are, and where."""
    where = ", ".join(
        f"{box.width}x{box.height} at {box.left},{box.top}" for box in boxes
    )
    return f"{len(boxes)} {'face' if len(boxes) == 1 else 'faces'} ({where})"


def resume_command(config: ConvertConfig) -> str:
    """The command that goes on with a conversion."""
    chosen = commands.options(config, without=("images", "resume", "overwrite"))
    return shlex.join(
        ["python", "-m", "experiments.face_swap", "convert", *chosen, "--resume"]
        + [str(path) for path in config.images]
    )


def main(arguments: Sequence[str], load_swapper: LoadSwapper) -> int:
    """The command line, after `convert`."""
    prog = "python -m experiments.face_swap convert"
    return run(tyro.cli(ConvertConfig, args=arguments, prog=prog), load_swapper)
