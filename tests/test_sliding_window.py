"""Sliding-window inference against a naive implementation that holds the whole scene."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from made_weights import scene_pixels

from hrrsi.errors import HrrsiError
from hrrsi.networks import build_network
from hrrsi.prediction.engine import TorchEngine
from hrrsi.prediction.sliding_window import predict_rows
from hrrsi.scenes.scene import open_scene
from hrrsi.weights import load_model

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def raster(values: np.ndarray, mask: np.ndarray | None = None, **profile: object) -> Path:
        path = tmp_path / "scene.tif"
        count, height, width = values.shape
        profile = {"dtype": values.dtype, "count": count} | profile
        with rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, **profile
        ) as dataset:
            dataset.write(values)
            if mask is not None:
                dataset.write_mask(mask)
        return path

    return raster


def pixels(height: int, width: int) -> np.ndarray:
    """Real pixels (3, height, width) uint8, mirrored where the real scene ends."""
    scene = np.moveaxis(scene_pixels(), -1, 0)
    _, h, w = scene.shape
    return np.pad(scene, ((0, 0), (0, max(0, height - h)), (0, max(0, width - w))), "symmetric")[
        :, :height, :width
    ]


def starts(length: int, window: int, stride: int) -> list[int]:
    result = [0]
    while result[-1] + window < length:
        result.append(min(result[-1] + stride, length - window))
    return result


def ramp(length: int, overlap: int, start: int, previous_end: int, end_of_scene: int) -> np.ndarray:
    """Weight of each pixel of a window along one axis, 0 where the window only gives context."""
    weights = np.zeros(length)
    for i in range(length):
        place = start + i
        if previous_end and place < previous_end - overlap:
            continue
        weights[i] = 1
        if previous_end and place < previous_end:
            t = (place - (previous_end - overlap) + 0.5) / overlap
            weights[i] *= (1 - np.cos(np.pi * t)) / 2
        if start + length < end_of_scene and i >= length - overlap:
            t = (length - i - 0.5) / overlap
            weights[i] *= (1 - np.cos(np.pi * t)) / 2
    return weights


def naive_labels(
    values: np.ndarray, valid: np.ndarray, network: torch.nn.Module, window: int, overlap: int
) -> np.ndarray:
    """All windows' softmax added up on a canvas of the scene's size, then the argmax."""
    meta = network.meta
    mean, std = (np.array(meta[k])[:, None, None] for k in ("mean", "std"))
    normalised = np.where(valid, (values / 255 - mean) / std, 0).astype(np.float32)
    _, height, width = values.shape
    canvas = np.zeros((len(meta["classes"]), height, width))
    h, w = min(window, height), min(window, width)
    row_end = 0
    for row in starts(height, h, window - overlap):
        column_end = 0
        for column in starts(width, w, window - overlap):
            part = normalised[None, :, row : row + h, column : column + w]
            with torch.no_grad():
                logits = network(torch.from_numpy(part))["lbl"]
            weights = np.outer(
                ramp(h, overlap, row, row_end, height), ramp(w, overlap, column, column_end, width)
            )
            canvas[:, row : row + h, column : column + w] += logits.softmax(1)[0].numpy() * weights
            column_end = column + w
        row_end = row + h
    return np.where(valid, canvas.argmax(0), 255)


def stitched(path: Path, weights: Path, **options: object) -> np.ndarray:
    nodata = options.pop("nodata", None)
    with open_scene(path, nodata=nodata) as scene:
        labels = np.full((scene.height, scene.width), 254, dtype=np.uint8)
        next_row = 0
        for row, strip in predict_rows(scene, load_model(weights), **options):
            assert row == next_row
            assert strip.shape[1] == scene.width
            assert strip.dtype == np.uint8
            labels[row : row + len(strip)] = strip
            next_row += len(strip)
        assert next_row == scene.height
    return labels


@pytest.mark.parametrize(
    ("height", "width", "window", "overlap"),
    [
        (150, 210, 64, 16),
        (129, 200, 64, 0),  # the last windows move inward, with no overlap asked for
        (160, 160, 64, 32),  # half a window: every pixel is in two windows an axis
        (65, 97, 64, 32),  # the last window is one pixel further on
        (40, 200, 64, 16),  # lower than a window
        (200, 33, 64, 16),  # narrower
        (37, 50, 512, 64),  # smaller both ways
        (64, 64, 64, 16),  # exactly one window
        (100, 130, 50, 7),  # no size that 32 divides
    ],
)
def test_equals_the_naive_implementation(
    write: Write, made_weights: Path, height: int, width: int, window: int, overlap: int
) -> None:
    values = pixels(height, width)
    labels = stitched(write(values), made_weights, window=window, overlap=overlap)
    valid = np.ones((height, width), dtype=bool)
    expected = naive_labels(values, valid, load_model(made_weights), window, overlap)
    assert len(np.unique(expected)) >= 4  # a map of one class would prove nothing
    assert (labels != expected).sum() <= 1  # float32 sums may tie where the naive ones do not


@pytest.mark.parametrize("kind", ["mask", "nodata tag", "alpha", "option"])
def test_pixels_without_data_have_no_class_and_count_as_the_mean(
    write: Write, made_weights: Path, kind: str
) -> None:
    values = np.maximum(pixels(150, 210), 1)
    valid = np.ones((150, 210), dtype=bool)
    valid[:90, :130] = False  # a whole window, and parts of others
    valid[140:, 100:120] = False
    options: dict[str, object] = {}
    if kind == "mask":
        values[:, ~valid] = 200
        path = write(values, mask=valid)
    elif kind == "alpha":
        values[:, ~valid] = 200
        alpha = np.where(valid, 255, 0).astype(np.uint8)[None]
        path = write(np.concatenate([values, alpha]), photometric="rgb", alpha="yes")
    else:
        values[:, ~valid] = 0
        path = write(values, **({"nodata": 0} if kind == "nodata tag" else {}))
        options = {} if kind == "nodata tag" else {"nodata": 0}
    labels = stitched(path, made_weights, window=64, overlap=16, **options)
    expected = naive_labels(values, valid, load_model(made_weights), 64, 16)
    np.testing.assert_array_equal(labels == 255, ~valid)
    assert (labels != expected).sum() <= 1


def test_nan_is_no_data(write: Write, made_weights: Path) -> None:
    values = pixels(100, 120)
    floats = values.astype(np.float32) / 255
    floats[:, 20:50, 30:60] = np.nan
    floats[1, 70, 80] = np.inf
    valid = np.isfinite(floats).all(0)
    labels = stitched(write(floats), made_weights, window=64, overlap=16, scale=1.0)
    expected = naive_labels(values, valid, load_model(made_weights), 64, 16)
    np.testing.assert_array_equal(labels == 255, ~valid)
    assert (labels != expected).sum() <= 1


def test_uint16_with_scale_is_the_same_map(write: Write, made_weights: Path) -> None:
    values = pixels(100, 120)
    labels = stitched(write(values), made_weights, window=64, overlap=16)
    path = write(values.astype(np.uint16) * 257)
    scaled = stitched(path, made_weights, window=64, overlap=16, scale=65535.0)
    assert (scaled != labels).sum() <= 1
    with pytest.raises(HrrsiError, match=r"holds uint16 where .* uint8.*--scale"):
        stitched(path, made_weights, window=64, overlap=16)


def test_labels_do_not_depend_on_the_batch(write: Write, made_weights: Path) -> None:
    values = pixels(150, 210)
    values[:, 20:80, 40:130] = 0
    path = write(values)
    maps = [
        stitched(path, made_weights, window=64, overlap=16, batch=batch, nodata=0)
        for batch in (1, 2, 5, 64)
    ]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_windows_without_data_skip_the_network(
    write: Write, made_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    run = TorchEngine.probabilities
    monkeypatch.setattr(
        TorchEngine, "probabilities", lambda self, x: seen.append(len(x)) or run(self, x)
    )
    values = pixels(192, 256)
    values[:, :, :128] = 0
    stitched(write(values), made_weights, window=64, overlap=0, batch=4, nodata=0)
    assert seen == [4, 2]  # 6 of 12 windows, in batches that span rows of windows
    seen.clear()
    values[:] = 0
    assert (stitched(write(values), made_weights, window=64, nodata=0, overlap=0) == 255).all()
    assert seen == []


def test_counts_every_pixel_once(write: Write, made_weights: Path) -> None:
    counted: list[int] = []
    path = write(pixels(150, 210))
    stitched(path, made_weights, window=64, overlap=20, on_pixels=counted.append)
    assert sum(counted) == 150 * 210
    assert len(counted) > 6


@pytest.mark.parametrize(("window", "overlap"), [(64, 33), (64, 64), (64, -1), (0, 0)])
def test_refuses_overlaps_that_do_not_fit(
    write: Write, made_weights: Path, window: int, overlap: int
) -> None:
    path = write(pixels(80, 80))
    with (
        open_scene(path) as scene,
        pytest.raises(HrrsiError, match="does not fit windows"),
    ):
        predict_rows(scene, load_model(made_weights), window=window, overlap=overlap)


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "window reader"]


def test_a_truncated_file_ends_in_one_error(write: Write, made_weights: Path) -> None:
    path = write(pixels(300, 300), tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(HrrsiError, match=r"scene\.tif: .*truncated or damaged"):
        stitched(path, made_weights, window=64, overlap=16)
    assert readers() == []


def test_stopping_early_ends_the_reader(write: Write, made_weights: Path) -> None:
    with open_scene(write(pixels(300, 300))) as scene:
        rows = predict_rows(scene, load_model(made_weights), window=64, overlap=16)
        next(rows)
        assert len(readers()) == 1
        rows.close()
        assert readers() == []


@pytest.mark.parametrize("model", ["ued", "ued_bes", "ued_bes_sfm", "ued_bes_sfm_1p3"])
def test_segment_is_the_label_map_of_forward(model: str) -> None:
    torch.manual_seed(1)
    network = build_network(model, 5).eval()
    image = torch.randn(2, 3, 70, 53)
    with torch.inference_mode():
        assert torch.equal(network.segment(image), network(image)["lbl"])
        expected = network(image)["lbl"].softmax(1).numpy()
    np.testing.assert_allclose(
        TorchEngine(network).probabilities(image.numpy()), expected, atol=1e-5
    )


@pytest.mark.gpu
def test_a_gpu_gives_the_same_map(write: Write, made_weights: Path) -> None:
    path = write(pixels(700, 900))
    on_cpu = stitched(path, made_weights, window=256, overlap=32)
    on_gpu = stitched(path, made_weights, window=256, overlap=32, device="cuda")
    assert (on_cpu == on_gpu).mean() > 0.9999
