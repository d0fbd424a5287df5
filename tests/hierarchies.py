"Random hierarchies with probabilities and labels, and six classes to think with: what the tests of metrics, decisions and report share."
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from hierlearn.taxonomy import Taxonomy

SIX = Taxonomy.from_dict({"animal": {"feline": ["cat", "lynx"], "dog": None}, "vehicle": ["car", "bus", "boat"]}, leaves=("cat", "lynx", "dog", "car", "bus", "boat"))
CAT, LYNX, DOG, CAR, BUS, BOAT = range(6)
PROBS = np.array([[.50, .30, .10, .04, .03, .03], [.40, .45, .05, .04, .03, .03], [.30, .05, .25, .02, .36, .02], [.05, .05, .10, .30, .20, .30]])
LABELS = np.array([CAT, CAT, CAT, BOAT])
NAN = np.where(PROBS == .45, np.nan, PROBS)
quick = settings(max_examples=30, deadline=None)


# random hierarchies, probabilities and labels; scores are distinct, so that no tie hides behind a convention

@st.composite
def hierarchies(draw, several_parents=True):
    "A random rooted graph of uneven depth with 2 to 12 leaves, some with several parents."
    seed = draw(st.integers(0, 10**6))
    rng = np.random.default_rng(seed)
    inner, leaves = [f"n{i}" for i in range(rng.integers(1, 6))], [f"l{i}" for i in range(rng.integers(2, 13))]
    edges = [(inner[rng.integers(0, i)], inner[i]) for i in range(1, len(inner))]
    edges += [(inner[rng.integers(0, len(inner))], leaf) for leaf in leaves]
    if several_parents: edges += [(inner[rng.integers(0, len(inner))], leaf) for leaf in leaves if rng.random() < .3]
    edges += [(node, f"extra-{node}") for node in inner if not any(parent == node for parent, _ in edges)]
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
