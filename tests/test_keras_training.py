"`fit` of Keras models: exact resume, the best epoch, schedules; the layers of the room."
import numpy as np
import pytest

pytest.importorskip("keras")
import keras

from hierlearn import keras_training
from hierlearn.batches import Batches, cosine_schedule, set_seed, step_schedule
from hierlearn.checkpoints import CheckpointError, CheckpointFolder, config_digest, monitor_sign
from hierlearn.keras_training import FusedBatchNorm, ScheduledDropout, fit


def one_line(error): return "\n" not in str(error.value)


def keras_model(dropout=False, **compile_settings):
    set_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), *([ScheduledDropout(0.1, seed=1)] if dropout else []), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(**({"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]} | compile_settings))
    return model


def some_data(n=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)


def test_fit_resumes_and_keeps_history_and_best(tmp_path):
    x, y = some_data()
    run = lambda epochs, folder, **more: (model := keras_model(), fit(model, Batches(x, y, 8, seed=1), (x, y), epochs, cosine_schedule(0.1, 16), checkpoints=folder, progress=False, **more))
    model, history = run(4, tmp_path / "whole")
    run(2, tmp_path / "part")
    again, resumed = run(4, tmp_path / "part")
    third, finished = run(4, tmp_path / "part")  # nothing is left to do
    drop = lambda h: {k: v for k, v in h.items() if k != "seconds"}
    assert drop(history) == drop(resumed) == drop(finished) and all(len(v) == 4 for v in history.values())
    for a, b, c in zip(model.get_weights(), again.get_weights(), third.get_weights()): assert np.array_equal(a, b) and np.array_equal(a, c)
    predicted = model.predict(x, verbose=0).argmax(1)
    assert np.isclose((predicted == y).mean(), max(history["val_accuracy"]))  # the best epoch's weights
    _, lowest = run(3, None, monitor="val_loss")
    assert len(lowest["val_loss"]) == 3
    with pytest.raises(CheckpointError, match="has 4 epochs, more than epochs=2"): run(2, tmp_path / "part")
    with pytest.raises(CheckpointError, match="other data or batches"): fit(keras_model(), Batches(x, y, 16, seed=1), (x, y), 4, checkpoints=tmp_path / "part", progress=False)
    with pytest.raises(CheckpointError, match="another configuration"): run(4, tmp_path / "part", config={"other": 1})


def test_fit_errors(tmp_path):
    x, y = some_data()
    batches = Batches(x, y, 8)
    cases = {"not compiled": lambda: fit(keras.Sequential([keras.layers.Dense(3)]), batches, (x, y), 1), "epochs must be": lambda: fit(keras_model(), batches, (x, y), -1),
             "epochs must be an": lambda: fit(keras_model(), batches, (x, y), 0), "is not measured": lambda: fit(keras_model(), batches, (x, y), 1, monitor="val_acuracy", progress=False),
             "the validation images have the shape": lambda: fit(keras_model(), batches, (x[:, :2], y), 1), "same length": lambda: fit(keras_model(), batches, (x, y[:3]), 1),
             "schedule must be": lambda: fit(keras_model(), batches, (x, y), 1, schedule=0.1), "needs layers made by": lambda: fit(keras_model(), batches, (x, y), 1, dropout=lambda s: 0.5),
             "name a folder": lambda: fit(keras_model(), batches, (x, y), 1, checkpoints=__file__)}
    for text, bad in cases.items():
        with pytest.raises(ValueError, match=text) as error: bad()
        assert one_line(error)


def test_a_loss_of_nan_keeps_the_last_good_checkpoint(tmp_path):
    x, y = some_data()
    seen = []
    def spoil(x, rng):
        seen.append(1)
        return x * np.float32("nan") if len(seen) > 12 else x
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch"):
        fit(keras_model(), Batches(x, y, 8, spoil), (x, y), 9, checkpoints=tmp_path, progress=False)
    arrays, _ = CheckpointFolder(tmp_path, config_digest(None)).load()
    assert all(np.isfinite(a).all() for name, a in arrays.items() if name.startswith(("state/", "best/")))


def test_dropout_rate_changes_while_training():
    x, y = some_data()
    model = keras_model(dropout=True)
    layer = next(layer for layer in model.layers if isinstance(layer, ScheduledDropout))
    fit(model, Batches(x, y, 8), None, 2, monitor="accuracy", progress=False, dropout=lambda step: 0.2 if step < 4 else 0.6)
    assert len(layer.trainable_weights) == 0
    big = keras.Sequential([keras.Input((1000,)), ScheduledDropout(0.2)])
    big.compile("sgd", loss=lambda y, p: keras.ops.mean(keras.ops.cast(p == 0, "float32"), -1))
    share = lambda: float(big.train_on_batch(np.ones((8, 1000), "float32"), np.zeros((8, 1000), "float32")))
    assert abs(share() - 0.2) < 0.05
    big.layers[-1].set_rate(0.8)
    assert abs(share() - 0.8) < 0.05
    assert (big.predict(np.ones((2, 1000)), verbose=0) == 1).all()  # off at prediction
    with pytest.raises(ValueError, match="a dropout rate must be"): big.layers[-1].set_rate(1)
    with pytest.raises(ValueError, match="a dropout rate must be"): ScheduledDropout(-0.1)


@pytest.mark.parametrize("monitor, values, best", [("val_accuracy", [float("nan"), 0.1, 0.5, 0.4], 2), ("val_accuracy", [0.3, float("nan"), 0.2, 0.5], 3), ("val_mae", [0.9, 0.8, 0.7, 0.75], 2), ("val_loss", [1.0, 3.0, 2.0, 5.0], 0)])
def test_the_best_epoch(monitor, values, best, monkeypatch):
    x, y = some_data()
    class Planned(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None): logs[monitor] = values[epoch]; weights.append(self.model.get_weights())
    weights = []
    monkeypatch.setattr(keras_training._Progress, "check_monitor", lambda self, measured: None)  # the plan's name is not one that Keras measures
    model = keras_model()
    fit(model, Batches(x, y, 8), (x, y), 4, monitor=monitor, callbacks=[Planned()], progress=False)
    assert [n for n, w in enumerate(weights) if all(np.array_equal(a, b) for a, b in zip(w, model.get_weights()))] == [best]
    assert monitor_sign("val_accuracy", "min") == -1 and monitor_sign("val_mae") == -1 and monitor_sign("val_recall") == 1 and monitor_sign("perplexity") == monitor_sign("logloss") == monitor_sign("error_rate") == -1


def test_what_fit_refuses_at_once(tmp_path):
    x, y = some_data()
    batches, sgd = Batches(x, y, 8), keras.optimizers.SGD
    cases = {"steps_per_execution=1": lambda: fit(keras_model(steps_per_execution=2), batches, (x, y), 1), "use_ema": lambda: fit(keras_model(optimizer=sgd(0.1, use_ema=True)), batches, (x, y), 1),
             "schedule of its own": lambda: fit(keras_model(optimizer=sgd(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))), batches, (x, y), 1, cosine_schedule(0.1, 4)),
             "no effect": lambda: fit(keras_model(), batches, (x, y), 1, cosine_schedule(0.1, 4), callbacks=[keras.callbacks.ReduceLROnPlateau()]),
             "needs validation": lambda: fit(keras_model(), batches, None, 1), "dropout must be a function": lambda: fit(keras_model(dropout=True), batches, (x, y), 1, dropout=0.3),
             "gives 2 rates for 1 layers": lambda: fit(keras_model(dropout=True), batches, (x, y), 1, dropout=lambda s: [0.1, 0.2]), "a number of at least 0": lambda: fit(keras_model(), batches, (x, y), 1, lambda s: None),
             "must be Batches": lambda: fit(keras_model(), (x, y), (x, y), 1), "mode must be": lambda: fit(keras_model(), batches, (x, y), 1, mode="best")}
    for text, bad in cases.items():
        with pytest.raises(ValueError, match=text) as error: bad()
        assert one_line(error)
    with pytest.raises(ValueError, match="batch_size must be an integer"): Batches(x, y, 8.0)
    with pytest.raises(ValueError, match="counted from 0"): batches.batch(-1)
    with pytest.raises(ValueError, match="read-only"): batches.order(0).sort()
    assert Batches(x.tolist(), y.tolist(), 8).batch(0)[1].shape == (8,)
    with pytest.raises(ValueError, match="whole numbers of steps"): step_schedule([1, 0.1, 0.01], [0.5, 0.75])


def test_another_run_does_not_resume(tmp_path):
    x, y = some_data()
    run = lambda epochs, images=x, model=None, **more: fit(model or keras_model(), Batches(images, y, 8), (x, y), epochs, checkpoints=tmp_path, progress=False, **more)
    run(1)
    for change, text in ((dict(images=x + 1), "content"), (dict(monitor="val_loss"), "monitor"), (dict(schedule=cosine_schedule(0.1, 8)), "schedule"), (dict(model=keras_model(optimizer=keras.optimizers.SGD(0.1, momentum=0.5))), "another optimiser")):
        with pytest.raises(CheckpointError, match=text): run(2, **change)
    fit(keras_model(), Batches(x, y, 8), (x, y), 1, monitor="accuracy", checkpoints=tmp_path / "b", progress=False)
    with pytest.raises(CheckpointError, match="different: validation"): fit(keras_model(), Batches(x, y, 8), None, 2, monitor="accuracy", checkpoints=tmp_path / "b", progress=False)
    with pytest.warns(UserWarning, match="EarlyStopping does not remember"): run(2, callbacks=[keras.callbacks.EarlyStopping(patience=9)])


def test_callbacks_draw_on_and_a_stopped_run_says_so(tmp_path, capsys):
    x, y = some_data()
    def run(epochs, folder, stop=None):
        drawn, model = [], keras_model()
        class Draws(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None): drawn.append(np.random.randint(10**6))
            def on_epoch_end(self, epoch, logs=None):
                drawn.append(np.random.randint(10**6))
                if epoch == stop: self.model.stop_training = True
        fit(model, Batches(x, y, 8), (x, y), epochs, checkpoints=folder, callbacks=[Draws()], progress=False)
        return drawn
    whole = run(4, tmp_path / "whole")
    assert len(set(whole)) == 8
    assert run(2, tmp_path / "part") + run(4, tmp_path / "part") == whole  # the draws of a resumed run go on, too
    run(6, tmp_path / "stopped", stop=1)
    assert run(6, tmp_path / "stopped") == [] and "ended this training after epoch 2" in capsys.readouterr().err
