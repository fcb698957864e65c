"""Where calibration runs."""

from __future__ import annotations

from ..errors import SpecError


def calibration_device(asked: str) -> str:
    """Return the device that is meant: ``"auto"`` is the GPU if there is one.

    Raises
    ------
    SpecError
        When a GPU is asked for and none is visible.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError("No CUDA device is visible.", where="calib_device", remedy="Use auto or cpu.")
    return asked
