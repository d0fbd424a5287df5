"Heads on cached features, the rules that choose among them, and the experiments of parent and child heads."
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hierlearn.experiments import hier_resnet as lesson
from hierlearn.experiments.hier_resnet import (
    ARMS, CONFIGS, MEAN, VIEWS, FeatureConfig, HeadConfig, HierResnetConfig, NewClassConfig, PicturesConfig, experiment,
    picture_views, summarise)
from hierlearn.hier_fitting import (
    DECISIONS, LOSSES, OTHER_NAMES, BREED_GROUPS, both, cross_validate, deeper_tree, difference, few, fit_head,
    fold_numbers, judge, known_to_imagenet, level, prediction_cost, view_rows, wilson)
from hierlearn.losses import Conditional
from hierlearn.records import paired_difference, read_record
from hierlearn.runs import load
from hierlearn.taxonomy import Taxonomy

TREE = Taxonomy.from_dict({"cat": ["Persian", "Siamese", "Sphynx"], "dog": ["pug", "boxer"]})


def clouds(n=12, seed=0, noise=0.4):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), n)
    centres = rng.normal(0, 2, (5, 8))
    return (centres[labels] + rng.normal(0, noise, (5 * n, 8))).astype(np.float32), labels


def test_folds_are_spread_evenly():
    labels = np.repeat(np.arange(5), 12)
    fold = fold_numbers(labels, 6)
    for c in range(5): assert sorted(fold[labels == c]) == sorted(list(range(6)) * 2)
    assert (fold != fold_numbers(labels, 6, 1)).any() and (fold == fold_numbers(labels, 6)).all()
    with pytest.raises(ValueError): fold_numbers(labels, 1)


def test_few_takes_k_of_each():
    labels = np.repeat(np.arange(5), 12)
    chosen = few(labels, 3, np.random.default_rng(0))
    assert len(set(chosen.tolist())) == 15 and (np.bincount(labels[chosen]) == 3).all()


@pytest.mark.parametrize("head", ["flat", "source", "mlp", "factorised"])
def test_every_head_with_every_loss(head):
    features, labels = clouds()
    for loss in LOSSES:
        model = fit_head(TREE, features, labels, head, loss, 1e-3, 40, 8)
        leaf, parent = both(model, features)
        assert leaf.shape == (60, 5) and parent.shape == (60, 2) and np.allclose(leaf.sum(1), 1)
        assert (leaf.argmax(1) == labels).mean() > 0.9, loss
        if head in ("flat", "factorised"): assert np.allclose(leaf[:, :3].sum(1), parent[:, 0], atol=1e-6)


def test_fitting_is_the_optimum_of_what_it_says():
    "At the minimum of a convex loss the gradient vanishes, from any first weights."
    features, labels = clouds()
    first, second = (fit_head(TREE, features, labels, "flat", "cross-entropy", 0.1, 200, seed=s) for s in (0, 1))
    assert np.allclose(both(first, features)[0], both(second, features)[0], atol=1e-3)
    x = (torch.from_numpy(features) - first.shift) / first.scale
    weights = list(first.head.parameters())
    leaf, _ = first.head(x)
    total = torch.nn.functional.nll_loss(leaf, torch.from_numpy(labels)) + 0.05 * sum(w.square().sum() for w in weights if w.ndim > 1)
    assert max(g.abs().max() for g in torch.autograd.grad(total, weights)) < 1e-3


def test_fitting_leaves_the_sessions_random_numbers_alone():
    features, labels = clouds()
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    fit_head(TREE, features, labels)
    assert torch.equal(torch.rand(2), wanted)


def test_cross_entropy_of_the_factorised_head_is_the_conditional_loss():
    features, labels = clouds()
    model = fit_head(TREE, features, labels, "factorised", steps=3)
    x, y = (torch.from_numpy(features) - model.shift) / model.scale, torch.from_numpy(labels)
    leaf, _ = model.head(x)
    conditional, nodes = Conditional(TREE), TREE.nodes[1:]
    scores = model.head.node(x)[:, [nodes.index(child) for _, child in conditional.edges]]
    assert torch.allclose(conditional(scores, y), torch.nn.functional.nll_loss(leaf, y), atol=1e-5)


def test_bad_input_is_refused():
    features, labels = clouds()
    broken = features.copy()
    broken[3, 2] = np.nan
    for bad in (dict(features=broken), dict(labels=labels[:-1]), dict(labels=labels + 1), dict(labels=labels / 2),
                dict(head="none"), dict(loss="none"), dict(ridge=-1.0)):
        with pytest.raises(ValueError) as error: fit_head(**dict(taxonomy=TREE, features=features, labels=labels) | bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="decision"): judge(TREE, np.full((1, 5), 0.2), np.array([0]), "guess")


def test_each_picture_is_judged_by_a_head_that_has_not_seen_it():
    "Labels that are noise cannot be told from features, unless they were seen."
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 40)).astype(np.float32), rng.permutation(np.repeat(np.arange(5), 12))
    seen = both(fit_head(TREE, features, labels, ridge=1e-4), features)[0]
    fold = fold_numbers(labels, 6)
    unseen, parent = cross_validate(TREE, features[:, None], features, labels, fold, ridge=1e-4)
    assert (seen.argmax(1) == labels).mean() > 0.95 and (unseen.argmax(1) == labels).mean() < 0.5
    assert parent.shape == (60, 2) and np.allclose(unseen.sum(1), 1)


def test_views_become_rows():
    values, labels = np.arange(24.0).reshape(2, 3, 4), np.array([1, 0])
    rows, target = view_rows(values, labels)
    assert rows.shape == (6, 4) and target.tolist() == [1, 1, 1, 0, 0, 0] and np.array_equal(rows[2], values[0, 2])
    assert np.allclose(MEAN(values)[:, 0], values[:, :2].mean(1))
    assert [VIEWS[name](values).shape[1] for name in VIEWS] == [1, 1, 2, 3]


def test_judging_by_hand():
    leaf = np.array([[0.5, 0.3, 0.1, 0.06, 0.04], [0.3, 0.25, 0.05, 0.4, 0.0], [0.1, 0.6, 0.1, 0.1, 0.1]])
    labels = np.array([0, 0, 4])
    found = judge(TREE, leaf, labels)
    assert found["right"].tolist() == [True, False, False] and found["costs"].tolist() == [0, 2, 2]
    assert found["top_1"] == 1 / 3 and found["species"] == 1 / 3 and found["severity"] == 2 and found["cost"] == 4 / 3
    mild = judge(TREE, leaf, labels, "CRM")  # .6 of the second picture's probability is a cat's
    assert mild["right"].tolist() == [True, True, False] and mild["species"] == 2 / 3
    assert found["distance_5"] == np.mean([(0 + 1 + 1 + 2 + 2) / 5] * 2 + [(2 + 2 + 2 + 1 + 0) / 5])
    assert judge(TREE, np.eye(5), np.arange(5))["severity"] is None
    assert set(DECISIONS) == {"argmax", "CRM"}


def test_differences_and_levels():
    a, b = np.array([1, 1, 0, 1, 0, 1], bool), np.array([1, 0, 0, 1, 0, 1], bool)
    assert difference(a, a) == [0, 0, 0] and level(a, a)
    assert difference(a, b) == [round(v, 4) for v in paired_difference(a.astype(float), b.astype(float))] and level(a, b)
    assert not level(np.ones(50, bool), np.arange(50) % 2 == 0)


def test_wilsons_interval():
    "The example 81 of 263, and the ends."
    low, high = wilson(np.arange(263) < 81)
    assert (round(low, 3), round(high, 3)) == (0.255, 0.366)
    assert wilson(np.ones(370, bool))[1] == 1 and 0.985 < wilson(np.ones(370, bool))[0] < 0.995 and wilson(np.zeros(9, bool))[0] == 0


def test_breed_groups_are_whole():
    pets = Taxonomy.pets()
    deep = deeper_tree(pets)
    assert deep.leaves == pets.leaves and {deep.depth(leaf) for leaf in deep.leaves} == {3}
    assert sorted(sum((breeds for groups in BREED_GROUPS.values() for breeds in groups.values()), [])) == sorted(pets.leaves)
    for leaf in pets.leaves: assert pets.parents(leaf)[0] == deep.parents(deep.parents(leaf)[0])[0]
    shapes = deeper_tree(Taxonomy.shapes())
    assert shapes.leaves == Taxonomy.shapes().leaves and shapes.height(shapes.root) == 3


def test_what_imagenet_knows():
    known = known_to_imagenet(Taxonomy.pets().leaves)
    assert [breed for breed, synset in known.items() if synset is None] == [
        "Abyssinian", "american_bulldog", "Bengal", "Birman", "Bombay", "British_Shorthair", "havanese", "Maine_Coon",
        "Ragdoll", "Russian_Blue", "shiba_inu", "Sphynx"]
    assert known["leonberger"] == "leonberg.n.01" and set(OTHER_NAMES) <= set(known)


def test_rules_choose():
    "Level with the best top-1, then the least cost, then the first."
    right = np.arange(100) < 90
    rows = [{"right": right, "top_1": 0.9, "cost": 0.2}, {"right": np.roll(right, 1), "top_1": 0.9, "cost": 0.1},
            {"right": np.roll(right, 2), "top_1": 0.9, "cost": 0.1}, {"right": np.arange(100) < 50, "top_1": 0.5, "cost": 0.0}]
    assert lesson._choose(rows, 0.95) is rows[1] and [row["level"] for row in rows] == [True, True, True, False]


def test_means_over_classes():
    rows = [{"known": i < 2, "recall": [0.5, 0.1 * i], "before": 0.9, "after": [0.9, 0.8], "seconds": [0.1, i]} for i in range(5)]
    found = summarise(rows, (1, 5))
    assert found["recall"]["all"]["1"] == [0.5, 0.5, 0.5] and found["recall"]["unknown"]["5"][0] == 0.3
    assert found["lost"]["known"]["5"][0] == 0.1 and found["seconds"] == 4
    assert "unknown" not in summarise([row | {"known": True} for row in rows], (1, 5))["recall"]


def test_views_of_a_picture():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    config = FeatureConfig(views=2)
    views = picture_views(image, 7, 32, 2, config)
    assert views.shape == (4, 3, 32, 32) and np.array_equal(views[1], views[0][..., ::-1])
    assert np.array_equal(views, picture_views(image, 7, 32, 2, config))
    assert not np.array_equal(views[2:], picture_views(image, 8, 32, 2, config)[2:])
    assert picture_views(image, 7, 32, 0, config).shape == (2, 3, 32, 32)


def test_profiles():
    assert load("hier_resnet") is experiment and set(CONFIGS) == {"tiny", "quick", "full"}
    quick = CONFIGS["quick"]
    assert isinstance(quick, HierResnetConfig) and quick.precision == "float32" and quick.heads == HeadConfig() and quick.heads.folds == 6
    assert quick.new_class == NewClassConfig() and quick.new_class.draws >= 5 and quick.pictures == PicturesConfig()
    assert [stage.name for stage in experiment.stages(quick)] == ["features", "heads", "pictures", "new_class"]


def test_the_tiny_experiment(tmp_path):
    record = experiment.run("tiny", tmp_path, progress=False)
    metrics = record.metrics
    assert metrics["breed_accuracy"] > 0.4 and record.header["data"] == "shapes"
    stages = {name: read_record(f"hier_resnet_{name}", "tiny", tmp_path).metrics for name in ("features", "heads", "pictures", "new_class")}
    heads = stages["heads"]
    assert len(heads["arms"]) == 4 * len(LOSSES) * 2 and len(heads["nulls"]) == 2
    for row in heads["arms"]:
        if row["head"] in ("flat", "factorised"): assert row["contradictions"] == 0
    assert set(stages["pictures"]["arms"]) == set(ARMS)
    rows = stages["new_class"]["classes"]
    assert len(rows) == 20 and all(row["new_parent"]["gap"] < 1e-5 for row in rows)
    assert metrics["new_class_recall"]["all"]["5"][0] > metrics["new_class_recall"]["all"]["1"][0] > 0.1
    (tmp_path / "hier_resnet_pictures.tiny.json").unlink()
    again = experiment.run("tiny", tmp_path, "pictures", progress=False).metrics
    left = lambda found: {name: [row | {"seconds": 0} for row in rows] for name, rows in found["arms"].items()}
    assert left(again) == left(stages["pictures"])


def test_what_a_prediction_needs(pets_root):
    pytest.importorskip("efficientnet_lite_pytorch")
    found = prediction_cost(lesson.load_pets(pets_root).paths[:2])
    assert 100 < found["peak_mib"] < 2048 and found["seconds_a_picture"] > 0


def test_the_committed_records(repository):
    folder = repository / "nbs" / "results"
    if not (folder / "hier_resnet.quick.json").exists(): pytest.skip("no record yet")
    whole = read_record("hier_resnet", "quick", folder).metrics
    heads = read_record("hier_resnet_heads", "quick", folder).metrics
    assert whole["breed_accuracy"] == heads["breed_accuracy"] >= 0.89 and whole["contradictions"] == 0
    best = max(heads["arms"], key=lambda row: row["top_1"])
    near = [row for row in heads["arms"] if row["level"]]
    assert best in near and heads["chosen"]["cost"] == min(row["cost"] for row in near)
    pictures = read_record("hier_resnet_pictures", "quick", folder).metrics
    assert pictures["prediction"]["peak_mib"] < 2048
    new = read_record("hier_resnet_new_class", "quick", folder).metrics
    assert len(new["classes"]) == 37 and summarise(new["classes"], new["counts"])["recall"] == new["recall"]
    assert json.dumps(whole)
