"""The plugin in QGIS itself: `qgis_process`, and the Python of the system's QGIS."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from samples.predicted_scenes import SMALL
from samples.repository import REPOSITORY

PLUGIN = REPOSITORY / "qgis" / "hrrsi"
SYSTEM_PYTHON = "/usr/bin/python3"


# Debian's qgis_process hands on options that are not its own
PROCESS = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROCESS is None, reason="QGIS is not installed (Debian's qgis)"),
]
SESSION = """
import json, os, sys
sys.path[:0] = [{plugins!r}, "/usr/share/qgis/python/plugins"]
from qgis.core import *
from qgis.PyQt.QtGui import QColor
application = QgsApplication([], False)
application.initQgis()
import processing
from processing.core.Processing import Processing
from processing.core.ProcessingConfig import ProcessingConfig
Processing.initialize()
from hrrsi.provider import HrrsiProvider
provider = HrrsiProvider()
QgsApplication.processingRegistry().addProvider(provider)
ProcessingConfig.setSettingValue("HRRSI_EXECUTABLE", {executable!r})

class Heard(QgsProcessingFeedback):
    def __init__(self, cancel_at=None):
        super().__init__(False)
        self.errors, self.warnings, self.commands, self.percents = [], [], [], []
        self.lines = []
        self.cancel_at = cancel_at
        self.progressChanged.connect(self.heard)
    def heard(self, percent):
        self.percents.append(percent)
        if self.cancel_at is not None and percent >= self.cancel_at:
            self.cancel()
    def reportError(self, error, fatalError=False): self.errors.append(error)
    def pushWarning(self, warning): self.warnings.append(warning)
    def pushCommandInfo(self, command): self.commands.append(command)
    def pushConsoleInfo(self, line): self.lines.append(line)

def run(name, cancel_at=None, **parameters):
    feedback = Heard(cancel_at)
    try:
        results = processing.run("hrrsi:" + name, parameters, feedback=feedback)
    except QgsProcessingException as error:
        results = {{"error": feedback.errors + [str(error)]}}
    results = {{key: str(v) if isinstance(v, QgsMapLayer) else v for key, v in results.items()}}
    return {{**results, "warnings": feedback.warnings, "commands": feedback.commands,
             "percents": feedback.percents, "lines": feedback.lines}}

os.chdir({folder!r})
answers = {{}}
"""


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """A shell's background jobs ignore Ctrl-C, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def executable() -> str:
    beside = Path(sys.executable).with_name("hrrsi")
    assert beside.exists()
    return str(beside)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds a scene whose name is no plain one."""
    with rasterio.open(REPOSITORY / "examples" / "dubai_tile1.tif") as whole:
        pixels = whole.read(window=((100, 360), (200, 500)))
    made = tmp_path / "ä scene"
    made.mkdir()
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "height": 260, "width": 300}
    place = {"crs": "EPSG:32640", "transform": rasterio.Affine(0.5, 0, 330000, 0, -0.5, 2786000)}
    with rasterio.open(made / "größe 1.tif", "w", **profile, **place) as scene:
        scene.write(pixels)
    return made


def environment(profile: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    own["PATH"] = f"/usr/bin:{own['PATH']}"  # QGIS takes the first Python there for its own
    return {**own, "QT_QPA_PLATFORM": "offscreen", "QGIS_CUSTOM_CONFIG_PATH": str(profile)}


def session(body: str, folder: Path, executable: str) -> dict[str, Any]:
    """What a script that fills `answers` finds out in QGIS."""
    file = folder.parent / "session.py"
    plugins = str(PLUGIN.parent)
    head = SESSION.format(plugins=plugins, executable=executable, folder=str(folder))
    end = "\nprint('ANSWERS' + json.dumps(answers), flush=True)\nos._exit(0)\n"
    file.write_text(head + body + end, encoding="utf-8")
    done = subprocess.run(
        [SYSTEM_PYTHON, str(file)],
        env=environment(folder.parent / "profile"),
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWERS")]
    assert lines, f"{done.returncode} {done.stdout}{done.stderr}"
    return dict(json.loads(lines[0].removeprefix("ANSWERS")))


def predicted(folder: Path, executable: str, *words: str) -> Path:
    out = folder / "by_hrrsi.tif"
    command = [executable, "predict", str(folder / "größe 1.tif"), "--out", str(out), *words]
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True)
    return out


def labels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def test_qgis_process_maps_as_the_command_line_does(folder: Path, executable: str) -> None:
    profile = folder.parent / "profile"
    plugins = profile / "profiles" / "default" / "python" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "hrrsi").symlink_to(PLUGIN)
    settings = profile / "profiles" / "default" / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir()
    settings.write_text(
        f"[PythonPlugins]\nhrrsi=true\n[Processing]\nConfiguration\\HRRSI_EXECUTABLE={executable}\n"
    )
    out = folder / "by qgis_classes.tif"
    arguments = [f"--INPUT={folder / 'größe 1.tif'}", "--WINDOW=64", "--OVERLAP=16"]
    arguments += [f"--OUTPUT={out}", f"--POLYGONS={folder / 'polygons.gpkg'}"]
    arguments += [f"--CONFIDENCE={folder / 'sure.tif'}", f"--PICTURE={folder / 'sheet.png'}"]
    command = [str(PROCESS), "run", "hrrsi:maplandcover", *arguments]
    done = subprocess.run(command, env=environment(profile), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"OUTPUT:\t{out}" in done.stdout
    assert (
        out.read_bytes()
        == predicted(folder, executable, *SMALL, "--confidence", "uint8").read_bytes()
    )
    assert (folder / "sure.tif").read_bytes() == (folder / "by_hrrsi_confidence.tif").read_bytes()
    assert (folder / "polygons.gpkg").exists()
    assert (folder / "sheet.png").exists()
    assert (folder / "by qgis_classes.qml").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    command[3] = f"--INPUT={REPOSITORY / 'README.md'}"
    wrong = subprocess.run(command, env=environment(profile), capture_output=True, text=True)
    assert wrong.returncode != 0


def test_a_cancelled_map_goes_on_to_the_same_bytes(folder: Path, executable: str) -> None:
    with rasterio.open(folder / "größe 1.tif") as scene:
        pixels, profile = scene.read(), scene.profile
    larger = np.tile(pixels, (1, 3, 3))
    profile |= {"height": larger.shape[1], "width": larger.shape[2]}
    with rasterio.open(folder / "größe 1.tif", "w", **profile) as scene:
        scene.write(larger)
    body = """
options = dict(INPUT="größe 1.tif", WINDOW=64, OVERLAP=32, OUTPUT="map.tif")
answers["cancelled"] = run("maplandcover", cancel_at=20, **options)
answers["left"] = sorted(os.listdir("."))
answers["otherwise"] = run("maplandcover", **{**options, "OVERLAP": 16})
answers["again"] = run("maplandcover", **options)
answers["at the end"] = sorted(os.listdir("."))
options["OUTPUT"] = "TEMPORARY_OUTPUT"
answers["temporary"] = run("maplandcover", cancel_at=20, **options)
"""
    results = session(body, folder, executable)
    assert any(
        "interrupted" in line and "is kept: run it again" in line
        for line in results["cancelled"]["error"]
    )
    statistics = "größe 1.tif.aux.xml"  # which QGIS writes, so that the scene has a new file
    assert results["left"] == [".map.tif.hrrsi", "größe 1.tif"]
    assert statistics in results["at the end"]
    assert any(
        "begun otherwise: " in line and "tick 'Start over'" in line
        for line in results["otherwise"]["error"]
    )
    assert results["again"]["commands"][0].endswith(" --resume")
    assert results["again"]["percents"][0] >= 15
    assert set(results["at the end"]) - {statistics} == {
        *("größe 1.tif", "map.qml", "map.tif", "map.tif.aux.xml")
    }
    assert any("name a file" in line for line in results["temporary"]["error"])
    whole = predicted(folder, executable, "--window", "64", "--overlap", "32")
    assert (folder / "map.tif").read_bytes() == whole.read_bytes()


def test_what_is_wrong_is_hrrsis_own_line(folder: Path, executable: str) -> None:
    (folder / "weights.safetensors").write_bytes(b"nothing")
    body = """
scene = dict(INPUT="größe 1.tif", OUTPUT="map.tif")
answers["weights"] = run("maplandcover", WEIGHTS_FILE="weights.safetensors", **scene)
answers["overlap"] = run("maplandcover", WINDOW=64, OVERLAP=64, **scene)
answers["words"] = run("maplandcover", FURTHER_OPTIONS="--tta 'd4", **scene)
address = "type=xyz&url=http://localhost/%7Bz%7D/%7Bx%7D/%7By%7D.png"
service = QgsRasterLayer(address, "tiles", "wms")
QgsProject.instance().addMapLayer(service)
answers["service"] = run("maplandcover", INPUT=service.id(), OUTPUT="map.tif")
ProcessingConfig.setSettingValue("HRRSI_EXECUTABLE", "/bin/true")
answers["program"] = run("maplandcover", **scene)
answers["left"] = sorted(os.listdir("."))
"""
    results = session(body, folder, executable)

    def line(name: str) -> str:
        return " ".join(results[name]["error"])

    assert "weights.safetensors: " in line("weights")
    assert "--overlap" in line("overlap")
    assert "further options: no closing quotation" in line("words")
    assert "tiles: is a map service, not a raster file; save the part that you need" in line(
        "service"
    )
    assert "/bin/true: does not say that it is hrrsi" in line("program")
    assert results["left"] == ["größe 1.tif", "weights.safetensors"]


def test_polygons_of_a_map_that_is_there(folder: Path, executable: str) -> None:
    body = """
scene = dict(INPUT="größe 1.tif", WINDOW=64, OVERLAP=16)
run("maplandcover", OUTPUT="map.tif", **scene)
before = os.stat("map.tif").st_mtime_ns
some = dict(OUTPUT="a.gpkg", CLASSES="Building,Road")
answers["of map"] = run("polygons", MAP="map.tif", **some, **scene)
answers["of scene"] = run("polygons", OUTPUT="b.shp", SIMPLIFY=1.0, **scene)
scene["OVERLAP"] = 32
answers["other map"] = run("polygons", MAP="map.tif", OUTPUT="c.gpkg", **scene)
answers["untouched"] = before == os.stat("map.tif").st_mtime_ns
layer = QgsVectorLayer("a.gpkg", "a", "ogr")
answers["classes"] = sorted(layer.uniqueValues(layer.fields().indexOf("class")))
answers["renderer"] = layer.renderer().type()
answers["left"] = sorted(os.listdir("."))
"""
    results = session(body, folder, executable)
    assert results["of map"]["COUNT"] > 0
    assert any("was finished already" in line for line in results["of map"]["lines"])
    assert "also: a.gpkg" in results["of map"]["lines"]
    assert set(results["classes"]) <= {"Building", "Road"}
    assert results["renderer"] == "categorizedSymbol"
    assert results["untouched"]
    assert results["of scene"]["COUNT"] > results["of map"]["COUNT"]
    assert any("leave the class raster out" in line for line in results["other map"]["error"])
    assert {"b.shp", "b.dbf", "b.prj", "b.qml"} <= set(results["left"])
    assert not [name for name in results["left"] if name.startswith(".")]


def test_areas_and_labels_of_every_kind_of_layer(folder: Path, executable: str) -> None:
    """Half of the scene as an area of interest: memory, edited, in another CRS, of a GeoPackage."""
    body = """
scene = QgsRasterLayer("größe 1.tif", "scene")
box = scene.extent()
box.setXMaximum(box.center().x())
QgsProject.instance().setCrs(QgsCoordinateReferenceSystem("EPSG:3857"))

def polygons(name, crs, shape, source=None):
    layer = QgsVectorLayer(f"Polygon?crs={crs.authid()}&field=class:string", name, "memory")
    feature = QgsFeature(layer.fields())
    feature.setAttributes(["Building"])
    feature.setGeometry(shape)
    layer.dataProvider().addFeatures([feature])
    QgsProject.instance().addMapLayer(layer)
    return layer

half = QgsGeometry.fromRect(box)
memory = polygons("die hälfte/links", scene.crs(), half)
lonlat = QgsCoordinateReferenceSystem("EPSG:4326")
turned = QgsGeometry(half)
turned.transform(QgsCoordinateTransform(scene.crs(), lonlat, QgsProject.instance()))
degrees = polygons("degrees", lonlat, turned)
options = QgsVectorFileWriter.SaveVectorOptions()
for name in ("other", "wanted"):
    options.driverName, options.layerName = "GPKG", name
    if name == "wanted":
        options.actionOnExistingFile = QgsVectorFileWriter.CreateOrOverwriteLayer
    everything = polygons("all", scene.crs(), QgsGeometry.fromRect(scene.extent()))
    QgsVectorFileWriter.writeAsVectorFormatV3(
        memory if name == "wanted" else everything, "areas.gpkg",
        QgsCoordinateTransformContext(), options
    )
edited = QgsVectorLayer("areas.gpkg|layername=other", "edited", "ogr")
QgsProject.instance().addMapLayer(edited)
edited.startEditing()
edited.changeGeometry(next(edited.getFeatures()).id(), half)
kinds = {
    "memory": memory.id(),
    "degrees": degrees.id(),
    "layer": "areas.gpkg|layername=wanted",
    "edited": edited.id(),
    "selected": QgsProcessingFeatureSourceDefinition(memory.id(), True),
}
memory.selectAll()
for name, area in kinds.items():
    parameters = dict(INPUT="größe 1.tif", AOI=area, WINDOW=64, OVERLAP=16)
    answers[name] = run("maplandcover", OUTPUT=name + ".tif", **parameters)
again = dict(INPUT="größe 1.tif", AOI=memory.id(), WINDOW=64, OVERLAP=32, OUTPUT="memory2.tif")
run("maplandcover", cancel_at=20, **again)
answers["resumed"] = run("maplandcover", **again)
"""
    results = session(body, folder, executable)
    maps = {
        name: labels(folder / f"{name}.tif")
        for name in ("memory", "layer", "edited", "selected", "degrees")
    }
    assert "error" not in results["resumed"]
    assert results["resumed"]["commands"][0].endswith("--resume")
    left = np.s_[:, :150]
    assert (maps["memory"][:, 151:] == 255).all()
    assert (maps["memory"][left] != 255).all()
    for name in ("layer", "edited", "selected"):
        np.testing.assert_array_equal(maps[name], maps["memory"], err_msg=name)
    assert (maps["degrees"] != maps["memory"]).mean() < 0.01  # a column at the border


def test_scores_of_a_map_and_of_a_scene(folder: Path, executable: str) -> None:
    body = """
scene = dict(INPUT="größe 1.tif", WINDOW=64, OVERLAP=16)
run("maplandcover", OUTPUT="map.tif", POLYGONS="truth.gpkg", **scene)
labels = dict(LABELS="truth.gpkg", ATTRIBUTE="class")
files = dict(REPORT="report.html", JSON="s.json")
answers["map"] = run("scoreagainstlabels", MAP="map.tif", **files, **labels)
answers["scene"] = run("scoreagainstlabels", SCENE="größe 1.tif", REPORT="two.html", **labels)
files["REPORT"] = "three.html"
answers["raster"] = run("scoreagainstlabels", MAP="map.tif", LABEL_RASTER="map.tif", **files)
answers["nothing"] = run("scoreagainstlabels", MAP="map.tif", REPORT="four.html")
# the same labels under other values, whose names a legend says
from osgeo import gdal
truth = gdal.GetDriverByName("GTiff").CreateCopy("values.tif", gdal.Open("map.tif"))
names = [item[0] for item in QgsRasterLayer("map.tif", "m").legendSymbologyItems()]
values = truth.ReadAsArray()
truth.GetRasterBand(1).WriteArray(4 - values)
truth.GetRasterBand(1).SetCategoryNames([])
truth = None
turned = QgsRasterLayer("values.tif", "turned")
Shown = QgsPalettedRasterRenderer.Class
legend = [Shown(4 - index, QColor("red"), name.upper()) for index, name in enumerate(names)]
turned.setRenderer(QgsPalettedRasterRenderer(turned.dataProvider(), 1, legend))
QgsProject.instance().addMapLayer(turned)
files["REPORT"] = "legend.html"
answers["legend"] = run("scoreagainstlabels", MAP="map.tif", LABEL_RASTER=turned.id(), **files)
algorithm = QgsApplication.processingRegistry().algorithmById("hrrsi:scoreagainstlabels")
answers["html"] = algorithm.outputDefinition("REPORT").type()
memory = QgsVectorLayer("truth.gpkg", "x", "ogr").materialize(QgsFeatureRequest())
QgsProject.instance().addMapLayer(memory)
labels["LABELS"] = memory.id()
answers["memory"] = run("scoreagainstlabels", MAP="map.tif", REPORT="five.html", **labels)
"""
    results = session(body, folder, executable)
    assert results["map"]["OVERALL_ACCURACY"] == pytest.approx(100, abs=0.5)  # its own polygons
    assert results["map"]["MIOU"] > 99
    assert "viewer" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "s.json").read_text())["scores"]["OA"] * 100 == pytest.approx(
        results["map"]["OVERALL_ACCURACY"]
    )
    assert 50 < results["scene"]["OVERALL_ACCURACY"] < 100  # other windows
    assert any("|\u00a0Building\u00a0" in line for line in results["map"]["lines"])
    assert results["raster"]["OVERALL_ACCURACY"] == 100
    assert results["legend"]["OVERALL_ACCURACY"] == 100
    assert results["html"] == "outputHtml"
    assert results["memory"]["OVERALL_ACCURACY"] == results["map"]["OVERALL_ACCURACY"]
    assert any("labels: none are named" in line for line in results["nothing"]["error"])


def test_tile_and_train_goes_on_where_it_was_stopped(folder: Path, executable: str) -> None:
    make = [sys.executable, str(REPOSITORY / "examples" / "make_ortho.py")]
    subprocess.run(make, cwd=folder, check=True, capture_output=True)
    body = """
memory = QgsVectorLayer("areas.gpkg", "x", "ogr").materialize(QgsFeatureRequest())
memory.setName("areas")
QgsProject.instance().addMapLayer(memory)
options = dict(INPUT=["ortho.tif"], LABELS=memory.id(), ATTRIBUTE="class", SIZE=128,
               EPOCHS=1, BATCH=4,
               FURTHER_OPTIONS_TRAIN="--workers 0 --augmentation none --crop 64", OUTPUT="trained")
answers["cancelled"] = run("tileandtrain", cancel_at=30, **options)
answers["again"] = run("tileandtrain", **options)
answers["otherwise"] = run("tileandtrain", **{**options, "SIZE": 256})
weights = dict(WEIGHTS_FILE=answers["again"]["TRAINED_WEIGHTS"])
data = dict(DATASET=answers["again"]["DATASET"], REPORT="report.html")
answers["scores"] = run("scoreagainstlabels", **data, **weights)
answers["map"] = run("maplandcover", INPUT="größe 1.tif", OUTPUT="map.tif", **weights)
"""
    results = session(body, folder, executable)
    assert any("run it again with this folder" in line for line in results["cancelled"]["error"])
    assert [command.split()[1] for command in results["again"]["commands"]] == ["train"]
    weights = Path(folder, results["again"]["TRAINED_WEIGHTS"])
    assert weights.name == "best.safetensors"
    assert weights.exists()
    assert 0 < results["again"]["MIOU"] < 100
    assert 0 < results["scores"]["MIOU"] < 100
    assert (folder / "report.html").exists()
    used = [line for line in results["map"]["lines"] if line.startswith("weights: ")]
    assert "trained/runs" in used[0]
    assert any(
        "is there already, of other scenes" in line for line in results["otherwise"]["error"]
    )


def test_layers_of_a_run_are_loaded_into_one_group(folder: Path, executable: str) -> None:
    body = """
from processing.gui.Postprocessing import handleAlgorithmResults
project = QgsProject.instance()
for number in range(3):
    context, feedback = QgsProcessingContext(), Heard()
    context.setProject(project)
    algorithm = QgsApplication.processingRegistry().createAlgorithmById("hrrsi:maplandcover")
    def loaded(file):
        return QgsProcessingOutputLayerDefinition(file, project)
    parameters = dict(INPUT="größe 1.tif", WINDOW=64, OVERLAP=16, OUTPUT=loaded(f"m{number}.tif"),
                      CONFIDENCE=loaded(f"c{number}.tif"), POLYGONS=loaded(f"p{number}.gpkg"))
    if number == 2:  # as the dialog of a batch says that they are not wanted
        parameters |= dict(CONFIDENCE=loaded(""), POLYGONS=loaded(""))
    results, done = algorithm.run(parameters, context, feedback)
    assert done
    # layers are added where the current one is, in the window
    group = (project.layerTreeRoot().children() or [project.layerTreeRoot()])[0]
    point = QgsLayerTreeRegistryBridge.InsertionPoint(group, 0)
    project.layerTreeRegistryBridge().setLayerInsertionPoint(point)
    handleAlgorithmResults(algorithm, context, feedback)
    answers.setdefault("errors", []).extend(feedback.errors)
answers["groups"] = [
    [group.name(), [node.name() for node in group.children()]]
    for group in project.layerTreeRoot().children()
]
layers = {layer.name(): layer for layer in project.mapLayers().values()}
answers["renderers"] = {name: layer.renderer().type() for name, layer in layers.items()}
classes = layers[[name for name in layers if name.lower().startswith(("m0", "class"))][0]]
answers["legend"] = [item[0] for item in classes.legendSymbologyItems()]
answers["unfolded"] = project.layerTreeRoot().findLayer(classes.id()).isExpanded()
"""
    results = session(body, folder, executable)
    assert results["errors"] == []
    names = [name for name, _ in results["groups"]]
    assert names == ["Land cover of größe 1"] * 3
    assert [[name[0] for name in layers] for _, layers in results["groups"]] == [
        ["m"],
        ["p", "m", "c"],
        ["p", "m", "c"],
    ]
    assert results["unfolded"]
    assert set(results["renderers"].values()) == {
        "categorizedSymbol",
        "paletted",
        "singlebandpseudocolor",
    }
    assert "Building" in results["legend"]


def test_a_model_takes_the_map_on_to_its_scores(folder: Path, executable: str) -> None:
    body = """
scene = dict(INPUT="größe 1.tif", WINDOW=64, OVERLAP=16)
run("maplandcover", OUTPUT="x.tif", POLYGONS="truth.gpkg", **scene)
model = QgsProcessingModelAlgorithm("m", "g")
raster = QgsProcessingParameterRasterLayer("scene")
model.addModelParameter(raster, QgsProcessingModelParameter("scene"))
Child, Source = QgsProcessingModelChildAlgorithm, QgsProcessingModelChildParameterSource
first = Child("hrrsi:maplandcover")
first.setChildId("map")
sources = dict(INPUT=Source.fromModelParameter("scene"), WINDOW=Source.fromStaticValue(64),
               OVERLAP=Source.fromStaticValue(16))
for name, source in sources.items():
    first.addParameterSources(name, [source])
model.addChildAlgorithm(first)
second = Child("hrrsi:scoreagainstlabels")
second.setChildId("score")
sources = dict(MAP=Source.fromChildOutput("map", "OUTPUT"),
               ATTRIBUTE=Source.fromStaticValue("class"),
               LABELS=Source.fromStaticValue("truth.gpkg"))
for name, source in sources.items():
    second.addParameterSources(name, [source])
model.addChildAlgorithm(second)
context, feedback = QgsProcessingContext(), Heard()
results, done = model.run({"scene": "größe 1.tif"}, context, feedback)
answers["done"], answers["errors"] = done, feedback.errors
answers["score"] = results["CHILD_RESULTS"]["score"]["OVERALL_ACCURACY"] if done else None
"""
    results = session(body, folder, executable)
    assert results["done"], results["errors"]
    assert results["score"] == pytest.approx(100, abs=0.5)


def test_what_the_page_shows_runs(folder: Path, executable: str) -> None:
    page = (REPOSITORY / "docs" / "qgis.md").read_text(encoding="utf-8")
    profile = folder.parent / "profile"
    plugins = profile / "profiles" / "default" / "python" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "hrrsi").symlink_to(PLUGIN)
    (folder / "größe 1.tif").rename(folder / "scene.tif")
    programs = folder.parent / "bin"  # without a Python
    programs.mkdir()
    (programs / "hrrsi").symlink_to(executable)
    variables = environment(profile)
    variables["PATH"] = f"{programs}:{variables['PATH']}"
    for line in re.findall(r"^\$ qgis_process (.*)", page, re.MULTILINE):
        command = [str(PROCESS), *shlex.split(line)]
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    body = f"""
scene = dict(INPUT="scene.tif", MAP="scene_classes.tif", WEIGHTS="light")
answers["polygons"] = run("polygons", OUTPUT="areas.gpkg", **scene)
answers["mIoU"] = eval({block.strip()!r})
"""
    assert session(body, folder, executable)["mIoU"] > 99  # of its own polygons
    assert (folder / "report.html").exists()
