"hierlearn.graph: leaves as first met, the order check, the layout of drawings, and what is refused."
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.graph import Graph

MIXED = [("animal", "cat"), ("vehicle", "bus"), ("animal", "dog"), ("vehicle", "car")]


@st.composite
def edge_lists(draw):
    "Edges of a random acyclic graph, parents before or behind their children, in any order."
    size = draw(st.integers(2, 12))
    names = draw(st.permutations([f"n{i}" for i in range(size)]))
    edges = [(names[parent], names[i]) for i in range(1, size)
             for parent in draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True))]
    return draw(st.permutations(edges or [(names[0], names[1])]))


def first_met(edges):
    "Childless names in the order in which they first stand in the list."
    inside = {parent for parent, _ in edges}
    return tuple(name for name in dict.fromkeys(n for edge in edges for n in edge) if name not in inside)


def test_leaves_stand_as_first_met():
    assert Graph(MIXED).leaves == ("cat", "bus", "dog", "car")
    several = [("pet", "dog"), ("pet", "cat"), ("canine", "dog"), ("canine", "wolf")]
    assert Graph(several).leaves == ("dog", "cat", "wolf")
    assert Graph(MIXED, ["car", "cat", "dog", "bus"]).leaves == ("car", "cat", "dog", "bus")


@settings(max_examples=80, deadline=None)
@given(edge_lists())
def test_any_list_of_edges_keeps_the_order_of_its_leaves(edges):
    graph = Graph(edges)
    assert graph.leaves == first_met(edges)
    assert Graph(graph.edges(), graph.leaves, graph.root) == graph == pickle.loads(pickle.dumps(graph)) == copy.deepcopy(graph)
    graph.check_order(graph.leaves)
    turned = graph.restrict(graph.leaves[::-1])
    assert turned.leaves == graph.leaves[::-1] and set(turned.edges()) == set(graph.edges())
    if len(graph) > 1:
        with pytest.raises(ValueError, match="differ in order"): graph.check_order(turned.leaves)
        with pytest.raises(ValueError, match="only in"): graph.check_order(graph.leaves[1:])


def test_a_child_of_none_stands_at_the_top():
    graph = Graph([(None, "cat"), ("pet", "dog"), (None, "pet")])
    assert (graph.root, graph.children("root"), graph.leaves) == ("root", ("cat", "pet"), ("cat", "dog"))
    assert Graph([(None, "cat")]).root == "cat" and Graph([(None, "pet"), ("pet", "cat")]).root == "pet"
    both = Graph([(None, "animal"), ("animal", "pet"), (None, "pet"), ("pet", "cat")])
    assert both.parents("pet") == ("root", "animal") and both.depth("pet") == 2


def test_the_order_check_names_the_place_and_the_way_out():
    graph = Graph(MIXED)
    assert graph.check_order(["cat", "bus", "dog", "car"]) is None
    assert graph.check_order(np.array(["cat", "bus", "dog", "car"])) is None
    for names, words in ((["cat", "dog", "bus", "car"], "classes of net and the taxonomy's leaves differ in order (at 1: 'dog', 'bus'); use taxonomy.restrict(names)"),
                         (["cat", "bus", "dog", "van"], "only in classes of net: van; only in the taxonomy's leaves: car"),
                         (["cat", "bus", "dog"], "only in the taxonomy's leaves: car"),
                         (["cat", "bus", "dog", "car", "cat"], "'cat' stands twice in classes of net"),
                         ("cat", "must be a list of names"), ([1, 2, 3, 4], "must be strings"), (None, "must be a list")):
        with pytest.raises(ValueError) as error: graph.check_order(names, "classes of net")
        assert words in str(error.value) and "\n" not in str(error.value)
    graph.restrict(["cat", "dog", "bus", "car"]).check_order(["cat", "dog", "bus", "car"])


def test_a_class_that_has_children():
    tree = Graph([("animal", "dog"), ("dog", "poodle"), ("animal", "cat")], ["dog", "poodle", "cat"])
    assert tree.leaf_indices("dog").tolist() == [0, 1] and tree.descendant_leaves("poodle") == ("poodle",)
    assert tree.leaf_indices("poodle").tolist() == [1] and tree.leaf_indices("poodle").dtype == np.int64


def test_restrict_makes_leaves_of_inner_nodes():
    tree = Graph([("animal", "dog"), ("dog", "poodle"), ("dog", "pug"), ("animal", "cat")])
    coarse = tree.restrict(["cat", "dog"])
    assert (coarse.leaves, set(coarse.edges())) == (("cat", "dog"), {("animal", "dog"), ("animal", "cat")})
    assert tree.restrict([1, "dog", 0]).leaves == ("pug", "dog", "poodle")


def test_details_are_kept():
    details = {"dog": {"gloss": "a pet", "lemmas": ["dog", "domestic_dog"], "senses": [1, 1], "wnid": "n1"},
               "crane.n.02": {"lemmas": ["crane"], "senses": [2]}, "crane.n.01": {"lemmas": ["crane"], "senses": [1]},
               "cow": {"lemmas": ["cow"], "label": "Cow"}, "elsewhere": {"gloss": "-"}}
    graph = Graph([("animal", name) for name in ("dog", "crane.n.02", "crane.n.01", "cow", "black_cat")], details=details)
    assert (graph.gloss("dog"), graph.lemmas("dog"), graph.wnid("dog")) == ("a pet", ("dog", "domestic_dog"), "n1")
    assert [graph.display_name(n) for n in ("dog", "cow", "black_cat")] == ["dog", "Cow", "black_cat"]
    assert graph.find("crane") == ("crane.n.01", "crane.n.02") and graph.find("Domestic dog") == ("dog",) == graph.find("N1")
    assert (graph.sense_rank("crane.n.02", "Crane"), graph.sense_rank("cow", "dog")) == (2, 0)
    assert "crane" in graph.suggest("crand") and pickle.loads(pickle.dumps(graph)).gloss("dog") == "a pet"
    with pytest.raises(ValueError, match="no gloss for 'cow'"): graph.gloss("cow")


def test_many_leaves_cost_little():
    names = [f"class {i}" for i in range(40_000)]
    wide = Graph([("root", name) for name in names])
    assert len(wide) == 40_000 and wide.leaf_indices("root").tolist() == list(range(40_000))
    assert len(wide._bits) == 1  # a leaf keeps no bits of its own
    with pytest.raises(ValueError, match="'class 39999' stands twice in leaves"): Graph([], [*names, "class 39999"])


def test_deep_graphs_need_no_recursion():
    deep = Graph([(f"n{i}", f"n{i + 1}") for i in range(3000)])
    assert deep.height("n0") == deep.depth("n3000") == 3000 and deep.leaf_indices("n5").tolist() == [0]
    assert deep.simplify().nodes == ("n3000",) and len(deep.to_text(20).splitlines()) <= 22
    with pytest.raises(ValueError, match="too deep for a nested dict; use to_json"): deep.to_dict()
    with pytest.raises(ValueError, match="n0 -> n1 -> n2"): Graph([*deep.edges(), ("n3000", "n0")])


@pytest.mark.parametrize("call, words", [
    (lambda: Graph([("a", "b"), ("b", "a"), ("c", "a")]), "the edges form a cycle: a -> b -> a; remove one of them"),
    (lambda: Graph([("a", None)]), "names must be strings that are not empty, got None"),
    (lambda: Graph([("a", "b")], "b"), "leaves must be a list of names, got 'b'; write ['b']"),
    (lambda: Graph([("a", "b")], []), "leaves is empty"),
    (lambda: Graph([("a", "b")], ["b", "x\n"]), "leaves not in the hierarchy: x"),
    (lambda: Graph([("a\n", "b"), ("b", "a\n")]), "cycle: a -> b -> a; remove"),
    (lambda: Graph([]), "needs at least one leaf"),
    (lambda: Graph([("a", "b"), ("c", "root")]), "the virtual root 'root' has the name of a node"),
    (lambda: Graph(MIXED).restrict([True]), "leaf position must be an integer"),
    (lambda: Graph(MIXED).membership_matrix({"g": [0.5]}), "names must be strings"),
    (lambda: Graph(MIXED).to_text(0), "max_rows must be an integer of at least 1"),
    (lambda: Graph(MIXED).height(3), "unknown node 3"),
])
def test_bad_graphs_and_questions_are_told_in_one_line(call, words):
    with pytest.raises(ValueError) as error: call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_graph_cannot_be_changed_and_says_its_size():
    graph = Graph(MIXED)
    for change in (lambda: setattr(graph, "leaves", ()), lambda: delattr(graph, "root")):
        with pytest.raises(AttributeError, match="a Graph cannot be changed; make a new one"): change()
    assert repr(graph).splitlines() == ["Graph: 4 leaves, 7 nodes, height 2", "root", "├─ animal: cat, dog", "└─ vehicle: bus, car"]
    assert graph != "graph" and graph == Graph(MIXED[::-1], graph.leaves)
