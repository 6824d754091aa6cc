"""The time that an epoch takes, over interruptions."""

import time
from typing import Any


class EpochClock:
    """Measures an epoch, and its training apart from its validation."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._trained: float | None = None

    def start(self) -> None:
        """Begin an epoch."""
        self._started, self._trained = time.monotonic(), None

    def end_training(self) -> None:
        """Take the time of the training; a validation that begins again adds nothing."""
        if self._trained is None:
            self._trained = self.seconds

    @property
    def seconds(self) -> float:
        """Seconds of the epoch so far."""
        return time.monotonic() - self._started

    @property
    def trained_seconds(self) -> float:
        """Seconds of its training."""
        return self.seconds if self._trained is None else self._trained

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"seconds": self.seconds, "trained": self._trained}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint kept; the time since then does not count."""
        self._started = time.monotonic() - state_dict["seconds"]
        self._trained = state_dict["trained"]
