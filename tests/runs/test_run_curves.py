"""What a run shows while it works: curves and progress bars."""

import io
import math
import os
import warnings
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from samples.picture_panels import pixels_of

from hrrsi import progress as progress_bars
from hrrsi.progress import EpochProgress
from hrrsi.runs.record import CurvePanels
from hrrsi.training.record import write_curves


def made_rows(epochs: int) -> list[dict[str, float]]:
    """Return metrics of a run in which one class gets better, one is perfect and one is absent."""
    return [
        {
            "epoch": n + 1, "lr": 0.1, "loss": 3.0 / (n + 1), "segmentation_loss": 2.0 / (n + 1),
            "edge_loss": 0.0, "val_seg_loss": 2.5 / (n + 1), "val_OA": 0.9, "val_mF1": 0.8,
            "val_mIoU": n / 50, "val_IoU_tree": 0.2 + n / 100, "val_IoU_car": 1.0,
            "val_IoU_water": math.nan,
        }
        for n in range(epochs)
    ]  # fmt: skip


COLOURS = {"tree": (0, 150, 0), "car": (255, 255, 0), "water": (0, 0, 255)}


@pytest.mark.parametrize("epochs", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_curves_are_drawn_from_any_metrics(epochs: int, tmp_path: Path) -> None:
    rows = made_rows(epochs)
    drawn = []
    for number, edge in enumerate((0.0, 0.5)):  # a loss of nothing has no logarithm
        path = tmp_path / f"{number}.png"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_curves([{**row, "edge_loss": edge} for row in rows], COLOURS, path)
        drawn.append(pixels_of(path))
    height, width = (side // 2 for side in drawn[0].shape[:2])
    losses = [picture[:height, :width] for picture in drawn]
    assert not np.array_equal(*losses)
    classes, others = drawn[0][height:, :width], drawn[0][:height]
    for name in ("tree", "car"):  # in the colours of their scheme
        assert (classes == COLOURS[name]).all(-1).any()
        assert not (others == COLOURS[name]).all(-1).any()


@pytest.mark.parametrize(("epochs", "ticks"), [(1, [1]), (3, [1, 2, 3])])
def test_epochs_are_whole_numbers(epochs: int, ticks: list[float]) -> None:
    panels = CurvePanels(made_rows(epochs), "val_mIoU", rows=2, columns=1)
    for axes in panels.axes:
        panels.plot(axes, "val_mIoU", "mIoU")
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == ticks


class Bars:
    """Stands for the progress bars, and keeps what they show."""

    def __init__(self) -> None:
        self.instances: list[SimpleNamespace] = []

    def __call__(self, what: str, total: float, unit: str, **named: Any) -> Any:
        bar = SimpleNamespace(
            what=what,
            total=total,
            unit=unit,
            n=named["initial"],
            disable=False,
            postfix="",
            open=True,
            ncols=None,
        )
        bar.update = lambda count: setattr(bar, "n", bar.n + count)
        bar.set_postfix_str = lambda text, refresh: setattr(bar, "postfix", text)
        self.instances.append(bar)
        return SimpleNamespace(
            __enter__=lambda: bar, __exit__=lambda *_: setattr(bar, "open", False)
        )


def shown_progress(images: int, validated: int, epochs: int) -> EpochProgress:
    """Return the bars of a run with batches of six."""
    return EpochProgress(images, validated, batch=6, epochs=epochs, enabled=True)


def test_progress_bars_count_images_and_say_losses_and_the_last_miou(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bars = Bars()
    monkeypatch.setattr(progress_bars, "progress", bars)
    losses = {"loss": 1.5, "edge_loss": 0.25}
    first = shown_progress(28, 11, epochs=9)
    first.start_training(4, 3)
    for _ in range(2):  # resumed in the middle of the epoch, whose last batch is smaller
        first.advance(losses)
    assert bars.instances[0].postfix == "loss 1.500, edge 0.250"
    assert not first.is_due
    first.start_validation()
    for _ in range(2):
        first.advance()
    first.stop()
    monkeypatch.setattr(progress_bars, "_REFRESH_SECONDS", 0)
    with suppress(KeyboardInterrupt), shown_progress(28, 11, epochs=9) as resumed:
        resumed.last_score = "mIoU 43.21"
        resumed.start_training(4, 0)
        assert resumed.is_due
        resumed.advance(losses)
        raise KeyboardInterrupt
    training, validation, after = bars.instances
    assert (training.what, training.total, training.n, training.unit) == (
        *("epoch 5/9", 28, 28, " images"),
    )
    assert (validation.what, validation.total, validation.n) == ("validation", 11, 11)
    assert after.postfix.endswith("loss 1.500, mIoU 43.21, edge 0.250")
    assert [bar.open for bar in bars.instances] == [False, False, False]


@pytest.mark.parametrize(
    ("columns", "shown"),
    [(80, ["loss", "mIoU"]), (140, ["loss", "mIoU", "segmentation", "edge"])],
)
def test_a_bar_shows_what_its_line_holds_whole(
    columns: int, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((columns, 40)))
    monkeypatch.setattr(progress_bars, "_REFRESH_SECONDS", 0)
    losses = {"loss": 1.5, "segmentation_loss": 1.25, "edge_loss": 0.25}
    with shown_progress(1920, 11, epochs=100) as progress:
        progress.last_score = "mIoU 43.21"
        progress.start_training(11, 10)
        progress.advance(losses)
        line = str(progress._bar)
    assert len(line) <= columns
    assert line.endswith("]")
    for name, value in (*losses.items(), ("mIoU", "43.21")):
        name = name.removesuffix("_loss")
        words = f", {name} {value if name == 'mIoU' else f'{value:.3f}'}"
        assert (words in line) == (name in shown), line
