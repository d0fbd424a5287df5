"""Does bfloat16 cost accuracy? The six-layer net on real CIFAR-10, some seeds in each precision, everything else the same.

    HIERLEARN_DATA=... python tests/benchmarks/bench_precision.py [--seeds 3] [--epochs 4] [--images 20000]

It goes on where it was killed. Writes nbs/results/bench_precision.json: lists with one number a seed, a curve for each run.
"""
import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from hierlearn.checkpoints import config_digest
from hierlearn.experiments.six_layer import SixLayerConfig, prepare, train_torch
from hierlearn.records import write_record
from hierlearn.runs import Job

RESULTS = Path(__file__).resolve().parents[2] / "nbs" / "results"
ARMS = ("bfloat16", "float32")


def run(config, checkpoints):
    "Accuracies, seconds and curves of one training."
    task = prepare(config)
    folder = Path(checkpoints) / f"bench_precision_{config_digest(config)}"
    answers, history, _ = train_torch(Job(config, config.precision, {}, folder), task)
    images, labels = task.test
    right = float((answers(images, config.precision).argmax(1) == labels).mean())
    return task, {"test_accuracy": right, "validation_accuracy": max(history["val_accuracy"]), "seconds": sum(history["seconds"])}, history


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=20_000, help="training images")
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    config, start = SixLayerConfig(epochs=given.epochs, train_images=given.images), time.perf_counter()
    metrics, curves = {}, {}
    for seed in range(given.seeds):
        for precision in ARMS:
            task, found, history = run(replace(config, seed=seed, precision=precision), given.checkpoints)
            print(f"{precision}, seed {seed}:", {name: round(value, 4) for name, value in found.items()}, flush=True)
            for name, value in found.items(): metrics.setdefault(f"{name}_{precision}", []).append(value)
            curves |= {f"{name}_{precision}_seed_{seed}": history[name] for name in ("loss", "val_accuracy")}
    paired = np.subtract(*(metrics[f"test_accuracy_{precision}"] for precision in ARMS))
    metrics |= {"bfloat16_minus_float32": paired.mean(), "standard_error": paired.std(ddof=1) / len(paired) ** 0.5}
    write_record("bench_precision", None, metrics, config, task.name, task.digest, range(given.seeds), time.perf_counter() - start,
                 " and ".join(ARMS), curves, folder=given.results)


if __name__ == "__main__": main()
