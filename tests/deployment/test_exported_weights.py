"""Exported networks as weights of every command, whoever wrote them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import torch
from onnx import TensorProto, helper, numpy_helper
from rasterio.transform import from_origin
from samples.command_results import error_of, run_line
from samples.made_dataset import save_made_dataset
from samples.made_weights import meta, save_made_weights, scene_pixels

import hrrsi
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights

SIDE, OVERLAP = 64, 20
OPTIONS = hrrsi.ExportOptions(window=SIDE, overlap=OVERLAP)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, what they were exported to, and a scene."""
    folder = tmp_path_factory.mktemp("exported")
    weights = save_made_weights(folder / "made.safetensors", resolution=0.5)
    hrrsi.export(weights, folder / "made.onnx", options=OPTIONS)
    hrrsi.export(weights, folder / "made.xml", options=replace(OPTIONS, format="openvino"))
    write_scene(folder / "scene.tif", np.moveaxis(scene_pixels()[:150, :170], -1, 0))
    return folder


def write_scene(path: Path, pixels: np.ndarray) -> Path:
    place = {"crs": "EPSG:32640", "transform": from_origin(5e5, 2.8e6, 0.5, 0.5)}
    form = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype.name}
    height, width = pixels.shape[1:]
    with rasterio.open(path, "w", height=height, width=width, **form, **place) as dataset:
        dataset.write(pixels)
    return path


def mapped(weights: Path, scene: Path, out: Path, *more: str) -> np.ndarray:
    words = f"predict {scene} --weights {weights} --out {out} --precision 32 {' '.join(more)}"
    result = run_line(words)
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as dataset:
        labels: np.ndarray = dataset.read(1)
    return labels


@pytest.mark.parametrize(
    ("name", "more"),
    [("made.onnx", ""), ("made.onnx", "--engine onnxruntime"), ("made.xml", "")],
)
def test_maps_are_those_of_the_weights(folder: Path, tmp_path: Path, name: str, more: str) -> None:
    windows = f"--window {SIDE} --overlap {OVERLAP}"
    expected = mapped(
        folder / "made.safetensors", folder / "scene.tif", tmp_path / "a.tif", windows
    )
    labels = mapped(folder / name, folder / "scene.tif", tmp_path / "b.tif", more)
    assert len(np.unique(expected)) >= 3
    assert (labels != expected).mean() <= 1e-3
    with rasterio.open(tmp_path / "b.tif") as dataset:
        assert dataset.tags()["HRRSI_WEIGHTS"] == name


def test_arrays_and_scores_are_those_of_the_weights(folder: Path, tmp_path: Path) -> None:
    pixels = scene_pixels()[:100, :90]
    exported = hrrsi.Segmenter(folder / "made.onnx", engine=hrrsi.EngineOptions(precision="32"))
    own = hrrsi.Segmenter(
        folder / "made.safetensors",
        window=SIDE,
        overlap=OVERLAP,
        engine=hrrsi.EngineOptions(precision="32"),
    )
    np.testing.assert_allclose(
        exported.probabilities(pixels), own.probabilities(pixels), atol=1e-3, rtol=0
    )
    data = save_made_dataset(tmp_path / "data", train=1, val=2)
    results = [
        hrrsi.evaluate(data, weights=folder / name, options=hrrsi.EvaluationOptions(split="val"))
        for name in ("made.safetensors", "made.onnx")
    ]
    before, after = (result.matrix.counts for result in results)
    assert np.abs(before - after).sum() <= 1e-3 * before.sum() + 2
    own_reading, reading = (result.evaluation.reading for result in results)
    assert reading == own_reading, "its windows are as large as the patches"


@pytest.mark.slow
def test_patches_of_another_size_are_stitched(folder: Path, tmp_path: Path) -> None:
    hrrsi.export(
        folder / "made.safetensors", tmp_path / "wide.onnx", options=replace(OPTIONS, window=96)
    )
    data = save_made_dataset(tmp_path / "data", train=1, val=1)
    result = run_line(f"eval {data} --split val --weights {tmp_path / 'wide.onnx'}")
    assert result.exit_code == 0, result.output
    assert "stitched from windows of 96 px" in " ".join(result.output.split())


def test_info_tells_what_the_file_says(folder: Path) -> None:
    for name in ("made.onnx", "made.xml"):
        said = json.loads(run_line(f"info {folder / name} --format json").stdout)
        assert said["window"] == SIDE
        assert said["overlap"] == OVERLAP
        assert said["classes"] == meta().classes
        assert said["parameters"] > 1_000_000
    assert (
        "for windows of 64 px, which overlap by 20 px" in run_line(f"info {folder / name}").stdout
    )


@pytest.mark.slow
def test_profile_counts_what_the_file_computes(folder: Path) -> None:
    torch.manual_seed(0)
    (own,) = hrrsi.profile(
        weights=folder / "made.safetensors", options=hrrsi.ProfileOptions(size=SIDE)
    )
    for name in ("made.onnx", "made.xml"):
        (profile,) = hrrsi.profile(weights=folder / name)
        assert profile.size == SIDE
        assert own.operations is not None
        assert profile.operations is not None
        # without the heads of body and edge, and two convolutions of the score from means
        assert 0.75 < profile.operations.macs / own.operations.macs < 1
        assert 0.9 < profile.parameters / own.parameters < 1
        assert profile.file_bytes > 11e6
    exported = f"profile --weights {folder / 'made.onnx'}"
    assert "--size: 128 px, and made.onnx takes windows of 64 px" in error_of(
        f"{exported} --size 128"
    )
    result = run_line(f"{exported} --format json")
    assert json.loads(result.stdout)[0]["gflops_published"] is None
    assert "kernels are counted as parameters" in run_line(exported).stdout


@pytest.mark.slow
def test_full_brightness_of_scenes_is_heard(tmp_path: Path) -> None:
    described = replace(
        meta(), model="ued", dtype="uint16", scale=2047.0, mean=[0.4] * 3, std=[0.2] * 3
    )
    torch.manual_seed(1)
    weights = tmp_path / "wide.safetensors"
    save_weights(build_network("ued", 5, 3).state_dict(), described, weights)
    hrrsi.export(weights, tmp_path / "wide.onnx", options=replace(OPTIONS, resolution=0.5))
    pixels = np.moveaxis(scene_pixels()[:SIDE, :SIDE], -1, 0).astype(np.uint16) * 16
    scene = write_scene(tmp_path / "scene.tif", pixels)
    windows = f"--window {SIDE} --overlap {OVERLAP} --scale 4095"
    expected = mapped(weights, scene, tmp_path / "a.tif", windows)
    labels = mapped(tmp_path / "wide.onnx", scene, tmp_path / "b.tif", "--scale 4095")
    assert (labels != expected).mean() <= 1e-3


def test_what_needs_the_tensors_says_so(folder: Path, tmp_path: Path) -> None:
    exported, scene = folder / "made.onnx", folder / "scene.tif"
    data = save_made_dataset(tmp_path / "data", train=1, val=1)
    train = f"train {data} --model ued --encoder-weights none --out {tmp_path / 'run'}"
    for line in (
        f"export {exported} --out {tmp_path / 'again.onnx'}",
        f"quantize {exported} --data {data} --out {tmp_path / 'again.onnx'}",
        f"train {data} --init {exported} --out {tmp_path / 'run'}",
        f"{train} --teacher {exported}",
    ):
        assert "made.onnx: is an exported network" in error_of(line), line
    predict = f"predict {scene} --weights {exported} --out {tmp_path / 'map.tif'}"
    assert "--window: 128 px, and the exported network takes windows of 64 px" in error_of(
        f"{predict} --window 128"
    )
    assert "runs on the CPU here, by OpenVINO or ONNX Runtime" in error_of(
        f"{predict} --engine torch"
    )
    assert "takes one window at a time" in error_of(f"{predict} --batch 4")
    other = f"predict {scene} --weights {folder / 'made.xml'} --out {tmp_path / 'map.tif'}"
    assert "only OpenVINO runs made.xml" in error_of(f"{other} --engine onnxruntime")


KERNEL = 10 * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)  # the band that is brightest
MEAN = [float(m) for m in scene_pixels()[:150, :170].mean(axis=(0, 1)).round() / 255]
NAMES = '{"0": "_background", "1": "Roads", "2": "Buildings"}'


def write_foreign(
    path: Path, *, last: str | None = "Softmax", size: Any = SIDE, **metadata: str
) -> Path:
    """Write a network as another tool would, in the layout of Deepness' and GeoDeep's zoo."""
    nodes = [helper.make_node("Conv", ["image", "kernel"], ["map" if last else "maps"])]
    if last:
        nodes.append(helper.make_node(last, ["map"], ["maps"], axis=1))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 3, size, size])],
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"model_type": '"Segmentor"', "class_names": NAMES, **metadata})
    onnx.save(model, path)
    return path


def test_profile_counts_transposed_convolutions(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "roads.onnx")
    model = onnx.load(path)
    kernel = np.ones((3, 3, 2, 2), dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "wider"))
    (first,) = (node for node in model.graph.node if node.op_type == "Conv")
    first.attribute.append(helper.make_attribute("strides", [2, 2]))
    first.output[0] = "half"
    wider = helper.make_node("ConvTranspose", ["half", "wider"], ["map"], strides=[2, 2])
    model.graph.node.insert(1, wider)
    onnx.save(model, path)
    (profile,) = hrrsi.profile(weights=path)
    assert profile.parameters == KERNEL.size + kernel.size
    assert profile.operations is not None
    half = (SIDE // 2) ** 2
    assert profile.operations.macs == half * KERNEL.size + half * kernel.size


@pytest.mark.parametrize("last", ["Softmax", None])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_networks_of_other_tools_map(
    folder: Path, tmp_path: Path, last: str | None, engine: str
) -> None:
    said = {"resolution": "50", "tiles_overlap": "15.0", "standardization_mean": json.dumps(MEAN)}
    said["standardization_std"] = "[1, 1, 1]"
    path = write_foreign(tmp_path / "roads.onnx", last=last, **said)
    labels = mapped(path, folder / "scene.tif", tmp_path / "map.tif", f"--engine {engine}")
    with rasterio.open(folder / "scene.tif") as dataset:
        image = dataset.read() / 255 - np.array(MEAN)[:, None, None]
    scores = np.einsum("oi,ihw->ohw", KERNEL[:, :, 0, 0], image)
    certain = np.ptp(np.sort(scores, axis=0)[-2:], axis=0) > 1e-4  # the two best differ
    assert (labels == scores.argmax(axis=0))[certain].all()
    assert len(np.unique(labels)) == 3
    said_by_info = json.loads(run_line(f"info {path} --format json").stdout)
    assert said_by_info["classes"] == ["_background", "Roads", "Buildings"]
    assert (said_by_info["resolution"], said_by_info["overlap"]) == (0.5, 10)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("names", ["{0: 'Roads'}", '[{"0": "Roads"}]', '["other", "Roads"]'])
def test_one_map_tells_two_classes_apart(
    folder: Path, tmp_path: Path, engine: str, names: str
) -> None:
    path = write_foreign(tmp_path / "roads.onnx", last=None, names=names)

    def one_map(model: onnx.ModelProto) -> None:
        for prop in [prop for prop in model.metadata_props if prop.key == "class_names"]:
            model.metadata_props.remove(prop)
        del model.graph.output[:]
        rows = [-30 * MEAN[0]]  # the scene's mean red tells the classes apart
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.array([30, 0, 0], "float32").reshape(1, 3, 1, 1), "kernel")
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(rows, "float32"), "bias"))
        model.graph.node[0].input.append("bias")
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
        model.graph.node.append(helper.make_node("Sigmoid", ["maps"], ["share"]))
        model.graph.node.append(helper.make_node("Squeeze", ["share", "axis"], ["map"]))
        shape = ["batch", SIDE, SIDE]
        model.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, shape))

    labels = mapped(
        _changed(path, one_map), folder / "scene.tif", tmp_path / "map.tif", f"--engine {engine}"
    )
    with rasterio.open(folder / "scene.tif") as dataset:
        red = dataset.read(1) / 255 - MEAN[0]
    certain = np.abs(red) > 1e-4
    assert (labels == (red > 0))[certain].all()
    classes = json.loads(run_line(f"info {path} --format json").stdout)["classes"]
    assert classes == ["other" if "other" in names else "background", "Roads"]


def _changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("map", TensorProto.FLOAT, [1]))


def _whole_numbers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["cast"], to=1))
    model.graph.node[1].input[0] = "cast"


def _tensors_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_second_input, "has 2 inputs (image, more)"),
        (_second_output, "has 2 outputs (maps, map)"),
        (_whole_numbers, "its 'image' is not float32"),
        (_tensors_elsewhere, "is not a whole ONNX file"),
        (lambda m: m.ClearField("metadata_props"), "does not say what its classes are"),
    ],
)
def test_files_of_something_else_are_one_line(
    folder: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], object], words: str
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(KERNEL.tobytes())
    path = _changed(write_foreign(inner / "other.onnx"), change)
    assert words in error_of(
        f"predict {folder / 'scene.tif'} --weights {path} --out {tmp_path}/m.tif"
    )
    assert words in error_of(f"info {path}")
    assert not (tmp_path / "m.tif").exists()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("class_names", '{"0": "a", "2": "b", "3": "c"}', "count 0, 2, 3, not from 0 without gaps"),
        ("class_names", '{"0": "a", "1": "b"}', "says 2 classes and windows of 64 px, and it has"),
        ("class_names", '{"0": "a", "1": "A", "2": "b"}', "not as many different names"),
        ("class_names", "{", "its metadata 'class_names' can't be read"),
        ("model_type", '"Detector"', "is a Detector, and only a Segmentor maps land cover"),
        ("tiles_size", "512", "says tiles_size 512, and it has an input of 64 x 64 px"),
        ("tiles_overlap", "80", "its metadata 'tiles_overlap' can't be read"),
        ("resolution", '"fine"', "its metadata 'resolution' can't be read"),
        ("hrrsi", '"weights"', "its metadata 'hrrsi' can't be read"),
    ],
)
def test_metadata_that_contradicts_itself_is_one_line(
    tmp_path: Path, key: str, value: str, words: str
) -> None:
    path = write_foreign(tmp_path / "other.onnx", **{key: value})
    assert words in error_of(f"info {path}")


def test_broken_files_are_one_line(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    assert "no such weights file" in error_of(f"info {path}")
    path.write_bytes(b"")
    assert "is empty (0 bytes)" in error_of(f"info {path}")
    path.write_text("not a network\n" * 20)
    assert "other.onnx: is not a whole ONNX file" in error_of(f"info {path}")
    path.write_bytes((folder / "made.onnx").read_bytes()[:-5000])
    assert "other.onnx: is not a whole ONNX file" in error_of(f"info {path}")
    write_foreign(path, size="pixels")
    assert "its input 'image' is ? x 3 x ? x ?, not windows of" in error_of(f"info {path}")
    _changed(write_foreign(path), lambda m: m.graph.ClearField("node"))
    assert "other.onnx: is" in error_of(f"info {path}")
    two = tmp_path / "made.xml"
    two.write_bytes((folder / "made.xml").read_bytes())
    assert "lacks made.bin, which holds its numbers" in error_of(f"info {two}")
    two.with_suffix(".bin").write_bytes(b"short")
    assert "made.xml: is not a whole network of OpenVINO's" in error_of(f"info {two}")
    two.write_text("<note/>")
    assert "made.xml: is not a whole network of OpenVINO's" in error_of(f"info {two}")


def test_a_scene_of_other_bands_is_one_line(folder: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "one.tif", np.zeros((1, 70, 70), dtype=np.uint8))
    line = error_of(f"predict {scene} --weights {folder / 'made.onnx'} --out {tmp_path}/m.tif")
    assert "one.tif" in line
    assert "band" in line
