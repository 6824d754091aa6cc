"""Class maps on disk: georeference, palette, names, sidecars, and failures that leave nothing."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Compression
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rio_cogeo.cogeo import cog_validate

from hrrsi.errors import OutputError
from hrrsi.files import scratch_folder
from hrrsi.maps.rasters import ClassRasterContent, read_class_raster, write_class_raster
from hrrsi.maps.raw_pyramid import overview_levels
from hrrsi.scenes.scene import open_scene
from hrrsi.scenes.windows import Window

CLASSES = ["Building & <roof>", "Straße", "Wasser 水"]
COLOURS = [(60, 16, 152), (255, 255, 0), (1, 2, 3)]


@contextmanager
def made_scene(path: Path, height: int, width: int, **profile: Any) -> Iterator[Any]:
    points = profile.pop("gcps", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **profile
        ) as dataset:
            if points:
                dataset.gcps = points
        with rasterio.open(path) as dataset:
            yield dataset


def made_labels(height: int, width: int) -> np.ndarray:
    labels = np.random.default_rng(3).integers(0, 3, (height, width)).astype(np.uint8)
    labels[: height // 4, : width // 3] = 255
    return labels


def write_strips(
    path: Path, scene: Any, strips: Iterable[np.ndarray], *, has_nodata: bool = True
) -> ClassRasterContent:
    return write_class_raster(
        path,
        scene,
        strips,
        classes=CLASSES,
        colours=COLOURS,
        has_nodata=has_nodata,
        provenance={"VERSION": "1.2.3", "WEIGHTS": "w.safetensors", "OPTIONS": "{}"},
    )


def write_map(
    path: Path, scene: Any, labels: np.ndarray, *, strip: int = 100, has_nodata: bool = True
) -> ClassRasterContent:
    strips = (labels[row : row + strip] for row in range(0, len(labels), strip))
    return write_strips(path, scene, strips, has_nodata=has_nodata)


def most_frequent(block: list[int]) -> int:
    """The label of most pixels; of equally frequent ones the first in reading order."""
    return max(dict.fromkeys(block), key=block.count)


def halved(labels: np.ndarray) -> np.ndarray:
    height, width = (-(-size // 2) for size in labels.shape)
    return np.array(
        [
            [
                most_frequent(labels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist())
                for x in range(width)
            ]
            for y in range(height)
        ],
        dtype=np.uint8,
    )


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:28992", Affine(0.25, 0, 127375, 0, -0.25, 428250)),
        ("EPSG:4326", Affine(1e-6, 0, 55.2, 0, -1e-6, 25.1)),
        ("EPSG:32640", Affine(0.2, 0.1, 1000, 0.1, -0.2, 2000)),  # rotated
        (None, Affine(0.5, 0, 10, 0, -0.5, 20)),  # a world file without CRS
        (None, None),
        ("EPSG:32640", None),
    ],
)
def test_has_the_grid_of_its_scene(tmp_path: Path, crs: str | None, transform: Any) -> None:
    path = tmp_path / "map.tif"
    labels = made_labels(700, 530)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with made_scene(tmp_path / "scene.tif", 700, 530, crs=crs, transform=transform) as scene:
            write_map(path, scene, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as written:
            assert written.crs == (rasterio.CRS.from_string(crs) if crs else None)
            assert written.transform.almost_equals(transform or Affine.identity(), 1e-12)
            assert (written.count, written.dtypes, written.nodata) == (1, ("uint8",), 255)
            np.testing.assert_array_equal(written.read(1), labels)


def test_keeps_ground_control_points(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(row, column, 1000 + column, 2000 - row + 0.1 * column)
        for row, column in ((0, 0), (0, 100), (90, 0), (90, 100))
    ]
    crs = rasterio.CRS.from_epsg(32640)
    labels = made_labels(90, 100)
    with made_scene(tmp_path / "scene.tif", 90, 100, gcps=(points, crs)) as scene:
        write_map(tmp_path / "map.tif", scene, labels)
    with rasterio.open(tmp_path / "map.tif") as written:
        kept, kept_crs = written.gcps
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]
    assert kept_crs == crs


def test_keeps_rational_polynomials_of_its_part_of_the_scene(tmp_path: Path) -> None:
    ones = [1.0, *[0.0] * 19]
    parts = [f"{name}_{part}" for name in ("height", "lat", "long") for part in ("off", "scale")]
    pixels = [f"{name}_{part}" for name in ("line", "samp") for part in ("off", "scale")]
    polynomials = [f"{name}_{part}_coeff" for name in ("line", "samp") for part in ("num", "den")]
    values = dict.fromkeys(parts, 10.0) | dict.fromkeys(pixels, 50.0)
    rpcs = RPC(**values, **dict.fromkeys(polynomials, ones))
    path = tmp_path / "scene.tif"
    with made_scene(path, 90, 100, rpcs=rpcs) as scene:
        write_map(tmp_path / "map.tif", scene, made_labels(90, 100))
    with open_scene(path, expected_bands=1, part=Window(20, 10, 60, 70)) as scene:
        write_map(tmp_path / "part.tif", scene.dataset, made_labels(60, 70))
    for name, line, sample in (("map", 50, 50), ("part", 30, 40)):
        with rasterio.open(tmp_path / f"{name}.tif") as written:
            kept = written.rpcs
        expected = rpcs.to_dict() | {"line_off": line, "samp_off": sample}
        assert {k: v for k, v in kept.to_dict().items() if "err" not in k} == {
            k: v for k, v in expected.items() if "err" not in k
        }


def test_has_palette_tiles_overviews_and_tags(tmp_path: Path) -> None:
    labels = made_labels(1100, 600)
    with made_scene(tmp_path / "scene.tif", 1100, 600, crs="EPSG:28992") as scene:
        write_map(tmp_path / "map.tif", scene, labels)
    with rasterio.open(tmp_path / "map.tif") as written:
        palette = written.colormap(1)
        assert [palette[i][:3] for i in range(3)] == COLOURS
        assert [palette[i][3] for i in range(3)] == [255] * 3
        assert palette[255][3] == 0
        assert written.colorinterp == (ColorInterp.palette,)
        assert written.descriptions == ("class",)
        assert written.block_shapes == [(512, 512)]
        assert written.compression == Compression.deflate
        assert written.overviews(1) == [2, 4, 8]
        tags = written.tags()
        half = written.read(1, out_shape=(550, 300), masked=True)
    assert tags["HRRSI_WEIGHTS"] == "w.safetensors"
    assert tags["HRRSI_VERSION"] == "1.2.3"
    assert set(np.unique(half.compressed())) <= {0, 1, 2}
    assert (half.mask[:136, :99]).all()
    blocks = labels.reshape(550, 2, 300, 2).swapaxes(1, 2).reshape(550, 300, 4)
    same = (blocks == blocks[..., :1]).all(-1)
    np.testing.assert_array_equal(half.filled(255)[same], blocks[..., 0][same])


def test_sidecars_name_the_classes(tmp_path: Path) -> None:
    labels = made_labels(80, 90)
    with made_scene(tmp_path / "scene.tif", 80, 90) as scene:
        write_map(tmp_path / "map.tif", scene, labels)
    style = ET.parse(tmp_path / "map.qml").getroot()
    renderer = style.find("pipe/rasterrenderer")
    assert renderer is not None
    assert renderer.attrib["type"] == "paletted"
    entries = [e.attrib for e in renderer.iter("paletteEntry")]
    assert [(e["value"], e["label"], e["color"], e["alpha"]) for e in entries] == [
        ("0", CLASSES[0], "#3c1098", "255"),
        ("1", CLASSES[1], "#ffff00", "255"),
        ("2", CLASSES[2], "#010203", "255"),
    ]
    band = ET.parse(tmp_path / "map.tif.aux.xml").getroot().find("PAMRasterBand")
    assert band is not None
    assert [c.text for c in band.iter("Category")] == CLASSES
    fields = [f.findtext("Name") for f in band.iter("FieldDefn")]
    rows = [[f.text for f in row.iter("F")] for row in band.iter("Row")]
    assert fields == ["Value", "Class", "Count", "Red", "Green", "Blue"]
    assert rows == [
        [str(i), name, str((labels == i).sum()), *map(str, colour)]
        for i, (name, colour) in enumerate(zip(CLASSES, COLOURS, strict=True))
    ]


def test_says_what_it_holds(tmp_path: Path) -> None:
    labels = made_labels(80, 90)
    with made_scene(tmp_path / "scene.tif", 80, 90) as scene:
        write_map(tmp_path / "map.tif", scene, labels)
    content = read_class_raster(tmp_path / "map.tif")
    assert content is not None
    assert content.classes == CLASSES
    assert content.class_pixels == [int((labels == i).sum()) for i in range(3)]
    assert content.nodata_pixels == (labels == 255).sum()
    assert content.provenance["WEIGHTS"] == "w.safetensors"
    assert read_class_raster(tmp_path / "scene.tif") is None


def test_declares_no_data_only_where_there_may_be_some(tmp_path: Path) -> None:
    with made_scene(tmp_path / "scene.tif", 20, 20) as scene:
        write_map(tmp_path / "map.tif", scene, np.zeros((20, 20), np.uint8), has_nodata=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(tmp_path / "map.tif") as written:
            assert written.nodata is None


def test_bytes_depend_on_the_labels_alone(tmp_path: Path) -> None:
    labels = made_labels(1200, 300)
    files = []
    with made_scene(tmp_path / "scene.tif", 1200, 300) as scene:
        for strip in (7, 448, 512, 1200):
            write_map(tmp_path / f"{strip}.tif", scene, labels, strip=strip)
            files.append((tmp_path / f"{strip}.tif").read_bytes())
    assert all(file == files[0] for file in files)


@pytest.mark.parametrize(("rows", "columns"), [(59, 20), (61, 20), (60, 19)])
def test_strips_must_cover_the_scene(tmp_path: Path, rows: int, columns: int) -> None:
    with (
        made_scene(tmp_path / "scene.tif", 60, 20) as scene,
        pytest.raises(ValueError, match="20"),
    ):
        write_map(tmp_path / "map.tif", scene, made_labels(rows, columns))
    assert sorted(os.listdir(tmp_path)) == ["scene.tif"]


def test_an_interrupt_leaves_the_former_map(tmp_path: Path) -> None:
    labels = made_labels(600, 20)

    def interrupted() -> Iterator[np.ndarray]:
        yield labels[:550]
        raise KeyboardInterrupt

    with made_scene(tmp_path / "scene.tif", 600, 20) as scene:
        write_map(tmp_path / "map.tif", scene, labels)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        with pytest.raises(KeyboardInterrupt):
            write_strips(tmp_path / "map.tif", scene, interrupted())
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_strips_may_be_made_with_the_help_of_files_beside_the_map(tmp_path: Path) -> None:
    labels = made_labels(60, 20)

    def from_a_file() -> Iterator[np.ndarray]:
        with scratch_folder(tmp_path / "map.tif") as folder:
            for row in range(0, 60, 20):
                labels[row : row + 20].tofile(folder / "strip")
                yield np.fromfile(folder / "strip", np.uint8).reshape(20, 20)

    with made_scene(tmp_path / "scene.tif", 60, 20, crs="EPSG:28992") as scene:
        written = write_strips(tmp_path / "map.tif", scene, from_a_file())
    assert sum(written.class_pixels) + written.nodata_pixels == 60 * 20
    assert sorted(os.listdir(tmp_path)) == ["map.qml", "map.tif", "map.tif.aux.xml", "scene.tif"]


COG_SCENES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "one pixel": ((1, 1), {}),
    "smaller than a tile": (
        (90, 100),
        {"crs": "EPSG:4326", "transform": Affine(1, 0, 5, 0, -1, 9)},
    ),
    "one tile": ((512, 512), {}),
    "one row": ((1, 1300), {}),
    "a narrow strip": ((1300, 40), {}),
    "odd": ((1031, 777), {"crs": "EPSG:32640", "transform": Affine(0.2, 0, 5, 0, -0.2, 9)}),
    "rotated": ((700, 600), {"crs": "EPSG:32640", "transform": Affine(0.2, 0.1, 5, 0.1, -0.2, 9)}),
    "control points": (
        (700, 600),
        {
            "gcps": (
                [GroundControlPoint(r, c, c, -r) for r, c in ((0, 0), (0, 9), (9, 0), (9, 9))],
                rasterio.CRS.from_epsg(32640),
            )
        },
    ),
}


@pytest.mark.parametrize("name", COG_SCENES)
def test_is_a_cloud_optimised_geotiff(tmp_path: Path, name: str) -> None:
    (height, width), profile = COG_SCENES[name]
    labels = made_labels(height, width)
    path = tmp_path / "a folder — ü" / "map.tif"
    with made_scene(tmp_path / "scene.tif", height, width, **profile) as scene:
        write_map(path, scene, labels, strip=33)
    valid, errors, hints = cog_validate(path, strict=True)
    assert valid, (errors, hints)
    assert sorted(os.listdir(path.parent)) == ["map.qml", "map.tif", "map.tif.aux.xml"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as written:
            np.testing.assert_array_equal(written.read(1), labels)


@pytest.mark.long
@pytest.mark.parametrize(("height", "width"), [(1031, 777), (3, 1300), (1300, 1)])
def test_overviews_hold_the_most_frequent_class_of_four_pixels(
    tmp_path: Path, height: int, width: int
) -> None:
    generator = np.random.default_rng(5)
    labels = generator.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    with made_scene(tmp_path / "scene.tif", height, width, crs="EPSG:28992") as scene:
        write_map(tmp_path / "map.tif", scene, labels, strip=37)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = labels
        for level in range(len(overview_levels(height, width))):
            expected = halved(expected)
            with rasterio.open(tmp_path / "map.tif", overview_level=level) as overview:
                np.testing.assert_array_equal(overview.read(1), expected)


WRITE_LABELS = """
import os, sys
from pathlib import Path
import numpy as np, rasterio
from hrrsi.maps.rasters import write_class_raster
if sys.argv[2] == "one":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
folder = Path(sys.argv[1])
labels = np.random.default_rng(0).integers(0, 3, (2000, 1500)).astype(np.uint8)
with rasterio.open(folder / "scene.tif") as scene:
    write_class_raster(
        folder / f"{sys.argv[2]}.tif", scene, [labels], classes=["a", "b", "c"],
        colours=[(1, 2, 3)] * 3, has_nodata=True, provenance={},
    )
"""


@pytest.mark.slow
@pytest.mark.long
def test_bytes_do_not_depend_on_the_number_of_processors(tmp_path: Path) -> None:
    with made_scene(tmp_path / "scene.tif", 2000, 1500, crs="EPSG:28992"):
        pass
    for processors in ("one", "all"):
        program = [sys.executable, "-c", WRITE_LABELS, str(tmp_path), processors]
        subprocess.run(program, check=True)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "all.tif").read_bytes()


@pytest.mark.parametrize(("size", "levels"), [(512, []), (513, [2, 4]), (1100, [2, 4, 8])])
def test_overviews_go_down_to_256_px(size: int, levels: list[int]) -> None:
    assert overview_levels(size, 10) == overview_levels(10, size) == levels


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np, rasterio
from hrrsi.maps.rasters import write_class_raster
from hrrsi.maps.raw_pyramid import LabelPyramid
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
labels = np.random.default_rng(0).integers(0, 3, (1500, 1500)).astype(np.uint8)
folder = Path(sys.argv[1])
raw = folder / "raw"
raw.mkdir()
pyramid = LabelPyramid(raw, height=1500, width=1500, num_classes=3)
pyramid.append(labels)
def write(labels):
    with rasterio.open(folder / "scene.tif") as scene:
        write_class_raster(
            folder / "map.tif", scene, labels, classes=["a", "b", "c"],
            colours=[(1, 2, 3)] * 3, has_nodata=True, provenance={},
        )
write(pyramid)
whole = (folder / "map.tif").stat().st_size
for name in ("map.tif", "map.qml", "map.tif.aux.xml"):
    (folder / name).unlink()
tries = [(pyramid, whole - 1), ([labels], 1_000_000)]
tries += [(pyramid, int(share * whole)) for share in (0, 0.001, 0.1, 0.3, 0.6, 0.8, 0.95, 0.9999)]
for source, size in tries:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))
    try:
        write(source)
    except Exception as error:
        print(type(error).__name__, error)
    left = sorted(p.name for p in folder.iterdir())
    assert left == ["raw", "scene.tif"], (size, left)
"""


@pytest.mark.slow
@pytest.mark.long
def test_a_full_disk_is_an_error_wherever_it_strikes(tmp_path: Path) -> None:
    with made_scene(tmp_path / "scene.tif", 1500, 1500, transform=Affine(1, 0, 5, 0, -1, 9)):
        pass
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 10
    for line in lines:
        assert line.startswith(f"OutputError {tmp_path}/map.tif: cannot be written (")
        assert "too large" in line or "No space left" in line
        assert line.endswith("); free space on the disk, or choose another `out`")
    assert done.stderr == ""


def test_an_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        made_scene(tmp_path / "scene.tif", 20, 20) as scene,
        pytest.raises(OutputError, match="cannot be created"),
    ):
        write_map(tmp_path / "file" / "maps" / "map.tif", scene, made_labels(20, 20))
