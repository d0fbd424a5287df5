"hierlearn.basics: imports with advice, argument checks, whole files on a full disk and with two writers, plain values, places."
import contextlib
import dataclasses
import errno
import json
import math
import os
import resource
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from hierlearn.basics import (
    check_choice, check_int, check_number, data_root, disk_advice, find_result, import_extra, import_torch,
    listed, near, one_line, plain, shown, whole_file, write_text)


def refused(call, *words):
    "The message of a refusal, which is one line and holds the words."
    with pytest.raises(ValueError) as caught: call()
    message = str(caught.value)
    assert "\n" not in message and all(w in message for w in words), message
    return message


# optional packages

def test_a_missing_package_is_named_with_the_command_that_brings_it():
    assert import_extra("json") is json
    assert import_extra("os.path") is os.path
    with pytest.raises(ImportError, match=r"pip install 'hierlearn\[keras\]'") as caught: import_extra("no_such_package", "keras")
    assert isinstance(caught.value.__cause__, ImportError) and "\n" not in str(caught.value)
    with pytest.raises(ImportError, match="pip install no_such_package"): import_extra("no_such_package.part")


def test_torch_steps_after_tensorflow():
    pytest.importorskip("torch")
    pytest.importorskip("tensorflow")
    code = """
import tensorflow
from hierlearn.basics import import_torch
torch = import_torch()
weight = torch.nn.Parameter(torch.ones(2))
optimiser = torch.optim.SGD([weight], 0.1)
(weight ** 2).sum().backward()
optimiser.step()
print(weight.tolist(), import_torch("torch.nn").Linear is torch.nn.Linear)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.strip().endswith("True") and "0.8" in done.stdout
    with pytest.raises(ImportError, match=r"hierlearn\[torch\]"): import_torch("no_such_torch")


# words

class Broken:
    def __repr__(self): raise RuntimeError("no text")


@pytest.mark.parametrize("value, text", [
    (np.zeros((2, 3)), "ndarray of shape (2, 3)"), (np.float32(0.5), "0.5"), (np.int64(3), "3"), (None, "None"),
    ("a\nb", "'a\\nb'"), (Broken(), "a Broken"), ([1, 2], "[1, 2]"), (np.array(4), "array(4)")])
def test_shown(value, text):
    assert shown(value) == text


@pytest.mark.parametrize("hostile", ["red\x1b[31m", "bell\x07", "back\x08space", "right\u202eleft", "nul\x00", "zero\u200bwidth"])
def test_control_characters_never_reach_the_terminal(hostile):
    for text in (shown(hostile), one_line(hostile), listed([hostile]), near("rea", [hostile]), one_line(ValueError(hostile))):
        assert text.isprintable(), text
    assert refused(lambda: check_int(hostile, "k")).isprintable()
    assert refused(lambda: check_choice("x", "name", [hostile])).isprintable()


def test_one_line_and_its_limit():
    assert one_line("a\n  b\t\tc") == "a b c"
    assert one_line(ValueError("no\nway")) == "ValueError: no way"
    assert one_line(KeyError()) == "KeyError"
    assert one_line("x" * 160) == "x" * 160
    assert one_line("x" * 161) == "x" * 159 + "…"
    assert len(shown("y" * 1000, 20)) == 20


def test_listed_and_near():
    assert listed([]) == ""
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdef") == "a, b, c, d, e and 1 more"
    assert listed(["cat", 3], limit=1) == "cat and 1 more"
    assert near("Dgo", ["dog", "cat", "cow"]) == " (near: dog)"
    assert near("cat", ["CAT"]) == " (near: CAT)"
    assert near("zebra", ["dog"]) == near(3, ["dog"]) == near(None, []) == ""
    assert near("cat", ["cat1", "cat2", "cat3", "cat4"], n=2).count(",") == 1


# arguments

@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_check_int_gives_a_plain_integer(value):
    assert type(check_int(value, "k")) is int and check_int(value, "k", 3, 3) == 3


@pytest.mark.parametrize("value", [2.0, True, np.True_, "3", None, 1 + 0j, np.array([3]), math.nan, [3]])
def test_check_int_refuses(value):
    refused(lambda: check_int(value, "size", 1, 9, "pass the side in pixels"), "size must be an integer in 1..9", "pass the side")


def test_check_int_limits():
    refused(lambda: check_int(0, "k", low=1), "of at least 1, got 0")
    refused(lambda: check_int(6, "k", high=5), "of at most 5, got 6")
    assert check_int(-10**30, "k") == -10**30


def test_check_number():
    assert check_number(np.float32(0.5), "rate") == 0.5 and type(check_number(2, "rate")) is float
    assert check_number(0, "rate", low=0) == 0.0 and check_number(1, "rate", high=1) == 1.0
    assert check_number(math.inf, "t", low=0) == math.inf
    for value in (math.nan, "1", True, None, 1j, np.zeros(2), -math.inf): refused(lambda v=value: check_number(v, "rate"), "rate must be")
    refused(lambda: check_number(0, "rate", above=0), "above 0, got 0")
    refused(lambda: check_number(1, "rate", low=0, below=1), "below 1, got 1")
    refused(lambda: check_number(2, "rate", 0, 1), "in 0..1, got 2")
    refused(lambda: check_number(math.inf, "rate", 0, 1), "got inf")


def test_check_choice():
    assert check_choice("mean", "rule", ("mean", "max")) == "mean"
    assert check_choice(None, "rule", (None, "max")) is None
    refused(lambda: check_choice("maen", "rule", ("mean", "max")), "mean, max", "(near: mean)", "choose one")
    for value in (np.zeros(3), ["mean"], object()): refused(lambda v=value: check_choice(v, "rule", {"mean": 1}), "rule must be one of mean")


# whole files

def left(folder): return sorted(p.name for p in Path(folder).iterdir())


def test_a_file_appears_whole_with_its_folder(tmp_path):
    assert write_text(tmp_path / "a" / "b" / "note.txt", "grün\r\n") == tmp_path / "a" / "b" / "note.txt"
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "grün\r\n".encode()
    assert left(tmp_path / "a" / "b") == ["note.txt"]
    with whole_file(tmp_path / "x.npz") as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".npz" and temporary.name != "x.npz"
        np.savez(temporary, a=np.arange(3))
        assert not (tmp_path / "x.npz").exists()
    assert np.load(tmp_path / "x.npz")["a"].tolist() == [0, 1, 2]


def test_the_mode_of_a_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try: write_text(tmp_path / "note.txt", "x")
    finally: os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "note.txt", "old")
    with pytest.raises(error), whole_file(tmp_path / "note.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "note.txt").read_text() == "old" and left(tmp_path) == ["note.txt"]


def test_a_link_at_the_place_is_replaced_and_not_followed(tmp_path):
    victim, place = tmp_path / "victim.txt", tmp_path / "out" / "note.txt"
    victim.write_text("mine")
    place.parent.mkdir()
    place.symlink_to(victim)
    write_text(place, "new")
    assert victim.read_text() == "mine" and place.read_text() == "new" and not place.is_symlink()


def test_nobody_can_foresee_the_temporary_name(tmp_path):
    seen = set()
    for _ in range(50):
        with contextlib.suppress(InterruptedError), whole_file(tmp_path / "note.txt") as temporary:
            seen.add(temporary.name)
            raise InterruptedError
    assert len(seen) == 50 and left(tmp_path) == []
    # O_EXCL: what stands there already is refused, a planted link too
    with pytest.raises(FileExistsError), whole_file(tmp_path / "note.txt") as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def test_a_full_disk_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "note.txt", "old")
    code = f"""
import resource, signal
from hierlearn.basics import disk_advice, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try: write_text({str(tmp_path / "note.txt")!r}, "x" * 5000)
except OSError as error: print(disk_advice(error))
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "free some space", done.stderr
    assert (tmp_path / "note.txt").read_text() == "old" and left(tmp_path) == ["note.txt"]


def test_disk_advice():
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): assert disk_advice(OSError(number, "")) == "free some space"
    for number in (errno.EACCES, errno.EROFS, errno.ENOENT): assert "can be written" in disk_advice(OSError(number, ""))


def test_two_processes_that_write_one_file_never_meet(tmp_path):
    code = f"""
import sys
from hierlearn.basics import write_text
for _ in range(60): write_text({str(tmp_path / "shared.txt")!r}, sys.argv[1] * 200_000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, letter]) for letter in "ab"]
    looks = set()
    while any(w.poll() is None for w in writers):
        with contextlib.suppress(FileNotFoundError):
            text = (tmp_path / "shared.txt").read_text()
            looks.add((len(text), len(set(text))))
    assert [w.returncode for w in writers] == [0, 0]
    assert looks == {(200_000, 1)} and left(tmp_path) == ["shared.txt"]


# plain values

@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 0.1
    sizes: tuple = (1, 2)


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize("value, wanted", [
    (Config(), {"rate": 0.1, "sizes": [1, 2]}), (Pair(1, np.float64(2)), [1, 2.0]), (np.array([[1.5, np.inf]]), [[1.5, None]]),
    ({1: np.bool_(True), "p": Path("a") / "b"}, {"1": True, "p": "a/b"}), ({3, 1, 2}, [1, 2, 3]), (math.nan, None), (range(3), [0, 1, 2]),
    (np.array(["a", "b"]), ["a", "b"]), (frozenset({"b", "a"}), ["a", "b"]), (None, None)])
def test_plain(value, wanted):
    assert plain(value) == wanted
    json.dumps(plain(value), allow_nan=False)


def test_plain_tells_what_is_not_finite_apart_for_digests():
    assert plain({"a": math.inf, "b": [math.nan, None]}, exact=True) == {"a": "inf", "b": ["nan", None]}
    assert plain({"a": math.inf, "b": 1.5}) == {"a": None, "b": 1.5}


@pytest.mark.parametrize("value", [lambda x: x, object(), {"net": print}, [b"bytes"], Config, np.float32, 1 + 2j])
def test_what_has_no_lasting_text_is_refused(value):
    refused(lambda: plain(value), "cannot be written as JSON")


# places

def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HIERLEARN_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("~/pictures") == Path.home() / "pictures"
    for empty in ("", None):
        monkeypatch.delenv("HIERLEARN_DATA") if empty is None else monkeypatch.setenv("HIERLEARN_DATA", empty)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        if sys.platform == "linux": assert data_root() == tmp_path / "cache" / "hierlearn"


def test_find_result(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.tiny.json").write_text("{}")
    assert find_result("mine.tiny.json", tmp_path / "results") == tmp_path / "results" / "mine.tiny.json"
    with pytest.raises(FileNotFoundError, match="make reproduce LESSON=alexnet_small"): find_result("alexnet_small.quick.json", tmp_path)
    assert find_result("alexnet_small.quick.json").is_file()
    monkeypatch.chdir(tmp_path)
    assert find_result("mine.tiny.json") == Path("results/mine.tiny.json")
    for name in ("../mine.tiny.json", str(tmp_path / "results" / "mine.tiny.json"), "", ".", "..", "a/b.json"):
        refused(lambda n=name: find_result(n), "file name alone")
