"`fit` of Keras models: exact resume, the best epoch, schedules; the layers of the room."
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("keras")
import keras

from hierlearn.batches import Batches, cosine_schedule, set_seed
from hierlearn.checkpoints import CheckpointError, CheckpointFolder, load_checkpoint
from hierlearn.keras_training import FusedBatchNorm, ScheduledDropout, fit


def one_line(error): return "\n" not in str(error.value)


def keras_model(dropout=0, **compile_settings):
    set_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"),
              *(ScheduledDropout(0.1, seed=n + 1) for n in range(dropout)), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "loss": loss, "metrics": ["accuracy"]} | compile_settings)
    return model


def some_data(n=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)


def same_weights(a, b): return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


# ---- resume

def test_fit_resumes_and_keeps_history_and_best(tmp_path):
    x, y = some_data()
    def run(epochs, folder, **more):
        model = keras_model()
        return model, fit(model, Batches(x, y, 8, seed=1), (x, y), epochs, cosine_schedule(0.1, 16), checkpoints=folder, progress=False, **more)
    model, history = run(4, tmp_path / "whole")
    run(2, tmp_path / "part")
    again, resumed = run(4, tmp_path / "part")
    third, finished = run(4, tmp_path / "part")  # nothing is left to do
    drop = lambda h: {k: v for k, v in h.items() if k != "seconds"}
    assert drop(history) == drop(resumed) == drop(finished) and all(len(v) == 4 for v in history.values())
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "seconds", "learning_rate"}
    assert same_weights(model, again) and same_weights(model, third)
    predicted = model.predict(x, verbose=0).argmax(1)
    assert np.isclose((predicted == y).mean(), max(history["val_accuracy"]))  # the best epoch's weights
    without, same = run(4, None)
    assert same_weights(model, without) and drop(same) == drop(history)  # checkpoints change nothing
    _, lowest = run(3, None, monitor="val_loss")
    assert len(lowest["val_loss"]) == 3
    with pytest.raises(CheckpointError, match="has 4 epochs, more than epochs=2"): run(2, tmp_path / "part")


def test_another_run_does_not_resume(tmp_path):
    x, y = some_data(640)
    rate = cosine_schedule(0.1, 80)
    def run(folder="a", epochs=2, images=x, labels=y, size=32, seed=0, validation=(x, y), model=None, schedule=None, **more):
        return fit(model or keras_model(), Batches(images, labels, size, seed=seed), validation, epochs, schedule, checkpoints=tmp_path / folder, progress=False, **more)
    run(epochs=1)
    run("scheduled", 1, schedule=rate)
    changed, other = x.copy(), y.copy()
    changed[333, 2] += 1  # one number of one image
    other[333] = (other[333] + 1) % 3
    sgd, loss = keras.optimizers.SGD, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wider = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9, activation="tanh"), keras.layers.Dense(3)])
    wider.compile(sgd(0.1, momentum=0.9), loss, metrics=["accuracy"])
    for change, text in (
            (dict(images=changed), "data"), (dict(labels=other), "data"), (dict(size=16), "data"), (dict(seed=1), "data"), (dict(validation=(changed, y)), "data"),
            (dict(config={"other": 1}), "config"), (dict(monitor="val_loss"), "monitor"), (dict(schedule=rate), "schedule"), (dict(folder="scheduled"), "schedule"),
            (dict(model=keras_model(optimizer=sgd(0.1, momentum=0.5))), "model"), (dict(model=wider), "model"), (dict(validation=None, monitor="accuracy"), "data, monitor|monitor, data")):
        with pytest.raises(CheckpointError, match=f"with another ({text});") as error: run(**change)
        assert one_line(error)
    with pytest.warns(UserWarning, match="EarlyStopping does not remember"): run(callbacks=[keras.callbacks.EarlyStopping(patience=9)])


def test_callbacks_draw_on(tmp_path):
    "What callbacks draw from NumPy, Keras and PyTorch is the same in a run that was resumed."
    x, y = some_data()
    def run(epochs, folder):
        drawn, model = [], keras_model(dropout=1)
        def draw(): drawn.append((np.random.randint(10**6), float(keras.random.uniform(()))))
        class Draws(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None): draw()
            def on_train_batch_begin(self, batch, logs=None): draw()
            def on_train_batch_end(self, batch, logs=None): draw()
            def on_epoch_end(self, epoch, logs=None): draw()
        fit(model, Batches(x, y, 8), (x, y), epochs, checkpoints=folder, callbacks=[Draws()], progress=False)
        return drawn, model
    whole, model = run(4, tmp_path / "whole")
    assert len(set(whole)) == 4 * 10
    first, _ = run(2, tmp_path / "part")
    rest, again = run(4, tmp_path / "part")
    assert first + rest == whole and same_weights(model, again)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_bfloat16_and_a_callback_that_draws_after_a_kill(backend, tmp_path):
    "The process dies by SIGKILL in epoch 3; the resumed one ends with the same bits, floatx bfloat16 and draws in on_epoch_begin included."
    pytest.importorskip(backend)
    code = textwrap.dedent("""
        import hashlib, os, signal, sys, numpy as np, keras
        from hierlearn.batches import Batches, set_seed
        from hierlearn.keras_training import ScheduledDropout, fit
        folder, die = sys.argv[1], sys.argv[2] == "die"
        keras.config.set_floatx("bfloat16")
        set_seed(0)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(32, 4)).astype("float32"), rng.integers(0, 3, 32)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.GaussianNoise(0.1), ScheduledDropout(0.2), keras.layers.Dense(3)])
        model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        class Shakes(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                w = model.layers[0].kernel
                w.assign(w + keras.ops.cast(0.05 * keras.random.normal(w.shape, dtype="float32"), w.dtype))
            def on_train_batch_end(self, batch, logs=None):
                if die and self.model.optimizer.iterations == 9: os.kill(os.getpid(), signal.SIGKILL)
        history = fit(model, Batches(x, y, 8), (x, y), 4, monitor="val_loss", checkpoints=folder, callbacks=[Shakes()], progress=False)
        bits = [np.asarray(keras.ops.convert_to_numpy(v), "float32").tobytes() for v in [*model.weights, *model.optimizer.variables]]
        print(any("bfloat16" in str(v.dtype) for v in model.optimizer.variables if v.shape == ()), hashlib.sha256(b"".join(bits)).hexdigest(), history["loss"], history["val_loss"])
        """)
    def run(folder, word):
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        return subprocess.run([sys.executable, "-c", code, tmp_path / folder, word], capture_output=True, text=True, env=environment)
    whole = run("whole", "live")
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert whole.stdout.startswith("True")  # there is a variable of shape () in bfloat16: the learning rate
    assert run("part", "die").returncode == -9 and os.listdir(tmp_path / "part")
    again = run("part", "live")
    assert again.stdout == whole.stdout, again.stderr[-2000:]


def test_a_run_that_a_callback_ended_stays_ended(tmp_path, capsys):
    x, y = some_data()
    class Stops(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1: self.model.stop_training = True
    class Counts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None): raise AssertionError("it went on")
    def run(callback):
        model = keras_model()
        return model, fit(model, Batches(x, y, 8), (x, y), 6, checkpoints=tmp_path, callbacks=[callback], progress=False)
    model, history = run(Stops())
    assert load_checkpoint(max(tmp_path.glob("*.ckpt")))["state"]["stopped"] is True
    again, same = run(Counts())
    assert same == history and len(same["loss"]) == 2 and same_weights(model, again)
    assert "a callback ended this training after epoch 2" in capsys.readouterr().err


# ---- the best epoch

@pytest.mark.parametrize("monitor, values, best", [
    ("val_accuracy", [float("nan"), 0.1, 0.5, 0.4], 2), ("val_accuracy", [0.2, 0.5, 0.5, 0.5], 1), ("val_loss", [1.0, 3.0, 1.0, 5.0], 0)])
@pytest.mark.parametrize("killed", [False, True])
def test_the_best_epoch(monitor, values, best, killed, tmp_path):
    x, y = some_data()
    weights = {}
    class Planned(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs[monitor] = values[epoch]
            weights[epoch] = self.model.get_weights()
    def run(epochs):
        model = keras_model()
        fit(model, Batches(x, y, 8), (x, y), epochs, monitor=monitor, callbacks=[Planned()], checkpoints=tmp_path, progress=False)
        return model
    if killed: run(2)
    found = run(4).get_weights()
    assert [n for n, w in weights.items() if all(np.array_equal(a, b) for a, b in zip(w, found))] == [best]


# ---- what is told at once

def test_fit_errors(tmp_path):
    x, y = some_data()
    batches, sgd, rate = Batches(x, y, 8), keras.optimizers.SGD, cosine_schedule(0.1, 4)
    (tmp_path / "file").write_text("")
    def call(model=None, data=batches, validation=(x, y), epochs=1, **more):
        return fit(model or keras_model(), data, validation, epochs, progress=False, **more)
    cases = {
        "not compiled": lambda: call(keras.Sequential([keras.layers.Dense(3)])), "epochs must be .*got -1": lambda: call(epochs=-1),
        "epochs must be .*got 0": lambda: call(epochs=0), "epochs must be .*got True": lambda: call(epochs=True), "epochs must be .*got 2.0": lambda: call(epochs=2.0),
        "monitor must be one of .*got 'val_acuracy' .near: val_accuracy": lambda: call(monitor="val_acuracy"),
        r"the validation images have the shape \(32, 2\)": lambda: call(validation=(x[:, :2], y)),
        r"the training batches have the shape \(8, 3\)": lambda: call(data=Batches(x[:, :3], y, 8)),
        "validation: 32 images but 3 labels": lambda: call(validation=(x, y[:3])), "validation must be a pair": lambda: call(validation=x),
        "schedule must be a function": lambda: call(schedule=0.1), "dropout must be a function": lambda: call(keras_model(1), dropout=0.3),
        "needs layers of ScheduledDropout": lambda: call(dropout=lambda s: 0.5),
        "gives 2 rates for 1 layers": lambda: call(keras_model(1), dropout=lambda s: [0.1, 0.2] if s == 0 else 0.1),
        "a dropout rate must be": lambda: call(keras_model(1), dropout=lambda s: 1.0),
        "cannot write into": lambda: call(checkpoints=tmp_path / "file"), "steps_per_execution=1": lambda: call(keras_model(steps_per_execution=2)),
        "use_ema": lambda: call(keras_model(optimizer=sgd(0.1, use_ema=True))), "a schedule of its own": lambda: call(
            keras_model(optimizer=sgd(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))), schedule=rate),
        "no effect beside": lambda: call(schedule=rate, callbacks=[keras.callbacks.ReduceLROnPlateau()]), "needs validation": lambda: call(validation=None),
        r"schedule\(0\) must be a number": lambda: call(schedule=lambda s: None), "of at least 0, got nan": lambda: call(schedule=lambda s: float("nan")),
        "must be Batches": lambda: call(data=(x, y)), "mode must be": lambda: call(mode="best")}
    for text, bad in cases.items():
        with pytest.raises(ValueError, match=text) as error: bad()
        assert one_line(error)


def test_a_loss_of_nan_keeps_the_last_good_checkpoint(tmp_path):
    x, y = some_data()
    seen = []
    def spoil(x, rng):
        seen.append(1)
        return x * np.float32("nan") if len(seen) > 12 else x
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch .*are kept") as error:
        fit(keras_model(), Batches(x, y, 8, spoil), (x, y), 9, checkpoints=tmp_path, progress=False)
    assert one_line(error)
    state = load_checkpoint(CheckpointFolder(tmp_path).files()[-1])["state"]
    assert all(np.isfinite(a).all() for a in state["variables"] + state["progress"]["best"])


# ---- layers

def test_dropout_rate_changes_while_training(tmp_path):
    x, y = some_data()
    model, seen = keras_model(dropout=2), []
    rates = [layer.rate for layer in model.layers if isinstance(layer, ScheduledDropout)]
    class Watches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None): seen.append([round(float(r), 3) for r in rates])
    fit(model, Batches(x, y, 8), None, 2, monitor="accuracy", progress=False, callbacks=[Watches()], dropout=lambda step: 0.2 if step < 3 else [0.6, 0.0])
    assert seen == 3 * [[0.2, 0.2]] + 5 * [[0.6, 0.0]]
    big = keras.Sequential([keras.Input((1000,)), ScheduledDropout(0.2)])
    big.compile("sgd", loss=lambda y, p: keras.ops.mean(keras.ops.cast(p == 0, "float32"), -1))
    share = lambda: float(big.train_on_batch(np.ones((8, 1000), "float32"), np.zeros((8, 1000), "float32")))
    assert abs(share() - 0.2) < 0.05
    big.layers[-1].set_rate(0.8)
    assert abs(share() - 0.8) < 0.05
    assert (big.predict(np.ones((2, 1000)), verbose=0) == 1).all()  # off at prediction
    kept = np.asarray(keras.ops.convert_to_numpy(ScheduledDropout(0.75, seed=0)(np.ones((100, 100), "float32"), training=True)))
    assert set(np.unique(kept)) == {0, 4} and len(big.layers[-1].trainable_weights) == 0
    for rate in (1, -0.1, "0.5", float("nan")):
        with pytest.raises(ValueError, match="a dropout rate must be"): big.layers[-1].set_rate(rate)
        with pytest.raises(ValueError, match="a dropout rate must be"): ScheduledDropout(rate)


def test_layers_are_found_in_files(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 3)), FusedBatchNorm(momentum=0.5, name="norm"), ScheduledDropout(0.3, seed=5), keras.layers.Flatten(), keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")
    model(x, training=True)
    model.save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras")
    assert type(again.layers[0]) is FusedBatchNorm and type(again.layers[1]) is ScheduledDropout
    assert again.layers[1].seed == 5 and again.layers[1].initial_rate == 0.3 and again.layers[0].name == "norm"
    assert np.array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert keras.saving.get_registered_name(FusedBatchNorm) == "hierlearn>BatchNormalization"
    assert keras.saving.get_registered_name(ScheduledDropout) == "hierlearn>ScheduledDropout"


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_fused_batch_norm_is_batch_norm(backend, tmp_path):
    "Outputs, gradients, running statistics and files, in float32 and bfloat16; a backend needs a process of its own."
    pytest.importorskip(backend)
    code = textwrap.dedent(f"""
        import numpy as np, keras
        from hierlearn.keras_training import FusedBatchNorm
        Stock = keras.layers.BatchNormalization
        def net(layer, policy):
            keras.utils.set_random_seed(0)
            keras.mixed_precision.set_global_policy(policy)
            x = keras.Input((9, 9, 3))
            y = layer(momentum=0.8, epsilon=1e-4)(keras.layers.Conv2D(6, 3, strides=2)(x))
            model = keras.Model(x, keras.layers.Dense(4, dtype="float32")(keras.layers.Flatten()(keras.layers.ReLU()(y))))
            model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            return model
        rng = np.random.default_rng(0)
        x, y = rng.normal(3, 5, (16, 9, 9, 3)).astype("float32"), rng.integers(0, 4, 16)
        for policy, tolerance in (("float32", 1e-4), ("mixed_bfloat16", 2e-2)):
            ours, stock = net(FusedBatchNorm, policy), net(Stock, policy)
            for model in (ours, stock): model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
            for a, b in zip(ours.get_weights(), stock.get_weights()): np.testing.assert_allclose(a, b, atol=tolerance * max(1, abs(b).max()))
            stock.set_weights(ours.get_weights())
            np.testing.assert_allclose(ours.predict(x, verbose=0), stock.predict(x, verbose=0), atol=10 * tolerance)
        keras.mixed_precision.set_global_policy("float32")
        ours = net(FusedBatchNorm, "float32")
        ours.layers[2].trainable = False  # a frozen layer keeps its statistics
        before = ours.layers[2].get_weights()
        ours.layers[2](np.ones((2, 4, 4, 6), "float32"), training=True)
        assert all((a == b).all() for a, b in zip(before, ours.layers[2].get_weights()))
        stock = net(Stock, "float32")
        for model in (ours, stock): model.fit(x, y, batch_size=8, epochs=1, verbose=0)
        ours.save_weights({str(tmp_path / "w.weights.h5")!r})
        stock.load_weights({str(tmp_path / "w.weights.h5")!r})  # files of weights fit both kinds
        np.testing.assert_allclose(ours.predict(x, verbose=0), stock.predict(x, verbose=0), atol=1e-4)
        for dtype in ("float64", "float16"):  # what the operation does not take goes Keras' own way, and so do other shapes and options
            assert keras.backend.standardize_dtype(FusedBatchNorm(dtype=dtype)(np.ones((2, 3, 3, 4), dtype), training=True).dtype) == dtype
        for options, shape in (({{"axis": 1}}, (5, 3)), ({{"axis": 1}}, (2, 3, 4, 4)), ({{"scale": False}}, (2, 3, 3, 4)), ({{"center": False}}, (2, 3, 3, 4))):
            pixels = rng.normal(size=shape).astype("float32")
            a, b = (np.asarray(keras.ops.convert_to_numpy(layer(**options)(pixels, training=True))) for layer in (FusedBatchNorm, Stock))
            np.testing.assert_allclose(a, b, atol=1e-4)
        print("same")
        """)
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr[-2000:]


def test_the_torch_backend_resumes(tmp_path):
    "`tests/test_resume.py` kills it; here that the room works on that backend at all, best weights included."
    pytest.importorskip("torch")
    code = textwrap.dedent("""
        import sys, numpy as np, keras
        from hierlearn.batches import Batches, cosine_schedule
        from hierlearn.keras_training import ScheduledDropout, fit
        x, y = np.random.default_rng(0).normal(size=(32, 4)).astype("float32"), np.arange(32) % 3
        model = keras.Sequential([keras.Input((4,)), ScheduledDropout(0.1, seed=1), keras.layers.Dense(3)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        history = fit(model, Batches(x, y, 8), (x, y), 3, cosine_schedule(0.1, 12), checkpoints=sys.argv[1], progress=False, dropout=lambda s: 0.2)
        assert abs((model.predict(x, verbose=0).argmax(1) == y).mean() - max(history["val_accuracy"])) < 1e-6
        """)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": "torch"})
    assert done.returncode == 0, done.stderr[-2000:]
