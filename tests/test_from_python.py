"""The Python blocks of pages, run as they stand on small stand-ins of the files that they name."""

import ast
import inspect
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from samples.console_tour import clone
from samples.made_dataset import save_made_dataset
from samples.predicted_scenes import save_scene
from samples.repository import REPOSITORY
from samples.viewed_maps import CLASSES, CRS, ORIGIN, made_map

import hrrsi
from hrrsi.labels.scheme import load_scheme
from hrrsi.networks.weights_file import weights_path

_PARAMETERS = re.compile(r"\s--([A-Z_]+)=")


class Page(NamedTuple):
    """A page, what makes the files that it names, and what holds once its blocks have run."""

    name: str
    make_files: Callable[[Path], None]
    check: Callable[[dict[str, Any], str], None]
    first_block_alone: bool = False
    needs: str | None = None  # a fixture


def blocks(page: str) -> list[str]:
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def ortho(folder: Path) -> None:
    clone(folder)
    runpy.run_path("examples/make_ortho.py", run_name="__main__")


def check_from_python(names: dict[str, Any], printed: str) -> None:
    assert "tiled dataset" in printed
    assert "missing.tif" in printed
    assert names["labels"].shape == (256, 256)
    assert names["scores"].dims == ("y", "x")
    assert hrrsi.info("labels.tif").data["crs"] == "EPSG:32640"
    assert names["logits"].shape == (1, 5, 256, 256)


def labelled_scenes_and_maps(folder: Path) -> None:
    ortho(folder)
    for name in ("dubai", "gt"):
        (folder / name).symlink_to(folder / "examples" / "dubai")
    save_made_dataset(folder / "dataset")
    (folder / "best.safetensors").symlink_to(weights_path("default"))
    for image in sorted((folder / "dubai" / "tile1" / "images").iterdir()):
        scene = f"tile1_{image.stem.removeprefix('image_')}"
        hrrsi.predict(image, out=folder / "maps" / f"{scene.replace('_part_', '_part')}.tif")
    for name, weights in (("mine", "default"), ("theirs", "light")):
        hrrsi.predict("ortho.tif", weights, folder / f"{name}.tif")
    with rasterio.open("theirs.tif") as dataset:
        palette = np.array(load_scheme("dubai").colours, dtype=np.uint8)
        colours = np.moveaxis(palette[np.roll(dataset.read(1), 3, axis=1)], -1, 0)
        place = {"crs": dataset.crs, "transform": dataset.transform}
    save_scene(folder / "gt.tif", colours, **place)


def check_evaluation(names: dict[str, Any], printed: str) -> None:
    assert "mIoU" in printed
    assert "'Building': 0." in printed
    assert Path("scores.json").is_file()
    assert "<html" in Path("report.html").read_text(encoding="utf-8")
    assert names["patches"].scores.pixels > 0
    assert names["maps"].scores.pixels == names["result"].scores.pixels
    assert names["comparison"].differences["mIoU"].interval is not None


def dataset(folder: Path) -> None:
    save_made_dataset(folder / "dataset", val=2)


def check_training(names: dict[str, Any], _: str) -> None:
    assert 0 < names["run"].best_miou < 1
    assert names["run"].weights.is_file()
    assert len(Path(names["run"].folder, "metrics.csv").read_text().splitlines()) == 31


def map_and_polygons(folder: Path) -> None:
    made_map(folder)
    corners = *(ORIGIN @ (30, 200)), *(ORIGIN @ (200, 30))
    shapes = np.array([shapely.to_wkb(shapely.box(*corners))], dtype=object)
    names = [np.array([CLASSES[1]], dtype=object)]
    pyogrio.raw.write(
        folder / "truth.gpkg", shapes, names, ["class"], crs=CRS, geometry_type="Polygon"
    )


def check_viewer(names: dict[str, Any], printed: str) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", printed)
    assert "<iframe" in names["viewer"]._repr_html_()


def flights(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 90, 100), dtype=np.uint8)
    for name in ("flights/a", "flights/b", "later/c"):
        save_scene(folder / f"{name}.tif", pixels)


def check_cluster(names: dict[str, Any], _printed: str) -> None:
    names["client"].close()
    maps = {path.name for path in Path("maps").glob("*.tif")}
    assert maps == {"a_classes.tif", "b_classes.tif", "c_classes.tif"}


PAGES = [
    pytest.param(Page("from_python", ortho, check_from_python), marks=pytest.mark.slow),
    pytest.param(
        Page("evaluation", labelled_scenes_and_maps, check_evaluation), marks=pytest.mark.slow
    ),
    pytest.param(
        Page("training", dataset, check_training, needs="random_encoders"), marks=pytest.mark.slow
    ),
    pytest.param(Page("viewer", map_and_polygons, check_viewer), marks=pytest.mark.long),
    # its other blocks want SLURM and Kubernetes
    pytest.param(
        Page("cluster", flights, check_cluster, first_block_alone=True, needs="scheduler"),
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a scheduler with a worker."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def random_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what starts from ImageNet's weights start from random ones: nothing is fetched."""
    import timm

    from hrrsi.training import encoder_weights

    monkeypatch.setattr(
        encoder_weights, "_imagenet_tensors", lambda name: timm.create_model(name).state_dict()
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("ignore::hrrsi.SceneWarning", "ignore::hrrsi.EvaluationWarning")
def test_every_block_runs(
    page: Page,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = request.getfixturevalue(page.needs) if page.needs else None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["make_ortho.py"])
    page.make_files(tmp_path)
    capsys.readouterr()
    names: dict[str, Any] = {}
    for block in blocks(page.name)[: 1 if page.first_block_alone else None]:
        code = block.replace("tcp://first:8786", str(address)).replace("/shared", f"{tmp_path}")
        exec(compile(code, f"docs/{page.name}.md", "exec"), names)
    page.check(names, capsys.readouterr().out)


@pytest.mark.parametrize("number", range(1, len(blocks("cluster"))))
def test_blocks_for_slurm_and_kubernetes_call_what_is_there(number: int) -> None:
    tree = ast.parse(blocks("cluster")[number])
    called = list(calls_of_hrrsi(tree))
    assert called
    for name, call in called:
        function = getattr(hrrsi, name)
        keywords = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **keywords)


def test_a_name_or_keyword_that_is_not_there_is_found() -> None:
    ((name, call),) = calls_of_hrrsi(ast.parse("hrrsi.predict('a', outs=1)"))
    with pytest.raises(TypeError, match="outs"):
        inspect.signature(getattr(hrrsi, name)).bind(*call.args, **{call.keywords[0].arg: 1})
    ((name, _),) = calls_of_hrrsi(ast.parse("hrrsi.predicted('a')"))
    assert not hasattr(hrrsi, name)


def calls_of_hrrsi(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the names of `hrrsi` that are called, each with the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("hrrsi."):
            yield ast.unparse(node.func).removeprefix("hrrsi."), node


def test_the_page_of_qgis_names_what_algorithms_take() -> None:
    text = (REPOSITORY / "docs" / "qgis.md").read_text(encoding="utf-8")
    (block,) = blocks("qgis")
    (run,) = (node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Subscript))
    assert isinstance(run, ast.Call)
    algorithm, parameters = (ast.literal_eval(argument) for argument in run.args)
    named = {algorithm: {*parameters, "MIOU"}}
    for line in re.findall(r"qgis_process run (.*)", text):
        named[line.split()[0]] = set(_PARAMETERS.findall(line))
    assert set(named) == {"hrrsi:maplandcover", "hrrsi:scoreagainstlabels"}
    for algorithm, names in named.items():
        assert names <= parameters_of(algorithm.removeprefix("hrrsi:"))


def parameters_of(algorithm: str) -> set[str]:
    """The names of parameters and outputs of the plugin's algorithm, read from its source."""
    names: dict[str, set[str]] = {}
    for file in ("algorithm", "mapping", "scoring"):
        source = (REPOSITORY / "qgis" / "hrrsi" / f"{file}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        keys = {
            key.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
            for key in node.value.keys
            if isinstance(key, ast.Constant)
        }
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            bases = [base.id for base in cls.bases if isinstance(base, ast.Name)]
            own = {
                constant.value
                for node in cls.body
                if isinstance(node, ast.Assign)
                for constant in ast.walk(node.value)
                if isinstance(constant, ast.Constant)
            }
            names[cls.name] = own.union(keys, *(names.get(base, set()) for base in bases))
            if algorithm in own:
                return names[cls.name]
    raise AssertionError(f"no algorithm {algorithm}")
