"""Image data sets of tensorflow-datasets, read once into arrays, without TensorFlow."""

from typing import Any

import numpy as np

from flaxnets import errors
from flaxnets.data.arrays import Dataset, checked_split


def load(name: str) -> Dataset:
    """Reads a classification data set through `tfds.data_source`.

    Args:
        name: as tensorflow-datasets spells it, such as `cifar10` or `svhn_cropped`;
            it needs `train` and `test` (or `validation`) splits, and features `image`
            (all of one size) and `label`.

    Raises:
        DataError: unknown, not prepared, or not a classification of images of one
            size.
    """
    import tensorflow_datasets
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder: Any = tensorflow_datasets.builder(name, file_format="array_record")
    except DatasetNotFoundError:
        raise errors.DataError(
            f"tfds:{name}: tensorflow-datasets knows no data set {name!r}; its "
            "catalogue is at https://www.tensorflow.org/datasets/catalog"
        ) from None
    if not builder.is_prepared():
        _prepare(builder, name)
    features = builder.info.features
    test = next((s for s in ("test", "validation") if s in builder.info.splits), None)
    if not {"image", "label"} <= set(features or {}) or test is None:
        raise errors.DataError(
            f"tfds:{name}: features {list(features or {})}, splits "
            f"{list(builder.info.splits)}; expected features image and label and "
            "splits train and test"
        )
    classes = tuple(features["label"].names)
    train, held_out = (
        checked_split(
            f"tfds:{name} ({split})", *_arrays(builder, name, split), len(classes)
        )
        for split in ("train", test)
    )
    source = f"tensorflow-datasets, {builder.info.full_name}"
    return Dataset(name, train, held_out, classes, source)


def _prepare(builder: Any, name: str) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise errors.DataError(
            f"tfds:{name}: preparing it needs a package that is not here ({error}); "
            "prepare it once where TensorFlow is installed: pip install "
            'tensorflow-cpu, then python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', file_format='array_record')"
            '.download_and_prepare()"'
        ) from None
    except Exception as error:
        # tensorflow-datasets raises whatever its download libraries raise.
        raise errors.DataError(
            f"tfds:{name}: could not be downloaded and prepared: "
            f"{str(error).splitlines()[0]}; prepare it where there is a network, and "
            "copy the folder tensorflow_datasets"
        ) from error


def _arrays(builder: Any, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    examples = list(builder.as_data_source(split))
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise errors.DataError(
            f"tfds:{name}: its images have {len(shapes)} different sizes, such as "
            f"{sorted(shapes)[:2]}; expected one size"
        )
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])
