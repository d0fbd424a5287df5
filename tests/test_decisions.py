"Decisions against slow plain references, and bad input."
import math

import numpy as np
import pytest
from hierarchies import LABELS, NAN, PROBS, SIX, problems, quick
from hypothesis import given
from hypothesis import strategies as st

from hierlearn import decisions as d
from hierlearn import metrics as m
from hierlearn import report as r
from hierlearn.taxonomy import Taxonomy


# aggregation

def plain(values, rule, t=1.0):
    if rule in ("sum", "mean", "max"): return {"sum": math.fsum, "mean": np.mean, "max": max}[rule](values)
    top = max(values)
    total = math.fsum(math.exp((v - top) / t) for v in values)
    return top + t * math.log(total if rule == "log_sum_exp" else total / len(values))


@quick
@given(st.integers(0, 10**6), st.sampled_from(d.AGGREGATION_RULES), st.floats(.05, 50), st.sampled_from([1, 30]))
def test_aggregation_against_plain_python(seed, rule, temperature, scale):
    rng = np.random.default_rng(seed)
    width, count = rng.integers(2, 15), rng.integers(1, 5)
    groups = [sorted(rng.choice(width, rng.integers(1, width + 1), replace=False).tolist()) for _ in range(count)]
    logits = rng.normal(0, scale, (rng.integers(1, 6), width))
    scores = d.softmax(logits) if rule == "sum" else logits
    found = d.aggregate(scores, groups, rule, temperature if rule == "tempered" else None, overlap="each")
    expected = [[plain(row[g], rule, temperature if rule == "tempered" else 1.0) for g in groups] for row in scores]
    assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


def test_the_mathematics_of_the_rules():
    rng = np.random.default_rng(0)
    logits, groups = rng.normal(0, 3, (50, 12)), [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11]]
    probs = d.softmax(logits)
    assert d.softmax(d.aggregate(logits, groups, "log_sum_exp")) == pytest.approx(d.aggregate(probs, groups))
    geometric = np.exp(np.stack([np.log(probs[:, g]).mean(1) for g in groups], 1))
    assert d.softmax(d.aggregate(logits, groups, "mean")) == pytest.approx(geometric / geometric.sum(1, keepdims=True))
    ends = [d.aggregate(logits, groups, "tempered", t) for t in (0, 1, math.inf)]
    for found, rule in zip(ends, ("max", "log_mean_exp", "mean")): assert found == pytest.approx(d.aggregate(logits, groups, rule))
    assert d.aggregate(logits, groups, "tempered", 1e-5) == pytest.approx(ends[0], abs=1e-3)
    assert d.aggregate(logits, groups, "tempered", 1e12) == pytest.approx(ends[2], abs=1e-9)
    # between the ends the family falls as the temperature rises
    family = np.stack([d.aggregate(logits, groups, "tempered", t) for t in (.1, .5, 1, 3, 30)])
    assert (np.diff(family, axis=0) <= 1e-12).all()


def test_the_failure_of_the_mean():
    logits = np.array([[8., 0, 0, 0, 0, 0, 2, 2, 2]])
    found = [d.softmax(d.aggregate(logits, [range(6), range(6, 9)], rule))[0, 0] for rule in ("mean", "log_sum_exp", "log_mean_exp")]
    assert found == pytest.approx([.34, .993, .985], abs=.001)


def test_aggregation_is_stable_and_keeps_the_type():
    extreme = np.array([[1e4, -1e4, 0, 5], [-1e5, -1e5 - 1, -1e5, 3]], np.float32)
    for rule in d.AGGREGATION_RULES[1:]:
        found = d.aggregate(extreme, [[0, 1], [2, 3]], rule, .01 if rule == "tempered" else None)
        assert found.dtype == np.float32 and np.isfinite(found).all()
    assert d.aggregate((extreme / 10).astype(np.float16), [[0, 1]], "max").dtype == np.float32
    impossible = np.array([[-np.inf, -np.inf, 1., 2.]])
    assert d.aggregate(impossible, [[0, 1], [2, 3]], "log_sum_exp")[0] == pytest.approx([-np.inf, 2 + math.log1p(math.exp(-1))])
    assert d.softmax(impossible)[0, :2].tolist() == [0, 0]


def test_forms_of_groups_and_policies_for_shared_classes():
    probs = np.array([[.1, .2, .3, .4]])
    expected = [[.3, .7]]
    for groups in ([[0, 1], [2, 3]], [0, 0, 1, 1], np.array([0, 0, 1, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), [np.array([0, 1]), range(2, 4)]):
        assert d.aggregate(probs, groups) == pytest.approx(np.array(expected))
    assert d.aggregate(probs, [-1, 0, 1, 1])[0] == pytest.approx([.2, .7])
    assert d.aggregate(PROBS, SIX.membership_matrix(["animal", "vehicle"])).sum(1) == pytest.approx(1)
    shared = [[0, 1], [1, 2, 3]]
    for overlap, expected in {"each": [.3, .9], "split": [.2, .8], "first": [.3, .7]}.items(): assert d.aggregate(probs, shared, overlap=overlap)[0] == pytest.approx(expected)
    logits = np.array([[0., 2, 4, 6]])
    assert d.aggregate(logits, shared, "mean", overlap="split")[0] == pytest.approx([(0 + 1) / 1.5, (1 + 4 + 6) / 2.5])


# decisions

@quick
@given(problems())
def test_crm_against_plain_python(problem):
    tree, probs, labels = problem
    rng = np.random.default_rng(len(labels))
    cost = rng.random((len(tree) + 2, len(tree)))
    risk = [[sum(c * p for c, p in zip(line, row)) for line in cost] for row in probs]
    assert d.conditional_risk(probs, cost) == pytest.approx(np.array(risk))
    assert d.crm(probs, cost).tolist() == [min(range(len(row)), key=row.__getitem__) for row in risk]
    assert d.crm(probs, cost, k=2).tolist() == [sorted(range(len(row)), key=row.__getitem__)[:2] for row in risk]
    assert d.crm(probs, 1 - np.eye(len(tree))).tolist() == probs.argmax(1).tolist()


@quick
@given(problems())
def test_top_down_against_plain_python(problem):
    tree, probs, _ = problem

    def mass(row, node): return sum(row[i] for i in tree.leaf_indices(node))
    expected = []
    for row in probs:
        node = tree.root
        while tree.children(node):
            masses = [round(mass(row, child), 12) for child in tree.children(node)]
            node = tree.children(node)[masses.index(max(masses))]
        expected.append(tree.index(node))
    assert d.top_down(tree, probs).tolist() == expected


@quick
@given(problems(), st.floats(.02, .98))
def test_back_off_against_plain_python(problem, threshold):
    tree, probs, labels = problem
    right, specific = [], []
    for row, y, answer in zip(probs, labels, d.back_off(tree, probs, threshold).tolist()):
        mass = {node: sum(row[i] for i in tree.leaf_indices(node)) for node in tree.nodes}
        sure = [node for node in tree.nodes if mass[node] >= threshold] or [tree.root]
        best = min(sure, key=lambda node: (len(tree.leaf_indices(node)), -round(mass[node], 9), tree.height(node)))
        assert len(tree.leaf_indices(answer)) == len(tree.leaf_indices(best)) and mass[answer] == pytest.approx(mass[best])
        # nothing below the answer is sure
        assert not any(mass[child] >= threshold + 1e-9 and len(tree.leaf_indices(child)) < len(tree.leaf_indices(answer)) for child in tree.children(answer))
        right.append(y in tree.leaf_indices(answer))
        specific.append(1 - math.log(len(tree.leaf_indices(answer))) / math.log(len(tree)))
    curve = d.accuracy_specificity_curve(tree, probs, labels, [threshold])
    assert isinstance(curve, d.BackOffCurve)
    assert (curve.accuracy[0], curve.specificity[0]) == pytest.approx((np.mean(right), np.mean(specific)))


def test_back_off_from_argmax_to_the_root():
    assert d.back_off(SIX, PROBS, 0).tolist() == ["cat", "lynx", "bus", "car"]
    assert d.back_off(SIX, PROBS, .55).tolist() == ["feline", "feline", "animal", "vehicle"]
    assert set(d.back_off(SIX, PROBS, 1).tolist()) == {SIX.root}
    curve = d.accuracy_specificity_curve(SIX, PROBS, LABELS)
    assert len(curve.thresholds) == 51 and (np.diff(curve.specificity) <= 1e-12).all()


def test_a_class_that_has_classes_below_it():
    tree = Taxonomy.from_edges([("all", "dog"), ("dog", "puppy"), ("all", "cat")], leaves=["dog", "puppy", "cat"])
    probs = np.array([[.4, .3, .3], [.3, .4, .3], [.1, .2, .7]])
    assert d.top_down(tree, probs).tolist() == [0, 1, 2]
    assert d.node_probabilities(tree, probs, ["dog", "puppy"])[0] == pytest.approx([.7, .3])
    names, sizes = d.back_off(tree, probs, .65, sizes=True)
    assert names.tolist() == ["dog", "dog", "cat"] and sizes.tolist() == [2, 2, 1]
    names, sizes = d.back_off(tree, probs, .4, sizes=True)
    assert names.tolist() == ["dog", "puppy", "cat"] and sizes.tolist() == [1, 1, 1], "the class, not the group"
    with pytest.raises(ValueError, match="dog may mean a class or those below it; pass sizes=True"): d.back_off(tree, probs, .65)
    assert m.mistake_severity(tree, predictions=[0], labels=[1]) == tree.height("dog")
    assert r.evaluate(tree, probs, [0, 1, 2], resamples=0).accuracy.value == 1


# bad input: one line that says what is wrong and what to do

BAD = [
    (lambda: d.node_probabilities(SIX, PROBS, []), "non-empty list of node names"),
    (lambda: d.node_probabilities(SIX, PROBS, ["plant"]), "'plant', which is no node"),
    (lambda: d.softmax(np.log(PROBS), -1), "temperature must be a number above 0"),
    (lambda: d.softmax([[np.inf, 0]]), "NaN or infinity in row 0"),
    (lambda: d.softmax([[-np.inf, -np.inf]]), "row 0 of logits is -inf throughout"),
    (lambda: d.aggregate(PROBS, []), "groups is empty"),
    (lambda: d.aggregate(PROBS, [[0], []]), "group 1 is empty"),
    (lambda: d.aggregate(PROBS, [[0], [1, 6]]), r"groups\[1\] must be in 0..5, got 6 at position 1"),
    (lambda: d.aggregate(PROBS, [[0, 1], [1]]), "groups share the classes 1; pass overlap="),
    (lambda: d.aggregate(PROBS, [[0, 1], [1]], overlap="first"), "group 1 is empty"),
    (lambda: d.aggregate(PROBS, [[0]], overlap="both"), "overlap must be one of error, each, split, first"),
    (lambda: d.aggregate(PROBS, ["animal"]), "use taxonomy.membership_matrix"),
    (lambda: d.aggregate(PROBS, [0, 0, 1]), "has 3 entries for 6 classes"),
    (lambda: d.aggregate(PROBS, np.ones((5, 2))), "membership matrix has 5 rows for 6 classes"),
    (lambda: d.aggregate(PROBS, np.full((6, 1), .5)), "must hold only 0 and 1"),
    (lambda: d.aggregate(PROBS, [[0]], "median"), "rule must be one of sum, log_sum_exp"),
    (lambda: d.aggregate(PROBS, [[0]], "mean", 2), "rule 'mean' takes no temperature"),
    (lambda: d.aggregate(PROBS, [[0]], "tempered"), "rule 'tempered' needs a temperature"),
    (lambda: d.aggregate(PROBS, [[0]], "tempered", math.nan), "rule 'tempered' needs a temperature"),
    (lambda: d.aggregate(PROBS * 2, [[0]]), "scores sums in row 0 to 2, not 1"),
    (lambda: d.aggregate(NAN, [[0]], "max"), "scores holds NaN"),
    (lambda: d.crm(PROBS, np.eye(5)), r"cost must have shape \(answers, 6\), got \(5, 5\)"),
    (lambda: d.crm(PROBS, np.full((6, 6), np.inf)), "cost holds NaN or infinity"),
    (lambda: d.crm(PROBS, np.eye(6), k=7), "k must be an integer in 1..6"),
    (lambda: d.conditional_risk(PROBS * 3, np.eye(6)), "to 3, not 1"),
    (lambda: d.top_down(SIX, PROBS[:, :3]), "3 columns but the taxonomy has 6 leaves"),
    (lambda: d.back_off(SIX, PROBS, 1.5), r"thresholds must be numbers in 0..1, got \[1.5\]"),
    (lambda: d.accuracy_specificity_curve(SIX, PROBS, LABELS, []), "thresholds must be numbers in 0..1"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error: call()
    assert "\n" not in str(error.value)
