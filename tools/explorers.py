"""Write the explorers' golden data, copy their pages into the package: `python tools/explorers.py` (`--check`:
compare).

Each explorer in nbs/explorers/ draws with a few JavaScript functions. The golden JSON beside it holds what the
library's NumPy functions compute for the same arguments; tests/test_explorers.py runs the JavaScript against it.
"""
import json, sys
from pathlib import Path
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PAGES, PACKAGED = ROOT/"nbs"/"explorers", ROOT/"hierlearn"/"explorers"
# the page's name of a rule -> the library's
LIBRARY = {"sum": "log_sum_exp"}


def pooling():
    "Sizes, pooled maps and read counts for every z and s of the pooling explorer"
    from hierlearn.alexnet_small import max_pool2d, pool_output_size
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, 10, (7, 7)), np.eye(7, dtype=int)[::-1]*np.arange(7)]
    one_hot = np.eye(49, dtype=int).reshape(49, 7, 7)
    cases = []
    for padding in ("valid", "same"):
        for z in range(1, 6):
            for s in range(1, 6):
                # an input is read as often as a map that is 1 there and 0 elsewhere has outputs of 1
                reads = [int(max_pool2d(hot, z, s, padding).sum()) for hot in one_hot]
                cases.append(dict(z=z, s=s, padding=padding,
                    sizes={n: int(pool_output_size(n, z, s, padding)) for n in range(z, 13)},
                    pooled=[max_pool2d(m, z, s, padding).tolist() for m in maps],
                    counts=np.reshape(reads, (7, 7)).tolist()))
    return dict(maps=[m.tolist() for m in maps], cases=cases)


def hypernym_data():
    "The tree and the pictures that the hypernym explorer's page holds: classes below carnivore.n.01, real logits"
    from hierlearn.coarse_extraction import group_scores
    from hierlearn.coarse_words import select_members
    from hierlearn.decisions import softmax
    from hierlearn.experiments.coarse_extraction import stored_logits
    from hierlearn.taxonomy import Taxonomy
    tree, stored, nodes = Taxonomy.imagenet(), stored_logits(), []
    def walk(node, parent):
        nodes.append([node, parent])
        here, size = len(nodes) - 1, lambda child: len(tree.leaf_indices(child))
        for child in sorted(tree.children(node),
            key=lambda child: (not tree.children(child), size(child), tree.leaf_indices(child)[0])): walk(child, here)
    walk("carnivore.n.01", -1)
    leaves = [tree.index(node) for node, _ in nodes if not tree.children(node)]
    logits, dog = stored["pets"].astype(float), stored["pet_labels"].astype(bool)
    groups = select_members(["cat", "dog"])
    cat_by = {rule: softmax(group_scores(logits, groups, LIBRARY.get(rule, rule)))[:, 0] for rule in ("mean", "sum")}
    mean, total, gap = cat_by["mean"] > .5, cat_by["sum"] > .5, np.abs(cat_by["mean"] - cat_by["sum"])
    def pick(chosen, count=1): return np.flatnonzero(chosen)[np.argsort(-gap[chosen], kind="stable")][:count]
    kinds = {"a cat, the sum is wrong": pick(~dog & mean & ~total, 2),
        "a cat, the mean is wrong": pick(~dog & ~mean & total), "a dog, the mean is wrong": pick(dog & mean & ~total),
        "a cat, both right": np.flatnonzero(~dog & mean & (cat_by["sum"] > .99))[:1],
        "a dog, both right": np.flatnonzero(dog & ~mean & (cat_by["sum"] < .01))[:1]}
    pictures = [dict(name=f"{kind} ({stored['pet_files'][i]})",
        logits=[round(float(z), 2) for z in logits[i, leaves]]) for kind, found in kinds.items() for i in found]
    return dict(nodes=nodes, pictures=pictures)


def hypernyms():
    "Coarse probabilities of every rule for pairs of nodes, for each picture of the hypernym explorer"
    from hierlearn.coarse_extraction import group_scores
    from hierlearn.decisions import softmax
    from hierlearn.taxonomy import Taxonomy
    data, tree = hypernym_data(), Taxonomy.imagenet()
    leaves = [node for node, _ in data["nodes"] if not tree.children(node)]
    members = {node: [leaves.index(leaf) for leaf in sorted(tree.descendant_leaves(node), key=leaves.index)] for node,
        _ in data["nodes"] if tree.children(node)}
    pairs = [("cat.n.01", "dog.n.01"), ("feline.n.01", "canine.n.02"), ("domestic_cat.n.01", "wolf.n.01"),
        ("bear.n.01", "fox.n.01"), ("tabby.n.01", "terrier.n.01")]
    members |= {leaf: [place] for place, leaf in enumerate(leaves)}
    cases = []
    for number, picture in enumerate(data["pictures"]):
        for a, b in pairs:
            for rule, t in [("mean", None), ("sum", None), ("log_mean_exp", None), ("tempered", .25),
                ("tempered", 2.), ("tempered", 32.)]:
                probs = softmax(group_scores(np.array([picture["logits"]]), [members[a], members[b]],
                    LIBRARY.get(rule, rule), t))[0]
                cases.append(dict(picture=number, a=a, b=b, rule=rule, t=t,
                    probs=[round(float(p), 9) for p in probs]))
    return dict(members={node: members[node] for node in ("cat.n.01", "dog.n.01", "carnivore.n.01", "tabby.n.01")},
        data=data, cases=cases)


def fill_hypernyms():
    "Write the data into the page; its own script runs between the two marks"
    page, data = PAGES/"hypernyms.html", json.dumps(hypernym_data(), separators=(",", ":"))
    before, rest = page.read_text("utf-8").split("/*data*/")
    page.write_text(before + "/*data*/" + data + "/*end*/" + rest.split("/*end*/")[1], "utf-8")


SEVERITY_TREE = {"pet": {"cat": ["Birman", "Siamese", "Sphynx"],
    "dog": {"toy": ["Chihuahua", "pug"], "hound": ["basset", "beagle"]}}}


def severity():
    "Costs, expected costs and the three answers for many predictions of the severity explorer"
    from hierlearn.decisions import back_off, conditional_risk, crm, node_probabilities
    from hierlearn.metrics import top_k
    from hierlearn.taxonomy import Taxonomy
    tree, rng, cases = Taxonomy.from_dict(SEVERITY_TREE), np.random.default_rng(0), []
    costs = {"height": tree.lca_height_matrix(), "one": 1. - np.eye(len(tree))}
    fixed = [[1, 5, 34, 30, 14, 8, 8], [1, 1, 2, 3, 7, 46, 40], [0, 0, 0, 100, 0, 0, 0], [1] * 7]
    drawn = [rng.integers(0, 101, 7) ** power // 100 ** (power - 1) for power in (1, 2, 4) for _ in range(20)]
    for number, parts in enumerate([*fixed, *drawn]):
        parts = np.array(parts) if sum(parts) else np.ones(7, int)
        probs, kind = (parts / parts.sum())[None], ("height", "one")[number % 2]
        risk, nodes = conditional_risk(probs, costs[kind])[0], node_probabilities(tree, probs, list(tree.nodes))[0]
        # a threshold that no branch meets but for rounding, where the last digit would decide
        at = next(int(t) for t in rng.permutation(101) if np.abs(nodes - t / 100).min() > 1e-9)
        best = int(crm(probs, costs[kind])[0])
        level = [i for i in range(7) if risk[i] - risk[best] < 1e-12]  # equal but for rounding
        cases.append(dict(parts=parts.tolist(), kind=kind, at=at, expected=[round(float(r), 12) for r in risk],
            likeliest=int(top_k(probs, 1)[0, 0]), crm=level, back_off=str(back_off(tree, probs, at / 100)[0])))
    return dict(leaves=list(tree.leaves), costs={kind: cost.tolist() for kind, cost in costs.items()}, cases=cases)


def elu():
    "Means, derivatives' means and histograms of ELU and ReLU for normal inputs of many kinds"
    from hierlearn.elu_cifar100 import elu, elu_grad
    relu, relu_grad = lambda x: np.maximum(x, 0), lambda x: (x > 0)*1.
    z = -5 + 10*np.arange(4001)/4000
    share = np.exp(-z**2/2)
    share /= share.sum()
    def bars(y):
        places = np.clip(np.floor((y + 2)/.25), 0, 39).astype(int)
        return np.bincount(places, share, 40).round(9).tolist()
    places, cases = np.linspace(-6, 6, 25), []
    curves = [dict(a=a, f=elu(places, a).round(12).tolist(), grad=elu_grad(places, a).round(12).tolist())
        for a in (.1, .5, 1, 2)]
    for a in (.1, .5, 1, 2):
        for m in (-3, -1.5, 0, .4, 3):
            for w in (.2, 1, 2):
                x = m + w*z
                means = {"elu": elu(x, a), "relu": relu(x), "eluGrad": elu_grad(x, a), "reluGrad": relu_grad(x)}
                cases.append(dict(a=a, m=m, w=w, **{name: round(float(share @ y), 12) for name, y in means.items()},
                    eluBars=bars(elu(x, a)), reluBars=bars(relu(x))))
    return dict(x=places.tolist(), curves=curves, cases=cases)


GOLDEN = {"pooling": pooling, "hypernyms": hypernyms, "severity": severity, "elu": elu}


def golden_text(name):
    "The golden data of an explorer as JSON, one case a line"
    data = GOLDEN[name]()
    return json.dumps({**data, "cases": []})[:-2] + "\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case
        in data["cases"]) + "\n]}\n"


def wanted():
    "Every file this tool writes: path -> text"
    files = {PAGES/"golden"/f"{name}.json": golden_text(name) for name in GOLDEN}
    return files | {PACKAGED/page.name: page.read_text("utf-8") for page in sorted(PAGES.glob("*.html"))}


if __name__ == "__main__":
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        if stale:
            sys.exit(
                f"out of step: {', '.join(str(p.relative_to(ROOT)) for p in stale)}; run python tools/explorers.py")
    else:
        fill_hypernyms()
        for path, text in wanted().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        print(f"{len(stale)} files changed")
