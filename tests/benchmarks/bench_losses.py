"""Time of each hierarchical loss, forward and backward, against plain cross-entropy, with the 1,000 ImageNet classes.

python tests/benchmarks/bench_losses.py [--fast]     writes nbs/results/bench_losses.json

One process, one run: in each round every loss takes its turn, so that what else the machine does meets all of them alike. The ratio is
that of the medians. Plain cross-entropy is PyTorch's function on logits (256, 1000); the losses do the same work on the same logits
(the softmax at each parent on its node logits) and check them besides.
"""
import statistics
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parents[2] / "nbs" / "results" / "bench_losses.json"
BATCH, ROUNDS, INNER, LIMIT = 256, 60, 5, 2.0


def seconds_of(step, logits, inner):
    start = time.process_time()
    for _ in range(inner):
        logits.grad = None
        step().backward()
    return (time.process_time() - start) / inner


def main():
    import numpy as np
    import torch

    from hierlearn.losses import HXE, Conditional, CrossEntropy, ExpectedCost, MultiLevel, SiblingSmoothing, SoftLabels
    from hierlearn.taxonomy import Taxonomy
    begin, rounds = time.perf_counter(), 10 if "--fast" in sys.argv else ROUNDS
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two threads wait for each other on a machine that does other work, too
    tree = Taxonomy.imagenet()
    made = {"cross-entropy with checks": CrossEntropy(tree), "sibling smoothing": SiblingSmoothing(tree, 0.1), "soft labels": SoftLabels(tree, 10),
            "expected cost": ExpectedCost(tree), "HXE": HXE(tree, 0.3), "multi-level": MultiLevel(tree), "conditional": Conditional(tree)}
    labels = torch.randint(0, len(tree), (BATCH,))
    logits = {name: torch.randn(BATCH, loss.num_outputs, requires_grad=True) for name, loss in made.items()}
    plain = torch.randn(BATCH, len(tree), requires_grad=True)
    steps = {"cross-entropy": (lambda: torch.nn.functional.cross_entropy(plain, labels), plain)}
    steps |= {name: (lambda loss=loss, x=logits[name]: loss(x, labels), logits[name]) for name, loss in made.items()}
    found = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, (step, x) in steps.items(): found[name].append(seconds_of(step, x, INNER))
    base = statistics.median(found["cross-entropy"][2:])
    rows = []
    for name, all_seconds in found.items():
        median = statistics.median(all_seconds[2:])
        outputs = len(tree) if name == "cross-entropy" else made[name].num_outputs
        rows.append({"loss": name, "outputs": outputs, "microseconds": round(median * 1e6, 1), "fastest_microseconds": round(min(all_seconds) * 1e6, 1),
                     "ratio": round(median / base, 3)})
        print(f'{name:>26} {outputs:>6,} outputs {rows[-1]["microseconds"]:>9.1f} µs {rows[-1]["ratio"]:>6.2f} x')
    met = bool(np.all([row["ratio"] <= LIMIT for row in rows]))
    print(f'{"every loss within" if met else "OVER"} {LIMIT} x plain cross-entropy')
    if "--fast" not in sys.argv:
        from hierlearn.records import write_record
        settings = {"taxonomy": "imagenet", "classes": len(tree), "batch": BATCH, "rounds": rounds, "inner": INNER, "threads": 1}
        write_record("bench_losses", None, {"rows": rows, "limits": {"ratio": LIMIT}, "met": met}, settings, seed=0,
                     seconds=time.perf_counter() - begin, precision="float32", folder=RESULT.parent)
    return 0 if met else 1


if __name__ == "__main__": sys.exit(main())
