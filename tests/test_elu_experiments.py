"The ELU experiments: data whitened by the training part alone, one criterion for all arms, what a tiny run writes."
from dataclasses import asdict, replace

import numpy as np
import pytest

pytest.importorskip("keras")

from hierlearn.basics import find_result
from hierlearn.decisions import softmax
from hierlearn.elu_cifar100 import ELU_DROPOUT, ELU_STACKS_11, ELU_STACKS_18
from hierlearn.experiments.elu_cifar100 import (
    ARMS, CONFIGS, DATA, DEPTH, NULL, SHORT, TINY, Arm, EluConfig, ExperimentConfig, compare_arms, experiment, prepare,
    schedules, stages, train_elu)
from hierlearn.preprocessing import ZCA, global_contrast_normalization
from hierlearn.records import Record, read_record
from hierlearn.report import evaluate
from hierlearn.taxonomy import Taxonomy

SMALL = replace(TINY, epochs=1, train_images=1000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elu")
    return folder, experiment.run("tiny", folder, progress=False)


def test_the_tiny_profile_learns_and_writes_every_record(whole):
    folder, record = whole
    assert record.metrics["test_accuracy"] > 0.35  # chance is 0.05
    assert record.metrics["mistake_severity"] >= 1
    for name in ("train", "rates_elu", "seeds_elu", "seeds_null", "activations", "depth_null", "one_per_stack"):
        assert read_record(f"elu_cifar100_{name}", "tiny", folder).header["stage"] == name
    arms = record.metrics["activations"]
    assert list(arms) == ["elu", "relu", "null"] and set(arms["relu"]) == {"rate", "accuracy", "mean", "minus_elu"}
    assert list(record.metrics["one_per_stack"]) == ["layer", "stack", "null"]
    search = read_record("elu_cifar100_rates_elu", "tiny", folder).metrics
    assert search["best"] == search["rates"][int(np.argmax(search["accuracy"]))] == arms["elu"]["rate"]
    arrays = read_record("elu_cifar100_train", "tiny", folder).arrays
    logits = arrays["test_logits"].astype(np.float32)
    assert logits.shape == (1000, 20) and not record.arrays
    assert abs((logits.argmax(1) == arrays["test_labels"]).mean() - record.metrics["test_accuracy"]) < 5e-3


def test_whitening_knows_the_training_part_alone():
    task = prepare(SMALL)
    (images, _labels), (held_out, _) = (task.batches.images, task.batches.labels), task.validation
    assert images.shape == (1000, 32, 32, 3) and images.dtype == held_out.dtype == np.float32
    data = DATA["shapes"][0]()
    raw = global_contrast_normalization(data.train.images)
    # the pictures that train, found again by their labels and their whitened pixels
    from hierlearn.datasets import stratified_split
    train, validation = stratified_split(data.train.labels, 500, seed=0)
    assert not set(train) & set(validation)
    zca = ZCA(SMALL.zca_epsilon).fit(raw[train[:1000]])
    assert np.allclose(zca.transform(raw[train[:8]]), images[:8], atol=1e-4)
    assert np.allclose(zca.transform(raw[validation[:8]]), held_out[:8], atol=1e-4)
    with_all = ZCA(SMALL.zca_epsilon).fit(raw)
    assert np.abs(with_all.transform(raw[train[:8]]) - images[:8]).max() > 1e-3


def test_only_training_pictures_are_cropped_and_a_batch_comes_again():
    config = replace(SMALL, padding=4, flip=True)
    task = prepare(config)
    first, again = task.batches.batch(3), prepare(config).batches.batch(3)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    chosen = task.batches.order(0)[3 * 50 : 4 * 50]
    assert not np.array_equal(first[0], task.batches.images[chosen])
    assert np.array_equal(prepare(config).validation[0], task.validation[0])
    bare = prepare(replace(SMALL, padding=0, flip=False)).batches.batch(3)[0]
    assert np.array_equal(bare, task.batches.images[chosen])


def test_the_papers_schedules_count_iterations():
    rate, dropout = schedules(CONFIGS["full"].train, 450)
    assert [rate(step) for step in (0, 34_999, 35_000, 250_000)] == [0.01, 0.01, 0.001, 0.001]
    first, second, third = (dropout(step) for step in (0, 165_000, 215_000))
    assert len(first) == 16 and sum(first) == pytest.approx(sum(ELU_DROPOUT))
    assert second == [0.1] * 4 + [0.2] * 4 + [0.3] * 3 + [0.4] * 3 + [0.5] * 2
    assert third == pytest.approx([1.5 * r for r in second])
    rate, dropout = schedules(CONFIGS["quick"].train, 450)
    assert dropout is None and rate(449) == pytest.approx(0.03) and rate(40 * 450 - 1) < 1e-6
    assert CONFIGS["full"].train.epochs * 450 == pytest.approx(255_000, rel=0.002)


def record(rate, accuracy): return Record({}, {"rate": rate, "accuracy": accuracy, "seeds": [1, 2, 3]})


def test_one_criterion_for_all_arms():
    found = compare_arms({"elu": record(0.1, [0.30, 0.32, 0.31]), "relu": record(0.03, [0.29, 0.30, 0.30])}, "elu")
    difference = found["relu"]["minus_elu"]
    assert found["elu"] == {"rate": 0.1, "accuracy": [0.30, 0.32, 0.31], "mean": pytest.approx(0.31)}
    # differences -1, -2, -1 points: mean -4/3, t(2) = 4.3027, standard error 1/3
    assert difference["value"] == pytest.approx(-4 / 3) and difference["high"] == pytest.approx(-4 / 3 + 4.3027 / 3, abs=1e-3)
    assert difference["low"] + difference["high"] == pytest.approx(2 * difference["value"])


def test_arms_differ_in_what_they_name_and_nothing_else():
    plan = {stage.name: stage for stage in stages(CONFIGS["quick"])}
    base = asdict(plan["seeds_elu"].config)
    assert {s.config.train.precision for n, s in plan.items() if n.startswith(("seeds", "depth"))} == {"bfloat16"}
    for arm, change in (ARMS | {"null": NULL}).items():
        config = asdict(plan[f"seeds_{arm}"].config)
        assert config == base | {"train": base["train"] | change}
        search = "elu" if arm == "null" else arm  # the null arm has the base's rate
        assert plan[f"seeds_{arm}"].needs == (f"rates_{search}",)
    assert len(base["seeds"]) == 5 and 0 not in base["seeds"] and len(base["rates"]) == 3
    depth = asdict(plan["seeds_layer"].config)
    for arm, change in DEPTH.items():
        assert asdict(plan[f"seeds_{arm}"].config) == depth | {"train": depth["train"] | change}
    assert (base["train"]["stacks"], depth["train"]["stacks"]) == (ELU_STACKS_11, ELU_STACKS_18)
    assert plan["seeds_elu"].config.train == replace(SHORT, precision="bfloat16")
    assert not plan["train"].config.batch_norm and plan["train"].config.train_images is None


def test_the_null_arm_moves_the_first_weights_by_a_millionth():
    task = prepare(SMALL)
    quiet = replace(SMALL, learning_rate=1e-12)  # a step that moves nothing
    first = train_elu(quiet, task, progress=False)[0].get_weights()
    null = train_elu(replace(quiet, **NULL), task, progress=False)[0].get_weights()
    ratios = np.concatenate([(b / a).ravel() for a, b in zip(first, null) if a.ndim > 1])
    assert np.allclose(ratios, 1 + 1e-6, atol=2e-7) and not np.array_equal(first[0], null[0])


def test_a_training_that_diverges_counts_as_guessing(tmp_path):
    arm = Arm(SMALL, (1e6,), 1, (1,))
    plan = {stage.name: stage for stage in stages(ExperimentConfig(SMALL, arm, arm, ("elu",)))}
    from hierlearn.runs import Job
    job = Job(arm, "float32", {}, tmp_path, task=lambda: prepare(arm))
    search = plan["rates_elu"].run(job)
    assert search.metrics == {"rates": [1e6], "accuracy": [0.0], "best": 1e6} and not search.curves
    job = replace(job, inputs={"rates_elu": Record({}, search.metrics)})
    assert plan["seeds_elu"].run(job).metrics["accuracy"] == [0.05]


@pytest.mark.parametrize("change, text", [
    ({"data": "mnist"}, "data"), ({"schedule": "linear"}, "schedule"), ({"epochs": 0}, "epochs"),
    ({"validation": 0}, "validation")])
def test_bad_settings_are_one_line(change, text):
    with pytest.raises(ValueError, match=text) as caught: EluConfig(**change)
    assert "\n" not in str(caught.value)


def test_the_committed_record_can_be_followed():
    kept, tree = read_record("elu_cifar100", "quick"), Taxonomy.cifar100()
    arrays = read_record("elu_cifar100_train", "quick").arrays
    logits, labels = arrays["test_logits"].astype(np.float32), arrays["test_labels"]
    report = evaluate(tree, softmax(logits), labels)
    assert abs(float(report.accuracy) - kept.metrics["test_accuracy"]) < 2e-3  # ties of float16
    assert abs(float(report.mistake_severity) - kept.metrics["mistake_severity"]) < 5e-3
    arms = kept.metrics["activations"]
    assert set(arms) == {*ARMS, "null"}
    for name, arm in arms.items():
        single = read_record(f"elu_cifar100_seeds_{name}", "quick")
        assert single.metrics["accuracy"] == arm["accuracy"] and len(arm["accuracy"]) == 5
        if name == "elu": continue
        points = 100 * (np.array(arm["accuracy"]) - arms["elu"]["accuracy"])
        assert points.mean() == pytest.approx(arm["minus_elu"]["value"], abs=1e-6)
    assert find_result("elu_cifar100.quick.json").stat().st_size < 100_000
