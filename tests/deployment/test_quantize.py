"""Quantized networks: what they cost is what `hrrsi eval` says, and what they say of themselves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file
from samples.command_results import error_of, run_line
from samples.made_dataset import save_made_dataset, with_partial_validation
from samples.made_weights import save_made_weights
from samples.repository import REPOSITORY

import hrrsi
from hrrsi.deployment import quantization
from hrrsi.deployment.calibration import METHODS, Calibration, network_windows, with_float_nodes
from hrrsi.deployment.quantization import layer_name
from hrrsi.networks.exported_file import INPUT_SCALE
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.tiling.dataset import TiledDataset

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    save_made_weights(folder / "made.safetensors", resolution=0.5)
    save_made_dataset(folder / "data", train=8, val=3)
    return folder


def quantize(folder: Path, out: Path, more: str = "") -> str:
    return (
        f"quantize {folder / 'made.safetensors'} --data {folder / 'data'} --out {out} "
        f"--window {SIDE} --max-drop 100 {more}"
    )


def kernels_of(path: Path) -> list[np.dtype]:
    """The types of the arrays of numbers in a file that are kernels by their shapes."""
    arrays = (numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    return [array.dtype for array in arrays if array.ndim == 4 and array.size > 9]


def test_windows_hold_each_patch_whatever_came_before(folder: Path) -> None:
    dataset = TiledDataset(folder / "data")
    meta = read_meta(folder / "made.safetensors")
    patches, side = dataset.patches("train"), dataset.description.patch_size
    for window in (2 * side, 3 * side, side // 2):
        together = network_windows(patches, dataset.description, meta, window)
        for patch, seen in zip(patches, together, strict=True):
            (alone,) = network_windows([patch], dataset.description, meta, window)
            np.testing.assert_array_equal(seen, alone)
            assert seen.shape == (3, window, window)
            values = np.unique(seen * np.float32(INPUT_SCALE))
            assert set(np.rint(values)) <= set(np.unique(np.asarray(Image.open(patch.image))))


@pytest.mark.slow  # a minute: ranges by every method, and each layer in float in turn
def test_int8_says_what_it_costs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    result = run_line(quantize(folder, out))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8.onnx"]
    assert {dtype.name for dtype in kernels_of(out)} >= {"int8"}
    figures = json.loads(run_line(f"info {out} --format json").stdout)["quantized"]
    assert figures["precision"] == "int8"
    assert figures["ranges"] in {method.name for method in METHODS}
    assert figures["after"]["bytes"] == out.stat().st_size < 0.4 * figures["before"]["bytes"]
    for when, weights in (("before", folder / "made.safetensors"), ("after", out)):
        options = hrrsi.EvaluationOptions(split="val")
        engine = hrrsi.EngineOptions(engine="onnxruntime", precision="32")
        scores = hrrsi.evaluate(folder / "data", weights=weights, options=options, engine=engine)
        assert figures[when]["mIoU"] == pytest.approx(scores.scores.mean_iou, abs=2e-4), when
        for own in scores.scores.classes:
            assert figures[when]["IoU"][own.name] == pytest.approx(own.iou, abs=5e-4)
    assert 0.3 < figures["agreement"] < 1  # random weights: most of their labels are near ties
    assert set(figures["milliseconds"]) == {"onnxruntime", "openvino"}
    ranges = f"ranges by {figures['ranges']} of 8 training patches"
    assert f"{figures['agreement']:.2%} of labels agree; {ranges}" in result.stdout
    model = onnx.load(out)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    names = {prop.key for prop in model.metadata_props}
    assert {"class_names", "model_type", "resolution", "tiles_size"} <= names
    assert "numbers in int8" in run_line(f"info {out}").stdout
    half = hrrsi.EngineOptions(engine="openvino", precision="16")
    with pytest.raises(hrrsi.DeviceError, match=r"rounded to integers|calculate in precision 16"):
        hrrsi.evaluate(folder / "data", weights=out, engine=half)
    line = error_of(f"profile --weights {out} --latency --engine openvino --precision 16")
    assert "rounded to integers" in line or "calculate in precision 16" in line


@pytest.mark.slow
def test_half_precision_keeps_labels(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    result = run_line(quantize(folder, out, "--precision 16"))
    assert result.exit_code == 0, result.output
    figures = json.loads(run_line(f"info {out} --format json").stdout)["quantized"]
    assert figures["agreement"] > 0.98
    assert out.stat().st_size < 0.55 * figures["before"]["bytes"]
    (network_input,) = onnxruntime.InferenceSession(out).get_inputs()
    assert network_input.type == "tensor(float)"


@pytest.mark.slow
def test_openvinos_format_is_as_small(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.xml"
    result = run_line(quantize(folder, out, "--precision 16 --format openvino"))
    assert result.exit_code == 0, result.output
    figures = json.loads(run_line(f"info {out} --format json").stdout)["quantized"]
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert figures["after"]["bytes"] == size < 0.6 * figures["before"]["bytes"]
    assert set(figures["milliseconds"]) == {"openvino"}


def test_scores_of_the_float_network_are_not_said_of_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"onnxruntime": [2.0, 1.0], "openvino": [2.0, 1.0]}
    monkeypatch.setattr(quantization, "_milliseconds", lambda *_: (times, None))
    tensors = load_file(folder / "made.safetensors")
    scored = tmp_path / "scored.safetensors"
    scores = {"test": {"OA": 0.9, "mIoU": 0.7}}
    save_weights(tensors, replace(read_meta(folder / "made.safetensors"), scores=scores), scored)
    assert json.loads(run_line(f"info {scored} --format json").stdout)["scores"] == scores
    out = tmp_path / "half.onnx"
    result = run_line(
        f"quantize {scored} --data {folder / 'data'} --out {out} --window {SIDE} --max-drop 100 "
        "--precision 16"
    )
    assert result.exit_code == 0, result.output
    content = json.loads(run_line(f"info {out} --format json").stdout)
    assert not content.get("scores")
    assert "numbers in kernels" in run_line(f"info {out}").stdout
    assert content["quantized"]["after"]["mIoU"] > 0


@pytest.mark.parametrize("bf16", [12.0, 14.0, 16.0, None])
def test_bf16_is_recommended_where_it_is_as_fast(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float | None
) -> None:
    times = {"onnxruntime": [20.0, 10.0], "openvino": [20.0, 14.0]}
    monkeypatch.setattr(quantization, "_milliseconds", lambda *_: (times, bf16))
    result = run_line(quantize(folder, tmp_path / "out.onnx", "--precision 16"))
    assert result.exit_code == 0, result.output
    is_faster = bf16 is not None and bf16 <= 14
    assert ("this processor calculates in bf16" in result.stderr) == is_faster
    if is_faster:
        assert f"which takes {bf16:.1f} ms a window in OpenVINO" in result.stderr
    assert "ms a window, openvino    |   20.0 |   14.0" in result.stdout


def test_what_costs_too_much_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = quantization._scores

    def worse(*arguments: object) -> dict:
        changed_scores = scores(*arguments)
        changed_scores["after"]["mIoU"] = changed_scores["before"]["mIoU"] - 0.02
        return changed_scores

    monkeypatch.setattr(quantization, "_scores", worse)
    line = error_of(quantize(folder, tmp_path / "out.onnx", "--precision 16 --max-drop 0.5"))
    assert "16 costs 2.00 points of mIoU" in line
    assert "more than --max-drop 0.5" in line
    assert list(tmp_path.iterdir()) == []


def test_wrong_input_is_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    small_dataset = save_made_dataset(tmp_path / "few", train=1, val=1)
    line = f"quantize {folder / 'made.safetensors'} --out {out} --window {SIDE}"
    assert "its training split holds 1 patches, too few" in error_of(
        f"{line} --data {small_dataset}"
    )
    description = yaml.safe_load((small_dataset / "dataset.yaml").read_text())
    description["splits"]["val"]["labels"] = "none"
    (small_dataset / "dataset.yaml").write_text(yaml.safe_dump(description))
    assert "its val split has no labels" in error_of(f"{line} --data {small_dataset}")
    partial_dataset = save_made_dataset(tmp_path / "partial", train=4, val=1)
    description = yaml.safe_load((partial_dataset / "dataset.yaml").read_text())
    (partial_dataset / "dataset.yaml").write_text(
        yaml.safe_dump(with_partial_validation(description))
    )
    assert "labels of its val split are partial" in error_of(f"{line} --data {partial_dataset}")
    assert "nowhere" in error_of(f"{line} --data {tmp_path / 'nowhere'}")
    data = f"--data {folder / 'data'}"
    assert "3 patches don't show" in error_of(f"{line} {data} --patches 3")
    with pytest.raises(hrrsi.OptionError, match="unknown precision '4'"):
        hrrsi.QuantizationOptions("4")
    assert "--max-drop: -1 is no drop" in error_of(f"{line} {data} --max-drop -1")
    assert "does not end in .xml" in error_of(f"{line} {data} --format openvino")
    out.write_text("mine")
    assert "exists already; give --overwrite" in error_of(f"{line} {data}")
    assert out.read_text() == "mine"
    other = save_made_weights(tmp_path / "four.safetensors", bands=4, resolution=0.5)
    words = f"quantize {other} --out {tmp_path / 'b.onnx'} {data}"
    assert "its patches have 3 bands where the weights expect 4 bands" in error_of(words)


@pytest.fixture
def two_convolutions() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in ((8, 3, 3, 3), (4, 8, 1, 1))]
    nodes = [
        helper.make_node("Conv", ["x", "k0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "k1"], ["y"], name="second"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 32, 32])
        for name, channels in (("x", 3), ("y", 4))
    ]
    tensors = [numpy_helper.from_array(kernel, f"k{i}") for i, kernel in enumerate(kernels)]
    graph = helper.make_graph(nodes, "two", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_rounding_is_near_and_leaves_layers_in_float(
    two_convolutions: onnx.ModelProto, tmp_path: Path, method: object
) -> None:
    rng = np.random.default_rng(1)
    windows = [rng.random((3, 32, 32)).astype(np.float32) for _ in range(4)]
    calibration = Calibration(two_convolutions, windows, tmp_path)

    def result(model: onnx.ModelProto) -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run(None, {"x": windows[0][None]})[0]

    expected = result(two_convolutions)
    rounded = calibration.rounded(method, [])
    error = np.abs(result(rounded) - expected).mean() / np.abs(expected).mean()
    assert 0 < error < 0.1
    kernels = [numpy_helper.to_array(t) for t in rounded.graph.initializer]
    whole = [array for array in kernels if array.dtype == np.int8 and array.ndim == 4]
    assert len(whole) == 2
    assert max(np.abs(array).max() for array in whole) <= 64, "7 bits"
    apart = [array for array in kernels if array.dtype == np.float32 and array.shape == (8,)]
    assert apart, "a scale for each channel of the first kernel"
    whole = calibration.rounded(method, [], keep_activations=True)
    in_float = result(with_float_nodes(whole, two_convolutions, ["first", "second"]))
    error_in_float = np.abs(in_float - expected).mean() / np.abs(expected).mean()
    assert error_in_float < error, "its output alone is rounded"
    assert "second_quant" not in str(calibration.rounded(method, ["first", "second"]))


def test_layers_are_named_as_the_weights_name_them() -> None:
    names = {
        "precise.base_network.conv_stem": "base_network.conv_stem",
        "base_network.blocks.2.0.ghost1.primary_conv.0.17": "base_network.blocks.2.0",
        "base_network.features.blocks.6.0.conv_pw": "base_network.features.blocks.6.0",
        "dec_c1.up.0": "dec_c1",
        "decouple_body_edge.conv_low_res.1.primary.0": "decouple_body_edge.conv_low_res.1",
        "fusion_score.h_map": "fusion_score.h_map",
    }
    assert {name: layer_name(name) for name in names} == names


@pytest.mark.slow  # minutes, with all methods of ranges
def test_the_packaged_weights_lose_little(tmp_path: Path) -> None:
    data = REPOSITORY.parent / "shared" / "data" / "dubai"
    if not data.is_dir():
        pytest.skip("the imagery of Dubai is not here")
    tiled = tmp_path / "dubai"
    assert run_line(f"tile {data} --scheme dubai --out {tiled} --quiet").exit_code == 0
    out = tmp_path / "int8.onnx"
    assert run_line(f"quantize --data {tiled} --out {out}").exit_code == 0
    assert out.stat().st_size < 4e6
    words = "--scheme dubai --split standard:test --precision 32 --json"
    scores = {}
    for name, weights in (("before", "default"), ("after", out)):
        report = tmp_path / f"{name}.json"
        assert run_line(f"eval {data} {words} {report} --weights {weights}").exit_code == 0
        scores[name] = json.loads(report.read_text())["scores"]["mIoU"]
    assert scores["after"] >= scores["before"] - 0.003
