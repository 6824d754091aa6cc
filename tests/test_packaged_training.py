"""The script behind the packaged weights, on a few images of each place."""

import shutil
from pathlib import Path

import last_weights
import pytest
import train_packaged_weights
import yaml

from hrrsi.networks.weights_file import PACKAGED_FILES, PACKAGED_FOLDER
from hrrsi.networks.weights_reading import read_meta

IMAGES = (
    "dubai/tile5/*/image_part_00[12].*",
    "dubai/tile6/*/image_part_001.*",
    "naip/riverside/*_0.tif",
    "naip/claremont/*_0.tif",
    "buildings/[nt]*/*/*-19.*",
    "buildings/[nt]*/*/OAM-*[0-4]-*-20.*",
    "buildings/[nt]*/*/OAM-*0-*-21.*",
    "ucmerced/multilabels.tsv",
    "ucmerced/*/parkinglot[78]0.jpg",
    "ucmerced/river/river0[67].jpg",
    "ucmerced/river/river1?.jpg",
    "ucmerced/buildings/buildings[89]0.jpg",
)


@pytest.mark.slow
def test_places_held_out_are_validated_on_and_light_weights_have_a_teacher(
    imagery: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, out = tmp_path / "imagery", tmp_path / "work"
    for pattern in IMAGES:
        paths = list(imagery.glob(pattern))
        assert paths, pattern
        for path in paths:
            copy = few / path.relative_to(imagery)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)

    table = few / "ucmerced" / "multilabels.tsv"
    things, *crops = table.read_text().splitlines()
    copied = {path.stem for path in few.glob("ucmerced/*/*.jpg")}
    table.write_text("\n".join([things, *(row for row in crops if row.split()[0] in copied)]))

    def run(*arguments: object) -> None:
        command = ["train", few, "--out", out, "--epochs", 1, *arguments]
        monkeypatch.setattr("sys.argv", list(map(str, command)))
        train_packaged_weights.main()

    default, light = (PACKAGED_FOLDER / PACKAGED_FILES[name] for name in ("default", "light"))
    run("--hold-out", "claremont,nepal", "--init", default)
    folder = out / "runs" / "without-claremont-nepal" / train_packaged_weights.DEFAULT
    held_out = set()
    for split in (out / "datasets" / "without-claremont-nepal").glob("*.yaml"):
        scenes = yaml.safe_load(split.read_text())
        assert not {*scenes["train"]} & {*scenes["val"]}
        assert not [name for name in scenes["train"] if name.startswith(("claremont", "nepal"))]
        held_out |= {name.split("_")[0] for name in scenes["val"]}
    assert held_out == {
        "claremont", "nepal", "parkinglot80", "river06", "river07", "buildings90"
    }  # fmt: skip
    scores = read_meta(folder / "best.safetensors").scores["validation"]
    places = {name.split("/")[1].split("_")[0] for name in scores["scenes"]}
    assert places == held_out | {"tile6"}

    last = tmp_path / "last.safetensors"
    monkeypatch.setattr("sys.argv", ["last", str(folder), "--out", str(last)])
    last_weights.main()
    run("--name", "light", "--hold-out", "claremont,nepal", "--init", light, "--teacher", last)
    weights = out / "runs" / "light" / "ued_bes_sfm" / "best.safetensors"
    training = read_meta(weights).training
    assert [teacher["name"] for teacher in training["teachers"]] == [last.name]
    assert training["features"] == 1
