"""What goes wrong in a run, as one line that says what to do; and the batch that did it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch

from hrrsi.errors import DeviceError, HrrsiError, OptionError, RunError
from hrrsi.files import replacing
from hrrsi.runs.options import NAN_BATCH, RunOptions

_SHOWN = 16  # names in one line

_RAISED = re.compile(r"hrrsi\.errors\.\w+: (.*)")
# what torch.compile raises has no public base class, so names of modules tell it
_COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
_ENDED_PEER = re.compile(
    r"gloo|nccl|ncclUniqueId|connection (closed|reset)|broken pipe|store|ProcessGroup",
    re.IGNORECASE,
)


class PeerEndedError(RunError):
    """Another process of the run ended; it has said why, unless it was killed."""


class SharedError(RunError):
    """What every process of the run raises: the first one says it for all."""


def bad_loss_error(
    batch: Sequence[torch.Tensor],
    loss: torch.Tensor,
    names: Sequence[str],
    *,
    epoch: int,
    step: int,
    options: RunOptions,
    save: bool = True,
) -> RunError:
    """Return the error of a loss that is not a number, having saved the batch that gave it.

    Args:
        batch: Image, label and index first, as they were trained on.
        loss: The loss.
        names: Names of what is trained on.
        epoch: The epoch, from 1.
        step: The step of the epoch, from 1.
        options: Options of the run; the batch goes to its folder.
        save: False only names the batch.
    """
    items = [names[i] for i in batch[2].tolist()]
    listed = ", ".join(items)
    shown = listed if len(items) <= _SHOWN else f"{items[0]} and {len(items) - 1} more"
    path = options.run_folder / NAN_BATCH
    about = {"epoch": str(epoch), "step": str(step), "loss": str(loss.item())}
    where = f"the batch is {shown}"
    if save:
        try:
            _save_batch(batch, {**about, options.items: listed}, path)
            where = f"the batch ({shown}) is in {path}"
        except (OSError, HrrsiError):
            where += ", and could not be saved"
    return RunError(
        f"the loss is {loss.item()} in epoch {epoch}, step {step}; {where}",
        where=options.run_folder,
        fix="lower `lr`, or give `precision=32`"
        if options.precision != "32"
        else f"lower `lr`, and look for broken pixels in those {options.items}",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the machine or the GPU is out of memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)
    )


def run_error(error: BaseException, options: RunOptions) -> HrrsiError | None:
    """Return what ended a run in words of its own, or None where it has none.

    Args:
        error: What was raised while training.
        options: Options of the run.
    """
    text = str(error)
    if isinstance(error, HrrsiError):
        return _without_worker_traceback(error)
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceError(
            "the GPU is out of memory",
            where=f"`device={options.device}`",
            fix=f"lower `batch` ({options.recipe.batch} now), "
            + (
                "or give `precision=bf16`"
                if options.precision == "32"
                else f"or make the {options.items} smaller"
            ),
        )
    if is_out_of_memory(error):
        return RunError(
            "the machine is out of memory",
            where=options.run_folder,
            fix=f"lower `batch` ({options.recipe.batch} now) or `workers` ({options.workers} now), "
            "or close other programs",
        )
    no_shared_memory = "Bus error" in text or "shared memory" in text or "</torch_" in text
    if "DataLoader worker" in text and (
        no_shared_memory or "killed" in text or "exited unexpectedly" in text
    ):
        if no_shared_memory:
            return RunError(
                f"the processes that read {options.items} are out of shared memory",
                where="/dev/shm",
                fix="enlarge it (docker run --shm-size 2g), or give `workers=0`",
            )
        return RunError(
            f"a process that reads {options.items} was killed, most likely for want of memory",
            where=options.run_folder,
            fix=f"lower `workers` ({options.workers} now) or `batch` ({options.recipe.batch} now), "
            "and continue with `resume=True`",
        )
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in text:
        return OptionError(
            f"BatchNorm needs several {options.items} a step in each process", fix="raise `batch`"
        ).at(options.model)
    if options.compile and _is_compilers(error):
        reason = next((line.strip() for line in text.splitlines() if line.strip()), "no reason")
        return OptionError(
            f"the network could not be compiled ({reason[:150]})",
            parameter="compile",
            fix="run without it, or install a C++ compiler that PyTorch finds",
        )
    if options.devices * options.nodes > 1 and _is_ended_peer(error):
        return PeerEndedError(
            "another process of this run ended",
            where=options.run_folder,
            fix="its own error says why; if there is none, it was killed, maybe for want of memory",
        )
    return None


def _save_batch(batch: Sequence[torch.Tensor], about: Mapping[str, str], path: Path) -> None:
    image, label, index = (tensor.detach().cpu().contiguous() for tensor in batch[:3])
    content = safetensors.torch.save({"image": image, "label": label, "index": index}, {**about})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _is_compilers(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__module__.startswith(_COMPILER_MODULES):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _is_ended_peer(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and bool(_ENDED_PEER.search(str(error)))


def _without_worker_traceback(error: HrrsiError) -> HrrsiError:
    """Return the error that a loading process raised, without the traceback torch adds to it."""
    *_, last = str(error).strip().splitlines()
    raised = _RAISED.match(last)
    return type(error)(raised[1]) if raised else error
