"""Which device a command computes on."""

from collections.abc import Mapping

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


def computes_in_bf16(device: str) -> bool:
    """Return whether a device has instructions for bf16, which make it faster than float32.

    Args:
        device: What `chosen_device` returns.
    """
    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = {}
    if hasattr(torch.cpu, "get_capabilities"):  # newer than torch 2.11
        capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
