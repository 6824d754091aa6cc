"""What several test modules share: small real scenes, and data that not every clone has."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

# Before anything loads torch: the processes of pytest-xdist use every core already, and threads
# that wait by spinning take it from each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No test outlives a power failure, and waiting for the disk takes longer than writing (fsync is
# left out below, too).
os.environ.setdefault("OGR_SQLITE_SYNCHRONOUS", "OFF")

import pytest
from samples.compiled_graphs import share_compiled_graphs
from samples.repository import REPOSITORY
from samples.shared_commands import share_commands
from samples.undrawn_pictures import leave_pictures_undrawn

from hrrsi import interruption

SHARED = REPOSITORY.parent / "shared"

# What imports leave stays: to look through a million objects again and again is a fifth of the time
# that collecting tests takes.
gc.disable()
share_commands()
os.fsync = lambda _descriptor: None


# Most tests of these train, map or start programs: they are long, whatever each takes.
LONG = (
    "tests/cluster",
    "tests/deployment",
    "tests/evaluation/test_evaluate.py",
    "tests/evaluation/test_map_evaluation.py",
    "tests/evaluation/test_map_reading.py",
    "tests/evaluation/test_patch_evaluation.py",
    "tests/evaluation/test_scene_evaluation.py",
    "tests/evaluation/test_scene_protocols.py",
    "tests/evaluation/test_scored_maps.py",
    "tests/labels/test_label_places.py",
    "tests/labels/test_several_labels.py",
    "tests/maps/test_class_polygons.py",
    "tests/maps/test_partial_map.py",
    "tests/networks/test_baselines.py",
    "tests/networks/test_networks.py",
    "tests/networks/test_packaged_weights.py",
    "tests/prediction/test_cropped_maps.py",
    "tests/prediction/test_data_arrays.py",
    "tests/prediction/test_mosaic.py",
    "tests/prediction/test_predicted_scenes.py",
    "tests/pretraining",
    "tests/profiling",
    "tests/report/test_html_report.py",
    "tests/report/test_report_images.py",
    "tests/report/test_scene_views.py",
    "tests/runs",
    "tests/scenes/test_any_raster.py",
    "tests/scenes/test_places.py",
    "tests/scenes/test_resampled_scene.py",
    "tests/test_light_install.py",
    "tests/test_packaging.py",
    "tests/test_reliability.py",
    "tests/tiling/test_tile_blocks.py",
    "tests/tiling/test_tile_file_scheme.py",
    "tests/training/test_batch_picture.py",
    "tests/training/test_distillation.py",
    "tests/training/test_encoder_weights.py",
    "tests/training/test_initial_weights.py",
    "tests/training/test_recipes.py",
    "tests/training/test_train.py",
    "tests/training/test_train_several.py",
    "tests/training/test_train_validation.py",
)

# of Chromium, which asks nobody for anything
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        opens_pages = "browser" in getattr(item, "fixturenames", ())
        if opens_pages or any(item.path.is_relative_to(REPOSITORY / place) for place in LONG):
            item.add_marker("long")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else extensions find at the end that what is theirs was not freed


def pytest_runtest_setup() -> None:
    share_compiled_graphs()
    leave_pictures_undrawn()


@pytest.fixture(scope="session")
def legacy() -> Path:
    """The folder of the published checkpoints' layout and reference outputs."""
    folder = SHARED / "legacy"
    if not folder.is_dir():
        pytest.skip("the published networks' reference outputs are not beside this clone")
    return folder


@pytest.fixture(scope="session")
def imagery() -> Path:
    """The folder of real labelled imagery (Dubai tiles and georeferenced orthophotos)."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real imagery is not beside this clone")
    return folder


@pytest.fixture
def examples() -> Path:
    """The real imagery that ships with the repository."""
    return REPOSITORY / "examples"


@pytest.fixture(scope="session")
def made_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file with random numbers, Dubai's classes, and maps that show every class."""
    from samples.made_weights import save_made_weights

    return save_made_weights(tmp_path_factory.mktemp("weights") / "made.safetensors")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(autouse=True)
def _no_request_to_stop_stays() -> Iterator[None]:
    """Put back what a test's own call of the program has done to signals, for good there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    request = interruption._request
    if request.handlers:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.handlers.clear()
    request.since = None
