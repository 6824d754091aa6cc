"""Which device a command computes on."""

import torch

from hrrsi.errors import HrrsiError


def chosen_device(name: str) -> str:
    """Return the device that ``--device`` asks for: ``cpu``, ``cuda`` or ``cuda:N``.

    Args:
        name: One of these, or ``auto``: a GPU if there is one.

    Raises:
        HrrsiError: No such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name == "cpu" or (kind == "cuda" and (not number or number.isdecimal())):
        if kind == "cuda" and not torch.cuda.is_available():
            raise HrrsiError(
                "there is no CUDA device here that PyTorch can use",
                where=f"--device {name}",
                fix="give --device cpu",
            )
        if number and int(number) >= torch.cuda.device_count():
            raise HrrsiError(
                f"there are {torch.cuda.device_count()} CUDA devices here, counted from 0",
                where=f"--device {name}",
                fix="choose one of them",
            )
        return name
    raise HrrsiError(
        f"unknown device {name!r}", where="--device", fix="give auto, cpu, cuda or cuda:N"
    )
