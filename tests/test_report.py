"The report against the functions, permutations of the leaves, and bad input."
import json
import math
from dataclasses import fields

import numpy as np
import pytest
from hierarchies import LABELS, NAN, PROBS, SIX, problems, quick
from hypothesis import given
from hypothesis import strategies as st

from hierlearn import decisions as d
from hierlearn import metrics as m
from hierlearn import report as r
from hierlearn.taxonomy import Taxonomy


# intervals and the report

def test_bootstrap_agrees_with_theory_and_is_seeded():
    values = np.random.default_rng(0).normal(5, 2, 400)
    estimate, = r.bootstrap(values)
    assert isinstance(estimate, r.Estimate) and float(estimate) == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=.03)
    assert r.bootstrap(values, seed=1) == r.bootstrap(values, seed=1) != r.bootstrap(values, seed=2)
    ratio, = r.bootstrap(np.stack([values, np.full(400, 2.)], 1), lambda sums: sums[:, :1] / sums[:, 1:])
    assert ratio == pytest.approx([v / 2 for v in estimate])
    alone, = r.bootstrap(values, resamples=0)
    assert math.isnan(alone.low) and str(alone) == f"{values.mean():.4f}" and "[" in str(estimate)


@quick
@given(problems())
def test_the_report_equals_the_functions(problem):
    tree, probs, labels = problem
    predictions, k = probs.argmax(1), min(5, len(tree))
    report = r.evaluate(tree, probs, labels, resamples=0)
    cost = tree.lca_height_matrix()
    decided = d.crm(probs, cost)
    pairs = [(report.accuracy, m.accuracy(predictions=predictions, labels=labels)), (report.top_k_accuracy[k], m.top_k_accuracy(probs, labels, k)),
             (report.calibration_error, m.expected_calibration_error(probs, labels)), (report.brier_score, m.brier_score(probs, labels)),
             (report.mistake_severity, m.mistake_severity(tree, predictions=predictions, labels=labels)), (report.hierarchical_distance[k], m.hierarchical_distance_at_k(tree, probs, labels, k)),
             (report.crm_accuracy, m.accuracy(predictions=decided, labels=labels)), (report.crm_mistake_severity, m.mistake_severity(tree, predictions=decided, labels=labels)),
             (report.crm_hierarchical_distance[k], m.hierarchical_distance_at_k(tree, -d.conditional_risk(probs, cost), labels, k)),
             (report.top_down_accuracy, m.accuracy(predictions=d.top_down(tree, probs), labels=labels))]
    for average in ("micro", "macro"):
        scores, prefix = m.hierarchical_scores(tree, predictions=predictions, labels=labels, average=average), "hierarchical" if average == "micro" else "macro"
        pairs += [(getattr(report, f"{prefix}_{name}"), value) for name, value in scores._asdict().items()]
    for level, estimate in report.coarse_accuracy.items():
        pairs += [(estimate, m.coarse_accuracy(tree, predictions=predictions, labels=labels, level=level)), (report.marginal_accuracy[level], m.coarse_accuracy(tree, probs=probs, labels=labels, level=level))]
    for estimate, value in pairs: assert estimate.value == pytest.approx(value, nan_ok=True, abs=1e-9)
    assert report.severity_histogram == m.severity_histogram(tree, predictions=predictions, labels=labels)
    assert (report.confusion_matrix() == m.confusion_matrix(predictions=predictions, labels=labels, num_classes=len(tree))).all()
    curve = d.accuracy_specificity_curve(tree, probs, labels)
    assert np.array(report.back_off_curve).T == pytest.approx(np.stack(curve))
    assert sum(count for _, count, _, _ in report.reliability) == len(labels)


def test_intervals_of_the_report_hold_their_values():
    rng = np.random.default_rng(5)
    report = r.evaluate(SIX, rng.dirichlet(np.ones(6) / 3, 400), rng.integers(0, 6, 400))
    for name, estimate in report.rows():
        if name != "calibration error": assert estimate.low <= estimate.value <= estimate.high, name  # resampling adds noise to every bin, which raises ECE
    accuracy = report.accuracy
    half = 1.96 * math.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    assert accuracy.high - accuracy.low == pytest.approx(2 * half, rel=.15)


def test_the_report_travels_as_json_and_html():
    report = r.evaluate(SIX, PROBS, LABELS, ks=(1, 2, 6), levels=[1], bins=5, thresholds=[.1, .9], confidence=.9, seed=3)
    again = r.Report.from_json(report.to_json())
    assert again == report and set(again.top_k_accuracy) == {1, 2, 6} and list(again.coarse_accuracy) == [1] and len(again.back_off_curve) == 2
    assert {f.name for f in fields(report)} <= set(json.loads(report.to_json()))
    with pytest.raises(AttributeError): report.samples = 3
    html = report._repr_html_()
    assert html.count("<tr>") == len(report.rows()) + 1 and "mistake severity" in html and "90% intervals" in html
    assert "mistake severity" in repr(report) and "confusions" not in repr(report)
    perfect = r.evaluate(SIX, np.eye(6), np.arange(6))  # no mistake: severity unknown, JSON without NaN
    assert math.isnan(perfect.mistake_severity.value) and "NaN" not in perfect.to_json() and r.Report.from_json(perfect.to_json()) == perfect
    assert ">–<" in perfect._repr_html_()


@quick
@given(problems(), st.integers(0, 10**6))
def test_no_metric_depends_on_the_order_of_the_leaves(problem, seed):
    tree, probs, labels = problem
    order = np.random.default_rng(seed).permutation(len(tree))
    other = Taxonomy.from_edges(tree.edges(), leaves=[tree.leaves[i] for i in order])
    one, two = r.evaluate(tree, probs, labels, resamples=0), r.evaluate(other, probs[:, order], np.argsort(order)[labels], resamples=0)
    for (name, a), (_, b) in zip(one.rows(), two.rows()):
        # answers of equal risk or probability may differ: equal costs are common in small trees
        if "CRM" in name or "top down" in name or "marginal" in name: continue
        assert a.value == pytest.approx(b.value, nan_ok=True, abs=1e-9), name
    assert one.severity_histogram == two.severity_histogram and one.back_off_curve[0] == pytest.approx(two.back_off_curve[0])
    risk = d.conditional_risk(probs, tree.lca_height_matrix())
    assert d.conditional_risk(probs[:, order], other.lca_height_matrix()) == pytest.approx(risk[:, order])


def test_blocks_do_not_change_a_result(monkeypatch):
    rng = np.random.default_rng(3)
    probs, labels = rng.dirichlet(np.ones(6), 257), rng.integers(0, 6, 257)
    groups = SIX.membership_matrix(["animal", "vehicle"])

    def run(): return (r.evaluate(SIX, probs, labels, resamples=20), d.crm(probs, SIX.lca_height_matrix()).tolist(), d.back_off(SIX, probs, .6).tolist(),
                       d.top_down(SIX, probs).tolist(), d.aggregate(np.log(probs), groups, "log_mean_exp").tolist())
    whole, original = run(), m._rows
    monkeypatch.setattr(m, "_rows", lambda count, width: original(count, 1, 10))
    assert [float(e) for _, e in run()[0].rows()] == pytest.approx([float(e) for _, e in whole[0].rows()])
    assert run()[1:] == whole[1:]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_and_single_precision(dtype):
    rng = np.random.default_rng(2)
    tree = Taxonomy.cifar100()
    logits, labels = rng.normal(0, 3, (300, 100)), rng.integers(0, 100, 300)
    probs = d.softmax(logits)
    exact, rounded = r.evaluate(tree, probs, labels, resamples=0), r.evaluate(tree, probs.astype(dtype), labels, resamples=0)
    for (name, a), (_, b) in zip(exact.rows(), rounded.rows()): assert a.value == pytest.approx(b.value, abs=.01), name
    assert d.softmax(logits.astype(dtype)).dtype == np.float32 and probs.dtype == np.float64


def test_input_stays_as_it_was():
    probs, labels, logits = PROBS.copy(), LABELS.copy(), np.log(PROBS)
    before = logits.copy()
    r.evaluate(SIX, probs, labels, resamples=5); d.softmax(logits); d.back_off(SIX, probs, .5)
    for rule in d.AGGREGATION_RULES[1:]: d.aggregate(logits, [range(6)], rule, 2 if rule == "tempered" else None)
    assert (probs == PROBS).all() and (labels == LABELS).all() and (logits == before).all()


# bad input: one line that says what is wrong and what to do

BAD = [
    (lambda: r.bootstrap([]), "statistics must have shape"),
    (lambda: r.bootstrap([1.], confidence=95), "confidence must be a number above 0 and below 1"),
    (lambda: r.bootstrap([1.], resamples=-1), "resamples must be an integer of at least 0"),
    (lambda: r.evaluate(SIX, PROBS, LABELS[:3]), "probs has 4 rows but labels has 3"),
    (lambda: r.evaluate(SIX, NAN, LABELS), "probs holds NaN or infinity in row 1"),
    (lambda: r.evaluate(SIX, PROBS, LABELS.astype(float)), "labels must be integers, got float64"),
    (lambda: r.evaluate(SIX, PROBS, LABELS, ks=[7]), "k must be an integer in 1..6"),
    (lambda: r.evaluate(SIX, PROBS, LABELS, levels=[4]), "level must be an integer in 1..3"),
    (lambda: r.evaluate(SIX, PROBS, LABELS, cost=np.ones((8, 6))), r"cost must have shape \(6, 6\) here"),
    (lambda: r.Report.from_json("{no"), "this is not JSON"),
    (lambda: r.Report.from_json("[1]"), "no hierlearn report"),
    (lambda: r.Report.from_json('{"format": "hierlearn-report-2"}'), "missing or unknown fields: back_off_curve"),
]


@pytest.mark.parametrize("call, message", BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error: call()
    assert "\n" not in str(error.value)


def test_hints_that_lead_to_the_right_labels():
    six = Taxonomy.from_dict({"animal": ["cat", "dog"], "vehicle": ["car", "bus"]})
    probs = np.eye(4)[[1, 2, 3]]
    for labels, hint in ((np.array([[1], [2], [3]]), "labels.ravel()"), (np.eye(4)[[1, 2, 3]], "argmax(1)"), (np.array(["dog", "car", "bus"]), "taxonomy.index")):
        with pytest.raises(ValueError, match=hint.replace("(", ".").replace(")", ".")): r.evaluate(six, probs, labels)
    assert r.evaluate(six, probs, np.array([1, 2, 3]), ks=1, levels=1, resamples=0).accuracy.value == 1
    with pytest.raises(ValueError, match="seed must be"): r.evaluate(six, probs, np.array([1, 2, 3]), seed=None)
    with pytest.raises(ValueError, match="class-to-group table"): d.aggregate(probs, [-1] * 4)
    assert np.isfinite(d.softmax(np.array([[1.0, 2.0]], np.float32), 1e-50)).all()


def test_metrics_are_plain_numbers_with_their_intervals():
    tree = Taxonomy.from_groups({"animal": ["cat", "dog"], "vehicle": ["car", "bus"]})
    labels = np.array([0, 1, 2, 3])
    right = r.evaluate(tree, np.eye(4), labels).metrics()
    assert right["accuracy"] == right["crm_accuracy"] == 1 and right["mistake_severity"] is None  # no mistake has no size
    report = r.evaluate(tree, np.eye(4)[[1, 1, 0, 3]], labels, ks=(1, 2), resamples=50)
    found = report.metrics()
    assert found["accuracy"] == 0.5 and found["mistake_severity"] == 1.5
    assert found["accuracy_interval"] == [report.accuracy.low, report.accuracy.high]
    assert found["coarse_accuracy_1"] == 0.75 and "top_k_accuracy_2" in found and "top_k_accuracy_1" not in found
    assert found["severity_histogram"] == {"0.0": 2, "1.0": 1, "2.0": 1} and len(found["back_off_curve"]) == 11
    assert not [name for name in r.evaluate(tree, np.eye(4), labels, resamples=0).metrics() if name.endswith("_interval")]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert report.table().splitlines()[2] == "| top-1 accuracy | 0.5000 | " + f"{report.accuracy.low:.4f} – {report.accuracy.high:.4f} |"


def test_class_names_in_another_order_are_refused():
    names = list(SIX.leaves)
    assert r.evaluate(SIX, PROBS, LABELS, classes=names, resamples=0).accuracy.value == 1 / 4
    with pytest.raises(ValueError, match="order"): r.evaluate(SIX, PROBS, LABELS, classes=names[::-1])
    with pytest.raises(ValueError, match="tiger"): r.evaluate(SIX, PROBS, LABELS, classes=["tiger", *names[1:]])


def test_a_report_in_a_file_is_whole_or_refused(tmp_path):
    report = r.evaluate(SIX, PROBS, LABELS, resamples=20)
    text = report.to_json(tmp_path / "report.json")
    assert r.Report.from_json(tmp_path / "report.json") == r.Report.from_json(text) == report
    assert report.leaves == SIX.leaves and report.taxonomy_digest == SIX.digest and report.classes == 6
    whole = json.loads(text)
    for name in whole:
        with pytest.raises(ValueError): r.Report.from_json(json.dumps({k: v for k, v in whole.items() if k != name}))
    for name, bad in {"samples": 5, "mistake_severity": [1], "accuracy": 1, "leaves": [1], "confusions": [], "brier_score": "x", "height": True,
                      "top_k_accuracy": {}, "severity_histogram": {"0.0": -1}, "seed": 1.5}.items():
        with pytest.raises(ValueError, match="pass what Report.to_json"): r.Report.from_json(json.dumps({**whole, name: bad}))
