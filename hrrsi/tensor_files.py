"""Files of tensors, read without ever running what a pickle may hold."""

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hrrsi.errors import HrrsiError

_TAR = b"ustar", 257  # PyTorch's files before 0.1.10; later ones are pickles, then zips


def read_tensor_file(path: Path) -> object:
    """Return the content of a ``.safetensors`` (a dict of tensors) or of a PyTorch file.

    Raises:
        HrrsiError: The file is not whole, no PyTorch file at all, or a pickle that holds more than
            tensors and plain containers.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            start = file.read(_TAR[1] + len(_TAR[0]))
        if not (start.startswith((b"PK", b"\x80")) or start[_TAR[1] :] == _TAR[0]):
            raise HrrsiError(
                "holds no weights: it is neither a .safetensors nor a PyTorch file",
                where=path,
                fix="give another file; download it again if it should hold some",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols, which load all the same
            content: object = torch.load(path, map_location="cpu", weights_only=True)
            return content
    except pickle.UnpicklingError as error:
        raise HrrsiError(
            "is a pickle that holds more than tensors; it was not run",
            where=path,
            fix="use a file that holds weights alone",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise HrrsiError(
            "is not a whole weights file", where=path, fix="copy the file again"
        ) from error
