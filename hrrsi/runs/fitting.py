"""A module is fitted to its batches: the trainer, and how a run ends when something goes wrong."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import warnings
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import lightning
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from hrrsi.runs.checkpoints import LAST_CHECKPOINT, RunStoppedError, WholeCheckpoints
from hrrsi.runs.failures import PeerEndedError, SharedError, run_error
from hrrsi.runs.folder import replaced_run
from hrrsi.runs.options import RunOptions
from hrrsi.runs.processes import Processes, accelerator_and_devices

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let the allocator keep what tensors on the processor free, instead of giving it back.

    By default glibc takes large blocks from the system and gives them back each time, and the
    system clears each page that it hands out: a third of the time of a training step on a
    processor. The process keeps its highest amount of memory from then on. Elsewhere than on
    Linux with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _NEVER)
        mallopt(_MMAP_MAX, 0)


# torch advises against more processes than cores; how many there are is what --workers says
warnings.filterwarnings("ignore", message="This DataLoader will create")


def leave_signals_to_the_run(_worker: int = 0) -> None:
    """Make a loading process go on until the run itself ends it.

    Ctrl-C and a cluster's signals reach every process; the run itself decides when to stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # (a second SIGTERM is multiprocessing's, which waits for the process to end)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def start_loading_processes(batches: Any) -> None:
    """Start a loader's processes now instead of with its first batch, and keep them for it.

    A process starts as a copy of the run, and a run that has trained holds gigabytes, each page
    of which then costs a copy when it is next written: seconds on a processor.

    Args:
        batches: A loader; one without processes that outlive an epoch is left alone.
    """
    if isinstance(batches, DataLoader) and batches.persistent_workers:
        iter(batches)


def end_loading_processes(batches: Any) -> None:
    """End the processes of a loader that were started before Lightning knew of them.

    Where a run ends before their first batch, because it fails or has nothing left to do, Lightning
    does not, and the program would wait for them forever when it ends.

    Args:
        batches: The loader.
    """
    if isinstance(batches, DataLoader):
        batches._iterator = None  # whose end is that of the processes


_SAID = "hrrsi_has_said_why"  # a key of the store that processes met at
_STORE_SECONDS = 10
_PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    module: lightning.LightningModule,
    training: Any,
    validation: Any,
    options: RunOptions,
    processes: Processes,
    callbacks: list[Any],
    *,
    resume: bool,
) -> None:
    """Train and validate a module, over all processes, until the end of the run.

    Args:
        module: What is trained.
        training: Batches of an epoch of training.
        validation: Batches of a validation.
        options: Options of the run.
        processes: The processes of the run.
        callbacks: In the order in which they are called.
        resume: Continue from the last checkpoint in the run's folder.

    Raises:
        HrrsiError: What went wrong, in words of its own.
        KeyboardInterrupt: The run was told to stop, and can be resumed.
        SystemExit: Either of these, where another process says it: in any but the first, or in the
            first where what went wrong is another one's alone.
    """
    trainer = _trainer(options, processes, callbacks)
    start_loading_processes(validation)
    try:
        try:
            with warnings.catch_warnings():
                # advice on workers and logging that a user of the command line can't act on
                warnings.filterwarnings("ignore", module=r"lightning\..*")
                trainer.fit(
                    module,
                    training,
                    validation,
                    ckpt_path=options.run_folder / LAST_CHECKPOINT if resume else None,
                    weights_only=True,
                )
        finally:
            end_loading_processes(validation)
    except BaseException as error:
        _end(error, trainer, options, processes)


def _trainer(options: RunOptions, processes: Processes, callbacks: list[Any]) -> Any:
    accelerator, devices = accelerator_and_devices(options)
    if accelerator == "cpu":
        keep_freed_memory()
    strategy: Any = "auto"
    if processes.count > 1:
        strategy = DDPStrategy(
            # running statistics are averaged before they are used, not copied before each step
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
    return lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=options.nodes,
        strategy=strategy,
        precision=_PRECISIONS[options.precision],
        max_epochs=options.recipe.epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        benchmark=accelerator == "gpu",  # every batch has one size
        default_root_dir=options.run_folder,
        plugins=[WholeCheckpoints(), processes.environment],
        callbacks=callbacks,
    )


def _end(error: BaseException, trainer: Any, options: RunOptions, processes: Processes) -> NoReturn:
    """Raise what a user should read, in one process; the others end without a word.

    That is the first one, but for an error that another process has alone.
    """
    # SystemExit is what Lightning makes of a KeyboardInterrupt
    if isinstance(error, RunStoppedError | SystemExit):
        if not processes.is_first:
            raise SystemExit(0) from None
        raise KeyboardInterrupt(_interruption(options)) from None
    known = run_error(error, options)
    if processes.is_first:
        launcher = trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)  # they may be waiting for this process forever
            launcher.procs.clear()  # Lightning would kill this process, too, when it finds them so
        if isinstance(known, PeerEndedError) and _another_has_said_why(processes):
            raise SystemExit(1) from None
    elif isinstance(error, SharedError):
        # not 1: Lightning and torchrun would kill the first process before it has said why
        raise SystemExit(0) from None
    elif isinstance(known, PeerEndedError):
        raise SystemExit(1) from None
    elif dist.is_initialized():
        with suppress(dist.DistError):  # the first process ended, too
            _store(processes).set(_SAID, "")
    if known is None:
        raise error
    raise known from error


def _another_has_said_why(processes: Processes) -> bool:
    if not dist.is_initialized():
        return False
    found: bool = _store(processes).check([_SAID])
    return found


def _store(processes: Processes) -> Any:
    """Return the store that the processes met at, which whoever started them keeps."""
    where = processes.environment
    return dist.TCPStore(  # type: ignore[attr-defined]  # documented there, but not exported
        where.main_address, where.main_port, timeout=timedelta(seconds=_STORE_SECONDS)
    )


def _interruption(options: RunOptions) -> str:
    checkpoint = options.run_folder / LAST_CHECKPOINT
    if not checkpoint.is_file():
        kept = replaced_run(options.run_folder).exists()
        return "interrupted before the first checkpoint; " + (
            "the run it was to replace stays" if kept else "start it again"
        )
    return f"interrupted; {checkpoint} holds the run as it was, continue it with --resume"


# Lightning announces devices, tips and seeds, compiling that there is no CUDA; the command line has
# its own words.
for _name in (
    "lightning.pytorch",
    "lightning.fabric",
    "lightning.pytorch.utilities.rank_zero",
    "torch.utils.cpp_extension",
):
    logging.getLogger(_name).setLevel(logging.ERROR)
