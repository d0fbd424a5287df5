"""How fast the ELU networks train, against plain Keras and as a share of the machine's own matrix product.

    python tests/benchmarks/bench_elu.py [--steps 6] [--rounds 2] [--batch 100] [--width 0.25] [--full-width 1]

For the 18-layer and the 11-layer network, in float32 and, where the processor has fast products of it, in bfloat16: seconds
of a step of `keras_training.fit` (vectorised batches, our dropout, no XLA on a processor) and of Keras' own `fit` of the
same network in the same precision, with its own dropout and a loop over the images in a `PyDataset`, with XLA switched off
("plain_no_xla") and, in the precision that pays, `compile` as it comes ("plain"). `times_plain` compares with the faster. Then a step of the
11-layer network with each activation; two steps at full width, with their memory; and from the operations of a step the
hours of the `full` profile. The variants take turns, medians over the steps of all rounds; each part has a process of its
own. Writes nbs/results/bench_elu.json.
"""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np

RESULTS = Path(__file__).resolve().parents[2] / "nbs" / "results"
ITERATIONS = 165_000 + 50_000 + 40_000  # of the full profile: before, with, and with more dropout in all layers
UNITS = {"elu": {}, "relu": {"activation": "relu"}, "leaky_relu": {"activation": "leaky_relu"}, "srelu": {"activation": "srelu"},
         "selu": {"activation": "selu"}, "elu_norm": {"batch_norm": True}, "relu_norm": {"activation": "relu", "batch_norm": True}}


def operations(model):
    "Multiply-adds of one image's forward pass."
    return sum(int(np.prod(layer.output.shape[1:-1])) * int(np.prod(layer.kernel.shape)) for layer in model.layers if hasattr(layer, "kernel"))


def images_and_labels(n):
    "Normalised pictures; the time of a step does not depend on whitening."
    from hierlearn.preprocessing import global_contrast_normalization
    from hierlearn.shapes import load_shapes
    train = load_shapes(n, 20).train
    return global_contrast_normalization(train.images), train.labels


def compiled(build, jit_compile=False):
    import keras
    keras.utils.set_random_seed(0)
    model = build()
    sgd = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(sgd, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=jit_compile)
    return model


def plain(build):
    "The same network with the framework's own layers."
    import keras
    from hierlearn.keras_training import FusedBatchNorm, ScheduledDropout

    def stock(layer):
        if isinstance(layer, ScheduledDropout): return keras.layers.Dropout(layer.initial_rate, name=layer.name, dtype=layer.dtype_policy)
        if type(layer) is FusedBatchNorm: return keras.layers.BatchNormalization.from_config(layer.get_config())
        return type(layer).from_config(layer.get_config())
    return lambda: keras.models.clone_model(build(), clone_function=stock)


def augment(images, rng):
    from hierlearn.preprocessing import random_crop, random_flip
    return random_crop(random_flip(images, rng), rng, 4)


def looped(images, labels, size):
    "What a careful user writes: arrays allocated once, a loop over the images."
    import keras

    class Looped(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)
        def __len__(self): return len(images) // size
        def __getitem__(self, i):
            chosen = slice(i * size, (i + 1) * size)
            out = np.empty((size, *images.shape[1:]), "float32")
            for k, image in enumerate(images[chosen]):
                if self.rng.random() < 0.5: image = image[:, ::-1]
                image = np.pad(image, ((4, 4), (4, 4), (0, 0)))
                top, left = self.rng.integers(0, 9, 2)
                out[k] = image[top : top + 32, left : left + 32]
            return out, labels[chosen]
    return Looped()


def clock():
    import keras

    class Clock(keras.callbacks.Callback):
        "Seconds between the ends of steps; the first two of a `fit` are left out."
        def __init__(self):
            super().__init__()
            self.steps = []
        def on_train_begin(self, logs=None): self.ends = []
        def on_train_batch_end(self, batch, logs=None): self.ends.append(time.perf_counter())
        def on_train_end(self, logs=None): self.steps += np.diff(self.ends[2:]).tolist()
    return Clock()


def in_turns(variants, rounds):
    "Median seconds of a step: variant -> callable of a callback that trains for an epoch."
    clocks = {name: clock() for name in variants}
    for _ in range(rounds):
        for name, train in variants.items(): train(clocks[name])
    return {name: float(np.median(c.steps)) for name, c in clocks.items()}


def settings(given):
    "What all parts share: data, batches, products, and which precisions are measured."
    from hierlearn.batches import Batches
    from hierlearn.records import describe_precision
    products = describe_precision("keras")
    images, labels = images_and_labels(given.batch * (given.steps + 3))
    precisions = ["float32"] + ["bfloat16"] * (products["precision"] == "bfloat16")
    return products, Batches(images, labels, given.batch, augment), looped(images, labels, given.batch), precisions


def ours_of(model, batches):
    from hierlearn.keras_training import fit
    return lambda callback: fit(model, batches, None, 1, monitor="loss", callbacks=[callback], progress=False)


def against_plain(given, name):
    from hierlearn import elu_cifar100 as E
    products, batches, loop, precisions = settings(given)
    variants, own = {}, lambda model: (lambda callback: model.fit(loop, epochs=1, verbose=0, shuffle=False, callbacks=[callback]))
    for precision in precisions:
        build = lambda precision=precision: E.build_elu_cnn(getattr(E, name), width=given.width, precision=precision)
        model = compiled(build)
        variants[precision, "ours"] = ours_of(model, batches)
        variants[precision, "plain_no_xla"] = own(compiled(plain(build)))
        # compiling takes longer than all of its steps: in the precision that pays alone
        if precision == precisions[-1] and not given.no_xla: variants[precision, "plain"] = own(compiled(plain(build), "auto"))
    pipeline = []
    for i in range(10):
        start = time.perf_counter()
        batches.batch(i)
        pipeline.append(time.perf_counter() - start)
    step, macs, row = in_turns(variants, given.rounds), operations(model), {}
    faster = lambda precision: min(s for (p, kind), s in step.items() if p == precision and kind != "ours")
    for precision in precisions:
        ours = step[precision, "ours"]
        row |= {f"{p}_{kind}_ms": 1000 * seconds for (p, kind), seconds in step.items() if p == precision}
        row |= {f"{precision}_times_plain": faster(precision) / ours,
                f"{precision}_share_of_product": 6 * macs * given.batch / ours / products[f"{precision}_gflops"] / 1e9,
                f"{precision}_pipeline_share_of_step": float(np.median(pipeline)) / ours}
    best = precisions[-1]
    return row | {f"{best}_times_plain_float32": faster("float32") / step[best, "ours"], "pipeline_ms": 1000 * float(np.median(pipeline)),
                  "multiply_adds_an_image": macs, "parameters": model.count_params()}, products


def units(given):
    from hierlearn.elu_cifar100 import ELU_STACKS_11, build_elu_cnn
    products, batches, _, precisions = settings(given)
    build = lambda more: lambda: build_elu_cnn(ELU_STACKS_11, width=given.width, dropout=(), precision=precisions[-1], **more)
    step = in_turns({name: ours_of(compiled(build(more)), batches) for name, more in UNITS.items()}, given.rounds)
    return {f"{name}_ms": 1000 * seconds for name, seconds in step.items()} | {"relu_norm_over_elu": step["relu_norm"] / step["elu"]}, products


def full(given):
    from hierlearn.elu_cifar100 import ELU_STACKS_18, build_elu_cnn
    products, batches, _, precisions = settings(given)
    model = compiled(lambda: build_elu_cnn(ELU_STACKS_18, width=given.full_width, dropout_per="layer", precision=precisions[-1]))
    seconds = []
    for i in range(2):
        start = time.perf_counter()
        loss = float(model.train_on_batch(*batches.batch(i))[0])
        seconds.append(time.perf_counter() - start)
    assert np.isfinite(loss)
    macs = operations(model)
    total = 6 * macs * given.batch * ITERATIONS  # forward, and twice as much backward; a multiply-add is two
    return {"parameters": model.count_params(), "multiply_adds_an_image": macs, "first_step_s": seconds[0], "second_step_s": seconds[1],
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024),
            "share_of_product": 6 * macs * given.batch / seconds[1] / products[f"{precisions[-1]}_gflops"] / 1e9,
            "iterations": ITERATIONS, "exaflop": total / 1e18, "hours_here": seconds[1] * ITERATIONS / 3600,
            # divide by what a device sustains
            "hours_at_one_tflops": total / 1e12 / 3600}, products


# name -> what measures it in a process of its own
PARTS = {"18 layers": lambda given: against_plain(given, "ELU_STACKS_18"), "11 layers": lambda given: against_plain(given, "ELU_STACKS_11"),
         "activations, 11 layers": units, "full width": full}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--full-width", type=float, default=1.0)
    parser.add_argument("--no-xla", action="store_true", help="leave out compile as it comes, which takes long to compile")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.part:
        row, products = PARTS[given.part](given)
        return print(json.dumps({"row": row, "products": products}))
    rows, products, begin = {}, {}, time.perf_counter()
    load = list(os.getloadavg()) if hasattr(os, "getloadavg") else None
    for name in PARTS:
        start = time.perf_counter()
        command = [sys.executable, __file__, "--part", name, *(f"--{key.replace('_', '-')}={getattr(given, key)}" for key in ("steps", "rounds", "batch", "width", "full_width"))]
        command += ["--no-xla"] * given.no_xla
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows[name], products[name] = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found["row"].items()}, found["products"]
        print(f"{name} ({time.perf_counter() - start:.0f} s):", "  ".join(f"{key}={value}" for key, value in rows[name].items()), flush=True)
    from hierlearn.records import write_record
    from hierlearn.shapes import load_shapes
    data = load_shapes(given.batch * (given.steps + 3), 20)
    precision = " and ".join(p for p in ("float32", "bfloat16") if f"{p}_ours_ms" in rows["18 layers"])
    config = {key: getattr(given, key) for key in ("steps", "rounds", "batch", "width", "full_width")}
    write_record("bench_elu", None, rows, config, data.name, data.digest, 0, time.perf_counter() - begin, precision, folder=given.results,
                 platform=platform.platform(), products=products, load_at_the_beginning=load,
                 how="medians over the steps of all rounds, variants in turn; each part in its own process")


if __name__ == "__main__": main()
