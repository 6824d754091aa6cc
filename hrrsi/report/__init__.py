"""The report of an evaluation, or of a comparison of two: the files that it is written to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrrsi.errors import OptionError, OutputError
from hrrsi.extras import require

if TYPE_CHECKING:
    from hrrsi.evaluation.result import Comparison, EvaluationResult
    from hrrsi.report.scene_views import SceneViewCollector

_SUFFIXES = {"confusion_matrix": ".png", "report": ".html", "json": ".json"}


@dataclass(frozen=True)
class ReportOutputs:
    """What is written of an evaluation, or of a comparison of two.

    Attributes:
        json: Every figure, as this ``.json``.
        confusion_matrix: The confusion matrix of one evaluation as a picture, this ``.png``.
        report: A page with every figure, charts and pictures, this ``.html``.
        overwrite: Whether files that are there may be replaced.

    Raises:
        OptionError: One has another suffix than it needs, or two are one.
    """

    json: str | Path | None = None
    confusion_matrix: str | Path | None = None
    report: str | Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        names: dict[Path, str] = {}
        for name, path in self._paths.items():
            if path.suffix.lower() != _SUFFIXES[name]:
                raise OptionError(f"name a {_SUFFIXES[name]} file", parameter=name)
            first = names.setdefault(path.resolve(), name)
            if first != name:
                raise OptionError(f"names the file of `{first}`", parameter=name)

    @property
    def _paths(self) -> dict[str, Path]:
        paths = {name: getattr(self, name) for name in _SUFFIXES}
        return {name: Path(path) for name, path in paths.items() if path is not None}

    def prepare(self, *, is_comparison: bool = False) -> None:
        """Make the folders, before hours of work.

        Args:
            is_comparison: Whether they will show a comparison.

        Raises:
            OptionError: A comparison has no single confusion matrix.
            DependencyError: What draws the confusion matrix is not installed.
            OutputError: A file is there and may not be replaced, or can't be written.
        """
        from hrrsi.files import prepare_folder, refuse_existing  # filelock: --help does without

        if is_comparison and self.confusion_matrix is not None:
            raise OptionError("is for one map; `report` has both", parameter="confusion_matrix")
        if self.confusion_matrix is not None:
            require("plots", "a picture of the confusion matrix")
        for path in self._paths.values():
            if path.is_dir():
                raise OutputError("is a folder", where=path, fix="name a file in it")
            refuse_existing(path, overwrite=self.overwrite)
            prepare_folder(path.parent)

    def write(
        self,
        outcome: EvaluationResult | Comparison,
        collectors: Sequence[SceneViewCollector] = (),
        wording: Callable[[str], str] = str,
    ) -> None:
        """Write all of them.

        Args:
            outcome: What they show; only one evaluation has a confusion matrix.
            collectors: With the pictures of each evaluation's scenes, for the page.
            wording: As for `hrrsi.report.sentences.verdict`.

        Raises:
            OutputError: One can't be written.
        """
        from hrrsi.evaluation.result import EvaluationResult

        if self.json is not None:
            from hrrsi.files import replacing
            from hrrsi.report.plain_data import json_document

            with replacing(Path(self.json)) as temporary:
                text = json_document(outcome, wording) + "\n"
                temporary.write_text(text, encoding="utf-8")
        if self.confusion_matrix is not None and isinstance(outcome, EvaluationResult):
            from hrrsi.report.figures import write_confusion_plot

            write_confusion_plot(outcome, Path(self.confusion_matrix))
        if self.report is not None:
            from hrrsi.report.page import write_report

            write_report(Path(self.report), outcome, collectors, wording)
