"""`hrrsi info` on weights, tiled datasets, rasters and class maps."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from PIL import Image
from rasterio.transform import from_origin
from safetensors.torch import save_file
from samples.made_weights import save_made_weights
from samples.published_networks import published_layout
from typer.testing import CliRunner

from hrrsi.class_styles import add_default_style, polygon_style
from hrrsi.cli import app
from hrrsi.files import locked
from hrrsi.maps.rasters import write_class_raster
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.tiling.dataset import DatasetDescription, SplitContent


def info(path: Path, *options: str) -> Any:
    return CliRunner().invoke(app, ["info", str(path), *options])


def lines(path: Path) -> dict[str, str]:
    """What `hrrsi info` prints, by label."""
    result = info(path)
    assert result.exit_code == 0, result.output
    first, *rest = result.stdout.splitlines()
    kind = first.removeprefix(f"{path}: ")
    assert len(rest) <= 24  # a few lines a person reads
    assert all(len(line) <= 98 for line in rest if str(path.parent) not in line)
    text_of = {"kind": kind}
    for line in rest:
        if line[2] != " ":
            label, text_of[label] = line[2:].split("  ")[0], line[2:].split("  ")[-1].strip()
        else:
            text_of[label] += f" {line.strip()}"
    return text_of


def facts(path: Path) -> dict[str, Any]:
    result = info(path, "--format", "json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.tif"
    profile = {"driver": "GTiff", "count": 4, "dtype": "uint16", "crs": "EPSG:28992", "nodata": 0}
    grid = from_origin(1000, 2000, 0.25, 0.25)
    with rasterio.open(path, "w", height=700, width=1000, transform=grid, **profile) as dataset:
        dataset.write(np.ones((4, 700, 1000), dtype=np.uint16))
    return path


def test_a_raster(scene: Path) -> None:
    texts = lines(scene)
    assert texts["kind"] == "raster"
    assert texts["size"] == "1000 x 700 px (0.7 Mpx), GTiff"
    assert texts["bands"].startswith("4 bands (")
    assert texts["bands"].endswith("uint16")
    assert texts["CRS"] == "EPSG:28992"
    assert texts["resolution"] == "25 cm a pixel"
    assert texts["area"] == "4.38 ha"
    assert texts["no data"] == "value 0"
    assert texts["windows"] == "6 of 512 px that overlap by 96 px"
    data = facts(scene)
    assert data["kind"] == "raster"
    assert (data["width"], data["height"], data["bands"]) == (1000, 700, 4)
    assert data["resolution"] == 0.25
    assert data["bounds"] == [1000, 1825, 1250, 2000]


def test_a_raster_without_georeference(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=30, width=40, count=1, dtype="float32"
    ) as dataset:
        dataset.write_mask(np.ones((30, 40), dtype=bool))
    texts = lines(path)
    assert texts["CRS"] == "none"
    assert texts["resolution"] == "unknown"
    assert texts["no data"] == "mask"
    assert texts["windows"] == "1 (the raster is no larger than a window)"
    assert "area" not in texts
    assert info(path).stderr == ""


def test_alpha_of_any_type_is_said(tmp_path: Path) -> None:
    path = tmp_path / "alpha.tif"
    profile = {"driver": "GTiff", "count": 2, "dtype": "float32", "alpha": "yes"}
    with rasterio.open(path, "w", height=30, width=40, **profile) as dataset:
        dataset.write(np.ones((2, 30, 40), dtype=np.float32))
    assert lines(path)["no data"] == "alpha band"


def test_a_class_map(scene: Path, tmp_path: Path) -> None:
    labels = np.zeros((700, 1000), dtype=np.uint8)
    labels[:350] = 1
    labels[:, :100] = 255
    with rasterio.open(scene) as source:
        write_class_raster(
            tmp_path / "map.tif",
            source,
            [labels],
            classes=["road", "roof"],
            colours=[(1, 2, 3), (4, 5, 6)],
            has_nodata=True,
            provenance={
                "VERSION": "0.1",
                "MODEL": "ued",
                "WEIGHTS": "w.safetensors",
                "WEIGHTS_SHA256": "d1b7be5f942d5fea",
                "ENGINE": "openvino, precision 32",
                "OPTIONS": '{"window": 512, "overlap": 96, "tta": "flip", "bands": [4, 1, 2], '
                '"nodata": 0, "aoi": "area.gpkg", "crop": true}',
                "ESTIMATED_SCALE": "2047",
                "READ_RESOLUTION": "0.3",
                "MIN_AREA": "20",
            },
        )
    texts = lines(tmp_path / "map.tif")
    assert texts["kind"] == "class map"
    assert texts["classes"] == "road 50.0%, roof 50.0%; no data in 10.0% of the raster"
    assert texts["areas"] == "road 1.97 ha, roof 1.97 ha"
    assert texts["weights"] == "w.safetensors, ued, sha256 d1b7be5f942d"
    assert texts["made by"] == "hrrsi 0.1 with openvino, precision 32"
    assert texts["windows"] == "512 px that overlap by 96 px; test-time augmentation flip"
    assert texts["scene read"] == (
        "bands 4, 1, 2, no data 0, full brightness 2047 (estimated), 0.3 m a pixel"
    )
    assert texts["inside of"] == "area.gpkg, cropped to it"
    assert texts["merged"] == "areas below 20 m²"
    data = facts(tmp_path / "map.tif")
    assert data["class_pixels"] == [315000, 315000]
    assert data["areas"] == [315000 / 16, 315000 / 16]
    assert data["provenance"]["MODEL"] == "ued"
    # what another tool makes of it has its tags, not its pixels
    with rasterio.open(tmp_path / "map.tif") as whole:
        values, tags = whole.read().repeat(2, axis=1).repeat(2, axis=2), whole.tags()
        form = {**whole.profile, "height": 1400, "width": 2000, "driver": "GTiff"}
        form["transform"] = whole.transform @ Affine.scale(0.5)
    with rasterio.open(tmp_path / "fine.tif", "w", **form) as dataset:
        dataset.write(values)
        dataset.update_tags(**tags)
    data = facts(tmp_path / "fine.tif")
    assert (data["class_pixels"], data["nodata_pixels"]) == ([1260000, 1260000], 280000)
    assert data["areas"] == [315000 / 16, 315000 / 16]


@pytest.mark.long
def test_weights(tmp_path: Path) -> None:
    path = save_made_weights(tmp_path / "made.safetensors", resolution=0.09)
    texts = lines(path)
    assert texts["kind"] == "weights"
    # the published 2,833,409 are for 6 classes; a class less is 25 numbers in each of two heads
    assert texts["network"].startswith("ued_bes_sfm, 2,833,359 parameters, ")
    assert texts["classes"] == "5: Building, Land, Road, Vegetation, Water"
    assert texts["resolution"] == "9 cm a pixel"
    assert texts["sees"] == "bands 1, 2, 3 of uint8 scenes, 255 = full"
    data = facts(path)
    assert data["parameters"] == 2_833_359
    assert data["colours"][0] == [60, 16, 152]


@pytest.mark.long
def test_how_weights_were_trained_is_said_in_words(tmp_path: Path) -> None:
    made = load_model(save_made_weights(tmp_path / "made.safetensors"))
    hardware = {"cpu": "Slow CPU", "cores": 2, "memory_gb": 8.1}
    training = {
        "data": "dubai", "scenes": ["a", "b"], "patches": 1405, "patch_size": 64,
        "recipe": "default", "epochs": 34, "batch": 8, "lr": 0.05, "warmup": 0.0, "dice": 1.0,
        "encoder_weights": "none", "init": None, "freeze_encoder": 0, "seed": 0, "devices": 1,
        "compile": False, "images_seen": 8400, "epoch": 21, "seconds": 300.0, "hardware": hardware,
    }  # fmt: skip
    iou = {"Building": 0.25, "Water": None}
    scores = {"validation": {"protocol": "patches", "OA": 0.5, "mF1": None, "IoU": iou}}
    path = tmp_path / "old.safetensors"
    meta = replace(made.meta, training=training, scores=scores)
    save_weights(made.state_dict(), meta, path)
    texts = lines(path)
    assert texts["trained on"] == "dubai: 2 scenes, 1,405 patches of 64 px"
    assert texts["start"] == "random numbers"
    assert texts["kept"] == "epoch 21 of 34, 8,400 images seen"
    assert texts["took"] == "5 min on Slow CPU, 2 cores, 8.1 GB of memory"
    assert texts["settings"] == "recipe default, batch 8, lr 0.05, dice 1, seed 0"
    assert texts["validation"] == "OA 50.00%, mF1 -; IoU of Building 25.00%, Water - (patches)"


def test_a_published_checkpoint(tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in published_layout("ued_bes").items()}
    path = tmp_path / "epoch_420_OA_0.8925.pth"
    torch.save({"epoch": 420, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    texts = lines(path)
    assert texts["network"].startswith("ued_bes, 2,822,393 parameters")
    assert texts["classes"].startswith("6: building, clutter, car")


def test_an_encoder_of_pretrain(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    about = {"encoder": "ghostnet_100", "classes": ["cat", "dog"], "top1": 0.625, "top5": 1.0}
    tensors = {"conv_stem.weight": torch.zeros(3)}
    save_file(tensors, path, {"hrrsi_encoder": json.dumps(about)})
    texts = lines(path)
    assert texts["kind"] == "encoder weights"
    assert texts["encoder"].startswith("ghostnet_100, ")
    assert texts["trained"] == "by `hrrsi pretrain` on images of 2 classes"
    assert texts["validation"] == "top-1 62.50%, top-5 100.00%"
    assert texts["use"] == "hrrsi train DATASET --encoder-weights FILE"
    assert facts(path)["top1"] == 0.625


def test_a_tiled_dataset(tmp_path: Path) -> None:
    description = DatasetDescription(
        scheme="mine",
        classes=["road", "roof"],
        colours=[(1, 2, 3), (4, 5, 6)],
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=[0.1, 0.2, 0.3],
        std=[0.2, 0.2, 0.2],
        statistics="measured",
        class_frequencies=[0.75, 0.25],
        resolution="unknown",
        patch_size=256,
        stride=128,
        patch_format="png",
        splits={
            "train": SplitContent(
                scenes=["a", "b"], patches=12, class_pixels=[300, 100], ignored_pixels=100
            ),
            "val": SplitContent(scenes=[], patches=0, class_pixels=[0, 0], ignored_pixels=0),
        },
    )
    (tmp_path / "dataset.yaml").write_text(description.to_yaml())
    for path in (tmp_path, tmp_path / "dataset.yaml"):
        texts = lines(path)
        assert texts["kind"] == "tiled dataset"
        assert texts["patches"] == "256 x 256 px, stride 128, png"
        assert texts["train"] == ("12 patches of 2 scenes, 20.0% ignored: road 75.0%, roof 25.0%")
        assert texts["val"] == "no patches"
    assert facts(tmp_path)["class_frequencies"] == [0.75, 0.25]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.tif", None, "no such file"),
        ("missing.safetensors", None, "no such weights file"),
        ("notes.txt", b"hello", "not a raster"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a whole safetensors file"),
        ("cut.pth", b"PK\x03\x04", "not a whole weights file"),
        ("dataset.yaml", b"!!python/object:os.system {}", "tag that is not plain data"),
        ("dataset.yaml", b"a: {[1]: 2}", "is not valid YAML (found unhashable key); correct it"),
        ("folder", None, "folder: holds no files, nor do its folders; name a folder of scenes,"),
        ("areas.gpkg|layername=roads", b"", "areas.gpkg: is not a vector file that GDAL can read"),
        ("none.gpkg|layername=roads", None, "none.gpkg: no such file"),
        ("cut.xml", b"<GDAL_WMS>", "not a raster that GDAL can read, nor a vector file or weights"),
        ("cut.xml", b"<net name=", "lacks cut.bin, which holds its numbers"),
        ("areas.shp", b"cut", "not a raster that GDAL can read, nor a vector file or weights"),
    ],
)
def test_bad_files_end_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / name.partition("|")[0]).write_bytes(content)
    result = info(tmp_path / name)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("environment.yaml", "dataset: []", "environment.yaml: dataset: Input should be a valid"),
        (
            "environment.yaml",
            "dataset: {}\nstarts: [3]",
            "environment.yaml: starts.0: Input should",
        ),
        ("environment.yaml", "dataset: {}\nstarts: [{hardware: {cores: a}}]", "itself is damaged"),
        ("config.yaml", "epochs: [1]", "what it says of itself is damaged; copy it again"),
        ("config.yaml", "teachers: [3]", "what it says of itself is damaged; copy it again"),
    ],
)
def test_a_run_that_says_something_else_ends_in_one_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    whole = {"config.yaml": "epochs: 1\nmodel: ued", "environment.yaml": "dataset: {patches: 3}"}
    for file, content in {**whole, name: text}.items():
        (tmp_path / file).write_text(content)
    result = info(tmp_path)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


def polygons(path: Path, layer: str, **columns: list) -> None:
    boxes = shapely.box(np.arange(4) * 10.0, 0, np.arange(4) * 10.0 + 5, 7)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(boxes),
        [np.array(values) for values in columns.values()],
        list(columns),
        layer=layer,
        geometry_type="Polygon",
        crs="EPSG:28992",
        append=path.exists(),
    )


def test_a_vector_file(tmp_path: Path) -> None:
    path = tmp_path / "areas.gpkg"
    kinds = np.array(["roof", "road", "roof", None], dtype=object)
    names = np.array(["a", "b", "c", "d"], dtype=object)
    years = np.array(["2024-01-02"] * 4, dtype="datetime64[D]")
    polygons(path, "parcels", number=[1, 2, 3, 4], name=names, kind=kinds, since=years)
    texts = lines(path)
    assert texts["kind"] == "vector file"
    assert texts["format"] == "GPKG"
    assert texts["layer"] == "parcels: 4 polygons"
    assert texts["CRS"] == "EPSG:28992"
    assert texts["extent"] == "x 0 to 35, y 0 to 7"
    assert texts["fields"] == "number (whole number), name (text), kind (text), since (date)"
    assert texts["values of kind"] == "roof (2), road (1)"
    assert "values of name" not in texts  # each comes once
    # one that is long stands on several lines
    assert texts["as labels"].startswith("hrrsi tile ORTHO.tif --labels ")
    assert texts["as labels"].endswith("--attribute kind")
    (layer,) = facts(path)["layers"]
    assert layer["bounds"] == [0, 0, 35, 7]
    assert layer["values"] == {"kind": {"roof": 2, "road": 1}}
    add_default_style(path, "parcels", "geom", polygon_style(["a"], [(1, 2, 3)], "name"))
    assert lines(path)["QGIS style"] == "by name, 1 colour"

    polygons(path, "trees", height=[1.5, 2, 3, 4])
    texts = lines(path)
    assert texts["layers"] == "2 layers"
    assert texts["trees"] == "4 polygons, EPSG:28992; fields: height"
    assert lines(Path(f"{path}|layername=trees"))["layer"] == "trees: 4 polygons"
    result = info(Path(f"{path}|layername=roads"))
    assert "has no layer 'roads'; choose from parcels, trees, layer_styles" in result.stderr


def test_a_folder(tmp_path: Path, scene: Path) -> None:
    for folder in ("images", "masks", "datasets/small", "runs/ued"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(6):
        photo = rng.integers(0, 255, (60, 60, 3)).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "images" / f"{number}.png")
        mask = np.repeat(photo[:, :, :1] // 128 * 255, 3, axis=2)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    polygons(tmp_path / "parcels.shp", "parcels", number=[1, 2, 3, 4])
    (tmp_path / "cut.tif").write_bytes(b"II*")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "datasets" / "small" / "dataset.yaml").write_text("scheme: [")
    write_run(tmp_path / "runs" / "ued", epochs=3)
    texts = lines(tmp_path)
    assert texts["kind"] == "folder"
    assert texts["scenes"] == (
        "7 rasters: 6 in images, 1 in it; 3 bands of uint8 or 4 bands of uint16, no CRS or "
        "EPSG:28992, 25 cm a pixel"
    )
    assert texts["labels"] == "6 rasters: 6 in masks"
    assert texts["datasets"] == "datasets/small (damaged)"
    assert texts["runs"] == "runs/ued (2 of 3 epochs; cannot be resumed: it has no checkpoint)"
    assert texts["vector files"] == "parcels.shp"
    assert texts["unreadable"] == "cut.tif"
    assert texts["other files"] == "notes.txt"
    assert facts(tmp_path)["labels"] == [f"masks/{number}.png" for number in range(6)]


def write_run(folder: Path, epochs: int, **more: object) -> None:
    """Write what a run that did two epochs leaves, but for its weights."""
    values = {"data": "d", "model": "ued", "epochs": epochs, **more}
    (folder / "config.yaml").write_text(json.dumps(values))
    (folder / "environment.yaml").write_text("dataset: {train: 9}")
    (folder / "metrics.csv").write_text("epoch,val_mIoU,seconds\n1,0.5,3\n2,0.25,3\n")


def test_runs_stand_beside_each_other_the_best_first(tmp_path: Path) -> None:
    for name, best, more in (
        ("plain", "0.5", {}),
        ("slow", "0.75", {"lr": 0.001}),
        ("other", "0.25", {"data": "elsewhere/e"}),
    ):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, 2, **{"lr": 0.003, **more})
        metrics = f"epoch,val_mIoU,seconds\n1,0.125,30\n2,{best},30\n"
        (tmp_path / name / "metrics.csv").write_text(metrics)
    (tmp_path / "damaged").mkdir()
    write_run(tmp_path / "damaged", 2)
    (tmp_path / "damaged" / "metrics.csv").write_text("epoch,val_mIoU\nx,y\n")
    shown = info(tmp_path).stdout
    table = [[cell.strip() for cell in row.split("|")[1:-1]] for row in shown.splitlines()]
    assert [row for row in table if len(row) == 7] == [
        ["run", "network", "best epoch", "mIoU", "epochs", "took", "differs in"],
        ["slow", "ued", "2", "75.00%", "2 of 2", "60 s", "lr 0.001"],
        ["plain", "ued", "2", "50.00%", "2 of 2", "60 s", "-"],
        ["other", "ued", "2", "25.00%", "2 of 2", "60 s", "data e"],
    ]
    assert "runs on other data are validated on other patches" in " ".join(shown.split())
    assert [run["name"] for run in facts(tmp_path)["compared_runs"]] == ["slow", "plain", "other"]


def test_a_run_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    write_run(run, epochs=3)
    (run / "last.ckpt").write_bytes(b"")
    texts = lines(run)
    assert texts["kind"] == "training run"
    assert texts["done"] == "2 of 3 epochs; can be resumed"
    assert texts["best"] == "epoch 1: validation mIoU 50.00%"
    assert texts["go on"] == f"hrrsi train --config '{run}/config.yaml' --resume"
    assert facts(run)["state"] == "can be resumed"
    with locked(run):  # this process is no other one: its own lock is held all the same
        assert lines(run)["done"] == "2 of 3 epochs; running"
    write_run(run, epochs=2)
    assert lines(run)["done"] == "2 of 2 epochs; finished"
    write_run(run, epochs=9, patience=1)
    assert lines(run)["done"] == "2 of 9 epochs; finished"
    assert "go on" not in lines(run)
