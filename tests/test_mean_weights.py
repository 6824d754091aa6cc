"""The mean of two weights, as `tools/mean_weights.py` makes it."""

from pathlib import Path

import mean_weights
import numpy as np
import pytest
from safetensors.numpy import load_file
from samples.evaluated_data import CLASSES, write_weights

from hrrsi.networks.weights import save_weights
from hrrsi.networks.weights_reading import load_model, read_meta


def test_tensors_are_means_and_scores_of_one_run_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, out = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "out"))
    write_weights(first, CLASSES)
    training = {"scenes": ["a"], "epoch": 2}
    write_weights(second, CLASSES, scores={"test": {"mIoU": 0.9}}, training=training)
    network = load_model(second)
    changed = {k: 3 * v if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_weights(changed, network.meta, second)
    monkeypatch.setattr("sys.argv", ["mean", str(first), str(second), "--out", str(out)])
    mean_weights.main()
    one, three, mean = load_file(first), load_file(second), load_file(out)
    assert mean.keys() == one.keys()
    for name in (name for name, values in one.items() if values.dtype.kind == "f"):
        np.testing.assert_allclose(mean[name], (one[name] + three[name]) / 2, rtol=1e-6)
    meta = read_meta(out)
    assert meta.scores == {}
    assert meta.training == {"scenes": ["a"], "mean_of": [first.name, second.name]}


def test_another_network_has_no_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_weights(tmp_path / "first.safetensors", CLASSES)
    second = write_weights(tmp_path / "second.safetensors", CLASSES[::-1])
    out = tmp_path / "out.safetensors"
    monkeypatch.setattr("sys.argv", ["mean", str(first), str(second), "--out", str(out)])
    with pytest.raises(SystemExit, match="other classes"):
        mean_weights.main()
    assert not out.exists()
