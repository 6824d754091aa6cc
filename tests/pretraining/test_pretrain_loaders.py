"""What pre-training's two loaders yield, on real JPEGs, whole and corrupt ones."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from samples.class_folders import CLASSES
from torchvision.transforms import v2

from hrrsi.errors import HrrsiError
from hrrsi.pretraining.batches import image_view, training_batches, validation_batches
from hrrsi.pretraining.epoch_images import EpochShares, ImageBatch, training_view, validation_view
from hrrsi.pretraining.images import CorruptImage, image_folders, image_header
from hrrsi.pretraining.options import PretrainOptions, PretrainRecipe, has_dali

CPU = torch.device("cpu")
DALI = pytest.param(
    "dali",
    marks=pytest.mark.skipif(
        not has_dali(), reason="NVIDIA DALI is not installed: pip install 'hrrsi[dali]'"
    ),
)
both_loaders = pytest.mark.parametrize("loader", ["torchvision", DALI])
needs_dali = pytest.mark.parametrize("loader", [DALI])

# Two decoders of the same crop: grey levels of 255. They round differently, no more.
MEAN_TOLERANCE = 0.1
PIXEL_TOLERANCE = 0.5


def options(folder: Path, loader: str = "torchvision", **changes: object) -> PretrainOptions:
    recipe = PretrainRecipe(batch=10, size=48, val_size=64)
    made = PretrainOptions(data=folder, recipe=recipe, loader=loader, workers=0)  # type: ignore[arg-type]
    return replace(made, **changes)  # type: ignore[arg-type]


def trained_on(folder: Path, loader: str, **share: int) -> list[ImageBatch]:
    return list(training_batches(image_folders(folder), options(folder, loader), CPU, **share))


def validated_on(folder: Path, loader: str, **share: int) -> list[ImageBatch]:
    return list(validation_batches(image_folders(folder), options(folder, loader), CPU, **share))


def joined(batches: list[ImageBatch]) -> ImageBatch:
    return ImageBatch(
        *(
            torch.cat([getattr(b, name) for b in batches])
            for name in ("images", "labels", "indices")
        ),
        [corrupt for batch in batches for corrupt in batch.skipped],
    )


@both_loaders
def test_every_image_comes_once_an_epoch_with_the_label_of_its_folder(
    folder: Path, loader: str
) -> None:
    folders = image_folders(folder)
    epoch = joined(trained_on(folder, loader, epoch=2))
    assert sorted(epoch.indices.tolist()) == list(range(32))
    assert epoch.indices.tolist() != list(range(32))
    for label, index in zip(epoch.labels.tolist(), epoch.indices.tolist(), strict=True):
        assert folders.splits["train"].path(index).parent.name == CLASSES[label]
    other = joined(trained_on(folder, loader, epoch=3))
    assert other.indices.tolist() != epoch.indices.tolist()


@needs_dali
def test_both_loaders_see_the_same(folder: Path, loader: str) -> None:
    for batches in (trained_on, validated_on):
        expected, actual = joined(batches(folder, "torchvision")), joined(batches(folder, loader))
        assert torch.equal(actual.labels, expected.labels)
        assert torch.equal(actual.indices, expected.indices)
        assert actual.images.shape == expected.images.shape
        assert actual.images.dtype == expected.images.dtype == torch.uint8
        a, b = actual.images.double(), expected.images.double()
        assert (a.mean((0, 2, 3)) - b.mean((0, 2, 3))).abs().max() < MEAN_TOLERANCE
        assert (a.std((0, 2, 3)) - b.std((0, 2, 3))).abs().max() < MEAN_TOLERANCE
        assert (a - b).abs().mean((1, 2, 3)).max() < PIXEL_TOLERANCE


@both_loaders
def test_batches_are_the_same_for_any_number_of_workers(folder: Path, loader: str) -> None:
    batches = [
        joined(list(training_batches(image_folders(folder), made, CPU, epoch=1)))
        for made in (options(folder, loader), options(folder, loader, workers=2))
    ]
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].indices, batches[1].indices)


@both_loaders
def test_an_epoch_continues_where_it_was_left(folder: Path, loader: str) -> None:
    whole = trained_on(folder, loader, epoch=4)
    rest = training_batches(image_folders(folder), options(folder, loader), CPU, epoch=4, first=2)
    assert torch.equal(joined(list(rest)).images, joined(whole[2:]).images)
    rest.set_epoch(5)
    following = joined(trained_on(folder, loader, epoch=5))
    assert torch.equal(joined(list(rest)).images, following.images)


@both_loaders
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch(folder: Path, loader: str, processes: int) -> None:
    for batches in (trained_on, validated_on):
        alone = batches(folder, loader)
        shares = [batches(folder, loader, rank=r, processes=processes) for r in range(processes)]
        for number, batch in enumerate(alone):
            together = joined([share[number] for share in shares])
            assert torch.equal(together.indices, batch.indices)
            assert torch.equal(together.images, batch.images)
        assert all(len(share) == len(alone) for share in shares)


def test_batches_and_shares_differ_by_one_image_at_most() -> None:
    for images, batch, processes in ((103, 10, 3), (1281, 512, 8), (5, 512, 8)):
        sizes = [
            [
                len(s.indices)
                for s in EpochShares(images, batch, seed=1, rank=r, processes=processes)
            ]
            for r in range(processes)
        ]
        totals = np.sum(sizes, axis=0)
        assert totals.sum() == images
        assert len(totals) == math.ceil(images / batch)
        assert totals.max() <= batch
        assert totals.max() - totals.min() <= 1
        assert np.ptp(sizes, axis=0).max() <= 1
        made = EpochShares(images, batch, seed=1, processes=processes)
        assert made.largest == np.max(sizes)


@both_loaders
def test_validation_is_the_usual_resize_and_centre_crop(folder: Path, loader: str) -> None:
    usual = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])
    split = image_folders(folder).splits["val"]
    seen = joined(validated_on(folder, loader))
    for image, index in zip(seen.images, seen.indices.tolist(), strict=True):
        pixels = np.asarray(usual(Image.open(split.path(index))), dtype=float)
        difference = np.abs(image.permute(1, 2, 0).numpy() - pixels)
        assert difference.mean() < (PIXEL_TOLERANCE if loader == "dali" else 1e-9)


def test_validation_is_torchvisions_at_any_size() -> None:
    random = np.random.default_rng(6)
    for size, side in ((64, 73), (224, 256), (256, 293)):
        for _ in range(4):
            height, width = random.integers(60, 400, 2)
            image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            usual = v2.Compose([v2.Resize(side, antialias=True), v2.CenterCrop(size)])
            seen = image_view(image, validation_view(int(width), int(height), size), size)
            assert np.array_equal(np.asarray(seen), np.asarray(usual(image)))


def test_random_crops_are_distributed_as_torchvisions() -> None:
    width, height = 500, 375
    torch.manual_seed(0)
    made = v2.RandomResizedCrop(224)
    image = torch.empty(3, height, width)
    expected, actual = [], []
    for number in range(3000):
        crop = made.make_params([image])
        expected.append((crop["left"], crop["top"], crop["width"], crop["height"]))
        view = training_view(width, height, 224, (7, 0, number))
        actual.append((view.left, view.top, view.width, view.height))
        assert 0 <= view.left <= width - view.width
        assert 0 <= view.top <= height - view.height
    mirrored = np.mean([training_view(9, 9, 8, (7, 0, n)).mirrored for n in range(3000)])
    assert mirrored == pytest.approx(0.5, abs=0.03)
    for describe in (np.mean, np.std):
        a, b = (describe(np.array(crops), axis=0) for crops in (actual, expected))
        assert a == pytest.approx(b, rel=0.06)
        areas = [describe([w * h for _, _, w, h in crops]) for crops in (actual, expected)]
        assert areas[0] == pytest.approx(areas[1], rel=0.05)


@pytest.mark.parametrize(("width", "height"), [(1, 3000), (3000, 1), (1, 1), (7, 5)])
def test_views_of_odd_images_are_within_them(width: int, height: int) -> None:
    views = [training_view(width, height, 32, (1, n)) for n in range(50)]
    for view in [*views, validation_view(width, height, 32)]:
        assert view.width >= 1
        assert view.height >= 1
        assert 0 <= view.left <= width - view.width
        assert 0 <= view.top <= height - view.height
        assert image_view(Image.new("RGB", (width, height)), view, 32).size == (32, 32)


def encoded(pixels: Image.Image, kind: str, **how: object) -> bytes:
    content = io.BytesIO()
    pixels.save(content, kind, **how)
    return content.getvalue()


def odd_files(pixels: Image.Image) -> dict[str, bytes]:
    """Images that are unusual, and whole."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    with_thumbnail = Image.Exif()
    with_thumbnail.get_ifd(1)
    return {
        "grey.jpg": encoded(pixels.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(pixels.convert("CMYK"), "JPEG", quality=95),
        "progressive.jpeg": encoded(pixels, "JPEG", progressive=True),
        "upper.JPG": encoded(pixels, "JPEG", subsampling=0),
        "rotated.jpg": encoded(pixels, "JPEG", exif=rotated),
        "trailing.jpg": encoded(pixels, "JPEG") + b"something after the end",
        "really_png.JPEG": encoded(pixels, "PNG"),
        "palette.png": encoded(pixels.quantize(64), "PNG"),
        "alpha.png": encoded(pixels.convert("RGBA"), "PNG"),
        "deep.png": encoded(Image.fromarray(np.full((96, 90), 900, np.uint16)), "PNG"),
    }  # fmt: skip


def corrupt_files(pixels: Image.Image) -> dict[str, bytes]:
    """Files that no image can be had from."""
    whole = encoded(pixels, "JPEG", quality=90)
    table = whole.index(b"\xff\xc4") + 10
    png = encoded(pixels, "PNG")
    return {
        "empty.jpg": b"",
        "text.jpg": b"404 not found\n" * 20,
        "start.jpg": whole[:2],
        "header.jpg": whole[:100],
        "truncated.jpg": whole[: len(whole) // 2],
        "without_end.jpg": whole[:-2],
        "thumbnail.jpg": whole[:2] + segment(whole[:400] + b"\xff\xd9") + whole[2:-900],
        "huffman.jpg": whole[:table] + b"\xff" * 30 + whole[table + 30 :],
        "truncated.png": png[: len(png) // 2],
        "damaged.png": png[:500] + bytes(300) + png[800:],
    }


def segment(content: bytes) -> bytes:
    """Return content as an application segment of a JPEG, where thumbnails are."""
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


@pytest.fixture
def add_files(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    import shutil

    def add(files: Callable[[Image.Image], dict[str, bytes]]) -> Path:
        copy = shutil.copytree(folder, tmp_path / "copy")
        path = next((copy / "train" / CLASSES[0]).iterdir())
        for name, content in files(Image.open(path).crop((0, 0, 75, 70))).items():
            for split in ("train", "val"):
                (copy / split / CLASSES[0] / name).write_bytes(content)
        return Path(copy)

    return add


@both_loaders
def test_unusual_images_simply_work(add_files: Callable[..., Path], loader: str) -> None:
    folder = add_files(odd_files)
    split = image_folders(folder).splits["val"]
    expected = {p.name for p in (folder / "val" / CLASSES[0]).iterdir()}
    seen = joined(validated_on(folder, loader))
    assert not seen.skipped
    names = [split.path(i).name for i in seen.indices.tolist()]
    assert {n for n in names if not n.startswith("tile")} | expected == expected
    assert len(names) == len(split) == 16 + 10
    pictures = dict(zip(names, seen.images, strict=True))
    plain = pictures["trailing.jpg"].double()
    for name in ("cmyk.jpg", "progressive.jpeg", "upper.JPG", "rotated.jpg", "really_png.JPEG"):
        assert (pictures[name].double() - plain).abs().mean() < 6, name
    assert (pictures["grey.jpg"].double() - plain.mean(0)).abs().mean() < 12
    assert torch.equal(pictures["grey.jpg"][0], pictures["grey.jpg"][2])
    assert (pictures["deep.png"].double() - 900 / 256).abs().max() < 1  # of 16 bits, the upper 8


@both_loaders
def test_corrupt_images_are_skipped(add_files: Callable[..., Path], loader: str) -> None:
    folder = add_files(corrupt_files)
    for batches, name, whole in ((trained_on, "train", 32), (validated_on, "val", 16)):
        split = image_folders(folder).splits[name]
        seen = joined(batches(folder, loader))
        assert len(seen.labels) == whole
        assert all(split.path(i).name.startswith("tile") for i in seen.indices.tolist())
        reasons = {split.path(c.image).name: c.reason for c in seen.skipped}
        assert reasons.keys() == corrupt_files(Image.new("RGB", (75, 70))).keys()
        assert len(seen.skipped) == len(reasons)
        assert reasons["empty.jpg"] == "is empty (0 bytes)"
        assert reasons["text.jpg"] == "is not an image"
        for each in (
            "start.jpg",
            "header.jpg",
            "truncated.jpg",
            "without_end.jpg",
            "thumbnail.jpg",
        ):
            assert reasons[each] == "is truncated", each


@both_loaders
def test_a_batch_may_be_corrupt_altogether(folder: Path, tmp_path: Path, loader: str) -> None:
    for split in ("train", "val"):
        for name in CLASSES[:2]:
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                (tmp_path / split / name / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    batches = validated_on(tmp_path, loader)
    assert [tuple(b.images.shape) for b in batches] == [(0, 3, 64, 64)] * 2
    assert sum(len(b.skipped) for b in batches) == 12


def test_an_image_that_claims_to_be_enormous_is_corrupt() -> None:
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(CorruptImage, match="65535x65535"):
        image_header(bytes(content))


@both_loaders
def test_a_file_that_vanishes_is_no_corrupt_image(
    folder: Path, tmp_path: Path, loader: str
) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    batches = training_batches(image_folders(copy), options(copy, loader), CPU)
    gone = copy / "train" / CLASSES[0] / f"{CLASSES[0]}_003.JPEG"
    gone.unlink()
    with pytest.raises(HrrsiError, match=gone.name):
        list(batches)


@needs_dali
def test_dali_survives_a_batch_that_it_cannot_decode(
    folder: Path, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever DALI alone refuses is decoded by Pillow."""
    expected = trained_on(folder, loader)
    batches = training_batches(image_folders(folder), options(folder, loader), CPU)
    broken = batches._loader._pipeline

    def fail(**_: npt.NDArray[np.uint8]) -> None:
        raise RuntimeError("Failed to decode sample #3")

    monkeypatch.setattr(broken, "run", fail)
    actual = list(batches)
    assert torch.equal(joined(actual).indices, joined(expected).indices)
    differences = joined(actual).images.double() - joined(expected).images.double()
    assert differences.abs().mean() < PIXEL_TOLERANCE


def test_dali_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    assert not has_dali()
    with pytest.raises(HrrsiError, match=r"pip install 'hrrsi\[dali\]'"):
        trained_on(folder, "dali")


@pytest.mark.gpu
@needs_dali
def test_dali_decodes_on_the_gpu(folder: Path, loader: str) -> None:
    device = torch.device("cuda", 0)
    expected = trained_on(folder, "torchvision")
    made = training_batches(image_folders(folder), options(folder, loader), device)
    actual = [batch._replace(images=batch.images.cpu()) for batch in made]
    assert torch.equal(joined(actual).labels, joined(expected).labels)
    differences = joined(actual).images.double() - joined(expected).images.double()
    assert differences.abs().mean() < 2 * PIXEL_TOLERANCE
