"""torchvision beside PyTorch's CPU build, for which there is no matching binary.

Its Python package imports once the operators of that binary are declared; its networks
need none of them.
"""

from typing import Any

_OPERATORS = (
    "nms qnms roi_align qroi_align _roi_align_backward ps_roi_align "
    "_ps_roi_align_backward roi_pool _roi_pool_backward ps_roi_pool "
    "_ps_roi_pool_backward deform_conv2d _deform_conv2d_backward"
).split()

# A library's operators go with it.
_libraries: list[Any] = []


def imported() -> Any:
    """The module torchvision.

    Raises:
        ImportError: PyTorch or torchvision is not installed.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor x) -> Tensor")
        _libraries.append(library)
        import torchvision
    return torchvision
