"""The graphs that runtimes read give the networks' own logits."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from samples.made_weights import meta
from samples.predicted_scenes import notices
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.graphs import segmentation
from hrrsi.graphs.graph import Map
from hrrsi.graphs.segmentation import logits_graph
from hrrsi.networks.architecture import GHOSTNET_MODELS, LITE_SIZES
from hrrsi.networks.model_meta import normalisation
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_weights
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions

LITE = "ued-tf_efficientnet_lite0"
LITE_MODELS = (
    *(f"ued-{encoder}" for encoder in LITE_SIZES),
    f"{LITE}.in1k".replace("ued", "ued_bes_sfm"),
)


def widths_marked_slow(models: Iterable[str]) -> list[Any]:
    """Networks and a size of windows; those that differ by their width alone are slow ones."""
    widths = re.compile(r"_1p3|_1p5|lite[123]")
    return [
        pytest.param(model, (97, 61), marks=[pytest.mark.slow] if widths.search(model) else [])
        for model in models
    ]


def pixels(height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(height + width)
    return rng.integers(0, 256, (3, height, width)).astype(dtype)


def random_network(model: str, classes: int = 6, *, wide: bool = False) -> SegmentationNetwork:
    """A network whose BatchNorms are not the identity; `wide`: what ReLU6s see goes beyond 6."""
    torch.manual_seed(3)
    network = build_network(model, classes).train()
    with torch.no_grad():
        for layer in (m for m in network.modules() if wide and isinstance(m, torch.nn.BatchNorm2d)):
            layer.momentum = None
            layer.weight.copy_(2 * torch.rand_like(layer.weight) + 0.5)
            layer.bias.normal_()
        for _ in range(1 if wide else 3):
            network(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "size"),
    [
        *widths_marked_slow(GHOSTNET_MODELS),
        ("ued", (64, 64)),
        ("ued_bes_sfm", (64, 64)),
    ],
)
def test_logits_are_those_of_the_network(model: str, size: tuple[int, int]) -> None:
    assert_equal_logits(random_network(model), model, size, 1e-5)


@pytest.mark.long
@pytest.mark.parametrize(("model", "size"), [*widths_marked_slow(LITE_MODELS), (LITE, (64, 64))])
def test_logits_on_efficientnet_lite(model: str, size: tuple[int, int]) -> None:
    # what single precision alone does to so random a network is 1e-4
    assert_equal_logits(random_network(model, wide=True), model, size, 1e-3)


@pytest.mark.long
def test_logits_of_maps_that_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counted(image: Map, channels: int) -> int:
        counts.append(parts(image, channels))
        return counts[-1]

    parts = segmentation._parts
    monkeypatch.setattr(segmentation, "_parts", counted)
    network = random_network(LITE)
    assert_equal_logits(network, LITE, (256, 224), 1e-5)
    assert counts[:3] == [2, 1, 1]
    monkeypatch.setattr(segmentation, "_PART_BYTES", 1e4)
    assert_equal_logits(network, LITE, (90, 64), 1e-5)
    assert max(counts) > 8


def assert_equal_logits(
    network: SegmentationNetwork, model: str, size: tuple[int, int], tolerance: float
) -> None:
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    graph = logits_graph(model, tensors, 6, 3, *size, "float32")
    onnx.checker.check_model(graph, full_check=True)
    image = np.random.default_rng(1).normal(size=(2, 3, *size)).astype(np.float32)
    gain, offset = normalisation(1, [0, 0, 0], [1, 1, 1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (logits,) = session.run(None, {"pixels": image, "gain": gain, "offset": offset})
    with torch.inference_mode():
        expected = network.coarse_logits(torch.from_numpy(image)).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(
        logits, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max())
    )


@pytest.mark.long
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_maps_on_efficientnet_lite_are_those_of_torch(engine: str, tmp_path: Path) -> None:
    weights = tmp_path / "lite.safetensors"
    save_weights(random_network(LITE, 5).state_dict(), replace(meta(), model=LITE), weights)
    flags = f"predict {scene(tmp_path)} --weights {weights} --window 64 --overlap 0 --quiet"
    labels = []
    for name in (engine, "torch"):
        out = tmp_path / f"{name}.tif"
        command = f"{flags} --engine {name} --precision 32 --out {out}"
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, result.output
        labels.append(np.asarray(Image.open(out)))
    assert len(np.unique(labels[1])) > 1
    np.testing.assert_array_equal(labels[0], labels[1])


def test_efficientnet_lite_of_another_size_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "lying.safetensors"
    described = replace(meta(), model="ued-tf_efficientnet_lite2")
    save_weights(build_network("ued-tf_efficientnet_lite1", 5).state_dict(), described, weights)
    result = CliRunner().invoke(app, ["info", str(weights)])
    assert result.exit_code == 1
    assert "blocks.2 gives 40 channels" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_pixels_are_normalised_inside_the_graph() -> None:
    gain, offset = normalisation(10000, [0.4, 0.3, 0.2], [0.2, 0.1, 0.05])
    values = np.array([4000, 3000, 200]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(
        (values * gain + offset).ravel(), [0, 0, (0.02 - 0.2) / 0.05], atol=1e-6
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        *(("openvino", dtype) for dtype in ("uint8", "uint16", "int16", "float32")),
        *(("onnxruntime", dtype) for dtype in ("uint16", "float32")),
        ("torch", "int16"),
    ],
)
def test_engines_agree(engine: str, dtype: str) -> None:
    meta, _ = read_weights(packaged_weights())
    normal = meta.normalisation()
    windows = [pixels(96, 64, dtype), None, pixels(96, 64, dtype)[:, ::-1].copy()]
    reference = open_engine(options=EngineOptions("torch", "32", "cpu"))
    runner = open_engine(options=EngineOptions(engine, "32", "cpu", threads=2))
    expected = list(reference.logits(iter(windows), *normal))
    outputs = list(runner.logits(iter(windows), *normal))
    assert [f is None for f in outputs] == [False, True, False]
    for logits, other_logits in zip(expected, outputs, strict=True):
        if logits is not None and other_logits is not None:
            np.testing.assert_allclose(other_logits, logits, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_batches_and_threads_give_the_same_logits(engine: str) -> None:
    meta, _ = read_weights(packaged_weights())
    normal = meta.normalisation()
    windows = [pixels(64, 64 + 32 * (i > 4)) for i in range(7)]  # the size changes on the way
    outputs = [
        list(
            open_engine(options=EngineOptions(engine, "32", "cpu", threads, batch)).logits(
                iter(windows), *normal
            )
        )
        for threads, batch in ((1, 1), (2, 1), (2, 3))
    ]
    for batch_logits in outputs[1:]:
        for logits, other_logits in zip(outputs[0], batch_logits, strict=True):
            np.testing.assert_allclose(logits, other_logits, atol=2e-5)


def scene(folder: Path) -> Path:
    Image.fromarray(np.moveaxis(pixels(64, 64), 0, -1)).save(folder / "scene.png")
    return folder / "scene.png"


@pytest.mark.parametrize("named", ["ued_bes_1p3", "ued_1p5", "ued_bes_sf"])
def test_weights_that_are_not_the_networks_are_one_line(
    made_weights: Path, tmp_path: Path, named: str
) -> None:
    lying = tmp_path / "lying.safetensors"
    text = made_weights.read_bytes()
    assert text.count(b"ued_bes_sfm") == 1
    # the header's length counts: pad with blanks, which JSON ignores
    padded = f'"{named}\\"'.encode()
    length = len(b'ued_bes_sfm\\"') - len(padded) + 1
    lying.write_bytes(text.replace(b'ued_bes_sfm\\""', padded[1:] + b'"' + b" " * length, 1))
    result = CliRunner().invoke(
        app, ["predict", str(scene(tmp_path)), "--weights", str(lying), "--out", str(tmp_path)]
    )
    assert result.exit_code == 1
    assert "lying.safetensors" in result.stderr
    assert len(notices(result)) == 1, result.stderr
