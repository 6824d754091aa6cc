"""Made maps of two scenes, whose reports several test modules read."""

import pytest
from samples.made_evaluation import (
    evaluated_map,
    made_scene,
)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = tmp_path_factory.mktemp("scenes")
    return [made_scene(folder, f"area{seed}", 300, 400, seed) for seed in (11, 15)]


@pytest.fixture(scope="session")
def one_map(scenes: list):
    rows = [
        {"epoch": n, "loss": 3 / n, "val_OA": 0.5 + n / 20, "val_mF1": n / 10, "val_mIoU": n / 12}
        for n in range(1, 6)
    ]
    return evaluated_map(
        "weights A",
        scenes,
        1,
        augmented=True,
        card=(("network", "ued_bes_sfm, 2,833,409 parameters"), ("latency", "14 ms")),
        training=tuple(rows),
    )


@pytest.fixture(scope="session")
def other_map(scenes: list):
    return evaluated_map("weights B", scenes, 50, wrong=0.1)
