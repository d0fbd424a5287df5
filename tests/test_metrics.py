"Metrics and decisions against slow plain references, published examples, permutations of the leaves, and bad input."
import json
import math
import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn import metrics as m
from hierlearn.taxonomy import Taxonomy

SIX = Taxonomy.from_dict({'animal': {'feline': ['cat', 'lynx'], 'dog': None}, 'vehicle': ['car', 'bus', 'boat']}, leaves=('cat', 'lynx', 'dog', 'car', 'bus', 'boat'))
CAT, LYNX, DOG, CAR, BUS, BOAT = range(6)
PROBS = np.array([[.50, .30, .10, .04, .03, .03], [.40, .45, .05, .04, .03, .03], [.30, .05, .25, .02, .36, .02], [.05, .05, .10, .30, .20, .30]])
LABELS = np.array([CAT, CAT, CAT, BOAT])
quick = settings(max_examples=30, deadline=None)


# random hierarchies, probabilities and labels; scores are distinct, so that no tie hides behind a convention

@st.composite
def hierarchies(draw, several_parents=True):
    "A random rooted graph of uneven depth with 2 to 12 leaves, some with several parents."
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    inner, leaves = [f'n{i}' for i in range(rng.integers(1, 6))], [f'l{i}' for i in range(rng.integers(2, 13))]
    edges = [(inner[rng.integers(0, i)], inner[i]) for i in range(1, len(inner))]
    edges += [(inner[rng.integers(0, len(inner))], leaf) for leaf in leaves]
    if several_parents: edges += [(inner[rng.integers(0, len(inner))], leaf) for leaf in leaves if rng.random() < .3]
    edges += [(node, f'extra-{node}') for node in inner if not any(parent == node for parent, _ in edges)]
    below = {child for _, child in edges}
    ends = sorted(below - {parent for parent, _ in edges})
    return Taxonomy.from_edges(list(dict.fromkeys(edges)), leaves=[ends[i] for i in rng.permutation(len(ends))])


@st.composite
def problems(draw, several_parents=True):
    "A hierarchy with probabilities (N, L) and labels (N,)."
    tree = draw(hierarchies(several_parents))
    rng, n = np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.integers(1, 25))
    return tree, rng.dirichlet(np.full(len(tree), .5), n) * .99 + .01 / len(tree), rng.integers(0, len(tree), n)


def height(tree, a, b):
    "Height of the lowest common ancestor, from the ancestor sets alone."
    if a == b: return 0
    a, b = tree.leaves[a], tree.leaves[b]
    return min(tree.height(node) for node in set(tree.ancestors(a, include_self=True)) & set(tree.ancestors(b, include_self=True)))


def ranked(row): return sorted(range(len(row)), key=lambda j: (-row[j], j))
def sets(tree, leaf): return set(tree.ancestors(tree.leaves[leaf], include_self=True)) - {tree.root}


# flat metrics

@quick
@given(problems())
def test_flat_metrics_against_plain_python(problem):
    tree, probs, labels = problem
    predictions = [ranked(row)[0] for row in probs]
    assert m.accuracy(predictions, labels) == pytest.approx(np.mean([p == y for p, y in zip(predictions, labels)]))
    for k in (1, 2, len(tree)):
        assert m.top_k(probs, k).tolist() == [ranked(row)[:k] for row in probs]
        assert m.top_k_accuracy(probs, labels, k) == pytest.approx(np.mean([y in ranked(row)[:k] for row, y in zip(probs, labels)]))
    matrix = np.zeros((len(tree), len(tree)), int)
    for p, y in zip(predictions, labels): matrix[y, p] += 1
    assert (m.confusion_matrix(predictions, labels, len(tree)) == matrix).all()
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
    found = m.mistake_severity(tree, predictions, labels)
    assert found == pytest.approx(np.mean(wrong)) if wrong else math.isnan(found)
    expected = np.mean([np.mean([height(tree, j, y) for j in ranked(row)[:k]]) for row, y in zip(probs, labels)])
    assert m.hierarchical_distance_at_k(tree, probs, labels, k) == pytest.approx(expected)
    histogram = m.severity_histogram(tree, predictions, labels)
    assert sum(histogram.values()) == len(labels) and all(histogram[h] for h in wrong)


def test_published_definitions_on_hand_made_cases():
    predictions = PROBS.argmax(1)
    assert m.mistake_severity(SIX, predictions, LABELS) == pytest.approx((1 + 3 + 1) / 3)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 1) == pytest.approx(5 / 4)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 2) == pytest.approx((0 + 1 + 1 + 0 + 3 + 0 + 1 + 0) / 8)
    error = 1 - m.accuracy(predictions, LABELS)
    assert m.hierarchical_distance_at_k(SIX, PROBS, LABELS, 1) == pytest.approx(error * m.mistake_severity(SIX, predictions, LABELS))
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
    micro = m.hierarchical_scores(tree, predictions, labels)
    assert isinstance(micro, m.HierarchicalScores)
    assert micro.precision == pytest.approx(shared / sum(len(a) for a, _ in pairs)) and micro.recall == pytest.approx(shared / sum(len(b) for _, b in pairs))
    macro = m.hierarchical_scores(tree, predictions, labels, 'macro')
    assert macro.f1 == pytest.approx(np.mean([2 * len(a & b) / (len(a) + len(b)) for a, b in pairs]))


# paths as HiClass takes them, with the precision, recall and F1 that HiClass 5.0.8 returns (micro, then macro); the first four are its own examples and tests
HICLASS = [
    ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [6, 7, 8]], (.5, .5, .5), (.5, .5, .5)),
    ([[1, 2, 3, 4], [1, 2, 5, 6]], [[1, 2, 5, 6], [1, 2, 3, 4]], (.5, .5, .5), (.5, .5, .5)),
    ([[1, 2], [1, 2]], [[1, 2, 5, 6], [1, 2, 3, 4]], (.5, 1, 2 / 3), (.5, 1, 2 / 3)),
    ([[0, 1], [2, 3]], [[4, 5], [6, 7]], (0, 0, 0), (0, 0, 0)),
    ([['a', 'b', 'c'], ['a', 'd'], ['e']], [['a', 'b', 'x'], ['a'], ['a', 'd']], (.5, .5, .5), (5 / 9, 7 / 18, 4 / 9)),
]


def of_paths(true, predicted):
    "The taxonomy of label paths, and the last node of each path."
    paths = [[str(v) for v in path] for path in [*true, *predicted]]
    edges = list(dict.fromkeys((a, b) for path in paths for a, b in zip(['all', *path], path)))
    last = [path[-1] for path in paths]
    return Taxonomy.from_edges(edges), last[:len(true)], last[len(true):]


@pytest.mark.parametrize('true, predicted, micro, macro', HICLASS)
def test_hierarchical_scores_equal_hiclass(true, predicted, micro, macro):
    tree, labels, predictions = of_paths(true, predicted)
    assert m.hierarchical_scores(tree, predictions, labels) == pytest.approx(micro)
    assert m.hierarchical_scores(tree, predictions, labels, 'macro') == pytest.approx(macro)


@pytest.mark.parametrize('true, predicted, micro, macro', HICLASS)
def test_the_stored_numbers_are_those_of_hiclass(true, predicted, micro, macro):
    hiclass = pytest.importorskip('hiclass.metrics', reason='hiclass is not installed: pip install hiclass')
    width = max(map(len, true)), max(map(len, predicted))
    true, predicted = ([[*map(str, p), *[''] * (w - len(p))] for p in paths] for paths, w in zip((true, predicted), width))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for average, expected in (('micro', micro), ('macro', macro)):
            assert [f(true, predicted, average=average) for f in (hiclass.precision, hiclass.recall, hiclass.f1)] == pytest.approx(expected)


@quick
@given(problems(several_parents=False))
def test_coarse_accuracy_against_plain_python(problem):
    tree, probs, labels = problem
    for level in range(1, max(tree.depth(leaf) for leaf in tree.leaves) + 1):
        group = {leaf: node for node in tree.cut(level) for leaf in tree.descendant_leaves(node)}
        up = [group[leaf] for leaf in tree.leaves]
        assert m.coarse_accuracy(tree, probs.argmax(1), labels, level) == pytest.approx(np.mean([up[p] == up[y] for p, y in zip(probs.argmax(1), labels)]))
        sums = [{g: sum(p for p, u in zip(row, up) if u == g) for g in up} for row in probs]
        assert m.coarse_accuracy(tree, probs, labels, level) == pytest.approx(np.mean([max(s, key=s.get) == up[y] for s, y in zip(sums, labels)]))


def test_overlapping_groups_count_as_right_when_the_answer_holds_the_truth():
    tree = Taxonomy.from_edges([('r', 'a'), ('r', 'b'), ('a', 'x'), ('a', 'y'), ('b', 'y'), ('b', 'z')], leaves=['x', 'y', 'z'])
    assert m.coarse_accuracy(tree, [1, 1, 0], [0, 2, 2]) == pytest.approx(2 / 3)
    assert m.node_probabilities(tree, [[.2, .3, .5]], ['a', 'b', 'r', 'y'])[0] == pytest.approx([.5, .8, 1, .3])


def test_path_consistency():
    assert m.path_consistency(SIX, [[0, 0, 1], [CAT, BUS, BUS]]) == pytest.approx(2 / 3)
    assert m.path_consistency(SIX, [[0, 1], [0, 0], [LYNX, LYNX]]) == pytest.approx(1 / 2)
    named = m.path_consistency(SIX, [[0, 1], [0, 1]], nodes=[['feline', 'vehicle'], ['lynx', 'dog']])
    assert named == pytest.approx(1 / 2)


# aggregation

def plain(values, rule, t=1.0):
    if rule in ('sum', 'mean', 'max'): return {'sum': math.fsum, 'mean': np.mean, 'max': max}[rule](values)
    top = max(values)
    total = math.fsum(math.exp((v - top) / t) for v in values)
    return top + t * math.log(total if rule == 'log_sum_exp' else total / len(values))


@quick
@given(st.integers(0, 10**6), st.sampled_from(m.AGGREGATION_RULES), st.floats(.05, 50), st.sampled_from([1, 30]))
def test_aggregation_against_plain_python(seed, rule, temperature, scale):
    rng = np.random.default_rng(seed)
    width, count = rng.integers(2, 15), rng.integers(1, 5)
    groups = [sorted(rng.choice(width, rng.integers(1, width + 1), replace=False).tolist()) for _ in range(count)]
    logits = rng.normal(0, scale, (rng.integers(1, 6), width))
    scores = m.softmax(logits) if rule == 'sum' else logits
    found = m.aggregate(scores, groups, rule, temperature if rule == 'tempered' else None, overlap='each')
    expected = [[plain(row[g], rule, temperature if rule == 'tempered' else 1.0) for g in groups] for row in scores]
    assert found == pytest.approx(np.array(expected), rel=1e-9, abs=1e-9)


def test_the_mathematics_of_the_rules():
    rng = np.random.default_rng(0)
    logits, groups = rng.normal(0, 3, (50, 12)), [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11]]
    probs = m.softmax(logits)
    assert m.softmax(m.aggregate(logits, groups, 'log_sum_exp')) == pytest.approx(m.aggregate(probs, groups))
    geometric = np.exp(np.stack([np.log(probs[:, g]).mean(1) for g in groups], 1))
    assert m.softmax(m.aggregate(logits, groups, 'mean')) == pytest.approx(geometric / geometric.sum(1, keepdims=True))
    ends = [m.aggregate(logits, groups, 'tempered', t) for t in (0, 1, math.inf)]
    for found, rule in zip(ends, ('max', 'log_mean_exp', 'mean')): assert found == pytest.approx(m.aggregate(logits, groups, rule))
    assert m.aggregate(logits, groups, 'tempered', 1e-5) == pytest.approx(ends[0], abs=1e-3)
    assert m.aggregate(logits, groups, 'tempered', 1e12) == pytest.approx(ends[2], abs=1e-9)
    # between the ends the family falls as the temperature rises
    family = np.stack([m.aggregate(logits, groups, 'tempered', t) for t in (.1, .5, 1, 3, 30)])
    assert (np.diff(family, axis=0) <= 1e-12).all()


def test_the_failure_of_the_mean():
    logits = np.array([[8., 0, 0, 0, 0, 0, 2, 2, 2]])
    found = [m.softmax(m.aggregate(logits, [range(6), range(6, 9)], rule))[0, 0] for rule in ('mean', 'log_sum_exp', 'log_mean_exp')]
    assert found == pytest.approx([.34, .993, .985], abs=.001)


def test_aggregation_is_stable_and_keeps_the_type():
    extreme = np.array([[1e4, -1e4, 0, 5], [-1e5, -1e5 - 1, -1e5, 3]], np.float32)
    for rule in m.AGGREGATION_RULES[1:]:
        found = m.aggregate(extreme, [[0, 1], [2, 3]], rule, .01 if rule == 'tempered' else None)
        assert found.dtype == np.float32 and np.isfinite(found).all()
    assert m.aggregate((extreme / 10).astype(np.float16), [[0, 1]], 'max').dtype == np.float32
    impossible = np.array([[-np.inf, -np.inf, 1., 2.]])
    assert m.aggregate(impossible, [[0, 1], [2, 3]], 'log_sum_exp')[0] == pytest.approx([-np.inf, 2 + math.log1p(math.exp(-1))])
    assert m.softmax(impossible)[0, :2].tolist() == [0, 0]


def test_forms_of_groups_and_policies_for_shared_classes():
    probs = np.array([[.1, .2, .3, .4]])
    expected = [[.3, .7]]
    for groups in ([[0, 1], [2, 3]], [0, 0, 1, 1], np.array([0, 0, 1, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1]]), [np.array([0, 1]), range(2, 4)]):
        assert m.aggregate(probs, groups) == pytest.approx(np.array(expected))
    assert m.aggregate(probs, [-1, 0, 1, 1])[0] == pytest.approx([.2, .7])
    assert m.aggregate(PROBS, SIX.membership_matrix(['animal', 'vehicle'])).sum(1) == pytest.approx(1)
    shared = [[0, 1], [1, 2, 3]]
    for overlap, expected in {'each': [.3, .9], 'split': [.2, .8], 'first': [.3, .7]}.items(): assert m.aggregate(probs, shared, overlap=overlap)[0] == pytest.approx(expected)
    logits = np.array([[0., 2, 4, 6]])
    assert m.aggregate(logits, shared, 'mean', overlap='split')[0] == pytest.approx([(0 + 1) / 1.5, (1 + 4 + 6) / 2.5])


def test_blocks_do_not_change_a_result(monkeypatch):
    rng = np.random.default_rng(3)
    probs, labels = rng.dirichlet(np.ones(6), 257), rng.integers(0, 6, 257)
    groups = SIX.membership_matrix(['animal', 'vehicle'])

    def run(): return (m.evaluate(SIX, probs, labels, resamples=20), m.crm(probs, SIX.lca_height_matrix()).tolist(), m.back_off(SIX, probs, .6).tolist(),
                       m.top_down(SIX, probs).tolist(), m.aggregate(np.log(probs), groups, 'log_mean_exp').tolist())
    whole, original = run(), m._rows
    monkeypatch.setattr(m, '_rows', lambda count, width: original(count, 1, 10))
    assert [float(e) for _, e in run()[0].rows()] == pytest.approx([float(e) for _, e in whole[0].rows()])
    assert run()[1:] == whole[1:]


# decisions

@quick
@given(problems())
def test_crm_against_plain_python(problem):
    tree, probs, labels = problem
    rng = np.random.default_rng(len(labels))
    cost = rng.random((len(tree) + 2, len(tree)))
    risk = [[sum(c * p for c, p in zip(line, row)) for line in cost] for row in probs]
    assert m.conditional_risk(probs, cost) == pytest.approx(np.array(risk))
    assert m.crm(probs, cost).tolist() == [min(range(len(row)), key=row.__getitem__) for row in risk]
    assert m.crm(probs, cost, k=2).tolist() == [sorted(range(len(row)), key=row.__getitem__)[:2] for row in risk]
    assert m.crm(probs, 1 - np.eye(len(tree))).tolist() == probs.argmax(1).tolist()


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
    assert m.top_down(tree, probs).tolist() == expected


@quick
@given(problems(), st.floats(.02, .98))
def test_back_off_against_plain_python(problem, threshold):
    tree, probs, labels = problem
    right, specific = [], []
    for row, y, answer in zip(probs, labels, m.back_off(tree, probs, threshold).tolist()):
        mass = {node: sum(row[i] for i in tree.leaf_indices(node)) for node in tree.nodes}
        sure = [node for node in tree.nodes if mass[node] >= threshold] or [tree.root]
        best = min(sure, key=lambda node: (len(tree.leaf_indices(node)), -round(mass[node], 9), tree.height(node)))
        assert len(tree.leaf_indices(answer)) == len(tree.leaf_indices(best)) and mass[answer] == pytest.approx(mass[best])
        # nothing below the answer is sure
        assert not any(mass[child] >= threshold + 1e-9 and len(tree.leaf_indices(child)) < len(tree.leaf_indices(answer)) for child in tree.children(answer))
        right.append(y in tree.leaf_indices(answer))
        specific.append(1 - math.log(len(tree.leaf_indices(answer))) / math.log(len(tree)))
    curve = m.accuracy_specificity_curve(tree, probs, labels, [threshold])
    assert isinstance(curve, m.BackOffCurve)
    assert (curve.accuracy[0], curve.specificity[0]) == pytest.approx((np.mean(right), np.mean(specific)))


def test_back_off_from_argmax_to_the_root():
    assert m.back_off(SIX, PROBS, 0).tolist() == ['cat', 'lynx', 'bus', 'car']
    assert m.back_off(SIX, PROBS, .55).tolist() == ['feline', 'feline', 'animal', 'vehicle']
    assert set(m.back_off(SIX, PROBS, 1).tolist()) == {SIX.root}
    curve = m.accuracy_specificity_curve(SIX, PROBS, LABELS)
    assert len(curve.thresholds) == 51 and (np.diff(curve.specificity) <= 1e-12).all()


def test_a_class_that_has_classes_below_it():
    tree = Taxonomy.from_edges([('all', 'dog'), ('dog', 'puppy'), ('all', 'cat')], leaves=['dog', 'puppy', 'cat'])
    probs = np.array([[.4, .3, .3], [.3, .4, .3], [.1, .2, .7]])
    assert m.top_down(tree, probs).tolist() == [0, 1, 2]
    assert m.node_probabilities(tree, probs, ['dog', 'puppy'])[0] == pytest.approx([.7, .3])
    assert m.back_off(tree, probs, .65).tolist() == ['dog', 'dog', 'cat']
    assert m.mistake_severity(tree, [0], [1]) == tree.height('dog')
    assert m.evaluate(tree, probs, [0, 1, 2], resamples=0).accuracy.value == 1


# intervals and the report

def test_bootstrap_agrees_with_theory_and_is_seeded():
    values = np.random.default_rng(0).normal(5, 2, 400)
    estimate, = m.bootstrap(values)
    assert isinstance(estimate, m.Estimate) and float(estimate) == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=.03)
    assert m.bootstrap(values, seed=1) == m.bootstrap(values, seed=1) != m.bootstrap(values, seed=2)
    ratio, = m.bootstrap(np.stack([values, np.full(400, 2.)], 1), lambda sums: sums[:, :1] / sums[:, 1:])
    assert ratio == pytest.approx([v / 2 for v in estimate])
    alone, = m.bootstrap(values, resamples=0)
    assert math.isnan(alone.low) and str(alone) == f'{values.mean():.4f}' and '[' in str(estimate)


@quick
@given(problems())
def test_the_report_equals_the_functions(problem):
    tree, probs, labels = problem
    predictions, k = probs.argmax(1), min(5, len(tree))
    report = m.evaluate(tree, probs, labels, resamples=0)
    cost = tree.lca_height_matrix()
    decided = m.crm(probs, cost)
    pairs = [(report.accuracy, m.accuracy(predictions, labels)), (report.top_k_accuracy[k], m.top_k_accuracy(probs, labels, k)),
             (report.calibration_error, m.expected_calibration_error(probs, labels)), (report.brier_score, m.brier_score(probs, labels)),
             (report.mistake_severity, m.mistake_severity(tree, predictions, labels)), (report.hierarchical_distance[k], m.hierarchical_distance_at_k(tree, probs, labels, k)),
             (report.crm_accuracy, m.accuracy(decided, labels)), (report.crm_mistake_severity, m.mistake_severity(tree, decided, labels)),
             (report.crm_hierarchical_distance[k], m.hierarchical_distance_at_k(tree, -m.conditional_risk(probs, cost), labels, k)),
             (report.top_down_accuracy, m.accuracy(m.top_down(tree, probs), labels))]
    for average in ('micro', 'macro'):
        scores, prefix = m.hierarchical_scores(tree, predictions, labels, average), 'hierarchical' if average == 'micro' else 'macro'
        pairs += [(getattr(report, f'{prefix}_{name}'), value) for name, value in scores._asdict().items()]
    for level, estimate in report.coarse_accuracy.items():
        pairs += [(estimate, m.coarse_accuracy(tree, predictions, labels, level)), (report.marginal_accuracy[level], m.coarse_accuracy(tree, probs, labels, level))]
    for estimate, value in pairs: assert estimate.value == pytest.approx(value, nan_ok=True, abs=1e-9)
    assert report.severity_histogram == m.severity_histogram(tree, predictions, labels)
    assert (report.confusion_matrix() == m.confusion_matrix(predictions, labels, len(tree))).all()
    curve = m.accuracy_specificity_curve(tree, probs, labels)
    assert np.array(report.back_off_curve).T == pytest.approx(np.stack(curve))
    assert sum(count for _, count, _, _ in report.reliability) == len(labels)


def test_intervals_of_the_report_hold_their_values():
    rng = np.random.default_rng(5)
    report = m.evaluate(SIX, rng.dirichlet(np.ones(6) / 3, 400), rng.integers(0, 6, 400))
    for name, estimate in report.rows():
        if name != 'calibration error': assert estimate.low <= estimate.value <= estimate.high, name  # resampling adds noise to every bin, which raises ECE
    accuracy = report.accuracy
    half = 1.96 * math.sqrt(accuracy.value * (1 - accuracy.value) / 400)
    assert accuracy.high - accuracy.low == pytest.approx(2 * half, rel=.15)


def test_the_report_travels_as_json_and_html():
    report = m.evaluate(SIX, PROBS, LABELS, ks=(1, 2, 6), levels=[1], bins=5, thresholds=[.1, .9], confidence=.9, seed=3)
    again = m.Report.from_json(report.to_json())
    assert again == report and set(again.top_k_accuracy) == {1, 2, 6} and list(again.coarse_accuracy) == [1] and len(again.back_off_curve) == 2
    assert {f.name for f in fields(report)} <= set(json.loads(report.to_json()))
    with pytest.raises(AttributeError): report.samples = 3
    html = report._repr_html_()
    assert html.count('<tr>') == len(report.rows()) + 1 and 'mistake severity' in html and '90% intervals' in html
    assert 'mistake severity' in repr(report) and 'confusions' not in repr(report)
    perfect = m.evaluate(SIX, np.eye(6), np.arange(6))  # no mistake: severity unknown, JSON without NaN
    assert math.isnan(perfect.mistake_severity.value) and 'NaN' not in perfect.to_json() and m.Report.from_json(perfect.to_json()) == perfect
    assert '>–<' in perfect._repr_html_()


@quick
@given(problems(), st.integers(0, 10**6))
def test_no_metric_depends_on_the_order_of_the_leaves(problem, seed):
    tree, probs, labels = problem
    order = np.random.default_rng(seed).permutation(len(tree))
    other = Taxonomy.from_edges(tree.edges(), leaves=[tree.leaves[i] for i in order])
    one, two = m.evaluate(tree, probs, labels, resamples=0), m.evaluate(other, probs[:, order], np.argsort(order)[labels], resamples=0)
    for (name, a), (_, b) in zip(one.rows(), two.rows()):
        # answers of equal risk or probability may differ: equal costs are common in small trees
        if 'CRM' in name or 'top down' in name or 'marginal' in name: continue
        assert a.value == pytest.approx(b.value, nan_ok=True, abs=1e-9), name
    assert one.severity_histogram == two.severity_histogram and one.back_off_curve[0] == pytest.approx(two.back_off_curve[0])
    risk = m.conditional_risk(probs, tree.lca_height_matrix())
    assert m.conditional_risk(probs[:, order], other.lca_height_matrix()) == pytest.approx(risk[:, order])


@pytest.mark.parametrize('dtype', [np.float16, np.float32])
def test_half_and_single_precision(dtype):
    rng = np.random.default_rng(2)
    tree = Taxonomy.cifar100()
    logits, labels = rng.normal(0, 3, (300, 100)), rng.integers(0, 100, 300)
    probs = m.softmax(logits)
    exact, rounded = m.evaluate(tree, probs, labels, resamples=0), m.evaluate(tree, probs.astype(dtype), labels, resamples=0)
    for (name, a), (_, b) in zip(exact.rows(), rounded.rows()): assert a.value == pytest.approx(b.value, abs=.01), name
    assert m.softmax(logits.astype(dtype)).dtype == np.float32 and probs.dtype == np.float64


def test_input_stays_as_it_was():
    probs, labels, logits = PROBS.copy(), LABELS.copy(), np.log(PROBS)
    before = logits.copy()
    m.evaluate(SIX, probs, labels, resamples=5); m.softmax(logits); m.back_off(SIX, probs, .5)
    for rule in m.AGGREGATION_RULES[1:]: m.aggregate(logits, [range(6)], rule, 2 if rule == 'tempered' else None)
    assert (probs == PROBS).all() and (labels == LABELS).all() and (logits == before).all()


# bad input: one line that says what is wrong and what to do

NAN = np.where(PROBS == .45, np.nan, PROBS)
BAD = [
    (lambda: m.accuracy([0, 1], [0]), 'predictions has 2 rows but labels has 1'),
    (lambda: m.accuracy([.5], [0]), 'predictions must be integers'),
    (lambda: m.accuracy([], []), 'predictions must have shape'),
    (lambda: m.accuracy([-1], [0]), 'got -1 at position 0'),
    (lambda: m.accuracy([True], [True]), 'must be integers'),
    (lambda: m.confusion_matrix([0, 3], [0, 1], 3), 'predictions must be in 0..2, got 3 at position 1'),
    (lambda: m.top_k([[1, 2, 3]], 4), 'k must be an integer in 1..3, got 4'),
    (lambda: m.top_k([1., 2.], 1), r'scores must have shape \(N, L\)'),
    (lambda: m.top_k([['a', 'b']], 1), 'scores must hold numbers'),
    (lambda: m.top_k(NAN, 1), 'scores holds NaN or infinity in row 1'),
    (lambda: m.top_k_accuracy(PROBS, LABELS[:2], 1), 'scores has 4 rows but labels has 2'),
    (lambda: m.brier_score(PROBS * .9, LABELS), 'row 0 of probs sums to 0.9, not 1; pass softmax'),
    (lambda: m.brier_score(NAN, LABELS), 'probs holds NaN or infinity in row 1'),
    (lambda: m.brier_score(np.log(PROBS), LABELS), 'probs is negative in row 0; pass softmax'),
    (lambda: m.brier_score(PROBS, [0, 0, 0, 6]), 'labels must be in 0..5, got 6 at position 3'),
    (lambda: m.brier_score(PROBS, np.eye(6)[:4]), 'use labels.argmax'),
    (lambda: m.brier_score(np.empty((0, 6)), []), 'probs must have shape'),
    (lambda: m.reliability_curve(PROBS, LABELS, bins=0), 'bins must be an integer'),
    (lambda: m.mistake_severity(SIX, [0], [6]), 'labels must be in 0..5'),
    (lambda: m.hierarchical_distance_at_k(SIX, PROBS[:, 1:], LABELS), 'scores has 5 columns but the taxonomy has 6 leaves'),
    (lambda: m.hierarchical_scores(SIX, ['tiger'], [0]), "predictions holds 'tiger'"),
    (lambda: m.hierarchical_scores(SIX, [0], [0], 'weighted'), "average must be 'micro' or 'macro'"),
    (lambda: m.hierarchical_scores(SIX, [0, 1], ['cat']), 'predictions has 2 rows but labels has 1'),
    (lambda: m.coarse_accuracy(SIX, LABELS, LABELS, 0), 'level must be an integer in 1..3, got 0'),
    (lambda: m.coarse_accuracy(SIX, PROBS, LABELS, 1.0), 'level must be an integer'),
    (lambda: m.node_probabilities(SIX, PROBS, []), 'non-empty list of node names'),
    (lambda: m.node_probabilities(SIX, PROBS, ['plant']), "'plant', which is no node"),
    (lambda: m.path_consistency(SIX, [[0]]), 'at least two levels'),
    (lambda: m.path_consistency(SIX, [[0], [0, 1]]), 'the first level has 1 rows but predictions has 2'),
    (lambda: m.path_consistency(SIX, [[0], [0]], [['animal']]), 'predictions has 2 levels but nodes has 1'),
    (lambda: m.softmax(np.log(PROBS), -1), 'temperature must be > 0'),
    (lambda: m.softmax([[np.inf, 0]]), 'NaN or infinity in row 0'),
    (lambda: m.softmax([[-np.inf, -np.inf]]), 'row 0 of logits is -inf throughout'),
    (lambda: m.aggregate(PROBS, []), 'groups is empty'),
    (lambda: m.aggregate(PROBS, [[0], []]), 'group 1 is empty'),
    (lambda: m.aggregate(PROBS, [[0], [1, 6]]), r'groups\[1\] must be in 0..5, got 6 at position 1'),
    (lambda: m.aggregate(PROBS, [[0, 1], [1]]), "groups share the classes 1; pass overlap="),
    (lambda: m.aggregate(PROBS, [[0, 1], [1]], overlap='first'), 'group 1 is empty'),
    (lambda: m.aggregate(PROBS, [[0]], overlap='both'), "overlap must be 'error', 'each', 'split' or 'first'"),
    (lambda: m.aggregate(PROBS, ['animal']), 'use taxonomy.membership_matrix'),
    (lambda: m.aggregate(PROBS, [0, 0, 1]), 'has 3 entries for 6 classes'),
    (lambda: m.aggregate(PROBS, np.ones((5, 2))), 'membership matrix has 5 rows for 6 classes'),
    (lambda: m.aggregate(PROBS, np.full((6, 1), .5)), 'must hold only 0 and 1'),
    (lambda: m.aggregate(PROBS, [[0]], 'median'), 'rule must be one of sum, log_sum_exp'),
    (lambda: m.aggregate(PROBS, [[0]], 'mean', 2), "rule 'mean' takes no temperature"),
    (lambda: m.aggregate(PROBS, [[0]], 'tempered'), "rule 'tempered' needs a temperature"),
    (lambda: m.aggregate(PROBS, [[0]], 'tempered', math.nan), "rule 'tempered' needs a temperature"),
    (lambda: m.aggregate(PROBS * 2, [[0]]), 'row 0 of scores sums to 2, not 1'),
    (lambda: m.aggregate(NAN, [[0]], 'max'), 'scores holds NaN'),
    (lambda: m.crm(PROBS, np.eye(5)), r'cost must have shape \(answers, 6\), got \(5, 5\)'),
    (lambda: m.crm(PROBS, np.full((6, 6), np.inf)), 'cost holds NaN or infinity'),
    (lambda: m.crm(PROBS, np.eye(6), k=7), 'k must be an integer in 1..6'),
    (lambda: m.conditional_risk(PROBS * 3, np.eye(6)), 'sums to 3, not 1'),
    (lambda: m.top_down(SIX, PROBS[:, :3]), '3 columns but the taxonomy has 6 leaves'),
    (lambda: m.back_off(SIX, PROBS, 1.5), r'thresholds must be numbers in 0..1, got \[1.5\]'),
    (lambda: m.accuracy_specificity_curve(SIX, PROBS, LABELS, []), 'thresholds must be numbers in 0..1'),
    (lambda: m.bootstrap([]), 'statistics must have shape'),
    (lambda: m.bootstrap([1.], confidence=95), 'confidence must be between 0 and 1'),
    (lambda: m.bootstrap([1.], resamples=-1), 'resamples must be an integer >= 0'),
    (lambda: m.evaluate(SIX, PROBS, LABELS[:3]), 'probs has 4 rows but labels has 3'),
    (lambda: m.evaluate(SIX, NAN, LABELS), 'probs holds NaN or infinity in row 1'),
    (lambda: m.evaluate(SIX, PROBS, LABELS.astype(float)), 'labels must be integers in 0..5, got float64'),
    (lambda: m.evaluate(SIX, PROBS, LABELS, ks=[7]), 'k must be an integer in 1..6'),
    (lambda: m.evaluate(SIX, PROBS, LABELS, levels=[4]), 'level must be an integer in 1..3'),
    (lambda: m.evaluate(SIX, PROBS, LABELS, cost=np.ones((8, 6))), r'cost must have shape \(6, 6\) here'),
    (lambda: m.Report.from_json('no'), 'this is not JSON'),
    (lambda: m.Report.from_json('[1]'), 'no hierlearn report'),
    (lambda: m.Report.from_json('{"format": "hierlearn-report-1"}'), 'missing or unknown fields: back_off_curve'),
]


@pytest.mark.parametrize('call, message', BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(ValueError, match=message) as error: call()
    assert '\n' not in str(error.value)


def test_hints_that_lead_to_the_right_labels():
    six = Taxonomy.from_dict({"animal": ["cat", "dog"], "vehicle": ["car", "bus"]})
    probs = np.eye(4)[[1, 2, 3]]
    for labels, hint in ((np.array([[1], [2], [3]]), "labels.ravel()"), (np.eye(4)[[1, 2, 3]], "argmax(1)"), (np.array(["dog", "car", "bus"]), "taxonomy.index")):
        with pytest.raises(ValueError, match=hint.replace('(', '.').replace(')', '.')): m.evaluate(six, probs, labels)
    assert m.evaluate(six, probs, np.array([1, 2, 3]), ks=1, levels=1, resamples=0).accuracy.value == 1
    with pytest.raises(ValueError, match="seed must be"): m.evaluate(six, probs, np.array([1, 2, 3]), seed=None)
    with pytest.raises(ValueError, match="class-to-group table"): m.aggregate(probs, [-1] * 4)
    assert np.isfinite(m.softmax(np.array([[1.0, 2.0]], np.float32), 1e-50)).all()
