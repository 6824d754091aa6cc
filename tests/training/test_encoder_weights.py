"""Encoders start from timm's weights, from files, or say in one line why they can't."""

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from hrrsi.errors import HrrsiError, WeightsError
from hrrsi.networks.network import GhostNetEncoder, TimmEncoder, adapted_to_bands
from hrrsi.networks.segmentation import build_network
from hrrsi.training.encoder_weights import check_encoder_source, load_encoder_weights


def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the same shapes with numbers that no constructor makes."""
    torch.manual_seed(11)
    return {
        key: value + 0.01 * torch.randn_like(value) if value.is_floating_point() else value
        for key, value in tensors.items()
    }


# Ways in which timm renames what it takes the maps from: not at all, flattened, wrapped.
@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
        "mobilenetv4_conv_small",
        "efficientnet_b0",
        "convnext_atto",
        "mobilevit_xxs",
        "efficientvit_b0",
        "twins_svt_small",
        "repvgg_a0",
        # renamed as one of those above
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("hrnet_w18_small", marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
        pytest.param("xception41", marks=pytest.mark.slow),
    ],
)
def test_a_classifiers_weights_fill_its_encoder(encoder: str, tmp_path: Path) -> None:
    classifier = timm.create_model(encoder)
    classifier.load_state_dict(changed(classifier.state_dict()))
    path = tmp_path / "timm.safetensors"
    save_file(classifier.state_dict(), path)
    network = build_network(f"ued-{encoder}", 3)
    load_encoder_weights(network, f"ued-{encoder}", str(path))
    # timm's own way to the maps of the same classifier
    options = {"strict_img_size": False} if encoder.startswith("swin") else {}
    reference = timm.create_model(
        encoder,
        features_only=True,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        **options,
    ).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, actual = reference(image), network.encoder.eval().features(image)
    for feature, encoder_feature in zip(expected, actual, strict=True):
        assert torch.equal(feature, encoder_feature)


@pytest.mark.parametrize("layout", ["timm", "published", "hrrsi"])
@pytest.mark.parametrize(("model", "width"), [("ued_bes_sfm", 1.0), ("ued_1p5", 1.5)])
def test_ghostnets_weights_come_in_several_files(
    tmp_path: Path, layout: str, model: str, width: float
) -> None:
    donor = changed(GhostNetEncoder(width).state_dict())
    if layout == "timm":
        path = tmp_path / "ghostnet.pth"
        torch.save({**donor, "classifier.weight": torch.zeros(1000, 1280)}, path)
    elif layout == "published":
        path = tmp_path / "published.pth"
        state = {f"module.base_network.{k}": v for k, v in donor.items()}
        torch.save({"epoch": 1, "model_state_dict": state}, path)
    else:
        path = tmp_path / "weights.safetensors"
        save_file({f"base_network.{k}": v for k, v in donor.items()}, path)
    network = build_network(model, 5)
    said = load_encoder_weights(network, model, str(path))
    actual = network.encoder.state_dict()
    count = len(actual)
    assert said == f"encoder weights: {count} of {count} tensors from {path}"
    assert all(torch.equal(actual[key], value) for key, value in donor.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "encoder"),
    [
        ("deeplabv3plus", "resnet50"),
        ("fcn", "resnet50"),
        ("pspnet", "resnet50"),
        ("segnet", "vgg16_bn"),
        ("unet", "resnet34"),
    ],
)
def test_baselines_take_their_encoders_weights(model: str, encoder: str, tmp_path: Path) -> None:
    with torch.device("meta"):  # numbers are made below
        classifier = timm.create_model(encoder, num_classes=0)
    donor = {
        # the layers of a classifier alone are of no interest, and large
        key: torch.randn(1 if key.startswith("pre_logits") else value.shape).to(value.dtype)
        for key, value in classifier.state_dict().items()
    }
    path = tmp_path / "timm.pth"
    torch.save(donor, path)
    network = build_network(model, 3)
    load_encoder_weights(network, model, str(path))
    for key, value in network.encoder.state_dict().items():
        assert torch.equal(value, donor[key]), key


def test_weights_of_a_pretrained_network_of_ours(tmp_path: Path) -> None:
    donor = changed(TimmEncoder("resnet18").features.state_dict())
    path = tmp_path / "network.safetensors"
    save_file({f"base_network.features.{k}": v for k, v in donor.items()}, path)
    network = build_network("ued_bes-resnet18", 3)
    load_encoder_weights(network, "ued_bes-resnet18", str(path))
    actual = network.encoder.state_dict()
    assert all(torch.equal(actual[f"features.{k}"], value) for k, value in donor.items())


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 7])
def test_kernels_adapt_to_bands_as_timms_do(bands: int) -> None:
    kernels = torch.randn(8, 3, 5, 5)
    expected = timm.models.adapt_input_conv(bands, kernels)
    torch.testing.assert_close(adapted_to_bands(kernels, bands), expected)


def test_kernels_adapt_from_any_number_of_bands() -> None:
    kernels = torch.arange(4.0).reshape(1, 4, 1, 1)
    assert adapted_to_bands(kernels, 3).flatten().tolist() == pytest.approx([0, 4 / 3, 8 / 3])
    assert adapted_to_bands(kernels, 6).flatten().tolist() == pytest.approx(
        [value * 4 / 6 for value in (0, 1, 2, 3, 0, 1)]
    )
    assert adapted_to_bands(kernels, 1).flatten().tolist() == [6]
    # the same value in all bands is answered as before
    grey = torch.full((1, 8), 0.7)
    for bands in (1, 2, 4, 8):
        weight = adapted_to_bands(torch.ones(1, 4, 1, 1), bands).flatten()
        assert float(weight @ grey[0, :bands]) == pytest.approx(4 * 0.7)


@pytest.mark.parametrize(
    ("model", "donor_bands", "bands"),
    [
        ("ued", 4, 3),
        *((name, 3, 5) for name in ("ued", "ued-resnet18")),
        *(pytest.param(name, 3, 5, marks=pytest.mark.slow) for name in ("unet", "segnet", "fcn")),
    ],
)
def test_a_first_layer_adapts_to_the_bands(
    model: str, donor_bands: int, bands: int, tmp_path: Path
) -> None:
    donor = build_network(model, 3, donor_bands).encoder
    path = tmp_path / "encoder.pth"
    torch.save(donor.state_dict(), path)
    network = build_network(model, 3, bands)
    said = load_encoder_weights(network, model, str(path))
    assert said is not None
    assert said.endswith(f"; its first layer adapted from {donor_bands} to {bands} bands")
    actual, adapted = network.encoder.state_dict(), []
    for key, value in donor.state_dict().items():
        if actual[key].shape == value.shape:
            assert torch.equal(actual[key], value)
        else:
            adapted.append(key)
            assert torch.equal(actual[key], adapted_to_bands(value, bands))
    assert len(adapted) == 1


def test_a_file_that_does_not_fit_says_what_it_holds(tmp_path: Path) -> None:
    narrow = GhostNetEncoder().state_dict()
    torch.save(GhostNetEncoder(1.5).state_dict(), tmp_path / "wide.pth")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"x": np.array([1]), "f": print}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "wide.pth").read_bytes()[:5000])
    described = {"hrrsi_encoder": json.dumps({"encoder": "resnet18", "top1": 0.7})}
    resnet = dict(timm.create_model("resnet18").state_dict())
    save_file(resnet, tmp_path / "pretrained.safetensors", described)
    save_file(resnet, tmp_path / "damaged.safetensors", {"hrrsi_encoder": "{"})
    save_file(
        {f"base_network.{k}": v for k, v in narrow.items()},
        tmp_path / "network.safetensors",
        {"model": '"ued"'},
    )
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    for folder, file in (("pretrained", "encoder"), ("trained", "best"), ("neither", "other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{file}.safetensors").touch()
    networks = {name: build_network(name, 6) for name in ("ued", "ued-resnet18", "ued-resnet34")}
    for model, name, words in (
        ("ued", "pretrained", f"is a folder; give {tmp_path / 'pretrained/encoder.safetensors'}"),
        ("ued", "trained", f"is a folder; give {tmp_path / 'trained/best.safetensors'}"),
        ("ued", "neither", "is a folder; give a weights file in it"),
        ("ued", "picture.png", "neither a .safetensors nor a PyTorch file; give another file"),
        ("ued", "wide.pth", "another width"),
        ("ued", "other.pth", "lacks"),
        ("ued", "code.pth", "it was not run"),
        ("ued", "cut.pth", "not a whole weights file"),
        ("ued", "missing.pth", "no such file"),
        ("ued", "pretrained.safetensors", "it holds resnet18; give weights of ghostnet_100"),
        ("ued", "damaged.safetensors", "conv_stem.weight; give weights of ghostnet_100"),
        ("ued-resnet18", "network.safetensors", "it holds ued; give weights of resnet18"),
        ("ued-resnet34", "pretrained.safetensors", "lacks"),
    ):
        network = networks[model]
        before = {k: v.clone() for k, v in network.state_dict().items()}
        with pytest.raises(HrrsiError) as error:
            load_encoder_weights(network, model, str(tmp_path / name))
        assert words in str(error.value), name
        assert "\n" not in str(error.value)
        assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ued_1p3", "timm has no ImageNet weights for GhostNet at width 1.3 (ued_1p3)"),
        ("ued_1p5", "timm has no ImageNet weights for GhostNet at width 1.5 (ued_1p5)"),
        ("ued-nfnet_f0", "timm has no ImageNet weights for nfnet_f0"),
        ("ued-resnet19", "has no encoder 'resnet19'; did you mean resnet18"),
        ("ued-resnet18.nothing", "has no weights 'nothing' of resnet18; choose from"),
        ("uet", "unknown model 'uet'"),
    ],
)
def test_what_has_no_imagenet_weights_is_known_beforehand(model: str, words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        check_encoder_source(model, "imagenet")
    assert words in str(error.value)


@pytest.mark.parametrize("model", ["ued", "ued_bes-mobilenetv4_conv_small", "unet", "segnet"])
def test_imagenet_weights_may_be_asked_for(model: str) -> None:
    check_encoder_source(model, "imagenet")
    check_encoder_source(model, "none")


def test_a_hub_out_of_reach_is_one_line_that_names_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network("ued-resnet18", 3)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing is
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    for kind in ("http", "https", "all"):
        monkeypatch.setenv(f"{kind}_proxy", "")
    with pytest.raises(WeightsError) as raised:
        load_encoder_weights(network, "ued-resnet18", "imagenet")
    assert "`encoder_weights=imagenet`: timm's ImageNet weights cannot be" in str(raised.value)
    assert "resnet18 .safetensors or .pth fetched elsewhere" in str(raised.value)
