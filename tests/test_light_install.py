"""What works without the extras: maps, scores and help, byte for byte; the rest says what lacks.

The fast tests hide the packages of the extras from a program of their own. The slow one installs
the package alone into a clean environment.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import lazy_loader
import pytest
import torch
from samples.made_weights import meta
from samples.repository import REPOSITORY
from samples.viewed_maps import made_map
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import COMMANDS, app
from hrrsi.extras import MODULES
from hrrsi.networks.segmentation import build_network
from hrrsi.networks.weights import save_weights

EXAMPLES = REPOSITORY / "examples" / "dubai"
SCENE = EXAMPLES / "tile1" / "images" / "image_part_007.jpg"
# those of extras, and what else the environment of the tests happens to hold
HIDDEN = {
    *(module for modules in MODULES.values() for module in modules),
    *("onnxruntime", "nvidia", "scipy", "pandas", "cv2", "torchmetrics", "sklearn", "skimage"),
}
# run by Python at its start, in processes that programs start too
HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
# many commands in one program: to start one takes seconds
RUN = """
import json, sys
from typer.testing import CliRunner
from hrrsi.cli import COMMANDS, app

results = []
for command in json.load(sys.stdin):
    result = CliRunner().invoke(app, command)
    results.append([result.exit_code, result.stdout, result.stderr])
json.dump(results, sys.stdout)
"""


class Outcome(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


class LightInstall:
    """Runs commands where only what `pip install hrrsi` brings can be imported."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(HIDE)
        before = os.environ.get("PYTHONPATH")
        paths = [str(folder), str(REPOSITORY), *([before] if before else [])]
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "HRRSI_CACHE": str(folder / "cache"),
        }

    def python(self, code: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            **{"input": stdin, "env": self.environment, "capture_output": True, "text": True},
        )

    def run(self, *commands: str) -> list[Outcome]:
        done = self.python(RUN, json.dumps([shlex.split(command) for command in commands]))
        assert done.returncode == 0, done.stderr
        return [Outcome(*result) for result in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> LightInstall:
    return LightInstall(tmp_path_factory.mktemp("light"))


def test_help_of_every_command(light: LightInstall) -> None:
    helps = light.run("--help", "--version", *(f"{name} --help" for name in COMMANDS))
    assert [result.exit_code for result in helps] == [0] * len(helps)
    assert all(f" {name} " in helps[0].stdout for name in COMMANDS)


def test_maps_are_the_same_bytes(light: LightInstall, tmp_path: Path) -> None:
    def command(folder: str) -> str:
        out = tmp_path / folder
        return (
            f"predict {SCENE} --out {out}/ --preview {out}/map.png --vector {out}/map.geojson "
            "--confidence uint8 --window 256 --min-area 20 --quiet"
        )

    result = CliRunner().invoke(app, shlex.split(command("full")))
    assert result.exit_code == 0, result.output
    (mapped,) = light.run(command("light"))
    assert mapped.exit_code == 0, mapped.stderr
    files = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert {"image_part_007_classes.tif", "map.png", "map.geojson"} <= set(files)
    for name in files:
        assert (tmp_path / "light" / name).read_bytes() == (tmp_path / "full" / name).read_bytes()


def test_maps_are_shown_in_a_browser(light: LightInstall, tmp_path: Path) -> None:
    class_map = made_map(tmp_path, height=40, width=50)
    done = light.python(
        "from urllib.request import urlopen\n"
        "import hrrsi\n"
        f"with hrrsi.view({str(class_map.path)!r}) as viewer:\n"
        "    for name in ('', 'view.json', 'tile/0/0/0/0/0.png', 'counts/0.json'):\n"
        "        print(urlopen(viewer.address + name).status)\n"
    )
    assert (done.stdout.split(), done.stderr) == (["200"] * 4, "")


def test_scores_of_scenes_patches_and_maps(
    light: LightInstall, made_weights: Path, tmp_path: Path
) -> None:
    scored = f"{EXAMPLES} --scheme dubai --split standard:test --window 256 --block 64 --quiet"
    scored += f" --weights {made_weights}"
    truth = EXAMPLES / "tile1" / "masks" / f"{SCENE.stem}.png"
    commands = (
        f"eval {scored} --json {tmp_path}/scenes.json",
        f"tile {EXAMPLES} --scheme dubai --size 128 --out {tmp_path}/tiled --workers 1 --quiet",
        f"eval {tmp_path}/tiled --weights {made_weights} --json {tmp_path}/patches.json --quiet",
        f"predict {SCENE} --out {tmp_path}/map.tif --weights {made_weights} --window 256 --quiet",
        f"eval --pred {tmp_path}/map.tif --label {truth} --scheme dubai "
        f"--json {tmp_path}/map.json --quiet",
        f"eval {scored} --confusion-matrix {tmp_path}/matrix.png",
        f"info {tmp_path}/tiled",
        f"info {tmp_path}/map.tif",
    )
    results = light.run(*commands)
    assert [result.exit_code for result in results] == [0, 0, 0, 0, 0, 1, 0, 0], results
    assert "plots" in results[5].stderr
    assert results[5].stdout == "", "scored before what can't be drawn was refused"
    for number, name in ((0, "scenes"), (2, "patches"), (4, "map")):
        of_light = tmp_path / f"{name}.json"
        of_full = of_light.with_name(f"full-{name}.json")
        command = commands[number].replace(f"{of_light}", f"{of_full}")
        assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
        assert of_light.read_bytes() == of_full.read_bytes()


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that only PyTorch runs."""
    path = tmp_path_factory.mktemp("other") / "resnet.safetensors"
    described = replace(meta(), model="ued-resnet18")
    save_weights(build_network("ued-resnet18", 5).state_dict(), described, path)
    return path


@pytest.mark.slow
def test_efficientnet_lite_maps(light: LightInstall, tmp_path: Path) -> None:
    weights = tmp_path / "lite.safetensors"
    described = replace(meta(), model="ued-tf_efficientnet_lite0")
    save_weights(build_network(described.model, 5).state_dict(), described, weights)
    arguments = f"--weights {weights} --window 256 --quiet"
    mapped, about, exported, profiled = light.run(
        f"predict {SCENE} --out {tmp_path}/light.tif {arguments}",
        f"info {weights}",
        f"export {weights} --out {tmp_path}/light.onnx --window 64 --resolution 0.3",
        f"profile --weights {weights} --latency --size 64 --format json --quiet",
    )
    results = (mapped, about, exported, profiled)
    assert [result.exit_code for result in results] == [0] * 4, results
    (costs,) = json.loads(profiled.stdout)
    assert (costs["parameters"], costs["gmacs"]) == (3_371_448, None)
    assert costs["latency"]["milliseconds_per_window"] > 0
    assert "checked with openvino on" in exported.stdout
    assert "3,371,448 parameters" in about.stdout
    command = f"predict {SCENE} --out {tmp_path}/full.tif {arguments}"
    assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
    assert (tmp_path / "light.tif").read_bytes() == (tmp_path / "full.tif").read_bytes()


def test_information_about_files(light: LightInstall, made_weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("model: ued\ndata: tiled\nepochs: 2\n")
    (run / "environment.yaml").write_text("dataset: {}\nstarts: []\n")
    (run / "metrics.csv").write_text("epoch,val_mIoU,val_OA,seconds\n1,0.5,0.75,3\n")
    results = light.run(*(f"info {path}" for path in (made_weights, SCENE, run)))
    assert [result.exit_code for result in results] == [0, 0, 0], results
    assert "2,833,359 parameters" in results[0].stdout
    assert "raster" in results[1].stdout
    assert "validation mIoU 50.00%, OA 75.00%" in " ".join(results[2].stdout.split())


def test_what_an_extra_brings_is_said_in_one_line(
    light: LightInstall, other_weights: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "published.pth"
    torch.save({"model_state_dict": {}}, checkpoint)
    expected = {
        f"train {tmp_path}": ("training needs", "lightning, tensorboard", "train"),
        f"pretrain --data {tmp_path}": ("pre-training needs", "lightning, tensorboard", "train"),
        "profile ued": ("profiling needs", "torch, torchvision, timm", "gpu"),
        f"predict {SCENE} --engine torch": ("prediction by PyTorch needs", "torch", "gpu"),
        f"predict {SCENE} --device cuda": ("a GPU needs", "torch", "gpu"),
        f"predict {SCENE} --weights {other_weights}": ("by PyTorch needs", "torch", "gpu"),
        f"predict {SCENE} --weights {checkpoint}": ("published checkpoint needs", "torch", "gpu"),
        f"info {other_weights}": ("the network ued-resnet18 needs", "torch", "gpu"),
    }
    results = light.run(*(c if c.startswith("info") else f"{c} --quiet" for c in expected))
    for (command, (what, missing, extra)), result in zip(expected.items(), results, strict=True):
        assert result.exit_code == 1, command
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: "), line
        assert f"{what} packages that are not installed (" in line
        assert missing in line
        assert line.endswith(f"; install them: pip install 'hrrsi[{extra}]'")
    assert not list(tmp_path.glob("*_classes.tif"))


def test_python_says_what_lacks_too(light: LightInstall) -> None:
    code = """
from pathlib import Path
import hrrsi
help(hrrsi)
data = Path("dataset")
for call in (
    hrrsi.load_model,
    hrrsi.profile,
    lambda: hrrsi.TrainOptions(data),
    lambda: hrrsi.train(hrrsi.TrainOptions(data, precision="32")),
    lambda: hrrsi.train_all([hrrsi.TrainOptions(data, precision="32")]),
    lambda: hrrsi.pretrain(hrrsi.PretrainOptions(data, loader="torchvision")),
):
    try:
        call()
    except hrrsi.DependencyError as error:
        print("lacks:", error)
"""
    done = light.python(code)
    assert done.returncode == 0, done.stderr
    assert all(f" {name}" in done.stdout for name in hrrsi.__all__ if name != "__version__")
    lines = [line for line in done.stdout.splitlines() if line.startswith("lacks:")]
    extras = [line.rpartition("pip install ")[2] for line in lines]
    assert extras == ["'hrrsi[gpu]'"] * 2 + ["'hrrsi[train]'"] * 4, lines


def install(environment: Path, *arguments: str | Path) -> None:
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet"]
    constraints = REPOSITORY / "constraints.txt"
    subprocess.run([*pip, "-c", constraints, *arguments], check=True, stdout=subprocess.DEVNULL)


def without_path() -> dict[str, str]:
    """The environment's variables but for the one that names folders to import from."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def disk_use(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


@pytest.mark.slow  # downloads 200 MB
def test_an_installation_maps_and_scores_in_600_mb(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    before = disk_use(environment)
    install(environment, copied_source(tmp_path))
    assert disk_use(environment) - before < 600 * 2**20  # as `du -m` counts
    python = environment / "bin" / "python"
    clean = without_path()
    for module in sorted(HIDDEN):
        code = f"import importlib.util; assert importlib.util.find_spec({module!r}) is None"
        subprocess.run([python, "-c", code], check=True, env=clean, cwd=tmp_path)
    hrrsi_command = environment / "bin" / "hrrsi"
    for command in (
        f"predict {SCENE} --out light.tif --preview light.png",
        f"eval {EXAMPLES} --scheme dubai --split standard:test --report light.html",
        "info light.tif",
    ):
        done = subprocess.run(
            [hrrsi_command, *shlex.split(command)],
            **{"cwd": tmp_path, "env": clean, "capture_output": True, "text": True},
        )
        assert done.returncode == 0, done.stderr
    assert "not counted, since PyTorch is not installed" in (tmp_path / "light.html").read_text()
    arguments = shlex.split(f"predict {SCENE} --out {tmp_path}/full/light.tif")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "light.tif").read_bytes() == (tmp_path / "full/light.tif").read_bytes()


@pytest.mark.slow  # as before
def test_an_editable_installation_shows_its_types(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    install(environment, "--no-deps", "--editable", copied_source(tmp_path))
    script = tmp_path / "script.py"
    script.write_text("import hrrsi\n\nhrrsi.predict(1)\nreveal_type(hrrsi.info('x').kind)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", environment / "bin/python", script],
        **{"cwd": tmp_path, "capture_output": True, "text": True},
    )
    assert 'Revealed type is "str"' in done.stdout, done.stdout
    assert 'Argument 1 to "predict" has incompatible type "int"' in done.stdout


def copied_source(folder: Path) -> Path:
    """A copy of what is installed in a folder named like the package, as a clone is."""
    source = folder / "hrrsi"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "hrrsi", source / "hrrsi", ignore=ignored)
    return source


def test_an_editable_installation_is_imported_from_the_folder_above(tmp_path: Path) -> None:
    source = copied_source(tmp_path)
    build = "import sys; from setuptools.build_meta import build_editable; build_editable('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    shutil.copytree(Path(lazy_loader.__file__).parent, packages / "lazy_loader")
    done = subprocess.run(
        [environment / "bin" / "python", "-c", "import hrrsi; print(hrrsi.__file__, dir(hrrsi))"],
        **{"cwd": tmp_path, "env": without_path(), "capture_output": True, "text": True},
    )
    assert done.stdout.split(maxsplit=1)[0] == str(source / "hrrsi" / "__init__.py"), done.stderr
    assert all(repr(name) in done.stdout for name in ("info", "load_model", "predict", "profile"))


def test_the_package_is_imported_at_once(light: LightInstall) -> None:
    code = "import time\nat = time.process_time()\nimport hrrsi\nprint(time.process_time() - at)"
    assert min(float(light.python(code).stdout) for _ in range(3)) < 0.05
