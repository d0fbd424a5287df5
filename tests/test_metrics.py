"Metrics against slow plain references, published examples, and bad input."
import math
import warnings

import numpy as np
import pytest
from hierarchies import BUS, CAT, LABELS, LYNX, NAN, PROBS, SIX, height, problems, quick, ranked, sets
from hypothesis import given
from hypothesis import strategies as st

from hierlearn import decisions as d
from hierlearn import metrics as m
from hierlearn.taxonomy import Taxonomy


# flat metrics

@quick
@given(problems())
def test_flat_metrics_against_plain_python(problem):
    tree, probs, labels = problem
    predictions = [ranked(row)[0] for row in probs]
    assert m.accuracy(predictions=predictions, labels=labels) == pytest.approx(np.mean([p == y for p, y in zip(predictions, labels)]))
    for k in (1, 2, len(tree)):
        assert m.top_k(probs, k).tolist() == [ranked(row)[:k] for row in probs]
        assert m.top_k_accuracy(probs, labels, k) == pytest.approx(np.mean([y in ranked(row)[:k] for row, y in zip(probs, labels)]))
    matrix = np.zeros((len(tree), len(tree)), int)
    for p, y in zip(predictions, labels): matrix[y, p] += 1
    assert (m.confusion_matrix(predictions=predictions, labels=labels, num_classes=len(tree)) == matrix).all()
    assert m.brier_score(probs, labels) == pytest.approx(np.mean([sum((p - (j == y))**2 for j, p in enumerate(row)) for row, y in zip(probs, labels)]))


@quick
@given(problems(), st.integers(1, 20))
def test_calibration_against_plain_python(problem, bins):
    _, probs, labels = problem
    boxes = [[] for _ in range(bins)]
    for row, y in zip(probs, labels): boxes[min(bins - 1, max(0, math.ceil(max(row) * bins) - 1))].append((max(row), ranked(row)[0] == y))
    expected = sum(abs(sum(right for _, right in box) - sum(c for c, _ in box)) for box in boxes) / len(labels)
    assert m.expected_calibration_error(probs, labels, bins) == pytest.approx(expected, abs=1e-12)
    curve = m.reliability_curve(probs, labels, bins)
    assert isinstance(curve, m.Reliability) and curve.counts.tolist() == [len(box) for box in boxes] and len(curve.edges) == bins + 1


def test_ties_go_to_the_lower_class_in_every_case():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (300, 12)).astype(np.float32)
    for k in (1, 2, 5, 12): assert m.top_k(scores, k).tolist() == [ranked(row)[:k] for row in scores]


def test_bins_are_closed_on_the_right():
    assert m.reliability_curve([[.5, .3, .2]], [0], bins=10).counts.argmax() == 4
    assert m.reliability_curve([[.3, .25, .25, .2]], [0], bins=10).counts.argmax() == 2
    assert m.reliability_curve([[.5 + 1e-6, .5 - 1e-6]], [0], bins=2).counts.tolist() == [0, 1]


# hierarchical metrics

@quick
@given(problems(), st.integers(1, 5))
def test_severity_and_distance_against_plain_python(problem, k):
    tree, probs, labels = problem
    k = min(k, len(tree))
    predictions = probs.argmax(1)
    wrong = [height(tree, p, y) for p, y in zip(predictions, labels) if p != y]
    found = m.mistake_severity(tree, predictions=predictions, labels=labels)
    assert found == pytest.approx(np.mean(wrong)) if wrong else math.isnan(found)
    expected = np.mean([np.mean([height(tree, j, y) for j in ranked(row)[:k]]) for row, y in zip(probs, labels)])
    assert m.hierarchical_distance_at_k(tree, probs, labels, k) == pytest.approx(expected)
    histogram = m.severity_histogram(tree, predictions=predictions, labels=labels)
    assert sum(histogram.values()) == len(labels) and all(histogram[h] for h in wrong)


def test_published_definitions_on_hand_made_cases():
    predictions = PROBS.argmax(1)
    assert m.mistake_severity(SIX, predictions=predictions, labels=LABELS) == pytest.approx((1 + 3 + 1) / 3)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 1) == pytest.approx(5 / 4)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 2) == pytest.approx((0 + 1 + 1 + 0 + 3 + 0 + 1 + 0) / 8)
    error = 1 - m.accuracy(predictions=predictions, labels=LABELS)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 1) == pytest.approx(error * m.mistake_severity(SIX, predictions=predictions, labels=LABELS))
    # the best five guesses of CIFAR-100 are a whole superclass: 0 + 4 times 1
    cifar = Taxonomy.cifar100()
    block = cifar.leaf_indices(cifar.cut(1)[3])
    scores = np.zeros((1, 100)); scores[0, block] = [5, 4, 3, 2, 1]
    assert m.hierarchical_distance_at_k(cifar, scores, block[:1], 5) == pytest.approx(4 / 5)


@quick
@given(problems())
def test_hierarchical_scores_against_plain_sets(problem):
    tree, probs, labels = problem
    predictions = probs.argmax(1)
    pairs = [(sets(tree, p), sets(tree, y)) for p, y in zip(predictions, labels)]
    shared = sum(len(a & b) for a, b in pairs)
    micro = m.hierarchical_scores(tree, predictions=predictions, labels=labels)
    assert isinstance(micro, m.HierarchicalScores)
    assert micro.precision == pytest.approx(shared / sum(len(a) for a, _ in pairs)) and micro.recall == pytest.approx(shared / sum(len(b) for _, b in pairs))
    macro = m.hierarchical_scores(tree, predictions=predictions, labels=labels, average="macro")
    assert macro.f1 == pytest.approx(np.mean([2 * len(a & b) / (len(a) + len(b)) for a, b in pairs]))


# paths as HiClass takes them, with the precision, recall and F1 that HiClass 5.0.8 returns (micro, then macro); the first four are its own examples and tests
HICLASS = [
    ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [6, 7, 8]], (.5, .5, .5), (.5, .5, .5)),
    ([[1, 2, 3, 4], [1, 2, 5, 6]], [[1, 2, 5, 6], [1, 2, 3, 4]], (.5, .5, .5), (.5, .5, .5)),
    ([[1, 2], [1, 2]], [[1, 2, 5, 6], [1, 2, 3, 4]], (.5, 1, 2 / 3), (.5, 1, 2 / 3)),
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], (0, 0, 0), (0, 0, 0)),
    ([["a", "b", "c"], ["a", "d"], ["e"]], [["a", "b", "x"], ["a"], ["a", "d"]], (.5, .5, .5), (5 / 9, 7 / 18, 4 / 9)),
]


def of_paths(true, predicted):
    "The taxonomy of label paths, and the last node of each path."
    paths = [[str(v) for v in path] for path in [*true, *predicted]]
    edges = list(dict.fromkeys((a, b) for path in paths for a, b in zip(["all", *path], path)))
    last = [path[-1] for path in paths]
    return Taxonomy.from_edges(edges), last[:len(true)], last[len(true):]


@pytest.mark.parametrize("true, predicted, micro, macro", HICLASS)
def test_hierarchical_scores_equal_hiclass(true, predicted, micro, macro):
    tree, labels, predictions = of_paths(true, predicted)
    assert m.hierarchical_scores(tree, predictions=predictions, labels=labels) == pytest.approx(micro)
    assert m.hierarchical_scores(tree, predictions=predictions, labels=labels, average="macro") == pytest.approx(macro)


@pytest.mark.parametrize("true, predicted, micro, macro", HICLASS)
def test_the_stored_numbers_are_those_of_hiclass(true, predicted, micro, macro):
    hiclass = pytest.importorskip("hiclass.metrics", reason="hiclass is not installed: pip install hiclass")
    width = max(map(len, true)), max(map(len, predicted))
    true, predicted = ([[*map(str, p), *[""] * (w - len(p))] for p in paths] for paths, w in zip((true, predicted), width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average, expected in (("micro", micro), ("macro", macro)):
            assert [f(true, predicted, average=average) for f in (hiclass.precision, hiclass.recall, hiclass.f1)] == pytest.approx(expected)


@quick
@given(problems(several_parents=False))
def test_coarse_accuracy_against_plain_python(problem):
    tree, probs, labels = problem
    for level in range(1, max(tree.depth(leaf) for leaf in tree.leaves) + 1):
        group = {leaf: node for node in tree.cut(level) for leaf in tree.descendant_leaves(node)}
        up = [group[leaf] for leaf in tree.leaves]
        assert m.coarse_accuracy(tree, predictions=probs.argmax(1), labels=labels, level=level) == pytest.approx(np.mean([up[p] == up[y] for p, y in zip(probs.argmax(1), labels)]))
        sums = [{g: sum(p for p, u in zip(row, up) if u == g) for g in up} for row in probs]
        assert m.coarse_accuracy(tree, probs=probs, labels=labels, level=level) == pytest.approx(np.mean([max(s, key=s.get) == up[y] for s, y in zip(sums, labels)]))


def test_overlapping_groups_count_as_right_when_the_answer_holds_the_truth():
    tree = Taxonomy.from_edges([("r", "a"), ("r", "b"), ("a", "x"), ("a", "y"), ("b", "y"), ("b", "z")], leaves=["x", "y", "z"])
    assert m.coarse_accuracy(tree, predictions=[1, 1, 0], labels=[0, 2, 2]) == pytest.approx(2 / 3)
    assert d.node_probabilities(tree, [[.2, .3, .5]], ["a", "b", "r", "y"])[0] == pytest.approx([.5, .8, 1, .3])


def test_path_consistency():
    assert m.path_consistency(SIX, [[0, 0, 1], [CAT, BUS, BUS]]) == pytest.approx(2 / 3)
    assert m.path_consistency(SIX, [[0, 1], [0, 0], [LYNX, LYNX]]) == pytest.approx(1 / 2)
    named = m.path_consistency(SIX, [[0, 1], [0, 1]], nodes=[["feline", "vehicle"], ["lynx", "dog"]])
    assert named == pytest.approx(1 / 2)


# bad input: one line that says what is wrong and what to do

BAD = [
    (lambda: m.accuracy(predictions=[0, 1], labels=[0]), "predictions has 2 rows but labels has 1"),
    (lambda: m.accuracy(predictions=[.5], labels=[0]), "predictions must be integers"),
    (lambda: m.accuracy(predictions=[], labels=[]), "predictions must have shape"),
    (lambda: m.accuracy(predictions=[-1], labels=[0]), "got -1 at position 0"),
    (lambda: m.accuracy(predictions=[True], labels=[True]), "must be integers"),
    (lambda: m.confusion_matrix(predictions=[0, 3], labels=[0, 1], num_classes=3), "predictions must be in 0..2, got 3 at position 1"),
    (lambda: m.top_k([[1, 2, 3]], 4), "k must be an integer in 1..3, got 4"),
    (lambda: m.top_k([1., 2.], 1), r"scores must have shape \(N, L\)"),
    (lambda: m.top_k([["a", "b"]], 1), "scores must hold numbers"),
    (lambda: m.top_k(NAN, 1), "scores holds NaN or infinity in row 1"),
    (lambda: m.top_k_accuracy(PROBS, LABELS[:2], 1), "scores has 4 rows but labels has 2"),
    (lambda: m.brier_score(PROBS * .9, LABELS), "probs sums in row 0 to 0.9, not 1; pass softmax"),
    (lambda: m.brier_score(NAN, LABELS), "probs holds NaN or infinity in row 1"),
    (lambda: m.brier_score(np.log(PROBS), LABELS), "probs is negative in row 0; pass softmax"),
    (lambda: m.brier_score(PROBS, [0, 0, 0, 6]), "labels must be in 0..5, got 6 at position 3"),
    (lambda: m.brier_score(PROBS, np.eye(6)[:4]), "use labels.argmax"),
    (lambda: m.brier_score(np.empty((0, 6)), []), "probs must have shape"),
    (lambda: m.reliability_curve(PROBS, LABELS, bins=0), "bins must be an integer"),
    (lambda: m.mistake_severity(SIX, predictions=[0], labels=[6]), "labels must be in 0..5"),
    (lambda: m.hierarchical_distance_at_k(SIX, PROBS[:, 1:], LABELS), "scores has 5 columns but the taxonomy has 6 leaves"),
    (lambda: m.hierarchical_scores(SIX, predictions=["tiger"], labels=[0]), "predictions holds 'tiger'"),
    (lambda: m.hierarchical_scores(SIX, predictions=[0], labels=[0], average="weighted"), "average must be one of micro, macro"),
    (lambda: m.hierarchical_scores(SIX, predictions=[0, 1], labels=["cat"]), "predictions has 2 rows but labels has 1"),
    (lambda: m.coarse_accuracy(SIX, predictions=LABELS, labels=LABELS, level=0), "level must be an integer in 1..3, got 0"),
    (lambda: m.coarse_accuracy(SIX, probs=PROBS, labels=LABELS, level=1.0), "level must be an integer"),
    (lambda: m.path_consistency(SIX, [[0]]), "at least two levels"),
    (lambda: m.path_consistency(SIX, [[0], [0, 1]]), "the first level has 1 rows but predictions has 2"),
    (lambda: m.path_consistency(SIX, [[0], [0]], [["animal"]]), "predictions has 2 levels but nodes has 1"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error: call()
    assert "\n" not in str(error.value)


def test_ties_in_some_rows_leave_the_others_alone():
    rng = np.random.default_rng(1)
    scores = rng.permuted(np.tile(np.arange(12.), (200, 1)), axis=1)
    scores[::3] = rng.integers(0, 3, (67, 12))
    for k in (1, 2, 3, 11, 12): assert m.top_k(scores, k).tolist() == [ranked(row)[:k] for row in scores]
    assert m.top_k([[1., 2, 2, 2, 0]], 2).tolist() == [[1, 2]] and m.top_k([[3., 2, 2, 2, 0]], 3).tolist() == [[0, 1, 2]]


def test_sizes_at_the_very_limit():
    assert m.top_k(PROBS, 6).shape == (4, 6) and m.top_k([[1.]], 1).tolist() == [[0]]
    for bins in (1, 10_000): assert m.reliability_curve(PROBS, LABELS, bins).counts.sum() == 4
    for bins in (0, 10_001):
        with pytest.raises(ValueError, match="bins must be an integer"): m.reliability_curve(PROBS, LABELS, bins)
    assert m.coarse_accuracy(SIX, predictions=LABELS, labels=LABELS, level=3) == 1
    off = PROBS * (1 + .9e-3)
    m.brier_score(off, LABELS), m.brier_score((PROBS * 1.005).astype(np.float16), LABELS)
    for bad in (PROBS * (1 + 1.1e-3), (PROBS * 1.02).astype(np.float16)):
        with pytest.raises(ValueError, match="not 1"): m.brier_score(bad, LABELS)
    assert [(s.start, s.stop) for s in m._rows(5, 4, 8)] == [(0, 2), (2, 4), (4, 5)] and [s.stop for s in m._rows(2, 9, 8)] == [1, 2]


def test_predictions_and_labels_go_by_name():
    for call in (lambda: m.accuracy(LABELS, LABELS), lambda: m.confusion_matrix(LABELS, LABELS, 6), lambda: m.mistake_severity(SIX, LABELS, LABELS),
                 lambda: m.severity_histogram(SIX, LABELS, LABELS), lambda: m.hierarchical_scores(SIX, LABELS, LABELS), lambda: m.coarse_accuracy(SIX, LABELS, LABELS)):
        with pytest.raises(TypeError, match="positional argument"): call()
