"""How fast the shipped ImageNet graph answers, against NLTK's closure: medians of one run, ratios within it.

    python tests/benchmarks/bench_taxonomy.py        (NLTK_DATA must have WordNet for the comparison)
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

import hierlearn.taxonomy as module
from hierlearn.records import write_record
from hierlearn.taxonomy import Taxonomy

GROUPS = ("cat.n.01", "dog.n.01", "bird.n.01", "car.n.01", "boat.n.01", "fruit.n.01", "animal.n.01", "artifact.n.01")


def median(call, repeats):
    "Median seconds of one call"
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def load():
    module._imagenet.cache_clear()
    return Taxonomy.imagenet()


def nltk_times(tree):
    "Seconds to load the corpus in a fresh process, and seconds of the straightforward query for each group, with NLTK's cache empty and full"
    code = "import time; s = time.perf_counter()\nfrom nltk.corpus import wordnet\nwordnet.ensure_loaded(); print(time.perf_counter() - s)"
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    from nltk.corpus import wordnet
    wordnet.ensure_loaded()
    offsets = [int(tree.wnid(leaf)[1:]) for leaf in tree.leaves]
    def query(name):
        members = {*wordnet.synset(name).closure(lambda synset: synset.hyponyms()), wordnet.synset(name)}
        return [i for i, offset in enumerate(offsets) if wordnet.synset_from_pos_and_offset("n", offset) in members]
    for name in GROUPS: assert query(name) == tree.leaf_indices(name).tolist()
    def cold(name):
        wordnet._synset_offset_cache.clear()
        return query(name)
    return seconds, {name: median(lambda: cold(name), 3) for name in GROUPS}, {name: median(lambda: query(name), 3) for name in GROUPS}


def main():
    start, tree = time.perf_counter(), load()
    result = {
        "load_ms": 1e3 * median(load, 15),
        "first_query_us": {name: 1e6 * median(lambda: tree.leaf_indices(name), 500) for name in GROUPS},  # nothing is remembered
        "names_query_us": {name: 1e6 * median(lambda: tree.descendant_leaves(name), 500) for name in GROUPS},
        "lca_height_matrix_ms": 1e3 * median(tree.lca_height_matrix, 5),
        "distance_matrix_ms": 1e3 * median(tree.distance_matrix, 5),
        "membership_matrix_of_all_nodes_ms": 1e3 * median(lambda: tree.membership_matrix(tree.nodes), 5),
    }
    try: corpus, slow, warm = nltk_times(tree)
    except LookupError: print("no WordNet corpus: set NLTK_DATA for the comparison with NLTK")
    else:
        result |= {"nltk_load_s": corpus, "nltk_query_ms": {name: 1e3 * seconds for name, seconds in slow.items()},
                   "nltk_cached_query_ms": {name: 1e3 * seconds for name, seconds in warm.items()},
                   "times_faster": {name: 1e6 * slow[name] / result["first_query_us"][name] for name in GROUPS}}
    for key, value in result.items():
        if not isinstance(value, dict): print(f"{key:36} {value:.3g}")
    columns = [key for key, value in result.items() if isinstance(value, dict)]
    print(f"\n{'group':16} classes " + " ".join(f"{key:>18}" for key in columns))
    for name in GROUPS: print(f"{name:16} {len(tree.leaf_indices(name)):7} " + " ".join(f"{result[key][name]:18.3g}" for key in columns))
    folder = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent.parent / "nbs" / "results"
    write_record("bench_taxonomy", None, result, data="ImageNet's WordNet 3.0 graph", digest=tree.digest, seconds=time.perf_counter() - start, folder=folder)


if __name__ == "__main__": main()
