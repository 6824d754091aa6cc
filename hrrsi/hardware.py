"""Which device and how many cores a command computes on."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hrrsi.errors import DeviceError, OptionError
from hrrsi.extras import is_installed, requiring


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_device(name: str) -> str:
    """Return the device that a name stands for: ``cpu``, ``cuda`` or ``cuda:N``.

    Args:
        name: One of these, or ``auto``: a GPU if there is one that PyTorch can use.

    Raises:
        DeviceError: No such device here.
        OptionError: The name is none of these.
        DependencyError: A GPU is asked for, and PyTorch is not installed.
    """
    kind, _, number = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or (number and not number.isdecimal())):
        raise OptionError(
            f"unknown device {name!r}", parameter="device", fix="give auto, cpu, cuda or cuda:N"
        )
    if name == "cpu" or (name == "auto" and not is_installed("torch")):
        return "cpu"
    with requiring("gpu", "a GPU"):
        import torch  # takes seconds, and only GPUs and training need it
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise DeviceError(
            "there is no CUDA device here that PyTorch can use",
            where=f"`device={name}`",
            fix="give `device=cpu`",
        )
    if number and int(number) >= torch.cuda.device_count():
        raise DeviceError(
            f"there are {torch.cuda.device_count()} CUDA devices here, counted from 0",
            where=f"`device={name}`",
            fix="choose one of them",
        )
    return name


def computes_in_bf16(device: str) -> bool:
    """Return whether a device has instructions for bf16, which make it faster than float32.

    Args:
        device: What `chosen_device` returns.
    """
    import torch

    if device != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Mapping[str, object] = {}
    if hasattr(torch.cpu, "get_capabilities"):  # newer than torch 2.11
        capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
