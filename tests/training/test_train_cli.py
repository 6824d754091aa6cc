"""What the options of `hrrsi train` mean: the run that each of them asks for."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from typer.testing import CliRunner, Result

import hrrsi.training.run  # noqa: F401 (takes what it imports before a test replaces it)
from hrrsi.cli import app
from hrrsi.networks.architecture import LogitAlignment
from hrrsi.networks.weights_file import packaged_weights
from hrrsi.networks.weights_reading import read_meta
from hrrsi.runs.options import run_warnings
from hrrsi.training.options import (
    DEFAULT,
    PUBLISHED,
    RECIPE_FIELDS,
    Augmentation,
    ClassWeights,
    Optimizer,
    Recipe,
    Sampling,
    Schedule,
    TrainOptions,
)

DATA = "dataset"


def another(choices: Any, default: str) -> str:
    return next(choice for choice in get_args(choices) if choice != default)


# Another value than the default's for every key of config.yaml, as a user would write it.
OTHERS: dict[str, Any] = {
    "data": "/elsewhere/dataset",
    "model": "ued-resnet18",
    "out": "/elsewhere/runs",
    "recipe": "published",
    "epochs": 7,
    "batch": 12,
    "optimizer": another(Optimizer, DEFAULT.optimizer),
    "lr": 0.0125,
    "weight_decay": 0.003,
    "schedule": another(Schedule, DEFAULT.schedule),
    "warmup": 0.25,
    "average": 0.75,
    "augmentation": another(Augmentation, DEFAULT.augmentation),
    "crop": 96,
    "sampling": another(Sampling, DEFAULT.sampling),
    "class_weights": another(ClassWeights, DEFAULT.class_weights),
    "dice": 0.5,
    "camera": "gamma,jpeg",
    "distillation": 0.75,
    "temperature": 4.0,
    "features": 0.5,
    "logit_alignment": another(LogitAlignment, DEFAULT.logit_alignment),
    "resolutions": [0.2, 0.9],
    "encoder_weights": "none",
    "init": "/other/best.safetensors",
    "teachers": ["/other/large.safetensors", "/other/larger.safetensors"],
    "freeze_encoder": 3,
    "seed": 11,
    "patience": 9,
    "overfit": 4,
    "precision": "16",
    "device": "cpu",
    "devices": 2,
    "nodes": 3,
    "compile": True,
    "workers": 5,
}
KEYS = tuple(TrainOptions(Path(DATA)).to_config())

RunsOf = Callable[..., list[TrainOptions]]


@pytest.fixture
def runs_of(monkeypatch: pytest.MonkeyPatch) -> RunsOf:
    """Return the runs that a command line asks for, without running them."""
    runs: list[TrainOptions] = []
    monkeypatch.setattr("hrrsi.training.run_checks.check_run", lambda *_, **__: None)
    monkeypatch.setattr("hrrsi.training.run.train", lambda options, **_: runs.append(options))

    def ask(*arguments: object) -> list[TrainOptions]:
        runs.clear()
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
        return list(runs)

    return ask


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def as_arguments(values: dict[str, Any]) -> list[str]:
    arguments = []
    for key, value in values.items():
        option = f"--{key.replace('_', '-')}"
        if key == "data":
            arguments.append(value)
        elif key == "teachers":
            for path in value if isinstance(value, list) else [value]:
                arguments += ["--teacher", path]
        elif isinstance(value, list):
            arguments += [option, ",".join(map(str, value))]
        elif isinstance(value, bool):
            arguments.append(option if value else f"--no-{key}")
        else:
            arguments += [option, str(value)]
    return arguments


def write_config(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_every_field_of_the_options_is_in_config_yaml() -> None:
    expected = {f.name for f in fields(TrainOptions)} | set(RECIPE_FIELDS)
    assert set(KEYS) == expected - {"mix"}
    assert set(TrainOptions((Path(DATA), Path("/other"))).to_config()) == expected
    assert {f.name for f in fields(Recipe)} == {"name", *RECIPE_FIELDS}


@pytest.mark.parametrize("key", KEYS)
def test_every_key_reaches_the_run_from_the_command_line(key: str, runs_of: RunsOf) -> None:
    (before,) = runs_of(DATA)
    assert before.to_config()[key] != OTHERS[key], "the test gives the default"
    data = [] if key == "data" else [DATA]
    (options,) = runs_of(*data, *as_arguments({key: OTHERS[key]}))
    assert options.to_config()[key] == OTHERS[key]
    unchanged = set(KEYS) - {key}
    if key == "recipe":
        unchanged -= {*RECIPE_FIELDS, "precision"}  # the published one is trained in 32 bits
    assert {k: options.to_config()[k] for k in unchanged} == {
        k: before.to_config()[k] for k in unchanged
    }


@pytest.mark.long
@pytest.mark.parametrize("key", KEYS)
def test_every_key_reaches_the_run_from_a_file_and_the_command_line_wins(
    key: str, runs_of: RunsOf, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.yaml", {"data": DATA, key: OTHERS[key]})
    (options,) = runs_of("--config", config)
    assert options.to_config()[key] == OTHERS[key]
    default = TrainOptions(Path(DATA)).to_config()[key]
    defaults = {key: "none" if default in (None, []) else default}
    (options,) = runs_of(*as_arguments(defaults), "--config", config)
    assert options.to_config()[key] == default


@pytest.mark.parametrize(
    "values",
    [
        {},
        {key: value for key, value in OTHERS.items() if key != "encoder_weights"},
        {"encoder_weights": "none", "recipe": "published", "epochs": 3},
        {"encoder_weights": "weights/encoder.safetensors", "out": "here"},
        {"init": "weights/best.safetensors"},
    ],
)
def test_config_yaml_of_a_run_asks_for_the_same_run_in_any_folder(
    values: dict[str, Any], runs_of: RunsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (options,) = runs_of(*as_arguments({"data": DATA, **values}))
    written = options.to_config()
    config = write_config(tmp_path / "config.yaml", written)
    monkeypatch.chdir(tmp_path)
    (again,) = runs_of("--config", config)
    assert again.to_config() == written


def test_config_takes_dashes_lists_and_numbers_as_people_write_them(
    runs_of: RunsOf, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "data: dataset\nmodel: [ued, ued_bes]\nweight-decay: 1e-3\nprecision: 32\ninit:\n"
    )
    first, second = runs_of("--config", config)
    assert (first.model, second.model) == ("ued", "ued_bes")
    assert first.recipe.weight_decay == 0.001
    assert first.precision == "32"
    assert first.init is None


def test_several_datasets(runs_of: RunsOf, tmp_path: Path) -> None:
    (run,) = runs_of("a", "b", "c", "--mix", "2,1,0.5", "--resolutions", "0.25-0.8")
    assert run.folders == (Path("a"), Path("b"), Path("c"))
    assert run.mix == (2, 1, 0.5)
    assert run.recipe.resolutions == (0.25, 0.8)
    written = run.to_config()
    assert written["data"] == [str(Path(name).absolute()) for name in "abc"]
    config = write_config(tmp_path / "config.yaml", written)
    (again,) = runs_of("--config", config)
    assert again.to_config() == written
    (other,) = runs_of("d", "e", "f", "--config", config, "--resolutions", "none")
    assert (other.folders[0], other.mix) == (Path("d"), (2, 1, 0.5))
    assert other.recipe.resolutions is None
    (plain,) = runs_of("a", "b")
    assert plain.mix == ()


def test_recipes(runs_of: RunsOf) -> None:
    assert runs_of(DATA)[0].recipe == DEFAULT
    assert runs_of(DATA, "--recipe", "default")[0].recipe == DEFAULT
    assert runs_of(DATA, "--recipe", "published")[0].recipe == PUBLISHED


def test_another_recipe_keeps_what_a_file_changes_and_no_more(
    runs_of: RunsOf, tmp_path: Path
) -> None:
    (run,) = runs_of(DATA, "--lr", 0.5)
    config = write_config(tmp_path / "config.yaml", run.to_config())
    (other,) = runs_of("--config", config, "--recipe", "published")
    assert other.recipe.lr == 0.5
    assert other.recipe.to_config() == {**PUBLISHED.to_config(), "lr": 0.5}


@pytest.mark.parametrize(
    ("run", "other", "expected"),
    [
        (["--recipe", "default"], ["--recipe", "published"], "32"),
        (["--recipe", "published"], ["--recipe", "default"], "bf16"),
        (["--recipe", "default"], [], "bf16"),
        (["--recipe", "published"], [], "32"),
        (["--recipe", "published"], ["--recipe", "published"], "32"),
        (["--precision", "16"], ["--recipe", "published"], "16"),
        (["--precision", "32"], ["--recipe", "default"], "32"),
        ([], ["--recipe", "published", "--precision", "bf16"], "bf16"),
    ],
)
def test_another_recipe_brings_its_precision(
    run: list[str],
    other: list[str],
    expected: str,
    runs_of: RunsOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hrrsi.hardware.computes_in_bf16", lambda _: True)
    (first,) = runs_of(DATA, *run)
    config = write_config(tmp_path / "config.yaml", first.to_config())
    (again,) = runs_of("--config", config, *other)
    assert again.precision == expected


@pytest.mark.parametrize(("has_bf16", "lines"), [(False, 1), (True, 0)])
def test_bf16_where_the_device_emulates_it_is_warned_of(
    has_bf16: bool, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrrsi.hardware.computes_in_bf16", lambda _: has_bf16)
    warned = run_warnings(TrainOptions(Path("data"), precision="bf16"), 99)
    assert len([line for line in warned if "`precision=bf16`" in line]) == lines
    assert not run_warnings(TrainOptions(Path("data"), precision="32"), 99)


def test_init_names_weights_of_the_package_and_brings_their_network(
    runs_of: RunsOf, tmp_path: Path
) -> None:
    (plain,) = runs_of(DATA, "--init", "best.safetensors")
    assert plain.model == "ued_bes_sfm"
    (run,) = runs_of(DATA, "--init", "default")
    assert run.init_file == packaged_weights()
    assert run.model == read_meta(packaged_weights()).model
    assert run.to_config()["init"] == "default"
    (again,) = runs_of("--config", write_config(tmp_path / "config.yaml", run.to_config()))
    assert again.to_config() == run.to_config()
    (other,) = runs_of(DATA, "--init", "default", "--model", "ued")
    assert other.model == "ued"
    (encoder,) = runs_of(DATA, "--encoder", "resnet18")
    assert encoder.model == "ued_bes_sfm-resnet18"


def test_init_alone_means_the_default_weights(runs_of: RunsOf, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (dataset / "dataset.yaml").touch()
    for arguments in ([DATA, "--init"], [DATA, "--init", "--epochs", "3"]):
        (run,) = runs_of(*arguments)
        assert run.to_config()["init"] == "default"
    (run,) = runs_of("--init", str(dataset))  # a dataset is no weights file
    assert (run.init_file, run.data) == (packaged_weights(), dataset)
    assert runs_of(DATA, "--init", "light")[0].init == Path("light")


def test_init_wins_over_the_encoder_weights_of_a_file(runs_of: RunsOf, tmp_path: Path) -> None:
    (run,) = runs_of(DATA, "--encoder-weights", "none")
    config = write_config(tmp_path / "config.yaml", run.to_config())
    (other,) = runs_of("--config", config, "--init", "best.safetensors")
    assert other.init == Path("best.safetensors")


def test_encoder_weights_take_the_place_of_a_file_s_init(runs_of: RunsOf, tmp_path: Path) -> None:
    config = write_config(tmp_path / "config.yaml", {"data": DATA, "init": "best.safetensors"})
    arguments = ["--config", config, "--encoder-weights", "none"]
    assert invoke(*arguments).exit_code == 2
    (run,) = runs_of(*arguments, "--init", "none")
    assert (run.init, run.encoder_weights) == (None, "none")


def test_help_names_what_both_recipes_do() -> None:
    # a process of its own: the width is read when the first help is drawn
    command = [sys.executable, "-m", "hrrsi", "train", "--help"]
    environment = os.environ | {"TERMINAL_WIDTH": "900"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = {}
    for line in done.stdout.splitlines():
        words = line.strip("│ ").split()
        if words and words[0].startswith("--"):
            lines[words[0]] = line
    for name in RECIPE_FIELDS:
        line = lines[f"--{name.replace('_', '-')}"]
        for recipe in (DEFAULT, PUBLISHED):
            value = getattr(recipe, name)
            said = f"{value:g}" if isinstance(value, float) else str(value)
            said = "none" if value is None else said
            assert f"{recipe.name}: {said}" in line


def test_encoder_is_short_for_the_models_name(runs_of: RunsOf) -> None:
    runs = runs_of(DATA, "--model", "ued,ued_bes_sfm", "--encoder", "mobilenetv4_conv_small")
    assert [run.model for run in runs] == [
        "ued-mobilenetv4_conv_small",
        "ued_bes_sfm-mobilenetv4_conv_small",
    ]
    assert runs[0].run_folder == Path("runs/ued-mobilenetv4_conv_small")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the folder of a tiled dataset"),
        (["--init", "."], "; . holds no dataset.yaml, so it was taken for the weights of --init"),
        ([DATA, "--resume", "--overwrite"], "goes without --overwrite"),
        ([DATA, "--model", "ued,ued"], "name each model once"),
        ([DATA, "--model", "ued-resnet18", "--encoder", "resnet34"], "names one already"),
        ([DATA, "--show-batches", "batches.jpg"], "name a .png file"),
        (
            [DATA, "--show-batches", "batches.png", "--dry-run"],
            "--show-batches: goes without --dry-run",
        ),
        (
            [DATA, "--init", "best.safetensors", "--encoder-weights", "imagenet"],
            "has no effect beside --init best.safetensors",
        ),
        ([DATA, "--epochs", "0"], "--epochs"),
        ([DATA, "--optimizer", "lion"], "sgd"),
        ([DATA, "--recipe", "mine"], "published"),
        (["a", "b", "--mix", "2:1"], "--mix: '2:1' is not a list of numbers such as 2,1,1"),
        ([DATA, "--resolutions", "0.3"], "--resolutions: '0.3' is no range of metres per pixel"),
        ([DATA, "--resolutions", "a-b"], "--resolutions: 'a-b' is no range of metres per pixel"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], words: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rate: 0.1\n", ("config.yaml", "unknown option 'learning_rate'", "lr")),
        ("- lr\n", ("config.yaml", "not a mapping")),
        ("lr: !!python/object/apply:os.system [ls]\n", ("config.yaml", "not plain data")),
        ("epochs: abc\n", ("config.yaml: epochs: ", "abc")),
        ("epochs: 0\n", ("config.yaml: epochs: ", "0")),
        ("recipe: pubished\n", ("config.yaml: recipe: ", "pubished", "published")),
        ("encoder_weights: no\n", ("config.yaml: encoder_weights: ", "quote it")),
        ("warmup: 2\n", ("config.yaml: --warmup: ", "no share")),
        ("model: {a: b}\n", ("config.yaml: model: ", "mapping")),
        ("lr: 1\nlr: 2\n", ("config.yaml:2: ", "'lr' comes twice")),
        ("weight-decay: 1\nweight_decay: 2\n", ("config.yaml: holds weight_decay twice",)),
    ],
)
def test_a_bad_file_is_one_line(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    result = invoke(DATA, "--config", path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def test_only_a_text_file_is_a_config(tmp_path: Path) -> None:
    picture = tmp_path / "batches.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    for path, words in (
        (tmp_path, "is a folder, not a file; name a file"),
        (picture, "is not a text file; name a YAML file"),
    ):
        result = invoke(DATA, "--config", path)
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [f"error: {path}: {words}"]


@pytest.mark.parametrize(
    ("option", "value"), [("--warmup", "1"), ("--average", "1.5"), ("--crop", "8")]
)
def test_a_recipe_that_is_not_possible_is_one_line(option: str, value: str) -> None:
    result = invoke(DATA, option, value)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {option}: ")


def test_resume_overwrite_and_quiet_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "hrrsi.training.run_checks.check_run", lambda _, **named: calls.append(named)
    )
    monkeypatch.setattr("hrrsi.training.run.train", lambda _, **named: calls.append(named))
    assert invoke(DATA, "--resume", "--quiet").exit_code == 0
    assert invoke(DATA, "--overwrite").exit_code == 0
    checks, runs = calls[::2], calls[1::2]
    assert checks == [
        {"resume": True, "overwrite": False},
        {"resume": False, "overwrite": True},
    ]
    assert [(r["resume"], r["overwrite"], r["quiet"]) for r in runs] == [
        (True, False, True),
        (False, True, False),
    ]


def test_a_dry_run_says_what_each_run_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run trains")

    monkeypatch.setattr("hrrsi.training.run.train_all", trained)
    monkeypatch.setattr(
        "hrrsi.training.run_checks.planned_run",
        lambda options, *, resume, overwrite: f"plan of {options.model} {resume} {overwrite}",
    )
    result = invoke(DATA, "--model", "ued,unet", "--dry-run", "--resume")
    assert result.exit_code == 0, result.output
    assert result.stdout == "plan of ued True False\nplan of unet True False\n"


@pytest.mark.long
def test_pretrain_s_help_says_nothing_of_train_s_recipe() -> None:
    environment = os.environ | {"TERMINAL_WIDTH": "900"}
    said = {}
    for name in ("train", "pretrain"):
        command = [sys.executable, "-m", "hrrsi", name, "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        lines = [line.strip("│ ") for line in done.stdout.splitlines()]
        said[name] = next(line for line in lines if line.startswith("--precision "))
    assert "published recipe" in said["train"]
    assert "recipe" not in said["pretrain"]
