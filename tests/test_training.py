"Profiles, precision, records, comparisons, runs over seeds (the rest has rooms of its own)."
import dataclasses

import numpy as np
import pytest

from hierlearn import training
from hierlearn.training import (PROFILES, Comparison, compare, describe_precision, environment, find_result, pick_precision, profile, read_record, run_seeds, write_record)


def test_profile(monkeypatch, capsys):
    for name in PROFILES:
        monkeypatch.setenv("HIERLEARN_PROFILE", name)
        assert profile() == name and name in capsys.readouterr().out
    monkeypatch.setenv("HIERLEARN_PROFILE", "huge")
    with pytest.raises(ValueError, match="unknown profile 'huge'"): profile()
    monkeypatch.delenv("HIERLEARN_PROFILE")
    assert profile(data=None, quiet=True) == "quick"


def test_precision(monkeypatch):
    pytest.importorskip("torch")
    found = describe_precision("torch", 128)
    assert found == describe_precision("torch", 128) and pick_precision("torch", 128) == found["precision"]
    with pytest.raises(ValueError, match="framework must be"): pick_precision("abacus")
    monkeypatch.setattr(training, "_product_rates", lambda framework, size: {"float32": 1.0, "bfloat16": 1.2})
    assert pick_precision("torch") == "float32"
    monkeypatch.setattr(training, "_product_rates", lambda framework, size: {"float32": 1.0, "bfloat16": 1.4})
    assert pick_precision("torch") == "bfloat16"


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


def test_results_are_found_where_no_notebook_folder_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_record("alexnet_small", "quick")["metrics"]["test_accuracy"] > 0.8
    assert np.load(find_result("six_layer_cifar100.npz"))["test_logits"].shape == (10_000, 100)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "alexnet_small.quick.json").write_text('{"header": {}, "metrics": {}}')
    assert read_record("alexnet_small", "quick")["metrics"] == {}  # the notebook's own folder comes first
    with pytest.raises(FileNotFoundError, match="no record"): find_result("alexnet_small.quick.json", tmp_path)


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
