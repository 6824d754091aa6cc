"""Images that tests of pre-training share."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples.class_folders import make_class_folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_class_folders(tmp_path_factory.mktemp("images"))
