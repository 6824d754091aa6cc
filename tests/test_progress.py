"""Progress as lines, for programs that start hrrsi."""

import pytest

from hrrsi.progress import EpochProgress, progress


def lines(capsys: pytest.CaptureFixture[str], what: str = "scene.tif", **named: bool) -> list[str]:
    """What is printed of three megapixels."""
    with progress(what, 3, " Mpx", scale=True, **named) as bar:
        for _ in range(3):
            bar.update()
    return capsys.readouterr().err.splitlines()


def test_lines_are_for_who_asks_for_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lines(capsys) == []  # no terminal
    monkeypatch.setenv("HRRSI_PROGRESS", "lines")
    asked = lines(capsys)
    assert asked[0] == "progress: 0.0% scene.tif: 0.0/3.0 Mpx, ? left"
    assert asked[-1] == "progress: 100.0% scene.tif: 3.0/3.0 Mpx, 00:00 left"
    assert lines(capsys, enabled=False) == []  # --quiet


def test_sums_that_are_a_little_too_large_end_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HRRSI_PROGRESS", "lines")
    with progress("scene.tif", 0.3, " Mpx", scale=True) as bar:
        for part in (0.1, 0.1, 0.1 + 1e-9):
            bar.update(part)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "progress: 100.0% scene.tif: 0.3/0.3 Mpx, 00:00 left"


def test_lines_say_the_epoch_and_its_losses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HRRSI_PROGRESS", "lines")
    with EpochProgress(16, 4, batch=8, epochs=3, enabled=True) as bars:
        bars.start_training(1, 1)
        bars.advance({"segmentation_loss": 1.25})
        bars.start_validation()
        bars.advance()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("progress: 50.0% epoch 2/3: 8/16 images, ")
    assert "progress: 100.0% epoch 2/3: 16/16 images, 00:00 left, segmentation 1.250" in said
    assert said[-1] == "progress: 100.0% validation: 4/4 images, 00:00 left"


def test_a_name_is_kept_in_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HRRSI_PROGRESS", "lines")
    said = lines(capsys, "a\nb {x} 50%: c")
    assert said[-1] == "progress: 100.0% a b {x} 50%: c: 3.0/3.0 Mpx, 00:00 left"
