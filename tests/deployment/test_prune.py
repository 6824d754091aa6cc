"""Pruned networks: what is cut, that the rest is exact, and that they are weights like others."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from ptflops import get_model_complexity_info
from safetensors.torch import load_file
from samples.made_dataset import save_made_dataset, with_partial_validation
from samples.made_weights import meta, save_made_weights, scene_pixels
from samples.training_runs import quick, quietly, weights_of
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi.cli import app
from hrrsi.deployment.channel_cuts import (
    INPUT,
    OUTPUT,
    LayerCosts,
    chosen_cuts,
    coupled_channels,
    cut_tensors,
    left_channels,
    taylor_importances,
)
from hrrsi.graphs.segmentation import logits_graph
from hrrsi.networks.architecture import parsed_model
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import load_network, save_weights
from hrrsi.runs import loop
from hrrsi.tiling.dataset import TiledDataset

SIDE = 96
NETWORKS = [
    "ued",
    "ued-tf_efficientnet_lite0",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("ued_bes_sfm_1p3", "ued-resnet18")),
]


def network_of(model: str) -> torch.nn.Module:
    """A network in eval mode whose BatchNorms do something."""
    torch.manual_seed(3)
    network = build_network(model, 5).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network


def ptflops_of(network: torch.nn.Module) -> int:
    macs, _ = get_model_complexity_info(
        copy.deepcopy(network), (3, SIDE, SIDE), print_per_layer_stat=False, as_strings=False,
        backend="pytorch",
    )  # fmt: skip
    return macs


def image_of(size: int = SIDE) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(scene_pixels()[:size, :size], -1, 0)[None] / 255).float()


@pytest.mark.parametrize("model", NETWORKS)
def test_what_is_left_computes_what_the_whole_did_without_what_was_cut(model: str) -> None:
    network = smaller = network_of(model)
    coupled = left = coupled_channels(network)
    costs = LayerCosts(network, SIDE)
    before = costs.total
    generator = np.random.default_rng(0)
    units = [np.arange(group.units) for group in coupled]
    for share in (0.85, 0.7):  # in two rounds
        importances = [generator.random(group.units) for group in left]
        cuts = chosen_cuts(costs, left, importances, share * before, 4)
        tensors = cut_tensors(smaller, left, cuts)
        shapes = {key: tensor.shape for key, tensor in tensors.items()}
        smaller = build_network(model, 5, 3, shapes).eval()
        smaller.load_state_dict(tensors)
        left = left_channels(left, cuts)
        units = [np.delete(own, cut) for own, cut in zip(units, cuts, strict=True)]
    # the same network, blind to what was cut: no layer sees it
    layers = dict(network.named_modules())
    for group, kept in zip(coupled, units, strict=True):
        gone = np.setdiff1d(np.arange(group.units), kept)
        for (name, side), places in group.places.items():
            if side == INPUT:
                layers[name].weight.data[:, places[gone].ravel()] = 0
    with torch.inference_mode():
        maps, expected = smaller(image_of()), network(image_of())
        widths = tuple(each.shape[1] for each in smaller.encoder(image_of()))
    assert widths == smaller.encoder.channels  # which distillation goes by
    for key in ("lbl", "bdy", "edg"):
        if key in expected:
            torch.testing.assert_close(maps[key], expected[key], atol=1e-5, rtol=1e-4)
    if parsed_model(model).has_graph:  # which maps without torch
        arrays = {key: tensor.numpy().astype(np.float32) for key, tensor in tensors.items()}
        graph = logits_graph(model, arrays, 5, 3, SIDE, SIDE, "float32", pruned=True)
        session = onnxruntime.InferenceSession(
            graph.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        as_is = {"gain": np.ones((1, 3, 1, 1), np.float32)}
        as_is |= {"offset": np.zeros((1, 3, 1, 1), np.float32)}
        (logits,) = session.run(None, {"pixels": image_of().numpy(), **as_is})
        with torch.inference_mode():
            coarse = smaller.coarse_logits(image_of()).numpy()
        np.testing.assert_allclose(logits, coarse, atol=1e-4 * np.abs(coarse).max())
        with pytest.raises(ValueError, match="channels"):  # of a file that does not say so
            logits_graph(model, arrays, 5, 3, SIDE, SIDE, "float32")
    assert costs.total == LayerCosts(smaller, SIDE).total
    assert 0.6 <= costs.total / before <= 0.7
    assert ptflops_of(smaller) / ptflops_of(network) == pytest.approx(
        costs.total / before, abs=0.02
    )


@pytest.mark.slow
def test_both_halves_of_ghost_modules_and_what_sums_join_go_together() -> None:
    network = network_of("ued")
    key = "base_network.blocks.8.0.ghost2"
    (group,) = (
        each
        for each in coupled_channels(network)
        if (f"{key}.primary_conv.0", OUTPUT) in each.places
    )
    assert group.units == 80
    pairs = np.arange(80)[:, None] + [0, 80]
    assert (group.places[f"{key}.cheap_operation.0", OUTPUT] == np.arange(80)[:, None]).all()
    # the whole stage adds its maps up, and the decoder sees them
    for number in (1, 2, 3):
        place = (f"base_network.blocks.8.{number}.ghost2.primary_conv.0", OUTPUT)
        assert (group.places[place] == np.arange(80)[:, None]).all()
    for place in (
        (f"{key.replace('8.0', '7.0')[:-7]}.shortcut.2", OUTPUT),
        ("dec_c3.up.0", INPUT),
    ):
        assert (np.sort(group.places[place], axis=1) == pairs).all()
    # the other half of what this sees comes from the lower map
    (high,) = (each for each in coupled_channels(network) if ("dec_c1.up.0", OUTPUT) in each.places)
    assert (high.places["dec_c1.cat_conv.0", INPUT] == 24 + np.arange(24)[:, None]).all()


def test_importance_is_the_squared_derivative_of_the_loss() -> None:
    network = network_of("ued")
    coupled = [each for each in coupled_channels(network) if ("dec_c1.up.0", OUTPUT) in each.places]
    labels = torch.randint(0, 5, (1, 32, 32), generator=torch.Generator().manual_seed(0))
    labels[0, :4] = 255
    image = image_of(32)
    candidates = [[index] for index in range(5)]
    batches = [(image, labels.to(torch.uint8))]
    (importances,) = taylor_importances(network, coupled, batches, candidates)
    kernel = network.dec_c1.cat_conv[0].weight
    whole = kernel.detach().double().clone()
    network = network.double()
    kernel = network.dec_c1.cat_conv[0].weight

    def loss(unit: int, factor: float) -> float:
        kernel.data = whole.clone()
        kernel.data[:, 24 + unit] *= factor
        with torch.no_grad():
            logits = network(image.double())["lbl"]
        return float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=255))

    for unit in (0, 7, 23):
        slope = (loss(unit, 1 + 1e-4) - loss(unit, 1 - 1e-4)) / 2e-4
        assert importances[unit] == pytest.approx(slope**2, rel=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, a dataset, and a network pruned by the command line: its answer beside it."""
    folder = tmp_path_factory.mktemp("pruned")
    save_made_dataset(folder / "data", train=8, val=3)
    weights = save_made_weights(folder / "made.safetensors", resolution=0.5)
    out = folder / "pruned.safetensors"
    result = run(weights, "--data", folder / "data", "--out", out, "--patches", 4)
    assert result.exit_code == 0, result.output
    (folder / "said.txt").write_text(result.stdout)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["prune", *map(str, arguments)])


@pytest.mark.slow
def test_the_file_is_smaller_and_says_what_was_cut(folder: Path) -> None:
    before, out = folder / "made.safetensors", folder / "pruned.safetensors"
    said = (folder / "said.txt").read_text()
    whole_profile, pruned_profile = hrrsi.profile(weights=before), hrrsi.profile(weights=out)
    share = pruned_profile[0].operations.macs / whole_profile[0].operations.macs
    assert 0.67 <= share <= 0.7
    assert f"left ({share:.1%})" in said
    assert f"hrrsi train {folder / 'data'} --model ued_bes_sfm --init {out}" in said
    assert out.stat().st_size < 0.7 * before.stat().st_size
    described = hrrsi.load_model(out).meta
    assert described.macs_share == pytest.approx(share, abs=1e-5)
    (cut,) = described["pruned"]
    assert (cut["from"], cut["patches"], cut["data"]) == ("made.safetensors", 4, "dubai")
    assert all(left < whole for whole, left in cut["channels"].values())
    assert described.scores["validation"]["protocol"].endswith("right after pruning")
    of_both = {key: value for key, value in described.items() if key not in ("pruned", "scores")}
    assert of_both == {k: v for k, v in hrrsi.load_model(before).meta.items() if k != "scores"}
    for command in (["info", str(out)], ["profile", "--weights", str(out)]):
        text = " ".join(CliRunner().invoke(app, command).stdout.split())
        assert f"to {share:.1%} of the multiply-accumulates of made.safetensors" in text


def test_the_loss_is_that_of_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits lie where the weights' lie, in each round; pixels are as wide as maps read them."""
    network, about = load_network(folder / "made.safetensors")
    about = replace(about, logit_alignment="centres", resolutions=[1.0, 1.2])
    path = tmp_path / "made.safetensors"
    save_weights(network.state_dict(), about, path)
    seen: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def importances(network: Any, coupled: Any, batches: Any, candidates: Any) -> Any:
        batches = list(batches)
        for images, labels in batches:
            seen.append((network.logit_alignment, images.shape[2:], labels.shape[1:]))
        return taylor_importances(network, coupled, batches, candidates)

    monkeypatch.setattr("hrrsi.deployment.channel_cuts.taylor_importances", importances)
    dataset = TiledDataset(folder / "data")
    described = dataset.description.model_copy(update={"resolution": 0.5})
    (dataset.folder / "dataset.yaml").write_text(described.to_yaml())
    try:
        result = run(path, "--data", folder / "data", "--dry-run", "--patches", 2)
    finally:
        (dataset.folder / "dataset.yaml").write_text(dataset.description.to_yaml())
    assert result.exit_code == 0, result.output
    side = dataset.description.patch_size // 2
    assert len(seen) > 1
    assert set(seen) == {("centres", (side, side), (side, side))}


@pytest.mark.slow
def test_every_engine_gives_the_same_labels(folder: Path, tmp_path: Path) -> None:
    out = folder / "pruned.safetensors"
    Image.fromarray(scene_pixels()).save(tmp_path / "scene.png")
    maps = []
    for engine in ("openvino", "onnxruntime", "torch"):
        (mapped,) = hrrsi.predict(
            [tmp_path / "scene.png"],
            out,
            out=tmp_path / engine,
            engine=hrrsi.EngineOptions(engine=engine, precision="32", device="cpu"),
        )
        maps.append(np.asarray(Image.open(mapped.outputs.classes)))
    assert len(np.unique(maps[0])) >= 3
    for other in maps[1:]:
        assert (maps[0] != other).mean() <= 1e-4


@pytest.mark.slow
def test_it_is_exported_and_pruned_again(folder: Path, tmp_path: Path) -> None:
    out = folder / "pruned.safetensors"
    written = hrrsi.export(out, tmp_path / "m.onnx", options=hrrsi.ExportOptions(window=64))
    assert written.different == 0
    twice = tmp_path / "twice.safetensors"
    options = hrrsi.PruneOptions(macs=0.8, patches=2, multiple=4)
    again = hrrsi.prune(out, folder / "data", twice, options=options)
    assert [cut["from"] for cut in again.meta.pruned] == ["made.safetensors", "pruned.safetensors"]
    whole = hrrsi.profile(weights=folder / "made.safetensors")[0].operations.macs
    left = hrrsi.profile(weights=twice)[0].operations.macs
    assert again.meta.macs_share == pytest.approx(left / whole, abs=1e-5)
    assert left / whole < 0.57


@pytest.mark.slow
def test_training_goes_on_from_it_and_is_resumed_without_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.safetensors"
    start.write_bytes((folder / "pruned.safetensors").read_bytes())
    kept: list[Path] = []
    write = loop.write_checkpoint

    def keep(position: Any, content: Any, path: Path) -> None:
        write(position, content, path)
        kept.append(tmp_path / f"{len(kept)}.ckpt")
        kept[-1].write_bytes(path.read_bytes())

    changes = {"model": "ued_bes_sfm", "init": start, "batch": 4, "epochs": 1}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_checkpoint", keep)
        options = quick(folder / "data", tmp_path / "whole", **changes)
        whole, lines = quietly(options, checkpoint_seconds=0)
    assert any("kept 100.0% of the parameters" in line for line in lines)
    start.unlink()
    options = quick(folder / "data", tmp_path / "half", **changes)
    options.run_folder.mkdir(parents=True)
    for name in ("config.yaml", "environment.yaml"):
        (options.run_folder / name).write_bytes((whole.folder / name).read_bytes())
    kept[0].rename(options.run_folder / "last.ckpt")
    resumed, _ = quietly(options, resume=True)
    expected, tensors = (weights_of(run.folder / "last.ckpt") for run in (whole, resumed))
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())
    trained, pruned = load_file(resumed.weights), load_file(folder / "pruned.safetensors")
    assert {k: v.shape for k, v in trained.items()} == {k: v.shape for k, v in pruned.items()}
    network = hrrsi.load_model(resumed.weights)
    assert network.meta.pruned == hrrsi.load_model(folder / "pruned.safetensors").meta.pruned
    assert network.meta.training["init"] == "start.safetensors"

    other = quick(folder / "data", tmp_path / "other", init=folder / "pruned.safetensors")
    with pytest.raises(hrrsi.WeightsError, match="train with `model=ued_bes_sfm`"):
        quietly(other)


@pytest.mark.slow
def test_kernels_in_half_precision_stay_so(folder: Path, tmp_path: Path) -> None:
    options = hrrsi.PruneOptions(macs=0.9, patches=1)
    pruned = hrrsi.prune("light", folder / "data", tmp_path / "p.safetensors", options=options)
    kinds = {tensor.dtype for tensor in load_file(pruned.path).values() if tensor.ndim == 4}
    assert kinds == {torch.float16}
    assert pruned.file_bytes[1] < pruned.file_bytes[0]
    assert pruned.meta.pruned[0]["from"] == "light"


@pytest.mark.slow
def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    arguments = ("--data", folder / "data", "--out", out, "--patches", 1, "--dry-run")
    result = run(folder / "made.safetensors", *arguments)
    assert result.exit_code == 0, result.output
    assert "dec_c3" in result.stdout
    assert "dry run: nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def wrong_input(folder: Path) -> Iterator[Callable[..., str]]:
    """Runs the command with wrong input, and returns the one line that it says."""
    before = sorted(path.name for path in folder.iterdir())

    def line_of(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 1, result.output
        line = result.stderr.splitlines()[-1]
        assert line.startswith("error: ")
        return line

    yield line_of
    assert sorted(path.name for path in folder.iterdir()) == before


def test_wrong_input_is_one_line(
    folder: Path, tmp_path: Path, wrong_input: Callable[..., str]
) -> None:
    weights, data, out = folder / "made.safetensors", folder / "data", tmp_path / "p.safetensors"
    arguments = (weights, "--out", out, "--patches", 1, "--data")
    line = wrong_input(*arguments, data, "--macs", 0.01)
    assert "--macs: 0.01 can't be reached" in line
    assert "give 0." in line
    for share in (0, 1, 1.5, -0.3):
        assert "no share of multiply-accumulates" in wrong_input(*arguments, data, "--macs", share)
    assert "is not a tiled dataset" in wrong_input(*arguments, tmp_path)
    assert "does not end in .safetensors" in wrong_input(
        weights, "--data", data, "--out", tmp_path / "p.onnx"
    )
    existing = folder / "pruned.safetensors"
    assert "exists already; give --overwrite" in wrong_input(
        weights, "--data", data, "--out", existing
    )
    assert "no such weights" in wrong_input("nowhere.safetensors", "--data", data, "--out", out)
    four = save_made_weights(tmp_path / "four.safetensors", bands=4)
    assert "3 bands where the weights expect 4" in wrong_input(four, *arguments[1:], data)
    for name, change in UNFIT.items():
        unfit = tmp_path / name
        unfit.mkdir()
        content = yaml.safe_load((data / "dataset.yaml").read_text())
        (unfit / "dataset.yaml").write_text(yaml.safe_dump(content | change(content)))
        for split in ("train", "val"):
            (unfit / split).symlink_to(data / split)
        assert name in wrong_input(*arguments, unfit)
    assert not out.exists()


UNFIT: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "labels of its val split are partial": with_partial_validation,
    "do not predict its classes": lambda c: {"classes": [*c["classes"][:4], "Snow"]},
    "val split has no labels": lambda c: {
        "splits": c["splits"]
        | {"val": c["splits"]["val"] | {"class_pixels": [0] * 5, "labels": "none"}}
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["ued-mobilenetv4_conv_small", pytest.param("unet", marks=pytest.mark.slow)]
)
def test_a_network_that_only_torch_runs_is_pruned(folder: Path, tmp_path: Path, model: str) -> None:
    described = replace(meta(), model=model)
    weights = tmp_path / "other.safetensors"
    network = network_of(model)
    save_weights(network.state_dict(), described, weights)
    options = hrrsi.PruneOptions(macs=0.5, patches=1)
    pruned = hrrsi.prune(weights, folder / "data", tmp_path / "p.safetensors", options=options)
    assert pruned.macs[1] <= 0.5 * pruned.macs[0]
    assert hrrsi.load_model(pruned.path)(image_of())["lbl"].shape == (1, 5, SIDE, SIDE)
