"""How fast AlexNet-small and the six-layer net train and predict, as a share of the machine's own matrix products.

    python tests/benchmarks/bench_training.py [--steps 12] [--rounds 3] [--backends tensorflow torch]

Each backend runs in a process of its own. For a net: images/s of our way (vectorised batches, the precision that pays, our
layers, no XLA on a processor) and of plain Keras: `model.fit` on a NumPy `PyDataset` that augments image by image, float32, the
frameworks' own layers, `compile` as it comes ("plain") and with XLA switched off ("plain, no XLA"). `times_plain` compares with the
faster of the two. Also the share of a step that the input pipeline takes, and operations a second against a square matrix
product of the same type. The variants take turns, so that a change of the machine's speed meets all of them; medians over
the steps of all rounds; writes nbs/results/bench_training.json.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).resolve().parents[2] / "nbs" / "results"


def operations(model):
    "Multiply-adds of one image's forward pass: convolutions and dense layers."
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            places = int(np.prod(layer.output.shape[1:-1]))
            total += places * int(np.prod(layer.kernel.shape))
    return total


def measure(steps, rounds):
    "Everything for the backend of this process."
    import keras
    from hierlearn.alexnet_small import LocalResponseNorm, build_alexnet_small
    from hierlearn.batches import Batches
    from hierlearn.keras_training import FusedBatchNorm
    from hierlearn.models import build_six_layer_net
    from hierlearn.preprocessing import channel_statistics, random_crop, random_flip, standardize
    from hierlearn.records import describe_precision
    from hierlearn.shapes import load_shapes
    data = load_shapes(2048, 256)
    mean, std = channel_statistics(data.train.images)
    classes = len(data.class_names)

    def augment(images, rng): return standardize(random_crop(random_flip(images, rng), rng, 4), mean, std)

    class Looped(keras.utils.PyDataset):
        "What a careful user writes: arrays allocated once, NumPy for each image, a loop over the images."
        def __init__(self, size):
            super().__init__()
            self.size, self.rng = size, np.random.default_rng(0)
        def __len__(self): return len(data.train.images) // self.size
        def __getitem__(self, i):
            chosen = slice(i * self.size, (i + 1) * self.size)
            out = np.empty((self.size, 32, 32, 3), "float32")
            for k, image in enumerate(data.train.images[chosen]):
                if self.rng.random() < 0.5: image = image[:, ::-1]
                image = np.pad(image, ((4, 4), (4, 4), (0, 0)))
                top, left = self.rng.integers(0, 9, 2)
                out[k] = (image[top : top + 32, left : left + 32] / 255.0 - mean) / std
            return out, data.train.labels[chosen]

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.steps = []
        def on_train_begin(self, logs=None): self.ends = []
        def on_train_batch_end(self, batch, logs=None): self.ends.append(time.perf_counter())
        def on_train_end(self, logs=None): self.steps += np.diff(self.ends[2:]).tolist()

    class StockLRN(keras.layers.Layer):
        "The frameworks' own normalisation, float32."
        def call(self, x):
            if keras.backend.backend() == "torch":
                import torch
                return torch.nn.functional.local_response_norm(x.movedim(-1, 1), 5, 5e-4, 0.75, 2.0).movedim(1, -1)
            import tensorflow
            return tensorflow.nn.local_response_normalization(x, 2, 2.0, 1e-4, 0.75)

    def stock(layer):
        "A layer of ours as the frameworks' own one; other layers are made again as they are."
        if type(layer) is FusedBatchNorm: return keras.layers.BatchNormalization.from_config(layer.get_config())
        if isinstance(layer, LocalResponseNorm): return StockLRN(name=layer.name)
        return type(layer).from_config(layer.get_config())

    def compiled(build, policy, plain=False, jit_compile=False):
        keras.mixed_precision.set_global_policy(policy)
        keras.utils.set_random_seed(0)
        model = build(policy)
        if plain: model = keras.models.clone_model(model, clone_function=stock)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=jit_compile)
        keras.mixed_precision.set_global_policy("float32")
        return model

    def repeat(looped):
        while True:
            for i in range(len(looped)): yield looped[i]

    precision = describe_precision("keras")
    rate = precision[f"{precision['precision']}_gflops"] * 1e9
    rows = []
    alexnet = lambda policy: build_alexnet_small(num_classes=classes, precision="bfloat16" if "bfloat16" in policy else "float32")
    for name, size, build in (("AlexNet-small", 128, alexnet), ("six-layer net", 256, lambda policy: build_six_layer_net(classes))):
        batches = Batches(data.train.images, data.train.labels, size, augment)
        looped = Looped(size)
        ours = compiled(build, "mixed_bfloat16" if precision["precision"] == "bfloat16" else "float32")
        variants = {"ours": (ours, batches.stream()), "plain": (compiled(build, "float32", True, "auto"), repeat(looped)), "plain_no_xla": (compiled(build, "float32", True), repeat(looped))}
        clocks, pipelines, loops = {key: Clock() for key in variants}, [], []
        for r in range(rounds):
            for i in range(steps // 3 + 1):
                start = time.perf_counter()
                batches.batch(r * steps + i)
                middle = time.perf_counter()
                looped[i % len(looped)]
                pipelines.append(middle - start); loops.append(time.perf_counter() - middle)
            for key, (model, source) in variants.items(): model.fit(source, steps_per_epoch=steps + 3, epochs=1, verbose=0, shuffle=False, callbacks=[clocks[key]])
        step = {key: float(np.median(clock.steps)) for key, clock in clocks.items()}
        pipeline, loop = float(np.median(pipelines)), float(np.median(loops))
        x = standardize(data.test.images[:256], mean, std)
        times = []
        for _ in range(max(3, steps // 3)):
            start = time.perf_counter()
            ours.predict_on_batch(x)
            times.append(time.perf_counter() - start)
        macs, forward = operations(ours), float(np.median(times[1:]))
        rows.append({"net": name, "train_images_s": round(size / step["ours"]), "predict_images_s": round(len(x) / forward),
                     "train_share_of_product": round(6 * macs * size / step["ours"] / rate, 3), "predict_share_of_product": round(2 * macs * len(x) / forward / rate, 3),
                     "plain_images_s": round(size / step["plain"]), "plain_no_xla_images_s": round(size / step["plain_no_xla"]), "times_plain": round(min(step["plain"], step["plain_no_xla"]) / step["ours"], 2),
                     "pipeline_share_of_step": round(pipeline / step["ours"], 3), "loop_over_pipeline": round(loop / pipeline, 1)})
    print(json.dumps({"rows": {f"{row.pop('net')}, {keras.backend.backend()}": row for row in rows}, "precision": precision, "data": [data.name, data.digest]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backends", nargs="+", default=["tensorflow", "torch"])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.measure: return measure(given.steps, given.rounds)
    rows, products, start = {}, [], time.perf_counter()
    for backend in given.backends:
        command = [sys.executable, __file__, "--measure", "--steps", str(given.steps), "--rounds", str(given.rounds)]
        run = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(run.stdout.splitlines()[-1])
        rows |= found["rows"]
        products.append(found["precision"])
    for name, row in rows.items(): print(f"{name}:", "  ".join(f"{key}={value}" for key, value in row.items()))
    from hierlearn.records import write_record
    write_record("bench_training", None, rows, {"steps": given.steps, "rounds": given.rounds}, *found["data"], seconds=time.perf_counter() - start,
                 precision=" and ".join(sorted({p["precision"] for p in products})), folder=given.results, platform=platform.platform(), products=products,
                 how="medians over the steps of all rounds, variants in turn; each backend in its own process")


if __name__ == "__main__": main()
