"Experiments: keys, what is passed over, what runs again, kills between stages, processes, the registry."
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hierlearn.records import read_record
from hierlearn.runs import REGISTRY, Entry, Experiment, Job, Result, Stage, Step, Task, load, stage_key


@dataclass(frozen=True)
class Config:
    rate: float = 0.1
    precision: str = "float32"
    seed: int = 0


def prepare(config): return Task("numbers", f"digest of {config.seed}", None, np.arange(4), (), ())


def train(job):
    with open(job.folder / "ran.txt", "a") as f: f.write("x")
    (job.folder / "weights.txt").write_text(str(job.config.rate))
    return Result({"loss": job.config.rate}, {"loss": [1.0, job.config.rate]}, {"w": job.task().batches})


def measure(job):
    return Result({"test_accuracy": 1 - job.inputs["train"].metrics["loss"], "pid": os.getpid()})


def sum_up(config, records): return Result({"test_accuracy": records["test"].metrics["test_accuracy"]})


STAGES = (Stage("train", train), Stage("test", measure, needs=("train",), data=False))


def experiment(config=Config(), stages=STAGES, **more):
    return Experiment("demo", {"tiny": config}, stages, prepare, sum_up, **more)


def said(capsys): return capsys.readouterr().out.splitlines()


# keys

def test_keys_change_with_what_is_asked_and_with_nothing_else():
    base = experiment().plan("tiny")
    assert list(base) == ["train", "test", "summary"] and all(isinstance(step, Step) for step in base.values())
    def changed(**settings):
        plan = experiment(Config(**settings)).plan("tiny")
        return {name for name in base if plan[name].key != base[name].key}
    assert changed() == set()
    assert changed(rate=0.2) == changed(seed=1) == changed(precision="bfloat16") == {"train", "test", "summary"}
    def train(job):
        "Another docstring, and other code."
        return Result({"loss": 0.5})
    other = experiment(stages=(replace(STAGES[0], run=train), STAGES[1])).plan("tiny")
    assert [other[name].key for name in base] == [base[name].key for name in base]


def test_a_key_is_of_settings_data_precision_and_inputs():
    keys = {stage_key(*asked) for asked in [
        ("a", Config(), "d", "float32", {}), ("b", Config(), "d", "float32", {}), ("a", Config(0.2), "d", "float32", {}),
        ("a", Config(), "e", "float32", {}), ("a", Config(), None, "float32", {}), ("a", Config(), "d", "bfloat16", {}),
        ("a", Config(), "d", "float32", {"x": "1"}), ("a", Config(), "d", "float32", {"y": "1"}), ("a", Config(), "d", "float32", {"x": "2"})]}
    assert len(keys) == 9 and all(len(key) == 64 for key in keys)
    assert stage_key("a", {}, None, "float32", {"x": "1", "y": "2"}) == stage_key("a", {}, None, "float32", {"y": "2", "x": "1"})


def test_a_stage_with_settings_of_its_own_changes_its_own_key():
    def stages(rate): return (Stage("one", train, config=Config()), Stage("two", train, config=Config(rate)))
    before, after = (experiment(stages=stages(rate)).plan("tiny") for rate in (0.3, 0.4))
    assert before["one"].key == after["one"].key and before["two"].key != after["two"].key
    assert before["summary"].key != after["summary"].key


def test_another_process_finds_the_same_key():
    program = "from hierlearn.runs import stage_key; print(stage_key('a', {'x': {'b', 'a', 'c'}, 'y': 0.1}, None, 'float32', {}))"
    keys = {subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": str(n)}).stdout for n in range(3)}
    assert len(keys) == 1 and len(keys.pop()) == 65


# what runs

def test_records_are_written_as_stages_end_and_passed_over_the_next_time(tmp_path, capsys):
    record = experiment().run("tiny", tmp_path)
    assert said(capsys) == ["demo: profile tiny, float32", "train: begins", "test: begins", "summary: begins"]
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["demo.tiny.json", "demo_test.tiny.json", "demo_train.tiny.json", "demo_train.tiny.npz"]
    trained = read_record("demo_train", "tiny", tmp_path)
    assert trained.header["stage"] == "train" and trained.header["data"] == "numbers" and trained.header["data_sha256"] == "digest of 0"
    assert trained.header["config"] == {"rate": 0.1, "precision": "float32", "seed": 0} and trained.header["seed"] == 0
    assert trained.curves == {"loss": [1.0, 0.1]} and trained.arrays["w"].tolist() == [0, 1, 2, 3] and trained.header["seconds"] >= 0
    tested = read_record("demo_test", "tiny", tmp_path)
    assert tested.header["inputs"] == {"train": trained.header["key"]} and tested.header["data"] is None
    assert record.header["data"] == "numbers" and record.metrics == {"test_accuracy": 0.9} and record.header["precision"] == "float32"
    assert experiment().run("tiny", tmp_path) == record
    assert said(capsys) == ["demo: profile tiny, float32", "train: finished", "test: finished", "summary: finished"]


def test_what_is_taken_away_runs_again_and_what_builds_on_it_is_summed_up_again(tmp_path, capsys):
    experiment().run("tiny", tmp_path)
    capsys.readouterr()
    (tmp_path / "demo_train.tiny.json").unlink()
    experiment().run("tiny", tmp_path)
    assert said(capsys)[1:] == ["test: finished", "train: begins", "summary: begins"]
    folder = next((tmp_path / "runs" / "demo").glob("train-*"))
    assert (folder / "ran.txt").read_text() == "x"  # its folder was emptied: a deleted record means: begin anew


def test_other_settings_run_again_beside_the_old_folder(tmp_path, capsys):
    experiment().run("tiny", tmp_path)
    capsys.readouterr()
    record = experiment(Config(rate=0.25)).run("tiny", tmp_path)
    assert "train: begins" in said(capsys) and record.metrics == {"test_accuracy": 0.75}
    assert len(list((tmp_path / "runs" / "demo").glob("train-*"))) == 2


def test_broken_arrays_make_a_stage_run_again(tmp_path, capsys):
    experiment().run("tiny", tmp_path)
    (tmp_path / "demo_train.tiny.npz").write_bytes(b"PK")
    capsys.readouterr()
    experiment().run("tiny", tmp_path)
    assert "train: begins" in said(capsys)


def test_one_stage_is_run_with_what_it_needs(tmp_path, capsys):
    record = experiment().run("tiny", tmp_path, stage="test")
    assert record.header["stage"] == "test" and not (tmp_path / "demo.tiny.json").exists()
    (tmp_path / "demo_train.tiny.json").unlink()
    capsys.readouterr()
    experiment().run("tiny", tmp_path, stage="test")
    assert said(capsys)[1:] == ["test: finished"]  # what it needed is not asked for
    with pytest.raises(ValueError, match="stage must be one of train, test"): experiment().run("tiny", tmp_path, stage="tets")


def test_an_experiment_of_one_stage_writes_one_record(tmp_path):
    alone = Experiment("alone", {"tiny": Config()}, (Stage("train", train),), prepare)
    record = alone.run("tiny", tmp_path)
    assert record.header["name"] == "alone" and record.header["key"] == alone.plan("tiny")["train"].key
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["alone.tiny.json", "alone.tiny.npz"]


def test_missing_weights_are_made_again_on_another_machine(tmp_path, capsys):
    def reads(job): return Result({"test_accuracy": float((job.folders["train"] / "weights.txt").read_text())})
    with_files = experiment(stages=(STAGES[0], Stage("test", reads, files=("train",))))
    with_files.run("tiny", tmp_path)
    (tmp_path / "demo_test.tiny.json").unlink()
    capsys.readouterr()
    with_files.run("tiny", tmp_path)
    assert "train: finished" in said(capsys)  # the files are here
    (tmp_path / "demo_test.tiny.json").unlink()
    for path in (tmp_path / "runs" / "demo").glob("train-*/*"): path.unlink()
    assert with_files.run("tiny", tmp_path).metrics == {"test_accuracy": 0.1}
    assert {"train: goes on", "train: begins"} & set(said(capsys))


def test_precision_is_pinned_before_the_keys_are_made(tmp_path):
    pytest.importorskip("torch")
    auto = experiment(Config(precision="auto"), framework="torch")
    plan = auto.plan("tiny")
    pinned = plan["train"].precision
    assert pinned in ("float32", "bfloat16") and plan["train"].config.precision == pinned
    assert plan["train"].key == experiment(Config(precision=pinned)).plan("tiny")["train"].key
    record = auto.run("tiny", tmp_path)
    assert record.header["config"]["precision"] == record.header["precision"] == pinned


def test_another_kind_of_processor_is_said(tmp_path, capsys):
    experiment().run("tiny", tmp_path, stage="train")
    path = tmp_path / "demo_train.tiny.json"
    record = json.loads(path.read_text())
    record["header"]["processor"] = "Abacus 3"
    path.write_text(json.dumps(record))
    capsys.readouterr()
    whole = experiment().run("tiny", tmp_path)
    assert any("train ran on Abacus 3" in line for line in said(capsys))
    assert "Abacus 3" in whole.header["processor"] and len(whole.header["processor"]) == 2


def test_what_goes_wrong_says_where(tmp_path):
    def fails(job): raise KeyError("no such thing")
    with pytest.raises(KeyError) as found: experiment(stages=(Stage("train", fails), STAGES[1])).run("tiny", tmp_path)
    assert "in stage train of demo" in found.value.__notes__
    assert not list(tmp_path.glob("*.*"))
    with pytest.raises(ValueError, match="must return a Result"): experiment(stages=(Stage("train", lambda job: 3),)).run("tiny", tmp_path)
    for names in (("train", "train"), ("summary", "train")):
        with pytest.raises(ValueError, match="stages need names of their own"): experiment(stages=tuple(Stage(n, lambda job: 3) for n in names)).plan("tiny")
    with pytest.raises(ValueError, match="pass summary="): dataclasses.replace(experiment(), summary=None).plan("tiny")
    with pytest.raises(ValueError, match="a need of test must be one of"): experiment(stages=(STAGES[1],) + (Stage("trian", train),)).plan("tiny")
    with pytest.raises(ValueError, match="profile must be one of tiny"): experiment().run("quick", tmp_path)
    with pytest.raises(ValueError): experiment(stages=(Stage("a", train, needs=("b",)), Stage("b", train, needs=("a",)))).plan("tiny")
    with pytest.raises(ValueError, match="must be of letters"): experiment(stages=(Stage("../x", train), STAGES[0])).plan("tiny")


def test_the_profile_of_the_environment_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HIERLEARN_PROFILE", "tiny")
    experiment().run(folder=tmp_path)
    assert said(capsys)[0] == "demo: profile tiny, float32"


def test_data_can_be_named_without_preparing_it(tmp_path):
    def never(config): raise AssertionError("prepared")
    named = Experiment("demo", {"tiny": Config()}, STAGES, never, sum_up, data=lambda config: ("numbers", "d" * config.seed))
    assert named.plan("tiny")["train"].data == ("numbers", "")


# kills and processes

SCRIPT = textwrap.dedent("""
    import os, sys
    from dataclasses import dataclass
    from hierlearn.runs import Experiment, Result, Stage, Task
    @dataclass(frozen=True)
    class Config: seed: int = 0
    def one(job):
        print("one runs", flush=True)
        return Result({"a": 1.0})
    def two(job):
        place = job.folder / "half.txt"
        if not place.exists():
            place.write_text("x")
            os.kill(os.getpid(), 9)
        return Result({"b": job.inputs["one"].metrics["a"] + 1})
    task = lambda config: Task("none", "0", None, (), (), ())
    stages = (Stage("one", one), Stage("two", two, needs=("one",)))
    Experiment("killed", {"tiny": Config()}, stages, task, lambda c, r: Result(r["two"].metrics)).run("tiny", sys.argv[1])
""")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_kill_between_stages_costs_one_stage(tmp_path):
    run = lambda: subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], capture_output=True, text=True)
    first = run()
    assert first.returncode == -9 and "one runs" in first.stdout
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["killed_one.tiny.json"]
    second = run()
    assert second.returncode == 0, second.stderr
    assert "one runs" not in second.stdout and "two: goes on" in second.stdout
    assert read_record("killed", "tiny", tmp_path).metrics == {"b": 2.0}
    # how long the killed part took is known to nobody
    assert read_record("killed_two", "tiny", tmp_path).header["seconds"] is None


def test_independent_stages_run_in_two_processes(tmp_path):
    pytest.importorskip("joblib")
    stages = (Stage("train", train), *(Stage(f"test{n}", measure, needs=("train",), data=False) for n in range(2)))
    def together(config, records): return Result({"pids": sorted({r.metrics["pid"] for n, r in records.items() if n != "train"})})
    both = Experiment("demo", {"tiny": Config()}, stages, prepare, together)
    pids = both.run("tiny", tmp_path, n_jobs=2, progress=False).metrics["pids"]
    assert os.getpid() not in pids
    assert read_record("demo_test1", "tiny", tmp_path).metrics["test_accuracy"] == 0.9


def test_the_joblib_context_says_where(tmp_path):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config("threading", n_jobs=2): record = experiment().run("tiny", tmp_path, n_jobs=None)
    assert record.metrics == {"test_accuracy": 0.9}


def test_results_may_say_more_than_the_run_knows(tmp_path):
    def says(job): return Result({"a": 1}, seconds=99.0, header={"seed": [1, 2], "framework": "none"})
    record = Experiment("demo", {"tiny": Config()}, (Stage("a", says),), prepare).run("tiny", tmp_path)
    assert record.header["seconds"] == 99.0 and record.header["runs"] == 2 and record.header["framework"] == "none"


def test_job_and_task_are_frozen(tmp_path):
    job = Job(Config(), "float32", {}, tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError): job.precision = "bfloat16"
    assert "batches" not in repr(prepare(Config()))


# the registry

def test_the_registry_is_whole(repository):
    for name, entry in REGISTRY.items():
        assert isinstance(entry, Entry) and entry.name == name and entry.title and entry.question and entry.headline
        assert set(entry.profiles) <= {"tiny", "quick", "full"}
        if entry.path is None: continue
        assert importlib.util.find_spec(entry.path), entry.path
        if entry.lesson: assert (repository / "nbs" / f"{entry.lesson}.ipynb").is_file(), entry.lesson


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.path])
def test_experiments_load_and_have_their_profiles(name):
    pytest.importorskip("keras"), pytest.importorskip("torch")
    found = load(name)
    assert isinstance(found, Experiment) and found.name == name and set(REGISTRY[name].profiles) <= set(found.configs)


def test_load_says_what_is_missing():
    with pytest.raises(ValueError, match="near: six_layer"): load("six_layers")
    with pytest.raises(ValueError, match="hdcnn is not written yet"): load("hdcnn")


def test_the_commands_read_the_registry(repository):
    for name in ("course", "reproduce"):
        text = (repository / "tools" / f"{name}.py").read_text(encoding="utf-8")
        assert "REGISTRY" in text and "LESSONS" not in text and "inspect" not in text


def test_reproduce_sets_a_stage_beside_its_record(repository, tmp_path):
    pytest.importorskip("torch")
    program = [sys.executable, repository / "tools" / "reproduce.py", "six_layer", "--profile", "tiny"]
    env = {**os.environ, "STAGE": "vgg6_cifar10", "RESULTS": str(tmp_path)}
    done = subprocess.run(program, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "vgg6_cifar10: begins" in done.stdout and "keras_cifar10" not in done.stdout
    assert read_record("six_layer_vgg6_cifar10", "tiny", tmp_path).header["key"]
    again = subprocess.run(program, capture_output=True, text=True, env=env, timeout=300)
    assert "vgg6_cifar10: finished" in again.stdout
    wrong = subprocess.run([*program[:2], "hdcn"], capture_output=True, text=True, timeout=300)
    assert wrong.returncode and "near: hdcnn" in wrong.stderr and "Traceback" not in wrong.stderr
