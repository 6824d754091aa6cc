import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.networks.architecture import BASELINE_MODELS, GHOSTNET_MODELS
from hrrsi.networks.model_meta import ModelMeta
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import load_model
from hrrsi.prediction.options import EngineOptions
from hrrsi.profiling import operations, profile
from hrrsi.profiling.figures import Latency, profile_table
from hrrsi.profiling.operations import count_operations

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
        ("ued-tf_efficientnet_cc_b0_4e", 3, 64),  # kernels that are mixed for each image
        ("unet", 3, 64),
        *(
            pytest.param(model, 3, 64, marks=pytest.mark.slow)
            for model in ("deeplabv3plus", "fcn", "pspnet", "segnet")
        ),
    ],
)
def test_multiply_accumulates_agree_with_the_layers_called(model, classes, size):
    network = build_network(model, classes).eval()
    with CalledLayers() as layers, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    fused = count_operations(network, 3, size).macs - layers.macs
    # an outer product in the fusion of scores, which is no layer
    assert (fused > 0) == model.startswith("ued_bes_sfm")
    assert fused <= 0.001 * layers.macs


@pytest.mark.parametrize("encoder", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_attention_counts_its_layers_alone(encoder):
    network = build_network(f"ued-{encoder}", 3).eval()
    with CalledLayers() as layers, torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    assert count_operations(network, 3, 64).macs == layers.macs


class CalledLayers(TorchFunctionMode):
    """Counts the multiply-accumulates of convolutions and linear layers where they are called."""

    macs = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (F.conv2d, F.linear, F.conv_transpose2d):
            (weight,) = args[1:2] or (kwargs["weight"],)
            users = args[0] if func is F.conv_transpose2d else result
            self.macs += users.numel() * weight[0].numel()
        elif func is torch.matmul and isinstance(args[1], torch.nn.Parameter):
            self.macs += result.numel() * len(args[1])  # kernels that are mixed
        return result


def test_counting_leaves_the_network_as_it_was():
    network = build_network("ued", 3).eval()
    image = torch.rand(1, 3, 64, 64)
    before = network(image)["lbl"]
    count_operations(network, 3, 64)
    assert torch.equal(network(image)["lbl"], before)
    assert not any(m._forward_hooks for m in network.modules())


def test_file_size_is_that_of_a_file(tmp_path):
    costs = profile_model("ued", classes=2, size=64)
    path = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file(build_network("ued", 2).state_dict(), path)
    assert costs.file_bytes == path.stat().st_size


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.fixture
def _no_processes(monkeypatch):
    """Measure in this process, since to start others takes seconds."""
    monkeypatch.setattr(
        profile, "_in_own_process", lambda function, *arguments, **_: function(*arguments)
    )
    monkeypatch.setattr(profile, "available_cores", lambda: 2)


SUSTAINED = ["--latency", "--seconds", "0.1", "--size", "64"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("_no_processes")
def test_sustained_speed_by_precision_and_threads_of_the_packaged_weights():
    (row,) = json.loads(profiled(*SUSTAINED, "--engine", "onnxruntime", "--format", "json"))
    assert row["weights_packaged"] == "default"
    assert row["latency"]["engine"] == "onnxruntime, precision 32"
    measured = [(way["engine"], way["precision"], way["threads"]) for way in row["sustained"]]
    assert measured == [("onnxruntime", "32", 1), ("onnxruntime", "32", 2)]
    assert {way["precision"]: way["reason"] for way in row["not_measured"]} == {
        "bf16": "onnxruntime does not calculate in precision bf16 here",
        "16": "onnxruntime does not calculate in precision 16 here",
        "fast": "it is the same as precision 32 here",
    }
    for way in row["sustained"]:
        assert way["seconds"] >= 0.1
        assert way["windows"] % way["threads"] == 0
        assert way["windows_per_second"] == pytest.approx(way["windows"] / way["seconds"])
        assert 0 < way["p50_milliseconds"] <= way["p99_milliseconds"] < 1e3 * way["seconds"] + 1
        assert (way["joules_per_window"] is None) == bool(way["energy_missing"])


@pytest.mark.usefixtures("_no_processes")
def test_a_last_quarter_that_is_slower_shows(monkeypatch):
    ends = iter(range(0, 10**6))
    clock = [0.0]

    def runs(engine, windows, normal):
        clock[0] += 0.01 if next(ends) < 14 else 0.02  # two of a warm-up, then twelve and four

    monkeypatch.setattr(profile, "_run", runs)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    engine = EngineOptions(engine="openvino", precision="32", threads=2)
    speed = profile._sustained(packaged_weights(), 64, engine, 0.195)
    assert (speed.windows, speed.first_quarter) == (2 * 16, pytest.approx(200))
    assert speed.last_quarter == pytest.approx(100)
    assert speed.windows_per_second == pytest.approx(2 * 16 / 0.2)
    assert (speed.p50_milliseconds, speed.p99_milliseconds) == pytest.approx((10, 20))
    costs = replace(profile_model("ued", size=64), sustained=(speed,))
    assert "| 200.00 to 100.00 |" in profile_table([costs])


@pytest.mark.usefixtures("_no_processes")
def test_what_was_measured_before_a_stop_is_printed(monkeypatch):
    calls = []

    def until_the_third(function, *arguments, **_):
        calls.append(function)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(profile, "_in_own_process", until_the_third)
    result = CliRunner().invoke(app, ["profile", *SUSTAINED, "--engine", "onnxruntime"])
    assert result.exit_code == 1
    assert "| onnxruntime |        32 |       1 |" in result.stdout
    assert "|       2 |" not in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: interrupted; what was measured")


def powercap(folder, **counters):
    for name, (label, value) in counters.items():
        zone = folder / name.replace("_", ":").replace("rapl", "intel-rapl")
        zone.mkdir(exist_ok=True)
        (zone / "name").write_text(f"{label}\n")
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("9999999\n")


def test_energy_is_that_of_the_packages_and_turns_over(tmp_path):
    parts = {"rapl_0_0": ("core", 5), "rapl_1": ("psys", 7)}
    powercap(tmp_path, rapl_0=("package-0", 9_000_000), rapl_2=("package-1", 0), **parts)
    energy = profile.Energy(tmp_path)
    powercap(tmp_path, rapl_0=("package-0", 500_000), rapl_2=("package-1", 2_000_000))
    powercap(tmp_path, rapl_0_0=("core", 999), rapl_1=("psys", 999))
    energy.read(100.0)
    powercap(tmp_path, rapl_0=("package-0", 800_000), rapl_2=("package-1", 2_000_000))
    assert energy.joules() == pytest.approx(1.5 + 2 + 0.3)
    assert energy.missing == ""


def test_energy_that_is_not_told_is_no_zero(tmp_path, monkeypatch):
    energy = profile.Energy(tmp_path)
    assert energy.joules() is None
    assert energy.missing == f"not told by this kernel (no package in {tmp_path})"
    powercap(tmp_path, rapl_0=("package-0", 1))

    def refused(path, *_, **__):
        if path.name == "energy_uj":
            raise PermissionError(path)
        return "package-0"

    monkeypatch.setattr(Path, "read_text", refused)
    energy = profile.Energy(tmp_path)
    assert energy.joules() is None
    assert energy.missing.startswith("only root may read it here")


@pytest.mark.long
def test_the_process_that_measures_does_not_load_torch():
    code = "import sys, hrrsi.profiling.profile; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.slow
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


@pytest.mark.slow
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
        (["my/w.pth"], 1, "error: 'my/w.pth' names weights, no model; give --weights my/w.pth"),
        (["light"], 1, "error: 'light' names weights, no model; give --weights light"),
        (["ued-resnet19"], 1, "has no encoder 'resnet19'; did you mean resnet18"),
        (["--weights", "missing.pth"], 1, "error: missing.pth: no such weights file"),
        (["ued", "--device", "cuda:99"], 1, "CUDA device"),
        (["ued", "--device", "tpu"], 1, "unknown device 'tpu'"),
        (["ued", "--seconds", "5"], 1, "error: --seconds: is of speed, and none is measured"),
        (["ued", "--latency", "--seconds", "0"], 1, "--seconds: 0 is no time; give a number"),
        (["ued", "--latency", "--engine", "tflite"], 1, "unknown engine 'tflite'; choose from"),
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
