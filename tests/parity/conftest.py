"""torchvision beside PyTorch's CPU build, for which there is no matching binary.

Its Python package imports once the operators of that binary are declared.
"""

import importlib.util

import pytest

_OPERATORS = (
    "nms qnms roi_align qroi_align _roi_align_backward ps_roi_align "
    "_ps_roi_align_backward roi_pool _roi_pool_backward ps_roi_pool "
    "_ps_roi_pool_backward deform_conv2d _deform_conv2d_backward"
).split()


@pytest.fixture(scope="session")
def torchvision():
    """torchvision, or a skip where it is not installed."""
    pytest.importorskip("torch", reason="PyTorch is not installed (extra peers)")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor x) -> Tensor")
        # A library's operators go with it.
        globals()["_LIBRARY"] = library
    import torchvision

    return torchvision
