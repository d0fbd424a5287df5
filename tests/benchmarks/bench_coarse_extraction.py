"""Times of finding the classes below a hypernym and of making a coarse head, beside the straightforward way with NLTK.

    NLTK_DATA=... python tests/benchmarks/bench_coarse_extraction.py

Both ways run in one process; medians are printed and written to nbs/results/bench_coarse_extraction.json.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from hierlearn.coarse_extraction import coarse_weights
from hierlearn.coarse_words import find_hyponyms, select_members
from hierlearn.records import write_record
from hierlearn.taxonomy import Taxonomy

WORDS = ("cat", "dog", "bird", "boat", "fruit", "animal")
TWENTY = ("cat", "dog", "bird", "boat", "fruit", "snake", "lizard", "spider", "butterfly", "beetle", "bear", "monkey", "car", "truck", "aircraft", "furniture", "shoe", "hat", "bottle", "weapon")


def median_time(function, repeats):
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def text(seconds): return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", default=str(Path(__file__).resolve().parents[2] / "nbs" / "results"))
    options = parser.parse_args()
    rows, start = [], time.perf_counter()
    def row(name, ours, theirs=None, limit=None):
        rows.append({"name": name, "ours": text(ours), "theirs": "" if theirs is None else text(theirs), "seconds": ours, "seconds_theirs": theirs, "limit": limit})
        print(f"{name:64} {text(ours):>10} {'' if theirs is None else text(theirs):>10}")
    load = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    def fresh(code): return statistics.median(float(subprocess.run([sys.executable, "-c", load.format(code)], capture_output=True, text=True, check=True).stdout) for _ in range(3))
    row("load the graph", fresh("from hierlearn.taxonomy import Taxonomy; t = time.perf_counter(); Taxonomy.imagenet()"),
        fresh("from nltk.corpus import wordnet; t = time.perf_counter(); wordnet.ensure_loaded()"))
    from nltk.corpus import wordnet
    wordnet.ensure_loaded()
    tree = Taxonomy.imagenet()
    offsets = [int(tree.wnid(leaf)[1:]) for leaf in tree.leaves]
    def straightforward(word):
        node = wordnet.synsets(word)[0]
        below = {node, *node.closure(lambda s: s.hyponyms())}
        return [i for i, offset in enumerate(offsets) if wordnet.synset_from_pos_and_offset("n", offset) in below]
    for word in WORDS:
        assert find_hyponyms(word).tolist() == straightforward(word), word
        row(f"classes below “{word}”", median_time(partial(find_hyponyms, word), 3000), median_time(partial(straightforward, word), 5), 50e-6)
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(1280, 1000)).astype(np.float32), rng.normal(size=1000).astype(np.float32)
    members = list(select_members(TWENTY, overlap="each").values())
    def loop(): return np.stack([weights[:, m].mean(1) for m in members], 1), np.array([bias[m].mean() for m in members])
    assert np.allclose(loop()[0], coarse_weights(weights, bias, members)[0], atol=1e-5)
    row("weights of 20 groups from a head of 1280 × 1000", median_time(lambda: coarse_weights(weights, bias, members), 200), median_time(loop, 200), 5e-3)
    row("groups and weights of 20 words together", median_time(lambda: coarse_weights(weights, bias, select_members(TWENTY, overlap="each")), 100))
    late = [r["name"] for r in rows if r["limit"] and r["seconds"] > r["limit"]]
    write_record("bench_coarse_extraction", None, {"rows": rows}, {"words": WORDS, "groups": TWENTY}, "WordNet 3.0 above ImageNet-1k",
                 tree.digest, seed=0, seconds=time.perf_counter() - start, precision="float32", folder=options.results)
    if late: sys.exit(f"slower than promised: {', '.join(late)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
