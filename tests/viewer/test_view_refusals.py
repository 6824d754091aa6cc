"""What the viewer refuses: other hosts and paths, files that it can't show, and all once closed."""

import http.client
import re
import threading
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from affine import Affine
from samples.viewed_maps import ORIGIN, asked, blobs, counted, made_map, write_scene

import hrrsi


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:9000", 200),
        ("[::1]:1", 200),
        ("evil.example", 421),
        ("evil.example:{port}", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_only_this_machine_is_answered(tmp_path: Path, host: str, status: int) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with hrrsi.view(class_map.path) as viewer:
        assert viewer.address == f"http://127.0.0.1:{viewer.port}/"
        for path in ("/", "/view.json", "/tile/0/0/0/0/0.png"):
            connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
            connection.request("GET", path, headers={"Host": host.format(port=viewer.port)})
            answer = connection.getresponse()
            assert answer.status == status
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
            connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "scene.tif",
        "../pyproject.toml",
        "/etc/passwd",
        "assets/../server.py",
        "tile/0/9/0/0/0.png",
        "tile/9/0/0/0/0.png",
        "tile/0/0/0/7/0.png",
        "tile/0/0/-1/0/0.png",
        "tile/0/0/7/0/0.png",
        "tile/0/0/99/0/0.png",
        "point/0/40/0.json",
        "point/3/0/0.json",
        "counts/3.json",
        "LICENSE_LEAFLET",
    ],
)
def test_what_is_not_there_is_not_found(tmp_path: Path, path: str) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with hrrsi.view(class_map.path) as viewer:
        with pytest.raises(HTTPError) as error:
            asked(viewer, path)
        assert error.value.code == 404
        error.value.close()


def test_no_request_is_more_than_an_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with hrrsi.view(class_map.path) as viewer:
        for target, status in (
            ("http://[", 404),
            ("//[::1", 404),
            (f"/tile/0/0/0/0/0.png?hide={'9' * 5000},,-1,1", 200),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
            connection.putrequest("GET", target, skip_host=True)
            connection.putheader("Host", "localhost")
            connection.endheaders()
            assert connection.getresponse().status == status
            connection.close()
    assert capfd.readouterr().err == ""


def test_connections_that_are_open_end_with_the_viewer(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with hrrsi.view(class_map.path) as viewer:
        connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=10)
        connection.request("GET", "/")
        connection.getresponse().read()
    for path in ("/", "/view.json", "/counts/0.json", "/tile/0/0/0/0/0.png"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (503, b"hrrsi view begins or has ended")
    connection.close()


def test_a_viewer_that_is_closed_is_gone(tmp_path: Path) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    viewer = hrrsi.view(class_map.path)
    assert viewer.address in viewer._repr_html_()
    counted(viewer)
    closing = threading.Thread(target=viewer.close)  # as a notebook's other cells may
    closing.start()
    closing.join()
    viewer.close()
    viewer.wait()
    with hrrsi.view(class_map.path, options=hrrsi.ViewOptions(port=viewer.port)) as again:
        assert again.address == viewer.address
        taken = hrrsi.ViewOptions(port=again.port)
        with pytest.raises(hrrsi.OptionError, match=f"{again.port} is not to be had"):
            hrrsi.view(class_map.path, options=taken)


def photograph(folder: Path) -> dict:
    made_map(folder)
    return {"maps": folder / "scene.tif"}


def elsewhere(folder: Path) -> dict:
    class_map = made_map(folder)
    far = made_map(folder, "far", transform=ORIGIN @ Affine.translation(9000, 0))
    return {"maps": class_map.path, "scene": far.scene}


def another_size(folder: Path) -> dict:
    class_map = made_map(folder)
    pixels = np.zeros((3, 10, 10), dtype=np.uint8)
    return {
        "maps": class_map.path,
        "scene": write_scene(folder / "s.tif", pixels, crs=None, transform=None),
    }


def confidences(folder: Path) -> dict:
    made_map(folder, with_confidence=True)
    return {"maps": folder / "scene_confidence.tif"}


def other_classes(folder: Path) -> dict:
    class_map = made_map(folder)
    label = write_scene(folder / "truth.tif", blobs(300, 420, 2)[None])
    return {"maps": class_map.path, "labels": label}


def labels_elsewhere(folder: Path) -> dict:
    class_map = made_map(folder)
    far = ORIGIN @ Affine.translation(9000, 0)
    label = write_scene(folder / "truth.tif", blobs(300, 420, 2)[None], transform=far)
    return {"maps": class_map.path, "labels": label}


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (lambda folder: {"maps": folder / "no.tif"}, r"no\.tif: no such file or folder"),
        (lambda folder: {"maps": folder}, "holds no maps of hrrsi's"),
        (lambda folder: {"maps": []}, "`maps`: name a map"),
        (photograph, r"scene\.tif: is no map of classes: .*imagery.*; name a raster of classes"),
        (confidences, "is no map of classes, but hrrsi's confidence; name the class map"),
        (
            lambda folder: {"maps": made_map(folder).path, "scene": folder / "gone.tif"},
            r"gone\.tif: .*",
        ),
        (elsewhere, r"far\.tif: does not lie on its map .*; check the CRS"),
        (another_size, r"s\.tif: has 10 rows and 10 columns where its map"),
        (
            other_classes,
            r"truth\.tif: its classes \(class 0, .* are not those of .*; give the `scheme`",
        ),
        (labels_elsewhere, r"truth\.tif: does not lie on its image"),
    ],
)
def test_what_can_not_be_shown_is_said_in_a_line(tmp_path: Path, case, line: str) -> None:
    with pytest.raises(hrrsi.HrrsiError) as error:
        hrrsi.view(**case(tmp_path))
    assert re.search(line, str(error.value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"bands": (1, 2)}, {"port": 70000}, {"port": -1}, {"label_format": "words"}]
)
def test_options_check_themselves(options: dict) -> None:
    with pytest.raises(hrrsi.OptionError):
        hrrsi.ViewOptions(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attribute": "nope"}, "`attribute`: is of labels, and there are none"),
        ({"label_format": "polygons"}, "`label_format`: is of labels, and there are none"),
        ({"scheme": "typo.yaml"}, "typo.yaml"),
    ],
)
def test_options_that_nothing_would_use_are_refused(
    tmp_path: Path, options: dict, words: str
) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    with pytest.raises(hrrsi.HrrsiError, match=re.escape(words)):
        hrrsi.view(class_map.path, options=hrrsi.ViewOptions(**options))
