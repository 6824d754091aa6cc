"""What the processes that load batches have in common."""

import signal
import warnings
from typing import Any

from torch.utils.data import DataLoader

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
