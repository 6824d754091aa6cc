"""Images of scenes under maps that are there, in the HTML report."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import Result
from PIL import Image
from rasterio.enums import ColorInterp
from samples.evaluated_data import CLASSES, SCHEME, evaluated, write_scene, write_weights
from samples.raw_layouts import write_raster
from samples.repository import REPOSITORY
from typer.testing import CliRunner

from hrrsi.cli import app

TILE = REPOSITORY / "examples" / "dubai" / "tile1"
PARTS = ("007", "008")


def report(path: Path, *arguments: object) -> Result:
    """Score the labels of two Dubai scenes as if they were maps."""
    masks = [TILE / "masks" / f"image_part_{part}.png" for part in PARTS]
    maps = [word for mask in masks for word in ("--pred", mask, "--label", mask)]
    words = [*maps, "--scheme", "dubai", "--quiet", "--report", path, *arguments]
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def pictures(page: Path) -> dict[str, np.ndarray | None]:
    """Return the picture of each scene of a page, None where the viewer has none."""
    text = page.read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert match is not None
    shown = iter(
        np.asarray(Image.open(BytesIO(base64.b64decode(code))))
        for code in re.findall(r'data:image/jpeg;base64,([^"]*)"', text)
    )
    return {
        scene["name"]: next(shown) if scene["layers"][0]["key"] == "picture" else None
        for scene in json.loads(match[1])["scenes"]
    }


def of_part(part: str) -> Path:
    return TILE / "images" / f"image_part_{part}.jpg"


def is_of(picture: np.ndarray | None, part: str) -> bool:
    image = np.asarray(Image.open(of_part(part))).astype(int)
    return picture is not None and bool(np.abs(picture.astype(int) - image).mean() < 8)


def test_images_of_a_folder_lie_under_the_maps_of_their_scenes(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = report(page, "--image", TILE / "images")
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    images = pictures(page)
    assert [is_of(images[f"tile1_part{part}"], part) for part in PARTS] == [True, True]
    assert not is_of(images["tile1_part007"], "008")
    # by the scene's name too, and a scene may lack one
    own = tmp_path / "tile1_part008.png"
    Image.open(of_part("008")).save(own)
    result = report(page, "--image", own, "--overwrite")
    assert "warning: shown without an image, for none fits: tile1_part007" in result.stderr
    images = pictures(page)
    assert images["tile1_part007"] is None
    assert is_of(images["tile1_part008"], "008")


def test_images_of_another_grid_are_left_out(tmp_path: Path) -> None:
    page, cut = tmp_path / "page.html", tmp_path / "tile1_part007.png"
    Image.open(of_part("007")).crop((0, 0, 300, 300)).save(cut)
    result = report(page, "--image", cut, "--image", of_part("008"))
    assert result.exit_code == 0, result.output
    said = f"warning: left out because of another size or place than the labels: {cut}"
    assert said in result.stderr.splitlines()
    images = pictures(page)
    assert images["tile1_part007"] is None
    assert is_of(images["tile1_part008"], "008")


@pytest.mark.parametrize(("east", "is_shown"), [(0, True), (50, False)])
def test_one_image_is_of_the_one_map_where_it_lies_on_it(
    tmp_path: Path, east: int, is_shown: bool
) -> None:
    def placed(name: str, source: Path, easting: int) -> Path:
        pixels = np.moveaxis(np.asarray(Image.open(source).convert("RGB")), -1, 0)
        place = rasterio.Affine(0.5, 0, easting, 0, -0.5, 2_780_000)
        return write_raster(tmp_path / name, pixels, crs="EPSG:32640", transform=place)

    label = placed("gt.tif", TILE / "masks" / "image_part_007.png", 300_000)
    shown = placed("any name.tif", of_part("007"), 300_000 + east)
    page = tmp_path / "page.html"
    words = ["--pred", label, "--label", label, "--scheme", "dubai", "--image", shown]
    result = CliRunner().invoke(app, ["eval", *map(str, words), "--report", str(page)])
    assert result.exit_code == 0, result.output
    assert ("left out because of another size or place" in result.stderr) is not is_shown
    assert is_of(pictures(page)["gt"], "007") is is_shown


def test_red_is_red_in_whatever_order_bands_are(tmp_path: Path) -> None:
    pixels = np.moveaxis(np.asarray(Image.open(of_part("007")).convert("RGB")), -1, 0)
    shown = write_raster(tmp_path / "tile1_part007.tif", pixels[::-1])
    with rasterio.open(shown, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    page = tmp_path / "page.html"
    result = report(page, "--image", shown)
    assert result.exit_code == 0, result.output
    picture = pictures(page)["tile1_part007"]
    assert picture is not None
    colours = picture.astype(int).mean((0, 1))
    np.testing.assert_allclose(colours, pixels.mean((1, 2)), atol=1)
    assert abs(colours[0] - colours[2]) > 5


@pytest.mark.long
def test_pictures_of_scenes_show_the_bands_that_the_network_reads(tmp_path: Path) -> None:
    pixels, _, _ = write_scene(tmp_path / "raw", "b", 1, 70, 64)
    pixels[..., 0] //= 4
    with rasterio.open(tmp_path / "raw" / "b.tif", "r+") as dataset:
        dataset.write(pixels[..., ::-1].transpose(2, 0, 1))
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    (tmp_path / "mine.yaml").write_text(SCHEME)
    weights = write_weights(
        tmp_path / "w.safetensors", CLASSES, band_meanings=["red", "green", "blue"]
    )
    page = tmp_path / "page.html"
    options = ["--scheme", tmp_path / "mine.yaml", "--weights", weights, "--report", page]
    result = evaluated(tmp_path / "raw", *options)
    assert result.exit_code == 0, result.output
    picture = pictures(page)["b"]
    assert picture is not None
    red, green, blue = picture.astype(int).mean((0, 1))
    assert red < green / 2
    assert red < blue / 2


def test_two_maps_have_each_image_once_and_short_names(tmp_path: Path) -> None:
    mask = np.asarray(Image.open(TILE / "masks" / "image_part_007.png").convert("RGB"))
    maps = [tmp_path / folder / "x" / "map.png" for folder in ("one", "two")]
    for number, path in enumerate(maps):
        path.parent.mkdir(parents=True)
        Image.fromarray(np.roll(mask, 5 * number, axis=0)).save(path)
    page, other = tmp_path / "page.html", of_part("008")
    label = TILE / "masks" / "image_part_007.png"
    words = [*maps, "--label", label, "--scheme", "dubai", "--block", 32, "--report", page]
    words += ["--image", of_part("007"), "--image", other]  # of no scene that is scored
    result = CliRunner().invoke(app, ["eval", *map(str, words)])
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    assert is_of(pictures(page)["tile1_part007"], "007")
    text = page.read_text(encoding="utf-8")
    assert "<title>one/x/map.png and two/x/map.png on dubai</title>" in text
    assert [text.count(str(path)) for path in maps] == [2, 2]  # how it was taken, and made by
    assert "By mIoU, A is better" in text


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nothing.tif", 1, "no image is of a scene that is scored, e.g. tile1_part007"),
        ("tile1_part007.tif", 1, "not"),
        ("folder", 1, "holds no rasters"),
    ],
)
def test_images_that_can_not_be_shown_are_refused(
    tmp_path: Path, name: str, code: int, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    result = report(tmp_path / "page.html", "--image", tmp_path / name)
    assert result.exit_code == code
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert name in line
    assert words in line
    assert not (tmp_path / "page.html").exists()


def test_two_images_of_a_scene_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "tile1_part007.jpg"
    own.write_bytes(of_part("007").read_bytes())
    result = report(tmp_path / "page.html", "--image", own, "--image", of_part("007"))
    assert result.exit_code == 1
    assert "claim the same scene" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "--scheme", "dubai", "--report", "page.html"],
        ["--pred", "map.tif", "--label", "gt.tif", "--scheme", "dubai"],
    ],
)
def test_images_are_for_the_report_of_maps(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["eval", *arguments, "--image", "scene.tif"])
    assert result.exit_code == 2
    assert "give --label and --report" in " ".join(result.output.split())
