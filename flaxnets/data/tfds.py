"""Image data sets of tensorflow-datasets, read once into arrays, without TensorFlow."""

from typing import Any

import numpy as np

from flaxnets import errors
from flaxnets.data.arrays import Dataset, assembled

# tensorflow-datasets itself prepares tfrecord by default.
_FORMAT = (
    "a copy in another format than array_record cannot be read without TensorFlow: "
    "move it away, and prepare it with file_format='array_record'"
)


def load(name: str) -> Dataset:
    """Reads a classification data set through `tfds.data_source`.

    Args:
        name: as tensorflow-datasets spells it, such as `cifar10` or `svhn_cropped`;
            it needs `train` and `test` (or `validation`) splits, and features `image`
            (all of one size) and `label`.

    Raises:
        DataError: unknown, not prepared, prepared in a format that needs TensorFlow,
            damaged, or not a classification of images of one size.
    """
    builder = _builder(name)
    if not builder.is_prepared():
        _prepare(builder, name)
    features, splits = dict(builder.info.features or {}), builder.info.splits
    test = next((split for split in ("test", "validation") if split in splits), None)
    classes = getattr(features.get("label"), "names", None)
    if "image" not in features or not classes or "train" not in splits or test is None:
        raise errors.DataError(
            f"tfds:{name}: features {list(features)}, splits {list(splits)}; expected "
            "features image and label (a class label) and splits train and test"
        )
    parts = *_arrays(builder, name, "train"), *_arrays(builder, name, test)
    source = f"tensorflow-datasets, {builder.info.full_name}"
    return assembled(name, f"tfds:{name}", parts, tuple(classes), source)


def _builder(name: str) -> Any:
    try:
        import tensorflow_datasets
        from tensorflow_datasets.core.registered import DatasetNotFoundError
    except ImportError as error:
        raise errors.DataError(
            f"tfds:{name}: tensorflow-datasets cannot be imported ({_line(error)}); "
            "pip install tensorflow-datasets importlib_resources array_record"
        ) from error
    try:
        return tensorflow_datasets.builder(name, file_format="array_record")
    except DatasetNotFoundError:
        raise errors.DataError(
            f"tfds:{name}: tensorflow-datasets knows no data set {name!r}; its "
            "catalogue is at https://www.tensorflow.org/datasets/catalog"
        ) from None
    except Exception as error:
        # A wrong version, for one, is an AssertionError there.
        raise errors.DataError(
            f"tfds:{name}: {_line(error)}; check name, configuration and version; "
            f"{_FORMAT}"
        ) from error


def _prepare(builder: Any, name: str) -> None:
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise errors.DataError(
            f"tfds:{name}: preparing it needs a package that is not here "
            f"({_line(error)}); prepare it once where TensorFlow is installed: pip "
            'install tensorflow-cpu, then python -c "import tensorflow_datasets as '
            f"tfds; tfds.builder('{name}', file_format='array_record')"
            '.download_and_prepare()"'
        ) from error
    except Exception as error:
        # tensorflow-datasets raises whatever its download libraries raise.
        raise errors.DataError(
            f"tfds:{name}: could not be downloaded and prepared: {_line(error)}; "
            "prepare it where there is a network, and copy the folder "
            "tensorflow_datasets"
        ) from error


def _arrays(builder: Any, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        examples = list(builder.as_data_source(split))
    except Exception as error:
        # Decoders and readers of records raise what they like.
        raise errors.DataError(
            f"tfds:{name}: {split} cannot be read: {_line(error)}; {_FORMAT}"
        ) from error
    if not examples:
        raise errors.DataError(
            f"tfds:{name}: {split} is empty, expected one example or more"
        )
    shapes = {example["image"].shape for example in examples}
    if len(shapes) > 1:
        raise errors.DataError(
            f"tfds:{name}: its images have {len(shapes)} different sizes, such as "
            f"{sorted(shapes)[:2]}; expected one size"
        )
    images = np.stack([example["image"] for example in examples])
    return images, np.array([example["label"] for example in examples])


def _line(error: Exception) -> str:
    """The first line of an error's text that says something, else its type."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
