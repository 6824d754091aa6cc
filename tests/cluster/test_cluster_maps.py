"""Workers of a cluster write the bytes that one process writes."""

import json
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from samples.cluster_maps import SCORES, SINGLE, SMALL, files_of, hidden
from samples.made_weights import save_made_weights, scene_pixels
from samples.predicted_scenes import save_scene
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.cluster import client as cluster_client, worker
from hrrsi.cluster.connection import DiskFolder
from hrrsi.cluster.run import StripFiles, own_versions
from hrrsi.errors import ClusterError, OptionError, OutputError, OutputExistsError
from hrrsi.files import lock_held
from hrrsi.maps.partial_map import PartialMap
from hrrsi.prediction.predict import ScenesFailedError
from hrrsi.prediction.scene_mapper import SceneMapper
from hrrsi.prediction.scene_survey import SceneSurvey

RESUMED = replace(SCORES, resume=True)
OTHERWISE = replace(SMALL, overlap=8)


@pytest.mark.parametrize(
    "rows",
    [pytest.param(1, marks=pytest.mark.slow), 100, pytest.param(10_000, marks=pytest.mark.slow)],
)
def test_bands_of_any_height_give_the_bytes_of_one_process(
    tmp_path: Path, scene: Path, alone: Path, on_cluster: Callable[..., Any], rows: int
) -> None:
    (mapped,) = on_cluster(scene, tmp_path, rows=rows)
    assert files_of(tmp_path) == files_of(alone)
    assert not hidden(tmp_path)
    assert mapped.path == tmp_path / "scene_classes.tif"
    assert mapped.scene == str(scene)


def test_a_resampled_scene_with_an_area_is_cut_in_the_same_bytes(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed = tmp_path / "placed.tif"
    with rasterio.open(scene) as source:
        place = {"crs": "EPSG:25832", "transform": from_origin(4e5, 5e6, 0.3, 0.3)}
        save_scene(placed, source.read(), **place)
    area = tmp_path / "area.geojson"
    ring = [[400005, 4999920], [400020, 4999995], [400028, 4999920], [400005, 4999920]]
    crs = {"type": "name", "properties": {"name": "EPSG:25832"}}
    shape = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    area.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    options = hrrsi.MapOptions(window=64, overlap=16, resample=0.4, aoi=area, min_area=5)
    outputs = hrrsi.OutputOptions(vector="gpkg", zones=area)
    hrrsi.predict(placed, made_weights, tmp_path / "alone", options, SINGLE, outputs)
    on_cluster(placed, tmp_path / "bands", outputs, options=options)
    assert files_of(tmp_path / "bands") == files_of(tmp_path / "alone")
    monkeypatch.setattr(worker, "polygon_state", lambda *_: [(), ("area.geojson", 1, 2)])
    with pytest.raises(ClusterError, match=r"area.geojson: is another file on worker .* than here"):
        on_cluster(placed, tmp_path / "others", outputs, options=options)


def test_a_failed_run_goes_on_from_its_strips_with_another_cut(
    tmp_path: Path,
    scene: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, written = StripFiles.write, []

    def failing(self: Any, strip: Any) -> None:
        if strip.first_row > 150:
            raise OutputError("cannot be written (No space left on device)", where=self.map)
        written.append(strip.first_row)
        write(self, strip)

    monkeypatch.setattr(StripFiles, "write", failing)
    with pytest.raises(OutputError, match=r"No space left.*% of the map is kept for `resume`"):
        on_cluster(scene, tmp_path)
    assert hidden(tmp_path) == [".scene_classes.tif.unfinished"]
    monkeypatch.setattr(StripFiles, "write", write)
    mapped_rows: list[tuple[int, int]] = []
    map_band = SceneMapper.strips

    def counted(self: Any, source: Any, scale: float, rows: Any, on_pixels: Any = None) -> Any:
        mapped_rows.append(rows)
        return map_band(self, source, scale, rows, on_pixels)

    monkeypatch.setattr(SceneMapper, "strips", counted)
    with pytest.raises(OutputError, match="was begun otherwise: options"):
        on_cluster(scene, tmp_path, RESUMED, options=OTHERWISE)
    on_cluster(scene, tmp_path, RESUMED, rows=100)
    assert files_of(tmp_path) == files_of(alone)
    assert not hidden(tmp_path)
    assert written
    assert mapped_rows
    assert not set(written) & {row for first, stop in mapped_rows for row in range(first, stop)}


def test_a_damaged_strip_is_made_again(
    tmp_path: Path,
    scene: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, spoilt = StripFiles.write, []

    def spoiling(self: Any, strip: Any) -> None:
        write(self, strip)
        if strip.first_row > 100 and not spoilt:
            spoilt.append(strip.first_row)
            (file,) = tmp_path.glob(f".*/strips/rows-{strip.first_row:08d}-*.npz")
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 255
            file.write_bytes(content)

    monkeypatch.setattr(StripFiles, "write", spoiling)
    on_cluster(scene, tmp_path)
    assert spoilt
    assert files_of(tmp_path) == files_of(alone)


def test_a_read_that_fails_twice_is_tried_again_and_one_that_always_does_fails_its_scene(
    tmp_path: Path,
    scene: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(scene, tmp_path / "bad.tif")
    tries = {"scene.tif": 0, "bad.tif": 0}
    strips = SceneMapper.strips

    def flaky(self: Any, source: Any, scale: float, rows: Any, on_pixels: Any = None) -> Any:
        name = Path(source.path).name
        tries[name] += 1
        if name == "bad.tif" or tries[name] < 3:
            raise hrrsi.InputError("can't be read (timed out)", where=source.path)
        return strips(self, source, scale, rows, on_pixels)

    monkeypatch.setattr(SceneMapper, "strips", flaky)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "maps"
    with pytest.raises(ScenesFailedError, match=r"1 of 2 scenes failed: bad\.tif") as failed:
        on_cluster(["bad.tif", scene], out, rows=10_000)
    assert str(failed.value.failures["bad.tif"]) == "bad.tif: can't be read (timed out)"
    assert tries["bad.tif"] == 3
    assert files_of(out) == files_of(alone)


@pytest.mark.slow
def test_what_there_is_to_say_of_a_scene_is_said_once(
    tmp_path: Path, on_cluster: Callable[..., Any]
) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :150, :100].astype(np.uint16) * 16
    scene = save_scene(tmp_path / "deep.tif", values)
    with pytest.warns(hrrsi.SceneWarning, match="holds uint16") as record:
        on_cluster(scene, tmp_path / "maps")
    assert len([w for w in record if "holds uint16" in str(w.message)]) == 1


@pytest.mark.slow
def test_an_observer_hears_of_workers_what_it_hears_of_one_process(
    tmp_path: Path, scene: Path, made_weights: Path, on_cluster: Callable[..., Any]
) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no raster")
    heard: list[tuple[str, str]] = []
    observer = hrrsi.MapObserver(
        ready=lambda meta: heard.append(("ready", meta.model)),
        mapped=lambda mapped: heard.append(("mapped", mapped.scene)),
        failed=lambda name, error: heard.append((name, str(error))),
    )
    with pytest.raises(ScenesFailedError):
        hrrsi.predict([scene, bad], made_weights, tmp_path, SMALL, SINGLE, observer=observer)
    alone, heard = heard, []
    with pytest.raises(ScenesFailedError):
        on_cluster([scene, bad], tmp_path / "dealt", observer=observer)
    assert {what for what, _ in alone} == {"ready", "mapped", str(bad)}
    assert sorted(heard) == sorted(alone)
    assert heard.index(alone[0]) < heard.index(("mapped", str(scene)))


@pytest.mark.slow
@pytest.mark.long
def test_workers_look_at_many_scenes_and_the_same_is_said_and_mapped(
    tmp_path: Path,
    made_weights: Path,
    on_cluster: Callable[..., Any],
    recwarn: pytest.WarningsRecorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)[:, :70, :70]
    collared, folder = values.copy(), tmp_path / "scenes"
    collared[:, :20] = 0
    folder.mkdir()
    for number in range(3):
        save_scene(folder / f"plain{number}.tif", values)
        save_scene(folder / f"collared{number}.tif", collared)
        save_scene(folder / f"deep{number}.tif", values.astype(np.uint16) * (number + 3))
    (folder / "bad.tif").write_bytes(b"no raster")
    looked: list[str] = []
    looked_at = SceneSurvey.looked_at
    monkeypatch.setattr(
        SceneSurvey,
        "looked_at",
        lambda *arguments: looked.append(arguments[1]) or looked_at(*arguments),
    )

    def messages_of(mapped: Callable[[], Any]) -> list[str]:
        recwarn.clear()
        with pytest.raises(ScenesFailedError, match="1 of 10 scenes failed"):
            mapped()
        return [str(warning.message) for warning in recwarn]

    monkeypatch.chdir(tmp_path)
    alone = messages_of(lambda: hrrsi.predict("scenes", made_weights, "alone", SMALL, SINGLE))
    assert not looked
    dealt = messages_of(lambda: on_cluster("scenes", "dealt", hrrsi.OutputOptions()))
    assert len(set(looked)) == 10
    assert dealt == alone
    assert any("no data" in line for line in alone)
    assert any("in all scenes of this type" in line for line in alone)
    assert files_of(tmp_path / "dealt") == files_of(tmp_path / "alone")


def test_nobody_maps_what_a_cluster_maps(
    tmp_path: Path, scene: Path, made_weights: Path, on_cluster: Callable[..., Any]
) -> None:
    folder = tmp_path / ".scene_classes.tif.unfinished"
    folder.mkdir()
    with lock_held(folder / "cluster.lock", "4 on elsewhere", OutputError):
        with pytest.raises(OutputError, match="is being mapped by another process"):
            on_cluster(scene, tmp_path)
        with pytest.raises(OutputError, match="is being mapped by another process"):
            hrrsi.predict(scene, made_weights, tmp_path, SMALL, SINGLE, SCORES)


def test_an_existing_map_is_not_replaced_unasked(
    tmp_path: Path, scene: Path, alone: Path, on_cluster: Callable[..., Any]
) -> None:
    shutil.copytree(alone, tmp_path / "maps")
    with pytest.raises(OutputExistsError):
        on_cluster(scene, tmp_path / "maps")
    (mapped,) = on_cluster(scene, tmp_path / "maps", RESUMED)
    assert mapped.earlier
    assert files_of(tmp_path / "maps") == files_of(alone)


def test_versions_that_differ_are_refused_by_name(
    tmp_path: Path, scene: Path, on_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = dict(own_versions())
    monkeypatch.setattr(
        cluster_client, "own_versions", lambda: tuple({**versions, "openvino": "2020.1"}.items())
    )
    expected = rf"worker .* runs openvino {versions['openvino']}, the client 2020\.1"
    with pytest.raises(ClusterError, match=expected):
        on_cluster(scene, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_an_output_folder_that_workers_do_not_share_is_told_at_once(
    tmp_path: Path, scene: Path, on_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "disk of the worker"
    monkeypatch.setattr(worker, "folder_of", lambda _place: DiskFolder(elsewhere))
    with pytest.raises(ClusterError, match="does not reach the folder of the outputs; write to a"):
        on_cluster(scene, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("localhost", "'localhost' is no cluster; give the address of a Dask scheduler"),
        ("local:0", "'local:0' is no cluster"),
        ("ftp://host:1", "is no cluster"),
        ("missing.json", "missing.json: no such scheduler file"),
    ],
)
def test_what_is_no_cluster_is_said_in_a_line(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    cluster: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["predict", str(scene), "--weights", str(made_weights), "--cluster", cluster]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert message in line


def test_an_address_that_nobody_answers_fails_in_seconds(
    scene: Path, tmp_path: Path, made_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrrsi.cluster.connection._ANSWER_SECONDS", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    start = time.monotonic()
    with pytest.raises(ClusterError, match=f"{address}: no scheduler answers"):
        hrrsi.predict(scene, made_weights, tmp_path, cluster=address)
    assert time.monotonic() - start < 8


def test_windows_that_cannot_be_mirrored_are_refused_before_workers_have_them(
    tmp_path: Path, scene: Path, on_cluster: Callable[..., Any]
) -> None:
    weights = save_made_weights(tmp_path / "centres.safetensors", alignment="centres")
    mirrored = hrrsi.MapOptions(window=66, overlap=16, augmentation="flip")
    with pytest.raises(OptionError, match="is no multiple of 4, as test-time augmentation takes"):
        on_cluster(scene, tmp_path / "maps", options=mirrored, weights=weights)
    assert not (tmp_path / "maps").exists()


def test_options_of_clusters_check_themselves(client: Any) -> None:
    with pytest.raises(OptionError, match="`band_rows`"):
        hrrsi.ClusterOptions(client, band_rows=0)
    with pytest.raises(OptionError, match="`patience`"):
        hrrsi.ClusterOptions(client, patience=0)


@pytest.mark.parametrize("tiles", [False, True])
def test_tiles_of_a_mosaic_are_mapped_by_workers_as_by_one_process(
    tmp_path: Path, made_weights: Path, on_cluster: Callable[..., Any], tiles: bool
) -> None:
    values = np.moveaxis(scene_pixels(), -1, 0)
    for number in range(2):
        place = from_origin(4e5, 5e6 - number * 30, 0.3, 0.3)
        part = values[:, number * 100 : (number + 1) * 100, :90]
        save_scene(tmp_path / f"t{number}.tif", part, crs="EPSG:25832", transform=place)
    options = hrrsi.MapOptions(window=64, overlap=16, mosaic=True)
    outputs = hrrsi.OutputOptions(tiles=tiles)
    scenes = [tmp_path / "t0.tif", tmp_path / "t1.tif"]
    alone = hrrsi.predict(scenes, made_weights, tmp_path / "a", options, SINGLE, outputs)
    maps = on_cluster(scenes, tmp_path / "b", outputs, options=options)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert [m.scene for m in maps] == [m.scene for m in alone]
    assert [m.path.name for m in maps] == [m.path.name for m in alone]
    assert not hidden(tmp_path / "b")


def test_workers_go_on_with_what_a_single_process_has_begun(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append = PartialMap.append

    def failing(self: Any, first_row: int, *strip: Any, **scores: Any) -> None:
        if first_row > 100:
            raise OutputError("cannot be written", where=tmp_path)
        append(self, first_row, *strip, **scores)

    monkeypatch.setattr(PartialMap, "append", failing)
    with pytest.raises(OutputError, match="is kept for `resume`"):
        hrrsi.predict(scene, made_weights, tmp_path, SMALL, SINGLE, SCORES)
    monkeypatch.setattr(PartialMap, "append", append)
    with pytest.raises(OutputError, match="was begun otherwise: options"):
        on_cluster(scene, tmp_path, RESUMED, options=OTHERWISE)
    written: list[int] = []
    write = StripFiles.write
    monkeypatch.setattr(
        StripFiles,
        "write",
        lambda self, strip: (written.append(strip.first_row), write(self, strip)),
    )
    on_cluster(scene, tmp_path, RESUMED)
    assert min(written) > 100
    assert files_of(tmp_path) == files_of(alone)


@pytest.mark.slow
def test_a_run_that_starts_over_on_a_cluster_goes_on_from_its_own_rows_alone(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    alone: Path,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(self: Any, *strip: Any, **scores: Any) -> None:
        if (strip[0] if scores else strip[0].first_row) > 100:
            raise OutputError("cannot be written", where=tmp_path)
        original[type(self)](self, *strip, **scores)

    original = {PartialMap: PartialMap.append, StripFiles: StripFiles.write}
    monkeypatch.setattr(PartialMap, "append", failing)
    monkeypatch.setattr(StripFiles, "write", failing)
    with pytest.raises(OutputError, match="is kept for `resume`"):
        hrrsi.predict(scene, made_weights, tmp_path, OTHERWISE, SINGLE, SCORES)
    with pytest.raises(OutputError, match="is kept for `resume`"):
        on_cluster(scene, tmp_path)
    monkeypatch.undo()
    on_cluster(scene, tmp_path, RESUMED)
    assert files_of(tmp_path) == files_of(alone)
    assert not hidden(tmp_path)
