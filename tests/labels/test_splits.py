"""Which scenes train, validate and test."""

from pathlib import Path

import pytest

from hrrsi.errors import HrrsiError
from hrrsi.labels.scheme import load_scheme
from hrrsi.labels.splits import scene_split

VAIHINGEN = [str(n) for n in range(1, 39)]


def test_the_published_splits() -> None:
    scheme = load_scheme("vaihingen")
    paper = scene_split(VAIHINGEN, scheme)
    assert paper.name == "paper"
    assert paper.val == ("11", "15", "28", "30", "34")
    assert paper.train == ("1", "3", "5", "7", "13", "17", "21", "23", "26", "32", "37")
    official = scene_split(VAIHINGEN, scheme, split="official")
    assert len(official.test) == 17
    assert official.val == official.val_from_train == paper.val
    assert official.train == paper.train


def test_validation_scenes_are_spread_where_no_split_names_any() -> None:
    scheme = load_scheme("potsdam")
    scenes = [
        name for part in ("train", "test") for name in getattr(scheme.splits["official"], part)
    ]
    split = scene_split(scenes, scheme)
    assert len(split.val) == 5
    assert len(split.train) == 19
    assert split.val == split.val_from_train == ("2_12", "4_11", "6_7", "6_11", "7_10")
    assert not set(split.train) & set(split.val)


def test_the_dubai_split_by_patterns() -> None:
    scenes = [f"tile{t}_part00{p}" for t in (1, 4, 5, 6, 7, 8) for p in range(1, 10)]
    split = scene_split(scenes, load_scheme("dubai"), split="standard")
    assert (len(split.train), len(split.val), len(split.test)) == (33, 12, 9)
    assert "tile8_part006" in split.train
    assert "tile8_part007" in split.val
    assert not split.unmatched_patterns
    assert not split.unused_scenes


def test_chosen_scenes_leave_the_rest_to_training() -> None:
    scheme = load_scheme("vaihingen")
    split = scene_split(VAIHINGEN[:12], scheme, val_scenes=["1?"], test_scenes=["3", "4"])
    assert split.val == ("10", "11", "12")
    assert split.test == ("3", "4")
    assert split.train == ("1", "2", "5", "6", "7", "8", "9")
    own_val = scene_split(VAIHINGEN, scheme, split="official", val_scenes=["1", "37"])
    assert own_val.val == ("1", "37")
    assert len(own_val.train) == 14
    assert not own_val.val_from_train


def test_a_split_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('val: ["2"]\ntest: ["3*"]\n')
    split = scene_split(["1", "2", "3", "30"], load_scheme("vaihingen"), split=str(path))
    assert (split.train, split.val, split.test) == (("1",), ("2",), ("3", "30"))
    path.write_text('train: ["1", "9"]\nval: ["2"]\n')
    split = scene_split(["1", "2", "3"], load_scheme("vaihingen"), split=str(path))
    assert split.unmatched_patterns == ("9",)
    assert split.unused_scenes == ("3",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [1, 2]", "in quotes"),
        ("training: ['1']", "training"),
        ("val: ['1']\ntest: ['1', '2']", "scene 1 is in both val and test"),
        ("train: ['9']\nval: ['1']", "none of the 3 scenes found is a training scene"),
    ],
)
def test_split_files_that_make_no_sense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(HrrsiError) as error:
        scene_split(["1", "2", "3"], load_scheme("vaihingen"), split=str(path))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "papr"}, "choose from paper, official"),
        ({"val_scenes": ["99"]}, "no scene fits '99'"),
        ({"split": "official", "val_scenes": ["2"]}, "among its training scenes"),
        ({"split": "paper", "val_scenes": ["1"]}, "names its own validation scenes"),
        ({"split": "official", "test_scenes": ["1"]}, "names its own test scenes"),
        ({"val_scenes": ["1*"], "test_scenes": ["11"]}, "scene 11 is in both val and test"),
        ({"val_scenes": ["*"]}, "is a training scene"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(HrrsiError) as error:
        scene_split(VAIHINGEN, load_scheme("vaihingen"), **options)
    assert words in str(error.value)
