"""What a run says of its weights is what `hrrsi eval` says of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from samples.made_dataset import save_made_dataset
from samples.training_runs import quick
from typer.testing import CliRunner

from hrrsi.cli import app
from hrrsi.networks.weights_reading import load_model
from hrrsi.tiling.dataset import TiledDataset, read_image, read_label
from hrrsi.training.initial_weights import first_network
from hrrsi.training.module import SegmentationTraining
from hrrsi.training.patch_batches import validation_batches


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_made_dataset(tmp_path_factory.mktemp("data") / "dubai64", train=16, val=8)


@pytest.mark.parametrize("model", ["ued", pytest.param("unet", marks=pytest.mark.slow)])
def test_bf16_is_rounded_no_more_than_the_network_rounds(dataset: Path, model: str) -> None:
    tiled = TiledDataset(dataset)
    options = quick(dataset, Path("unused"), model=model, batch=8, precision="bf16", average=0)
    network = first_network(options, tiled, resume=True, report=print)
    module = SegmentationTraining(network, options, tiled.description, steps=1).eval()
    expected = np.zeros_like(module.matrix.counts)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for image, label in validation_batches(tiled, options):
            module.validate((image, label))
            coarse = network.coarse_logits(module.normalised(image))
            assert coarse.dtype is torch.bfloat16
            logits = F.interpolate(coarse.float(), size=label.shape[-2:], mode="bilinear")
            predicted = logits.argmax(1)[label != 255]
            np.add.at(expected, (predicted.numpy(), label[label != 255].numpy()), 1)
    module.end_validation()
    np.testing.assert_array_equal(module.matrix.counts, expected)


@pytest.mark.parametrize("class_weights", ["published", "none"])
def test_the_validation_loss_is_that_of_the_recipe(dataset: Path, class_weights: str) -> None:
    tiled = TiledDataset(dataset)
    options = quick(
        dataset, Path("unused"), precision="32", average=0, class_weights=class_weights, batch=6
    )
    torch.manual_seed(0)
    network = first_network(options, tiled, resume=True, report=print)
    normalised = SegmentationTraining(network, options, tiled.description, steps=1).normalised
    network.eval()
    weights = 2 - np.array(tiled.description.class_frequencies)
    losses = []
    for patch in tiled.patches("val"):
        image = torch.from_numpy(read_image(patch, tiled.description))[None]
        with torch.no_grad():
            logits = network(normalised(image))["lbl"][0].double()
        cost = -(logits - logits.logsumexp(0)).numpy()
        for (row, col), label in np.ndenumerate(read_label(patch, tiled.description)):
            weight = weights[label] if label != 255 and class_weights == "published" else 1
            losses.append(0 if label == 255 else weight * cost[label, row, col])
    assert losses.count(0) > 0, "no pixel is ignored"
    for processes in (1, 3):  # of which one has a patch less
        module = SegmentationTraining(network, options, tiled.description, steps=1).eval()
        with torch.no_grad():
            for rank in range(processes):
                shares = validation_batches(tiled, options, rank=rank, processes=processes)
                for batch in shares:
                    module.validate(batch)
        module.end_validation()
        assert module.validation_loss == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.slow  # what bf16 rounds is tested below
def test_a_bf16_run_s_scores_are_those_of_eval(dataset: Path, tmp_path: Path) -> None:
    learnt = "--epochs 2 --batch 4 --lr 0.01 --average 0.5 --seed 1"
    run = f"train {dataset} --model ued_bes_sfm --precision bf16 {learnt} --out {tmp_path}"
    trained = CliRunner().invoke(
        app, f"{run} --encoder-weights none --device cpu --workers 0 --quiet".split()
    )
    assert trained.exit_code == 0, trained.output
    weights = tmp_path / "ued_bes_sfm" / "best.safetensors"
    stored = load_model(weights).meta["scores"]["validation"]
    for engine in ("", "--engine torch --precision bf16", "--engine torch --precision 32"):
        evaluated = CliRunner().invoke(
            app,
            f"eval {dataset} --split val --weights {weights} --device cpu {engine} "
            "--format json --quiet".split(),
        )
        assert evaluated.exit_code == 0, evaluated.output
        scores = json.loads(evaluated.stdout)["scores"]
        for name in ("OA", "mF1", "mIoU"):
            assert stored[name] == pytest.approx(scores[name], abs=2e-3), (engine, name)
