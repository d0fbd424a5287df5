"""The installed hierlearn.alexnet_small, on the backend that KERAS_BACKEND names (TensorFlow here); `test_backends` runs the torch backend in a process of its own."""
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import FrozenInstanceError, replace
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

keras = pytest.importorskip("keras")
from keras import ops

from hierlearn import runs
from hierlearn.alexnet_small import (
    LocalResponseNorm, build_alexnet_small, local_response_norm, max_pool2d, pool_output_size, predict_ten_views, ten_views)
from hierlearn.exercises.alexnet_small import check, exercises
from hierlearn.experiments.alexnet_small import (
    ARMS, CONFIGS, DATA, QUICK, SHORT, TINY, Ablation, AlexNetSmallConfig, ExperimentConfig, effects, experiment, judge,
    prepare, read_report, stages, train_alexnet_small)
from hierlearn.preprocessing import standardize
from hierlearn.records import read_record
from hierlearn.taxonomy import Taxonomy

BRIEF = replace(TINY, epochs=1, width=0.1)


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
    (lambda: pool_output_size(4, 2, 1, "full"), "padding must be one of valid, same"),
    (lambda: max_pool2d(np.zeros(4)), "shape (H, W)"),
    (lambda: local_response_norm(np.ones(4), n=2), "odd"),
    (lambda: build_alexnet_small(1), "at least 2"),
    (lambda: build_alexnet_small(precision="float16"), "one of float32, bfloat16"),
    (lambda: build_alexnet_small(pool_size=0), "pool_size"),
    (lambda: build_alexnet_small(l2=-1), "l2 must be"),
    (lambda: build_alexnet_small(lrn_alpha=-1), "alpha must be"),
    (lambda: replace(TINY, data="imagenet"), "data must be one of cifar10, shapes"),
    (lambda: prepare(replace(TINY, batch_size=10**6)), "batch_size"),
    (lambda: experiment.run("huge"), "profile must be one of tiny, quick, full"),
    (lambda: experiment.run("tiny", stage="tain"), "near: train"),
    (lambda: check("nothing", None), "nothing"),
    (lambda: pool_output_size(6.5, 2, 2), "n must be an integer"),
    (lambda: max_pool2d(np.zeros((4, 4)), s=0), "s must be an integer of at least 1"),
    (lambda: max_pool2d(np.zeros((4, 4), bool)), "integers or floats"),
    (lambda: local_response_norm([1.0, 2.0]), "channels last"),
    (lambda: local_response_norm(ops.ones((2, 4), "int32")), "floats"),
    (lambda: local_response_norm(np.array([200, 100], np.uint8)), "x must hold floats, got uint8; convert it"),
    (lambda: local_response_norm(np.arange(3)), "got int64"),
    (lambda: local_response_norm(np.ones(3, bool)), "got bool"),
    (lambda: local_response_norm(np.float32(1)), "channels last"),
    (lambda: local_response_norm(np.ones(4), beta=-1), "beta"),
    (lambda: local_response_norm(np.ones(4), k=0), "k must be a number above 0"),
    (lambda: LocalResponseNorm(n=4), "odd"),
    (lambda: build_alexnet_small(width=0), "width must be a number above 0"),
    (lambda: build_alexnet_small(dropout=1.0), "dropout"),
    (lambda: prepare("tiny"), "AlexNetSmallConfig"),
    (lambda: replace(TINY, epochs=0), "epochs must be an integer of at least 1"),
    (lambda: replace(TINY, train_images=0), "train_images"),
    (lambda: replace(TINY, color_std=-1), "color_std"),
    (lambda: replace(TINY, learning_rate=0), "learning_rate"),
    (lambda: next(ten_views(np.zeros((6, 8, 3)))), "(N, H, W, C)"),
    (lambda: next(ten_views(np.zeros((1, 6, 8, 3)), 6)), "shift must be an integer in 0..5"),
    (lambda: next(ten_views(np.zeros((1, 6, 8, 3)), True)), "got True"),
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


def test_a_layer_keeps_its_settings():
    layer = LocalResponseNorm(n=3, alpha=0.5)
    again = LocalResponseNorm.from_config(layer.get_config())
    assert again.settings == {"k": 2.0, "n": 3, "alpha": 0.5, "beta": 0.75}
    assert layer.compute_output_shape((2, 4, 4, 8)) == (2, 4, 4, 8)


def test_prepare_splits_without_leaks():
    task = prepare(TINY)
    train, test = (getattr(DATA["shapes"][0](), part) for part in ("train", "test"))
    assert len(task.batches.images) + len(task.validation[0]) == len(train.labels) and len(task.test[0]) == len(test.labels)
    assert task.name == "shapes" and len(task.taxonomy) == 20 and task.normalize(test.images[:2]).shape == (2, 32, 32, 3)
    assert np.array_equal(task.normalize(test.images[:2]), task.test[0][:2])
    held = {image.tobytes() for image in task.validation[0]}
    assert not held & {image.tobytes() for image in task.normalize(task.batches.images)}
    assert abs(task.validation[0].mean()) < 0.1 and task.validation[0].dtype == np.float32
    again = prepare(TINY)
    assert np.array_equal(again.batches.batch(5)[0], task.batches.batch(5)[0])
    assert not np.array_equal(prepare(replace(TINY, seed=1)).batches.batch(0)[1], task.batches.batch(0)[1])
    assert len(prepare(replace(TINY, train_images=100)).batches.images) == 100


def test_training_learns_and_resumes(tmp_path):
    config = replace(TINY, epochs=3)
    task = prepare(config)
    model, history = train_alexnet_small(config, task, checkpoints=tmp_path / "a", progress=False)
    assert len(history["val_accuracy"]) == 3 and {"accuracy", "top5", "loss", "val_top5", "learning_rate", "seconds"} <= set(history)
    assert history["loss"][2] < history["loss"][1] < history["loss"][0] and max(history["val_accuracy"]) > 0.08  # chance: 0.05
    again, read = train_alexnet_small(config, task, checkpoints=tmp_path / "a", progress=False)  # nothing left to do
    assert read == history
    assert all(np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in zip(model.weights, again.weights))
    with pytest.raises(ValueError, match="another config"):
        train_alexnet_small(replace(config, l2=0.1), task, checkpoints=tmp_path / "a", progress=False)


def test_callbacks_are_passed_on(tmp_path):
    train_alexnet_small(BRIEF, callbacks=[keras.callbacks.TensorBoard(str(tmp_path))], progress=False)
    assert list(tmp_path.rglob("events.out.tfevents*"))


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    "A whole run of one epoch an arm, in its folder."
    folder = tmp_path_factory.mktemp("results")
    config = ExperimentConfig(BRIEF, Ablation(BRIEF, ("all on", "no colour PCA"), (0, 1)), "float32")
    run = replace(experiment, configs={"tiny": config})
    return run, folder, run.run("tiny", folder, progress=False)


def test_the_experiment_is_evidence(brief):
    run, folder, record = brief
    assert read_record("alexnet_small", "tiny", folder) == record
    header = record.header
    assert header["data"] == "shapes" and len(header["data_sha256"]) == 64 and header["config"]["train"]["epochs"] == 1
    assert header["key"] and header["seed"] == 0 and header["precision"] == "float32"
    kept = record.arrays
    right = (kept["test_logits"].argmax(1) == kept["test_labels"]).mean()
    assert np.isclose(right, record.metrics["test_accuracy"], atol=0.01) and kept["conv1"].shape == (7, 7, 3, 5)
    assert kept["test_logits"].dtype == np.float16 and len(record.curves["val_accuracy"]) == 1
    assert 1 <= record.metrics["mistake_severity"] <= 2 and 0 < record.metrics["crm_accuracy"] < 1
    report = read_report(record)
    assert float(report.accuracy) == record.metrics["accuracy"] and len(report.back_off_curve) > 10


def test_a_finished_stage_is_not_run_again(brief, capsys):
    run, folder, record = brief
    capsys.readouterr()
    assert run.run("tiny", folder, progress=False) == record
    assert "begins" not in capsys.readouterr().out
    (folder / "alexnet_small_evaluate.tiny.json").unlink()
    run.run("tiny", folder, stage="evaluate", progress=False)
    said = capsys.readouterr().out
    assert "evaluate: begins" in said and "train: begins" not in said  # the logits are enough


def test_the_ablation_pairs_its_seeds(brief):
    _, folder, _ = brief
    record = read_record("alexnet_small_ablation", "tiny", folder)
    found = [(run["arm"], run["seed"]) for run in record.metrics["runs"]]
    assert found == [("all on", 0), ("no colour PCA", 0), ("all on", 1), ("no colour PCA", 1)]
    assert record.header["seed"] == [0, 1] and set(record.header["arms"]) == {"all on", "no colour PCA"}
    by_hand = {run["arm"]: [] for run in record.metrics["runs"]}
    for run in record.metrics["runs"]: by_hand[run["arm"]].append(100 * run["history"]["val_accuracy"][-1])
    effect = effects(record)["no colour PCA"]
    assert np.isclose(effect.value, np.mean(by_hand["no colour PCA"]) - np.mean(by_hand["all on"]))
    assert effect.low < effect.value < effect.high
    assert "val_loss" in record.metrics["runs"][0]["history"] and effects(record, "val_loss")["no colour PCA"] != effect


def test_stages_differ_where_they_should():
    for config in CONFIGS.values():
        found = {stage.name: stage for stage in stages(replace(config, precision="bfloat16"))}
        assert {"train", "evaluate", "ablation"} <= set(found) and found["evaluate"].needs == ("train",)
        assert found["train"].config == replace(config.train, precision="bfloat16")
        assert len(found) == 3 + len(config.ablation.arms) * len(config.ablation.seeds) == 3 + len(found["ablation"].needs)
    quick = {stage.name: stage.config for stage in stages(CONFIGS["quick"])}
    assert quick["ablation_no_lrn_2"] == replace(SHORT, lrn=False, seed=2, precision="auto")


def test_judge():
    logits = np.full((4, 10), -5, "float16")
    answers, labels = [3, 5, 9, 0], [3, 3, 3, 0]  # cat; dog and truck for a cat; airplane
    logits[np.arange(4), answers] = 5
    result = judge(Taxonomy.cifar10(), logits, np.array(labels, np.uint8))
    assert result.metrics["accuracy"] == 0.5 and result.metrics["mistake_severity"] == 2.5  # heights 1 and 4
    assert json.loads(json.dumps(result.metrics)) == result.metrics


def test_ten_views():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (3, 6, 8, 3), np.uint8)
    views = list(ten_views(images, 2))
    assert len(views) == 10 and all(view.shape == images.shape for view in views) and np.array_equal(views[0], images) and np.array_equal(views[1], images[:, :, ::-1])
    assert np.array_equal(views[2][:, 2:, 2:], images[:, :4, :6]) and not views[2][:, :2].any() and not views[2][:, :, :2].any()
    assert np.array_equal(views[8][:, :4, :6], images[:, 2:, 2:]) and not views[8][:, 4:].any()
    assert [np.array_equal(a, b) for a, b in zip(ten_views(images, 2, False), views[::2])] == [True] * 5
    assert all(np.array_equal(view, images) for view in ten_views(images, 0, False))
    model = build_alexnet_small(width=0.1)
    images, mean, std = rng.integers(0, 256, (4, 32, 32, 3), np.uint8), np.full(3, 0.5), np.full(3, 0.2)
    averaged = predict_ten_views(model, images, partial(standardize, mean=mean, std=std), 3)
    by_hand = np.mean([ops.convert_to_numpy(ops.softmax(model((view / 255 - mean) / std))) for view in ten_views(images, 3)], axis=0)
    assert averaged.shape == (4, 10) and np.allclose(averaged, by_hand, atol=1e-4)


def test_configs():
    assert isinstance(QUICK, AlexNetSmallConfig) and SHORT.epochs >= 10 and set(CONFIGS) == {"tiny", "quick", "full"}
    with pytest.raises(FrozenInstanceError): QUICK.epochs = 1
    assert CONFIGS["quick"].seed == 0 and CONFIGS["quick"].ablation.arms == tuple(ARMS)
    assert runs.load("alexnet_small") is experiment


def test_backends():
    "The same network on Keras' torch backend: same outputs from the same weights, and a training step that learns."
    pytest.importorskip("torch")
    script = """
import sys, numpy as np, keras
from dataclasses import replace
from hierlearn.alexnet_small import build_alexnet_small
from hierlearn.experiments.alexnet_small import TINY, train_alexnet_small
assert keras.backend.backend() == "torch"
model = build_alexnet_small(width=0.2)
rng = np.random.default_rng(0)
model.set_weights([rng.normal(0, 0.05, w.shape) for w in model.weights])
np.save(sys.argv[1], model.predict(rng.normal(size=(4, 32, 32, 3)).astype("float32"), verbose=0))
_, history = train_alexnet_small(replace(TINY, epochs=2), progress=False)
assert history["loss"][1] < history["loss"][0]
"""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "logits.npy")
        done = subprocess.run([sys.executable, "-c", script, out], env=os.environ | {"KERAS_BACKEND": "torch"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs = np.load(out)
    model = build_alexnet_small(width=0.2)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.05, w.shape) for w in model.weights])
    assert np.allclose(model.predict(rng.normal(size=(4, 32, 32, 3)).astype("float32"), verbose=0), theirs, rtol=1e-3, atol=1e-4)


def test_the_committed_records_hold_what_the_lesson_says(repository):
    folder = repository / "nbs" / "results"
    record = read_record("alexnet_small", "quick", folder)
    assert record.metrics["test_accuracy"] >= 0.80 and record.metrics["test_accuracy_ten_views"] >= 0.84 and record.header["seconds"] <= 1800
    assert record.header["data"].startswith("cifar10") and record.header["config"]["validation"] == 10_000
    judged = read_record("alexnet_small_evaluate", "quick", folder)
    # computed from the logits of that run, and says so
    assert judged.header["key"] is None and record.header["commit"] in judged.header["logits"]
    again = judge(Taxonomy.cifar10(), record.arrays["test_logits"], record.arrays["test_labels"])
    assert read_report(judged) == read_report(again)
    ablation = read_record("alexnet_small_ablation", "quick", folder)
    assert {arm for arm, e in effects(ablation).items() if e.low > 0 or e.high < 0} == {"no dropout"}


# exercises: plausible answers that are wrong, right ones of another style

def half(side): return -(-side // 2)


def gradient(x, g, z, s, best=np.argmax, step=None, zeros=lambda x: np.zeros(len(x))):
    out = zeros(x)
    for i, value in enumerate(g):
        start = i * (step or s)
        if start + z > len(x): break
        out[start + best(x[start : start + z])] += value
    return out


def counts(n, z, s):
    out = np.zeros(n, int)
    for start in range(0, n - z + 1, s): out[start : start + z] += 1
    return out


def shift(values, vectors, alpha): return 255 * vectors @ (alpha * values)


WRONG = {
    "map_sides": [
        lambda s: (s // 2 + s % 2, s // 4 + s % 2, s // 8 + s % 2),
        lambda s: (s // 2, s // 4, s // 8),
        lambda s: (s, half(s), half(half(s))),
        lambda s: (half(s), (half(s) - 3) // 2 + 1, ((half(s) - 3) // 2 - 2) // 2 + 1),
        lambda s: (16, 8, 4),
        lambda s: (round(s / 2), round(s / 4), round(s / 8)),
        lambda s: half(half(half(s)))],
    "times_read": [
        lambda n, z, s: np.ones(n),
        lambda n, z, s: np.minimum(counts(n, z, s), 2),
        lambda n, z, s: counts(n, z, 2),
        lambda n, z, s: counts(n, 3, 2) if z == 3 else np.ones(n),
        lambda n, z, s: np.array([len([i for i in range(0, n, s) if i <= j < i + z]) for j in range(n)]),
        lambda n, z, s: counts(n, z, s)[: n - z + 1],
        lambda n, z, s: counts(n, z, s) > 0],
    "torch_alpha": [
        lambda alpha, n: "0.0005",
        lambda alpha, n: str(alpha * n),
        lambda alpha, n: alpha,
        lambda alpha, n: alpha / n,
        lambda alpha, n: 5 * alpha,
        lambda alpha, n: 5e-4,
        lambda alpha, n: [alpha * n]],
    "grey_levels": [
        lambda values, vectors, alpha: shift(values, vectors.T, alpha),
        lambda values, vectors, alpha: shift(values, vectors, alpha) / 255,
        lambda values, vectors, alpha: shift(values, vectors, alpha) * 255,
        lambda values, vectors, alpha: np.round(shift(values, vectors, alpha)),
        lambda values, vectors, alpha: shift(np.sqrt(values), vectors, alpha),
        lambda values, vectors, alpha: 255 * vectors @ alpha,
        lambda values, vectors, alpha: np.abs(shift(values, vectors, alpha)),
        lambda values, vectors, alpha: shift(values, vectors, alpha).sum()],
    "pool_gradient": [
        lambda x, g, z, s: gradient(x, g, z, s, step=2),
        lambda x, g, z, s: gradient(np.abs(x), g, z, s),
        lambda x, g, z, s: gradient(x, g, z, s, best=lambda w: max(range(len(w)), key=lambda i: (w[i] > 0) * w[i])),
        lambda x, g, z, s: gradient(x, g, z, s, zeros=np.zeros_like),
        lambda x, g, z, s: gradient(x, g, z, s, best=np.argmin),
        lambda x, g, z, s: np.sign(gradient(x, g, z, s)),
        lambda x, g, z, s: gradient(x, g, z, z),
        lambda x, g, z, s: g],
}
RIGHT = {
    "map_sides": [lambda s: [half(s), half(half(s)), half(half(half(s)))], lambda s: np.ceil(np.array([s / 2, s / 4, s / 8]))],
    "times_read": [lambda n, z, s: counts(n, z, s).tolist(), lambda n, z, s: max_pool2d(np.repeat(np.eye(n)[:, None, :, None], z, 1), z, s).sum((1, 2, 3))],
    "torch_alpha": [lambda alpha, n: n * alpha, lambda alpha, n: np.float32(alpha) * n],
    "grey_levels": [lambda *a: shift(*a).tolist(), lambda values, vectors, alpha: sum(a * v * p for a, v, p in zip(alpha, values, vectors.T)) * 255],
    "pool_gradient": [gradient, lambda x, g, z, s: tuple(float(sum(v for i, v in enumerate(g) if i * s + np.argmax(x[i * s : i * s + z]) == j)) for j in range(len(x)))],
}


@pytest.mark.parametrize("name", exercises.names)
def test_an_exercise_refuses_wrong_answers_and_accepts_styles(name):
    assert len(WRONG[name]) >= 5 and len(RIGHT[name]) == 2
    for i, answer in enumerate(WRONG[name]):
        with contextlib.redirect_stdout(io.StringIO()) as said: assert not check(name, answer), f"{name}: wrong answer {i} passes"
        assert said.getvalue().startswith(f"✗ {name}: ") and "raised" not in said.getvalue(), said.getvalue()
    for i, answer in enumerate(RIGHT[name]): assert check(name, answer), f"{name}: right answer {i} is refused"


def test_a_rounded_answer_is_told_apart(capsys):
    check("grey_levels", lambda *a: np.round(shift(*a)))
    assert "rounding" in capsys.readouterr().out
