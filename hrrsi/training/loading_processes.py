"""What the processes that load batches have in common."""

import signal


def leave_signals_to_the_run(_worker: int = 0) -> None:
    """Make a loading process go on until the run itself ends it.

    Ctrl-C and a cluster's signals reach every process; the run itself decides when to stop.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # (a second SIGTERM is multiprocessing's, which waits for the process to end)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
