"One state, one file: whole or not at all, checked when it is read."
import dataclasses
import json
import os
import random
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.batches import set_seed
from hierlearn.checkpoints import (
    CheckpointError, CheckpointFolder, config_digest, load_checkpoint, pack_state, random_state,
    save_checkpoint, set_random_state, unpack_state)


def one_line(error): return "\n" not in str(error.value)


def test_config_digest():
    @dataclasses.dataclass(frozen=True)
    class Config:
        epochs: int = 3
    assert config_digest(Config()) == config_digest({"epochs": 3}) != config_digest(Config(4))


def test_random_state_goes_round():
    torch = pytest.importorskip("torch")
    set_seed(4)
    arrays, tree = pack_state(random_state())
    draw = lambda: (os.urandom(0), np.random.rand(), float(torch.rand(())), random.random())
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


def test_digests_are_stable_and_tell_apart():
    code = "from hierlearn.checkpoints import config_digest; print(config_digest({'t': {'a', 'b', 'c'}, 1: (2.5, None)}))"
    digests = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": str(n)}).stdout for n in range(3)}
    assert len(digests) == 1
    a = np.zeros(5000)
    b = a.copy(); b[2500] = 1
    assert config_digest({"w": a}) != config_digest({"w": b}) and config_digest({1: 2, "a": 3}) == config_digest({"a": 3, 1: 2})
    assert config_digest(print) == config_digest(print) != config_digest(open)
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
