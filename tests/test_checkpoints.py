"One state, one file: whole or not at all, checked when it is read."
import dataclasses
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.batches import set_seed
from hierlearn.checkpoints import (
    CheckpointError, CheckpointFolder, Progress, check_loss, check_stream, config_digest, load_checkpoint, monitor_sign, pack_state,
    random_state, refused, save_checkpoint, set_random_state, unpack_state)

MARK = b"hierlearn state 1\n"


def one_line(error): return "\n" not in str(error.value)


def craft(path, header, content=b""):
    "A file whose digest is right and whose rest is what an attacker likes."
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = MARK + len(text).to_bytes(8, "little") + text + content
    path.write_bytes(body + hashlib.sha256(body).digest())
    return path


# ---- digests of configurations

def test_config_digest():
    @dataclasses.dataclass(frozen=True)
    class Config:
        epochs: int = 3
        widths: tuple = (1, 2)
        rate: float | None = None
    assert config_digest(Config()) == config_digest({"widths": [1, 2], "rate": None, "epochs": 3}) != config_digest(Config(4))
    code = "from hierlearn.checkpoints import config_digest; print(config_digest({'t': ['a', 'b'], '1': [2.5, None], 's': {'x', 'y'}}))"
    run = lambda seed: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": str(seed)}).stdout
    assert len({run(seed) for seed in range(3)}) == 1
    a = np.zeros(5000)
    b = a.copy()
    b[2500] = 1
    assert config_digest({"w": a}) != config_digest({"w": b})
    for bad in (lambda x: x, lambda x: x + 1, print, object(), int):
        with pytest.raises(ValueError, match="pass numbers and strings") as error: config_digest({"loss": bad})
        assert one_line(error)


# ---- states

tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.integers() | st.text() | st.tuples(st.text()), x), max_leaves=10)

@settings(max_examples=50, deadline=None)
@given(tree)
def test_pack_state_goes_round(x):
    arrays, packed = pack_state(x)
    assert not arrays and unpack_state(arrays, json.loads(json.dumps(packed))) == x


def test_checkpoint_types(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {
        "a": np.arange(5), "a.npy": np.ones((2, 0)), "file": np.array(1.5, "float32"), "__info__": np.array([True]),
        "b": np.array([1.5, -2], ml_dtypes.bfloat16), "0-d": np.array(1.5, ml_dtypes.bfloat16), "e": np.array(["x", "long"]),
        "f8": np.array([1, 2], ml_dtypes.float8_e4m3fn), "s": np.array(b"xyz"), "big": np.arange(3, dtype=">i4"), "t": np.asfortranarray(np.arange(6).reshape(2, 3))}
    save_checkpoint(tmp_path / "deep" / "x.ckpt", {"arrays": arrays, "n": np.float32(0.5), "lost": float("nan")})
    again = load_checkpoint(tmp_path / "deep" / "x.ckpt")
    assert again["n"] == 0.5 and np.isnan(again["lost"]) and set(again["arrays"]) == set(arrays)
    for name, array in arrays.items():
        found = again["arrays"][name]
        assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array), name
        assert found.flags.writeable
    assert os.listdir(tmp_path / "deep") == ["x.ckpt"]
    for bad in (np.array([print]), np.zeros(2, "i4,f4"), print, object()):
        with pytest.raises(ValueError, match="a checkpoint cannot hold"): save_checkpoint(tmp_path / "y.ckpt", {"o": bad})
    with pytest.raises(FileNotFoundError): load_checkpoint(tmp_path / "none.ckpt")
    assert not (tmp_path / "y.ckpt").exists()


def test_tensors_go_round(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(2.5, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16), torch.arange(4), torch.tensor(True), torch.zeros(0, 2),
               torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.randn(3, 2).T, torch.ones(2, dtype=torch.float8_e5m2),
               torch.nn.Parameter(torch.ones(2)), torch.tensor(1 + 2j)]
    save_checkpoint(tmp_path / "x.ckpt", tensors)
    for a, b in zip(tensors, load_checkpoint(tmp_path / "x.ckpt"), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.detach().to(torch.complex64), b.to(torch.complex64))
        if a.ndim == 4: assert a.stride() == b.stride()  # channels last in memory, as it was


def test_no_code_is_run_and_no_object_is_made(tmp_path):
    for kinds in (*[[["<f4", [size]]] for size in (3, 5, -4, 10**12, 10**30, 2**61, True, None)], [["|O", [1]]], [["O", [1]]], [["i4,O", [1]]], [["<f4", [3.5]]], [[{"names": ["a"], "formats": ["O"]}, [1]]],
                  [["<f4", [2]]] * 3, [["<f4"]], "abc", [["<f4,<f4", [1]]]):
        path = craft(tmp_path / "x.ckpt", {"arrays": kinds, "state": {"array": 0}}, b"\1" * 16)
        with pytest.raises(CheckpointError, match="not a whole checkpoint") as error: load_checkpoint(path)
        assert error.value.damaged and one_line(error)
    for state in ({"array": 7}, {"torch.load": 0}, {"a": 1, "b": 2}, {"dict": [[1]]}, {}):
        path = craft(tmp_path / "x.ckpt", {"arrays": [["<f4", [4]]], "state": state}, b"\1" * 16)
        with pytest.raises(CheckpointError, match="not a whole checkpoint"): load_checkpoint(path)
    for text in (b"[" * 100_000, b"{}", b"", b"\xff\xfe", b"null"):
        with pytest.raises(CheckpointError, match="not a whole checkpoint"): load_checkpoint(craft(tmp_path / "x.ckpt", text))
    for content in (b"", MARK, b"PK\3\4" + b"\0" * 100):
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a whole checkpoint"): load_checkpoint(tmp_path / "x.ckpt")


@settings(max_examples=50, deadline=None)
@given(place=st.floats(0, 0.999), cut=st.booleans(), flip=st.sampled_from([1, 0x80, 0xFF]))
def test_a_damaged_checkpoint_is_noticed(tmp_path_factory, place, cut, flip):
    folder = CheckpointFolder(tmp_path_factory.mktemp("ck"), config=1)
    for epoch in range(2): folder.save(epoch, {"w": np.random.default_rng(0).random(500)})
    newest = folder.files()[-1]
    content = bytearray(newest.read_bytes())
    at = int(place * len(content))
    if cut: content = content[:at]
    else: content[at] ^= flip
    newest.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a whole checkpoint"): load_checkpoint(newest)
    epoch, state = folder.load()
    assert epoch == 0 and np.array_equal(state["w"], np.random.default_rng(0).random(500))


def test_full_disk_leaves_the_older_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path, config=1)
    folder.save(0, {"w": np.arange(100)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the system refuses to write on, as a full disk does
        with pytest.raises(CheckpointError, match="older checkpoints are untouched, free some space") as error: folder.save(1, {"w": np.random.rand(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert one_line(error) and "delete" not in str(error.value) and os.listdir(tmp_path) == ["epoch-00000.ckpt"]
    assert folder.load()[0] == 0


def test_interrupt_while_writing(tmp_path, monkeypatch):
    def stop(number): raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt): save_checkpoint(tmp_path / "x.ckpt", {})
    assert not os.listdir(tmp_path)


# ---- folders

def test_two_are_kept_and_strangers_refused(tmp_path):
    folder = CheckpointFolder(tmp_path, config="one", data="x")
    assert folder.load() is None
    strangers = ("epoch-00000-features.ckpt", "epoch-best.ckpt", "epoch-final.ckpt", "epoch-00000.npz")
    for name in strangers: (tmp_path / name).write_bytes(b"not ours")
    for epoch in (0, 1, 2, np.int64(3), 100_000): folder.save(epoch, {"w": np.zeros(1)})
    assert sorted(os.listdir(tmp_path)) == sorted([*strangers, "epoch-00003.ckpt", "epoch-100000.ckpt"])
    assert folder.load()[0] == 100_000
    for guards, text in (({"config": "two", "data": "x"}, "another config;"), ({"config": "one", "data": "y"}, "another data;"),
                         ({"config": "one"}, "another data;"), ({"config": "one", "data": "x", "schedule": True}, "another schedule;")):
        with pytest.raises(CheckpointError, match=text) as error: CheckpointFolder(tmp_path, **guards).load()
        assert not error.value.damaged
    with pytest.raises(CheckpointError, match="has 100001 epochs, more than epochs=100000"): folder.load(100_000)
    assert folder.load(100_001)[0] == 100_000
    for file in folder.files(): file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"): folder.load()


def test_an_older_epoch_never_takes_the_place_of_newer_ones(tmp_path):
    first = CheckpointFolder(tmp_path)
    for epoch in range(5): first.save(epoch, {"w": epoch})
    with pytest.raises(CheckpointError, match="of a later epoch than 0; resume from it"): CheckpointFolder(tmp_path).save(0, {"w": "new"})
    assert [p.name for p in first.files()] == ["epoch-00003.ckpt", "epoch-00004.ckpt"] and first.load()[1] == {"w": 4}
    for again in (first, CheckpointFolder(tmp_path)):  # to begin anew after a look would be undone at the next resume
        again.load()
        with pytest.raises(CheckpointError, match="of a later epoch than 0"): again.save(0, {"w": "new"})
    first.files()[-1].write_bytes(b"")
    first.load()
    first.save(4, {"w": "again"})  # a damaged one is written again
    assert first.load() == (4, {"w": "again"})
    slower = CheckpointFolder(tmp_path / "two")
    slower.load()
    faster = CheckpointFolder(tmp_path / "two")
    for epoch in range(4): faster.save(epoch, {"w": epoch})
    slower.save(0, {"w": 0})  # another process was faster: what is written stays, and so do the newer ones
    assert [p.name for p in slower.files()] == ["epoch-00000.ckpt", "epoch-00002.ckpt", "epoch-00003.ckpt"]


def test_left_overs_are_swept_but_not_while_another_process_writes(tmp_path):
    names = [".epoch-00001.0123456789abcdef.partial.ckpt", ".epoch-00002.0123456789abcdef.partial.ckpt"]
    for name in names: (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / names[0], (0, 0))
    folder = CheckpointFolder(tmp_path)
    folder.save(3, {})
    assert sorted(os.listdir(tmp_path)) == sorted([names[1], "epoch-00003.ckpt"])


def test_two_processes_in_one_folder(tmp_path):
    code = textwrap.dedent("""
        import sys, numpy as np
        from hierlearn.checkpoints import CheckpointFolder
        folder = CheckpointFolder(sys.argv[1], config=1)
        found = folder.load()  # the one that starts later goes on where the other is
        for epoch in range(found[0] + 1 if found else 0, 60): folder.save(epoch, {"w": np.full(20_000, epoch)})
        """)
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    reader, looks = CheckpointFolder(tmp_path, config=1), 0
    while any(w.poll() is None for w in writers):
        found = reader.load()
        if found is None: continue
        epoch, state = found
        assert (state["w"] == epoch).all()
        looks += 1
    errors = [w.communicate()[1] for w in writers]
    assert looks > 0 and [w.returncode for w in writers] == [0, 0], errors
    assert reader.load()[0] == 59 and not list(tmp_path.glob(".*"))


def test_writing_threads_and_a_reader(tmp_path):
    path, broken = tmp_path / "x.ckpt", []
    save_checkpoint(path, {"w": np.zeros(1)})
    threads = [threading.Thread(target=lambda n=n: [save_checkpoint(path, {"w": np.full(30_000, n)}) for _ in range(20)]) for n in range(3)]
    for thread in threads: thread.start()
    while any(thread.is_alive() for thread in threads):
        w = load_checkpoint(path)["w"]
        if len(np.unique(w)) != 1: broken.append(w)
    assert not broken and os.listdir(tmp_path) == ["x.ckpt"]


def test_unreadable_is_not_damaged(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(0, {"w": np.zeros(1)})
    (tmp_path / "epoch-00001.ckpt").mkdir()  # stands for every error of the system
    with pytest.raises(CheckpointError, match="cannot be read: .*; nothing was changed") as error: folder.load()  # going on from the older one would overwrite a good file
    assert not error.value.damaged and "delete" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", tmp_path / "file"):
        with pytest.raises(CheckpointError, match="cannot write into .*; choose a folder"): CheckpointFolder(path).check_writable()
    CheckpointFolder(tmp_path / "new").check_writable()
    assert os.listdir(tmp_path / "new") == []


# ---- random streams

def test_random_state_goes_round():
    torch = pytest.importorskip("torch")
    set_seed(4)
    arrays, tree = pack_state(random_state())
    draw = lambda: (np.random.rand(), np.random.randn(), float(torch.rand(())), random.random())
    first = draw()
    set_random_state(unpack_state(arrays, json.loads(json.dumps(tree))))
    assert draw() == first
    set_seed(4)
    random_state()  # Keras' generator, made at its first use, draws from Python's stream
    assert draw() == first


@pytest.mark.parametrize("place", [-1, 625, 2**31 - 1, -(2**31), 2.0, "1", None])
def test_a_place_outside_of_a_stream_is_refused(place, tmp_path):
    name, keys, *rest = np.random.get_state()
    state = {"numpy": (name, keys, place, 0, 0.0)}
    save_checkpoint(tmp_path / "x.ckpt", state)
    code = textwrap.dedent("""
        import sys, numpy as np
        from hierlearn.checkpoints import CheckpointError, load_checkpoint, set_random_state
        try: set_random_state(load_checkpoint(sys.argv[1]))
        except CheckpointError as error: print("refused:", error)
        np.random.random(10_000)
        """)
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.ckpt"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("refused: ") and "outside of the stream" in done.stdout, done.stderr
    for bad in ({"state": {"key": keys, "pos": place}}, {"state": {"counter": 0, "key": 0}, "buffer_pos": place}):
        with pytest.raises(ValueError, match="outside of the stream"): check_stream(bad)


def test_random_states_that_are_none(tmp_path):
    torch = pytest.importorskip("torch")
    before = np.random.get_state()[2]
    for state in ({"numpy": 3}, {"numpy": ("MT19937", [1], 0, 0, 0.0)}, {"python": (3, (1, 2), None)}, {"python": "x"}, {"torch": torch.zeros(3)}, {"torch": "x"},
                  {"torch": torch.zeros(5056, dtype=torch.uint8)}):
        with pytest.raises(CheckpointError, match="random state is none") as error: set_random_state(state)
        assert one_line(error)
    assert np.random.get_state()[2] == before
    for bits in (np.random.MT19937(0), np.random.PCG64(0), np.random.Philox(0), np.random.SFC64(0)): assert check_stream(bits.state)
    assert check_stream(np.random.get_state(legacy=False))


# ---- the best epoch

@pytest.mark.parametrize("monitor, values, best", [
    ("val_accuracy", [float("nan"), 0.1, 0.5, 0.4], 2), ("val_accuracy", [0.3, float("nan"), 0.2, 0.5], 3), ("val_mae", [0.9, 0.8, 0.7, 0.75], 2),
    ("val_loss", [1.0, 3.0, 2.0, 5.0], 0), ("val_accuracy", [0.1, 0.5, 0.5, 0.2], 1), ("loss", [2.0, 1.0, 1.0], 1), ("loss", [float("nan")] * 2, 0),
    ("accuracy", [0.5, float("inf"), 0.6], 2)])
def test_the_best_epoch(monitor, values, best):
    progress = Progress(monitor)
    for epoch, value in enumerate(values):
        progress.add({"other": 1.0, monitor: value}, lambda: epoch)
        again = Progress(monitor)
        again.load_state_dict(unpack_state(*pack_state(progress.state_dict())))
        progress = again  # as after a kill
    assert progress.best == progress.best_epoch == best and len(progress.history["other"]) == len(values)


def test_which_end_is_the_good_one():
    assert monitor_sign("val_accuracy", "min") == -1 and monitor_sign("loss", "max") == 1 and monitor_sign("val_recall") == 1
    assert {monitor_sign(name) for name in ("val_mae", "perplexity", "logloss", "error_rate", "val_severity")} == {-1}
    with pytest.raises(ValueError, match="mode must be one of max, min"): monitor_sign("loss", "best")


def test_messages_say_what_to_do():
    for loss in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(FloatingPointError, match="in epoch 3; earlier checkpoints are kept: lower") as error: check_loss(loss, 2)
        assert one_line(error)
    check_loss(0.0, 0)
    found = refused("folder", "holds another model")
    assert isinstance(found, CheckpointError) and not found.damaged and str(found) == "folder holds another model; choose another folder or delete it"
