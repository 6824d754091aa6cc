"""Maps meet their labels by name."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from samples.raw_layouts import own_scheme, textured, vaihingen_folder, write_raster, zipped

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.map_evaluation import evaluate_maps
from hrrsi.evaluation.scene_choice import ChosenScenes, paired_maps
from hrrsi.labels.scheme import load_scheme

VAIHINGEN = load_scheme("vaihingen")
PIXELS = np.zeros((6, 5), dtype=np.uint8)


def a_raster(path: Path) -> Path:
    if path.suffix == ".tif":
        return write_raster(path, PIXELS)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def of(chosen: ChosenScenes) -> dict[str, tuple[str, str | None, str | None]]:
    def tail(path: str | None) -> str | None:
        return path and "/".join(Path(path).parts[-2:])

    return {
        f.name: (tail(f.image) or "", tail(f.label), tail(f.eroded_label)) for f in chosen.files
    }


@pytest.fixture
def vaihingen(tmp_path: Path) -> Path:
    vaihingen_folder(tmp_path / "data", [1, 11, 15], (20, 20))
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["{0}.tif", "{0}_classes.tif", "top_mosaic_09cm_area{0}_classes.tif", "sub/x/{0}.png"],
)
def test_maps_have_the_name_of_the_scene_or_of_its_image(vaihingen: Path, name: str) -> None:
    for area in (1, 11, 15):
        a_raster(vaihingen / "maps" / name.format(area))
    pairs = paired_maps([vaihingen / "maps"], [vaihingen / "data"], VAIHINGEN)
    tails = {n: f"{'x' if 'x/' in name else 'maps'}/{Path(name).name.format(n)}" for n in of(pairs)}
    assert list(tails) == ["1", "11", "15"]
    assert of(pairs) == {
        n: (
            tails[n],
            f"gts_for_participants/top_mosaic_09cm_area{n}.tif",
            f"eroded/top_mosaic_09cm_area{n}_noBoundary.tif",
        )
        for n in tails
    }


@pytest.mark.parametrize("eroded", [False, True])
def test_labels_may_lie_in_folders_of_other_names(vaihingen: Path, eroded: bool) -> None:
    full, cut = (vaihingen / "data" / name for name in ("gts_for_participants", "eroded"))
    maps = [a_raster(vaihingen / "maps" / f"{n}_classes.tif") for n in (1, 11, 15)]
    full.rename(full.with_name("mine"))
    labels = [full.with_name("mine"), *([cut] if eroded else [])]
    pairs = of(paired_maps(maps, labels, VAIHINGEN))
    assert pairs["11"] == (
        "maps/11_classes.tif",
        "mine/top_mosaic_09cm_area11.tif",
        "eroded/top_mosaic_09cm_area11_noBoundary.tif" if eroded else None,
    )
    assert list(pairs) == ["1", "11", "15"]
    only_eroded = of(paired_maps(maps, [cut], VAIHINGEN))
    assert only_eroded["1"][1:] == (None, "eroded/top_mosaic_09cm_area1_noBoundary.tif")
    assert list(only_eroded) == ["1", "11", "15"]
    # images are no labels, though they have the labels' names
    full.with_name("mine").rename(vaihingen / "mine")
    assert of(paired_maps(maps, [vaihingen / "data"], VAIHINGEN)) == only_eroded


def test_labels_in_an_archive_are_read_there(vaihingen: Path) -> None:
    labels = zipped(
        vaihingen / "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE.zip",
        vaihingen / "data" / "gts_for_participants",
    )
    maps = vaihingen / "maps"
    for n in (1, 11, 15):
        image = vaihingen / "data" / "gts_for_participants" / f"top_mosaic_09cm_area{n}.tif"
        maps.mkdir(exist_ok=True)
        (maps / f"{n}.tif").write_bytes(image.read_bytes())
    pairs = paired_maps([maps], [labels], VAIHINGEN)
    assert pairs.files[0].label.startswith("/vsizip/")
    matrix = evaluate_maps(pairs.files, VAIHINGEN).counts.matrix("full")
    assert matrix.counts.trace() == matrix.pixels == 3 * 400


def test_folders_tell_scenes_apart(tmp_path: Path) -> None:
    dubai = load_scheme("dubai")
    for tile in (1, 6):
        for part in ("001", "002"):
            a_raster(tmp_path / "data" / f"tile{tile}" / "masks" / f"image_part_{part}.png")
            a_raster(tmp_path / "maps" / f"tile{tile}" / f"image_part_{part}_classes.tif")
    pairs = of(paired_maps([tmp_path / "maps"], [tmp_path / "data"], dubai))
    assert list(pairs) == ["tile1_part001", "tile1_part002", "tile6_part001", "tile6_part002"]
    assert pairs["tile6_part001"][:2] == (
        "tile6/image_part_001_classes.tif",
        "masks/image_part_001.png",
    )
    folder = tmp_path / "flat"
    for name in pairs:
        a_raster(folder / f"{name}_classes.tif")
    flat = of(paired_maps([folder], [tmp_path / "data"], dubai, scenes=["tile6_*"]))
    assert list(flat) == ["tile6_part001", "tile6_part002"]


def test_a_split_chooses_scenes_and_maps_of_others_are_passed_over(vaihingen: Path) -> None:
    maps = [a_raster(vaihingen / "maps" / f"{n}.tif") for n in (1, 11, 15, 99)]
    chosen = paired_maps(maps, [vaihingen / "data"], VAIHINGEN, split="paper:val")
    assert list(of(chosen)) == ["11", "15"]
    assert chosen.split == "paper:val"
    assert chosen.absent == ["28", "30", "34"]
    assert list(of(paired_maps(maps, [vaihingen / "data"], VAIHINGEN, scenes=["1"]))) == ["1"]


def test_what_stands_beside_maps_is_passed_over(vaihingen: Path) -> None:
    folder = vaihingen / "maps"
    for n in (1, 11, 15):
        for name in (f"{n}.tif", f"{n}_classes.tif", f"{n}_classes.png"):
            a_raster(folder / name)
        (folder / f"{n}_classes.qml").write_text("<qgis/>")
        confidence = a_raster(folder / f"{n}_confidence.tif")
        with rasterio.open(confidence, "r+") as raster:
            raster.update_tags(HRRSI_MODEL="ued")
    a_raster(folder / ".hidden" / "1_classes.tif")
    pairs = of(paired_maps([folder], [vaihingen / "data"], VAIHINGEN))
    assert [pair[0] for pair in pairs.values()] == [f"maps/{n}_classes.tif" for n in (1, 11, 15)]


def test_files_belong_together_in_their_order(tmp_path: Path) -> None:
    scheme = load_scheme(own_scheme(tmp_path))
    maps = [a_raster(tmp_path / name) for name in ("x.tif", "y.png")]
    labels = [a_raster(tmp_path / name) for name in ("b.tif", "a.tif")]
    pairs = of(paired_maps(maps, labels, scheme))
    assert [(n, Path(f[0]).name) for n, f in pairs.items()] == [("b", "x.tif"), ("a", "y.png")]
    # two maps of one place are of one scene, so that they can be compared
    for path in maps:
        assert list(of(paired_maps([path], labels[:1], scheme))) == ["b"]
    # of one name in several folders
    labels = [a_raster(tmp_path / folder / "gt.tif") for folder in ("p", "q")]
    assert len(of(paired_maps(maps, labels, scheme))) == 2
    # full and eroded labels of one scene
    both = [a_raster(tmp_path / f"top_mosaic_09cm_area1{end}.tif") for end in ("", "_noBoundary")]
    pairs = of(paired_maps(maps[:1], both, VAIHINGEN))
    assert list(pairs) == ["1"]
    assert pairs["1"][2].endswith("_noBoundary.tif")


def test_folders_of_maps_meet_label_files_by_name(tmp_path: Path) -> None:
    scheme = load_scheme(own_scheme(tmp_path))
    labels = [a_raster(tmp_path / "gt" / f"{name}.tif") for name in ("b", "a")]
    for name in ("a", "b"):
        a_raster(tmp_path / "maps" / f"{name}_classes.tif")
    pairs = of(paired_maps([tmp_path / "maps"], labels, scheme))
    assert {name: pair[0] for name, pair in pairs.items()} == {
        "b": "maps/b_classes.tif",
        "a": "maps/a_classes.tif",
    }


def test_folders_of_maps_and_labels_without_names_of_the_scheme_meet_by_theirs(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        a_raster(tmp_path / "gt" / f"{name}.tif")
        a_raster(tmp_path / "maps" / f"{name}_classes.tif")
    pairs = of(paired_maps([tmp_path / "maps"], [tmp_path / "gt"], VAIHINGEN))
    assert {name: pair[:2] for name, pair in pairs.items()} == {
        "a": ("maps/a_classes.tif", "gt/a.tif"),
        "b": ("maps/b_classes.tif", "gt/b.tif"),
    }


def test_one_vector_file_holds_the_labels_of_all_maps(tmp_path: Path) -> None:
    scheme = load_scheme(own_scheme(tmp_path))
    label = tmp_path / "gt.gpkg"
    label.write_bytes(b"")
    maps = [a_raster(tmp_path / "maps" / f"{name}_classes.tif") for name in ("a", "b")]
    pairs = paired_maps([tmp_path / "maps"], [label], scheme)
    assert [(f.name, f.label) for f in pairs.files] == [("a", str(label)), ("b", str(label))]
    assert list(of(paired_maps(maps[:1], [label], scheme))) == ["gt"]
    other = a_raster(tmp_path / "other" / "a.tif")
    with pytest.raises(HrrsiError, match=r"scene a: the maps .* claim the same scene"):
        paired_maps([*maps, other], [label], scheme)


def test_what_has_no_partner_is_one_line(vaihingen: Path) -> None:
    data, folder = vaihingen / "data", vaihingen / "maps"
    for n in (1, 11):
        a_raster(folder / f"{n}_classes.tif")
    with pytest.raises(HrrsiError, match=r"scene 15: has a label and no map \(2 of 3 scenes"):
        paired_maps([folder], [data], VAIHINGEN)
    a_raster(folder / "15.tif")
    stray = write_raster(folder / "77_classes.tif", textured(0, (3, 6, 5)))
    with pytest.raises(HrrsiError, match=r"77_classes.tif: no label fits it \(there are those of"):
        paired_maps([folder], [data], VAIHINGEN)
    stray.unlink()
    twice = a_raster(folder / "again" / "1_classes.tif")
    with pytest.raises(HrrsiError, match=r"scene 1: the maps .* and .* claim the same scene"):
        paired_maps([folder], [data], VAIHINGEN)
    twice.unlink()
    with pytest.raises(HrrsiError, match=r"none.tif: no such file or folder; check the path"):
        paired_maps([vaihingen / "none.tif"], [data], VAIHINGEN)
    with pytest.raises(HrrsiError, match=r"nowhere: no such file or folder"):
        paired_maps([folder], [vaihingen / "nowhere"], VAIHINGEN)
    empty = vaihingen / "empty"
    empty.mkdir()
    with pytest.raises(HrrsiError, match=r"empty: holds no rasters; name the folder of the maps"):
        paired_maps([empty], [data], VAIHINGEN)
    with pytest.raises(HrrsiError, match=r"empty: no scenes of the scheme 'vaihingen' among 0"):
        paired_maps([folder], [empty], VAIHINGEN)


def test_names_pair_files_before_their_order(tmp_path: Path) -> None:
    scheme = load_scheme(own_scheme(tmp_path))
    maps = [a_raster(tmp_path / "maps" / f"area{n}.tif") for n in (1, 2)]
    labels = [a_raster(tmp_path / "labels" / f"area{n}.tif") for n in (2, 1)]
    pairs = of(paired_maps(maps, labels, scheme))
    assert pairs["area1"][:2] == ("maps/area1.tif", "labels/area1.tif")
    assert pairs["area2"][:2] == ("maps/area2.tif", "labels/area2.tif")
    new = a_raster(tmp_path / "maps" / "new.tif")
    pairs = of(paired_maps([new, maps[0]], labels, scheme))  # one is left, and one label
    assert [pairs[name][0] for name in ("area1", "area2")] == ["maps/area1.tif", "maps/new.tif"]
    other = a_raster(tmp_path / "labels" / "area3.tif")
    with pytest.raises(HrrsiError, match="pair only 1 of 3 maps"):
        paired_maps([new, maps[0], a_raster(tmp_path / "newer.tif")], [*labels, other], scheme)


def test_nothing_counts_twice(tmp_path: Path) -> None:
    scheme = load_scheme(own_scheme(tmp_path))
    map_file, label = a_raster(tmp_path / "a.tif"), a_raster(tmp_path / "gt.tif")
    again = tmp_path / "link.tif"
    again.symlink_to(map_file)
    for maps, labels in (([map_file, again], [label]), ([map_file], [label, label])):
        with pytest.raises(HrrsiError, match="is given twice"):
            paired_maps(maps, labels, scheme)
