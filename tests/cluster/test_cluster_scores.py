"""Workers of a cluster count what one process counts, to the last digit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hrrsi
from hrrsi.cli import app
from hrrsi.cluster.evaluate import evaluate_on_cluster
from hrrsi.errors import OptionError
from hrrsi.report.plain_data import json_document

SMALL = hrrsi.MapOptions(window=128, overlap=16)
DUBAI = hrrsi.EvaluationOptions(scheme="dubai", scenes=("tile1_*",), block=64)


def told(result: Any) -> dict[str, Any]:
    return dict(json.loads(json_document(result, str)))


def test_scores_are_those_of_one_process_to_the_digit(
    examples: Path, made_weights: Path, client: Any
) -> None:
    cluster = hrrsi.ClusterOptions(client, patience=20)
    data = examples / "dubai"
    alone = hrrsi.evaluate(data, weights=made_weights, options=DUBAI, mapping=SMALL)
    dealt = evaluate_on_cluster(data, made_weights, DUBAI, SMALL, cluster=cluster)
    assert told(dealt) == told(alone)
    assert len(alone.evaluation.scenes) > 1


def test_an_augmented_pass_and_its_warnings_are_the_same(
    examples: Path, made_weights: Path, client: Any, recwarn: pytest.WarningsRecorder
) -> None:
    chosen = hrrsi.EvaluationOptions(scheme="dubai", scenes=("tile1_part007",), block=64)
    mapping = hrrsi.MapOptions(window=128, overlap=16, augmentation="flip", scale=200)

    def said(score: Callable[[], Any]) -> tuple[dict[str, Any], list[str]]:
        recwarn.clear()
        return told(score()), [str(warning.message) for warning in recwarn]

    data = examples / "dubai"
    alone = said(
        lambda: hrrsi.evaluate(data, weights=made_weights, options=chosen, mapping=mapping)
    )
    assert alone == said(
        lambda: evaluate_on_cluster(data, made_weights, chosen, mapping, cluster=client)
    )


def test_what_workers_do_not_score_is_said_in_a_line(examples: Path, client: Any) -> None:
    with pytest.raises(OptionError, match="workers score whole scenes"):
        evaluate_on_cluster(examples / "dubai", cluster=client)
    line = ["eval", str(examples / "dubai"), "--scheme", "dubai", "--cluster", "local:2"]
    result = CliRunner().invoke(app, [*line, "--report", "page.html"])
    assert result.exit_code == 2
    assert "scores one weights file, without --report" in result.stderr
