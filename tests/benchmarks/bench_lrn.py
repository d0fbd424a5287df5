"""Images a second of AlexNet-small's training step: TensorFlow's own local response normalisation, ours, none.

    python tests/benchmarks/bench_lrn.py [--rounds 7] [--steps 15]

Each variant is timed in float32 and in bfloat16. All take turns within one process, so that a change of the machine's speed
meets all of them; medians are printed and written to nbs/results/bench_lrn.json.
"""
import argparse
import os
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from hierlearn import alexnet_small
from hierlearn.records import write_record

BATCH = 128


class StockLRN(keras.layers.Layer):
    "The framework's op, as one would use it: it computes in float32 alone."
    def __init__(self, alpha, **kwargs):
        super().__init__(**kwargs)
        self.alpha = alpha
    def call(self, x):
        return tf.cast(tf.nn.local_response_normalization(tf.cast(x, "float32"), depth_radius=2, bias=2.0, alpha=self.alpha, beta=0.75), x.dtype)


def build(stock, lrn, precision):
    ours = alexnet_small.LocalResponseNorm
    if stock: alexnet_small.LocalResponseNorm = StockLRN
    try: model = alexnet_small.build_alexnet_small(precision=precision, lrn=lrn, l2=2.5e-4)
    finally: alexnet_small.LocalResponseNorm = ours
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    data = tf.data.Dataset.from_tensors((tf.constant(rng.normal(size=(BATCH, 32, 32, 3)), tf.float32), tf.constant(rng.integers(0, 10, BATCH)))).repeat()
    kinds = {"TensorFlow's op": (True, True), "ours": (False, True), "no normalisation": (False, False)}
    variants = {(kind, precision): (*how, precision) for kind, how in kinds.items() for precision in ("float32", "bfloat16")}
    models = {name: build(*how) for name, how in variants.items()}
    times = {name: [] for name in models}
    start = time.perf_counter()
    for r in range(options.rounds + 1):
        for name, model in models.items():
            begin = time.perf_counter()
            model.fit(data, steps_per_epoch=options.steps, epochs=1, verbose=0)
            if r: times[name].append(time.perf_counter() - begin)  # the first round compiles
    rate = {name: options.steps * BATCH / np.median(t) for name, t in times.items()}
    rows = [{"layer": kind, "precision": precision, "images_per_second": round(v, 1),
             "ratio": round(v / rate["no normalisation", precision], 3)} for (kind, precision), v in rate.items()]
    for row in rows: print(f"{row['layer']:18s} {row['precision']:9s} {row['images_per_second']:8.0f} images/s  {row['ratio']:.2f}")
    settings = {"rounds": options.rounds, "steps": options.steps, "batch": BATCH}
    write_record("bench_lrn", None, {"rows": rows}, settings, seed=0, seconds=time.perf_counter() - start,
                 precision="float32 and bfloat16", folder=Path(__file__).parents[2] / "nbs" / "results")


if __name__ == "__main__": main()
