"Records: whole files, honest headers, old files, hostile names; tables and paired differences."
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from hierlearn.basics import find_result
from hierlearn.records import (
    PROFILES, Record, check_name, compare, describe_precision, environment, paired_difference, pick_precision, profile,
    read_record, write_record)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    epochs: int = 4


def demo(folder, accuracy=0.7, name="demo", **more):
    return write_record(name, "tiny", {"test_accuracy": accuracy, "parameters": 1234, "note": "x"}, folder=folder, **more)


# profiles

def test_profile_comes_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("HIERLEARN_PROFILE", " Full ")
    assert profile() == "full" and "profile: full" in capsys.readouterr().out
    monkeypatch.setenv("HIERLEARN_PROFILE", "huge")
    with pytest.raises(ValueError, match="must be one of tiny, quick, full, got 'huge'"): profile()
    monkeypatch.delenv("HIERLEARN_PROFILE")
    monkeypatch.setenv("HIERLEARN_DATA", os.devnull)
    assert profile("cifar10", quiet=True) == "tiny" and profile(None, quiet=True) == "quick"
    assert capsys.readouterr().out == "" and PROFILES == ("tiny", "quick", "full")


# records

def test_a_record_comes_back_as_it_was_written(tmp_path):
    arrays = {"logits": np.arange(6, dtype=np.float16).reshape(2, 3), "names": np.array(["a", "b"])}
    record = demo(tmp_path / "new", np.float64(0.7), config=Config(), data="shapes", digest="00", seed=3, seconds=2.345,
                  precision="float32", curves={"loss": np.array([1.0, np.nan])}, arrays=arrays, framework="none")
    assert read_record("demo", "tiny", tmp_path / "new") == record == Record.read("demo", "tiny", tmp_path / "new")
    wanted = {"name", "profile", "commit", "data", "data_sha256", "seed", "runs", "seconds", "precision", "peak_memory_mib",
              "processor", "threads", "device", "versions", "config", "date", "framework", "arrays_sha256"}
    assert wanted <= set(record.header) and record.curves["loss"] == [1.0, None]
    assert record.header["config"] == {"seed": 0, "epochs": 4} and record.header["seconds"] == 2.3 and record.header["runs"] == 1
    assert np.array_equal(record.arrays["logits"], arrays["logits"]) and record.arrays["logits"].dtype == np.float16
    assert list(record.arrays) == ["logits", "names"] and len(record.arrays) == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["demo.tiny.json", "demo.tiny.npz"]
    assert demo(tmp_path, seed=range(3)).header["runs"] == 3


def test_what_is_not_known_is_null(tmp_path):
    header = demo(tmp_path).header
    assert all(header[entry] is None for entry in ("data", "data_sha256", "seed", "seconds", "precision", "config", "arrays_sha256"))
    assert "not known" in demo(tmp_path).evidence()


def test_a_benchmark_has_no_profile(tmp_path):
    record = write_record("bench_x", None, {"rows": [{"name": "a", "ms": 1.5}]}, folder=tmp_path)
    assert (tmp_path / "bench_x.json").is_file() and read_record("bench_x", folder=tmp_path) == record


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "a.b", None, 3, "a\nb"])
def test_hostile_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="must be of letters"): write_record(name, "tiny", {"a": 1}, folder=tmp_path)
    with pytest.raises(ValueError, match="must be of letters"): read_record(name, "tiny", tmp_path)
    with pytest.raises(ValueError, match="must be of letters"): check_name(name)
    assert not list(tmp_path.iterdir()) and check_name("six_layer-2", "quick") == "six_layer-2.quick"


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="profile must be one of"): write_record("demo", "big", {"a": 1}, folder=tmp_path)
    with pytest.raises(ValueError, match="profile must be one of .*near: quick"): read_record("demo", "quik", tmp_path)
    with pytest.raises(ValueError, match="metrics must be"): write_record("demo", "tiny", {}, folder=tmp_path)
    with pytest.raises(ValueError, match="names holds objects"): demo(tmp_path, arrays={"names": np.array([{}, []], object)})
    for name in ("x.npy", "file", "allow_pickle", "../x", 0):
        with pytest.raises(ValueError, match="an array cannot be called"): demo(tmp_path, arrays={"x": np.arange(3), name: np.arange(5)})
    with pytest.raises(ValueError, match="cannot be written as JSON"): demo(tmp_path, config=object())
    with pytest.raises(FileNotFoundError, match="make reproduce LESSON=demo"): read_record("demo", "tiny", tmp_path)
    assert not list(tmp_path.iterdir())  # nothing half-written stays


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"header": {}}', '{"header": 3, "metrics": {}}', "[" * 100_000, '{"header": [], "metrics": []'])
def test_broken_files_are_refused(text, tmp_path):
    (tmp_path / "demo.tiny.json").write_text(text)
    with pytest.raises(ValueError, match="not a whole record .*run it again"): read_record("demo", "tiny", tmp_path)


def test_arrays_belong_to_their_record(tmp_path):
    old = demo(tmp_path, arrays={"x": np.arange(3)})
    demo(tmp_path / "other", arrays={"x": np.arange(4)})
    os.replace(tmp_path / "other" / "demo.tiny.npz", tmp_path / "demo.tiny.npz")
    with pytest.raises(ValueError, match="not those of the record"): read_record("demo", "tiny", tmp_path).arrays["x"]
    (tmp_path / "demo.tiny.npz").unlink()
    with pytest.raises(ValueError, match="no arrays in .*run it again"): list(read_record("demo", "tiny", tmp_path).arrays)
    assert read_record("demo", "tiny", tmp_path).metrics == old.metrics  # the numbers are still there


def test_arrays_are_never_unpickled(tmp_path):
    demo(tmp_path)
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path / "ran"),)
    np.savez(tmp_path / "demo.tiny.npz", x=np.array([Evil()], object))
    with pytest.raises(ValueError, match="no arrays"): read_record("demo", "tiny", tmp_path).arrays["x"]
    assert not (tmp_path / "ran").exists()


def test_a_record_without_arrays_takes_old_ones_away(tmp_path):
    demo(tmp_path, arrays={"x": np.arange(3)})
    assert len(demo(tmp_path).arrays) == 0 and not (tmp_path / "demo.tiny.npz").exists()


def test_a_killed_writer_leaves_the_old_record(tmp_path):
    before = demo(tmp_path)
    program = f"""
import os, hierlearn.basics as b
from hierlearn.records import write_record
b.os.replace = lambda *names: os._exit(9)
write_record("demo", "tiny", {{"test_accuracy": 0.1}}, folder={str(tmp_path)!r})
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert read_record("demo", "tiny", tmp_path) == before


def test_records_of_before_are_read(tmp_path):
    old = {"header": {"lesson": "demo", "profile": "tiny", "seconds": 3.0}, "metrics": {"a": 1}, "history": {"loss": [2.0]}}
    (tmp_path / "demo.tiny.json").write_text(json.dumps(old))
    np.savez(tmp_path / "demo.tiny.npz", x=np.arange(2))
    record = read_record("demo", "tiny", tmp_path)
    assert record.header["name"] == "demo" and record.curves == {"loss": [2.0]} and record.arrays["x"].tolist() == [0, 1]
    assert "seconds 3" in record.evidence()


def test_committed_records_are_found_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_record("alexnet_small", "quick").metrics["test_accuracy"] > 0.8
    demo("results", name="alexnet_small")
    assert read_record("alexnet_small", "tiny").metrics["note"] == "x"  # the folder of the notebook comes first
    assert find_result("alexnet_small.tiny.json").parent.name == "results"


def test_evidence_names_what_a_reader_needs(tmp_path):
    text = demo(tmp_path, data=["a", "b"], digest="0123456789abcdef", seed=[0, 1], seconds=1234.5, precision="bfloat16", images=500).evidence()
    for part in ("demo.tiny.json", "data a, b", "SHA-256 0123456789ab,", "images 500", "runs 2, seed 0, 1", "bfloat16 on", "seconds 1,234"):
        assert part in text, part


def test_environment_names_processor_and_versions():
    found = environment()
    assert found["processor"] and found["threads"] >= 1 and found["device"] and found["versions"]["numpy"] == np.__version__


def test_the_commit_is_that_of_the_package_or_null(tmp_path, monkeypatch):
    "A run inside a repository of somebody else must not name that repository's commit."
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    name = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", tmp_path, *name, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    theirs = subprocess.run(["git", "-C", tmp_path, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    monkeypatch.chdir(tmp_path)
    commit = demo(tmp_path).header["commit"]
    assert commit is None or not commit.startswith(theirs)


# tables

def test_compare_puts_seeds_together(tmp_path):
    runs = [demo(tmp_path / str(s), a, seed=s, seconds=s + 1, precision="float32") for s, a in enumerate([0.70, 0.74, 0.72])]
    table = compare({"three": runs, "one": runs[0]})
    assert list(table.index) == ["three", "one"] and list(table.columns) == ["test_accuracy", "parameters", "runs", "seconds a run", "precision"]
    assert table.loc["three"].tolist() == ["0.7200 ± 0.0200", "1,234", 3, 2, "float32"] and table.loc["one", "test_accuracy"] == "0.7000"
    assert compare([runs[0]], ["test_accuracy"], digits=1).loc["demo", "test_accuracy"] == "0.7"


def test_compare_reads_lists_as_seeds_and_nothing_else(tmp_path):
    record = write_record("demo", "tiny", {"a": [1.0, 3.0], "b": [1.0, 2.0, 3.0], "c": None, "d": True, "e": {"x": 1}}, seed=[0, 1], folder=tmp_path)
    table = compare({"x": record})
    assert table.loc["x", "a"] == "2.0000 ± 1.4142" and table.loc["x", "c"] == "–" and not {"b", "d", "e"} & set(table.columns)


def test_compare_refuses_what_it_cannot_do(tmp_path):
    one = demo(tmp_path)
    with pytest.raises(ValueError, match="no records"): compare([])
    with pytest.raises(ValueError, match="two records have one name"): compare([one, one])
    with pytest.raises(ValueError, match="metric must be one of test_accuracy, parameters"): compare([one], ["recall"])
    missing = write_record("other", "tiny", {"b": 1.5}, folder=tmp_path)
    assert compare([one, missing]).loc["other", "test_accuracy"] == "–"


def test_paired_difference_is_students_interval():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 30):
        a, b = rng.normal(size=n), rng.normal(size=n)
        found, wanted = paired_difference(a, b, 0.9), stats.ttest_rel(a, b).confidence_interval(0.9)
        assert np.allclose([found.low, found.high], wanted, rtol=1e-3)
    assert paired_difference([1], [0]).value == 1 and paired_difference([1], [0]).high == np.inf
    with pytest.raises(ValueError, match="got 2 and 1"): paired_difference([1, 2], [1])
    with pytest.raises(ValueError, match="got 0 and 0"): paired_difference([], [])


# precision

@pytest.mark.parametrize("framework, package", [("torch", "torch"), ("tensorflow", "tensorflow"), ("keras", "keras")])
def test_precision_is_timed_once(framework, package):
    pytest.importorskip(package)
    found = describe_precision(framework, 256)
    assert found["framework"] in ("torch", "tensorflow") and found["float32_gflops"] > 0 < found["bfloat16_gflops"]
    assert found == describe_precision(framework, 256) and pick_precision(framework, 256) == found["precision"]
    faster = found["bfloat16_gflops"] > 1.3 * found["float32_gflops"]
    assert found["precision"] == ("bfloat16" if faster else "float32")


def test_precision_refuses_other_frameworks():
    with pytest.raises(ValueError, match="framework must be one of"): describe_precision("abacus")
    with pytest.raises(ValueError, match="size must be an integer"): pick_precision("torch", 0)
