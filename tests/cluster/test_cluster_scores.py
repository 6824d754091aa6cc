"""Workers of a cluster count what one process counts, to the last digit."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.cluster import worker
from hrrsi.errors import HrrsiError, OptionError
from hrrsi.report.plain_data import json_document

SMALL = hrrsi.MapOptions(window=128, overlap=16)
DUBAI = hrrsi.EvaluationOptions(scheme="dubai", scenes=("tile1_*",), block=64)


def document_of(result: Any) -> dict[str, Any]:
    return dict(json.loads(json_document(result, str)))


def test_scores_are_those_of_one_process_to_the_digit(
    examples: Path, made_weights: Path, client: Any
) -> None:
    cluster = hrrsi.ClusterOptions(client, patience=20)
    data = examples / "dubai"
    alone = hrrsi.evaluate(data, weights=made_weights, options=DUBAI, mapping=SMALL)
    dealt = hrrsi.evaluate(
        data, weights=made_weights, options=DUBAI, mapping=SMALL, cluster=cluster
    )
    assert document_of(dealt) == document_of(alone)
    assert len(alone.evaluation.scenes) > 1


def test_a_worker_with_other_labels_is_refused(
    examples: Path, made_weights: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "file_states", lambda names: {str(n): (1, 2) for n in names})
    with pytest.raises(HrrsiError, match=r"tile1.* is another file on worker .* than here"):
        hrrsi.evaluate(
            examples / "dubai", weights=made_weights, options=DUBAI, mapping=SMALL, cluster=client
        )


def test_the_command_prints_of_workers_what_it_prints_of_one_process(
    examples: Path, made_weights: Path, client: Any
) -> None:
    line = ["eval", str(examples / "dubai"), "--scheme", "dubai", "--scenes", "tile1_part007"]
    line += ["--weights", str(made_weights), "--window", "128", "--overlap", "16", "--quiet"]
    alone = CliRunner().invoke(app, line)
    dealt = CliRunner().invoke(app, [*line, "--cluster", client.scheduler.address])
    assert alone.exit_code == 0, alone.output
    assert "mIoU" in alone.stdout
    assert dealt.output == alone.output


@pytest.mark.slow
def test_an_augmented_pass_and_its_warnings_are_the_same(
    examples: Path, made_weights: Path, client: Any, recwarn: pytest.WarningsRecorder
) -> None:
    chosen = hrrsi.EvaluationOptions(scheme="dubai", scenes=("tile1_part007",), block=64)
    mapping = hrrsi.MapOptions(window=128, overlap=16, augmentation="flip", scale=40)

    def outcome_of(cluster: Any) -> tuple[dict[str, Any], list[str]]:
        recwarn.clear()
        result = hrrsi.evaluate(
            examples / "dubai",
            weights=made_weights,
            options=chosen,
            mapping=mapping,
            cluster=cluster,
        )
        return document_of(result), [str(warning.message) for warning in recwarn]

    alone = outcome_of(None)
    assert any("unlike" in line for line in alone[1])
    assert outcome_of(client) == alone


def test_what_workers_do_not_score_is_said_in_a_line(examples: Path, client: Any) -> None:
    refusal = "`cluster`: workers score weights on whole scenes"
    with pytest.raises(OptionError, match=refusal):
        hrrsi.evaluate(examples / "dubai", cluster=client)
    with pytest.raises(OptionError, match=refusal):
        hrrsi.evaluate(examples / "dubai", maps="map.tif", options=DUBAI, cluster=client)
    line = ["eval", str(examples / "dubai"), "--scheme", "dubai", "--cluster", "local:2"]
    result = CliRunner().invoke(app, [*line, "--report", "page.html"])
    assert result.exit_code == 2
    assert "scores one weights file, without --report" in result.stderr
