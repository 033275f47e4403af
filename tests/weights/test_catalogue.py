"""The catalogue says of each model's weights what a user has to know."""

import pytest

from flaxnets import errors, models, weights
from flaxnets.weights import catalogue


def test_every_architecture_has_weights_and_every_entry_a_model() -> None:
    assert {entry.model for entry in weights.entries()} == set(models.list_models())


def test_entries_are_told_apart_by_model_and_tag() -> None:
    keys = [(entry.model, entry.tag) for entry in weights.entries()]
    assert len(set(keys)) == len(keys)
    places = [(entry.tag, entry.file) for entry in weights.entries()]
    assert len(set(places)) == len(places)


def test_what_an_entry_must_tell() -> None:
    for entry in weights.entries():
        assert entry.licence and entry.preprocessing, entry
        if entry.expected:
            assert set(entry.expected.digest) <= set("0123456789abcdef"), entry
            # torchvision publishes eight figures of a SHA-256.
            length = {"md5": 32, "sha256": 64}[entry.expected.algorithm]
            least = 8 if entry.tag.startswith("torchvision") else length
            assert least <= len(entry.expected.digest) <= length
            assert len(entry.expected.digest) in (least, length)
        else:
            # Only the Hub can be asked.
            assert entry.url and entry.url.startswith(catalogue.HUB_URL), entry
        assert (entry.top1 or 0) < (entry.top5 or 1), entry


def test_a_models_first_weights_are_its_default() -> None:
    assert weights.find("resnet50").tag == "torchvision"
    assert weights.find("resnet50_v1").tag == "keras"
    assert weights.find("resnet50", "torchvision-v2").preprocessing.resize == 232
    assert weights.tags("vgg16") == (
        *("imagenet", "torchvision", "keras", "keras-notop", "timm"),
    )


@pytest.mark.parametrize(
    ("model", "tag", "message"),
    [
        ("vgg16", "torchvision-v2", "there are: 'imagenet', 'torchvision', 'keras'"),
        ("vgg*", "imagenet", r"no weights 'imagenet' of vgg\*"),
        ("lenet", "imagenet", "no weights 'imagenet' of lenet .* there are: none"),
    ],
)
def test_weights_that_nobody_publishes(model, tag, message) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        weights.find(model, tag)
