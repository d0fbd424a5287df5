"The foundations of training: schedules, batches, checkpoints, records; errors in one line."
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn import training
from hierlearn.training import (PROFILES, Batches, CheckpointError, CheckpointFolder, Comparison, TorchCheckpoint, compare, config_digest, cosine_schedule, describe_precision,
                                elu_dropout_schedule, environment, fastai_checkpoint, fit, load_checkpoint, one_cycle_schedule, pack_state, pick_precision, profile, random_state,
                                find_result, read_record, run_seeds, save_checkpoint, scheduled_dropout, scheduled_dropout_class, set_random_state, set_seed, step_schedule, unpack_state, write_record)


def one_line(error): return "\n" not in str(error.value)


def test_profile(monkeypatch, capsys):
    for name in PROFILES:
        monkeypatch.setenv("HIERLEARN_PROFILE", name)
        assert profile() == name and name in capsys.readouterr().out
    monkeypatch.setenv("HIERLEARN_PROFILE", "huge")
    with pytest.raises(ValueError, match="unknown profile 'huge'"): profile()
    monkeypatch.delenv("HIERLEARN_PROFILE")
    assert profile(data=None, quiet=True) == "quick"


def test_config_digest():
    @dataclasses.dataclass(frozen=True)
    class Config:
        epochs: int = 3
    assert config_digest(Config()) == config_digest({"epochs": 3}) != config_digest(Config(4))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 50), size=st.integers(1, 50), seed=st.integers(0, 9), step=st.integers(0, 300))
def test_batches_are_a_function_of_the_step(n, size, seed, step):
    x = np.arange(n)
    if size > n:
        with pytest.raises(ValueError, match="make the batch smaller"): Batches(x, x, size)
        return
    a = Batches(x, x, size, lambda x, rng: x + rng.random(x.shape), seed)
    b = Batches(x, x, size, lambda x, rng: x + rng.random(x.shape), seed)
    for _ in range(3): b.batch(0)
    assert all(np.array_equal(u, v) for u, v in zip(a.batch(step), next(b.stream(step))))
    assert sorted(a.order(2)) == list(range(n)) and len(a) == n // size


def test_batches_errors():
    with pytest.raises(ValueError, match="seed must be"): Batches(np.zeros(3), np.zeros(3), 1, seed=-1)
    with pytest.raises(ValueError, match="one label for each"): Batches(np.zeros(3), np.zeros(2), 1)
    with pytest.raises(ValueError, match="between 1 and"): Batches(np.zeros(3), np.zeros(3), 0)


@settings(max_examples=25, deadline=None)
@given(peak=st.floats(1e-5, 10), total=st.integers(2, 10_000), share=st.floats(0, 0.9))
def test_schedules_stay_between_nothing_and_the_peak(peak, total, share):
    for schedule in (cosine_schedule(peak, total, int(share * total)), one_cycle_schedule(peak, total, share), one_cycle_schedule(peak, total, share, shape="linear")):
        values = np.array([schedule(s) for s in range(0, total + 5, max(1, total // 50))])
        assert (values >= -1e-12).all() and (values <= peak * (1 + 1e-9)).all()


def test_schedules_of_the_papers():
    elu = step_schedule([0.01, 0.005, 0.0005, 0.00005], [35_000, 85_000, 135_000])
    assert [elu(s) for s in (0, 34_999, 35_000, 85_000, 164_999)] == [0.01, 0.01, 0.005, 0.0005, 0.00005]
    dropout = elu_dropout_schedule(100)
    assert dropout(99)[:, 1].sum() == 0 and np.array_equal(dropout(100)[:, 0], dropout(100)[:, 1])
    assert np.allclose(dropout(50_100), 1.5 * dropout(100))
    for bad in (lambda: step_schedule([1], [2]), lambda: step_schedule([1, 2, 3], [5, 5]), lambda: cosine_schedule(0, 10), lambda: cosine_schedule(1, 10, 11), lambda: one_cycle_schedule(1, 0),
                lambda: one_cycle_schedule(1, 10, rise=1), lambda: one_cycle_schedule(1, 10, shape="square"), lambda: elu_dropout_schedule(10, factor=3)):
        with pytest.raises(ValueError) as error: bad()
        assert one_line(error)


def test_random_state_goes_round():
    torch = pytest.importorskip("torch")
    set_seed(4)
    arrays, tree = pack_state(random_state())
    draw = lambda: (os.urandom(0), np.random.rand(), float(torch.rand(())), training.random.random())
    first = draw()
    set_random_state(unpack_state(arrays, json.loads(json.dumps(tree))))
    assert draw() == first
    set_seed(4)
    random_state()  # Keras' generator, made at its first use, draws from Python's stream
    assert draw() == first
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(ValueError, match="seed must be"): set_seed(seed)


tree = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.integers() | st.text(), x), max_leaves=10)

@settings(max_examples=50, deadline=None)
@given(tree)
def test_pack_state_goes_round(x):
    arrays, packed = pack_state(x)
    assert not arrays and unpack_state(arrays, json.loads(json.dumps(packed))) == x


# ---- checkpoints

def test_checkpoint_types(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {"a": np.arange(5), "b": np.ones((2, 0)), "c": np.array(1.5, "float32"), "d": np.array([1.5, -2], ml_dtypes.bfloat16), "e": np.array([True])}
    save_checkpoint(tmp_path / "deep" / "x.npz", arrays, {"epoch": 3})
    again, info = load_checkpoint(tmp_path / "deep" / "x.npz")
    assert info == {"epoch": 3} and all(again[k].dtype == v.dtype and np.array_equal(again[k], v) for k, v in arrays.items())
    assert os.listdir(tmp_path / "deep") == ["x.npz"]
    with pytest.raises(ValueError, match="Python objects"): save_checkpoint(tmp_path / "y.npz", {"o": np.array([print])}, {})
    with pytest.raises(FileNotFoundError): load_checkpoint(tmp_path / "none.npz")


def test_no_code_is_run_by_a_checkpoint(tmp_path):
    class Bomb:
        def __reduce__(self): return os.mkdir, (str(tmp_path / "boom"),)
    np.savez(tmp_path / "x.npz", bomb=np.array([Bomb()], dtype=object))
    with pytest.raises(CheckpointError, match="not a whole checkpoint"): load_checkpoint(tmp_path / "x.npz")
    assert not (tmp_path / "boom").exists()


@settings(max_examples=50, deadline=None)
@given(place=st.floats(0, 0.999), cut=st.booleans(), flip=st.sampled_from([1, 0x80, 0xFF]))
def test_a_damaged_checkpoint_is_noticed(tmp_path_factory, place, cut, flip):
    folder = CheckpointFolder(tmp_path_factory.mktemp("ck"), "d")
    for epoch in range(2): folder.save(epoch, {"w": np.random.default_rng(0).random(500)}, {})
    newest = folder.files()[-1]
    content = bytearray(newest.read_bytes())
    at = int(place * len(content))
    if cut: content = content[:at]
    else: content[at] ^= flip
    newest.write_bytes(content)
    arrays, info = folder.load()  # the damage hit unused bytes of the container, or the checkpoint before it is used
    assert info["epoch"] in (0, 1) and np.array_equal(arrays["w"], np.random.default_rng(0).random(500))


def test_two_are_kept_and_strangers_refused(tmp_path):
    folder = CheckpointFolder(tmp_path, "one")
    assert folder.load() is None
    (tmp_path / "epoch-00009.npz.partial").write_bytes(b"left by a kill")
    for epoch in range(5): folder.save(epoch, {"w": np.zeros(1)}, {})
    assert sorted(os.listdir(tmp_path)) == ["epoch-00003.npz", "epoch-00004.npz"]
    with pytest.raises(CheckpointError, match="another configuration"): CheckpointFolder(tmp_path, "two").load()
    for file in folder.files(): file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"): folder.load()


def test_full_disk_leaves_the_older_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path, "d")
    folder.save(0, {"w": np.arange(100)}, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the system refuses to write on, as a full disk does
        with pytest.raises(CheckpointError, match="older checkpoints are untouched") as error: folder.save(1, {"w": np.random.rand(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert one_line(error) and os.listdir(tmp_path) == ["epoch-00000.npz"]
    assert folder.load()[1]["epoch"] == 0


def test_interrupt_while_writing(tmp_path, monkeypatch):
    def stop(number): raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt): save_checkpoint(tmp_path / "x.npz", {}, {})
    assert not os.listdir(tmp_path)


# ---- Keras

keras_needed = pytest.mark.skipif(not __import__("importlib").util.find_spec("keras"), reason="no keras")

def keras_model(dropout=False, **compile_settings):
    import keras
    set_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), *([scheduled_dropout(0.1, seed=1)] if dropout else []), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(**({"optimizer": keras.optimizers.SGD(0.1, momentum=0.9), "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]} | compile_settings))
    return model

def some_data(n=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)


@keras_needed
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


@keras_needed
def test_fit_errors(tmp_path):
    import keras
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


@keras_needed
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


@keras_needed
def test_dropout_rate_changes_while_training():
    import keras
    x, y = some_data()
    model = keras_model(dropout=True)
    layer = next(layer for layer in model.layers if isinstance(layer, scheduled_dropout_class()))
    fit(model, Batches(x, y, 8), None, 2, monitor="accuracy", progress=False, dropout=lambda step: 0.2 if step < 4 else 0.6)
    assert len(layer.trainable_weights) == 0
    big = keras.Sequential([keras.Input((1000,)), scheduled_dropout(0.2)])
    big.compile("sgd", loss=lambda y, p: keras.ops.mean(keras.ops.cast(p == 0, "float32"), -1))
    share = lambda: float(big.train_on_batch(np.ones((8, 1000), "float32"), np.zeros((8, 1000), "float32")))
    assert abs(share() - 0.2) < 0.05
    big.layers[-1].set_rate(0.8)
    assert abs(share() - 0.8) < 0.05
    assert (big.predict(np.ones((2, 1000)), verbose=0) == 1).all()  # off at prediction
    with pytest.raises(ValueError, match="a dropout rate must be"): big.layers[-1].set_rate(1)
    with pytest.raises(ValueError, match="a dropout rate must be"): scheduled_dropout(-0.1)


# ---- precision, PyTorch

def test_precision(monkeypatch):
    pytest.importorskip("torch")
    found = describe_precision("torch", 128)
    assert found == describe_precision("torch", 128) and pick_precision("torch", 128) == found["precision"]
    with pytest.raises(ValueError, match="framework must be"): pick_precision("abacus")
    monkeypatch.setattr(training, "_product_rates", lambda framework, size: {"float32": 1.0, "bfloat16": 1.2})
    assert pick_precision("torch") == "float32"
    monkeypatch.setattr(training, "_product_rates", lambda framework, size: {"float32": 1.0, "bfloat16": 1.4})
    assert pick_precision("torch") == "bfloat16"


def test_torch_checkpoint_errors(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 2)
    checkpoint = TorchCheckpoint(tmp_path, model=net)
    assert checkpoint.resume() == (0, {})
    with pytest.raises(ValueError, match="best=True"): checkpoint.load_best()
    checkpoint.save(0, note="x")
    assert TorchCheckpoint(tmp_path, model=net).resume() == (1, {"note": "x"})
    with pytest.raises(CheckpointError, match="belongs to another model"): TorchCheckpoint(tmp_path, model=torch.nn.Linear(3, 2)).resume()
    with pytest.raises(CheckpointError, match="pass the same parts"): TorchCheckpoint(tmp_path, model=net, generator=torch.Generator()).resume()
    with pytest.raises(ValueError, match="has no state"): TorchCheckpoint(tmp_path, model=None)
    with pytest.raises(ValueError, match="cannot hold"): pack_state({"x": object()})


def test_fastai_checkpoint_is_a_callback(tmp_path):
    callback = pytest.importorskip("fastai.callback.core")
    assert isinstance(fastai_checkpoint(tmp_path), callback.Callback)  # test_resume.py trains with it


# ---- records

def test_records(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Config:
        epochs: int = 2
        seed: int = 0
    for seed, accuracy in enumerate([0.5, 0.6, 0.7]):
        record = write_record("demo", "tiny", {"test_accuracy": np.float64(accuracy), "note": "x"}, Config(seed=seed), "shapes", "00", seed, 3, history={"loss": np.array([1, np.inf])}, folder=tmp_path / str(seed))
    assert read_record("demo", "tiny", tmp_path / "2") == record and record["history"]["loss"] == [1.0, None]
    assert {"commit", "data_sha256", "seed", "runs", "seconds", "precision", "peak_memory_mib", "processor", "threads", "versions", "config", "date"} <= set(record["header"])
    assert environment()["versions"]["numpy"] == np.__version__
    table = compare([tmp_path / str(s) / "demo.tiny.json" for s in range(3)])
    assert isinstance(table, Comparison) and [row["test_accuracy"] for row in table.rows] == ["0.6000 ± 0.1000"]
    assert "| run |" in str(table) and "&lt;b&gt;" in compare({"<b>": record}).to_html() and compare({"a": record}, ["test_accuracy"], 1).rows[0]["test_accuracy"] == "0.7"
    listed = compare({"list": {**record, "metrics": {"a": [1.0, 3.0]}}}, digits=1).rows[0]["a"]
    assert listed == "2.0 ± 1.4"


def test_record_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no record"): read_record("demo", "tiny", tmp_path)
    with pytest.raises(ValueError, match="unknown profile"): write_record("demo", "big", {"a": 1}, folder=tmp_path)
    with pytest.raises(ValueError, match="metrics must be"): write_record("demo", "tiny", {}, folder=tmp_path)
    (tmp_path / "demo.tiny.json").write_text("{")
    with pytest.raises(ValueError, match="not a whole record"): read_record("demo", "tiny", tmp_path)
    (tmp_path / "demo.tiny.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a record"): read_record("demo", "tiny", tmp_path)
    with pytest.raises(ValueError, match="no records"): compare([])


def draw(seed, n=2):
    if seed == 13: raise ArithmeticError("unlucky")
    return np.random.default_rng(seed).integers(0, 9, n).tolist()

def test_run_seeds():
    assert run_seeds(draw, [3, 1], n=4) == [draw(3, 4), draw(1, 4)]
    assert run_seeds(draw, [3, 1], n_jobs=2) == [draw(3), draw(1)]
    for seeds, text in ([], "empty"), ([1, 1], "must differ"):
        with pytest.raises(ValueError, match=text): run_seeds(draw, seeds)
    with pytest.raises(RuntimeError, match="seed 13 failed: ArithmeticError: unlucky"): run_seeds(draw, [13])


def test_no_framework_comes_with_the_module():
    code = "import sys, hierlearn.training; print([m for m in ('keras', 'tensorflow', 'torch', 'fastai') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_results_are_found_where_no_notebook_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_record("alexnet_small", "quick")["metrics"]["test_accuracy"] > 0.8
    assert np.load(find_result("six_layer_cifar100.npz"))["test_logits"].shape == (10_000, 100)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "alexnet_small.quick.json").write_text('{"header": {}, "metrics": {}}')
    assert read_record("alexnet_small", "quick")["metrics"] == {}  # the notebook's own folder comes first
    with pytest.raises(FileNotFoundError, match="no record"): find_result("alexnet_small.quick.json", tmp_path)


# ---- what a reader of the page tried

def test_digests_are_stable_and_tell_apart():
    code = "from hierlearn.training import config_digest; print(config_digest({'t': {'a', 'b', 'c'}, 1: (2.5, None)}))"
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": str(n)}).stdout for n in range(3)}
    assert len(digests) == 1
    a = np.zeros(5000)
    b = a.copy(); b[2500] = 1
    assert config_digest({"w": a}) != config_digest({"w": b}) and config_digest({1: 2, "a": 3}) == config_digest({"a": 3, 1: 2})
    assert config_digest(draw) == config_digest(draw) != config_digest(test_run_seeds)
    with pytest.raises(ValueError, match="cannot hold a object"): config_digest({"x": object()})


def test_foreign_files_stay_and_do_not_count(tmp_path):
    folder = CheckpointFolder(tmp_path, "d")
    strangers = ("epoch-00000-features.npz", "epoch-best.npz", "epoch-final.npz")
    for name in strangers: np.savez(tmp_path / name, a=1)
    for epoch in (0, 1, 2, 100_000): folder.save(np.int64(epoch), {"w": np.zeros(1)}, {})
    assert sorted(os.listdir(tmp_path)) == sorted([*strangers, "epoch-00002.npz", "epoch-100000.npz"]) and folder.load()[1]["epoch"] == 100_000


def test_unreadable_is_not_damaged(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, "d")
    for epoch in range(2): folder.save(epoch, {"w": np.zeros(1)}, {})
    real = open
    def refused(path, *args, **more):
        if str(path).endswith("00001.npz"): raise PermissionError(13, "Permission denied")
        return real(path, *args, **more)
    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied; nothing was changed"): folder.load()  # going on from the older one would overwrite a good file


def test_an_array_that_went_missing_is_damage(tmp_path):
    save_checkpoint(tmp_path / "x.npz", {"a": np.zeros(2), "b": np.ones(2)}, {})
    with np.load(tmp_path / "x.npz") as f: kept = {name: f[name] for name in f.files if name != "b"}
    np.savez(tmp_path / "x.npz", **kept)
    with pytest.raises(CheckpointError, match="not a whole checkpoint") as error: load_checkpoint(tmp_path / "x.npz")
    assert error.value.damaged
    with pytest.raises(ValueError, match="no array can be called 'file'"): save_checkpoint(tmp_path / "y.npz", {"file": np.zeros(1)}, {})
    with pytest.raises(ValueError, match="what JSON holds"): save_checkpoint(tmp_path / "y.npz", {}, {"loss": np.float32(1)})
    save_checkpoint(tmp_path / "z.npz", {}, {"types": 3})
    assert load_checkpoint(tmp_path / "z.npz")[1] == {"types": 3}


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write into .*; choose a folder"): CheckpointFolder(tmp_path / "file" / "below", "d").check_writable()
    CheckpointFolder(tmp_path / "new", "d").check_writable()
    assert os.listdir(tmp_path / "new") == []


@pytest.mark.parametrize("monitor, values, best", [("val_accuracy", [float("nan"), 0.1, 0.5, 0.4], 2), ("val_accuracy", [0.3, float("nan"), 0.2, 0.5], 3), ("val_mae", [0.9, 0.8, 0.7, 0.75], 2), ("val_loss", [1.0, 3.0, 2.0, 5.0], 0)])
@keras_needed
def test_the_best_epoch(monitor, values, best, monkeypatch):
    import keras
    x, y = some_data()
    class Planned(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None): logs[monitor] = values[epoch]; weights.append(self.model.get_weights())
    weights = []
    monkeypatch.setattr(training._Progress, "check_monitor", lambda self, measured: None)  # the plan's name is not one that Keras measures
    model = keras_model()
    fit(model, Batches(x, y, 8), (x, y), 4, monitor=monitor, callbacks=[Planned()], progress=False)
    assert [n for n, w in enumerate(weights) if all(np.array_equal(a, b) for a, b in zip(w, model.get_weights()))] == [best]
    assert training._sign("val_accuracy", "min") == -1 and training._sign("val_mae") == -1 and training._sign("val_recall") == 1 and training._sign("perplexity") == training._sign("logloss") == training._sign("error_rate") == -1


@keras_needed
def test_what_fit_refuses_at_once(tmp_path):
    import keras
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


@keras_needed
def test_another_run_does_not_resume(tmp_path):
    import keras
    x, y = some_data()
    run = lambda epochs, images=x, model=None, **more: fit(model or keras_model(), Batches(images, y, 8), (x, y), epochs, checkpoints=tmp_path, progress=False, **more)
    run(1)
    for change, text in ((dict(images=x + 1), "content"), (dict(monitor="val_loss"), "monitor"), (dict(schedule=cosine_schedule(0.1, 8)), "schedule"), (dict(model=keras_model(optimizer=keras.optimizers.SGD(0.1, momentum=0.5))), "another optimiser")):
        with pytest.raises(CheckpointError, match=text): run(2, **change)
    fit(keras_model(), Batches(x, y, 8), (x, y), 1, monitor="accuracy", checkpoints=tmp_path / "b", progress=False)
    with pytest.raises(CheckpointError, match="different: validation"): fit(keras_model(), Batches(x, y, 8), None, 2, monitor="accuracy", checkpoints=tmp_path / "b", progress=False)
    with pytest.warns(UserWarning, match="EarlyStopping does not remember"): run(2, callbacks=[keras.callbacks.EarlyStopping(patience=9)])


@keras_needed
def test_callbacks_draw_on_and_a_stopped_run_says_so(tmp_path, capsys):
    import keras
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


def test_torch_parts(tmp_path):
    torch = pytest.importorskip("torch")
    net, rng = torch.nn.Linear(2, 2), np.random.default_rng(0)
    optimizer = torch.optim.Adam(net.parameters())
    checkpoint = TorchCheckpoint(tmp_path, model=net, optimizer=optimizer, rng=rng)
    checkpoint.save(np.int64(0), best=True, loss=np.float32(1), table={0: (1, 2)}, t=torch.ones(2))
    drawn = rng.random()
    first, info = TorchCheckpoint(tmp_path, model=net, optimizer=optimizer, rng=rng).resume()
    assert first == 1 and info["loss"] == 1 and info["table"] == {0: (1, 2)} and torch.equal(info["t"], torch.ones(2)) and rng.random() == drawn
    with pytest.raises(CheckpointError, match="holds a Adam as optimizer, not a SGD"): TorchCheckpoint(tmp_path, model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1), rng=rng).resume()
    other = torch.nn.Linear(2, 2)
    before = other.weight.clone()
    class Part:
        def state_dict(self): return {"a": 1}
        def load_state_dict(self, state): raise KeyError("b")
    TorchCheckpoint(tmp_path / "two", model=net, part=Part()).save(0)
    with pytest.raises(CheckpointError, match="another part"): TorchCheckpoint(tmp_path / "two", model=other, part=Part()).resume()
    assert torch.equal(other.weight, before)  # all parts, or none
    with pytest.raises(ValueError, match="pass model="): TorchCheckpoint(tmp_path / "three", net=net).save(0, best=True)
    CheckpointFolder(tmp_path / "four", config_digest(None)).save(0, {}, {})
    with pytest.raises(CheckpointError, match="not written by a TorchCheckpoint"): TorchCheckpoint(tmp_path / "four", model=net).resume()


def fastai_learner(*cbs):
    import torch
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    set_seed(0)
    data = [(torch.randn(5), torch.tensor(i % 3)) for i in range(24)]
    loaders = DataLoaders(DataLoader(data, bs=8, shuffle=True, num_workers=0), DataLoader(data, bs=8, num_workers=0))
    return Learner(loaders, torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)), loss_func=torch.nn.functional.cross_entropy, cbs=list(cbs))


def test_fastai_trackers_and_two_fits(tmp_path):
    pytest.importorskip("fastai")
    import torch
    from fastai.callback.core import Callback
    from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
    class Dies(Callback):
        order = 70
        def __init__(self, at): self.at, self.ran = at, []
        def before_batch(self):
            if not self.training: return
            if self.at == (self.learn.fits, self.epoch): raise KeyboardInterrupt
            if (self.learn.fits, self.epoch) not in self.ran: self.ran.append((self.learn.fits, self.epoch))
        def after_fit(self): self.learn.fits += 1
    def run(folder, at=None):
        dies = Dies(at)
        learn = fastai_learner(dies, ReduceLROnPlateau(patience=0, min_delta=9), EarlyStoppingCallback(patience=9))
        learn.fits = 0
        checkpoint = fastai_checkpoint(folder, restore_best=False)
        try:
            with learn.no_bar(), learn.no_logging():
                learn.fit(2, 0.01, cbs=checkpoint)
                learn.fit(3, 0.02, cbs=checkpoint)
        except KeyboardInterrupt: pass
        return torch.cat([p.detach().ravel() for p in learn.model.parameters()]), dies.ran
    whole, ran = run(tmp_path / "whole")
    assert ran == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    run(tmp_path / "part", at=(1, 1))
    again, ran = run(tmp_path / "part")
    assert ran == [(1, 1), (1, 2)] and torch.equal(whole, again)  # the first fit and one epoch of the second were there
    learn = fastai_learner(SaveModelCallback())
    with pytest.raises(ValueError, match="keeps the best weights itself"), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=fastai_checkpoint(tmp_path / "save"))
    from fastai.optimizer import SGD
    learn = fastai_learner()
    learn.opt_func = SGD
    with pytest.raises(CheckpointError, match="another optimiser"), learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=fastai_checkpoint(tmp_path / "whole"))


def test_records_are_pooled_and_counted_as_they_should(tmp_path):
    torch = pytest.importorskip("torch")
    write = lambda a, config=None, **more: write_record("demo", "tiny", {"acc": a, "parameters": 1234}, config or {"epochs": 1}, folder=tmp_path, **more)
    rows = compare([write(0.1, precision="float32"), write(0.9, precision="bfloat16")]).rows
    assert [row["acc"] for row in rows] == ["0.1000", "0.9000"] and rows[0]["parameters"] == "1,234"
    assert compare({"a": [write(0.1), write(0.2), write(float("nan"))]}).rows[0]["acc"] == "0.1500 ± 0.0707 (2 of 3)"
    assert [write([0.1] * 3, seed=s)["header"]["runs"] for s in (range(3), np.arange(3), (0, 1, 2))] == [3, 3, 3]
    assert write(torch.tensor(0.5))["metrics"]["acc"] == 0.5 and write(torch.tensor([0.5, 1]))["metrics"]["acc"] == [0.5, 1.0]
    assert [row["run"] for row in compare([write(0.1), write(0.2, {"epochs": 2})]).rows] == ["demo (tiny), epochs=1", "demo (tiny), epochs=2"]
    assert compare(write(0.25)).rows[0]["acc"] == "0.2500"
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json is not a whole record"): compare(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match="is not a record"): compare([{"a": 1}])
    with pytest.raises(ValueError, match="unknown profile 'quik'"): read_record("alexnet_small", "quik")
    with pytest.raises(ValueError, match="name of letters"): write_record("../evil", "tiny", {"a": 1}, folder=tmp_path)
    with pytest.raises(ValueError, match="must be a list"): run_seeds(draw, 3)
