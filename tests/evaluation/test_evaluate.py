"""`hrrsi.evaluate` and `hrrsi.compare`: what the command line prints, from Python."""

import dataclasses
from pathlib import Path

import pytest
from samples.evaluated_data import CLASSES, predicted, scored, write_weights

import hrrsi
from hrrsi.errors import InputError, OptionError
from hrrsi.evaluation.evaluate import EvaluationWarning
from hrrsi.report import ReportOutputs
from hrrsi.report.plain_data import comparison_data, evaluation_data
from hrrsi.report.scene_views import SceneViewCollector

CPU = hrrsi.EngineOptions(precision="32", device="cpu")
WINDOWS = hrrsi.MapOptions(window=64)


def scene_options(raw: dict, **options: object) -> hrrsi.EvaluationOptions:
    return hrrsi.EvaluationOptions(scheme=raw["options"][1], block=32, **options)


@pytest.mark.long
def test_patches_are_scored_as_on_the_command_line(dataset, weights):
    options = hrrsi.EvaluationOptions(split="val", protocol="published")
    result = hrrsi.evaluate(dataset, weights=weights, options=options, engine=CPU)
    printed = scored(dataset, "--weights", weights, "--split", "val", "--protocol", "published")
    assert evaluation_data(result) == printed
    assert result.scores.mean_iou == printed["scores"]["mIoU"]


def test_whole_scenes_are_scored_as_on_the_command_line(labelled_scenes, weights):
    folder, options = labelled_scenes["folder"], scene_options(labelled_scenes, scenes="b")
    mapping = dataclasses.replace(WINDOWS, augmentation="flip")
    result = hrrsi.evaluate(folder, weights=weights, options=options, mapping=mapping, engine=CPU)
    printed = scored(
        folder, "--weights", weights, *labelled_scenes["options"], "--window", 64, "--block", 32,
        "--scenes", "b", "--tta", "flip",
    )  # fmt: skip
    assert evaluation_data(result) == printed
    assert result.augmented.augmentation == "flip"


@pytest.mark.slow
def test_two_weights_are_compared_as_on_the_command_line(labelled_scenes, weights, tmp_path):
    folder, options = labelled_scenes["folder"], scene_options(labelled_scenes)
    other = write_weights(tmp_path / "other.safetensors", CLASSES)
    settings = {"options": options, "mapping": WINDOWS, "engine": CPU}
    comparison = hrrsi.compare(weights, other, folder, **settings)
    flags = [*labelled_scenes["options"], "--window", 64, "--block", 32]
    assert comparison_data(comparison) == scored(weights, other, folder, *flags)
    results = [hrrsi.evaluate(folder, weights=path, **settings) for path in (weights, other)]
    assert hrrsi.compare(*results).differences == comparison.differences
    with pytest.raises(OptionError, match="`second`"):
        hrrsi.compare(results[0], other, folder, **settings)


def test_maps_are_scored_and_compared_where_both_predict(labelled_scenes, weights, tmp_path):
    predicted(labelled_scenes, weights, tmp_path)
    options = scene_options(labelled_scenes)
    maps = [tmp_path / f"{name}_classes.tif" for name in ("b", "c")]
    labels = labelled_scenes["folder"]
    views = SceneViewCollector([labels])
    result = hrrsi.evaluate(labels, maps=maps, options=options, observer=views)
    assert result.evaluation.scenes == ("b", "c")
    assert [view.picture is not None for view in views.views] == [True, True]
    assert result.source.inputs == tuple(maps)
    comparison = hrrsi.compare(maps, maps, labels, options=options)
    assert comparison.differences["OA"].interval.value == 0
    assert comparison.first.evaluation.is_compared


OF_SEVERAL = {"first": {"scheme": "mine"}, "other": {"scheme": "theirs"}}


@pytest.mark.parametrize(
    "training",
    [
        {"scenes": ["b"]},
        {"scenes": ["b_r02c11"]},  # a block of it
        {"scenes": ["other/c", "first/b"], "datasets": OF_SEVERAL},
    ],
)
def test_what_a_reader_has_to_know_is_warned_of(labelled_scenes, tmp_path, training):
    seen = write_weights(tmp_path / "seen.safetensors", CLASSES, training=training)
    options = scene_options(labelled_scenes, split="first:test")
    with pytest.warns(EvaluationWarning, match="first:test also names d, not found here"):
        hrrsi.evaluate(
            labelled_scenes["folder"], weights=seen, options=options, mapping=WINDOWS, engine=CPU
        )
    options = scene_options(labelled_scenes, scenes=["b"])
    with pytest.warns(EvaluationWarning, match="the weights were trained on b"):
        hrrsi.evaluate(
            labelled_scenes["folder"], weights=seen, options=options, mapping=WINDOWS, engine=CPU
        )


@pytest.mark.parametrize(
    ("arguments", "parameter"),
    [
        ({}, "data"),
        ({"maps": "map.tif"}, "maps"),
        ({"maps": "map.tif", "options": hrrsi.EvaluationOptions(scheme="dubai")}, "data"),
        ({"data": ["first", "second"]}, "data"),
        ({"data": "patches", "mapping": WINDOWS}, "window"),
        ({"data": "patches", "options": hrrsi.EvaluationOptions(eroded=True)}, "eroded"),
        ({"data": "patches", "reading": hrrsi.MapReading(aoi="area.gpkg")}, "aoi"),
        ({"data": "patches", "mapping": hrrsi.MapOptions(min_area=3)}, "min_area"),
        (
            {
                "data": "gt.tif",
                "maps": "map.tif",
                "options": hrrsi.EvaluationOptions(scheme="dubai"),
                "mapping": WINDOWS,
            },
            "window",
        ),
        (
            {"data": "raw", "options": hrrsi.EvaluationOptions(scheme="dubai", clutter=("foo",))},
            "clutter",
        ),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_read(arguments, parameter):
    with pytest.raises(OptionError) as error:
        hrrsi.evaluate(**arguments)
    assert error.value.parameter == parameter


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"protocol": "best"}, "protocol"),
        ({"unknown": "warn"}, "unknown"),
        ({"label_format": "text"}, "label_format"),
        ({"block": 8}, "block"),
    ],
)
def test_options_check_themselves(options, parameter):
    with pytest.raises(OptionError) as error:
        hrrsi.EvaluationOptions(**options)
    assert error.value.parameter == parameter


def test_options_are_equal_by_their_values():
    options = hrrsi.EvaluationOptions(scenes=["a", "b"], merges=["a+b=c"])
    assert options == hrrsi.EvaluationOptions(scenes=("a", "b"), merges=("a+b=c",))
    assert hash(options) == hash(dataclasses.replace(options))
    assert hrrsi.EvaluationOptions(scenes="tile1_*").scenes == ("tile1_*",)


def test_outputs_check_themselves(tmp_path: Path):
    with pytest.raises(OptionError, match=r"name a \.html file") as error:
        ReportOutputs(report=tmp_path / "page.pdf")
    assert error.value.parameter == "report"
    with pytest.raises(OptionError, match="is for one map"):
        ReportOutputs(confusion_matrix=tmp_path / "m.png").prepare(is_comparison=True)
    with pytest.raises(InputError, match="no such file"):
        hrrsi.evaluate(
            tmp_path / "gt.tif",
            maps=tmp_path / "none.tif",
            options=hrrsi.EvaluationOptions(scheme="dubai"),
        )
