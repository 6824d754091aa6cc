"""Exported networks: what other programs find in the files, and that they give the same labels."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from samples.made_weights import meta, save_made_weights, scene_pixels
from samples.repository import REPOSITORY
from scipy.ndimage import median_filter
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi.cli import app
from hrrsi.deployment import export as export_module
from hrrsi.networks.architecture import LogitAlignment
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import read_meta

SIDE = 64
METRES = 20  # of heights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_weights(tmp_path_factory.mktemp("weights") / "made.safetensors")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def error_of(result: Result) -> str:
    assert result.exit_code == 1, result.output
    *before, line = result.stderr.splitlines()
    assert all(said.startswith("weights: ") for said in before), result.stderr
    return line


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def probabilities_of(weights: Path, pixels: np.ndarray, scale: float) -> np.ndarray:
    """What PyTorch's network says of (bands, height, width) pixels, normalised by hand."""
    network = hrrsi.load_model(weights)
    mean, std = (np.reshape(network.meta[name], (-1, 1, 1)) for name in ("mean", "std"))
    image = (pixels / scale - mean) / std
    with torch.inference_mode():
        logits = network(torch.from_numpy(image.astype(np.float32))[None])["lbl"]
    return logits.softmax(dim=1).numpy()


def test_the_file_is_what_plugins_read(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    result = run(weights, "--out", out, "--window", SIDE, "--overlap", 16, "--resolution", 0.3)
    assert result.exit_code == 0, result.output
    assert f"{out}: 11.3 MB, windows of 64 px at 30 cm a pixel; checked with" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(out, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in model.graph.initializer)
    session = session_of(out)
    (network_input,), (network_output,) = session.get_inputs(), session.get_outputs()
    assert (network_input.name, network_input.type, network_input.shape) == (
        "input",
        "tensor(float)",
        [1, 3, SIDE, SIDE],
    )
    assert (network_output.name, network_output.type, network_output.shape) == (
        "output",
        "tensor(float)",
        [1, 5, SIDE, SIDE],
    )

    metadata = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata.pop("hrrsi")["model"] == '"ued_bes_sfm"'
    # as Deepness and GeoDeep read it: each value JSON, classes from 0 without gaps
    names = hrrsi.load_model(weights).meta.classes
    assert metadata == {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(names)},
        "resolution": 30,
        "tiles_size": SIDE,
        "tile_size": SIDE,
        "tiles_overlap": 25,
        "seg_thresh": 0,
        "seg_small_segment": 0,
    }


# a multiple of the stride of the logits, and none
@pytest.mark.parametrize(("alignment", "side"), [("corners", SIDE), ("centres", SIDE - 2)])
def test_it_gives_the_networks_probabilities(
    tmp_path: Path, alignment: LogitAlignment, side: int
) -> None:
    weights = save_made_weights(tmp_path / "made.safetensors", alignment=alignment)
    options = hrrsi.ExportOptions(window=side, resolution=0.3)
    written = hrrsi.export(weights, tmp_path / "model.onnx", options=options)
    assert written.runtime == "onnxruntime"
    assert (written.compared, written.different) == (3 * side**2, 0)
    assert written.file_bytes == written.path.stat().st_size
    pixels = np.moveaxis(scene_pixels()[:side, :side], -1, 0)
    window = (pixels[None] / 255).astype(np.float32)
    (probabilities,) = session_of(written.path).run(None, {"input": window})
    np.testing.assert_allclose(probabilities, probabilities_of(weights, pixels, 255), atol=1e-4)
    assert len(np.unique(probabilities.argmax(axis=1))) >= 3


@pytest.mark.slow
def test_openvinos_format_says_and_gives_the_same(weights: Path, tmp_path: Path) -> None:
    options = hrrsi.ExportOptions("openvino", window=SIDE, resolution=0.3)
    written = hrrsi.export(weights, tmp_path / "model.xml", options=options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert written.file_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    model = openvino.Core().read_model(written.path)
    assert json.loads(model.get_rt_info(["model_info", "tiles_size"]).value) == SIDE
    names = json.loads(model.get_rt_info(["model_info", "class_names"]).value)
    assert list(names.values()) == written.meta.classes
    pixels = np.moveaxis(scene_pixels()[:SIDE, :SIDE], -1, 0)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    probabilities = compiled((pixels[None] / 255).astype(np.float32))["output"]
    np.testing.assert_allclose(probabilities, probabilities_of(weights, pixels, 255), atol=1e-4)


def test_bands_scale_and_heights_are_the_weights_own(tmp_path: Path) -> None:
    described = replace(
        meta(bands=3), model="ued", height=True, bands=[1, 2], dtype="uint16", scale=2047.0
    )
    described = replace(described, mean=[0.4, 0.5, 4 / 2047], std=[0.2, 0.3, METRES / 2047])
    torch.manual_seed(1)
    path = tmp_path / "heights.safetensors"
    save_weights(build_network("ued", 5, 3).state_dict(), described, path)
    options = hrrsi.ExportOptions(window=SIDE, resolution=0.1)
    written = hrrsi.export(path, tmp_path / "model.onnx", options=options)
    assert written.different <= 1
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2047, (3, SIDE, SIDE)).astype(np.float32)
    pixels[2] = rng.uniform(0, METRES, (SIDE, SIDE))
    (probabilities,) = session_of(written.path).run(None, {"input": pixels[None] / np.float32(255)})
    np.testing.assert_allclose(probabilities, probabilities_of(path, pixels, 2047), atol=1e-4)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "side"),
    [
        ("ued-resnet18", SIDE),
        ("ued_bes_sfm-mobilenetv4_conv_small", SIDE),
        ("ued-tf_mobilenetv3_small_100", SIDE),  # of which the exporter knows no sizes
        ("ued-resnet18", 90),  # no multiple of 32
    ],
)
def test_networks_without_a_graph_go_through_torch(tmp_path: Path, model: str, side: int) -> None:
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(2)
    described = replace(meta(resolution=0.2), model=model)
    save_weights(build_network(model, 5).state_dict(), described, path)
    options = hrrsi.ExportOptions(window=side)
    written = hrrsi.export(path, tmp_path / "model.onnx", options=options)
    assert written.resolution == 0.2
    assert written.different <= 1
    assert read_meta(written.path).window == side
    pixels = np.moveaxis(scene_pixels()[:side, :side], -1, 0)
    window = (pixels[None] / 255).astype(np.float32)
    (probabilities,) = session_of(written.path).run(None, {"input": window})
    np.testing.assert_allclose(probabilities, probabilities_of(path, pixels, 255), atol=1e-4)


@pytest.mark.slow
@pytest.mark.long
def test_what_torch_cannot_write_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.safetensors"
    described = replace(meta(resolution=0.2), model="pspnet")
    save_weights(build_network("pspnet", 5).state_dict(), described, path)
    line = error_of(run(path, "--out", tmp_path / "model.onnx", "--window", SIDE))
    assert f"{path}: its network is one that PyTorch can't write in opset 17" in line
    assert capfd.readouterr().out == "", "nor what its exporter prints beside Python"
    assert not (tmp_path / "model.onnx").exists()


def test_a_file_that_gives_other_labels_is_not_kept(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = export_module.probabilities_graph

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = graph(*arguments)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.shape == (1, 3, 1, 1):  # the normalisation
                tensor.CopyFrom(onnx.numpy_helper.from_array(values * 1.1, tensor.name))
        return model

    monkeypatch.setattr(export_module, "probabilities_graph", wrong)
    for name, more in (("model.onnx", []), ("model.xml", ["--format", "openvino"])):
        out = tmp_path / name
        flags = ("--out", out, "--window", SIDE, "--resolution", 0.3)
        line = error_of(run(weights, *flags, *more))
        assert "what was written gives other labels on" in line
        assert "nothing was kept" in line
        assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_one_line_and_leaves_what_is_there(
    weights: Path, tmp_path: Path, wrong_input: Callable[..., str]
) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("mine")
    flags = (weights, "--out", out, "--resolution", 0.3)
    assert "exists already; give --overwrite" in wrong_input(*flags)
    assert out.read_text() == "mine"
    (tmp_path / "other.bin").write_text("mine")  # of OpenVINO's two files the one that is not named
    openvinos = (*flags[:2], tmp_path / "other.xml", "--resolution", 0.3, "--format", "openvino")
    assert "other.bin: exists already; give --overwrite" in wrong_input(*openvinos)
    assert (tmp_path / "other.bin").read_text() == "mine"
    free = tmp_path / "free.onnx"
    assert "does not say which ground resolution" in wrong_input(weights, "--out", free)
    assert "--resolution: -1 is no ground" in wrong_input(weights, "--resolution", -1)
    assert "windows of 8192 px are too large" in wrong_input(weights, "--window", 8192)
    capital = ("--out", tmp_path / "A.XML", "--format", "openvino", "--resolution", 0.3)
    assert "A.XML does not end in .xml" in wrong_input(weights, *capital)
    assert "does not end in .onnx" in wrong_input(weights, "--out", tmp_path / "model.xml")
    assert "an overlap of 300 px does not fit" in wrong_input(weights, "--overlap", 300)
    assert "no such weights" in wrong_input("nowhere.safetensors", "--out", free)
    (tmp_path / "note.safetensors").write_text("note")
    assert "note.safetensors" in wrong_input(tmp_path / "note.safetensors", "--out", free)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "note.safetensors",
        "other.bin",
    ]


@pytest.fixture
def wrong_input() -> Callable[..., str]:
    """Runs the command with wrong input, and returns the one line that it says."""
    return lambda *arguments: error_of(run(*arguments))


@pytest.mark.slow  # installs GeoDeep, from the network, in an environment of its own
def test_geodeep_maps_as_hrrsi_does(tmp_path: Path) -> None:
    environment = tmp_path / "geodeep"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "geodeep"], check=True)
    with rasterio.open(REPOSITORY / "examples" / "dubai_tile1.tif") as dataset:
        pixels = dataset.read([1, 2, 3], window=rasterio.windows.Window(700, 400, 512, 512))
    scene, model = tmp_path / "scene.tif", tmp_path / "model.onnx"
    place = {"crs": "EPSG:32640", "transform": from_origin(5e5, 2.8e6, 0.4472, 0.4472)}
    form = {"driver": "GTiff", "width": 512, "height": 512, "count": 3, "dtype": "uint8"}
    with rasterio.open(scene, "w", photometric="rgb", **form, **place) as dataset:
        dataset.write(pixels)
    hrrsi.export("default", model)
    code = "import sys, numpy, geodeep; scene, model, out = sys.argv[1:]\n"
    code += "numpy.save(out, geodeep.segment(scene, model, output_type='raw'))"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [python, "-c", code, scene, model, tmp_path / "labels.npy"], check=True, env=clean
    )
    command = f"predict {scene} --out {tmp_path}/map.tif --precision 32 --quiet"
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    with rasterio.open(tmp_path / "map.tif") as dataset:
        labels = dataset.read(1)
    assert len(np.unique(labels)) >= 3
    filtered = median_filter(labels, 5, mode="nearest")  # GeoDeep's own, which it always applies
    differing = (np.load(tmp_path / "labels.npy") != filtered).mean()
    assert differing <= 1e-4
