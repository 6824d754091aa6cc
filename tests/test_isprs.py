"""The page of the ISPRS' benchmarks, run on stand-ins in the layout of the official archives."""

import json
from pathlib import Path

import numpy as np
import pytest
from samples.console_tour import follow, tour
from samples.raw_layouts import ISPRS_COLOURS, class_map, coloured, textured, write_raster, zipped

from hrrsi.labels.scheme import load_scheme

STEPS = tour("docs/isprs.md")
SIZE = 64
ERODED = "ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE"
CHEAP = {
    "tile": ["--size", str(SIZE)],
    "train": ["--epochs", "1", "--batch", "8", "--encoder-weights", "none", "--workers", "0"],
    "eval": ["--window", str(SIZE), "--quiet", "--json", "scores.json", "--overwrite"],
}


def vaihingen_archives(folder: Path, loose: Path) -> None:
    """Write all areas of Vaihingen, small, as the archives that the ISPRS gives."""
    official = load_scheme("vaihingen").splits["official"]
    areas = [*official.train, *official.test]
    for area in areas:
        name = f"top_mosaic_09cm_area{area}"
        indices = class_map(int(area), SIZE, SIZE, 6)
        write_raster(loose / "images" / "top" / f"{name}.tif", textured(int(area), (3, SIZE, SIZE)))
        colours = coloured(indices, ISPRS_COLOURS)
        write_raster(loose / "full" / f"{name}.tif", colours)
        write_raster(loose / "eroded" / f"{name}_noBoundary.tif", without_borders(colours))
    zipped(folder / "ISPRS_semantic_labeling_Vaihingen.zip", loose / "images")
    zipped(folder / f"{ERODED.replace('eroded_', '')}.zip", loose / "full")
    zipped(folder / f"{ERODED}.zip", loose / "eroded")


def potsdam_archives(folder: Path, loose: Path) -> None:
    """Write all scenes of Potsdam likewise."""
    official = load_scheme("potsdam").splits["official"]
    for number, scene in enumerate([*official.train, *official.test]):
        name = f"top_potsdam_{scene}"
        colours = coloured(class_map(number, SIZE, SIZE, 6), ISPRS_COLOURS)
        write_raster(
            loose / "rgb/2_Ortho_RGB" / f"{name}_RGB.tif", textured(number, (3, SIZE, SIZE))
        )
        write_raster(loose / "full" / f"{name}_label.tif", colours)
        write_raster(loose / "eroded" / f"{name}_label_noBoundary.tif", without_borders(colours))
    zipped(folder / "2_Ortho_RGB.zip", loose / "rgb")
    zipped(folder / "5_Labels_all.zip", loose / "full")
    zipped(folder / "5_Labels_all_noBoundary.zip", loose / "eroded")


def without_borders(colours: np.ndarray) -> np.ndarray:
    borders = colours.copy()
    borders[:, ::9] = borders[:, :, ::9] = 0
    return borders


def test_the_page_goes_from_the_archives_to_scores() -> None:
    assert [step.command.split()[1] for step in STEPS] == ["tile", "train", "eval"] * 3


@pytest.mark.slow
@pytest.mark.long
def test_the_published_split_and_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vaihingen_archives(tmp_path / "Vaihingen", tmp_path / "loose")
    follow(STEPS[:6], tmp_path, monkeypatch, CHEAP)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["protocol"]["name"] == "isprs"
    assert scores["protocol"]["scenes"] == list(load_scheme("vaihingen").splits["official"].test)
    inside = without_borders(np.ones((3, SIZE, SIZE), dtype=np.uint8))[0].sum()
    assert scores["scores"]["pixels"] == 17 * inside


@pytest.mark.slow
def test_potsdam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    potsdam_archives(tmp_path / "Potsdam", tmp_path / "loose")
    follow(STEPS[6:], tmp_path, monkeypatch, CHEAP)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert len(scores["protocol"]["scenes"]) == 14
