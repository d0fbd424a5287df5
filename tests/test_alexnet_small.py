"""The installed hierlearn.alexnet_small, on the backend that KERAS_BACKEND names (TensorFlow here); `test_backends` runs the torch backend in a process of its own."""
import dataclasses
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras import ops

from hierlearn.alexnet_small import (LocalResponseNorm, build_alexnet_small, local_response_norm, max_pool2d,
                                     pool_output_size, predict_ten_views, ten_views)
from hierlearn.exercises.alexnet_small import check, exercises
from hierlearn.experiments.alexnet_small import (ABLATION_CONFIGS, ARMS, CONFIGS, AlexNetSmallConfig, prepare,
                                                 run_ablation, run_lesson, train_alexnet_small)

SHORT = dataclasses.replace(CONFIGS["tiny"], epochs=1, precision="float32")


def slow_pool(x, z, s):
    rows, columns = (x.shape[0] - z) // s + 1, (x.shape[1] - z) // s + 1
    return np.array([[x[i * s : i * s + z, j * s : j * s + z].max() for j in range(columns)] for i in range(rows)])


def slow_lrn(a, k, n, alpha, beta):
    out = np.empty_like(a)
    for i in range(len(a)):
        out[i] = a[i] / (k + alpha * sum(a[j] ** 2 for j in range(max(0, i - n // 2), min(len(a), i + n // 2 + 1)))) ** beta
    return out


@pytest.mark.parametrize("z", [1, 2, 3, 5])
@pytest.mark.parametrize("s", [1, 2, 3])
def test_pool_against_loops(z, s):
    x = np.random.default_rng(z * 10 + s).normal(size=(9, 7))
    got = max_pool2d(x, z, s)
    assert got.shape == (pool_output_size(9, z, s), pool_output_size(7, z, s))
    assert np.array_equal(got, slow_pool(x, z, s))
    assert np.array_equal(max_pool2d(np.stack([x, -x], -1)[None], z, s)[0, ..., 1], slow_pool(-x, z, s))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("z, s", [(2, 2), (3, 2), (3, 1), (5, 3)])
def test_pool_is_the_frameworks(z, s, padding):
    x = np.random.default_rng(0).normal(size=(2, 11, 8, 3)).astype("float32")
    theirs = ops.convert_to_numpy(ops.max_pool(x, z, s, padding, data_format="channels_last"))
    assert np.array_equal(max_pool2d(x, z, s, padding), theirs)
    assert np.array_equal(max_pool2d((x * 50).astype("int16"), 2, 2, "same").dtype, np.int16)


@pytest.mark.parametrize("call, words", [
    (lambda: pool_output_size(4, 5, 1), "does not fit"),
    (lambda: pool_output_size(0, 1, 1), "at least 1"),
    (lambda: pool_output_size(4, 2, 1, "full"), "'valid' or 'same'"),
    (lambda: max_pool2d(np.zeros(4)), "shape (H, W)"),
    (lambda: local_response_norm(np.ones(4), n=2), "odd"),
    (lambda: build_alexnet_small(1), "at least 2"),
    (lambda: build_alexnet_small(precision="float16"), "'float32' or 'bfloat16'"),
    (lambda: prepare(dataclasses.replace(CONFIGS["tiny"], data="imagenet")), "'cifar10' or 'shapes'"),
    (lambda: prepare(dataclasses.replace(CONFIGS["tiny"], batch_size=10**6)), "batch_size"),
    (lambda: run_lesson("huge"), "unknown profile"),
    (lambda: check("nothing", None), "nothing"),
    (lambda: pool_output_size(6.5, 2, 2), "integers"),
    (lambda: max_pool2d(np.zeros((4, 4), bool)), "integers or floats"),
    (lambda: local_response_norm([1.0, 2.0]), "channels last"),
    (lambda: local_response_norm(ops.ones((2, 4), "int32")), "floats"),
    (lambda: local_response_norm(np.ones(4), k=0), "k must be positive"),
    (lambda: LocalResponseNorm(n=4), "odd"),
    (lambda: build_alexnet_small(width=0), "width must be positive"),
    (lambda: build_alexnet_small(dropout=1.0), "dropout"),
    (lambda: prepare("tiny"), "AlexNetSmallConfig"),
    (lambda: dataclasses.replace(SHORT, epochs=0), "epochs must be an integer of at least 1"),
    (lambda: dataclasses.replace(SHORT, train_images=-5), "train_images"),
    (lambda: dataclasses.replace(SHORT, color_std=-1), "color_std"),
    (lambda: run_ablation(SHORT, seeds=()), "seeds is empty"),
    (lambda: run_ablation(SHORT, arms={"a": {"sed": 1}}), "changes sed"),
])
def test_one_line_errors(call, words):
    with pytest.raises(ValueError) as caught: call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [dict(), dict(n=3, k=1.0), dict(n=7, alpha=0.01, beta=0.5), dict(beta=1.0, alpha=1.0)])
def test_lrn_against_loops_and_backend(settings):
    full = {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75} | settings
    a = np.random.default_rng(1).normal(0, 20, 16)
    assert np.allclose(local_response_norm(a, **settings), slow_lrn(a, **full))
    x = np.random.default_rng(2).normal(0, 20, (2, 3, 3, 16)).astype("float32")
    wanted = local_response_norm(x.astype(float), **settings)
    assert np.allclose(ops.convert_to_numpy(local_response_norm(ops.convert_to_tensor(x), **settings)), wanted, rtol=1e-4, atol=1e-5)
    assert np.allclose(ops.convert_to_numpy(LocalResponseNorm(**settings)(x)), wanted, rtol=1e-4, atol=1e-5)
    half = LocalResponseNorm(dtype="bfloat16", **settings)(x)
    assert np.allclose(ops.convert_to_numpy(ops.cast(half, "float32")), wanted, rtol=0.04, atol=1e-3)  # eight bits of mantissa


def test_lrn_is_the_frameworks_own():
    tf, torch = pytest.importorskip("tensorflow"), pytest.importorskip("torch")
    x = np.random.default_rng(3).normal(0, 30, (2, 4, 4, 12)).astype("float32")
    ours = local_response_norm(x)
    assert np.allclose(ours, tf.nn.local_response_normalization(x, 2, 2.0, 1e-4, 0.75).numpy(), rtol=1e-4, atol=1e-5)
    torchs = lambda alpha: torch.nn.LocalResponseNorm(5, alpha, 0.75, 2.0)(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert np.allclose(ours, torchs(5e-4), rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours, torchs(1e-4), rtol=0.02)


def test_network():
    model = build_alexnet_small()
    assert model.count_params() == 2_887_306 == build_alexnet_small(pool_size=2, lrn=False, dropout=0).count_params()
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert kinds["dropout1"] == kinds["dropout2"] == "Dropout" and kinds["lrn1"] == kinds["lrn2"] == "LocalResponseNorm"
    assert not any("lrn" in layer.name for layer in build_alexnet_small(lrn=False).layers)
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    assert np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    assert not np.array_equal(ops.convert_to_numpy(model(x, training=True)), ops.convert_to_numpy(model(x, training=True)))
    half = build_alexnet_small(precision="bfloat16")
    assert half.get_layer("conv1").compute_dtype == "bfloat16" and half.get_layer("logits").compute_dtype == "float32"
    assert all(w.dtype == "float32" for w in half.trainable_weights)


def test_weight_decay_is_the_gradient_it_says():
    model = build_alexnet_small(width=0.1, l2=0.01)
    kernels = [w for w in model.trainable_weights if w.path.endswith("kernel")]
    penalty = float(ops.convert_to_numpy(sum(model.losses)))
    assert np.isclose(penalty, 0.005 * sum(np.square(ops.convert_to_numpy(w)).sum() for w in kernels), rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    model = build_alexnet_small(width=0.2)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    model.save(tmp_path / "net.keras")
    assert np.allclose(keras.saving.load_model(tmp_path / "net.keras").predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_prepare_splits_without_leaks():
    data, batches, validation, test = prepare(CONFIGS["tiny"])
    assert len(batches.images) + len(validation[0]) == len(data.train.labels) and len(test[0]) == len(data.test.labels)
    assert abs(validation[0].mean()) < 0.1 and validation[0].dtype == np.float32
    again = prepare(CONFIGS["tiny"])
    assert np.array_equal(again[1].batch(5)[0], batches.batch(5)[0])
    assert not np.array_equal(prepare(dataclasses.replace(CONFIGS["tiny"], seed=1))[1].batch(0)[1], batches.batch(0)[1])


def test_training_learns_and_resumes(tmp_path):
    config = dataclasses.replace(SHORT, epochs=3)
    prepared = prepare(config)
    model, history = train_alexnet_small(config, prepared, checkpoints=tmp_path / "a", progress=False)
    assert len(history["val_accuracy"]) == 3 and {"accuracy", "top5", "loss", "val_top5", "learning_rate", "seconds"} <= set(history)
    assert history["loss"][2] < history["loss"][1] < history["loss"][0] and max(history["val_accuracy"]) > 0.08  # chance: 0.05
    again, read = train_alexnet_small(config, prepared, checkpoints=tmp_path / "a", progress=False)  # nothing left to do
    assert read == history
    assert all(np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in zip(model.weights, again.weights))
    with pytest.raises(ValueError, match="another configuration"):
        train_alexnet_small(dataclasses.replace(config, l2=0.1), prepared, checkpoints=tmp_path / "a", progress=False)


def test_lesson_record(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "tiny", SHORT)
    logs = tmp_path / "logs"
    record = run_lesson("tiny", results=tmp_path, callbacks=[keras.callbacks.TensorBoard(str(logs))], progress=False)
    assert json.loads((tmp_path / "alexnet_small.tiny.json").read_text()) == record
    header = record["header"]
    assert header["data"] == "shapes" and len(header["data_sha256"]) == 64 and header["config"]["epochs"] == 1 and header["seconds"] > 0
    kept = np.load(tmp_path / "alexnet_small.tiny.npz")
    assert np.isclose((kept["test_logits"].argmax(1) == kept["test_labels"]).mean(), record["metrics"]["test_accuracy"], atol=0.01)
    assert kept["conv1"].shape == (7, 7, 3, 12)
    assert list(logs.rglob("events.out.tfevents*"))


def test_ten_views():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (3, 6, 8, 3), np.uint8)
    views = list(ten_views(images, 2))
    assert len(views) == 10 and all(view.shape == images.shape for view in views) and np.array_equal(views[0], images) and np.array_equal(views[1], images[:, :, ::-1])
    assert np.array_equal(views[2][:, 2:, 2:], images[:, :4, :6]) and not views[2][:, :2].any() and not views[2][:, :, :2].any()
    assert np.array_equal(views[8][:, :4, :6], images[:, 2:, 2:]) and not views[8][:, 4:].any()
    assert [np.array_equal(a, b) for a, b in zip(ten_views(images, 2, False), views[::2])] == [True] * 5
    assert all(np.array_equal(view, images) for view in ten_views(images, 0, False))
    for bad in ((images[0], 2), (images, 6), (images, -1), (images, 1.0), (images, True)):
        with pytest.raises(ValueError, match="must have shape"): next(ten_views(*bad))
    model = build_alexnet_small(width=0.1)
    images, mean, std = rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.full(3, 0.5), np.full(3, 0.2)
    averaged = predict_ten_views(model, images, mean, std, 3)
    by_hand = np.mean([ops.convert_to_numpy(ops.softmax(model((view / 255 - mean) / std))) for view in ten_views(images, 3)], axis=0)
    assert averaged.shape == (4, 10) and np.allclose(averaged, by_hand, atol=1e-4)


def test_ablation_resumes_by_run(tmp_path):
    arms = {name: ARMS[name] for name in ("all on", "no colour PCA", "no dropout")}
    base = dataclasses.replace(SHORT, width=0.1)
    part = run_ablation(base, (0,), {"all on": {}}, tmp_path, profile_name="tiny", progress=False)
    whole = run_ablation(base, (0, 1), arms, tmp_path, profile_name="tiny", checkpoints=tmp_path / "ck", progress=False)
    assert whole["metrics"]["runs"][0] == part["metrics"]["runs"][0]
    assert sorted((r["arm"], r["seed"]) for r in whole["metrics"]["runs"]) == sorted((a, s) for a in arms for s in (0, 1))
    assert whole["header"]["seconds"] >= part["header"]["seconds"] and set(whole["header"]["arms"]) == set(arms)
    with pytest.raises(ValueError, match="other settings"): run_ablation(dataclasses.replace(base, epochs=2), (0,), arms, tmp_path, profile_name="tiny", progress=False)
    with pytest.raises(ValueError, match="other settings"): run_ablation(base, (0,), {"all on": {"lrn": False}}, tmp_path, profile_name="tiny", progress=False)


def test_configs():
    assert isinstance(CONFIGS["quick"], AlexNetSmallConfig) and ABLATION_CONFIGS["quick"].epochs >= 10 and set(CONFIGS) == set(ABLATION_CONFIGS) == {"tiny", "quick", "full"}
    with pytest.raises(dataclasses.FrozenInstanceError): CONFIGS["quick"].epochs = 1
    assert set(exercises.names) == {"map_sides", "times_read", "torch_alpha", "grey_levels", "pool_gradient"}


def test_backends():
    "The same network on Keras' torch backend: same outputs from the same weights, and a training step that learns."
    pytest.importorskip("torch")
    script = """
import sys, numpy as np, keras, dataclasses
from hierlearn.alexnet_small import build_alexnet_small
from hierlearn.experiments.alexnet_small import CONFIGS, train_alexnet_small
assert keras.backend.backend() == "torch"
model = build_alexnet_small(width=0.2)
rng = np.random.default_rng(0)
model.set_weights([rng.normal(0, 0.05, w.shape) for w in model.weights])
np.save(sys.argv[1], model.predict(rng.normal(size=(4, 32, 32, 3)).astype("float32"), verbose=0))
_, history = train_alexnet_small(dataclasses.replace(CONFIGS["tiny"], epochs=2, precision="float32"), progress=False)
assert history["loss"][1] < history["loss"][0]
"""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits.npy")
        done = subprocess.run([sys.executable, "-c", script, out], env=os.environ | {"KERAS_BACKEND": "torch"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs = np.load(out)
    model = build_alexnet_small(width=0.2)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.05, w.shape) for w in model.weights])
    assert np.allclose(model.predict(rng.normal(size=(4, 32, 32, 3)).astype("float32"), verbose=0), theirs, rtol=1e-3, atol=1e-4)


def test_the_committed_record_holds_what_the_lesson_says(repository):
    record = json.loads((repository / "nbs/results/alexnet_small.quick.json").read_text())
    assert record["metrics"]["test_accuracy"] >= 0.80 and record["metrics"]["test_accuracy_ten_views"] >= 0.84 and record["header"]["seconds"] <= 1800
    assert record["header"]["data"].startswith("cifar10") and record["header"]["config"]["validation"] == 10_000
    logits = np.load(repository / "nbs/results/alexnet_small.quick.npz")["test_logits"]
    assert logits.shape == (10_000, 10)
