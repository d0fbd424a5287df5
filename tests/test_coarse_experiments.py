"The experiments of coarse extraction: measures, views, stages, the committed record."
import numpy as np
import pytest
from coarse_nets import TOY, toy

from hierlearn.coarse_extraction import RULES
from hierlearn.coarse_temperature import choose_temperature
from hierlearn.coarse_words import select_members
from hierlearn.datasets import load_cats_dogs, load_imagenet_samples
from hierlearn.experiments.coarse_extraction import (
    CONFIGS, GROUP_SETS, CoarseExtractionConfig, answer_by_rule, compare_views, compute_logits, experiment, measure_rules,
    measure_unseen, rules_table, stored_logits, taxonomy_above, view_logits)
from hierlearn.records import read_record
from hierlearn.runs import load
from hierlearn.taxonomy import Taxonomy


def test_targets_and_labels_are_checked():
    logits, labels = toy(1.0)
    groups = [np.arange(5), np.arange(5, 10)]
    for bad in (labels, labels // 5 - 1, labels[:-1] // 5, labels / 5):
        with pytest.raises(ValueError, match="targets must be"): measure_rules(logits, bad, groups)
        with pytest.raises(ValueError, match="targets must be"): measure_unseen(logits, labels, bad, groups)
    six = [np.arange(5 * g, 5 * g + 5) for g in range(6)]
    for bad in (labels[:-1], labels - 1, labels + 1, labels / 2, labels[:, None]):  # short or -1 labels gave numbers once
        with pytest.raises(ValueError): measure_unseen(logits, bad, labels // 5, six)
    with pytest.raises(ValueError, match="value must be one of"): rules_table({}, "acc")


def test_views_are_compared_like_temperatures():
    good, labels = toy(1.0)
    bad = toy(9.0, seed=1)[0]
    rows = compare_views({(0.8, False): bad, (0.8, True): good, (1.0, False): good, (1.0, True): good}, labels, TOY)
    assert {row["name"]: len(row["views"]) for row in rows} == {"crop 0.8": 1, "crop 0.8 and mirror image": 2, "crop 1": 1, "crop 1 and mirror image": 2, "all": 4}
    assert [row["balanced_accuracy"] for row in rows] == sorted((row["balanced_accuracy"] for row in rows), reverse=True) and rows[-1]["name"] == "crop 0.8"
    by_name = {row["name"]: row for row in rows}
    assert by_name["crop 1"]["balanced_accuracy"] == round(max(choose_temperature(good, labels, TOY).accuracies), 4) and by_name["crop 1"]["fine_accuracy"] == round((good.argmax(1) == labels).mean(), 4)


def test_views_of_pictures():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 14 * 14, 5)).eval()
    pictures = list(np.random.default_rng(0).integers(0, 256, (27, 20, 20, 3), dtype=np.uint8))
    config = CoarseExtractionConfig(image_size=16, crops=(0.8, 1.0))
    views = view_logits(pictures, net, config)
    assert set(views) == {(0.8, False), (0.8, True), (1.0, False), (1.0, True)} and all(v.shape == (27, 5) for v in views.values())
    turned = view_logits([p[:, ::-1].copy() for p in pictures], net, config)
    assert np.allclose(turned[1.0, False], views[1.0, True], atol=0.05) and not np.allclose(views[1.0, False], views[1.0, True], atol=0.05)
    assert set(view_logits(pictures[:2], net, CoarseExtractionConfig(image_size=16, crops=(1.0,), mirror=False))) == {(1.0, False)}


def test_measurements():
    logits, labels = toy(2.0)
    groups = [np.arange(5 * g, 5 * g + 5) for g in range(6)]
    found = measure_rules(logits, labels // 5, groups, np.where(labels % 2, 1.0, 4.0), resamples=50)
    assert set(found) == set(RULES)
    for values in found.values():
        matrix = np.array(values["confusion"])
        assert matrix.shape == (6, 7) and matrix.sum() == 120 and abs(np.trace(matrix) / 120 - values["accuracy"][0]) < 1e-4
        assert values["accuracy"][1] <= values["accuracy"][0] <= values["accuracy"][2]
    hidden = measure_unseen(logits, labels, labels // 5, groups, 2.0)
    assert all(0 <= v <= 1 for v in hidden.values()) and hidden["argmax"] <= found["argmax"]["accuracy"][0] + 1e-9
    table = rules_table({"six": found | {"sizes": [5] * 6}}, "balanced")
    assert table.count("\n") == 2 and "**" in table and "(5, 5, 5, 5, 5, 5)" in table


def test_unseen_by_hand():
    "Three classes, two groups: the own class is taken out, so the other member must speak."
    logits = np.array([[9.0, 1, 3], [0, 9, 3]])
    found = measure_unseen(logits, np.array([0, 1]), np.array([0, 0]), [[0, 1], [2]])
    assert found == {"mean": 0, "log_sum_exp": 0, "log_mean_exp": 0, "tempered": 0, "argmax": 0}
    logits = np.array([[9.0, 4, 3], [5, 9, 3]])
    assert set(measure_unseen(logits, np.array([0, 1]), np.array([0, 0]), [[0, 1], [2]]).values()) == {1}


def test_answers_with_a_temperature_of_each_picture():
    logits, labels = toy(2.0)
    groups = [np.arange(5 * g, 5 * g + 5) for g in range(6)]
    each = np.where(labels % 2, 0.5, 8.0)
    mixed = answer_by_rule(logits, groups, "tempered", each)
    for t in (0.5, 8.0): assert (mixed[each == t] == answer_by_rule(logits, groups, "tempered", t)[each == t]).all()
    assert (answer_by_rule(logits, groups[:2], "argmax") == -1).any()


def test_group_sets_are_sound():
    assert len(GROUP_SETS) >= 8
    for name, groups in GROUP_SETS.items(): assert len(select_members(list(groups))) == len(groups), name


def test_the_taxonomy_above_groups():
    tree = Taxonomy.imagenet()
    for name, groups in GROUP_SETS.items(): assert taxonomy_above(groups, tree).leaves == groups, name
    above = taxonomy_above(("cat.n.01", "dog.n.01", "boat.n.01"), tree)
    heights = above.lca_height_matrix()
    assert heights[0, 1] == above.height("carnivore.n.01") < heights[0, 2] <= above.height(above.root)


def test_the_committed_record(repository):
    folder = repository / "nbs" / "results"
    record, stored = read_record("coarse_extraction", "quick", folder), stored_logits(folder)
    metrics = record.metrics
    assert set(metrics["group_sets"]) == set(GROUP_SETS)
    members = select_members({"Cat": "cat.n.01", "Dog": "dog.n.01"})
    again = measure_rules(stored["pets"].astype(float), stored["pet_labels"].astype(int), members, metrics["temperature"], CONFIGS["quick"].resamples)
    for rule in RULES: assert again[rule]["accuracy"] == metrics["cats_dogs"][rule]["accuracy"]
    assert choose_temperature(stored["samples"], np.arange(1000), avoid=members).temperature == metrics["temperature"]
    found = list(folder.glob("coarse_extraction_logits*.npz"))
    assert len(found) == 1 and found[0].stat().st_size <= 3_000_000


def test_logits_are_those_of_the_pictures(repository, imagenet_root, petimages_root):
    "A few of the committed logits, computed again."
    pytest.importorskip("efficientnet_lite_pytorch")
    samples, pets = load_imagenet_samples(imagenet_root), load_cats_dogs(petimages_root)
    few = lambda files, every: files.select(np.arange(0, len(files), every))
    found, rows = compute_logits(CoarseExtractionConfig(), few(samples, 200), few(pets, 80))
    stored = stored_logits(repository / "nbs" / "results")
    assert np.allclose(found["samples"], stored["samples"][::200], atol=0.1) and np.allclose(found["pets"], stored["pets"][::80], atol=0.1)
    assert list(found["pet_files"]) == list(stored["pet_files"][::80]) and len(rows) == 1 and len(rows[0]["views"]) == 4


def test_the_tiny_experiment(tmp_path):
    pytest.importorskip("keras")
    assert load("coarse_extraction") is experiment
    record = experiment.run("tiny", tmp_path, progress=False)
    metrics = record.metrics
    assert metrics["fine_accuracy"] > 0.3 and metrics["coarse_accuracy"] == metrics["rules"]["log_mean_exp"]["accuracy"][0] > 0.5
    assert set(metrics["rules"]) == set(metrics["unseen"]) == set(RULES) and metrics["largest_difference"] < 1e-4 and metrics["mistake_severity"] >= 1
    assert record.header["data"] == "shapes" and sorted(p.name for p in tmp_path.glob("*.json")) == [
        "coarse_extraction.tiny.json", "coarse_extraction_logits.tiny.json", "coarse_extraction_rules.tiny.json"]
    logits = tmp_path / "coarse_extraction_logits.tiny.npz"
    before = logits.stat().st_mtime_ns
    (tmp_path / "coarse_extraction_rules.tiny.json").unlink()
    assert experiment.run("tiny", tmp_path, progress=False).metrics == metrics and logits.stat().st_mtime_ns == before  # measured again, not trained
