"""The catalogue of pretrained weights, and checks of files.

python -m flaxnets.weights
python -m flaxnets.weights list --model "resnet*"
python -m flaxnets.weights fetch --model vgg16
python -m flaxnets.weights verify vgg16.safetensors --model vgg16
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from flaxnets import console, errors, params
from flaxnets.data import download
from flaxnets.models import registry
from flaxnets.weights import cache, catalogue, creation, files, loading, verification
from flaxnets.weights.catalogue import Entry


@dataclasses.dataclass(frozen=True)
class List:
    """Print the catalogue: files, sizes, hashes, licences, accuracies."""

    model: str = "*"
    """A glob of architectures."""
    json: bool = False
    """Print JSON, with URLs and preprocessing."""


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Download weights into the cache, for a machine without network later."""

    model: str
    """The architecture."""
    tag: str = catalogue.DEFAULT
    """Which weights; by default the catalogue's first of the model."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Check a file: names, shapes, hash, and each block's activations."""

    file: Annotated[Path, tyro.conf.Positional]
    """A file of weights."""
    model: str
    """The architecture that it shall be of."""
    against: str | None = None
    """A file, or a tag of the catalogue, that is known to be right; by default the
    activations that are kept of the model, if there are some."""
    num_classes: int | None = 1000
    """Classes that the file's head has; None if it has no head."""


def show(options: List) -> int:
    """Prints the catalogue."""
    entries = catalogue.entries(options.model)
    if not entries:
        raise errors.ArgumentError(
            f"--model {options.model}: matches none of: "
            f"{', '.join(dict.fromkeys(e.model for e in catalogue.entries()))}"
        )
    if options.json:
        rows = [dataclasses.asdict(entry) for entry in entries]
        console.say(json.dumps(rows, indent=1))
        return 0
    header = ["model", "weights", "file", "MB", "top-1", "top-5", "hash", "resize"]
    header.append("licence")
    table = [header, *(_row(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = "  ".join(
            cell.rjust(width)
            if title in ("MB", "top-1", "top-5")
            else cell.ljust(width)
            for cell, width, title in zip(row, widths, header, strict=True)
        )
        console.say(line.rstrip())
    console.say(
        "\ntop-1 and top-5: published accuracies on ImageNet's validation images, %.\n"
        "hash: as published, or its beginning; * none is at hand: the Hub is asked for "
        "it at the first\ndownload, and its answer is kept. Cache: "
        f"{download.cache_folder() / 'weights'} (FLAXNETS_CACHE moves it)"
    )
    return 0


def _row(entry: Entry) -> list[str]:
    expected = entry.expected
    digest = "*"
    if expected:
        digest = f"{expected.algorithm} {expected.digest[:12]}"
    return [
        entry.model,
        entry.tag,
        entry.file,
        f"{entry.megabytes:.1f}" if entry.megabytes else "-",
        f"{entry.top1:.2f}" if entry.top1 else "-",
        f"{entry.top5:.2f}" if entry.top5 else "-",
        digest,
        str(entry.preprocessing),
        entry.licence,
    ]


def fetch(options: Fetch) -> int:
    """Puts an entry's file in the cache, and prints where it is."""
    registry.architecture(options.model)
    console.say(str(cache.fetch(catalogue.find(options.model, options.tag))))
    return 0


def verify(options: Verify) -> int:
    """Prints what a file is, and each block that differs; 1 if it is not right."""
    name = options.model
    row = registry.architecture(name)
    model = registry.build(name, num_classes=options.num_classes)
    with files.opened(options.file) as tensors:
        layout = loading.layout_of(tensors, model)
        count = len(tensors)
    size, digest = options.file.stat().st_size, download.digest(options.file)
    console.say(f"file: {options.file}, {size:,} bytes, SHA-256 {digest}")
    known = cache.identified(options.file)
    if known and known.model != name:
        raise errors.WeightsError(
            f"{options.file}: is the catalogue's {known}, not weights of {name}"
        )
    if known:
        # What published weights were made with does not change what a file holds.
        model = registry.build(
            name, **{**row.pretrained, "num_classes": options.num_classes}
        )
    console.say(f"hash: {f'the catalogue has it as {known}' if known else 'unknown'}")
    variables = loading.load(options.file, model)
    console.say(
        f"names and shapes: {count} tensors as {layout} names them, each leaf of the "
        f"model from one; {params.count(variables['params']):,} parameters"
    )
    entry = known or next(
        (e for e in catalogue.entries(name) if verification.stored(name, e.tag)),
        catalogue.find(name),
    )
    if options.against:
        path = creation.located(name, options.against)
        right = loading.load(path, model)
        fixture = verification.recorded(name, model, right, entry.preprocessing)
        reference = str(path)
    else:
        fixture = verification.stored(name, entry.tag)
        reference = f"the activations kept of {entry}"
    if fixture is None:
        console.say(
            f"blocks: not compared, no activations are kept of {entry}; give --against "
            "with a file that is right"
        )
        return 0
    finding = verification.compare(name, model, variables, entry.preprocessing, fixture)
    return _judged(finding, reference, known is not None)


def _judged(finding: verification.Finding, reference: str, known: bool) -> int:
    console.say(f"blocks, against {reference}:")
    width = max(map(len, finding.differences))
    for endpoint, difference in finding.differences.items():
        verdict = "right" if difference <= verification.TOLERANCE else "differs"
        console.say(f"  {endpoint.ljust(width)}  {difference:.1e}  {verdict}")
    if not finding.first:
        console.say("the file is right")
        return 0
    console.say(f"the first block that differs: {finding.first}")
    console.say(f"likely cause: {finding.cause or 'none that is known'}")
    if not known and not finding.cause:
        console.say("(weights that were trained further rightly differ)")
    return 1


def main() -> int:
    """The command line."""
    commands = {"list": List, "fetch": Fetch, "verify": Verify}
    options = tyro.extras.subcommand_cli_from_dict(
        commands, prog="python -m flaxnets.weights", args=sys.argv[1:] or ["list"]
    )
    if isinstance(options, Verify):
        return verify(options)
    return fetch(options) if isinstance(options, Fetch) else show(options)


if __name__ == "__main__":
    console.run(main)
