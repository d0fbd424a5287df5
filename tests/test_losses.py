"Hierarchical losses for PyTorch: slow float64 references, gradients, other people's values, precision and bad input."
import copy
import pickle

import numpy as np
import pytest
from hierarchies import SIX, problems, quick
from hypothesis import given

from hierlearn.basics import import_torch

torch = import_torch()

from hierlearn.decisions import conditional_risk, softmax  # noqa: E402
from hierlearn.losses import (  # noqa: E402
    HXE, Conditional, CrossEntropy, ExpectedCost, HierarchicalLoss, MultiLevel, PathLoss, SiblingSmoothing, SoftLabels, level_features)
from hierlearn.targets import branches, one_parent, sibling_targets, soft_targets  # noqa: E402
from hierlearn.taxonomy import Taxonomy  # noqa: E402

DIAMOND = Taxonomy.from_edges([("top", "pet"), ("top", "canine"), ("pet", "dog"), ("pet", "cat"), ("canine", "dog"), ("canine", "wolf")],
                              leaves=["dog", "cat", "wolf"])
OWN = Taxonomy.from_edges([("top", "dog"), ("dog", "puppy"), ("dog", "hound"), ("top", "cat")], leaves=["puppy", "dog", "cat", "hound"])
TREES = {"six": SIX, "pets": Taxonomy.pets(), "diamond": DIAMOND, "own": OWN, "flat": Taxonomy.from_dict(["a", "b", "c"])}
MAKE = {"cross_entropy": CrossEntropy, "siblings": lambda t: SiblingSmoothing(t, 0.3), "soft": lambda t: SoftLabels(t, 6), "cost": ExpectedCost,
        "hxe": lambda t: HXE(t, 0.4), "levels": MultiLevel, "conditional": Conditional}
every = pytest.mark.parametrize("name", MAKE)


def way(tree, leaf):
    "Leaf sets from the class itself up to all, with the height of each node; in a tree."
    nodes = tree.ancestors(tree.leaves[leaf], include_self=True)
    sets = [(set(tree.leaf_indices(node).tolist()), tree.height(node)) for node in nodes]
    return ([({leaf}, 0)] if tree.children(tree.leaves[leaf]) else []) + sets


def reference(name, graph, z, y):
    "One sample in float64, by the definition."
    p, tree = np.exp(z - z.max()) / np.exp(z - z.max()).sum(), one_parent(graph)
    if name == "cross_entropy": return -np.log(p[y])
    if name == "siblings":
        u = sibling_targets(graph)[y]
        return -np.log(p[y]) + 0.3 * sum(a * np.log(a / b) for a, b in zip(u, p) if a)
    if name == "soft": return -(soft_targets(graph, 6)[y] * np.log(p)).sum()
    if name == "cost": return sum(graph.lca_height(graph.leaves[y], graph.leaves[k]) * p[k] for k in range(len(p)))
    sets = way(tree, y)
    mass = [sum(p[k] for k in leaves) for leaves, _ in sets]
    if name == "hxe": return -sum(np.exp(-0.4 * d) * np.log(a / b) for d, (a, b) in enumerate(zip(mass[-2::-1], mass[:0:-1])))
    levels = [*range(1, tree.height(tree.root)), len(sets) - 1]
    return -sum(np.log(mass[max(0, len(sets) - 1 - d)]) for d in levels) / len(levels)


def conditional(graph, u, y):
    "Node logits by a walk from the root."
    tree, edges = one_parent(graph), branches(graph).edges
    nodes = [*tree.ancestors(tree.leaves[y], include_self=True)]
    steps = list(zip(nodes[1:], nodes))
    if tree.children(tree.leaves[y]): steps.append((tree.leaves[y],) * 2)
    total = 0
    for parent, child in steps:
        at = [i for i, edge in enumerate(edges) if edge[0] == parent]
        if at: total += np.log(sum(np.exp(u[i]) for i in at)) - u[edges.index((parent, child))]
    return total


def drawn(loss, n=5, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, loss.num_outputs, generator=generator, dtype=torch.float64) * scale
    return z.to(dtype).requires_grad_(), torch.randint(0, len(loss.taxonomy), (n,), generator=generator)


@every
@pytest.mark.parametrize("tree", TREES)
def test_equals_the_slow_reference(name, tree):
    graph, loss = TREES[tree], MAKE[name](TREES[tree])
    z, y = drawn(loss)
    rows = [conditional(graph, u, c) if name == "conditional" else reference(name, graph, u, c) for u, c in zip(z.detach().numpy(), y.tolist())]
    assert np.isclose(loss(z, y).item(), np.mean(rows), rtol=1e-12, atol=1e-12)
    assert np.isclose(loss(z.float(), y).item(), np.mean(rows), rtol=2e-6, atol=1e-6)
    assert loss(z.float(), y).dtype == torch.float32 and loss(z, y).dtype == torch.float64


@quick
@given(problems())
def test_equals_the_reference_on_random_graphs(problem):
    graph, probs, labels = problem
    if len(graph) < 2: return
    z = np.log(probs)
    for name in ("siblings", "soft", "cost", "hxe", "levels"):
        found = MAKE[name](graph)(torch.tensor(z), torch.tensor(labels)).item()
        assert np.isclose(found, np.mean([reference(name, graph, u, c) for u, c in zip(z, labels)]), rtol=1e-10, atol=1e-10), name
    loss = Conditional(graph)
    u, _ = drawn(loss, len(labels))
    expected = np.mean([conditional(graph, a, c) for a, c in zip(u.detach().numpy(), labels)])
    assert np.isclose(loss(u, torch.tensor(labels)).item(), expected, rtol=1e-10, atol=1e-10)


@every
@pytest.mark.parametrize("tree", ["six", "diamond", "own"])
def test_gradients(name, tree):
    loss = MAKE[name](TREES[tree])
    z, y = drawn(loss, 3)
    assert torch.autograd.gradcheck(loss, (z, y))
    if name == "conditional": assert torch.autograd.gradcheck(loss.log_probs, (z,))


@pytest.mark.parametrize("tree", TREES)
def test_leaf_log_probabilities(tree):
    loss = Conditional(TREES[tree])
    u, y = drawn(loss, 7, scale=5)
    log_p = loss.log_probs(u)
    assert log_p.shape == (7, len(loss.taxonomy)) and torch.allclose(log_p.exp().sum(1), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(loss(u, y), torch.nn.functional.nll_loss(log_p, y))
    assert torch.allclose(loss(u, y), CrossEntropy(loss.taxonomy)(log_p, y))  # log-probabilities are logits
    bf = loss.log_probs(u.detach().bfloat16())
    assert bf.dtype == torch.float32 and torch.allclose(bf.exp().sum(1), torch.ones(7), atol=1e-5)
    # parent and child cannot contradict each other: a parent has the probability that its softmaxes give it
    if tree == "six":
        cat = torch.log_softmax(u[:, :2], 1)[:, 0] + torch.log_softmax(u[:, 2:4], 1)[:, 0]
        assert torch.allclose(log_p[:, :2].logsumexp(1), cat)  # edges: animal, vehicle; feline, dog; ...


def test_hierarchicalsoftmax_has_the_same_values():
    nodes = pytest.importorskip("hierarchicalsoftmax", reason="hierarchicalsoftmax is not installed: pip install hierlearn[dev]")
    from hierarchicalsoftmax.inference import leaf_probabilities
    for tree in (SIX, Taxonomy.pets(), OWN.restrict(["puppy", "cat", "hound"])):
        made = {tree.root: nodes.SoftmaxNode(tree.root)}
        for parent, child in tree.edges(): made[child] = nodes.SoftmaxNode(child, parent=made[parent])
        root, loss = made[tree.root], Conditional(tree)
        root.set_indexes()
        theirs = [loss.edges.index((node.parent.name, node.name)) for node in root.node_list_softmax]
        u, y = drawn(loss, 9, dtype=torch.float32)
        labels = root.get_node_ids_tensor([made[tree.leaves[i]] for i in y])
        other = nodes.HierarchicalSoftmaxLoss(root)(u[:, theirs], labels)
        assert torch.allclose(loss(u, y), other, rtol=1e-5)
        order = [tree.index(leaf.name) for leaf in root.leaves]
        assert torch.allclose(loss.log_probs(u).exp()[:, order], leaf_probabilities(u[:, theirs], root), atol=1e-6)


def test_special_values():
    z, y = drawn(CrossEntropy(SIX), 8)
    plain = CrossEntropy(SIX)(z, y)
    assert torch.allclose(plain, torch.nn.functional.cross_entropy(z, y))
    for same in (SiblingSmoothing(SIX, 0), SoftLabels(SIX, 1000), HXE(SIX, 0), MultiLevel(SIX, []), MultiLevel(SIX, [1], [0, 1])):
        assert torch.allclose(same(z, y), plain)
    p = softmax(z.detach().numpy())
    risk = conditional_risk(p, SIX.lca_height_matrix())[np.arange(8), y]
    assert np.isclose(ExpectedCost(SIX)(z, y).item(), risk.mean())
    cost = np.arange(36.0).reshape(6, 6)  # of answer k when j is true
    assert np.isclose(ExpectedCost(SIX, cost)(z, y).item(), np.mean([sum(cost[k, j] * row[k] for k in range(6)) for row, j in zip(p, y)]))
    assert issubclass(HXE, PathLoss) and issubclass(PathLoss, HierarchicalLoss)


def test_levels_with_logits_of_their_own():
    loss = MultiLevel(SIX, [1], [0.3, 0.7])
    assert loss.groups == (("animal", "vehicle"), SIX.leaves)
    coarse, fine, y = torch.randn(4, 2), torch.randn(4, 6), torch.tensor([0, 2, 3, 5])
    ce = torch.nn.functional.cross_entropy
    assert torch.allclose(loss([coarse, fine], y), 0.3 * ce(coarse, torch.tensor([0, 0, 1, 1])) + 0.7 * ce(fine, y))
    with pytest.raises(ValueError, match="2 of them, coarse first"): loss([fine], y)
    with pytest.raises(ValueError, match=r"logits\[0\] must be floats of shape \(N, 2\)"): loss([fine, coarse], y)


@every
def test_far_logits_stay_finite(name):
    loss = MAKE[name](SIX)
    for dtype in (torch.float32, torch.bfloat16):
        z = torch.zeros(6, loss.num_outputs, dtype=dtype)
        z[:, 0], z[:, -1] = 300, -300
        z.requires_grad_()
        found = loss(z, torch.arange(6))
        found.backward()
        assert found.isfinite() and z.grad.isfinite().all() and z.grad.dtype == dtype
    exact = z.detach().double()
    assert torch.allclose(loss(exact, torch.arange(6)).float(), found, rtol=1e-4)


@every
def test_bfloat16_is_computed_in_float32(name):
    loss = MAKE[name](SIX)
    z, y = drawn(loss, 40, dtype=torch.bfloat16)
    assert torch.allclose(loss(z, y), loss(z.float(), y)) and loss(z, y).dtype == torch.float32


@every
def test_reductions_copies_and_label_types(name):
    loss = MAKE[name](SIX)
    z, y = drawn(loss, 6)
    rows = copy.copy(loss)
    rows.reduction = "none"
    assert rows(z, y).shape == (6,) and torch.allclose(rows(z, y).mean(), loss(z, y))
    assert torch.allclose(rows(z, y), torch.stack([loss(z[i : i + 1], y[i : i + 1]) for i in range(6)]))
    rows.reduction = "sum"
    assert torch.allclose(rows(z, y), 6 * loss(z, y))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))): assert torch.equal(again(z, y), loss(z, y))
    for kind in (torch.int32, torch.uint8): assert torch.equal(loss(z, y.to(kind)), loss(z, y))
    assert loss.state_dict() == {} and "classes=6" in repr(loss)


@every
def test_bad_input(name):
    loss = MAKE[name](SIX)
    z, y = drawn(loss, 4)
    z, v = z.detach(), loss.num_outputs
    nan, inf = z.clone(), z.clone()
    nan[2, -1], inf[1, 0] = float("nan"), float("inf")
    wrong = [(z[:, 1:], y, rf"\(N, {v}\)"), (z[0], y, rf"\(N, {v}\)"), (z.long(), y, "floats"), (z, y[:3], "4 rows of logits, 3 labels"),
             (nan, y, "NaN or infinity in row 2"), (inf, y, "row 1"), (z, y + 6, r"in 0\.\.5"), (z, y - 9, r"in 0\.\.5"),
             (z[:0], y[:0], "N >= 1"), (z, y.double(), "integers"), (z, y[:, None], r"shape \(N,\)"), (z.numpy(), y, "tensor|logits must be"), (z, [0], "tensor")]
    for logits, labels, says in wrong:
        with pytest.raises(ValueError, match=says) as caught: loss(logits, labels)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_made():
    for make, says in ((lambda: CrossEntropy(Taxonomy.from_dict(["a"])), "single class"), (lambda: CrossEntropy({"a": None}), "must be a Taxonomy"),
                       (lambda: HXE(SIX, -1), "alpha"), (lambda: SoftLabels(SIX, float("nan")), "beta"), (lambda: SiblingSmoothing(SIX, -0.1), "mu"),
                       (lambda: CrossEntropy(SIX, reduction="avg"), "reduction"), (lambda: MultiLevel(SIX, [5]), "level"),
                       (lambda: ExpectedCost(SIX, np.zeros((2, 2))), r"shape \(6, 6\)")):
        with pytest.raises(ValueError, match=says): make()


def test_without_checks_nothing_is_looked_at():
    z, y = drawn(CrossEntropy(SIX), 4)
    broken = z.detach().clone()
    broken[0, 0] = float("nan")
    assert HXE(SIX, 0.2, check=False)(broken, y).isnan()


def test_the_coarse_loss_does_not_reach_fine_features():
    coarse, fine = torch.randn(3, 2, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    first, second = level_features([coarse, fine])
    assert first.shape == (3, 6) and second.shape == (3, 4) and torch.equal(first[:, 2:], fine)
    first.sum().backward()
    assert fine.grad is None and torch.equal(coarse.grad, torch.ones(3, 2))
    second.sum().backward()
    assert torch.equal(fine.grad, torch.ones(3, 4))


def test_a_fastai_learner_trains_with_it():
    fastai = pytest.importorskip("fastai.tabular.all", reason="fastai is not installed: pip install hierlearn[torch]")
    x, y = torch.randn(64, 3), torch.randint(0, 6, (64,))
    data = fastai.DataLoaders.from_dsets(list(zip(x, y)), list(zip(x, y)), bs=16, device="cpu")
    learner = fastai.Learner(data, torch.nn.Linear(3, 6), loss_func=HXE(SIX, 0.3), opt_func=fastai.SGD)
    with learner.no_bar(), learner.no_logging(): learner.fit(2, 0.1)
    assert np.isfinite(learner.recorder.losses[-1])
    batch = fastai.TensorCategory(y[:8])  # labels of fastai are tensors with rules of their own
    assert HXE(SIX, 0.3)(fastai.TensorBase(torch.zeros(8, 6)), batch).isfinite()


def test_imagenet_rows_agree():
    tree = Taxonomy.imagenet()
    loss = Conditional(tree)
    assert loss.num_outputs == len(loss.edges) == 1374
    assert round((branches(tree).taken >= 0).sum(1).mean()) == 47  # outputs that a label touches, as the page says
    u, y = drawn(loss, 4, dtype=torch.float32)
    assert torch.allclose(loss(u, y), CrossEntropy(tree)(loss.log_probs(u), y), rtol=1e-5)
    z, y = drawn(CrossEntropy(tree), 4, dtype=torch.float32)
    hxe = HXE(tree, 0.3)
    assert torch.allclose(hxe(z, y).double(), hxe(z.double(), y), rtol=1e-6)
