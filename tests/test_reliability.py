"""Nothing is lost, overtaken or told to anybody: what docs/reliability.md promises."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyogrio
import pytest
from rasterio.transform import from_origin
from samples.class_folders import make_class_folders
from samples.predicted_scenes import SMALL, save_scene
from samples.raw_layouts import own_folder, own_scheme
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi import hardware
from hrrsi.cli import app
from hrrsi.cli.messages import error_line
from hrrsi.errors import InputError, OutputError, OutputExistsError, printable
from hrrsi.files import locked, remove
from hrrsi.maps.partial_map import open_partial_map, partial_map_folder
from hrrsi.maps.zones import ZoneAreas
from hrrsi.prediction import scene_mapper
from hrrsi.runs.failures import run_error
from hrrsi.runs.folder import check_folder
from hrrsi.scenes.raster_opening import file_states, open_raster, refuse_changed
from hrrsi.tiling import tile as tile_module
from hrrsi.training.options import TrainOptions

# Runs commands one after the other, and writes what they ask the network and where they write.
OBSERVED_COMMANDS = """
import json, os, sys

out, *lines = map(json.loads, sys.argv[1:])
asking = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto")

def observe(event, arguments):
    if event in asking:
        if isinstance(arguments[1], str) and event == "socket.connect":
            return  # to another process of this machine, by a socket's path
        print(event, arguments[1:], file=events)
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if not isinstance(arguments[0], int):  # of a file that is open
            print("write", os.path.abspath(os.fsdecode(arguments[0])), file=events)
    elif event == "os.mkdir":
        print("write", os.path.abspath(os.fsdecode(arguments[0])), file=events)

events = open(out, "w", buffering=1)
sys.addaudithook(observe)
from hrrsi.__main__ import main
for line in lines:
    sys.argv = ["hrrsi", *line]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture
def predicted(made_weights: Path, tmp_path: Path) -> Callable[..., Result]:
    """Maps a small scene with further arguments."""
    place = {"crs": "EPSG:4326", "transform": from_origin(0, 0, 1e-5, 1e-5)}
    scene = save_scene(tmp_path / "scene.tif", **place)
    line = ["predict", str(scene), "--weights", str(made_weights), "-o", str(tmp_path), *SMALL]
    return lambda *more: CliRunner().invoke(app, [*line, *more])


def traced(file: Path) -> list[str]:
    """Return a command that writes which connections another one makes, where there is one."""
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto"]
    is_there = shutil.which("strace") and not subprocess.run([*trace, "true"]).returncode
    return [*trace, "-o", str(file)] if is_there else []


def assert_keeps_to_itself(commands: Sequence[Sequence[str]], out: Path, root: Path) -> None:
    """Run commands with a home of their own: all they write is below `out` or in the cache."""
    home, events, trace = root / "home", root / "events.txt", root / "trace.txt"
    home.mkdir()
    own = ("XDG_", "MPL", "TORCH")  # this process has loaded torch, which sets some
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    environment |= {"HOME": str(home), "HRRSI_CACHE": str(root / "cache")}
    line = [*traced(trace), sys.executable, "-c", OBSERVED_COMMANDS]
    line += map(json.dumps, [str(events), *commands])
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = events.read_text().splitlines()
    written = [Path(event.partition(" ")[2]) for event in seen if event.startswith("write ")]
    assert any(path.is_relative_to(out) for path in written), "what observes is there"
    assert [event for event in seen if not event.startswith("write ")] == []
    allowed = (out, root / "cache", Path(tempfile.gettempdir()) / "pymp-", Path("/dev"))
    strays = [path for path in written if not str(path).startswith(tuple(map(str, allowed)))]
    assert [path for path in strays if "__pycache__" not in path.parts] == []
    assert list(home.iterdir()) == []
    if trace.exists():
        assert [each for each in trace.read_text().splitlines() if "AF_INET" in each] == []


@pytest.mark.long
def test_a_prediction_asks_nobody_and_writes_nowhere_else(
    made_weights: Path, tmp_path: Path
) -> None:
    scene, out = str(save_scene(tmp_path / "scene.tif")), tmp_path / "out"
    line = ["predict", scene, "--weights", str(made_weights), "--out", f"{out}/", *SMALL]
    assert_keeps_to_itself([line, ["info", str(out / "scene_classes.tif")]], out, tmp_path)


@pytest.mark.slow
def test_no_command_asks_anybody_or_writes_elsewhere(tmp_path: Path) -> None:
    out, raw = tmp_path / "out", tmp_path / "raw"
    out.mkdir()
    raw.mkdir()
    own_folder(raw, ["a", "b"], (64, 64), georeferenced=True)
    (tmp_path / "split.yaml").write_text("{train: [a], val: [b], test: []}")
    scheme = ["--scheme", str(own_scheme(tmp_path))]
    tiling = [*scheme, "--split", str(tmp_path / "split.yaml"), "--size", "64"]
    training = ["--model", "ued", "--encoder-weights", "none", "--epochs", "1", "--batch", "1"]
    training += ["--workers", "0"]
    weights = ["--weights", str(out / "runs" / "ued" / "best.safetensors")]
    commands = [
        ["tile", str(raw), *tiling, "--out", str(out / "data")],
        ["train", str(out / "data"), *training, "--out", str(out / "runs")],
        ["eval", str(raw), *scheme, *weights, *SMALL, "--report", str(out / "report.html")],
        ["predict", str(raw / "images" / "a.tif"), *weights, *SMALL, "--out", f"{out}/"],
    ]
    commands[-1] += ["--vector", "gpkg", "--preview", "png"]
    images = make_class_folders(tmp_path / "classes", train=2, val=1, side=40)
    sorting = ["--encoder", "ghostnet_050", "--epochs", "1", "--batch", "4", "--workers", "2"]
    sorting += ["--loader", "torchvision", "--size", "32", "--val-size", "32"]
    commands += [
        ["pretrain", "--data", str(images), *sorting, "--out", str(out / "pretrained")],
        ["profile", *weights, "--size", "64", "--latency"],
        ["info", str(out / "runs" / "ued" / "best.safetensors")],
        ["export", weights[1], "--out", str(out / "a.onnx"), "--window", "64"],
    ]
    assert_keeps_to_itself(commands, out, tmp_path)
    assert (out / "report.html").exists()


def test_a_run_killed_in_its_first_moments_leaves_no_obstacle(tmp_path: Path) -> None:
    options = TrainOptions(data=(tmp_path,), out=tmp_path / "runs", model="ued")
    options.run_folder.mkdir(parents=True)
    (options.run_folder / ".config.partial-4194304.yaml").write_text("epochs")
    check_folder(options, resume=False, overwrite=False)
    check_folder(options, resume=True, overwrite=False)
    (options.run_folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a run folder"):
        check_folder(options, resume=False, overwrite=True)


@pytest.mark.parametrize("files", [["config.yaml"], ["config.yaml", "last.ckpt", "samples"]])
def test_a_run_that_is_replaced_takes_nothing_else_with_it(
    tmp_path: Path, files: list[str]
) -> None:
    options = TrainOptions(data=(tmp_path,), out=tmp_path / "runs", model="ued")
    options.run_folder.mkdir(parents=True)
    for name in files:
        (options.run_folder / name).touch()
    check_folder(options, resume=False, overwrite=True)
    (options.run_folder / "scores.json").write_text("mine")
    with pytest.raises(OutputError, match=r"ued: holds scores.json, which would go with what is"):
        check_folder(options, resume=False, overwrite=True)


def test_nothing_is_deleted_through_a_link(
    predicted: Callable[..., Result], tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "labels.raw").write_text("mine")
    link = partial_map_folder(tmp_path / "scene_classes.tif")
    link.symlink_to(precious)
    for more in ([], ["--resume"], ["--overwrite"]):
        result = predicted(*more)
        assert result.exit_code == 1
        assert "is a link, where hrrsi keeps what it writes and removes" in result.stderr
    remove(link)
    assert not link.is_symlink()
    assert (precious / "labels.raw").read_text() == "mine"


def test_only_files_of_hrrsi_leave_a_partial_maps_folder(
    predicted: Callable[..., Result], tmp_path: Path
) -> None:
    folder = partial_map_folder(tmp_path / "scene_classes.tif")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert predicted().exit_code == 0
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_scene_that_changes_while_it_is_mapped_has_no_map(
    predicted: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, strips = tmp_path / "scene.tif", scene_mapper.predict_strips

    def touched(*arguments: object, **named: object) -> object:
        for strip in strips(*arguments, **named):  # type: ignore[arg-type]
            os.utime(scene, ns=(1, 1))
            yield strip

    monkeypatch.setattr(scene_mapper, "predict_strips", touched)
    result = predicted()
    assert result.exit_code == 1
    assert "scene.tif: was changed while it was mapped" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_whatever_reads_a_raster_notices_a_change(tmp_path: Path) -> None:
    scene = save_scene(tmp_path / "scene.tif")
    with open_raster(scene):
        pass
    with pytest.raises(InputError, match="was changed while it was read"), open_raster(scene):
        os.utime(scene, ns=(1, 1))


def test_of_a_file_within_an_archive_the_archive_counts(tmp_path: Path) -> None:
    archive = tmp_path / "scenes.zip"
    archive.write_bytes(b"PK")
    before = file_states(
        [f"/vsizip/{{{archive}}}/a/b.tif", f"/vsizip/{archive}/c.tif", "/vsimem/x"]
    )
    assert list(before) == [str(archive)]
    refuse_changed(before)
    archive.write_bytes(b"PK2")
    with pytest.raises(InputError, match=r"scenes.zip: was changed while it was read"):
        refuse_changed(before)


@pytest.mark.parametrize("damage", ["class", "zeros", "journal", "list", "rows", "pipe"])
def test_a_damaged_partial_map_is_not_gone_on_with(tmp_path: Path, damage: str) -> None:
    named = {"height": 8, "width": 600, "num_classes": 3, "fingerprint": {"scene": "a"}}
    path = tmp_path / "map.tif"
    with open_partial_map(path, **named) as partial:
        partial.append(0, np.full((4, 600), 2, dtype=np.uint8))
        raw = partial.labels.levels[0].file
        journal = partial.folder / "journal.json"
    with open_partial_map(path, **named, resume=True) as partial:
        assert partial.rows_done == 4
    if damage in ("class", "zeros"):  # zeros: what a file system leaves after a loss of power
        with raw.open("r+b") as file:
            file.write(bytes([7 if damage == "class" else 0]) * 10)
    elif damage == "pipe":
        journal.unlink()
        os.mkfifo(journal)
    elif damage == "rows":
        journal.write_text(json.dumps({**json.loads(journal.read_text()), "rows_done": -1}))
    else:
        journal.write_text("{" if damage == "journal" else "[1]")
    with open_partial_map(path, **named, resume=True) as partial:
        assert partial.rows_done == 0
        assert partial.labels.class_pixels == [0, 0, 0]


@pytest.mark.parametrize("kind", ["vector", "zones", "zone polygons", "preview"])
def test_resume_keeps_no_file_that_is_not_of_the_map(
    predicted: Callable[..., Result], tmp_path: Path, kind: str
) -> None:
    assert predicted().exit_code == 0
    zones = tmp_path / "zones.geojson"
    square = [[[0, 0], [5e-4, 0], [5e-4, -5e-4], [0, -5e-4], [0, 0]]]
    feature = {"type": "Feature", "properties": {"name": "a"}}
    feature["geometry"] = {"type": "Polygon", "coordinates": square}
    zones.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    name, more = {
        "vector": ("scene_classes.gpkg", ["--vector", "gpkg"]),
        "zones": ("scene_zones.csv", ["--zones", str(zones)]),
        "zone polygons": ("scene_zones.gpkg", ["--zones", str(zones)]),
        "preview": ("scene_classes.png", ["--preview", "png"]),
    }[kind]
    (tmp_path / name).write_text("somebody else's")
    result = predicted("--resume", *more)
    assert result.exit_code == 1, result.output
    assert "exists already" in result.stderr
    assert (tmp_path / name).read_text() == "somebody else's"
    (tmp_path / name).unlink()
    assert predicted("--resume", *more).exit_code == 0
    made = (tmp_path / name).read_bytes()
    result = predicted("--resume", *more)
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes() == made


@pytest.fixture
def tiled(tmp_path: Path) -> Callable[[], object]:
    """Tiles two small scenes into ``d``."""
    own_folder(tmp_path / "raw", ["a", "b"])
    scheme = own_scheme(tmp_path)
    options = hrrsi.TileOptions(val_scenes=("b",), size=32, workers=1)
    return partial(hrrsi.tile, tmp_path / "raw", scheme, tmp_path / "d", options=options)


def test_a_second_tiling_into_the_same_folder_is_refused(
    tiled: Callable[[], object], tmp_path: Path
) -> None:
    with locked(tmp_path / "d"), pytest.raises(OutputError, match="is working on this"):
        tiled()
    tiled()
    with pytest.raises(OutputExistsError):
        tiled()


def test_a_dataset_that_is_replaced_takes_nothing_else_with_it(
    tiled: Callable[..., object], tmp_path: Path
) -> None:
    tiled()
    tiled(overwrite=True)
    (tmp_path / "d" / "notes.txt").write_text("mine")
    (tmp_path / "d" / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"d: holds notes.txt and 1 more, which would go"):
        tiled(overwrite=True)


def test_a_scene_that_changes_while_it_is_tiled_makes_no_dataset(
    tiled: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows = tile_module.write_rows

    def touched(job: object) -> object:
        content = write_rows(job)  # type: ignore[arg-type]
        os.utime(tmp_path / "raw" / "labels" / "a.tif", ns=(1, 1))
        return content

    monkeypatch.setattr(tile_module, "write_rows", touched)
    with pytest.raises(InputError, match="was changed while it was read"):
        tiled()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.yaml", "raw"]


def test_names_from_files_cannot_steer_the_terminal() -> None:
    assert error_line(InputError("is \x1b[31mred\x07", where="a\x9b.tif")) == (
        "a\\x9b.tif: is \\x1b[31mred\\x07"
    )
    assert printable("a → b\tm²\n") == "a → b\tm²\n"
    assert "\u202e" not in printable("\u202egnp.tif")


@pytest.mark.parametrize(
    ("name", "cell"),
    [("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"), ("@x", "'@x"), ("-3", "-3"), ("a=b", "a=b")],
)
def test_a_zones_name_is_no_formula(tmp_path: Path, name: str, cell: str) -> None:
    ones = np.ones((1, 1), dtype=np.int64)
    ZoneAreas([1], [name], ["roof"], ones, ones[0], None).write_csv(tmp_path / "zones.csv")
    with (tmp_path / "zones.csv").open(newline="", encoding="utf-8") as file:
        _, row = csv.reader(file)
    assert row[1:4] == [cell, "roof", "1"]


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({"cpu.max": "100000 100000", "memory.max": "536870912"}, 1, 1 << 29),
        ({"cpu.max": "max 100000", "memory.max": "max"}, 64, None),
        ({"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"}, 2, None),
        ({"cpu.cfs_quota_us": "-1", "memory.limit_in_bytes": "9223372036854771712"}, 64, None),
    ],
)
def test_threads_and_memory_follow_the_containers_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    cores: int,
    memory: int | None,
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(hardware, "_control_groups", lambda _: [tmp_path])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert hardware.available_cores() == cores
    assert hardware.memory_limit() == memory


def test_too_little_memory_ends_in_a_line_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: Callable[..., Result]
) -> None:
    (tmp_path / "memory.max").write_text("209715200\n")
    monkeypatch.setattr(hardware, "_control_groups", lambda _: [tmp_path])
    result = predicted()
    assert result.exit_code == 1
    assert "may use 210 MB of memory, and a network takes at least 300 MB; give" in result.stderr
    for line in (["train", str(tmp_path)], ["pretrain", "--data", str(tmp_path)]):
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 1
        assert "takes at least 1,000 MB" in result.stderr


@pytest.mark.long
def test_foreign_variables_change_no_map() -> None:
    script = (
        "import os, rasterio, hrrsi.scenes.raster_opening\n"
        "print(os.environ['GDAL_PAM_ENABLED'], os.environ['GDAL_DISABLE_READDIR_ON_OPEN'])\n"
        "print(rasterio.crs.CRS.from_epsg(32640).linear_units)\n"
    )
    foreign = {"PROJ_LIB": "/", "PROJ_DATA": "/", "GDAL_PAM_ENABLED": "NO"}
    foreign["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | foreign, capture_output=True, text=True
    )
    assert done.stdout == "YES TRUE\nmetre\n", done.stderr


def test_a_batch_that_shared_memory_does_not_hold_is_said() -> None:
    options = TrainOptions(data=(Path(),), workers=2)
    text = (
        "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to write to "
        "file </torch_12_3_0>: No space left on device (28)"
    )
    line = str(run_error(RuntimeError(text), options))
    assert line.startswith("/dev/shm: the processes that read patches are out of shared memory")


def test_names_that_no_terminal_or_vector_file_can_have(made_weights: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "scenes", tmp_path / "out"
    folder.mkdir()
    for name in ("a\tb.tif", "c\nd.tif", "e;f!g.tif"):
        save_scene(folder / name)
    line = ["predict", str(folder), "--weights", str(made_weights), *SMALL, "--vector", "gpkg"]
    result = CliRunner().invoke(app, [*line, "--out", f"{out}/"])
    assert result.exit_code == 0, result.output
    assert "\t" not in result.output
    assert all(f"{name}_classes.gpkg" in result.output for name in ("a_b", "c_d", "e_f_g"))
    for name in ("a_b", "c_d", "e_f_g"):
        assert pyogrio.read_info(out / f"{name}_classes.gpkg", layer="classes")["features"] > 0
    result = CliRunner().invoke(app, [*line, "--out", f"{tmp_path}/x;y/"])
    assert result.exit_code == 1
    assert "rename the file or its folder" in result.stderr
    assert not (tmp_path / "x;y").exists()
