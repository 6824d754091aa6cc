"""The plugin's command lines are those of hrrsi, and its files come to their places whole."""

import dataclasses
import re
from pathlib import Path

import pytest
import typer.main
from hrrsi_plugin.commands import (
    MapOptions,
    Scoring,
    Training,
    further_words,
    label_indices,
    map_classes,
    overall_scores,
    scheme_text,
    trained,
)
from hrrsi_plugin.map_files import MapFiles
from hrrsi_plugin.program import ProgramError

from hrrsi.cli import app
from hrrsi.labels.scheme import load_scheme

EVERY_MAPPING = MapOptions(
    scene="scene.tif",
    weights="light",
    crs="EPSG:25832",
    resample="0.5",
    window=256,
    overlap=32,
    threads=2,
    min_area=4.5,
    aoi="area.gpkg|layername=a b",
    crop=True,
    further="--nodata 0 --tta flip",
)
EVERY_SCORE = Scoring(
    *("map.tif", "labels.gpkg", "dubai", "class", "area.gpkg", "scene.tif", "dataset", "light"),
    *("published", "report.html", "scores.json", "--unknown ignore"),
)
EVERY_TRAINING = Training(
    scenes=("a.tif", "b.tif"),
    labels="labels.gpkg",
    folder="out",
    labels_state="",
    attribute="class",
    init="light",
    size=256,
    background="other",
    crs="EPSG:25832",
    aoi="area.gpkg",
    epochs=3,
    batch=4,
    patience=2,
    further_tile="--guard 0",
    further_train="--lr 0.001",
)
EVERY_FILE = MapFiles("m/t_classes.tif", "m/c.tif", "m/p.gpkg", "m/s.png")


@pytest.mark.parametrize(
    "words",
    [
        [*EVERY_MAPPING.words(), *EVERY_FILE.words()],
        EVERY_SCORE.words(),
        EVERY_TRAINING.tile_words(),
        EVERY_TRAINING.train_words(),
        dataclasses.replace(EVERY_TRAINING, anew=True).tile_words(),
        dataclasses.replace(EVERY_TRAINING, anew=True).train_words(),
    ],
    ids=["predict", "eval", "tile", "train", "tile anew", "train anew"],
)
def test_hrrsi_takes_the_words(words: list[str]) -> None:
    """Its own parser does, every flag among them."""
    group = typer.main.get_command(app)
    name, *arguments = words
    command = group.get_command(None, name)  # type: ignore[attr-defined]
    context = command.make_context(name, list(arguments))
    flags = {word for word in arguments if re.fullmatch(r"--[a-z-]+", word)}
    arguments = {
        max(parameter.opts, key=len)
        for parameter in command.params
        if context.get_parameter_source(parameter.name).name == "COMMANDLINE"
        and parameter.param_type_name == "option"
    }
    assert arguments == flags


def test_defaults_leave_everything_to_hrrsi() -> None:
    assert MapOptions("scene.tif").words() == ["predict", "scene.tif"]
    assert Scoring(pred="m.tif", label="l.tif", scheme="s.yaml").words() == [
        *("eval", "--pred", "m.tif", "--label", "l.tif", "--scheme", "s.yaml", "--overwrite")
    ]


def test_further_options_are_split_as_by_a_shell() -> None:
    assert further_words("--classes 'low vegetation,tree'") == ["--classes", "low vegetation,tree"]
    with pytest.raises(ProgramError, match="further options: no closing quotation in "):
        further_words("--classes 'low")
    with pytest.raises(ProgramError, match="further options: --out is chosen by the fields above"):
        MapOptions("scene.tif", further="--out x.tif").words()
    for word in ("--vector=gpkg", "--zones=a.gpkg", "-ox.tif", "-o=x.tif", "-q"):
        with pytest.raises(ProgramError, match=f"further options: {word} is chosen by"):
            MapOptions("scene.tif", further=word).words()
    assert further_words("--scale -1") == ["--scale", "-1"]


@pytest.mark.parametrize("number", [1234567.5, 0.123456789, 1e-7, 4.0])
def test_numbers_are_those_that_were_given(number: float) -> None:
    words = MapOptions("scene.tif", min_area=number).words()
    assert float(words[words.index("--min-area") + 1]) == number


def made_by_hrrsi(files: MapFiles) -> None:
    """What a run leaves in the hidden folder."""
    drafts = files.drafts
    for path in filter(None, drafts.paths):
        Path(path).write_text(f"new {Path(path).name}")
    Path(drafts.classes).with_suffix(".qml").write_text("style")
    Path(drafts.classes + ".aux.xml").write_text("record")


def test_files_come_to_their_places_with_what_belongs_to_them(tmp_path: Path) -> None:
    files = MapFiles(
        classes=str(tmp_path / "a town_classes.tif"),
        confidence=str(tmp_path / "other" / "sure.tif"),
        polygons=str(tmp_path / "a town_classes.gpkg"),
    )
    (tmp_path / "a town_classes.tif").write_text("of an earlier run")
    (tmp_path / "a town_classes.gpkg-wal").write_text("of a layer that QGIS shows")
    theirs = tmp_path / "a town_confidence.tif"  # where hrrsi would write beside the map
    theirs.write_text("somebody else's")
    files.prepare()
    assert files.words()[0:2] == ["--out", files.drafts.classes]
    assert "--resume" not in files.words()
    made_by_hrrsi(files)
    assert (tmp_path / "a town_classes.tif").read_text() == "of an earlier run"
    assert files.words()[-1] == "--resume"  # QGIS ended before they were moved
    files.move_into_place()
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*.*")} == {
        "a town_classes.tif": "new a town_classes.tif",
        "a town_classes.qml": "style",
        "a town_classes.tif.aux.xml": "record",
        "a town_classes.gpkg": "new a town_classes.gpkg",
        "other/sure.tif": "new a town_confidence.tif",
        "a town_confidence.tif": "somebody else's",
    }


def test_no_input_and_no_file_of_others_is_replaced(tmp_path: Path) -> None:
    scene, areas, other = (tmp_path / name for name in ("s.tif", "areas.shp", "areas.qml"))
    for path in (scene, areas, other):
        path.write_text("somebody's")
    (tmp_path / "link.tif").symlink_to(scene)
    for name in ("s.tif", "link.tif"):
        with pytest.raises(ProgramError, match=f"{name}: is read, and would be replaced; choose"):
            MapFiles(classes=str(tmp_path / name)).prepare([str(scene)])
    zone = f"{tmp_path}/z.gpkg"
    for read in (f"{zone}|layername=a", f"GPKG:{zone}:a"):
        with pytest.raises(ProgramError, match=r"z.gpkg: is read, and would be replaced"):
            MapFiles(polygons=zone).prepare([str(scene), read])
    with pytest.raises(ProgramError, match=r"m.tif: is named for two outputs"):
        MapFiles(classes=f"{tmp_path}/m.tif", confidence=f"{tmp_path}/m.tif").prepare()
    with pytest.raises(ProgramError, match=r"areas.qml: is there already, and belongs to someth"):
        MapFiles(classes=str(tmp_path / "areas.tif")).prepare()
    labels = str(tmp_path / "l.json")
    with pytest.raises(ProgramError, match=r"l.json: is read, and would be replaced"):
        Scoring(pred="m.tif", label=labels, scheme="s.yaml", json=labels).words()
    assert {path.read_text() for path in (scene, areas, other)} == {"somebody's"}


def test_a_style_that_two_results_share_comes_to_both(tmp_path: Path) -> None:
    files = MapFiles(classes=str(tmp_path / "a.tif"), polygons=str(tmp_path / "a.shp"))
    for _ in range(2):  # the second time it replaces its own results
        files.prepare()
        made_by_hrrsi(files)
        files.move_into_place()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.qml", "a.shp", "a.tif", "a.tif.aux.xml"]


def test_an_unfinished_map_is_gone_on_with_unless_told_otherwise(tmp_path: Path) -> None:
    files = MapFiles(polygons=str(tmp_path / "p.gpkg"))
    files.prepare()
    assert not files.is_begun
    unfinished = files.folder / ".map_classes.tif.unfinished"
    unfinished.mkdir()
    assert files.words()[-1] == "--resume"
    files.prepare(start_over=True)
    assert not unfinished.exists()
    assert "--resume" not in files.words()


def test_polygons_of_a_finished_map_are_made_of_it(tmp_path: Path) -> None:
    files = MapFiles(polygons=str(tmp_path / "p.gpkg"), finished="/maps/m_classes.tif")
    words = files.words()
    assert words[:2] == ["--out", "/maps/m_classes.tif"]
    assert words[-1] == "--resume"


def test_a_place_that_can_not_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProgramError, match=r"file: can't be written to \(.*\); choose another"):
        MapFiles(classes=str(tmp_path / "file" / "m.tif")).prepare()


def test_the_scheme_of_a_map_is_one_that_hrrsi_reads(tmp_path: Path) -> None:
    info = ['{"kind": "class map",', ' "classes": ["Straße", "low: veg"]}']
    classes = map_classes("map.tif", info)
    file = tmp_path / "scheme.yaml"
    file.write_text(scheme_text(classes, [(1, 2, 3), (4, 5, 6)], "polygons"), encoding="utf-8")
    scheme = load_scheme(file)
    assert [each.name for each in scheme.classes] == ["Straße", "low: veg"]
    assert [each.colour for each in scheme.classes] == [(1, 2, 3), (4, 5, 6)]
    assert scheme.label_format == "polygons"
    with pytest.raises(ProgramError, match=r"x\.tif: is no class raster of hrrsi, .*; choose"):
        map_classes("x.tif", ['{"kind": "raster"}'])


def test_a_raster_of_labels_has_the_values_of_its_names(tmp_path: Path) -> None:
    classes = ["Building", "Land", "Water"]
    assert label_indices(classes, {}) == [0, 1, 2]
    named = {"water": 1, "building": 2, "wood": 253}
    assert label_indices(classes, named) == [2, 252, 1]  # nobody's value: no label is Land
    file = tmp_path / "scheme.yaml"
    indices = label_indices(classes, named)
    file.write_text(scheme_text(classes, [(1, 2, 3), (4, 5, 6), (7, 8, 9)], "indices", indices))
    assert [each.index for each in load_scheme(file).classes] == [2, 252, 1]
    with pytest.raises(ProgramError, match="labels: their classes are a, b, those of the map Buil"):
        label_indices(classes, {"a": 0, "b": 1})


def test_scores_are_numbers_for_models() -> None:
    document = '{"scores": {"OA": 0.875, "mF1": 0.5, "mIoU": null, "kappa": 0.25, "pixels": 9}}'
    assert overall_scores(document) == {"OVERALL_ACCURACY": 87.5, "MF1": 50, "KAPPA": 0.25}


def test_trained_weights_are_read_from_what_train_says() -> None:
    line = "ued: best epoch 1, validation mIoU 45.02; weights in /a b/runs/ued/best.safetensors"
    assert trained(["ued epoch 1/1: ...", line]) == ("/a b/runs/ued/best.safetensors", 45.02)
    with pytest.raises(ProgramError, match="has named no weights"):
        trained(["nothing"])


def test_a_dataset_is_cut_once_and_another_one_is_not_taken_for_it(tmp_path: Path) -> None:
    scene = tmp_path / "a.tif"
    scene.write_text("pixels")
    training = dataclasses.replace(
        EVERY_TRAINING, folder=str(tmp_path), scenes=(str(scene),), labels_state="digest"
    )
    assert not training.is_cut
    training.dataset.mkdir()
    (training.dataset / "dataset.yaml").touch()
    with pytest.raises(ProgramError, match="is there already, and not of Tile and train; choose"):
        _ = training.is_cut  # of `hrrsi tile`
    training.note_cut()
    assert training.is_cut
    assert dataclasses.replace(training, labels="/tmp/other name.gpkg", epochs=9).is_cut
    for change in ({"size": 128}, {"labels_state": "other"}, {"further_tile": ""}):
        with pytest.raises(ProgramError, match="is there already, of other scenes, labels or opt"):
            _ = dataclasses.replace(training, **change).is_cut  # type: ignore[arg-type]
    assert not dataclasses.replace(training, size=128, anew=True).is_cut
    scene.write_text("other pixels")
    with pytest.raises(ProgramError, match="choose another folder, or tick 'Start over'"):
        _ = training.is_cut
