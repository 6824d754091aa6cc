"""The graphs that runtimes read give the networks' own logits."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.graphs.segmentation import logits_graph
from hrrsi.networks.architecture import GHOSTNET_MODELS
from hrrsi.networks.model_meta import normalisation
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_weights
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions


def pixels(height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(height + width)
    return rng.integers(0, 256, (3, height, width)).astype(dtype)


@pytest.mark.long
@pytest.mark.parametrize("model", GHOSTNET_MODELS)
@pytest.mark.parametrize("size", [(64, 64), (97, 61)])
def test_logits_are_those_of_the_network(model: str, size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    network = build_network(model, 6).train()
    with torch.no_grad():
        for _ in range(3):  # BatchNorms that are not the identity
            network(torch.randn(2, 3, 64, 64))
    network.eval()
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    graph = logits_graph(model, tensors, 6, 3, *size, "float32")
    onnx.checker.check_model(graph, full_check=True)
    image = np.random.default_rng(1).normal(size=(2, 3, *size)).astype(np.float32)
    gain, offset = normalisation(1, [0, 0, 0], [1, 1, 1])
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(None, {"pixels": image, "gain": gain, "offset": offset})
    with torch.inference_mode():
        expected = network.coarse_logits(torch.from_numpy(image)).numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))


def test_pixels_are_normalised_inside_the_graph() -> None:
    gain, offset = normalisation(10000, [0.4, 0.3, 0.2], [0.2, 0.1, 0.05])
    values = np.array([4000, 3000, 200]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(
        (values * gain + offset).ravel(), [0, 0, (0.02 - 0.2) / 0.05], atol=1e-6
    )


@pytest.mark.long
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_engines_agree(engine: str, dtype: str) -> None:
    meta, _ = read_weights(packaged_weights())
    normal = meta.normalisation()
    windows = [pixels(96, 64, dtype), None, pixels(96, 64, dtype)[:, ::-1].copy()]
    reference = open_engine(options=EngineOptions("torch", "32", "cpu"))
    runner = open_engine(options=EngineOptions(engine, "32", "cpu", threads=2))
    expected = list(reference.logits(iter(windows), *normal))
    found = list(runner.logits(iter(windows), *normal))
    assert [f is None for f in found] == [False, True, False]
    for one, other in zip(expected, found, strict=True):
        if one is not None and other is not None:
            np.testing.assert_allclose(other, one, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_batches_and_threads_give_the_same_logits(engine: str) -> None:
    meta, _ = read_weights(packaged_weights())
    normal = meta.normalisation()
    windows = [pixels(64, 64 + 32 * (i > 4)) for i in range(7)]  # the size changes on the way
    found = [
        list(
            open_engine(options=EngineOptions(engine, "32", "cpu", threads, batch)).logits(
                iter(windows), *normal
            )
        )
        for threads, batch in ((1, 1), (2, 1), (2, 3))
    ]
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


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
    assert len(result.stderr.splitlines()) == 1, result.stderr
