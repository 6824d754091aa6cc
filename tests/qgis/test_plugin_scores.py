"""Scores, training and models in QGIS itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samples.qgis_session import IN_QGIS, session
from samples.repository import REPOSITORY

pytestmark = IN_QGIS


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
