"""What each extra of the installation brings, and an error in one line where it is missing.

``pip install hrrsi`` maps and scores scenes on a processor; all else is an extra, named in
pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from hrrsi.errors import DependencyError

# the modules that the packages of an extra are imported by
MODULES: dict[str, tuple[str, ...]] = {
    "gpu": ("torch", "torchvision", "timm", "ptflops"),
    "plots": ("matplotlib",),
    "cluster": ("distributed",),
}
MODULES["baselines"] = (*MODULES["gpu"], "segmentation_models_pytorch")
MODULES["prune"] = (*MODULES["gpu"], "torch_pruning")
MODULES["train"] = (*MODULES["gpu"], *MODULES["plots"], "lightning", "tensorboard", "imgaug")


@contextmanager
def requiring(extra: str, purpose: str) -> Iterator[None]:
    """Let imports that fail in the block name the extra that brings what they lack.

    Args:
        extra: One of `MODULES`.
        purpose: What needs it, e.g. ``training``.

    Raises:
        DependencyError: A module of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in MODULES[extra]:
            raise
        require(extra, purpose)
        raise


def require(extra: str, purpose: str) -> None:
    """Check that an extra is installed, before hours of work that end in what needs it.

    Args:
        extra: One of `MODULES`.
        purpose: What needs it.

    Raises:
        DependencyError: A module of the extra is not installed.
    """
    absent_modules = ", ".join(name for name in MODULES[extra] if not is_installed(name))
    if absent_modules:
        raise DependencyError(
            f"{purpose} needs packages that are not installed ({absent_modules})", extra=extra
        )


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
