"""Which files belong to a scene."""

import zipfile
from pathlib import Path

from hrrsi.labels.labelled_scenes import labelled_scenes
from hrrsi.labels.scheme import load_scheme


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def archive(path: Path, *members: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for member in members:
            opened.writestr(member, b"")


def test_vaihingen_prefers_complete_labels_and_plain_files(tmp_path: Path) -> None:
    name = "top_mosaic_09cm_area"
    touch(tmp_path, f"top/{name}2.tif", f"top/{name}11.tif", f"gts_for_participants/{name}11.tif")
    complete = "ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE"
    archive(tmp_path / f"{complete}.zip", f"{name}2.tif", f"{name}11.tif", f"__MACOSX/{name}2.tif")
    archive(tmp_path / "ISPRS_semantic_labeling_Vaihingen.zip", f"top/{name}2.tif")
    archive(tmp_path / "eroded.zip", f"{name}11_noBoundary.tif")
    two, eleven = labelled_scenes([tmp_path], load_scheme("vaihingen"))
    assert (two.name, eleven.name) == ("2", "11")
    assert two.image == str(tmp_path / "top" / f"{name}2.tif")
    assert eleven.label == f"/vsizip/{{{tmp_path / complete}.zip}}/{name}11.tif"
    assert eleven.eroded_label == f"/vsizip/{{{tmp_path / 'eroded'}.zip}}/{name}11_noBoundary.tif"
    assert two.eroded_label is None


def test_potsdam_prefers_rgb(tmp_path: Path) -> None:
    touch(tmp_path, *(f"x/top_potsdam_2_10_{kind}.tif" for kind in ("IRRG", "RGB", "RGBIR")))
    touch(tmp_path, "x/top_potsdam_2_10_label.tif", "x/top_potsdam_2_10_label_noBoundary.tif")
    (scene,) = labelled_scenes([tmp_path], load_scheme("potsdam"))
    assert scene.name == "2_10"
    assert scene.image.endswith("_RGB.tif")
    assert scene.label is not None
    assert scene.label.endswith("2_10_label.tif")


def test_dubai_under_either_name_of_its_folders(tmp_path: Path) -> None:
    touch(tmp_path, "Tile 1/images/image_part_001.jpg", "Tile 1/masks/image_part_001.png")
    touch(tmp_path, "tile4/images/image_part_009.jpg")
    scheme = load_scheme("dubai")
    first, second = labelled_scenes([tmp_path], scheme)
    assert (first.name, second.name) == ("tile1_part001", "tile4_part009")
    assert first.label is not None
    assert second.label is None
    # a folder of one tile alone is enough, since its own name counts
    assert [s.name for s in labelled_scenes([tmp_path / "tile4"], scheme)] == ["tile4_part009"]


def test_the_same_folder_twice_and_links_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "tile4/images/image_part_001.jpg")
    (tmp_path / "tile4" / "up").symlink_to(tmp_path)
    scenes = labelled_scenes([tmp_path, tmp_path / "tile4"], load_scheme("dubai"))
    assert [s.name for s in scenes] == ["tile4_part001"]
