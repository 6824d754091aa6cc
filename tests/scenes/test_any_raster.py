"""Whatever raster the pixels are stored in, the map is the same."""

import gzip
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window
from samples.made_weights import REPOSITORY
from samples.predicted_scenes import notices
from samples.range_server import serving
from typer.testing import CliRunner

from hrrsi.cli import app

HEIGHT, WIDTH = 150, 200
PLACE = {"crs": "EPSG:28992", "transform": from_origin(155_000, 463_000, 0.25, 0.25)}
# two rectangles without data, one at the edge, one inside
HOLES = np.zeros((HEIGHT, WIDTH), dtype=bool)
HOLES[:40, :30] = True
HOLES[70:90, 100:170] = True


def real_pixels() -> np.ndarray:
    with rasterio.open(REPOSITORY / "examples" / "dubai_tile1.tif") as dataset:
        pixels: np.ndarray = dataset.read(window=Window(900, 700, WIDTH, HEIGHT))
    return np.clip(pixels, 1, 254)  # leaves 0 and 255 for marks of missing data


PIXELS = real_pixels()


def save(path: Path, pixels: np.ndarray = PIXELS, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    form = {"driver": "GTiff", "dtype": pixels.dtype.name, **PLACE, **profile}
    with rasterio.open(path, "w", count=count, height=height, width=width, **form) as dataset:
        dataset.write(pixels)
    return path


def with_overviews(path: Path, *, external: bool = False, **profile: Any) -> Path:
    save(path, **profile)
    with (
        rasterio.Env(TIFF_USE_OVR=external),
        rasterio.open(path, "r+") as dataset,
    ):
        dataset.build_overviews([2, 4], Resampling.average)
    assert path.with_name(path.name + ".ovr").exists() == external
    return path


def copied(path: Path, driver: str, **options: Any) -> Path:
    source = save(path.parent / "sources" / f"{path.stem}_source.tif")
    rasterio.shutil.copy(source, path, driver=driver, **options)
    return path


def mosaic(path: Path, sources: dict[Path, Window], dtype: str = "Byte", **nodata: Any) -> Path:
    """Write a VRT of files side by side; `nodata` maps band numbers to values."""
    bands = []
    for band in (1, 2, 3):
        mark = nodata.get(f"band{band}")
        text = "" if mark is None else f"<NoDataValue>{mark}</NoDataValue>"
        for source, w in sources.items():
            place = f'xOff="{w.col_off}" yOff="{w.row_off}" xSize="{w.width}" ySize="{w.height}"'
            text += (
                f'<SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{w.width}" ySize="{w.height}"/>'
                f"<DstRect {place}/></SimpleSource>"
            )
        bands.append(f'<VRTRasterBand dataType="{dtype}" band="{band}">{text}</VRTRasterBand>')
    place = ", ".join(str(n) for n in PLACE["transform"].to_gdal())
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}"><SRS>EPSG:28992</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path


def quarters(folder: Path, **profile: Any) -> dict[Path, Window]:
    """Write the pixels as four files, whose seams no block or window shares."""
    parts = {}
    for top, bottom in ((0, 67), (67, HEIGHT)):
        for left, right in ((0, 91), (91, WIDTH)):
            place = PLACE["transform"] @ Affine.translation(left, top)
            path = folder / "parts" / f"{top}_{left}.tif"
            save(path, PIXELS[:, top:bottom, left:right], **profile, transform=place)
            parts[path] = Window(left, top, right - left, bottom - top)
    return parts


def control_points() -> list[GroundControlPoint]:
    return [
        GroundControlPoint(row, col, *(PLACE["transform"] @ (col, row)))
        for row, col in ((0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH))
    ]


def zipped(path: Path) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(save(path.with_suffix(".tif")), "folder/inside.tif")
    return f"/vsizip/{path}/folder/inside.tif"


def gzipped(path: Path) -> str:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(save(path).read_bytes()))
    return f"/vsigzip/{packed}"


TILED = {"tiled": True, "blockxsize": 48, "blockysize": 32}
ONE_STRIP = {"blockysize": HEIGHT}
Maker = Callable[[Path], Path | str]
# each holds the same pixels
LOSSLESS: dict[str, Maker] = {
    "plain": lambda f: save(f / "plain.tif"),
    "striped_lzw": lambda f: save(f / "striped_lzw.tif", compress="lzw", predictor=2),
    "tiled_lzw": lambda f: save(f / "tiled_lzw.tif", compress="lzw", **TILED),
    "tiled_deflate": lambda f: save(f / "tiled_deflate.tif", compress="deflate", **TILED),
    "tiled_zstd": lambda f: save(f / "tiled_zstd.tif", compress="zstd", **TILED),
    "tiled_lerc": lambda f: save(f / "tiled_lerc.tif", compress="lerc", **TILED),
    "striped_packbits": lambda f: save(f / "striped_packbits.tif", compress="packbits"),
    "one_strip": lambda f: save(f / "one_strip.tif", **ONE_STRIP),
    "one_strip_deflate": lambda f: save(
        f / "one_strip_deflate.tif", compress="deflate", **ONE_STRIP
    ),
    "planar": lambda f: save(f / "planar.tif", interleave="band"),
    "planar_one_strip": lambda f: save(
        f / "planar_one_strip.tif", interleave="band", compress="zstd", **ONE_STRIP
    ),
    "planar_tiled": lambda f: save(
        f / "planar_tiled.tif", interleave="band", compress="lzw", **TILED
    ),
    "bigtiff": lambda f: save(f / "bigtiff.tif", bigtiff="yes"),
    "overviews": lambda f: with_overviews(f / "overviews.tif", **TILED),
    "external_overviews": lambda f: with_overviews(f / "external_overviews.tif", external=True),
    "cog": lambda f: copied(f / "cog.tif", "COG", blocksize=128),
    "png": lambda f: copied(f / "png.png", "PNG"),
    "jp2": lambda f: copied(f / "jp2.jp2", "JP2OpenJPEG", reversible="yes", quality="100"),
    "webp": lambda f: copied(f / "webp.webp", "WEBP", lossless="yes"),
    "envi": lambda f: copied(f / "envi.img", "ENVI"),
    "mosaic": lambda f: mosaic(f / "mosaic.vrt", quarters(f)),
    "mosaic_of_mosaic": lambda f: mosaic(
        f / "mosaic_of_mosaic.vrt",
        {mosaic(f / "inner.vrt", quarters(f)): Window(0, 0, WIDTH, HEIGHT)},
    ),
    "zip": lambda f: zipped(f / "zip.zip"),
    "gzip": lambda f: gzipped(f / "gzip.tif"),
    "rotated": lambda f: save(
        f / "rotated.tif", transform=PLACE["transform"] @ Affine.rotation(25)
    ),
    "south_up": lambda f: save(f / "south_up.tif", transform=from_origin(0, 0, 0.25, -0.25)),
    "no_crs": lambda f: save(f / "no_crs.tif", crs=None, transform=None),
    "control_points": lambda f: save(
        f / "control_points.tif", crs="EPSG:28992", transform=None, gcps=control_points()
    ),
    "degrees": lambda f: save(
        f / "degrees.tif", crs="EPSG:4326", transform=from_origin(5, 52, 3e-6, 2e-6)
    ),
    "uint16": lambda f: save(f / "uint16.tif", PIXELS.astype("uint16"), compress="deflate"),
    "int16": lambda f: save(f / "int16.tif", PIXELS.astype("int16")),
    "uint32": lambda f: save(f / "uint32.tif", PIXELS.astype("uint32")),
    "float32": lambda f: save(f / "float32.tif", PIXELS.astype("float32"), compress="lzw"),
    "float64": lambda f: save(f / "float64.tif", PIXELS.astype("float64")),
    "alpha_full": lambda f: masked(f / "alpha_full.tif", alpha=np.full(HOLES.shape, 255)),
}


def masked(
    path: Path,
    *,
    alpha: np.ndarray | None = None,
    mask: str | None = None,
    fill: tuple[float, ...] = (7, 7, 7),
    dtype: str = "uint8",
    more_bands: int = 0,
    **profile: Any,
) -> Path:
    """Write the pixels with `HOLES`, which hold `fill`, declared in one of many ways."""
    pixels = PIXELS.astype(dtype)
    if alpha is None or not alpha.all():
        pixels[:, HOLES] = np.array(fill, dtype=dtype)[:, None]
    if alpha is not None:
        pixels = np.concatenate([pixels, pixels[:more_bands], alpha[None].astype(dtype)])
        profile["photometric"] = "RGB"
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "GTiff", "dtype": dtype, **PLACE, **profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask == "internal"),
        rasterio.open(path, "w", count=len(pixels), height=HEIGHT, width=WIDTH, **form) as dataset,
    ):
        if alpha is not None:
            rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
            other = [ColorInterp.undefined] * more_bands
            dataset.colorinterp = [*rgb, *other, ColorInterp.alpha]
        dataset.write(pixels)
        if mask:
            dataset.write_mask(~HOLES)
    assert path.with_name(path.name + ".msk").exists() == (mask == "external")
    return path


def by_band(path: Path) -> Path:
    """Write a mosaic whose bands have nodata values of their own, as VRTs can."""
    source = masked(path.parent / "sources" / "by_band.tif", fill=(0, 255, 0))
    whole = Window(0, 0, WIDTH, HEIGHT)
    return mosaic(path, {source: whole}, band1=0, band2=255, band3=0)


def one_band_declares(path: Path) -> Path:
    source = masked(path.parent / "sources" / "one_band.tif", fill=(0, 9, 9))
    return mosaic(path, {source: Window(0, 0, WIDTH, HEIGHT)}, band1=0)


NAN, INF = float("nan"), float("inf")
# each has the same holes
HOLED: dict[str, Maker] = {
    "nodata": lambda f: masked(f / "nodata.tif", fill=(0, 0, 0), nodata=0),
    "nodata_255": lambda f: masked(f / "nodata_255.tif", fill=(255,) * 3, nodata=255),
    "internal_mask": lambda f: masked(f / "internal_mask.tif", mask="internal", **TILED),
    "external_mask": lambda f: masked(f / "external_mask.tif", mask="external"),
    "alpha": lambda f: masked(f / "alpha.tif", alpha=np.where(HOLES, 0, 255)),
    # an alpha between is data: where an orthophoto's edge fades out
    "alpha_partial": lambda f: masked(f / "alpha_partial.tif", alpha=np.where(HOLES, 0, 1)),
    "alpha_planar": lambda f: masked(
        f / "alpha_planar.tif", alpha=np.where(HOLES, 0, 90), interleave="band", compress="lzw"
    ),
    # GDAL makes no mask of these
    "alpha_fifth": lambda f: masked(
        f / "alpha_fifth.tif", alpha=np.where(HOLES, 0, 255), more_bands=1
    ),
    "alpha_int16": lambda f: masked(
        f / "alpha_int16.tif", alpha=np.where(HOLES, 0, 1), dtype="int16"
    ),
    "alpha_float": lambda f: masked(
        f / "alpha_float.tif", alpha=np.where(HOLES, 0, 1), dtype="float32"
    ),
    "nodata_by_band": lambda f: by_band(f / "nodata_by_band.vrt"),
    "nodata_of_one_band": lambda f: one_band_declares(f / "nodata_of_one_band.vrt"),
    "nan": lambda f: masked(f / "nan.tif", dtype="float32", fill=(NAN,) * 3),
    "nan_nodata": lambda f: masked(
        f / "nan_nodata.tif", dtype="float32", fill=(NAN,) * 3, nodata=NAN
    ),
    "nan_in_one_band": lambda f: masked(
        f / "nan_in_one_band.tif", dtype="float32", fill=(5, NAN, 5)
    ),
    "infinite": lambda f: masked(f / "infinite.tif", dtype="float64", fill=(INF, -INF, 3)),
    "sentinel": lambda f: masked(
        f / "sentinel.tif", dtype="float32", fill=(-3.4e38,) * 3, nodata=-3.4e38
    ),
    "negative": lambda f: masked(
        f / "negative.tif", dtype="int16", fill=(-9999,) * 3, nodata=-9999
    ),
    "uint16_mask": lambda f: masked(f / "uint16_mask.tif", dtype="uint16", mask="internal"),
    "user": lambda f: masked(f / "user.tif", dtype="int16", fill=(-7, -7, -7)),
}
JPEG = {
    "jpeg_striped": {"compress": "jpeg", "photometric": "ycbcr"},
    "jpeg_tiled": {"compress": "jpeg", "photometric": "ycbcr", **TILED, "blockysize": 48},
    "jpeg_one_strip": {"compress": "jpeg", **ONE_STRIP},
    "jpeg_planar": {"compress": "jpeg", "interleave": "band"},
}


def predict(made_weights: Path, out: Path, scenes: list[str], *options: str) -> Any:
    line = ["predict", *scenes, "--out", f"{out}/", "--weights", str(made_weights), "--quiet"]
    small = ["--window", "64", "--overlap", "16"]
    return CliRunner().invoke(app, [*line, *small, *options])


def predicted(made_weights: Path, folder: Path, makers: dict[str, Maker], *options: str) -> Any:
    """Make rasters, map them in one call, and return a function from their names to labels."""
    scenes = {name: str(make(folder)) for name, make in makers.items()}
    result = predict(made_weights, folder / "maps", list(scenes.values()), *options)
    assert result.exit_code == 0, result.output

    def labels(name: str) -> np.ndarray:
        stem = Path(scenes[name]).stem
        with rasterio.open(folder / "maps" / f"{stem}_classes.tif") as dataset:
            indices: np.ndarray = dataset.read(1)
        return indices

    return labels


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory, made_weights: Path) -> Any:
    folder = tmp_path_factory.mktemp("lossless")
    return predicted(made_weights, folder, LOSSLESS, "--scale", "255", "--bands", "1,2,3")


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory, made_weights: Path) -> Any:
    folder = tmp_path_factory.mktemp("holed")
    options = ("--scale", "255", "--bands", "1,2,3", "--nodata", "-7")
    return predicted(made_weights, folder, HOLED, *options)


@pytest.mark.parametrize("name", LOSSLESS)
def test_layouts_make_no_difference(lossless: Any, name: str) -> None:
    reference = lossless("plain")
    assert len(np.unique(reference)) >= 4
    np.testing.assert_array_equal(lossless(name), reference)


@pytest.mark.parametrize("name", HOLED)
def test_missing_data_is_missing_however_it_is_declared(holed: Any, name: str) -> None:
    labels = holed(name)
    np.testing.assert_array_equal(labels == 255, HOLES)
    # holes are filled with the training mean, which whole numbers hold but for rounding
    of_floats = name.startswith("nan") or name in ("infinite", "sentinel", "alpha_float")
    np.testing.assert_array_equal(labels, holed("nan" if of_floats else "nodata"))


def test_lossy_rasters_are_mapped_as_they_decode(tmp_path: Path, made_weights: Path) -> None:
    makers: dict[str, Maker] = {}
    for name, profile in JPEG.items():
        path = save(tmp_path / f"{name}.tif", **profile)
        with rasterio.open(path) as dataset:
            decoded = dataset.read()
        assert (decoded != PIXELS).any()
        makers[name] = lambda _, path=path: path
        makers[f"{name}_decoded"] = lambda f, n=name, d=decoded: save(f / f"{n}_decoded.tif", d)
    labels = predicted(made_weights, tmp_path, makers)
    for name in JPEG:
        np.testing.assert_array_equal(labels(name), labels(f"{name}_decoded"))


@pytest.mark.parametrize("shape", [(40, 50), (1, 200), (150, 1), (1, 1), (64, 64), (65, 63)])
def test_scenes_smaller_than_a_window(
    tmp_path: Path, made_weights: Path, shape: tuple[int, int]
) -> None:
    pixels = PIXELS[:, : shape[0], : shape[1]]
    makers: dict[str, Maker] = {
        "a": lambda f: save(f / "a.tif", pixels),
        "b": lambda f: save(f / "b.tif", pixels, compress="deflate", interleave="band"),
    }
    labels = predicted(made_weights, tmp_path, makers)
    assert labels("a").shape == shape
    assert labels("a").max() < 5
    np.testing.assert_array_equal(labels("a"), labels("b"))


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    with serving(tmp_path / "served") as number:
        yield number


def test_rasters_on_a_web_server(
    tmp_path: Path, made_weights: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "served" / "bucket" / "cog.tif", compress="deflate", **TILED)
    for name, value in {
        "AWS_S3_ENDPOINT": f"127.0.0.1:{port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(name, value)
    address = f"127.0.0.1:{port}/bucket/cog.tif"
    local = predicted(made_weights, tmp_path, {"plain": LOSSLESS["plain"]})("plain")
    for scene in (f"http://{address}", f"/vsicurl/http://{address}", "s3://bucket/cog.tif"):
        out = tmp_path / "remote"
        result = predict(made_weights, out, [scene], "--overwrite")
        assert result.exit_code == 0, result.output
        with rasterio.open(out / "cog_classes.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(1), local)
    missing = predict(made_weights, tmp_path / "m", [f"http://127.0.0.1:{port}/bucket/no.tif"])
    assert re.fullmatch(
        r"error: http://\S+/no\.tif: cannot be opened \(.+\); check.*\n", missing.stderr
    )
    assert missing.exit_code == 1


@pytest.mark.parametrize(
    "scene",
    ["http://127.0.0.1:9/a.tif", "/vsicurl/http://127.0.0.1:9/a.tif", "/vsizip/no.zip/a.tif"],
)
def test_what_is_out_of_reach_is_one_line(tmp_path: Path, made_weights: Path, scene: str) -> None:
    result = predict(made_weights, tmp_path / "maps", [scene])
    assert result.exit_code == 1
    assert re.fullmatch(rf"error: {scene}: cannot be opened \(.+\); check.*\n", result.stderr)
    assert not (tmp_path / "maps").exists()


def test_a_mosaic_without_one_of_its_files_is_no_map(tmp_path: Path, made_weights: Path) -> None:
    parts = quarters(tmp_path)
    scene = mosaic(tmp_path / "scene.vrt", parts)
    outer = mosaic(tmp_path / "outer.vrt", {scene: Window(0, 0, WIDTH, HEIGHT)})
    lost = list(parts)[3]
    lost.rename(tmp_path / "away.tif")
    for mosaic_file in (scene, outer):
        result = predict(made_weights, tmp_path / "maps", [str(mosaic_file)])
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert f"{mosaic_file}: " in result.stderr
        assert str(lost) in result.stderr
    lost.write_bytes((tmp_path / "away.tif").read_bytes()[:9000])
    result = predict(made_weights, tmp_path / "maps", [str(scene)])
    assert result.exit_code == 1
    assert re.search(rf"scene.vrt: cannot be read at row \d+.*{lost.name}", result.stderr)
    assert not list((tmp_path / "maps").glob("*.tif"))


def test_a_mosaic_is_no_map_where_another_failed_over_the_same_file(
    tmp_path: Path, made_weights: Path
) -> None:
    # GDAL would give zeros without a word for a file that it could not open before
    parts = quarters(tmp_path)
    bad = list(parts)[3]
    bad.write_bytes(b"no raster at all")
    scenes = [str(mosaic(tmp_path / f"{name}.vrt", parts)) for name in "abc"]
    for _ in range(2):
        result = predict(made_weights, tmp_path / "maps", scenes)
        assert result.exit_code == 1
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert [str(bad) in line for line in lines] == [True] * 3 + [False]
    assert not list((tmp_path / "maps").glob("*.tif"))


def test_truncated_files_of_each_kind(tmp_path: Path, made_weights: Path) -> None:
    for name in ("tiled_zstd", "one_strip_deflate", "planar_one_strip", "png", "jp2", "cog"):
        whole = Path(LOSSLESS[name](tmp_path))
        part = tmp_path / "cut" / whole.name
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
        result = predict(made_weights, tmp_path / "maps", [str(part)])
        assert result.exit_code == 1, name
        assert len(notices(result)) == 1
        assert re.search("truncated or damaged|not a raster", result.stderr)
    shutil.rmtree(tmp_path / "cut")
    assert not list((tmp_path / "maps").glob("*.tif"))
