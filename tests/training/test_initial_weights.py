"""Training starts from another network's weights as far as they fit, and says how far."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples.network_contract import meta_of
from samples.published_networks import published_checkpoint

from hrrsi.errors import HrrsiError
from hrrsi.networks.network import SegmentationNetwork, adapted_to_bands
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.scenes.input_bands import InputBands
from hrrsi.training.initial_weights import KeptTensors, load_initial_weights

RGB = InputBands((1, 2, 3), None, has_height=False)


def saved(
    folder: Path, model: str, classes: list[str], bands: int = 3
) -> tuple[Path, dict[str, torch.Tensor]]:
    """A weights file of a network, and the tensors in it."""
    torch.manual_seed(21)
    network = build_network(model, len(classes), bands)
    for layer in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        layer.running_mean.normal_()
    path = folder / f"{model}.safetensors"
    meta = replace(meta_of(model, len(classes), bands), classes=classes)
    save_weights(network.state_dict(), meta, path)
    return path, network.state_dict()


def fresh(model: str, classes: int, bands: int = 3) -> SegmentationNetwork:
    torch.manual_seed(22)
    return build_network(model, classes, bands)


@pytest.mark.parametrize(
    "model",
    [
        "ued_bes_sfm",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ued_bes-resnet18", "unet")),
    ],
)
def test_the_same_network_and_classes_keep_everything(model: str, tmp_path: Path) -> None:
    path, tensors = saved(tmp_path, model, ["road", "water", "tree"])
    network = fresh(model, 3)
    kept = load_initial_weights(network, path, ["road", "water", "tree"], RGB)
    assert all(torch.equal(v, tensors[k]) for k, v in network.state_dict().items())
    assert kept.tensors == kept.all_tensors == len(tensors)
    assert kept.parameters == kept.all_parameters == sum(p.numel() for p in network.parameters())
    assert kept.share == 1
    assert kept.classes == kept.all_classes == ("road", "water", "tree")
    assert kept.bands_adapted is None
    assert kept.summary == (
        f"kept 100.0% of the parameters ({len(tensors)} of {len(tensors)} tensors) of {model} in "
        f"{path.name}; classes kept: road, water, tree"
    )


@pytest.mark.parametrize("model", ["ued_bes_sfm", pytest.param("segnet", marks=pytest.mark.slow)])
def test_rows_of_heads_follow_their_classes(model: str, tmp_path: Path) -> None:
    path, tensors = saved(tmp_path, model, ["road", "water", "tree"])
    network = fresh(model, 4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    kept = load_initial_weights(network, path, ["Tree", "car", "road", "roof"], RGB)
    assert kept.classes == ("Tree", "road")
    assert kept.summary.endswith("; classes kept: Tree, road; new: car, roof")
    after = network.state_dict()
    rows = 0
    for key, value in after.items():
        if key.rpartition(".")[0] not in network.class_heads:
            assert torch.equal(value, tensors[key]), key
            continue
        rows += 2 * value[0].numel()
        assert torch.equal(value[[0, 2]], tensors[key][[2, 0]])
        assert torch.equal(value[[1, 3]], before[key][[1, 3]])
    assert rows > 0
    # what is new is the other half of the heads
    assert kept.parameters == kept.all_parameters - rows


def test_a_smaller_network_starts_a_larger_one(tmp_path: Path) -> None:
    path, tensors = saved(tmp_path, "ued", ["road", "water"])
    network = fresh("ued_bes_sfm", 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    kept = load_initial_weights(network, path, ["road", "water"], RGB)
    after = network.state_dict()
    # its last layer tells classes apart where ours makes features
    assert torch.equal(after["final_out.2.weight"], before["final_out.2.weight"])
    for key, value in after.items():
        shared = key in tensors and key != "final_out.2.weight"
        assert torch.equal(value, (tensors if shared else before)[key]), key
    assert kept.classes == ()
    assert 0.9 < kept.share < 1
    assert "classes kept" not in kept.summary
    assert kept.summary.endswith("; new: road, water")


def test_as_many_classes_as_features_are_not_taken_for_them(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "ued", [f"class {i}" for i in range(24)])
    network = fresh("ued_bes", 2)
    before = network.state_dict()["final_out.2.weight"].clone()
    load_initial_weights(network, path, ["road", "water"], RGB)
    assert torch.equal(network.state_dict()["final_out.2.weight"], before)


@pytest.mark.parametrize(("source_bands", "bands"), [(3, 4), (5, 3), (3, 1)])
def test_the_first_layer_adapts_to_bands(source_bands: int, bands: int, tmp_path: Path) -> None:
    path, tensors = saved(tmp_path, "ued_bes-resnet18", ["road", "water"], source_bands)
    network = fresh("ued_bes-resnet18", 2, bands)
    kept = load_initial_weights(
        network, path, ["road", "water"], RGB._replace(numbers=tuple(range(1, bands + 1)))
    )
    first = "base_network.features.conv1.weight"
    assert torch.equal(network.state_dict()[first], adapted_to_bands(tensors[first], bands))
    assert kept.bands_adapted == source_bands
    assert kept.tensors == kept.all_tensors
    assert kept.summary.endswith(f"; its first layer adapted from {source_bands} bands")


COLOURS = RGB._replace(meanings=("red", "green", "blue"))


@pytest.mark.parametrize(
    ("trained", "bands", "words"),
    [
        (
            RGB._replace(has_height=True),
            RGB._replace(numbers=(1, 2, 3, 4)),
            "saw band 1, band 2, band 3, height where the patches hold band 1",
        ),
        (
            RGB._replace(numbers=(3, 2, 1)),
            RGB,
            "saw band 3, band 2, band 1 where the patches hold band 1",
        ),
        (
            RGB,
            InputBands((1, 2), None, has_height=True),
            "where the patches hold band 1, band 2, height",
        ),
        (
            RGB._replace(meanings=("near infrared", "red", "green")),
            COLOURS,
            "saw near infrared, red, green where the patches hold red, green, blue",
        ),
    ],
)
def test_bands_that_mean_something_else_are_told(
    trained: InputBands, bands: InputBands, words: str, tmp_path: Path
) -> None:
    kept = started(trained, bands, tmp_path)
    assert kept.share == 1
    assert words in kept.summary
    assert kept.summary.endswith(", taken in this order")


def test_bands_that_show_the_same_under_other_numbers_are_the_same(tmp_path: Path) -> None:
    kept = started(COLOURS._replace(numbers=(4, 1, 2)), COLOURS, tmp_path)
    assert "first layer" not in kept.summary


def started(trained: InputBands, bands: InputBands, folder: Path) -> KeptTensors:
    """What a network takes over from weights that were trained on some bands."""
    path, tensors = saved(folder, "ued", ["road", "water"], len(bands.names))
    shown = None if trained.meanings is None else list(trained.meanings)
    meta = replace(
        read_meta(path),
        bands=list(trained.numbers),
        band_meanings=shown,
        height=trained.has_height,
        scheme="town",
    )
    save_weights(tensors, meta, path)
    network = fresh("ued", 2, len(bands.names))
    return load_initial_weights(network, path, ["road", "water"], bands)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("ued_1p3", "ued", "holds ued_1p3, whose encoder is another one"),
        ("ued", "ued-resnet18", "holds ued, whose encoder is another one (0 of 120 tensors"),
        pytest.param(
            *("unet", "ued", "holds unet, whose encoder is another one (0 of"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_encoder_is_no_start(source: str, target: str, words: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, source, ["road", "water"])
    network = fresh(target, 2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(HrrsiError) as error:
        load_initial_weights(network, path, ["road", "water"], RGB)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_published_checkpoint_starts_a_network(tmp_path: Path) -> None:
    path = published_checkpoint("ued_bes_sfm", tmp_path)
    network = fresh("ued_bes_sfm", 3)
    kept = load_initial_weights(network, path, ["tree", "car", "snow"], RGB)
    assert kept.classes == ("tree", "car")
    assert kept.share > 0.99


def test_a_file_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(b"")
    with pytest.raises(HrrsiError, match="is empty"):
        load_initial_weights(fresh("ued", 2), path, ["road", "water"], RGB)
