"""One contract for every network, and the published networks' outputs to the last digit."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from samples.network_contract import NetworkContract
from samples.published_networks import (
    filled_weights,
    normalised_image,
    published_checkpoint,
    published_layout,
    published_models,
    published_outputs,
    stored_part,
)

from hrrsi.errors import HrrsiError
from hrrsi.networks.architecture import GHOSTNET_MODELS, parsed_model
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights_reading import load_model

PARAMETERS = {
    "ued": 2_767_252,
    "ued_bes": 2_822_393,
    "ued_bes_sfm": 2_833_409,
    "ued_bes_sfm_1p3": 4_704_305,
    "ued_bes_sfm_1p5": 6_223_453,
}
TOLERANCE = 1e-5


def network_maps(network: SegmentationNetwork, height: int, width: int) -> dict[str, np.ndarray]:
    """Maps of the reference's image, and the most likely class of each pixel."""
    with torch.inference_mode():
        maps = network(normalised_image(height, width))
    return {name: values.numpy() for name, values in maps.items()} | {
        "argmax": maps["lbl"].argmax(1).numpy()
    }


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(np.float64) - expected).max())


class PublishedContract(NetworkContract):
    """What the networks on GhostNet promise besides: to be the published ones."""

    def test_has_the_published_number_of_parameters(self) -> None:
        network = build_network(self.model, 6)
        if self.model in PARAMETERS:
            assert sum(p.numel() for p in network.parameters()) == PARAMETERS[self.model]
        else:
            # wider versions without a published count at least lie between their neighbours
            base = parsed_model(self.model).network
            with_every_part = f"ued_bes_sfm{self.model.removeprefix(base)}"
            count = sum(p.numel() for p in network.parameters())
            assert PARAMETERS[base] < count < PARAMETERS[with_every_part]


class TestUED(PublishedContract):
    model = "ued"
    maps: ClassVar[set[str]] = {"lbl"}


class TestUEDBES(PublishedContract):
    model = "ued_bes"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg"}


class TestUEDBESSFM(PublishedContract):
    model = "ued_bes_sfm"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg", "scr"}


@pytest.mark.long
@pytest.mark.slow
class TestUED1p3(TestUED):
    model = "ued_1p3"


@pytest.mark.long
@pytest.mark.slow
class TestUEDBES1p3(TestUEDBES):
    model = "ued_bes_1p3"


@pytest.mark.long
@pytest.mark.slow
class TestUEDBESSFM1p3(TestUEDBESSFM):
    model = "ued_bes_sfm_1p3"


@pytest.mark.long
@pytest.mark.slow
class TestUED1p5(TestUED):
    model = "ued_1p5"


@pytest.mark.long
@pytest.mark.slow
class TestUEDBES1p5(TestUEDBES):
    model = "ued_bes_1p5"


@pytest.mark.long
@pytest.mark.slow
class TestUEDBESSFM1p5(TestUEDBESSFM):
    model = "ued_bes_sfm_1p5"


def test_every_model_on_ghostnet_is_under_contract() -> None:
    tested = {c.model for c in _subclasses(PublishedContract)}
    assert tested == set(GHOSTNET_MODELS)


def _subclasses(parent: type) -> list[type[PublishedContract]]:
    return [c for child in parent.__subclasses__() for c in (child, *_subclasses(child))]


@pytest.mark.long
@pytest.mark.parametrize("model", published_models())
def test_published_checkpoint_loads_and_gives_the_published_maps(
    model: str, tmp_path: Path
) -> None:
    network = load_model(published_checkpoint(model, tmp_path))
    assert network.meta["model"] == model
    assert network.meta["classes"] == [
        "building",
        "clutter",
        "car",
        "impervious surface",
        "low vegetation",
        "tree",
    ]
    assert network.meta["colours"][0] == (0, 0, 255)
    assert network.meta["mean"] == [0.46956375, 0.32316217, 0.3183202]
    assert network.meta["resolution"] == 0.09
    compared = set()
    for (height, width), output, expected in published_outputs(model):
        actual = stored_part(output, network_maps(network, height, width)[output])
        assert largest_difference(actual, expected) <= TOLERANCE, output
        compared.add(output)
    assert compared == {"argmax", *network_maps(network, 32, 32)}


@pytest.mark.long
@pytest.mark.parametrize("model", published_models())
def test_every_published_number_agrees(model: str, legacy: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(legacy))
    try:
        import weights
    finally:
        sys.path.remove(str(legacy))
    filled = filled_weights(model)
    published = weights.state_dict(model)
    assert list(filled) == list(published)
    assert all(np.array_equal(filled[key].numpy(), values) for key, values in published.items())
    network = load_model(published_checkpoint(model, tmp_path))
    with np.load(legacy / "reference.npz") as reference:
        stored = [key for key in reference if key.split("/")[0] == model]
        assert stored
        for key in stored:
            _, size, name = key.split("/")
            maps = network_maps(network, *map(int, size.split("x")))
            if "edg" in maps:
                maps["edg_sgm"] = torch.from_numpy(maps["edg"]).sigmoid().numpy()
            maps["scr_sgm"] = maps.get("scr")
            actual = maps[name] if name == "argmax" else maps[name][..., ::4, ::4]
            assert largest_difference(actual, reference[key]) <= TOLERANCE, key


@pytest.mark.long
def test_encoder_equals_timms() -> None:
    import timm

    torch.manual_seed(0)
    ghostnet = timm.create_model("ghostnet_100").eval()
    network = build_network("ued", 6).eval()
    encoder = network.base_network
    assert {f"base_network.{k}" for k in encoder.state_dict()} < set(published_layout("ued"))
    encoder.load_state_dict({k: ghostnet.state_dict()[k] for k in encoder.state_dict()})
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        x = ghostnet.act1(ghostnet.bn1(ghostnet.conv_stem(image)))
        for block in ghostnet.blocks[:9]:
            x = block(x)
        assert torch.equal(encoder(image)[-1], x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ued_1p4", "unknown model 'ued_1p4'; choose from ued, ued_bes, ued_bes_sfm"),
        ("ued_bex-resnet18", "unknown model 'ued_bex-resnet18'; choose from ued"),
        ("ued_1p3-resnet18", "choose from ued"),
        ("ued-", "choose from ued"),
        ("ued-../resnet18", "choose from ued"),
        ("ued-hf-hub:some/model", "choose from ued"),
        ("segnet-resnet18", "deeplabv3plus, fcn, pspnet, segnet, unet"),
        ("ued_bes-ghostnet_130.in1k", "the encoder of ued_bes_1p3 itself; give ued_bes_1p3"),
    ],
)
def test_what_is_no_model_says_what_is(model: str, words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        build_network(model, 6)
    assert words in str(error.value)


def test_names_are_known_without_torch() -> None:
    code = (
        "import sys; from hrrsi.networks.architecture import parsed_model\n"
        "print(parsed_model('ued_bes-resnet18'), 'torch' in sys.modules, 'timm' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name = "ModelName(network='ued_bes', encoder='resnet18', width=None)"
    assert said.stdout.strip() == f"{name} False False"
