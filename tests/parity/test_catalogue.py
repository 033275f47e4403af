"""The catalogue against what the libraries say of their own files."""

import importlib
import inspect

import pytest

from flaxnets import weights


def test_torchvisions_files(torchvision) -> None:
    entries = [e for e in weights.entries() if e.tag.startswith("torchvision")]
    assert len(entries) == 20
    for entry in entries:
        version = "V2" if entry.tag.endswith("v2") else "V1"
        enumeration = torchvision.models.get_model_weights(entry.model)
        theirs = enumeration[f"IMAGENET1K_{version}"]
        assert theirs.url == entry.url
        metrics = theirs.meta["_metrics"]["ImageNet-1K"]
        assert (entry.top1, entry.top5) == (metrics["acc@1"], metrics["acc@5"])
        mebibytes = theirs.meta["_file_size"]
        assert entry.megabytes == pytest.approx(mebibytes * 2**20 / 1e6)
        transform, ours = theirs.transforms(), entry.preprocessing
        assert (transform.resize_size, transform.crop_size) == (
            [ours.resize],
            [ours.crop],
        )
        assert transform.interpolation.value == ours.interpolation
        assert tuple(transform.mean) == ours.mean
        assert tuple(transform.std) == ours.deviation
        assert (ours.maximum, ours.channels) == (1.0, "rgb")


def test_every_file_of_torchvision_is_listed(torchvision) -> None:
    for name in torchvision.models.list_models(torchvision.models):
        listed = {entry.url for entry in weights.entries(name, "torchvision*")}
        if listed:
            theirs = {
                theirs.url
                for theirs in torchvision.models.get_model_weights(name)
                # Those of a detector's backbone have no accuracy.
                if theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] > 0
            }
            assert theirs == listed


def test_kerass_files() -> None:
    pytest.importorskip("keras", reason="Keras is not installed (extra peers)")
    for model in ("vgg16", "vgg19", "resnet50_v1", "resnet101_v1", "resnet152_v1"):
        network = model.removesuffix("_v1")
        name = network if network.startswith("vgg") else "resnet"
        module = importlib.import_module(f"keras.src.applications.{name}")
        source = inspect.getsource(module)
        for tag in ("keras", "keras-notop"):
            entry = weights.find(model, tag)
            assert entry.url and entry.expected
            if name == "resnet":
                assert entry.url.startswith(module.BASE_WEIGHTS_PATH)
                hashes = module.WEIGHTS_HASHES[network]
                assert entry.expected.digest == hashes[0 if entry.head else 1]
            else:
                paths = (module.WEIGHTS_PATH, module.WEIGHTS_PATH_NO_TOP)
                assert entry.url == paths[0 if entry.head else 1]
                assert f'"{entry.expected.digest}"' in source


def test_timms_files(torchvision) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    for entry in weights.entries(tag="timm"):
        config = timm.get_pretrained_cfg(f"{entry.model}.tv_in1k")
        assert entry.url and f"/{config.hf_hub_id}/resolve/" in entry.url
        ours = entry.preprocessing
        assert config.interpolation == ours.interpolation
        assert (config.mean, config.std) == (ours.mean, ours.deviation)
        assert config.input_size == (3, ours.crop, ours.crop)
        assert round(config.crop_pct * 256) == round(ours.crop / ours.resize * 256)
        if "resnet" in entry.model:
            assert config.license == entry.licence.lower()
