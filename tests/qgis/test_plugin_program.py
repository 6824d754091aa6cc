"""The plugin's way to the program hrrsi: found, checked, run, cancelled, its errors passed on."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hrrsi_plugin.program import (
    FITTING,
    Listener,
    ProgramError,
    Progress,
    StoppedError,
    child_environment,
    fitting_program,
    in_qgis,
    run,
)
from samples.predicted_scenes import SMALL, save_scene
from samples.repository import REPOSITORY

import hrrsi

HRRSI = [sys.executable, "-m", "hrrsi"]


def program(folder: Path, says: str) -> Path:
    """A program of that name that prints a line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hrrsi"
    path.write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def script(folder: Path, text: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return [sys.executable, str(path)]


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_plugin_is_for_the_version_beside_it() -> None:
    assert hrrsi.__version__.split(".")[:2] == [str(number) for number in FITTING]


def test_programs_are_found_on_the_path_and_in_the_usual_places(tmp_path: Path) -> None:
    home, older = tmp_path / "home", tmp_path / "older"
    environment = {"HOME": str(home), "PATH": str(older)}
    with pytest.raises(ProgramError, match=r"hrrsi was not found, .*; install it, or choose"):
        fitting_program("", environment)
    in_clone = program(home / "src" / "hrrsi" / ".venv" / "bin", "hrrsi 0.1.0")
    assert fitting_program("", environment) == str(in_clone)
    local = program(home / ".local" / "bin", "hrrsi 0.1.9")
    assert fitting_program("", environment) == str(local)
    program(older, "hrrsi 0.0.3")  # first on the path, but of another version
    assert fitting_program("", environment) == str(local)


@pytest.mark.parametrize("part", [".", "bin", "bin/hrrsi"])
def test_the_chosen_program_or_environment_is_taken(tmp_path: Path, part: str) -> None:
    path = program(tmp_path / "bin", "hrrsi 0.1.0")
    assert Path(fitting_program(str(tmp_path / part), {})) == path


@pytest.mark.parametrize(
    ("says", "line"),
    [
        ("hrrsi 0.2.0", "{}: is hrrsi 0.2.0, and this plugin is for 0.1; update the older"),
        ("hello", "{}: does not say that it is hrrsi (it says: hello); install it, or choose it"),
        ("", "{}: does not say that it is hrrsi; install it"),
    ],
)
def test_a_program_that_does_not_fit_is_refused_in_a_line(
    tmp_path: Path, says: str, line: str
) -> None:
    path = program(tmp_path, says)
    with pytest.raises(ProgramError, match=re.escape(line.format(path))):
        fitting_program(str(path), {})


def test_a_program_that_was_put_right_is_taken_at_once(tmp_path: Path) -> None:
    path = program(tmp_path, "ModuleNotFoundError: No module named numpy")
    written = path.stat()
    with pytest.raises(ProgramError, match=r"it says: ModuleNotFoundError"):
        fitting_program(str(path), {})
    program(tmp_path, "hrrsi 0.1.0")
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))  # what it imports was installed
    assert fitting_program(str(path), {}) == str(path)


def test_homes_with_brackets_are_no_patterns(tmp_path: Path) -> None:
    home = tmp_path / "user [1]"
    local = program(home / ".local" / "bin", "hrrsi 0.1.0")
    assert fitting_program("", {"HOME": str(home), "PATH": ""}) == str(local)


def test_a_chosen_path_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="missing: is no program that can be run; install it"):
        fitting_program(str(tmp_path / "missing"), {})


def test_what_qgis_sets_for_its_own_python_is_kept_from_hrrsi() -> None:
    environment = child_environment({"PYTHONHOME": "/usr", "PROJ_LIB": "/x", "PATH": "/bin"})
    assert "PYTHONHOME" not in environment
    assert "PROJ_LIB" not in environment
    assert (environment["PATH"], environment["HRRSI_PROGRESS"]) == ("/bin", "lines")


@pytest.mark.long
def test_colours_of_terminals_are_kept_from_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ProgramError, match=r"^Invalid value for '--window': .* integer$"):
        run([*HRRSI, "predict", "x.tif", "--window", "abc"], Listener())


@pytest.mark.long
def test_hrrsis_own_line_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"^.*/nöthing here.tif: no such file"):
        run([*HRRSI, "predict", str(tmp_path / "nöthing here.tif")], Listener())
    with pytest.raises(ProgramError, match=r"^Invalid value for '--window': .* integer"):
        run([*HRRSI, "predict", "x.tif", "--window", "abc"], Listener())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL; likely for its mem"),
        ("raise ValueError('what a bug')", "exit code 1: ValueError: what a bug"),
        ("import sys; sys.exit(7)", "^hrrsi ended with exit code 7$"),
    ],
)
def test_other_ends_are_errors_too(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ProgramError, match=line):
        run(script(tmp_path, text), Listener())


@pytest.mark.slow
@pytest.mark.long
def test_progress_of_a_map_is_passed_on_and_its_words_too(tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "a scene ß.tif", crs="EPSG:32640")
    heard: list[tuple[float, str]] = []
    lines: list[str] = []
    listener = Listener(
        on_line=lines.append, on_progress=lambda percent, text: heard.append((percent, text))
    )
    out = tmp_path / "map.tif"
    words = ["predict", str(scene), "--out", str(out), "--vector", "gpkg", *SMALL]
    printed = run([*HRRSI, *words], listener)
    percents = [percent for percent, _ in heard]
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert percents[-1] == 97  # polygons are nearly the end
    assert {text.split(":")[0] for _, text in heard} - {""} == {"a scene ß.tif", "polygons"}
    assert printed[0].startswith(f"{scene} → {out}")
    assert any(line.startswith("weights: default (packaged)") for line in lines)
    assert not [line for line in lines if line.startswith("progress")]


def test_cancelling_asks_as_ctrl_c_does_and_waits(tmp_path: Path) -> None:
    text = """
import signal, sys, time
def stop(number, frame):
    time.sleep(0.3)
    (open(sys.argv[0] + ".kept", "w")).close()
    print("error: interrupted; 40% of the map is kept for --resume: "
          "run the same command with it to go on", file=sys.stderr)
    sys.exit(1)
signal.signal(signal.SIGINT, stop)
print("progress: 40.0% scene.tif: 1.0/2.5 Mpx, 00:01 left", file=sys.stderr, flush=True)
time.sleep(30)
"""
    heard: list[float] = []
    listener = Listener(
        on_progress=lambda percent, text: heard.append(percent), is_cancelled=lambda: bool(heard)
    )
    with pytest.raises(StoppedError) as stopped:  # who is not asked ends well
        run(script(tmp_path, text), listener)
    assert (tmp_path / "script.py.kept").exists()
    assert (
        in_qgis(str(stopped.value)) == "interrupted; 40% of the map is kept: run it again to go on"
    )


def test_a_listener_that_fails_leaves_no_command_behind(tmp_path: Path) -> None:
    text = "import os, time; print(os.getpid(), flush=True); time.sleep(30)"
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("a fault of QGIS")

    with pytest.raises(RuntimeError, match="a fault of QGIS"):
        run(script(tmp_path, text), Listener(on_line=fail))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_progress_of_training_goes_by_epochs() -> None:
    progress = Progress()
    percents = []
    for line in (
        "progress: 100.0% counting classes: 9/9 patches, 00:00 left",
        "progress: 50.0% epoch 1/2: 8/16 images, 00:10 left, loss 1.2",
        "progress: 100.0% validation: 4/4 images, 00:00 left",
        "progress: 0.0% epoch 2/2: 0/16 images, ? left",
        "progress: 100.0% validation: 4/4 images, 00:00 left",
    ):
        assert progress.take(line)
        percents.append(round(progress.percent, 2))
    assert percents == [0, 21.25, 50, 50, 100]
    assert progress.text == "epoch 2/2, validation: 4/4 images, 00:00 left"
    assert not progress.take("ued epoch 1/1: loss 2.044")


def test_a_log_gets_few_lines_of_progress() -> None:
    progress = Progress()
    news = []
    for percent in range(101):
        progress.take(f"progress: {percent}.0% scene.tif: {percent}/100 Mpx, 00:01 left")
        news.append(progress.news)
    progress.take("progress: 0.0% polygons: 0/9 rows, ? left")
    news.append(progress.news)
    assert news[0] == "scene.tif: 0/100 Mpx, 00:01 left"
    assert news[-1] == "polygons: 0/9 rows, ? left"
    assert 15 < len([text for text in news if text]) < 22


def test_flags_that_qgis_gives_are_named_as_what_to_do_there() -> None:
    begun = "m.tif: was begun otherwise: overlap 64, not 96; give what it was begun with, or start"
    assert in_qgis(begun) == (
        "m.tif: was begun otherwise: overlap 64, not 96; give what it was begun with, or tick "
        "'Start over' to begin anew"
    )
    assert "Start over" in in_qgis("runs/ued: was started with epochs 1, not 2; continue it as")
    assert in_qgis("the disk is full") == "the disk is full"


ROOMS = ("maps", "prediction", "tiling", "runs", "files.py")
ADVICE = {
    re.sub(r"`(\w+)`", r"--\1", words)
    for room in ROOMS
    for module in [REPOSITORY / "hrrsi" / room, *(REPOSITORY / "hrrsi" / room).rglob("*.py")]
    if module.is_file()
    for words in re.findall(r'(?:fix=|_GO_ON = )"(.*)"', module.read_text(encoding="utf-8"))
    if re.search(r"`(out|resume|overwrite)`", words)
}


def test_advice_of_outputs_names_no_flag_in_qgis() -> None:
    """What the library says to do, as the command line says it: QGIS gives these flags itself."""
    assert len(ADVICE) > 8
    told = {words: in_qgis(f"m.tif: is in the way; {words}") for words in ADVICE}
    assert {words: line for words, line in told.items() if "--" in line} == {}
    assert told["give --overwrite instead of --resume, or another --out"].endswith(
        "; tick 'Start over', or another output"
    )
