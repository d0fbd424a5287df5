"Tables of the hierarchical losses: rows, weights, ways, and trees made of graphs."
import numpy as np
import pytest
from hierarchies import SIX, hierarchies, quick
from hypothesis import given

from hierlearn.targets import (
    Branches, Levels, answer_costs, branches, check_levels, common_depths, hxe_weights, level_weights, one_parent,
    sibling_targets, soft_targets)
from hierlearn.taxonomy import Taxonomy

DIAMOND = Taxonomy.from_edges([("pet", "dog"), ("pet", "cat"), ("canine", "dog"), ("canine", "wolf"), ("pet", "fish")],
                              leaves=["dog", "cat", "wolf", "fish"])
OWN = Taxonomy.from_edges([("top", "dog"), ("dog", "puppy"), ("dog", "hound"), ("top", "cat")], leaves=["puppy", "dog", "cat", "hound"])


@quick
@given(hierarchies())
def test_one_parent_makes_a_tree_of_the_same_leaves(graph):
    tree = one_parent(graph)
    assert tree.leaves == graph.leaves and tree.root == graph.root
    assert all(len(tree.parents(node)) == (node != tree.root) for node in tree.nodes)
    for node in tree.nodes[1:]:
        sizes = {parent: len(graph.leaf_indices(parent)) for parent in graph.parents(node)}
        assert sizes[tree.parents(node)[0]] == min(sizes.values())


def test_one_parent_takes_the_narrower_group():
    assert one_parent(SIX) is SIX
    assert one_parent(DIAMOND).parents("dog") == ("canine",)


@quick
@given(hierarchies())
def test_rows_are_distributions(graph):
    for rows in (sibling_targets(graph), soft_targets(graph, 0), soft_targets(graph, 7.5)):
        assert rows.shape == (len(graph),) * 2 and (rows >= 0).all()
        assert np.allclose(rows.sum(1), 1, atol=1e-12)
    assert np.allclose(soft_targets(graph, 0), 1 / len(graph))
    soft, heights = soft_targets(graph, 5), graph.lca_height_matrix()
    ratio = np.log(soft / np.diag(soft)[:, None])
    assert np.allclose(ratio, -5 * heights / graph.height(graph.root))


def test_sibling_targets_by_hand():
    half, third = 1 / 2, 1 / 3
    assert np.allclose(sibling_targets(SIX)[[0, 2, 3]],
                       [[half, half, 0, 0, 0, 0], [third, third, third, 0, 0, 0], [0, 0, 0, third, third, third]])
    # a dog has two parents, and each counts alike: pets are dog, cat, fish; canines are dog, wolf
    assert np.allclose(sibling_targets(DIAMOND)[0], [1 / 6 + 1 / 4, 1 / 6, 1 / 4, 1 / 6])
    assert np.allclose(sibling_targets(OWN)[1], [third, third, 0, third])  # a class with children: those and itself


def test_costs_are_those_of_decisions():
    cost = np.arange(36.0).reshape(6, 6)
    assert np.array_equal(answer_costs(SIX, cost), cost.T)
    assert np.array_equal(answer_costs(SIX), SIX.lca_height_matrix())
    for bad in (cost[:5], cost * np.nan, cost[0]):
        with pytest.raises(ValueError, match=r"shape \(6, 6\)"): answer_costs(SIX, bad)


def shared(tree, a, b):
    "Steps that two leaves share, from the names of their ancestors."
    ways = [list(reversed(tree.ancestors(leaf, include_self=True))) for leaf in (a, b)]
    return sum(x == y for x, y in zip(*ways)) - 1


@quick
@given(hierarchies())
def test_common_depths(graph):
    tree, depths = one_parent(graph), common_depths(graph)
    for i, a in enumerate(tree.leaves):
        for j, b in enumerate(tree.leaves):
            if i != j: assert depths[i, j] == shared(tree, a, b)
    off = depths[~np.eye(len(tree), dtype=bool)]
    assert (np.diag(depths) > off.max(initial=-1)).all() and len(set(np.diag(depths))) == 1


def test_path_weights_by_hand():
    e = np.exp(-0.5)
    cat = [1, e - 1, e**2 - e, -(e**2)]  # edges above animal, feline, cat
    assert np.allclose(hxe_weights(SIX, 0.5)[[0, 2]], [cat, [1, e - 1, -e, 0]])
    assert np.allclose(hxe_weights(SIX, 0).sum(1), 0)
    plain = hxe_weights(SIX, 0)
    assert np.allclose(plain, [[1, 0, 0, -1]] * 2 + [[1, 0, -1, 0]] * 4)
    assert np.allclose(level_weights(SIX, [1], [0.25, 0.75])[0], [1, -0.25, 0, -0.75])
    assert np.allclose(hxe_weights(OWN, 1)[1], [1, np.exp(-1) - 1, -np.exp(-1)])  # dog, the class, is a child of dog


def test_check_levels():
    found = check_levels(SIX)
    assert isinstance(found, Levels) and found.depths == (1, 2) and np.allclose(found.weights, 1 / 3)
    assert found.groups == (("animal", "vehicle"), ("feline", "dog", "car", "bus", "boat"), SIX.leaves)
    assert [t.tolist() for t in found.tables] == [[0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    for levels, weights, says in (([2, 1], None, "rising"), ([0], None, "level"), ([3], None, "level"), (1, None, "rising"),
                                  ([1], [1], "weights must be 2"), ([1], [0, 0], "not all 0"), ([1], [-1, 2], "weight of a level")):
        with pytest.raises(ValueError, match=says): check_levels(SIX, levels, weights)


@quick
@given(hierarchies())
def test_branches_hold_the_tree(graph):
    if len(graph) < 2: return
    tree, b = one_parent(graph), branches(graph)
    assert isinstance(b, Branches) and len(set(b.edges)) == len(b.edges)
    parents = [node for node in tree.nodes if len(tree.children(node)) > 1]
    assert set(b.edges) == {(node, child) for node in parents for child in tree.children(node)}
    assert (np.diff(b.parent) >= 0).all()  # sisters stand side by side
    for i, leaf in enumerate(tree.leaves):
        above = [*tree.ancestors(leaf, include_self=True)]
        way = {(up, node) for node, up in zip(above, above[1:]) if len(tree.children(up)) > 1}
        assert {b.edges[s] for s, taken in zip(b.sisters[i], b.taken[i]) if taken == 1} == way
        assert sum(b.taken[i] >= 0) == sum(len(tree.children(up)) for up, _ in way)
        assert (b.idle[i] == 0).sum() == len(way)


def test_a_class_with_children_is_a_child_of_itself():
    assert set(branches(OWN).edges) == {("top", "dog"), ("top", "cat"), ("dog", "puppy"), ("dog", "hound"), ("dog", "dog")}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", True])
def test_numbers_that_are_none(value):
    with pytest.raises(ValueError, match="beta must be a number"): soft_targets(SIX, value)
    with pytest.raises(ValueError, match="alpha must be a number"): hxe_weights(SIX, value)


def test_one_class():
    with pytest.raises(ValueError, match="a single class"): branches(Taxonomy.from_dict(["cat"]))
