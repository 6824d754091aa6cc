"""Other systems and other encoders: the same contract, and the same commands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import rasterio
import timm
import torch
from PIL import Image
from samples.made_dataset import save_made_dataset
from samples.made_weights import scene_pixels
from samples.naive_prediction import naive_labels
from samples.network_contract import NetworkContract, meta_of
from torch import nn
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.errors import HrrsiError
from hrrsi.evaluation.patch_evaluation import evaluate_dataset
from hrrsi.networks.architecture import BASELINE_MODELS, LogitGrid
from hrrsi.networks.network import TimmEncoder
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.blending import window_labels
from hrrsi.prediction.engines import open_engine
from hrrsi.prediction.options import EngineOptions
from hrrsi.tiling.dataset import TiledDataset
from hrrsi.training.encoder_weights import load_encoder_weights

pytestmark = pytest.mark.slow


class TestUEDResNet18(NetworkContract):
    model = "ued-resnet18"
    maps: ClassVar[set[str]] = {"lbl"}


@pytest.mark.slow  # ResNet-18's blocks, more of them
class TestUEDResNet34(TestUEDResNet18):
    model = "ued-resnet34"


@pytest.mark.slow  # ResNet-50's blocks are those of DeepLabV3+, FCN and PSPNet
class TestUEDResNet50(TestUEDResNet18):
    model = "ued-resnet50"


@pytest.mark.slow  # ResNet-50's blocks, more of them
class TestUEDResNet101(TestUEDResNet18):
    model = "ued-resnet101"


class TestDeepLabV3Plus(NetworkContract):
    model = "deeplabv3plus"
    maps: ClassVar[set[str]] = {"lbl"}
    kernels: ClassVar[tuple[str, ...]] = ("whole",)  # half of 100 MB and more: as others'


@pytest.mark.slow  # on DeepLabV3+'s encoder, in the same wrapper
class TestFCN(TestDeepLabV3Plus):
    model = "fcn"


@pytest.mark.slow  # likewise
class TestPSPNet(TestDeepLabV3Plus):
    model = "pspnet"


class TestSegNet(TestDeepLabV3Plus):
    model = "segnet"


class TestUNet(TestDeepLabV3Plus):
    model = "unet"


class TestUNetOnGhostNet(TestDeepLabV3Plus):
    model = "unet-ghostnet_100"


class TestUNetOnEfficientNetLite(TestDeepLabV3Plus):
    model = "unet-tf_efficientnet_lite0"


class TestUEDBESSFMMobileNet(NetworkContract):
    model = "ued_bes_sfm-mobilenetv4_conv_small"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg", "scr"}


class TestUEDBESConvNeXt(NetworkContract):  # rounds sizes down
    model = "ued_bes-convnext_atto"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg"}


class TestUEDSwin(NetworkContract):  # maps with their channels last, and windows of attention
    model = "ued-swin_tiny_patch4_window7_224"
    maps: ClassVar[set[str]] = {"lbl"}


class TestUEDHRNet(NetworkContract):  # takes multiples of 32 only
    model = "ued-hrnet_w18_small"
    maps: ClassVar[set[str]] = {"lbl"}


def test_every_baseline_is_under_contract() -> None:
    contracts = (c for child in NetworkContract.__subclasses__() for c in _with_children(child))
    tested = {vars(contract).get("model") for contract in contracts}
    assert set(BASELINE_MODELS) <= tested


def _with_children(parent: type) -> list[type[NetworkContract]]:
    return [parent, *(c for child in parent.__subclasses__() for c in _with_children(child))]


def test_maps_of_an_encoder_are_timms_last_ones_of_each_stride() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder("efficientnet_b0").eval()
    whole = timm.create_model("efficientnet_b0").eval()
    whole.load_state_dict(encoder.features.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        maps = encoder(image)
        x = whole.bn1(whole.conv_stem(image))
        stages = [x := stage(x) for stage in whole.blocks]
    assert encoder.channels == (24, 40, 112, 320)
    for feature_map, stage in zip(maps, (1, 2, 4, 6), strict=True):
        torch.testing.assert_close(feature_map, stages[stage])


def test_a_padded_image_is_one_with_its_edges_repeated() -> None:
    torch.manual_seed(0)
    network = build_network("unet", 3).eval()
    image = torch.randn(1, 3, 50, 70)
    padded = np.pad(image.numpy(), ((0, 0), (0, 0), (0, 14), (0, 26)), mode="edge")
    with torch.inference_mode():
        expected = network(torch.from_numpy(padded))["lbl"][..., :50, :70]
        torch.testing.assert_close(network(image)["lbl"], expected, atol=0, rtol=0)


def test_segnet_puts_maxima_back_where_they_were() -> None:
    torch.manual_seed(0)
    model = build_network("segnet", 2).eval().model
    vgg = timm.create_model("vgg16_bn", num_classes=0).eval()
    vgg.features.load_state_dict(model.encoder.features.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        lowest, places = model.encoder(image)
        torch.testing.assert_close(lowest, vgg.features(image))
    assert [tuple(p.shape[1:]) for p in places] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    convolutions = [m for m in model.decoder.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 12  # and the head: as many as the encoder has
    assert [c.out_channels for c in convolutions] == [
        *(512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64)
    ]


def test_pspnet_sees_the_whole_of_its_encoder_at_stride_8() -> None:
    encoder = build_network("pspnet", 2).eval().encoder
    with torch.inference_mode():
        last = encoder(torch.zeros(1, 3, 64, 96))[-1]
    assert last.shape == (1, 2048, 8, 12)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("resnet19", "has no encoder 'resnet19'; did you mean resnet18"),
        ("swin_tiny", "has no encoder 'swin_tiny'; did you mean swin_tiny_patch4_window7_224"),
        ("zzzzzzzzz", "has no encoder 'zzzzzzzzz'; see timm.list_models"),
        ("vit_tiny_patch16_224", "has maps at strides 16, 16, 16, and the decoder joins"),
        ("maxvit_tiny_tf_224", "takes images of 224x224 px only"),
        ("inception_v4", "lack the borders"),
    ],
)
def test_encoders_that_do_not_fit_say_why(encoder: str, words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        build_network(f"ued-{encoder}", 3)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("resnet19", "has no encoder 'resnet19'; did you mean resnet18"),
        ("resnet34", "resnet34 is the encoder of unet itself; give unet"),
        ("vit_tiny_patch16_224", "the encoder vit_tiny_patch16_224 can't carry a U-Net ("),
        ("maxvit_tiny_tf_224", "the encoder maxvit_tiny_tf_224 can't carry a U-Net ("),
    ],
)
def test_encoders_that_carry_no_unet_say_why(encoder: str, words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        build_network(f"unet-{encoder}", 3)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_unet_starts_from_the_weights_of_a_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = timm.create_model("tf_efficientnet_lite0")
    torch.save(classifier.state_dict(), tmp_path / "lite0.pth")
    network = build_network("unet-tf_efficientnet_lite0", 3)
    load_encoder_weights(network, "unet-tf_efficientnet_lite0", str(tmp_path / "lite0.pth"))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = classifier.eval().blocks(classifier.bn1(classifier.conv_stem(image)))
        torch.testing.assert_close(network.eval().encoder(image)[-1], expected)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights files of a network with logits at every pixel, and at every fourth."""
    torch.manual_seed(3)
    paths = {}
    for model in ("unet", "ued-resnet18"):
        network = build_network(model, 5).train()
        pixels = torch.from_numpy(scene_pixels().astype(np.float32) / 255).permute(2, 0, 1)
        with torch.no_grad():
            for layer in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
                layer.momentum = None
            network(((pixels - 0.5) / 0.2)[None])
        paths[model] = tmp_path_factory.mktemp(model) / f"{model}.safetensors"
        save_weights(network.state_dict(), meta_of(model, 5), paths[model])
    return paths


def labels_of(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What the network gives each pixel of an image by itself."""
    image = (torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.5) / 0.2
    with torch.inference_mode():
        labels = load_model(path)(image.permute(2, 0, 1)[None])["lbl"].argmax(1)[0]
    return labels.numpy().astype(np.uint8)


@pytest.mark.parametrize("model", ["unet", "ued-resnet18"])
def test_a_window_has_the_labels_that_its_network_gives(
    weights: dict[str, Path], model: str
) -> None:
    engine = open_engine(weights[model], EngineOptions(device="cpu"))
    assert engine.name == "torch"
    pixels = scene_pixels()[:101, :90]
    gain = np.full((1, 3, 1, 1), 1 / 255 / 0.2, dtype=np.float32)
    offset = np.full((1, 3, 1, 1), -0.5 / 0.2, dtype=np.float32)
    (logits,) = engine.logits([np.moveaxis(pixels, 2, 0)], gain, offset)
    labels = window_labels(logits, 101, 90, engine.logit_grid)
    expected = labels_of(weights[model], pixels)
    assert len(np.unique(expected)) > 2
    assert (labels == expected).mean() > 0.999


@pytest.mark.parametrize("model", [pytest.param("unet", marks=pytest.mark.slow), "ued-resnet18"])
def test_predict_maps_with_them(weights: dict[str, Path], model: str, tmp_path: Path) -> None:
    pixels = scene_pixels()[:256, :256]
    scene, out = tmp_path / "scene.png", tmp_path / "map.tif"
    Image.fromarray(pixels).save(scene)
    arguments = ["predict", str(scene), "--weights", str(weights[model]), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--window", "256", "--quiet"])
    assert result.exit_code == 0, result.output
    expected = labels_of(weights[model], pixels)
    with rasterio.open(out) as raster:
        assert (raster.read(1) == expected).mean() > 0.999
    # windows that overlap are blended at the resolution of the logits
    options = ["--window", "128", "--overlap", "32", "--overwrite", "--quiet"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    values, valid = np.moveaxis(pixels, 2, 0), np.ones(pixels.shape[:2], dtype=bool)
    expected = naive_labels(values, valid, load_model(weights[model]), 128, 32)
    with rasterio.open(out) as raster:
        assert (raster.read(1) == expected).mean() > 0.999


def test_blended_logits_of_every_pixel_are_their_weighted_mean(weights: dict[str, Path]) -> None:
    from hrrsi.prediction.blend_kernel import blend_share, spans
    from hrrsi.prediction.blending import RowBlender

    size, overlap, length = 16, 6, 36
    starts = [0, 10, 20]
    rng = np.random.default_rng(0)
    windows = rng.normal(size=(3, 2, size, size)).astype(np.float32)
    blender = RowBlender(
        spans([0], size, overlap, size),
        spans(starts, size, overlap, length),
        (size, size),
        overlap,
        2,
        (size, length),
        LogitGrid(1),
        probabilities="float32",
    )
    blender.start_row(0)
    for index, logits in enumerate(windows):
        blender.add(index, logits, None)
    expected = np.zeros((2, size, length))
    weight = np.zeros(length)
    for start, logits in zip(starts, windows, strict=True):
        share = np.ones(size)
        ramp = blend_share(np.arange(overlap) + 0.5, overlap)
        share[:overlap] = ramp if start else 1
        share[size - overlap :] = 1 - ramp if start < starts[-1] else 1
        expected[:, :, start : start + size] += logits * share
        weight[start : start + size] += share
    np.testing.assert_allclose(weight, 1)
    odds = np.exp(expected - expected.max(axis=0))
    probabilities = blender.strip().probabilities
    np.testing.assert_allclose(probabilities, odds / odds.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_runtimes_without_a_graph_say_so(
    weights: dict[str, Path], engine: str, examples: Path, tmp_path: Path
) -> None:
    scene = examples / "dubai" / "tile1" / "images" / "image_part_007.jpg"
    result = CliRunner().invoke(
        app,
        f"predict {scene} --weights {weights['unet']} --engine {engine} "
        f"--out {tmp_path / 'map.tif'}".split(),
    )
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert "holds the model 'unet', which only PyTorch runs; give --engine torch" in line


@pytest.mark.parametrize("model", ["unet", "ued-resnet18"])
def test_info_describes_their_weights(weights: dict[str, Path], model: str) -> None:
    result = CliRunner().invoke(app, ["info", str(weights[model]), "--format", "json"])
    assert result.exit_code == 0, result.output
    described = json.loads(result.stdout)
    assert described["model"] == model
    assert described["parameters"] == sum(p.numel() for p in build_network(model, 5).parameters())


def test_info_refuses_tensors_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    save_weights(build_network("ued-resnet18", 5).state_dict(), meta_of("unet", 5), path)
    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 1
    assert "another network" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_evaluation_counts_every_pixel_of_theirs(weights: dict[str, Path], tmp_path: Path) -> None:
    tiled = save_made_dataset(tmp_path / "tiled", train=1, val=8)
    dataset = TiledDataset(tiled)
    classes = dataset.description.classes
    path = tmp_path / "unet.safetensors"
    meta = replace(meta_of("unet", len(classes)), classes=classes)
    save_weights(load_model(weights["unet"]).state_dict(), meta, path)
    evaluation = evaluate_dataset(
        dataset, open_engine(path, EngineOptions(device="cpu")), split="val"
    )
    counts = evaluation.counts.matrix("full").counts
    expected = np.zeros_like(counts)
    for image in sorted((tiled / "val" / "image").iterdir()):
        with rasterio.open(image) as raster:
            predicted = labels_of(path, np.moveaxis(raster.read(), 0, 2))
        with rasterio.open(tiled / "val" / "label" / image.name) as raster:
            truth = raster.read(1)
        is_labelled = truth != 255
        np.add.at(expected, (predicted[is_labelled], truth[is_labelled]), 1)
    difference = np.abs(counts - expected).sum() / expected.sum()
    assert difference < 0.002
