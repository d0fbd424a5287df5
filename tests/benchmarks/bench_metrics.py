"""Time and peak extra memory of `evaluate` with 1,000 classes, and how both grow with the number of predictions.

python tests/benchmarks/bench_metrics.py [--fast]     writes nbs/results/bench_metrics.json

Each size runs in a process of its own, so that one peak does not hide another. Extra memory is the peak resident size during the
call minus the resident size just before it, when the float32 probabilities are already there.
"""
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parents[2] / "nbs" / "results" / "bench_metrics.json"
CLASSES, SIZES, REPEATS = 1000, (5_000, 10_000, 20_000, 50_000), 3


def taxonomy():
    "The ImageNet hierarchy where it is shipped, else a regular tree of 10 x 10 x 10."
    from hierlearn.taxonomy import Taxonomy
    if hasattr(Taxonomy, "imagenet"): return "imagenet", Taxonomy.imagenet()
    return "regular 10x10x10", Taxonomy.from_dict({f"a{i}": {f"b{i}{j}": [f"c{i}{j}{k}" for k in range(10)] for j in range(10)} for i in range(10)})


def resident():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * resource.getpagesize()


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(samples, answer):
    import numpy as np
    from hierlearn.metrics import _tables
    from hierlearn.report import evaluate
    name, tree = taxonomy()
    _tables(tree)  # made once for each taxonomy
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, samples)
    probs = np.empty((samples, CLASSES), np.float32)
    for start in range(0, samples, 1000):  # by blocks: the input must not leave a peak of its own
        block = rng.standard_normal((min(1000, samples - start), CLASSES), np.float32)
        block[np.arange(len(block)), labels[start:start + 1000]] += 3
        np.exp(block, out=block)
        probs[start:start + 1000] = block / block.sum(1, keepdims=True)
    before, seconds, cpu = resident(), [], []
    for _ in range(REPEATS):
        start, work = time.perf_counter(), time.process_time()
        report = evaluate(tree, probs, labels)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - work)
    answer.put({"taxonomy": name, "samples": samples, "classes": CLASSES, "seconds": round(statistics.median(seconds), 3), "all_seconds": [round(s, 3) for s in seconds],
                "cpu_seconds": round(statistics.median(cpu), 3), "extra_mib": round((peak() - before) / 2**20, 1), "input_mib": round(probs.nbytes / 2**20, 1), "accuracy": report.accuracy.value})


def main():
    sizes, begin = SIZES[:2] if "--fast" in sys.argv else SIZES, time.perf_counter()
    rows, context = [], multiprocessing.get_context("spawn")
    print(f'{"samples":>8} {"seconds":>8} {"CPU":>8} {"per 1,000":>10} {"extra MiB":>10} {"input MiB":>10}')
    for samples in sizes:
        answer = context.Queue()
        process = context.Process(target=measure, args=(samples, answer))
        process.start()
        row = answer.get(timeout=600)
        process.join()
        rows.append(row)
        print(f'{samples:>8,} {row["seconds"]:>8.2f} {row["cpu_seconds"]:>8.2f} {1000 * row["seconds"] / samples:>10.4f} {row["extra_mib"]:>10.0f} {row["input_mib"]:>10.0f}')
    last = rows[-1]
    met = last["seconds"] < 10 and last["extra_mib"] < 2048
    print(f'{last["taxonomy"]}: {"under" if met else "OVER"} 10 s and 2 GiB at {last["samples"]:,} predictions')
    if "--fast" not in sys.argv:
        from hierlearn.records import write_record
        settings = {"classes": CLASSES, "sizes": SIZES, "repeats": REPEATS, "resamples": 1000}
        write_record("bench_metrics", None, {"rows": rows, "limits": {"seconds": 10, "extra_mib": 2048}, "met": met}, settings, seed=0,
                     seconds=time.perf_counter() - begin, precision="float32", folder=RESULT.parent)
    return 0 if met else 1


if __name__ == "__main__": sys.exit(main())
