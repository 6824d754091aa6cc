"""The command `hrrsi view`: what it prints, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from samples.viewed_maps import made_map
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.viewer import server

ADDRESS = re.compile(r"(http://127\.0\.0\.1:(\d+)/)  \(Ctrl-C ends it\)\n")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the command end once its page was asked for, and return what it answered."""
    answers: list[str] = []

    def ask(viewer: server.Viewer) -> None:
        with urlopen(viewer.address, timeout=10) as answer:
            answers.append(answer.read().decode())

    monkeypatch.setattr(server.Viewer, "wait", ask)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    return answers


def run(*arguments: object):
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


def test_it_prints_the_address(tmp_path: Path, ended: list[str]) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    result = run(class_map.path, "--no-browser")
    assert result.exit_code == 0
    assert ADDRESS.fullmatch(result.stdout)
    assert result.stderr == ""
    assert "<title>hrrsi view</title>" in ended[0]


def test_without_a_screen_it_says_how_to_see_the_page(tmp_path: Path, ended: list[str]) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    result = run(class_map.path)
    port = ADDRESS.fullmatch(result.stdout)[2]
    assert result.exit_code == 0
    assert "note: no browser was opened" in result.stderr
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in result.stderr


def test_a_user_without_a_name_sees_the_page(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as of `docker run --user`
    result = run(made_map(tmp_path, height=40, width=50).path)
    assert result.exit_code == 0, result.exception
    assert f" {socket.gethostname()}, then open the address there" in result.stderr


def test_over_ssh_it_prints_the_tunnel(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 50000 10.0.0.1 22")
    monkeypatch.setenv("DISPLAY", ":10")
    class_map = made_map(tmp_path, height=40, width=50)
    result = run(class_map.path, "--no-browser")
    port = ADDRESS.fullmatch(result.stdout)[2]
    (line,) = result.stderr.splitlines()
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in line
    assert not server.has_screen()


def test_it_opens_a_browser_where_there_is_a_screen(
    tmp_path: Path, ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(server.webbrowser, "open", lambda url: bool(opened.append(url)) or True)
    class_map = made_map(tmp_path, height=40, width=50)
    result = run(class_map.path)
    assert opened == [ADDRESS.fullmatch(result.stdout)[1]]
    assert result.stderr == ""


def test_what_went_wrong_is_one_line(tmp_path: Path, ended: list[str]) -> None:
    class_map = made_map(tmp_path)
    for arguments, line in (
        ([class_map.scene], r"error: .*scene\.tif: is no map of classes: .* imagery as --scene\n"),
        (
            [class_map.path, "--port", "1"],
            r"error: --port: 1 is not to be had \(Permission denied\); .*\n",
        ),
        ([class_map.path, "--scene", tmp_path / "no.tif"], r"error: .*no\.tif: .*\n"),
        ([class_map.path, "--labels", tmp_path / "no.gpkg"], r"error: .*no\.gpkg: .*\n"),
    ):
        if "--port" in arguments and os.geteuid() == 0:
            continue  # who may have any port
        result = run(*arguments)
        assert result.exit_code == 1
        assert re.fullmatch(line, result.stderr), result.stderr
        assert result.stdout == ""
    assert run().exit_code == 2
    assert run(class_map.path, "--host", "0.0.0.0").exit_code == 2
    assert ended == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well(tmp_path: Path, number: signal.Signals) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    process = subprocess.Popen(
        [sys.executable, "-m", "hrrsi", "view", class_map.path, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    with urlopen(ADDRESS.fullmatch(line)[1], timeout=10) as answer:
        assert answer.status == 200
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.long
def test_predict_says_which_scene_a_map_is_of(
    examples: Path, made_weights: Path, tmp_path: Path
) -> None:
    scene = examples / "dubai" / "tile1" / "images" / "image_part_008.jpg"
    (mapped,) = hrrsi.predict(
        scene, weights=made_weights, out=tmp_path, options=hrrsi.MapOptions(window=256, overlap=0)
    )
    assert hrrsi.info(mapped.path).data["scene"] == str(scene.resolve())
    text = CliRunner().invoke(app, ["info", str(mapped.path)]).stdout
    assert f"hrrsi view {mapped.path}" in " ".join(text.split())
    with hrrsi.view(mapped.path) as viewer:
        assert viewer.notes == ()
        with urlopen(viewer.address + "view.json", timeout=10) as answer:
            assert b'"kind": "scene"' in answer.read()
