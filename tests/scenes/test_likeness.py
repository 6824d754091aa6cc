"""Scenes that look unlike all training data are known by distances between squares of imagery."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rasterio.transform import from_origin
from samples.opened_windows import opened_windows
from samples.predicted_scenes import SMALL, notices, save_scene
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import WeightsError
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.scenes.likeness import Likeness, patch_squares, scene_squares, square_numbers
from hrrsi.scenes.window_source import ArrayWindows
from hrrsi.scenes.windows import Window


def photograph(examples: Path, tile: int) -> np.ndarray:
    """An image of a tile of Dubai, (3, height, width)."""
    file = sorted((examples / "dubai" / f"tile{tile}" / "images").iterdir())[0]
    return np.moveaxis(np.asarray(Image.open(file).convert("RGB")), -1, 0)


def squares_of(image: np.ndarray, side: int = 64) -> Iterator[np.ndarray]:
    for row in range(0, image.shape[1] - side + 1, side):
        for col in range(0, image.shape[2] - side + 1, side):
            yield image[:, row : row + side, col : col + side]


@pytest.fixture(scope="module")
def likeness() -> Likeness:
    """What four tiles of the examples look like."""
    from samples.repository import REPOSITORY

    numbers, scenes = [], []
    for tile in (4, 5, 6, 7):
        for square in squares_of(photograph(REPOSITORY / "examples", tile)):
            numbers.append(square_numbers(square, 255))
            scenes.append(str(tile))
    result = Likeness.of_squares(np.array(numbers), scenes)
    assert result is not None
    return result


@pytest.fixture
def knowing_weights(likeness: Likeness, made_weights: Path, tmp_path: Path) -> Path:
    network = load_model(made_weights)
    path = tmp_path / "weights" / "knowing.safetensors"
    meta = replace(network.meta, likeness=likeness.to_plain())
    save_weights(network.state_dict(), meta, path)
    return path


def test_numbers_are_those_of_plain_loops() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 1000, (4, 17, 22)).astype(np.uint16)
    numbers = square_numbers(pixels, 1000)
    values = pixels / 1000
    brightness = values.mean(0)
    contrasts = []
    image = brightness
    for _ in range(3):
        rows, cols = image.shape
        across = [abs(image[r, c + 1] - image[r, c]) for r in range(rows) for c in range(cols - 1)]
        down = [abs(image[r + 1, c] - image[r, c]) for r in range(rows - 1) for c in range(cols)]
        contrasts.append((np.mean(across) + np.mean(down)) / 2)
        image = np.array(
            [
                [image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean() for c in range(cols // 2)]
                for r in range(rows // 2)
            ]
        )
    expected = [
        *(float(np.sort(brightness[::2, ::2].ravel())[[round(98 * q)]][0]) for q in (0.5,)),
        *(band.mean() - brightness.mean() for band in values),
        *(np.log(np.std(band - brightness) + 0.005) for band in values),
        np.log((values.max(0) - values.min(0)).mean() + 0.01),
        *np.log(np.array(contrasts) + 0.002),
    ]
    np.testing.assert_allclose([numbers[1], *numbers[3:-1]], expected, atol=2e-5)
    assert numbers[0] < numbers[1] < numbers[2]


def test_the_threshold_is_of_squares_of_other_scenes() -> None:
    random = np.random.default_rng(2)
    numbers = np.repeat(random.normal(size=(30, 1, 5)), 3, axis=1)
    numbers += random.normal(scale=0.01, size=numbers.shape)  # squares of a scene are much alike
    scenes = [str(i) for i in range(30) for _ in range(3)]
    result = Likeness.of_squares(numbers.reshape(-1, 5), scenes)
    assert result is not None
    flat = (numbers.reshape(-1, 5) - numbers.reshape(-1, 5).mean(0)) / numbers.reshape(-1, 5).std(0)
    nearest = [
        min(
            float(np.sqrt(np.mean((square - other) ** 2)))
            for other, name in zip(flat, scenes, strict=True)
            if name != own
        )
        for square, own in zip(flat, scenes, strict=True)
    ]
    assert result.threshold == pytest.approx(np.quantile(nearest, 0.99), abs=0.06)
    assert result.distance(numbers.reshape(-1, 5)) < 0.06  # each is a square of the training
    assert Likeness.of_squares(numbers[:, 0], ["a"] * 30) is None
    assert Likeness.of_squares(numbers[:10, 0], scenes[:10]) is None


def test_it_survives_a_weights_file(likeness: Likeness, knowing_weights: Path) -> None:
    stored = load_model(knowing_weights).meta.likeness
    assert stored is not None
    again = Likeness.from_plain(stored)
    assert again.threshold == likeness.threshold
    np.testing.assert_array_equal(again.squares, likeness.squares)
    np.testing.assert_array_equal(again.centre, likeness.centre)


def test_info_says_it_in_short(likeness: Likeness, knowing_weights: Path) -> None:
    line = ["info", str(knowing_weights)]
    squares, threshold = len(likeness.squares), likeness.threshold
    text = f"by {squares} squares of training patches; warns above a distance of {threshold:.2g}"
    assert text in " ".join(CliRunner().invoke(app, line).stdout.split())
    content = json.loads(CliRunner().invoke(app, [*line, "--format", "json"]).stdout)
    assert content["likeness"] == {"squares": squares, "threshold": threshold}


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        {"centre": [1.0]},
        {"spread": [0.0] * 14},
        {"squares": []},
        {"squares": [[1.0]]},
        {"threshold": 0},
        {"threshold": None},
        {"squares": None},
    ],
)
def test_a_damaged_one_is_a_damaged_description(
    change: dict[str, Any], knowing_weights: Path
) -> None:
    meta = load_model(knowing_weights).meta
    changed = meta.to_metadata() | {"likeness": json.dumps({**meta["likeness"], **change})}
    with pytest.raises(WeightsError, match="description is damaged"):
        ModelMeta.from_metadata(changed, knowing_weights)


@pytest.mark.parametrize(("size", "count", "side"), [(64, 1, 64), (200, 1, 128), (512, 4, 128)])
def test_squares_of_patches_lie_apart(size: int, count: int, side: int) -> None:
    squares = patch_squares(size)
    assert len(squares) == count
    covered = np.zeros((size, size), dtype=int)
    for row, col, height, width in squares:
        assert height == width == side
        assert min(row, col) >= 0
        covered[row : row + height, col : col + width] += 1
    assert covered.sum() == count * side * side  # none beyond the patch
    assert covered.max() == 1


def test_scenes_are_told_apart(likeness: Likeness, examples: Path) -> None:
    image = photograph(examples, 1)
    other = image.astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 40, image.shape)
    unlike = {
        "noise": np.clip(other + noise, 0, 255),
        "another order of bands, dark": other[[2, 0, 1]] / 4,
        "one band": np.broadcast_to(255 - other[:1], image.shape),
    }
    own = likeness.distance(scene_squares(ArrayWindows(image), 255))
    assert own < likeness.threshold
    for name, pixels in unlike.items():
        source = ArrayWindows(pixels.astype(np.uint8))
        assert likeness.distance(scene_squares(source, 255)) > likeness.threshold, name


def test_only_squares_that_hold_data_count(tmp_path: Path, examples: Path) -> None:
    image = photograph(examples, 1)[:, :400, :400]
    whole = scene_squares(ArrayWindows(image), 255)
    assert len(whole) == 16
    valid = np.zeros(image.shape[1:], dtype=bool)
    valid[:160] = True
    upper = scene_squares(ArrayWindows(image, valid), 255)
    assert 4 <= len(upper) < 16
    assert len(scene_squares(ArrayWindows(image, np.zeros_like(valid)), 255)) == 0
    assert len(scene_squares(ArrayWindows(image[:, :20]), 255)) == 0  # too small
    assert len(scene_squares(ArrayWindows(image, steps=(8.0, 8.0)), 255)) == 4  # of 32 px
    expected = square_numbers(image[:, :128, :128], 255)
    np.testing.assert_allclose(whole[0], expected, atol=1e-4)
    path = save_scene(
        tmp_path / "a.tif", image, crs="EPSG:28992", transform=from_origin(0, 99, 0.1, 0.1)
    )
    with opened_windows(path) as source:
        np.testing.assert_allclose(scene_squares(source, 255), whole, atol=1e-4)


def test_reading_goes_from_top_to_bottom(examples: Path) -> None:
    class Reads(ArrayWindows):
        def read(self, window: Window) -> Any:
            rows.append(window.row)
            return super().read(window)

    rows: list[int] = []
    scene_squares(Reads(photograph(examples, 4)), 255)
    assert rows == sorted(rows)


@pytest.mark.long
def test_predict_warns_once_and_counts(
    knowing_weights: Path, likeness: Likeness, tmp_path: Path, examples: Path
) -> None:
    image = photograph(examples, 1)[:, :150, :200]
    noise = np.random.default_rng(0).normal(0, 40, image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    for name, pixels in (("a", image), ("b", noisy), ("c", noisy)):
        save_scene(tmp_path / f"{name}.tif", pixels)
    line = ["predict", str(tmp_path), "--out", str(tmp_path / "maps"), *SMALL]
    result = CliRunner().invoke(app, [*line, "--weights", str(knowing_weights)])
    assert result.exit_code == 0, result.output
    first, count = notices(result)
    with opened_windows(tmp_path / "b.tif") as source:
        distance = likeness.distance(scene_squares(source, 255))
    assert first == (
        f"warning: {tmp_path / 'b.tif'}: looks unlike anything the weights were trained on "
        f"(distance {distance:.2g}, 99% of training patches are below {likeness.threshold:.2g}); "
        "check the map before you use it"
    )
    assert count == (
        "warning: 2 of 3 scenes: unlike anything the weights were trained on (b.tif, c.tif)"
    )
