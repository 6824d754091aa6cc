"""What is out of place about scenes, one line each on standard error."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hrrsi.cli.warning_lines import print_warning


@contextmanager
def scene_warnings_in_one_line() -> Iterator[None]:
    """Print each warning about a scene as a line for the user, above any progress bar."""
    from hrrsi.prediction.scene_checks import SceneWarning

    with warnings.catch_warnings(action="always", category=SceneWarning):
        show = warnings.showwarning

        def show_in_one_line(
            message: Warning | str, category: type[Warning], *place: Any, **more: Any
        ) -> None:
            if issubclass(category, SceneWarning):
                print_warning(message)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_in_one_line  # restored by catch_warnings
        yield
