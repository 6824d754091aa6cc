import functools
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.networks.architecture import BASELINE_MODELS, GHOSTNET_MODELS
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.profiling import operations
from hrrsi.profiling.figures import Latency
from hrrsi.profiling.operations import count_operations
from hrrsi.profiling.profile import profile_table

META = ModelMeta(
    model="ued",
    classes=["a", "b"],
    colours=[(0, 0, 0), (255, 255, 255)],
    bands=[1, 2, 3],
    dtype="uint8",
    scale=255.0,
    mean=[0.5] * 3,
    std=[0.25] * 3,
    resolution=None,
    scheme="mine",
    training={},
    scores={},
    licence="",
)


@pytest.fixture(autouse=True, scope="module")
def _costs_are_counted_once():
    """Keep what networks cost for the tests to come: several ask for the same ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hrrsi.profiling.operations.profile_model", profile_model)
        yield


profile_model = functools.cache(operations.profile_model)


def profiled(*arguments: str):
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def published_rows():
    names = ["ued", "ued_bes", "ued_bes_sfm", "ued_bes_sfm_1p3", "ued_bes_sfm_1p5"]
    return {row["model"]: row for row in json.loads(profiled(*names, "--format", "json"))}


def test_published_convention_to_the_digit(published_rows):
    counted = {m: round(row["gflops_published"], 4) for m, row in published_rows.items()}
    assert counted == {
        "ued": 1.4372,
        "ued_bes": 2.1884,
        "ued_bes_sfm": 2.3689,
        "ued_bes_sfm_1p3": 3.3024,
        "ued_bes_sfm_1p5": 4.0341,
    }
    for model, figure in {"ued": 1.44, "ued_bes": 2.19, "ued_bes_sfm": 2.37}.items():
        row = published_rows[model]
        assert row["gflops_published_table"] == figure == round(row["gflops_published"], 2)
    assert published_rows["ued_bes_sfm_1p3"]["gflops_published_table"] is None


def test_parameters_and_other_conventions(published_rows):
    assert {m: row["parameters"] for m, row in published_rows.items()} == {
        "ued": 2_767_252,
        "ued_bes": 2_822_393,
        "ued_bes_sfm": 2_833_409,
        "ued_bes_sfm_1p3": 4_704_305,
        "ued_bes_sfm_1p5": 6_223_453,
    }
    rows = [published_rows[m] for m in ("ued", "ued_bes", "ued_bes_sfm")]
    assert [round(row["gmacs"], 4) for row in rows] == [1.3804, 2.1228, 2.3025]
    assert [row["gflops"] for row in rows] == [2 * row["gmacs"] for row in rows]
    # ptflops counts Python-level calls, so it moves a little with coding style
    assert [row["ptflops_gmacs"] for row in rows] == pytest.approx([1.455, 2.211, 2.391], abs=0.01)


@pytest.mark.parametrize(
    ("model", "classes", "size"),
    [
        ("ued_bes", 6, 96),
        ("ued_bes", 2, 65),
        ("ued_bes-efficientnet_b0", 3, 64),
        ("ued-convnext_atto", 3, 64),  # linear layers
        ("deeplabv3plus", 3, 64),
        ("fcn", 3, 64),
        ("pspnet", 3, 64),
        ("segnet", 3, 64),
        ("unet", 3, 64),
    ],
)
def test_multiply_accumulates_agree_with_torch(model, classes, size):
    network = build_network(model, classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    assert 2 * count_operations(network, 3, size).macs == counter.get_total_flops()


def test_attention_counts_its_layers_alone():
    network = build_network("ued-swin_tiny_patch4_window7_224", 3).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    counted = 2 * count_operations(network, 3, 64).macs
    assert 0.9 * counter.get_total_flops() < counted < counter.get_total_flops()


def test_counting_leaves_the_network_as_it_was():
    network = build_network("ued", 3).eval()
    image = torch.rand(1, 3, 64, 64)
    before = network(image)["lbl"]
    count_operations(network, 3, 64)
    assert torch.equal(network(image)["lbl"], before)
    assert not any(m._forward_hooks for m in network.modules())


def test_file_size_is_that_of_a_file(tmp_path):
    profile = profile_model("ued", classes=2, size=64)
    path = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file(build_network("ued", 2).state_dict(), path)
    assert profile.file_bytes == path.stat().st_size


def test_a_weights_file_is_profiled_as_it_is(tmp_path):
    path = tmp_path / "half.safetensors"
    save_weights(build_network("ued", 2).state_dict(), META, path, half=True)
    (row,) = json.loads(profiled("--weights", str(path), "--size", "64", "--format", "json"))
    assert (row["model"], row["classes"], row["weights"]) == ("ued", 2, "half.safetensors")
    assert row["file_bytes"] == path.stat().st_size
    assert row["parameters"] == sum(p.numel() for p in load_model(path).parameters())


def test_without_names_all_models_are_profiled(monkeypatch):
    ued = profile_model("ued", size=64)
    monkeypatch.setattr(
        "hrrsi.profiling.operations.profile_model", lambda name, **_: replace(ued, model=name)
    )
    rows = json.loads(profiled("--size", "64", "--format", "json"))
    assert [row["model"] for row in rows] == [*GHOSTNET_MODELS, *BASELINE_MODELS]
    assert {"ued-resnet101", "deeplabv3plus", "fcn", "pspnet", "segnet", "unet"} <= {
        row["model"] for row in rows
    }


@pytest.mark.long
def test_json_keeps_its_contract():
    names = ["ued_bes", "ued-resnet18"]
    rows = json.loads(profiled(*names, "--size", "64", "--format", "json"))
    assert [row["model"] for row in rows] == names
    for row in rows:
        assert {"model", "parameters", "gmacs", "gflops_published", "ptflops_gmacs"} <= row.keys()
        assert row["gflops_published_table"] is None  # 64 px is not what was published
        # a multiplication for each weight of the convolutions at least
        assert row["gflops_published"] > row["gmacs"] > 0
        assert row["ptflops_gmacs"] > 0
        with torch.device("meta"):
            network = build_network(row["model"], 6)
        assert row["parameters"] == sum(p.numel() for p in network.parameters())


def test_markdown_and_table_show_the_same_cells():
    markdown = profiled("ued", "--format", "markdown").splitlines()
    assert markdown[0].startswith("| model ")
    assert set(markdown[1]) == set("|:- ")
    cells = [cell.strip() for cell in markdown[2].strip("|").split("|")]
    assert cells[:4] == ["ued", "2,767,252", "1.44", "1.44"]
    table = profiled("ued").splitlines()
    (row,) = (line for line in table if line.startswith("| ued "))
    assert [cell.strip() for cell in row.strip("|").split("|")] == cells
    assert len({len(line) for line in table if line.startswith(("|", "+"))}) == 1


@pytest.mark.long
def test_latency_names_device_batch_and_memory():
    arguments = ["ued", "--size", "64", "--latency", "--batch", "2", "--device", "cpu"]
    (row,) = json.loads(profiled(*arguments, "--format", "json"))
    latency = row["latency"]
    assert latency["batch"] == 2
    assert "thread" in latency["device"]
    expected = 64 * 64 / 1e3 / latency["milliseconds_per_window"]
    assert latency["megapixels_per_second"] == pytest.approx(expected)
    assert latency["peak_memory_bytes"] > row["file_bytes"]


@pytest.mark.long
def test_the_process_that_measures_does_not_load_torch():
    code = "import sys, hrrsi.profiling.profile; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.long
def test_the_note_on_latency_names_the_engine_of_each_model():
    slow, fast = "torch, precision 32", "openvino, precision bf16"
    profiles = [
        replace(
            profile_model(name, size=64), latency=Latency("a board", engine, 1, 2.0, 3.0, 10**8)
        )
        for name, engine in (("ued", fast), ("ued_bes", fast), ("ued-resnet18", slow))
    ]
    text = " ".join(profile_table(profiles).split())
    assert (
        f"included): ued, ued_bes by {fast}, batch 1, on a board; ued-resnet18 by {slow}, batch 1, "
        "on a board."
    ) in text
    text = " ".join(profile_table(profiles[:2]).split())
    assert f"included): {fast}, batch 1, on a board." in text


@pytest.mark.long
def test_python_profiles_as_the_command_does(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(build_network("ued", 2).state_dict(), META, path)
    options = hrrsi.ProfileOptions(classes=3, size=64)
    by_name, by_weights = hrrsi.profile(["ued_bes"], weights=path, options=options)
    assert (by_name.model, by_name.classes, by_name.latency) == ("ued_bes", 3, None)
    assert (by_weights.weights, by_weights.classes) == (path.name, 2)
    arguments = ["ued_bes", "--weights", str(path), "--classes", "3", "--size", "64"]
    rows = json.loads(profiled(*arguments, "--format", "json"))
    assert rows == [by_name.to_dict(), by_weights.to_dict()]
    with pytest.raises(hrrsi.OptionError, match="`size`: 16 is below 32"):
        hrrsi.ProfileOptions(size=16)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ued_bex"], 1, "error: unknown model 'ued_bex'; choose from ued"),
        (["ued-resnet19"], 1, "has no encoder 'resnet19'; did you mean resnet18"),
        (["--weights", "missing.pth"], 1, "error: missing.pth: no such weights file"),
        (["ued", "--device", "cuda:99"], 1, "CUDA device"),
        (["ued", "--device", "tpu"], 1, "unknown device 'tpu'"),
        (["ued", "--size", "8"], 2, "--size"),
        (["ued", "--format", "html"], 2, "--format"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, code, message):
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    if code == 1:
        assert len(result.stderr.splitlines()) == 1
