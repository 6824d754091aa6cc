"""Maps go to object storage: the same bytes, resumed from strips there, refused in a line."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from samples.cluster_maps import SINGLE, SMALL

import hrrsi
from hrrsi.cluster import client as cluster_client
from hrrsi.cluster.connection import ObjectFolder
from hrrsi.cluster.run import StripFiles
from hrrsi.errors import OptionError, OutputError, OutputExistsError

OUTPUTS = hrrsi.OutputOptions(confidence="uint8", vector="gpkg")
RESUMED = dataclasses.replace(OUTPUTS, resume=True)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server of this machine."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    served = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket: fsspec's file system of it."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    if files.exists("maps"):
        files.rm("maps", recursive=True)
    files.mkdir("maps")
    return files


@pytest.fixture
def on_cluster(made_weights: Path, client: Any) -> Callable[..., Any]:
    def predict(
        scenes: Any, out: str, outputs: Any = OUTPUTS, rows: int = 48, options: Any = SMALL
    ) -> Any:
        cluster = hrrsi.ClusterOptions(client, band_rows=rows, patience=20)
        return hrrsi.predict(scenes, made_weights, out, options, SINGLE, outputs, cluster=cluster)

    return predict


def objects(bucket: Any) -> dict[str, bytes]:
    bucket.invalidate_cache()
    return {name.removeprefix("maps/"): bucket.cat_file(name) for name in bucket.find("maps")}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [48, 10_000])
def test_objects_hold_the_bytes_of_one_process(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    bucket: Any,
    on_cluster: Callable[..., Any],
    rows: int,
) -> None:
    hrrsi.predict(scene, made_weights, tmp_path, SMALL, SINGLE, OUTPUTS)
    (mapped,) = on_cluster(scene, "s3://maps/of/a/day", rows=rows)
    expected = {f"of/a/day/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    assert objects(bucket) == expected
    assert str(mapped.path) == "s3://maps/of/a/day/scene_classes.tif"
    with pytest.raises(OutputExistsError, match=r"s3://maps/of/a/day/scene_classes\.tif: exists"):
        on_cluster(scene, "s3://maps/of/a/day")
    (again,) = on_cluster(scene, "s3://maps/of/a/day/", RESUMED)
    assert again.earlier
    assert objects(bucket) == expected


def test_a_stopped_run_goes_on_from_strips_in_the_bucket(
    tmp_path: Path,
    scene: Path,
    made_weights: Path,
    bucket: Any,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = StripFiles.write

    def failing(self: Any, strip: Any) -> None:
        if strip.first_row > 150:
            raise OutputError("cannot be written", where=self.map)
        write(self, strip)

    monkeypatch.setattr(StripFiles, "write", failing)
    with pytest.raises(OutputError, match="is kept for `resume`"):
        on_cluster(scene, "s3://maps/it.tif")
    assert {name.split("/")[0] for name in objects(bucket)} == {".it.tif.unfinished"}
    strips: list[Any] = []
    monkeypatch.setattr(
        StripFiles, "write", lambda self, strip: (strips.append(strip), write(self, strip))
    )
    on_cluster(scene, "s3://maps/it.tif", RESUMED, rows=100)
    hrrsi.predict(scene, made_weights, tmp_path / "it.tif", SMALL, SINGLE, OUTPUTS)
    assert objects(bucket) == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert min(strip.first_row for strip in strips) > 100


def test_what_is_not_there_or_not_ours_is_said_in_a_line(
    scene: Path, bucket: Any, on_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        OutputError, match=r"s3://missing/maps: cannot be used \(there is no bucket missing\)"
    ):
        on_cluster(scene, "s3://missing/maps")
    with pytest.raises(OutputError, match="give its kind alone"):
        on_cluster(scene, "s3://maps", hrrsi.OutputOptions(vector="areas.gpkg"))
    mosaic = dataclasses.replace(SMALL, mosaic=True)
    with pytest.raises(OutputError, match=r"s3://maps: the mosaic of tiles .* with gdalbuildvrt"):
        on_cluster(scene, "s3://maps", options=mosaic)
    with pytest.raises(OptionError, match="`cluster`"):
        hrrsi.predict(scene, out="s3://maps")
    assert not objects(bucket)


def test_missing_credentials_are_said_in_seconds(
    scene: Path, bucket: Any, on_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    start = time.monotonic()
    with pytest.raises(
        OutputError, match=r"s3://maps: cannot be used \(Unable to locate credentials\)"
    ):
        on_cluster(scene, "s3://maps")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_map_that_another_run_makes_is_refused_until_that_falls_silent(
    scene: Path,
    bucket: Any,
    on_cluster: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    silent: bool,
) -> None:
    def claim(run: str, name: str) -> None:
        bucket.pipe_file(f"maps/.hrrsi-{run}/run", json.dumps(["elsewhere", [name]]).encode())

    claim("one", "other_classes.tif")
    on_cluster(scene, "s3://maps")
    claim("two", "scene_classes.tif")
    replaced = dataclasses.replace(OUTPUTS, overwrite=True)
    if silent:
        monkeypatch.setattr(cluster_client, "_SILENT_SECONDS", -1.0)
        on_cluster(scene, "s3://maps", replaced)
        assert not [name for name in objects(bucket) if name.startswith(".")]
        return
    expected = r"s3://maps/scene_classes\.tif: is being mapped by another run, of elsewhere"
    with pytest.raises(OutputError, match=expected):
        on_cluster(scene, "s3://maps", replaced)
    hidden = [name for name in objects(bucket) if name.startswith(".")]
    assert hidden == [".hrrsi-one/run", ".hrrsi-two/run"]


@pytest.mark.slow
def test_a_run_says_that_it_goes_on(
    scene: Path, bucket: Any, on_cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_client, "_SAY_SECONDS", 0.01)
    names: list[str] = []
    write = ObjectFolder.write

    def noted(self: Any, name: str, content: bytes) -> None:
        names.append(name)
        write(self, name, content)

    monkeypatch.setattr(ObjectFolder, "write", noted)
    on_cluster(scene, "s3://maps")
    assert names.count("run") > 2
    assert not [name for name in objects(bucket) if name.startswith(".")]
