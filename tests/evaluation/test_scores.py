import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional import classification

from hrrsi.errors import HrrsiError
from hrrsi.evaluation.options import named_protocol
from hrrsi.evaluation.scores import ConfusionMatrix

PUBLISHED_CLASSES = ["BD", "BG", "CR", "IS", "LV", "TR"]
PUBLISHED_MATRIX = [
    [6318730, 2737, 7712, 148700, 80905, 8790],
    [797, 0, 28, 2726, 0, 0],
    [1345, 1004, 205419, 19837, 998, 245],
    [237071, 3454, 44765, 6303398, 205984, 37566],
    [139982, 5712, 2622, 328300, 4430715, 464100],
    [20798, 33, 2408, 79264, 870307, 6160005],
]


def published() -> ConfusionMatrix:
    return ConfusionMatrix(PUBLISHED_CLASSES, PUBLISHED_MATRIX)


def scores_under(name: str):
    return published().scores(named_protocol(name, PUBLISHED_CLASSES, clutter=["bg"]))


def test_published_matrix_gives_the_published_figures():
    scores = scores_under("published")
    assert round(scores.overall_accuracy, 4) == 0.8960
    assert round(scores.mean_iou, 4) == 0.7927
    assert round(scores.mean_f1, 4) == 0.8819
    assert [c.name for c in scores.classes] == ["BD", "CR", "IS", "LV", "TR"]
    assert scores.pixels == published().pixels


def test_clutter_dropped_everywhere_changes_overall_accuracy_alone():
    scores = scores_under("no-clutter")
    assert round(scores.overall_accuracy, 4) == 0.8966
    assert scores.mean_iou == scores_under("published").mean_iou
    assert scores.pixels < published().pixels


def test_clutter_in_every_score_lowers_the_means():
    scores = scores_under("all")
    assert round(scores.overall_accuracy, 4) == 0.8960
    assert scores.classes[1].f1 == 0
    assert scores.mean_iou < 0.67


def random_labels(seed: int, truth_of: list[int], prediction_of: list[int]):
    random = np.random.default_rng(seed)
    truth = random.choice(np.array(truth_of, dtype=np.uint8), (3, 40, 50))
    guess = random.choice(np.array(prediction_of, dtype=np.uint8), truth.shape)
    right = random.random(truth.shape) < 0.6
    prediction = np.where(right & np.isin(truth, prediction_of), truth, guess)
    assert set(np.unique(truth)) == set(truth_of)
    assert set(np.unique(prediction)) == set(prediction_of)
    return prediction.astype(np.uint8), truth


EVERY = [0, 1, 2, 3, 4]
CASES = {
    "every class": (EVERY, EVERY),
    "with ignored pixels": ([*EVERY, 255], EVERY),
    "a class absent from truth": ([0, 1, 2, 4], EVERY),
    "a class absent from prediction": (EVERY, [0, 1, 2, 4]),
    "two classes absent from both": ([0, 1, 2], [0, 1, 2]),
    "one class absent from both": ([0, 1, 2, 4, 255], [0, 1, 2, 4]),
    "one class alone": ([2], [2]),
    "one true class, others predicted": ([2], EVERY),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_scores_agree_with_torchmetrics(case, seed):
    prediction, truth = random_labels(seed, *CASES[case])
    matrix = ConfusionMatrix("abcde")
    matrix.add(prediction, truth)
    scores = matrix.scores()
    p, t = torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()
    common = {"num_classes": 5, "ignore_index": 255}

    counts = classification.multiclass_confusion_matrix(p, t, **common)
    assert matrix.counts.T.tolist() == counts.tolist()  # torchmetrics: rows = truth

    def theirs(score, **options):
        return score(p, t, **common, **options)

    accuracy = theirs(classification.multiclass_accuracy, average="micro")
    assert scores.overall_accuracy == pytest.approx(float(accuracy), abs=1e-6)
    f1 = theirs(classification.multiclass_f1_score, average="macro")
    assert scores.mean_f1 == pytest.approx(float(f1), abs=1e-6)
    iou = theirs(classification.multiclass_jaccard_index, average="macro")
    assert scores.mean_iou == pytest.approx(float(iou), abs=1e-6)
    kappa = theirs(classification.multiclass_cohen_kappa)
    assert scores.kappa == pytest.approx(float(kappa), abs=1e-6, nan_ok=True)
    for name, score in (
        ("precision", classification.multiclass_precision),
        ("recall", classification.multiclass_recall),
        ("f1", classification.multiclass_f1_score),
        ("iou", classification.multiclass_jaccard_index),
    ):
        ours = [getattr(c, name) for c in scores.classes]
        # torchmetrics gives 0 where there is nothing to divide by
        assert np.nan_to_num(ours).tolist() == pytest.approx(
            theirs(score, average="none").tolist(), abs=1e-6
        ), name


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_scores_agree_with_scikit_learn(case):
    prediction, truth = random_labels(3, *CASES[case])
    matrix = ConfusionMatrix("abcde")
    matrix.add(prediction, truth)
    scores = matrix.scores()
    is_labelled = truth != 255
    t, p, labels = truth[is_labelled], prediction[is_labelled], range(5)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        t, p, labels=labels, zero_division=np.nan
    )
    iou = metrics.jaccard_score(t, p, labels=labels, average=None)
    iou[~np.isin(labels, np.union1d(t, p))] = np.nan  # scikit-learn knows 0 and 1 here
    for name, theirs in (("precision", precision), ("recall", recall), ("f1", f1), ("iou", iou)):
        ours = [getattr(c, name) for c in scores.classes]
        assert ours == pytest.approx(list(theirs), nan_ok=True), name
    assert scores.overall_accuracy == pytest.approx(metrics.accuracy_score(t, p))
    assert scores.mean_f1 == pytest.approx(np.nanmean(f1))
    assert scores.mean_iou == pytest.approx(np.nanmean(iou))
    kappa = metrics.cohen_kappa_score(t, p, labels=list(labels))
    assert scores.kappa == pytest.approx(kappa, nan_ok=True)


def test_a_class_in_neither_truth_nor_prediction_has_no_scores():
    scores = ConfusionMatrix("ab", [[7, 0], [0, 0]]).scores()
    absent = scores.classes[1]
    assert np.isnan([absent.precision, absent.recall, absent.f1, absent.iou]).all()
    assert scores.mean_iou == scores.mean_f1 == 1


def test_a_class_that_is_only_predicted_counts_as_zero():
    scores = ConfusionMatrix("ab", [[3, 0], [1, 0]]).scores()
    assert np.isnan(scores.classes[1].recall)
    assert scores.classes[1].iou == scores.classes[1].f1 == 0
    assert scores.mean_iou == pytest.approx(0.75 / 2)


def test_everything_ignored_has_no_scores():
    matrix = ConfusionMatrix("ab")
    matrix.add(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    scores = matrix.scores()
    assert scores.pixels == 0
    assert np.isnan([scores.overall_accuracy, scores.mean_f1, scores.mean_iou, scores.kappa]).all()
    # nor has it in torchmetrics
    ignored = torch.full((4, 4), 255)
    options = {"num_classes": 2, "ignore_index": 255}
    counts = classification.multiclass_confusion_matrix(
        torch.zeros_like(ignored), ignored, **options
    )
    assert matrix.counts.tolist() == counts.tolist() == [[0, 0], [0, 0]]
    theirs = classification.multiclass_jaccard_index(torch.zeros_like(ignored), ignored, **options)
    assert np.isnan(float(theirs))


def test_labelled_pixels_without_prediction_are_counted_apart():
    matrix = ConfusionMatrix("ab")
    matrix.add(np.array([255, 255, 0, 255]), np.array([1, 255, 0, 1]))
    assert matrix.unpredicted.tolist() == [0, 2]
    assert matrix.counts.tolist() == [[1, 0], [0, 0]]


def test_counts_add_up_over_parts_and_types():
    prediction, truth = random_labels(0, [*EVERY, 255], EVERY)
    whole, parts, other = (ConfusionMatrix("abcde") for _ in range(3))
    whole.add(prediction, truth)
    parts.add(prediction[:1].astype(np.int64), truth[:1].astype(np.int32))
    other.add(torch.from_numpy(prediction[1:]), torch.from_numpy(truth[1:]).long())
    parts.merge(other)
    assert (parts.counts == whole.counts).all()


def test_kappa_of_large_counts_does_not_overflow():
    small = np.array([[9, 1], [2, 8]])
    huge = ConfusionMatrix("ab", small * 10**11).scores()
    assert huge.kappa == pytest.approx(ConfusionMatrix("ab", small).scores().kappa)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        ([0, 2], [0, 1], "prediction holds 2 of 2 classes"),
        ([0, 1], [254, 1], "truth holds 254 of 2 classes"),
        ([0, -1], [0, 1], "0 to 255"),
        ([0, 256], [0, 1], "0 to 255"),
        ([0.5, 1.0], [0, 1], "whole numbers"),
        ([0, 1, 1], [0, 1], "differ"),
    ],
)
def test_indices_that_are_no_class_are_refused(prediction, truth, message):
    matrix = ConfusionMatrix("ab")
    with pytest.raises(ValueError, match=message):
        matrix.add(np.array(prediction), np.array(truth))
    assert matrix.pixels == 0


def test_matrices_of_other_classes_do_not_merge():
    with pytest.raises(ValueError, match="differ"):
        ConfusionMatrix("ab").merge(ConfusionMatrix("ac"))


def test_a_protocol_without_clutter_names_the_classes_there_are():
    with pytest.raises(HrrsiError, match=r"Land, Water.*`clutter`"):
        named_protocol("published", ["Land", "Water"])
    assert named_protocol("all", ["Land", "Water"]).dropped_from_means == ()


def test_a_protocol_that_leaves_no_class_is_refused():
    matrix = ConfusionMatrix(["clutter"], [[5]])
    with pytest.raises(HrrsiError, match="no class is left"):
        matrix.scores(named_protocol("no-clutter", matrix.classes))


def test_scores_need_no_torch():
    code = "import sys, hrrsi.evaluation.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
