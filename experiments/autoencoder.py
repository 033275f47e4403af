"""Autoencoders with every kind of un-pooling: reconstruction and de-noising.

    python -m experiments.autoencoder
    python -m experiments.autoencoder --noises none gaussian:0.5 --steps 3000
    python -m experiments.autoencoder --data cats_and_dogs.zip

One network a kind of un-pooling and a kind of noise, each with the same number of
steps, on digits or on patches of photographs; beside them the noisy pictures, and
classical filters tuned on the training pictures.
"""

import dataclasses
import functools
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from experiments import autoencoder_report, classical, commands
from flaxnets import console, data, errors, machine, models, params, train
from flaxnets.data import corruption, preprocessing
from flaxnets.models import autoencoder
from flaxnets.train import optimizers, progress, reconstruction, similarity

# Training pictures that the filters are tuned on, test pictures that are shown, and
# pictures that go through a network at once.
TUNED_ON, SHOWN, TOGETHER = 64, 6, 100
# Numbers in the codes that are drawn as a plane, and between which pictures are made;
# how many are, the two ends included.
PLANE, BETWEEN, ON_A_LINE = 2, 32, 11

# Learning rates of digits and of photographs.
DIGITS, PHOTOGRAPHS = 3e-3, 1e-3

NOISES: dict[str, Callable[[float], corruption.Corruption]] = {
    "gaussian": corruption.gaussian,
    "salt_and_pepper": corruption.salt_and_pepper,
    "squares": lambda size: corruption.squares(_whole(size)),
    "blur": corruption.blur,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Rebuild and restore pictures, with each kind of un-pooling."""

    dataset: str = "auto"
    """auto, mnist, fashion_mnist, digits, an .npz file or an IDX folder."""
    data: Path | None = None
    """A folder or zip of photographs, a folder a class; in place of --dataset."""
    patch: int = 64
    """Pixels of a side of the photographs' patches."""
    noises: tuple[str, ...] = (
        "none",
        "gaussian:0.25",
        "gaussian:0.5",
        "salt_and_pepper:0.3",
        "squares:8",
        "blur:1.5",
    )
    """What is done to the pictures: none, or a kind and a strength: gaussian:SIGMA (of
    white 1), salt_and_pepper:SHARE, squares:PIXELS, blur:SIGMA in pixels."""
    unpoolings: tuple[autoencoder.Unpooling, ...] = autoencoder.UNPOOLINGS
    """Ways from a smaller map to a larger one."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Kernels of each level's convolutions; between levels is 2x2 max pooling."""
    convolutions: int = 2
    """Of each level, 3x3 each."""
    bottleneck: int | None = None
    """Numbers in the code; without it the code is a map."""
    steps: int = 400
    """Steps of each training at least; what is begun is a whole epoch."""
    batch_size: int = 128
    """Pictures per step."""
    learning_rate: float | None = None
    """AdamW's at its highest, in one cycle; by default 3e-3, and 1e-3 for photographs,
    at more of which two equal trainings ended several decibels apart."""
    seed: int = 0
    """Of the parameters, the order, and the noise."""
    out: Path = Path("runs/autoencoder")
    """The run folder."""
    resume: bool = False
    """Go on with the run in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute."""


def run(config: Config) -> int:
    """Makes each row of the table that is not there yet, and reports."""
    noises = {name: parsed(name) for name in config.noises}
    _check(config)
    device = machine.select_device(config.device)
    dataset = loaded(config)
    _fits(config, dataset, noises)
    console.say(f"data: {dataset.name}, {dataset.source}; on {device}")
    with train.RunFolder.open(
        config.out,
        described(config, dataset),
        resume=config.resume,
        overwrite=config.overwrite,
    ) as folder:
        rows = folder.truncate_metrics() if folder.resumed else []
        folder.path("pictures").mkdir(exist_ok=True)
        began = time.perf_counter()
        for name, noise in noises.items():
            bench = Bench(config, dataset, noise)
            for place, (method, make) in enumerate(bench.methods()):
                number = sum(row["noise"] == name for row in rows)
                if place < number:
                    continue
                found, restored = make()
                row = {"step": len(rows), "noise": name, "method": method, **found}
                path = autoencoder_report.kept(folder, row)
                autoencoder_report.keep(path, restored=restored[:SHOWN])
                folder.log(row)
                rows.append(row)
                console.say(autoencoder_report.line(row))
        plane = None
        if config.data is None:
            plane = bottlenecks(config, dataset, folder)
        result = {
            "dataset": dataset.name,
            "test_pictures": len(dataset.test.labels),
            "steps": max(row.get("steps", 0) for row in rows),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "gains": autoencoder_report.gains(rows),
            "rows": rows,
            "codes": plane,
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": machine.peak_memory_bytes(),
            "backend": device.platform,
            "versions": machine.versions(),
        }
        folder.write_json("result.json", result)
        autoencoder_report.write(folder, result, dataset)
        console.say(f"report: {folder.path('report.html')}")
    return 0


def parsed(name: str) -> corruption.Corruption | None:
    """What a kind and a strength of noise, such as gaussian:0.5, do to pictures."""
    if name == "none":
        return None
    kind, _, strength = name.partition(":")
    try:
        return NOISES[kind](_strength(strength))
    except (KeyError, ValueError) as error:
        reason = f" ({error})" if isinstance(error, errors.ArgumentError) else ""
        raise errors.ArgumentError(
            f"--noises has {name!r}, which is no noise{reason}; expected none, or one "
            f"of {', '.join(NOISES)} with a strength, such as gaussian:0.5"
        ) from None


def _strength(text: str) -> float:
    """A strength at which something is changed."""
    strength = float(text)
    if not (math.isfinite(strength) and strength > 0):
        raise errors.ArgumentError(f"{text} is not a number above 0")
    return strength


def _whole(size: float) -> int:
    if not size.is_integer():
        raise errors.ArgumentError(f"{size} is not a whole number of pixels")
    return int(size)


def _fits(
    config: Config,
    dataset: data.Dataset,
    noises: Mapping[str, corruption.Corruption | None],
) -> None:
    """Raises ArgumentError where the pictures do not do for what is asked."""
    height, width = dataset.train.images.shape[1:3]
    if height % 2 and width % 2:
        raise errors.ArgumentError(
            f"{dataset.name} has pictures of {height}x{width} pixels, but one side "
            "must be even, or no pattern with a period of two pixels can be measured"
            + (f"; give another --patch than {config.patch}" if config.data else "")
        )
    one = jax.ShapeDtypeStruct((1, *dataset.train.images.shape[1:]), np.float32)
    commands.large_enough(dataset)
    if config.data is None and len(dataset.test.labels) < 2:
        raise errors.ArgumentError(
            f"{dataset.name} has {len(dataset.test.labels)} test picture, but two are "
            "needed to make others between them"
        )
    data.steps_per_epoch(len(dataset.train.labels), config.batch_size)
    params.abstract(models.Autoencoder(levels(config), one.shape[-1]), one.shape)
    for name, noise in noises.items():
        if noise is not None:
            try:
                jax.eval_shape(noise, jax.random.key(0), one)
            except errors.ArgumentError as error:
                raise errors.ArgumentError(f"--noises {name}: {error}") from None


def _check(config: Config) -> None:
    commands.at_least_one(config, ("convolutions", "steps", "batch_size"))
    commands.seeded(config)
    if config.bottleneck is not None:
        commands.at_least_one(config, ("bottleneck",))
    if config.learning_rate is not None:
        commands.positive(config, ("learning_rate",))
    for option in ("noises", "unpoolings", "widths"):
        values = getattr(config, option)
        if not values or len(set(values)) < len(values) and option != "widths":
            raise errors.ArgumentError(
                f"--{option} is {' '.join(map(str, values)) or 'empty'}, but at least "
                "one is needed, and each once"
            )
    if min(config.widths) < 1:
        raise errors.ArgumentError(f"--widths is {config.widths}, but all must be > 0")
    if config.patch < 16:
        raise errors.ArgumentError(
            f"--patch is {config.patch}, but must be at least 16 pixels"
        )


def rate_of(config: Config) -> float:
    """The highest learning rate."""
    if config.learning_rate is not None:
        return config.learning_rate
    return DIGITS if config.data is None else PHOTOGRAPHS


def loaded(config: Config) -> data.Dataset:
    """The digits asked for, or patches of photographs.

    A photograph is resized until its shorter side is that of two patches. Training
    takes the four patches of its middle square, the test the one in its centre.
    """
    if config.data is None:
        return data.load(config.dataset)
    folder = data.image_folder(config.data, seed=config.seed)
    side = config.patch
    square = preprocessing.Preprocessing(resize=2 * side, crop=2 * side)

    def quarters(picture: np.ndarray) -> np.ndarray:
        blocks = square.cropped(picture).reshape(2, side, 2, side, 3)
        return blocks.swapaxes(1, 2).reshape(4, side, side, 3)

    def centre(picture: np.ndarray) -> np.ndarray:
        inner = slice(side // 2, side // 2 + side)
        return square.cropped(picture)[inner, inner]

    found = folder.read(folder.train, quarters).split
    test = folder.read(folder.validation, centre).split
    # The first ones are shown, and should be of all classes.
    mixed = commands.drawn(len(test.labels), len(test.labels), config.seed)
    return data.Dataset(
        config.data.name,
        data.Split(np.concatenate(found.images), np.repeat(found.labels, 4)),
        data.Split(test.images[mixed], test.labels[mixed]),
        folder.class_names,
        f"patches of {side}x{side} pixels",
    )


def described(config: Config, dataset: data.Dataset) -> dict[str, Any]:
    """The stored config."""
    fields = dataclasses.asdict(config)
    for name in ("data", "out", "resume", "overwrite", "device"):
        del fields[name]
    return {
        "study": "autoencoder",
        **fields,
        "learning_rate": rate_of(config),
        "dataset": dataset.name,
        "dataset_sha256": data.fingerprint(dataset),
        **{name: list(fields[name]) for name in ("noises", "unpoolings", "widths")},
    }


class Method(NamedTuple):
    """A row of the table to be made.

    Attributes:
        name: of the way of restoring.
        make: returns what is known of it, and the restored test pictures.
    """

    name: str
    make: Callable[[], tuple[dict[str, Any], np.ndarray]]


class Bench:
    """Ways of restoring pictures from one kind of noise, all on the same pictures.

    Attributes:
        clean: test pictures f32[N, H, W, C].
        noisy: what became of them.
    """

    def __init__(
        self,
        config: Config,
        dataset: data.Dataset,
        noise: corruption.Corruption | None,
    ) -> None:
        self._config, self._dataset, self._noise = config, dataset, noise
        self._key = jax.random.key(config.seed)
        self.clean = np.asarray(dataset.test.images, np.float32) / 255
        self.noisy = self._spoiled(dataset.test.images, 0)

    def methods(self) -> Iterator[Method]:
        """The noisy pictures themselves, the filters, and the networks."""
        if self._noise is not None:
            yield Method(
                autoencoder_report.NOISY,
                lambda: (self._compared(self.noisy), self.noisy),
            )
            for name, candidates in classical.filters().items():
                yield Method(name, functools.partial(self._filtered, candidates))
        for unpooling in self._config.unpoolings:
            make = functools.partial(self._network, unpooling)
            yield Method(unpooling, make)

    def _restorer(self, apply: Any, stream: int) -> train.Restorer:
        return train.Restorer(
            apply,
            corrupt=self._noise,
            key=jax.random.fold_in(self._key, stream),
            batch_size=TOGETHER,
        )

    def _spoiled(self, images: np.ndarray, stream: int) -> np.ndarray:
        """Images uint8[N, H, W, C] with their noise, each drawn by its place."""
        restorer = self._restorer(lambda _, given: (given, {}), stream)
        return restorer.predict({}, images)[0]

    def _compared(self, restored: np.ndarray) -> dict[str, Any]:
        return compared(restored, self.clean)

    def _filtered(
        self, candidates: tuple[classical.Candidate, ...]
    ) -> tuple[dict[str, Any], np.ndarray]:
        images = self._dataset.train.images
        few = images[commands.drawn(len(images), TUNED_ON, self._config.seed)]
        best = classical.tuned(
            candidates, self._spoiled(few, 1), few.astype(np.float32) / 255
        )
        restored = classical.applied(best, self.noisy)
        return {**self._compared(restored), "setting": best.setting}, restored

    def _network(
        self, unpooling: autoencoder.Unpooling
    ) -> tuple[dict[str, Any], np.ndarray]:
        model = models.Autoencoder(
            levels(self._config),
            self._dataset.train.images.shape[-1],
            unpooling,
            self._config.bottleneck,
        )
        fitted = trained(self._config, self._dataset, model, self._noise)
        restorer = self._restorer(model.apply, 0)
        _, restored = restorer.predict(
            fitted.state.variables, self._dataset.test.images
        )
        return {
            **self._compared(restored),
            "parameters": params.count(fitted.state.params),
            "steps": int(fitted.state.step),
            "seconds": fitted.train_seconds,
        }, restored


def levels(config: Config) -> tuple[models.Level, ...]:
    """What the networks have at each resolution."""
    last = len(config.widths) - 1
    return tuple(
        models.Level((width,) * config.convolutions, pooled=index < last)
        for index, width in enumerate(config.widths)
    )


def compared(restored: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """How like the clean pictures f32[N, H, W, C] the restored ones are.

    `psnr` is that of the mean squared error of all pictures, `mean_psnr` the mean of
    each one's; both are at most `reconstruction.MOST_DECIBELS`.
    """
    shown = np.clip(restored, 0, 1)
    parts = [
        jax.device_get(
            _likeness(shown[start : start + 1000], clean[start : start + 1000])
        )
        for start in range(0, len(clean), 1000)
    ]
    error = float(np.mean(np.square(shown.astype(np.float64) - clean)))
    return {
        "psnr": -10
        * math.log10(max(error, 10 ** (-reconstruction.MOST_DECIBELS / 10))),
        "mean_psnr": float(np.mean(np.concatenate([part["psnr"] for part in parts]))),
        "ssim": float(np.mean(np.concatenate([part["ssim"] for part in parts]))),
        "checkerboard": similarity.checkerboard(shown - clean),
    }


_likeness = jax.jit(reconstruction.likeness)


def trained(
    config: Config,
    dataset: data.Dataset,
    model: models.Autoencoder,
    noise: corruption.Corruption | None,
) -> train.Fitted:
    """A network after at least `config.steps` steps, in whole epochs."""
    images = dataset.train.images
    per_epoch = data.steps_per_epoch(len(images), config.batch_size)
    epochs = -(-config.steps // per_epoch)
    optimizer, schedule = optimizers.make(
        "adamw",
        learning_rate=rate_of(config),
        schedule="onecycle",
        total_steps=epochs * per_epoch,
    )
    keys = jax.random.split(jax.random.key(config.seed))
    variables = params.initialize(model, keys[0], (1, *images.shape[1:]))
    # Only the last evaluation counts, and that is on all test pictures.
    few = data.Split(*(part[:TOGETHER] for part in dataset.test))
    fitted = train.fit(
        train.create(variables, optimizer, key=keys[1]),
        train.make_step(
            reconstruction.reconstruction(model.apply, corrupt=noise), optimizer
        ),
        dataset._replace(test=few),
        epochs=epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        evaluator=train.Restorer(model.apply, batch_size=TOGETHER),
        learning_rate=schedule,
        progress=progress.Progress(epochs, per_epoch, stream=io.StringIO()),
    )
    commands.whole(fitted)
    return fitted


def bottlenecks(
    config: Config, dataset: data.Dataset, folder: train.RunFolder
) -> dict[str, Any]:
    """Codes of two numbers, and pictures between two digits in longer codes."""
    images, labels = dataset.test.images, dataset.test.labels
    described = {}
    for numbers in (PLANE, BETWEEN):
        path = folder.path(f"pictures/code{numbers}.npz")
        if not path.exists():
            model = models.Autoencoder(
                levels(config), images.shape[-1], "nearest", numbers
            )
            fitted = trained(config, dataset, model, None)
            variables = fitted.state.variables
            restorer = train.Restorer(model.apply, batch_size=TOGETHER)
            _, restored = restorer.predict(variables, images)
            found = compared(restored, np.asarray(images, np.float32) / 255)
            autoencoder_report.keep(
                path,
                codes=_codes(model, variables, images),
                between=_between(model, variables, images, labels),
                found=np.array([found["psnr"], found["ssim"]]),
            )
        with np.load(path) as kept:
            psnr, ssim = kept["found"].tolist()
        described[str(numbers)] = {"psnr": psnr, "ssim": ssim}
        console.say(f"a code of {numbers} numbers: {psnr:.2f} dB, SSIM {ssim:.4f}")
    return described


def _codes(model: models.Autoencoder, variables: Any, images: np.ndarray) -> np.ndarray:
    """f32[N, D] of the first 5,000 images."""

    apply: Any = model.apply

    @jax.jit
    def encode(batch: jax.Array) -> jax.Array:
        return apply(variables, batch / 255.0, method="encode").values

    batches = np.split(images[:5000], range(TOGETHER, len(images[:5000]), TOGETHER))
    return np.concatenate([np.asarray(encode(batch)) for batch in batches])


def _between(
    model: models.Autoencoder, variables: Any, images: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """f32[5, ON_A_LINE, H, W, C]: from one class to the next, along a line of codes.

    From one picture to the next where there is only one class.
    """
    firsts = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    if len(firsts) < 2:
        firsts = [0, 1]
    pairs = np.array(firsts[: len(firsts) // 2 * 2][:10]).reshape(-1, 2)
    shares = np.linspace(0, 1, ON_A_LINE, dtype=np.float32)[:, None]

    apply: Any = model.apply

    @jax.jit
    def decoded(ends: jax.Array) -> jax.Array:
        code = apply(variables, ends / 255.0, method="encode")
        first, last = code.values[:1], code.values[1:]
        line = (1 - shares) * first + shares * last
        return apply(variables, code.replace(values=line), method="decode")

    return np.stack([np.asarray(decoded(images[pair])) for pair in pairs])


def main() -> int:
    """The command line."""
    return run(tyro.cli(Config, prog="python -m experiments.autoencoder"))


if __name__ == "__main__":
    console.run(main)
