"""Does bfloat16 cost accuracy? The six-layer net on real CIFAR-10, some seeds in each precision, everything else the same.

    HIERLEARN_DATA=... python tests/benchmarks/bench_precision.py [--seeds 3] [--epochs 4] [--limit 20000]

It goes on where it was killed. Writes nbs/results/precision_parity.quick.json: the record of every run, in one file.
"""
import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from train_six_layer import SixLayerConfig, predict, train

from hierlearn.training import config_digest, write_record

RESULTS = Path(__file__).resolve().parents[2] / "nbs" / "results"


def run(config, checkpoints):
    "The record of one training."
    data, net, history, validation, test = train(config, Path(checkpoints) / config_digest(config))
    logits = predict(net, test[0], config.precision == "bfloat16")
    metrics = {"test_accuracy": float((logits.argmax(1) == test[1]).mean()), "validation_accuracy": history["val_accuracy"][-1]}
    with tempfile.TemporaryDirectory() as folder:
        return write_record("precision_parity", "quick", metrics, asdict(config), config.data, data.digest, config.seed, sum(history["seconds"]), config.precision, history, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--limit", type=int, default=20_000, help="images of each part")
    parser.add_argument("--checkpoints", default="checkpoints")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    runs = [run(SixLayerConfig(epochs=given.epochs, limit=given.limit, seed=seed, precision=precision), given.checkpoints)
            for seed in range(given.seeds) for precision in ("bfloat16", "float32")]
    for found in runs: print(found["header"]["precision"], found["header"]["seed"], found["metrics"], f"{found['header']['seconds']:.0f} s")
    (given.results / "precision_parity.quick.json").write_text(json.dumps({"how": Path(__file__).name, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__": main()
