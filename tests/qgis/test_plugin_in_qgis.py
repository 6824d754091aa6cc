"""Maps in QGIS itself: `qgis_process`, and the Python of the system's QGIS."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import rasterio
from samples.predicted_scenes import SMALL
from samples.qgis_session import IN_QGIS, PLUGIN, PROCESS, environment, session
from samples.repository import REPOSITORY

pytestmark = IN_QGIS


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
labels = dict(SCENE="größe 1.tif", LABEL_RASTER="map.tif", REPORT="TEMPORARY_OUTPUT")
answers["scored"] = run("scoreagainstlabels", cancel_at=5, WEIGHTS="light", **labels)
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
    assert any("nothing of the scene's map is kept" in line for line in results["scored"]["error"])
    assert not any("run it again" in line for line in results["scored"]["error"])
    whole = predicted(folder, executable, "--window", "64", "--overlap", "32")
    assert (folder / "map.tif").read_bytes() == whole.read_bytes()


def test_what_is_wrong_is_hrrsis_own_line(folder: Path, executable: str) -> None:
    (folder / "weights.safetensors").write_bytes(b"nothing")
    body = """
scene = dict(INPUT="größe 1.tif", OUTPUT="map.tif")
answers["weights"] = run("maplandcover", WEIGHTS_FILE="weights.safetensors", **scene)
answers["overlap"] = run("maplandcover", WINDOW=64, OVERLAP=64, **scene)
answers["ending"] = run("maplandcover", **{**scene, "OUTPUT": "map.img"})
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
    assert line("ending").startswith("map.img: a class map is a GeoTIFF")
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
