"""The console blocks of pages, run on small stand-ins of the files that they name.

What pages say of what a command leaves and prints is looked at. Only what costs is shortened: by
flags that come after those shown, and by addresses of a cluster in this process.
"""

import re
import runpy
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import onnx
import pytest
import rasterio
import yaml
from PIL import Image
from samples.cluster_maps import client_of_one_worker
from samples.console_tour import clone
from samples.made_dataset import save_made_dataset
from samples.page_commands import commands_in
from samples.predicted_scenes import save_scene
from samples.repository import REPOSITORY
from samples.viewed_maps import made_map
from typer.testing import CliRunner, Result

import hrrsi
from hrrsi.cli import app
from hrrsi.files import content_digest
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.weights_file import weights_path
from hrrsi.networks.weights_reading import read_meta
from hrrsi.viewer.server import Viewer

pytestmark = pytest.mark.slow
Run = Callable[..., Result]
CLASSES = ("Building", "Land", "Road", "Vegetation", "Water")


def commands_of(page: str) -> list[tuple[str, ...]]:
    """The words of each command in the blocks of a page, without the program's name."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return [words for words, is_whole in commands_in(text) if is_whole]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of a page in a folder of its own, with flags that make it cheap."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"COLUMNS": "160", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)

    def run(words: Sequence[str], *cheap: str) -> Result:
        result = CliRunner().invoke(app, [*words, *cheap])
        assert result.exit_code == 0, result.output
        return result

    return run


def labels(path: str) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def test_readme(run: Run) -> None:
    save_scene(
        Path("scene.tif"), crs="EPSG:32640", transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0)
    )
    (predict,) = commands_of("README.md")
    run(predict)
    with rasterio.open("scene_classes.tif") as dataset:
        colours = read_meta(weights_path(None)).colours
        assert [dataset.colormap(1)[n][:3] for n in range(5)] == [tuple(c) for c in colours]
    assert Path("scene_classes.qml").is_file()
    with Image.open("scene.png") as sheet:
        assert sheet.width > 500


@pytest.fixture
def networks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the page of networks for other programs names."""
    clone(Path())
    monkeypatch.setattr("sys.argv", ["make_ortho.py"])
    runpy.run_path("examples/make_ortho.py", run_name="__main__")
    save_made_dataset(Path("dataset"), train=8, val=3)
    for name in ("runs/ued/best", "runs/ued_bes_sfm/best", "best"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.safetensors").symlink_to(weights_path("light"))


DEPLOYMENT = commands_of("docs/deployment.md")


def test_the_page_of_networks_shows_these_commands() -> None:
    names = [words[0] for words in DEPLOYMENT]
    assert names == [
        *("export", "export", "export", "predict", "eval", "quantize", "quantize"),
        *("prune", "prune", "train", "profile", "profile"),
    ]


def test_exported_networks(networks: None, run: Run) -> None:
    default, of_256, openvino, predict, evaluate = DEPLOYMENT[:5]
    for words, side in ((default, 512), (of_256, 256)):
        run(words)
        model = onnx.load(words[words.index("--out") + 1])
        ((taken,), (given,)) = model.graph.input, model.graph.output
        assert (taken.name, given.name) == ("input", "output")
        shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (taken, given)]
        assert shapes == [[1, 3, side, side], [1, 5, side, side]]
        assert (model.opset_import[0].version, model.ir_version) == (17, 8)
        metadata = {entry.key for entry in model.metadata_props}
        text = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
        (row,) = re.findall(r"^\| metadata \| (.*) \|$", text, re.MULTILINE)
        assert metadata == set(re.findall(r"`(\w+)`", row))
    run(openvino)
    assert Path("landcover.bin").is_file()
    assert "<model_info>" in Path("landcover.xml").read_text(encoding="utf-8")
    exact = ("--precision", "32")  # else bf16 where the processor has it
    run(predict, *exact)
    run([*predict, "--engine", "onnxruntime", "--out", "onnxruntime.tif"], *exact)
    run(["predict", "ortho.tif", "--weights", "landcover.xml", "--out", "openvino.tif"], *exact)
    for weights, made in (("default", "ortho_classes onnxruntime"), ("light", "openvino")):
        own = ("predict", "ortho.tif", "--weights", weights, "--out", f"{weights}.tif")
        run(own, *exact)
        for name in made.split():
            same = labels(f"{name}.tif") == labels(f"{weights}.tif")
            assert same.mean() > 0.9999, name
    assert "mIoU" in run(evaluate).stdout
    assert hrrsi.info("landcover.onnx").kind == "weights"


def test_quantized_networks(networks: None, run: Run) -> None:
    int8, half = DEPLOYMENT[5:7]
    for words in (int8, half):
        said = run(words, "--window", "64", "--max-drop", "100", "--patches", "8").stdout
        for row in ("mIoU", "file (MB)", "ms a window, onnxruntime", "ms a window, openvino"):
            assert re.search(rf"{re.escape(row)} *\|.*\|", said), row
        assert all(f"IoU of {name}" in said for name in CLASSES)
        assert "of labels agree" in said
        values = hrrsi.info(words[words.index("--out") + 1]).data["quantized"]
        assert set(values["milliseconds"]) == {"onnxruntime", "openvino"}
        assert {"mIoU", "IoU"} <= set(values["after"])


def test_pruned_networks(networks: None, run: Run) -> None:
    dry, real, learn = DEPLOYMENT[7:10]
    before = sorted(Path().rglob("*"))
    planned = run(dry, "--patches", "8").stdout
    assert sorted(Path().rglob("*")) == before
    said = run(real, "--patches", "8").stdout
    assert said.startswith(planned.splitlines()[0])  # the table of what is cut
    assert re.search(r"mIoU [\d.]+ before, [\d.]+ now; [\d.]+% of the labels are the same", said)
    pruned = hrrsi.info("pruned.safetensors")
    assert "pruned" in dict(pruned.lines)
    said = run(learn, "--workers", "0", "--quiet").output
    learnt = hrrsi.info("runs_pruned/ued_bes_sfm/best.safetensors")
    assert "pruned" in dict(learnt.lines)
    assert learnt.data["parameters"] == pruned.data["parameters"]


def test_networks_on_a_board(networks: None, run: Run) -> None:
    default, own = DEPLOYMENT[10:]
    said = run(own, "--seconds", "1").stdout
    for column in ("p50", "p99", "sustained", "first to last", "quarter", "energy", "peak"):
        assert column in said
    assert len(re.findall(r"^\| openvino +\|", said, re.MULTILINE)) in (1, 2)  # one thread, all
    said = run(default, "--seconds", "0.3", "--precision", "32").stdout
    runtimes = re.findall(r"^\| (\w+) +\| +32 \|", said, re.MULTILINE)
    assert set(runtimes) == {"openvino", "onnxruntime", "torch"}


def test_training_without_labels(run: Run) -> None:
    teacher, tile, student = commands_of("docs/training.md")
    save_made_dataset(Path("dubai256"), train=4, val=2)
    scheme = load_scheme("dubai")
    classes = [{"name": c.name, "colour": list(c.colour)} for c in scheme.classes]
    patterns = {
        "images": ["images/{part}.png"],
        "labels": ["labels/{part}.png"],
        "scene": "part_{part}",
    }
    Path("town.yaml").write_text(yaml.safe_dump({"name": "town", "classes": classes, **patterns}))
    palette = np.array(scheme.colours, dtype=np.uint8)
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        Path("town", part).mkdir(parents=True)
    for name in ("11", "12", "21", "22"):
        pixels = random.integers(0, 255, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"town/images/{name}.png")
        if name.startswith("1"):
            colours = palette[np.arange(256 * 256).reshape(256, 256) // 16384]
            Image.fromarray(colours).save(f"town/labels/{name}.png")
    cheap = ("--epochs", "1", "--batch", "2", "--encoder-weights", "none", "--workers", "0")
    run(teacher, *cheap)
    run(tile, "--workers", "1")
    splits = yaml.safe_load(Path("town256/dataset.yaml").read_text())["splits"]
    assert {name: split["labels"] for name, split in splits.items()} == {
        "train": "none",
        "val": "full",
    }
    run(student, *cheap)
    written = yaml.safe_load(Path("runs/ued_bes_sfm/environment.yaml").read_text())
    digest = content_digest(Path(student[-1]))
    assert digest in str(written)
    header = Path("runs/ued_bes_sfm/metrics.csv").read_text().splitlines()[0]
    assert "distillation_loss" in header


@pytest.fixture
def scheduler() -> Iterator[Any]:
    with client_of_one_worker() as client:
        yield client


def test_maps_by_many_machines(run: Run, scheduler: Any, tmp_path: Path) -> None:
    scenes = ("scene.tif", "flights/a.tif", "flights/b.tif", "tiles/c.tif")
    for name in scenes:
        save_scene(Path(name))
    scheduler.write_scheduler_file("scheduler.json")
    *predicted, training = commands_of("docs/cluster.md")
    assert training[0] == "train"  # which wants two machines
    for words in predicted:
        assert words[0] == "predict"
        words = [re.sub("^tcp://.*", scheduler.scheduler.address, word) for word in words]
        words = [word.replace("local:4", "local:2").replace("/shared", ".") for word in words]
        run([word.replace("$F", "scheduler.json") for word in words])
    maps = {"maps/a": scenes[1], "maps/b": scenes[2], "maps/scene": scenes[0], "maps/c": scenes[3]}
    for made, scene in {**maps, "scene": "scene.tif"}.items():
        run(["predict", scene, "--out", f"one/{made}_classes.tif"])
        alone = Path(f"one/{made}_classes.tif").read_bytes()
        assert Path(f"{made}_classes.tif").read_bytes() == alone, made


def test_maps_in_a_browser(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "docs" / "viewer.md").read_text(encoding="utf-8")
    pages: list[str] = []

    def ask(viewer: Viewer) -> None:
        with urlopen(viewer.address, timeout=10) as answer:
            pages.append(answer.read().decode())

    monkeypatch.setattr(Viewer, "wait", ask)
    Path("maps").mkdir()
    made_map(Path())
    for name in ("before", "after"):
        shutil.copy(made_map(Path("maps"), name).path, f"{name}.tif")
    run(["predict", "scene.tif", "--vector", "truth.gpkg", "--out", "truth.tif"])
    shown = re.search(r"\$ (hrrsi view .*)\n(http.*)\n", text)
    assert shown is not None
    commands = [words for words, _ in commands_in(text) if words[0] == "view" and words[1:]]
    assert len(commands) == 4
    for words in commands:
        said = run(words, "--no-browser").stdout
        assert re.sub(r"\d{4,5}/", "40213/", said).strip() == shown[2]
    assert len(pages) == 4
    assert all("<title>hrrsi view</title>" in page for page in pages)
