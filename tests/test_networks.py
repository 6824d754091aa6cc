"""One contract for every network, and the published networks' outputs to the last digit."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from hrrsi.errors import HrrsiError
from hrrsi.networks.names import MODEL_NAMES, split_width
from hrrsi.networks.segmentation import build_network
from hrrsi.weights import load_model, save_weights
from hrrsi.weights_file import ModelMeta

PARAMETERS = {
    "ued": 2_767_252,
    "ued_bes": 2_822_393,
    "ued_bes_sfm": 2_833_409,
    "ued_bes_sfm_1p3": 4_704_305,
    "ued_bes_sfm_1p5": 6_223_453,
}
TOLERANCE = 1e-5


def published_weights(legacy: Path, model: str) -> dict[str, torch.Tensor]:
    """State dict of the published layout with reproducible numbers."""
    if not (legacy / f"keys_{model}.json").exists():
        pytest.skip(f"no published layout of {model}")
    sys.path.insert(0, str(legacy))
    try:
        import weights
    finally:
        sys.path.remove(str(legacy))
    return {k: torch.from_numpy(np.asarray(v)) for k, v in weights.state_dict(model).items()}


def published_checkpoint(legacy: Path, model: str, folder: Path) -> Path:
    """A file as the published ones are."""
    path = folder / "epoch_420_OA_0.8960.pth"
    content = {
        "epoch": 420,
        "model_state_dict": published_weights(legacy, model),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.004, "momentum": 0.9}]},
    }
    torch.save(content, path)
    return path


def published_image(height: int, width: int) -> torch.Tensor:
    rng = np.random.RandomState(7)
    return torch.from_numpy(rng.uniform(-2.0, 2.0, (1, 3, height, width)).astype(np.float32))


def meta_of(model: str, classes: int) -> ModelMeta:
    return ModelMeta(
        model=model,
        classes=[f"class {i}" for i in range(classes)],
        colours=[(i, i, i) for i in range(classes)],
        bands=[1, 2, 3],
        dtype="uint8",
        scale=255.0,
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.2, 0.2],
        resolution=0.09,
        scheme="test",
        training={},
        scores={},
        licence="",
    )


class NetworkContract:
    """What every network promises; a subclass names it and its maps."""

    model: ClassVar[str]
    maps: ClassVar[set[str]]

    @pytest.fixture
    def network(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_network(self.model, 4)

    def test_has_the_published_number_of_parameters(self) -> None:
        network = build_network(self.model, 6)
        if self.model in PARAMETERS:
            assert sum(p.numel() for p in network.parameters()) == PARAMETERS[self.model]
        else:
            # wider versions without a published count at least lie between their neighbours
            base, _ = split_width(self.model)
            with_every_part = f"ued_bes_sfm{self.model.removeprefix(base)}"
            count = sum(p.numel() for p in network.parameters())
            assert PARAMETERS[base] < count < PARAMETERS[with_every_part]

    @pytest.mark.parametrize("size", [(64, 64), (100, 131), (1, 1)])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_maps_have_the_input_size(
        self, network: torch.nn.Module, size: tuple[int, int], batch: int
    ) -> None:
        with torch.inference_mode():
            maps = network.eval()(torch.randn(batch, 3, *size))
        assert set(maps) == self.maps
        assert maps["lbl"].shape == (batch, 4, *size)
        if "bdy" in maps:
            assert maps["bdy"].shape == (batch, 4, *size)
            assert maps["edg"].shape == (batch, *size)
        if "scr" in maps:
            assert maps["scr"].shape == (batch, 24, -(-size[0] // 4), -(-size[1] // 4))
            assert 0 <= float(maps["scr"].min()) <= float(maps["scr"].max()) <= 1
        assert all(torch.isfinite(m).all() for m in maps.values())

    def test_every_parameter_learns(self, network: torch.nn.Module) -> None:
        maps = network.train()(torch.randn(2, 3, 96, 96))
        sum(maps[name].square().mean() for name in maps if name != "scr").backward()
        idle = [n for n, p in network.named_parameters() if p.grad is None]
        assert not idle
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())

    def test_eval_mode_is_deterministic_and_ignores_the_rest_of_the_batch(
        self, network: torch.nn.Module
    ) -> None:
        image = torch.randn(3, 3, 96, 96)
        with torch.inference_mode():
            first, second = network.eval()(image), network(image)
            alone = network(image[1:2])
        for name in first:
            assert torch.equal(first[name], second[name])
            torch.testing.assert_close(first[name][1:2], alone[name], atol=1e-5, rtol=1e-5)

    def test_takes_any_number_of_classes_and_bands(self) -> None:
        network = build_network(self.model, 11, bands=5).eval()
        with torch.inference_mode():
            assert network(torch.randn(1, 5, 64, 64))["lbl"].shape == (1, 11, 64, 64)

    @pytest.mark.parametrize("half", [False, True])
    def test_saved_weights_load_again(
        self, network: torch.nn.Module, tmp_path: Path, half: bool
    ) -> None:
        path = tmp_path / "weights.safetensors"
        save_weights(network.state_dict(), meta_of(self.model, 4), path, half=half)
        loaded = load_model(path)
        assert not loaded.training
        assert dict(loaded.meta) == dict(meta_of(self.model, 4))
        image = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            expected, actual = network.eval()(image)["lbl"], loaded(image)["lbl"]
        torch.testing.assert_close(
            actual, expected, **({"atol": 0.02, "rtol": 0.02} if half else {"atol": 0, "rtol": 0})
        )

    def test_published_checkpoint_loads_and_gives_the_published_maps(
        self, legacy: Path, tmp_path: Path
    ) -> None:
        network = load_model(published_checkpoint(legacy, self.model, tmp_path))
        assert network.meta["model"] == self.model
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
        reference = np.load(legacy / "reference.npz")
        stored = [key for key in reference if key.split("/")[0] == self.model]
        assert stored
        for key in stored:
            _, size, name = key.split("/")
            height, width = map(int, size.split("x"))
            with torch.inference_mode():
                maps = network(published_image(height, width))
            actual = {
                **maps,
                "edg_sgm": maps["edg"].sigmoid() if "edg" in maps else None,
                "scr_sgm": maps.get("scr"),
                "argmax": maps["lbl"].argmax(1),
            }[name].numpy()
            if name != "argmax":
                actual = actual[..., ::4, ::4]
            assert actual.shape == reference[key].shape, key
            assert np.abs(actual.astype(np.float64) - reference[key]).max() <= TOLERANCE, key


class TestUED(NetworkContract):
    model = "ued"
    maps: ClassVar[set[str]] = {"lbl"}


class TestUEDBES(NetworkContract):
    model = "ued_bes"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg"}


class TestUEDBESSFM(NetworkContract):
    model = "ued_bes_sfm"
    maps: ClassVar[set[str]] = {"lbl", "bdy", "edg", "scr"}


class TestUED1p3(TestUED):
    model = "ued_1p3"


class TestUEDBES1p3(TestUEDBES):
    model = "ued_bes_1p3"


class TestUEDBESSFM1p3(TestUEDBESSFM):
    model = "ued_bes_sfm_1p3"


class TestUED1p5(TestUED):
    model = "ued_1p5"


class TestUEDBES1p5(TestUEDBES):
    model = "ued_bes_1p5"


class TestUEDBESSFM1p5(TestUEDBESSFM):
    model = "ued_bes_sfm_1p5"


def test_every_model_is_under_contract() -> None:
    tested = {c.model for c in _subclasses(NetworkContract)}
    assert tested == set(MODEL_NAMES)


def _subclasses(parent: type) -> list[type[NetworkContract]]:
    return [c for child in parent.__subclasses__() for c in (child, *_subclasses(child))]


def test_encoder_equals_timms(legacy: Path) -> None:
    import timm

    torch.manual_seed(0)
    ghostnet = timm.create_model("ghostnet_100").eval()
    network = build_network("ued", 6).eval()
    encoder = network.base_network
    shapes = json.loads((legacy / "keys_ued.json").read_text())
    assert {f"base_network.{k}" for k in encoder.state_dict()} < set(shapes)
    encoder.load_state_dict({k: ghostnet.state_dict()[k] for k in encoder.state_dict()})
    image = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        x = ghostnet.act1(ghostnet.bn1(ghostnet.conv_stem(image)))
        for block in ghostnet.blocks[:9]:
            x = block(x)
        assert torch.equal(encoder(image)[-1], x)


def test_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(HrrsiError, match="choose from ued, ued_bes"):
        build_network("ued_1p4", 6)
