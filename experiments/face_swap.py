"""Face swap: one person's picture as another person, in two ways, scored.

    python -m experiments.face_swap
    python -m experiments.face_swap --yale yale_b_faces.npz
    python -m experiments.face_swap --a pictures/anna --b pictures/ben
    python -m experiments.face_swap convert --run runs/face-swap --out swapped photo.jpg

The lecture's way: an autoencoder learns face A, its encoder is frozen, a fresh decoder
learns face B, and A's picture goes through the encoder and B's decoder. Beside it the
way of practice: one encoder and both decoders learn at once, from warped pictures.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import tyro

from experiments import (
    commands,
    face_swap_convert,
    face_swap_data,
    face_swap_faces,
    face_swap_report,
)
from experiments.face_swap_model import (
    Sees,
    Shape,
    in_strips,
    load_swapper,
    own_decoders,
    strips,
    with_codes,
)
from experiments.face_swap_scores import Scorer, chosen, line, table_of
from flaxnets import console, data, errors, machine, params, train, transfer
from flaxnets.data import augmentation, warping
from flaxnets.train import optimizers, reconstruction

Procedure = Literal["frozen", "frozen_warped", "joint"]
PROCEDURES: tuple[Procedure, ...] = ("frozen", "frozen_warped", "joint")
# A quarter of what face swapping programs do: these faces are in their places.
JOLT = {"degrees": 2.5, "zoom": 0.0125, "shift": 0.0125}
# A training is looked at so often.
LOOKS = 4
# Of the test pictures, that many are looked at.
LOOKED_AT = 40
# More than there are trainings: all checkpoints are kept.
KEPT = 1 << 30


@dataclasses.dataclass(frozen=True)
class Config:
    """Turn faces into one another, by a frozen encoder and by a shared one."""

    a: Path | None = None
    """A folder or zip of pictures of face A, in each of which it fills the middle."""
    b: Path | None = None
    """The same of face B."""
    yale: Path | None = None
    """In place of folders: an .npz file of people under the same lights."""
    pairs: int = 2
    """Pairs of rendered people; with --yale, people who take the part of A."""
    pictures: int = 1000
    """Rendered pictures of each person."""
    procedures: tuple[Procedure, ...] = PROCEDURES
    """Which ways: the lecture's, the same with warped pictures, that of practice."""
    size: int = 64
    """Height of the faces in pixels; every level must be able to halve it."""
    steps: int = 2000
    """Steps in which a decoder learns; a multiple of 4."""
    batch_size: int = 8
    """Pictures of each person in a step."""
    learning_rate: float = 4e-3
    """The peak of Adam's one-cycle schedule."""
    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Kernels of the encoder's levels, each of which halves the picture."""
    code: int = 64
    """Numbers that a face becomes."""
    sees: Sees | None = None
    """What the encoder is given: edges, the same whichever side is brighter, or the
    pictures as they are; by default edges, but with --yale, whose faces differ in what
    side the light comes from, pictures."""
    warp: float = 0.01
    """Deviation of the random warps, as a share of the side; programs whose faces are
    found in photographs take 0.03."""
    seed: int = 0
    """Of the people, of what is set aside, and of the networks."""
    out: Path = Path("runs/face-swap")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out, with the trainings that are missing."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


class Job(NamedTuple):
    """One training, a row of the run.

    Attributes:
        case: place of the case among the cases.
        procedure: see `Config.procedures`.
        firsts: who takes the part of A: all at once in the joint procedure, one in the
            others.
    """

    case: int
    procedure: Procedure
    firsts: tuple[str, ...]


def run(config: Config) -> int:
    """Trains in each way, swaps, scores, and reports."""
    _check(config)
    device = machine.select_device(config.device)
    cases = cases_of(config)
    console.say(
        f"data: {', '.join(case.name for case in cases)}, "
        f"{len(cases[0].people)} people each; on {device}"
    )
    with (
        train.RunFolder.open(
            config.out,
            described(config, cases),
            resume=config.resume,
            overwrite=config.overwrite,
            defaults={"sees": "pictures"},
        ) as folder,
        train.Checkpoints(folder.path("checkpoints"), keep=KEPT) as checkpoints,
    ):
        # A row is kept with its network: neither is there without the other.
        kept = {
            place: checkpoints.metadata(place)["row"] for place in checkpoints.steps()
        }
        if folder.resumed:
            folder.truncate_metrics(-1)
        rows = []
        began = time.perf_counter()
        trainer = Trainer(config, cases[0].shape, cases[0].people)
        for case in cases:
            for name, images in zip(case.people, case.train, strict=True):
                if len(images) > trainer.strips:
                    console.say(
                        f"{case.name}: of the {len(images):,} pictures of {name} the "
                        f"first {trainer.strips:,} are all that {config.steps} steps "
                        f"of {config.batch_size} take; more --steps would take more"
                    )
        scorers = [Scorer(case) for case in cases]
        jobs = jobs_of(config, cases)
        for place, job in enumerate(jobs):
            if place in kept:
                row = kept[place]
            else:
                row, variables = done(job, cases[job.case], trainer, scorers[job.case])
                checkpoints.save(place, variables, metric=None, metadata={"row": row})
                checkpoints.wait()
            rows.append({"step": place, **row})
            folder.log(rows[-1])
            console.say(line(rows[-1]))
        table = table_of(rows)
        swapper = chosen(rows, table, trainer.shape)
        faces = dict(zip(cases[0].people, cases[0].train, strict=True))
        framings = {
            name: face_swap_faces.framing(faces[name]) for name in swapper["names"]
        }
        result = {
            "data": [case.name for case in cases],
            "pairs": [
                [row["case"], swap["first"], swap["second"]]
                for row in rows
                for swap in row["swaps"]
                if row["procedure"] == config.procedures[0] and swap["aligned"]
            ],
            "steps": config.steps,
            "batch_size": config.batch_size,
            "parameters": params.count(trainer.new(0)),
            "table": table,
            "swapper": {**swapper, "framings": framings},
            "freeze_certificates": [
                row["freeze_certificate"] for row in rows if row["freeze_certificate"]
            ],
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        # The first training of each procedure shows the first people.
        first = {job.procedure: place for place, job in reversed([*enumerate(jobs)])}
        shown = {
            procedure: checkpoints.leaves(first[procedure])
            for procedure in config.procedures
        }
        face_swap_report.write(folder, cases[0], trainer.shape, shown, result)
        console.say(f"report: {folder.path('report.html')}")
    return 0


def _check(config: Config) -> None:
    commands.at_least_one(config, ("pairs", "pictures", "steps", "batch_size", "code"))
    commands.positive(config, ("learning_rate",))
    commands.seeded(config)
    if not 0 <= config.warp < 1:
        raise errors.ArgumentError(
            f"--warp is {config.warp}, but must be from 0 to below 1"
        )
    if config.steps % LOOKS:
        raise errors.ArgumentError(
            f"--steps is {config.steps}, but must be a multiple of {LOOKS}"
        )
    if (config.a is None) != (config.b is None):
        given, missing = ("--a", "--b") if config.b is None else ("--b", "--a")
        raise errors.ArgumentError(f"{given} is given without {missing}; give both")
    if config.a is not None and config.yale is not None:
        raise errors.ArgumentError("--yale is given with --a and --b; give one of them")
    if not config.procedures or len(set(config.procedures)) < len(config.procedures):
        raise errors.ArgumentError(
            f"--procedures is {' '.join(config.procedures) or 'empty'}, but must name "
            f"some of {', '.join(PROCEDURES)}, each once"
        )
    if not config.widths or min(config.widths) < 1:
        raise errors.ArgumentError(
            f"--widths is {' '.join(map(str, config.widths)) or 'empty'}, but must "
            "be one number above 0 for each level"
        )
    whole = 2 ** len(config.widths)
    if config.size < 16 or config.size % whole:
        raise errors.ArgumentError(
            f"--size is {config.size}, but must be a multiple of {whole} from 16 on, "
            f"since {len(config.widths)} levels halve it"
        )


def cases_of(config: Config) -> list[face_swap_data.Case]:
    """The people that the config names."""
    if config.yale is not None:
        case = face_swap_data.yale(config.yale, size=config.size, seed=config.seed)
        if config.pairs > len(case.people):
            raise errors.ArgumentError(
                f"--pairs is {config.pairs}, but {config.yale} has "
                f"{len(case.people)} people"
            )
        return [case]
    if config.a is not None and config.b is not None:
        return [
            face_swap_data.own(config.a, config.b, size=config.size, seed=config.seed)
        ]
    return [
        face_swap_data.rendered(
            number, pictures=config.pictures, size=config.size, seed=config.seed
        )
        for number in range(config.pairs)
    ]


def sees_of(config: Config) -> Sees:
    """What the encoder is given."""
    if config.sees is not None:
        return config.sees
    return "edges" if config.yale is None else "pictures"


def described(config: Config, cases: Sequence[face_swap_data.Case]) -> dict[str, Any]:
    """The stored config: the pictures themselves, not where they lay."""
    fields = dataclasses.asdict(config)
    for name in ("a", "b", "yale", "out", "resume", "overwrite", "device"):
        del fields[name]
    images = {
        f"{case.name}/{part}/{name}": images
        for case in cases
        for part in ("train", "test")
        for name, images in zip(case.people, getattr(case, part), strict=True)
    }
    return {
        "study": "face_swap",
        **fields,
        "sees": sees_of(config),
        "procedures": list(config.procedures),
        "widths": list(config.widths),
        "data_sha256": params.fingerprint(images),
    }


def jobs_of(config: Config, cases: Sequence[face_swap_data.Case]) -> list[Job]:
    """All trainings, in their order."""
    found = []
    for place, case in enumerate(cases):
        firsts = case.people[: config.pairs if config.yale is not None else 1]
        for procedure in config.procedures:
            if procedure == "joint":
                found.append(Job(place, procedure, firsts))
            else:
                found += [Job(place, procedure, (first,)) for first in firsts]
    return found


class Trainer:
    """Trains networks of one shape; each kind of step is compiled once.

    Args:
        config: of the study.
        shape: height, width and channels of the faces.
        people: the decoders' names.

    Attributes:
        strips: of pictures that an epoch takes, each of them four times.
    """

    def __init__(
        self, config: Config, shape: Sequence[int], people: tuple[str, ...]
    ) -> None:
        self._config = config
        height, width, channels = shape
        self.shape = Shape(
            (height, width),
            channels,
            config.widths,
            config.code,
            people,
            sees_of(config),
        )
        self.strips = config.steps // LOOKS * config.batch_size

    def new(self, number: int) -> Any:
        """Variables of a new network."""
        return self.shape.initialize(jax.random.key(self._config.seed + number))

    @functools.cache  # noqa: B019 - a trainer lives as long as its study
    def _prepared(
        self, people: tuple[str, ...], frozen: tuple[str, ...], warped: bool
    ) -> tuple[Any, ...]:
        config = self._config
        optimizer, schedule = optimizers.make(
            "adam",
            learning_rate=config.learning_rate,
            schedule="onecycle",
            total_steps=config.steps,
        )
        apply = own_decoders(self.shape, people)
        change = [warping.jolt(**JOLT)]
        if config.yale is not None:
            change.append(blended_lights(len(people)))
        loss = reconstruction.reconstruction(
            apply,
            augment=in_strips(augmentation.compose(*change), len(people)),
            corrupt=in_strips(
                disguise(config.warp, self.shape.channels) if warped else None,
                len(people),
            ),
        )
        step = train.make_step(loss, optimizer, frozen=frozen)
        return optimizer, schedule, step, train.Restorer(apply, batch_size=20)

    def fit(
        self,
        variables: Any,
        case: face_swap_data.Case,
        people: tuple[str, ...],
        *,
        frozen: tuple[str, ...] = (),
        warped: bool,
    ) -> train.Fitted:
        """Trains the decoders of some people, and the encoder unless it is frozen."""
        config = self._config
        optimizer, schedule, step, restorer = self._prepared(people, frozen, warped)
        places = [case.people.index(name) for name in people]
        dataset = data.Dataset(
            case.name,
            strips([case.train[place] for place in places], self.strips),
            strips([case.test[place][:LOOKED_AT] for place in places], LOOKED_AT),
            ("faces",),
            "",
        )
        fitted = train.fit(
            train.create(
                variables, optimizer, key=jax.random.key(config.seed), frozen=frozen
            ),
            step,
            dataset,
            epochs=LOOKS,
            batch_size=config.batch_size,
            seed=config.seed,
            evaluator=restorer,
            learning_rate=schedule,
        )
        commands.whole(fitted)
        return fitted


def disguise(warp: float, channels: int) -> augmentation.Augmentation:
    """What the encoder sees in place of a picture: it is warped, in other colours.

    The decoder knows the person's colours; an encoder that cannot rely on them finds
    what all faces share.

    Args:
        warp: see `warping.warp`.
        channels: of the pictures.
    """
    if channels == 1:
        return warping.warp(warp)
    colours = augmentation.color_jitter(saturation=1.0, hue=0.5)
    return augmentation.compose(colours, warping.warp(warp))


def blended_lights(people: int) -> augmentation.Augmentation:
    """Each picture under a sum of two lights: light adds up, and so do pictures.

    A random share of one picture and the rest of another of the same person are what
    the camera sees with both lights on, each dimmed to its share. Half of the pictures
    stay as they are.

    Args:
        people: in a batch, one after the other, with equally many pictures.
    """

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        parts = images.reshape(people, -1, *images.shape[1:])
        others = jax.numpy.roll(parts, 1, axis=1)
        share = jax.random.uniform(key, (*parts.shape[:2], 1, 1, 1), maxval=2.0)
        share = jax.numpy.minimum(share, 1.0)
        return (share * parts + (1 - share) * others).reshape(images.shape)

    return augment


def done(
    job: Job, case: face_swap_data.Case, trainer: Trainer, scorer: Scorer
) -> tuple[dict[str, Any], Any]:
    """Trains in one way; returns its row and the network's variables."""
    new = trainer.new(job.case)
    certificate = None
    if job.procedure == "joint":
        fitted = trainer.fit(new, case, case.people, warped=True)
        seconds = fitted.train_seconds
    else:
        warped = job.procedure == "frozen_warped"
        others = tuple(name for name in case.people if name not in job.firsts)
        mine = ("encoder/**", f"decoder_{job.firsts[0]}/**")
        rest = tuple(f"decoder_{name}/**" for name in others)
        first = trainer.fit(new, case, job.firsts, frozen=rest, warped=warped)
        held = params.select(first.state.params, mine)
        before = transfer.fingerprint(first.state, held)
        fitted = trainer.fit(
            first.state.variables, case, others, frozen=mine, warped=warped
        )
        after = transfer.fingerprint(fitted.state, held)
        if after != before:
            raise AssertionError(f"{job.procedure} changed a frozen parameter")
        certificate = {
            "frozen_leaves": len(held),
            "sha256_before": before,
            "sha256_after": after,
            "unchanged": True,
        }
        seconds = first.train_seconds + fitted.train_seconds
    faces = dict(zip(case.people, case.train, strict=True))
    variables = with_codes(trainer.shape, jax.device_get(fitted.state.variables), faces)
    row = {
        "case": case.name,
        "procedure": job.procedure,
        "swaps": [
            scorer.swap(trainer.shape, variables, first, second, aligned=aligned)
            for first in job.firsts
            for second in case.people
            if second != first
            for aligned in (False, True)
        ],
        "seconds": seconds,
        "freeze_certificate": certificate,
    }
    return row, variables


def main() -> int:
    """The command line: trains, or with `convert` first swaps faces in pictures."""
    if sys.argv[1:2] == ["convert"]:
        return face_swap_convert.main(sys.argv[2:], load_swapper)
    return run(tyro.cli(Config, prog="python -m experiments.face_swap"))


if __name__ == "__main__":
    console.run(main)
