"""What every network promises, whatever it is made of: a module of tests inherits this."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.network import SegmentationNetwork
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model

BANDS = 5


def meta_of(model: str, classes: int, bands: int = 3) -> ModelMeta:
    return ModelMeta(
        model=model,
        classes=[f"class {i}" for i in range(classes)],
        colours=[(i, i, i) for i in range(classes)],
        bands=list(range(1, bands + 1)),
        dtype="uint8",
        scale=255.0,
        mean=[0.5] * bands,
        std=[0.2] * bands,
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
    kernels: ClassVar[tuple[str, ...]] = ("whole", "half")  # as which they are stored

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls) -> SegmentationNetwork:
        torch.manual_seed(0)
        return build_network(cls.model, 4, BANDS)  # large ones take a while to build

    @pytest.mark.parametrize(
        ("batch", "size"), [(1, (64, 64)), (3, (64, 64)), (1, (100, 131)), (2, (1, 1))]
    )
    def test_maps_have_the_input_size(
        self, network: SegmentationNetwork, batch: int, size: tuple[int, int]
    ) -> None:
        image = torch.randn(batch, BANDS, *size)
        with torch.inference_mode():
            maps = network.eval()(image)
            coarse = network.coarse_logits(image)
        assert set(maps) == self.maps
        assert maps["lbl"].shape == (batch, 4, *size)
        assert coarse.shape == (batch, 4, *(-(-length // network.logit_stride) for length in size))
        if "bdy" in maps:
            assert maps["bdy"].shape == (batch, 4, *size)
            assert maps["edg"].shape == (batch, *size)
        if "scr" in maps:
            assert maps["scr"].shape == (batch, 24, -(-size[0] // 4), -(-size[1] // 4))
            assert 0 <= float(maps["scr"].min()) <= float(maps["scr"].max()) <= 1
        assert all(torch.isfinite(m).all() for m in maps.values())

    def test_segment_is_the_label_map_of_forward(self, network: SegmentationNetwork) -> None:
        image = torch.randn(2, BANDS, 70, 53)
        with torch.inference_mode():
            assert torch.equal(network.eval().segment(image), network(image)["lbl"])

    def test_every_parameter_learns(self, network: SegmentationNetwork) -> None:
        maps = network.train()(torch.randn(2, BANDS, 64, 64))
        sum(maps[name].square().mean() for name in maps if name != "scr").backward()
        idle = [n for n, p in network.named_parameters() if p.grad is None]
        assert not idle
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())

    def test_encoder_and_heads_are_parts_of_it(self, network: SegmentationNetwork) -> None:
        assert any(module is network.encoder for module in network.modules())
        assert 0 < len(list(network.encoder.parameters())) < len(list(network.parameters()))
        for head in network.class_heads:
            layer = network.get_submodule(head)
            assert isinstance(layer, nn.Conv2d)
            assert layer.out_channels == 4

    def test_eval_mode_is_deterministic_and_ignores_the_rest_of_the_batch(
        self, network: SegmentationNetwork
    ) -> None:
        image = torch.randn(3, BANDS, 64, 96)
        with torch.inference_mode():
            first, second = network.eval()(image), network(image)
            alone = network(image[1:2])
        for name in first:
            assert torch.equal(first[name], second[name])
            largest = float(first[name].abs().max())
            torch.testing.assert_close(
                first[name][1:2], alone[name], atol=1e-5 * max(1.0, largest), rtol=1e-5
            )

    def test_takes_any_number_of_classes_and_bands(self, network: SegmentationNetwork) -> None:
        assert network.bands == BANDS
        other = build_network(self.model, 11, bands=1).eval()
        assert other.bands == 1
        with torch.inference_mode():
            assert other(torch.randn(1, 1, 64, 64))["lbl"].shape == (1, 11, 64, 64)

    def test_saved_weights_load_again(self, network: SegmentationNetwork, tmp_path: Path) -> None:
        meta = meta_of(self.model, 4, BANDS)
        path = tmp_path / "weights.safetensors"
        image = torch.randn(1, BANDS, 64, 64)
        with torch.inference_mode():
            expected = network.eval()(image)["lbl"]
        for half in (kind == "half" for kind in self.kernels):
            save_weights(network.state_dict(), meta, path, half=half)
            loaded = load_model(path)
            assert not loaded.training
            assert dict(loaded.meta) == dict(meta)
            with torch.inference_mode():
                actual = loaded(image)["lbl"]
            if half:
                largest = max(1.0, float(expected.abs().max()))
                assert (actual - expected).abs().max() <= 0.02 * largest
            else:
                torch.testing.assert_close(actual, expected, atol=0, rtol=0)
