"Coarse classifiers from fine ones: senses, members, rules, models of both frameworks, files, measurements, bad input."
import json
import math
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn import coarse_extraction as module
from hierlearn.coarse_extraction import (CONFIGS, GROUP_SETS, MEMBERS, OVERLAPS, RULES, TEMPERATURES, CoarseExtractionConfig, CoarseInfo, Head, Sense,
                                         TemperatureChoice, check, choose_temperature, coarse_info, compare_views, coarse_weights, compute_logits, decide, exercises,
                                         extract_coarse_classifier, find_head, find_hyponyms, find_synsets, group_scores, groups_of_folder, load_classifier,
                                         measure_rules, measure_unseen, nearest_by_path, nearest_by_weights, predict_image, resolve_synset, rules_table, run_lesson,
                                         save_classifier, select_members, stored_logits, view_logits)
from hierlearn.metrics import softmax
from hierlearn.models import build_six_layer_net, load_mobilenet_v2, predict
from hierlearn.taxonomy import Taxonomy

SHAPES = Taxonomy.shapes()
IMAGENET = Taxonomy.imagenet()


def torch_net(outputs=20, convolution=False, ending=()):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    head = [nn.Conv2d(6, outputs, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()] if convolution else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, outputs)]
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), *head, *ending).eval()


@pytest.fixture(scope="module")
def keras_net():
    pytest.importorskip("keras")
    return build_six_layer_net(20, widths=(4,) * 6)


TORCH_BATCH = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
KERAS_BATCH = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
EVERY = [("mean", None), ("sum", None), ("log_mean_exp", None), ("tempered", 2.0), ("tempered", 0), ("tempered", math.inf), ("argmax", None)]
COARSE = SHAPES.cut(1)
GROUPS = [np.arange(4 * g, 4 * g + 4) for g in range(5)]


# ---- words and members ----
@pytest.mark.parametrize("word, synset, classes", [("cat", "cat.n.01", 7), ("dog", "dog.n.01", 118), ("bird", "bird.n.01", 59), ("car", "car.n.01", 10), ("n02121808", "domestic_cat.n.01", 5),
                                                   ("Sports Car", "sports_car.n.01", 1), ("tabby", "tabby.n.01", 1)])
def test_words(word, synset, classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_synset(word) == synset and len(find_hyponyms(word)) == classes
    assert isinstance(find_synsets(word)[0], Sense) and find_synsets(word)[0].classes == classes


@pytest.mark.parametrize("word, synset", [("crane", "crane.n.04"), ("seal", "seal.n.09"), ("turtle", "turtle.n.02"), ("mouse", "mouse.n.04"), ("plant", "plant.n.01"), ("food", "food.n.01")])
def test_doubtful_words_say_so(word, synset):
    with pytest.warns(UserWarning, match=f"taken as {synset}"): assert resolve_synset(word) == synset


@pytest.mark.parametrize("word, sentence", [("doog", "did you mean"), ("zzzzqx", "more general word"), ("", "named by a word"), (None, "named by a word"), (3.5, "named by a word")])
def test_no_word(word, sentence):
    with pytest.raises(ValueError, match=sentence): find_synsets(word)
    with pytest.raises(ValueError, match=sentence): resolve_synset(word)


def test_equal_to_wordnet(shared_data):
    "Members and path similarity against NLTK's own."
    nltk = pytest.importorskip("nltk")
    nltk.data.path.insert(0, str(shared_data / "nltk_data"))
    wordnet = nltk.corpus.wordnet
    classes = [wordnet.synset(name) for name in IMAGENET.leaves]
    for name in ("cat.n.01", "boat.n.01", "fruit.n.01", "tabby.n.01"):
        node = wordnet.synset(name)
        below = {node, *node.closure(lambda s: s.hyponyms())}
        assert find_hyponyms(name).tolist() == [i for i, s in enumerate(classes) if s in below]
    start = wordnet.synset("tabby.n.01")
    similarity = np.array([start.path_similarity(s) for s in classes])
    assert nearest_by_path("tabby.n.01", 12).tolist() == np.argsort(-similarity, kind="stable")[:12].tolist()


def test_members():
    assert {k: len(v) for k, v in select_members({"pet": ["cat", "dog"], "craft": "boat", "one": 5}).items()} == {"pet": 125, "craft": 6, "one": 1}
    assert len(select_members(["cat", "dog"], other="class")["other"]) == 875
    weights = np.eye(30, 1000)
    weights[:, 7] = weights[:, 3]
    assert set(nearest_by_weights(weights, 3, 2)) == {3, 7}
    assert select_members({"a": 3, "b": IMAGENET.leaves[9]}, members="cosine", k=1, weights=weights) == {"a": [3], "b": [9]}
    assert [len(v) for v in select_members({"a": 3, "b": 400}, members="path").values()] == [3, 3]
    assert select_members({"low": ["a", "b"], "high": "c"}, ["a", "b", "c"])["low"].tolist() == [0, 1]
    assert MEMBERS[0] == "hyponyms" and "error" in OVERLAPS


@pytest.mark.parametrize("groups, how, sentence", [
    ("cat", {}, "list or a dict"), ([], {}, "no group"), (["cat", "cat"], {}, "twice"), ({"cat": []}, {}, "group 'cat' is empty"), (["cat", "unicorn"], {}, "no class is below"),
    ({"a": 1000}, {}, "0..999"), (["dog", "animal"], {}, "share the classes .* and 113 more"), (["dog", "animal"], {"overlap": "drop"}, "empty once shared"),
    (["cat", "dog"], {"members": "best"}, "one of hyponyms"), (["cat", "dog"], {"overlap": "some"}, "overlap must be"), (["cat", "dog"], {"other": "all"}, "None or 'class'"),
    ({"cat": "cat", "other": "dog"}, {"other": "class"}, "a group has that name"), (["cat", "dog"], {"members": "cosine"}, "pass weights="),
    (["cat", "dog"], {"members": "cosine", "weights": np.ones((3, 1000))}, "which is 7 classes"), (["cat", "dog"], {"members": "cosine", "weights": np.ones((1000, 3))}, "must have shape"),
    (["tabby", "pug"], {"members": "path", "k": 0}, "1..1000"), ({"a": ["tabby", "pug"]}, {"members": "path"}, "one start class")])
def test_members_refuse(groups, how, sentence):
    with pytest.raises(ValueError, match=sentence) as found: select_members(groups, **how)
    assert "\n" not in str(found.value)


def test_overlap():
    both = {"a": [1, 2], "b": [2, 3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="each").items()} == {"a": [1, 2], "b": [2, 3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="first").items()} == {"a": [1, 2], "b": [3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="drop").items()} == {"a": [1], "b": [3]}


def test_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"): groups_of_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="has 0 class folders"): groups_of_folder(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"has 1 class folder \(dog\)"): groups_of_folder(tmp_path)
    (tmp_path / "Cat").mkdir()
    (tmp_path / ".cache").mkdir()
    assert groups_of_folder(tmp_path) == {"Cat": "cat.n.01", "dog": "dog.n.01"}
    with pytest.raises(ValueError, match="speaks of 'Kat'"): groups_of_folder(tmp_path, {"Kat": "cat"})
    (tmp_path / "Vogel").mkdir()
    with pytest.raises(ValueError, match="folder 'Vogel'"): groups_of_folder(tmp_path)
    assert list(groups_of_folder(tmp_path, {"Vogel": "bird"})) == ["Cat", "Vogel", "dog"]


# ---- rules ----
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50), st.floats(-1e3, 1e3))
def test_rules_are_what_they_say(seed, scale, shift):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (5, 9))
    groups = np.array_split(rng.permutation(9), [2, 5])
    p = softmax(z)
    assert np.allclose(group_scores(z, groups, "mean"), np.stack([z[:, g].mean(1) for g in groups], 1))
    marginal = np.stack([p[:, g].sum(1) for g in groups], 1)
    assert np.allclose(softmax(group_scores(z, groups, "sum")), marginal)
    assert np.allclose(group_scores(z, groups, "sum") - group_scores(z, groups), np.log([len(g) for g in groups]))
    for rule, t in EVERY[:-1]:
        moved = group_scores(z + shift, groups, rule, t)
        assert np.allclose(moved, group_scores(z, groups, rule, t) + shift, atol=1e-6 * (abs(shift) + scale))  # a constant moves all alike
    falling = np.stack([group_scores(z, groups, "tempered", t) for t in (0, 0.5, 1, 3, 30, math.inf)])
    assert (np.diff(falling, axis=0) <= 1e-8 * scale + 1e-9).all()
    votes = group_scores(z, groups[:2], "argmax")
    outside = np.isin(z.argmax(1), groups[2])
    assert ((votes.sum(1) == 0) == outside).all() and ((decide(votes) == -1) == outside).all()


def test_the_failure_of_the_mean():
    z = np.array([[8.0, 0, 0, 0, 0, 0, 2, 2, 2]])
    found = [softmax(group_scores(z, [range(6), range(6, 9)], rule))[0, 0] for rule in ("mean", "sum", "log_mean_exp")]
    assert [round(float(p), 3) for p in found] == [0.339, 0.993, 0.985]


@pytest.mark.parametrize("rule, temperature, sentence", [("median", None, "one of mean"), ("tempered", None, ">= 0"), ("tempered", -1, ">= 0"), ("tempered", math.nan, ">= 0"), ("sum", 2.0, "takes no temperature")])
def test_rules_refuse(rule, temperature, sentence):
    with pytest.raises(ValueError, match=sentence): group_scores(np.zeros((1, 4)), [[0], [1]], rule, temperature)
    with pytest.raises(ValueError, match=sentence): extract_coarse_classifier(torch_net(), COARSE, rule, taxonomy=SHAPES, temperature=temperature)


def test_weights():
    rng = np.random.default_rng(0)
    w, b, x = rng.normal(size=(7, 20)), rng.normal(size=20), rng.normal(size=(3, 7))
    kernel, bias = coarse_weights(w, b, dict(enumerate(GROUPS)))
    assert np.allclose(x @ kernel + bias, group_scores(x @ w + b, GROUPS, "mean"))
    with pytest.raises(ValueError, match="group 1 is empty"): coarse_weights(w, b, [[0], []])
    for bad in (math.nan, math.inf):
        w[0, 0] = bad
        with pytest.raises(ValueError, match="NaN or infinity"): coarse_weights(w, b, GROUPS)


# ---- models ----
@pytest.mark.parametrize("rule, temperature", EVERY)
@pytest.mark.parametrize("convolution", [False, True])
@pytest.mark.parametrize("share", [True, False])
def test_torch(rule, temperature, convolution, share):
    net = torch_net(convolution=convolution)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fine = predict(net, TORCH_BATCH)
    classifier = extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES, temperature=temperature, share=share)
    wanted = group_scores(fine, GROUPS, rule, temperature)
    assert np.allclose(predict(classifier, TORCH_BATCH), wanted if rule == "argmax" else softmax(wanted), atol=1e-5)
    logits = extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES, temperature=temperature, output="logits")
    assert np.allclose(predict(logits, TORCH_BATCH), wanted, atol=1e-5)
    assert classifier.coarse.names == tuple(COARSE) and classifier.coarse.fine is net
    assert all((v == before[k]).all() for k, v in net.state_dict().items())
    trunk = {id(p) for p in classifier.parameters()} & {id(p) for p in net.parameters()}
    assert bool(trunk) == share
    again = pickle.loads(pickle.dumps(classifier))
    assert np.allclose(predict(again, TORCH_BATCH), predict(classifier, TORCH_BATCH)) and again.coarse.names == tuple(COARSE) and again.coarse.fine is None


def test_torch_endings_and_names():
    torch = pytest.importorskip("torch")
    plain = torch_net()
    ended = torch_net(ending=[torch.nn.Softmax(1)])
    for rule in ("mean", "sum"):
        a, b = (extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES) for net in (plain, ended))
        assert np.allclose(predict(a, TORCH_BATCH), predict(b, TORCH_BATCH), atol=1e-6)
    assert isinstance(find_head(plain), Head) and find_head(plain).name == "5" and find_head(plain, layer="5").weights.shape == (6, 20)
    alone = extract_coarse_classifier(torch.nn.Linear(6, 20).eval(), COARSE, "mean", taxonomy=SHAPES)
    assert predict(alone, np.ones((2, 6), np.float32)).shape == (2, 5)
    assert extract_coarse_classifier(plain.train(), COARSE, taxonomy=SHAPES).training
    assert "5 groups of 20 classes" in repr(extract_coarse_classifier(plain, COARSE, taxonomy=SHAPES))


def test_torch_trains():
    torch = pytest.importorskip("torch")
    net = torch_net()
    for rule, t in EVERY[:-1]:
        classifier = extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES, temperature=t, output="logits", share=False)
        torch.nn.functional.cross_entropy(classifier(torch.from_numpy(TORCH_BATCH)), torch.arange(4)).backward()
        gradients = [p.grad for p in classifier.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients), rule
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("rule, temperature", EVERY)
def test_keras(keras_net, rule, temperature, tmp_path):
    fine = predict(keras_net, KERAS_BATCH)
    classifier = extract_coarse_classifier(keras_net, COARSE, rule, taxonomy=SHAPES, temperature=temperature)
    wanted = group_scores(fine, GROUPS, rule, temperature)
    assert np.allclose(predict(classifier, KERAS_BATCH), wanted if rule == "argmax" else softmax(wanted), atol=1e-5)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.keras"))
    assert np.allclose(predict(again, KERAS_BATCH), predict(classifier, KERAS_BATCH), atol=1e-6)
    assert again.coarse.to_json() == classifier.coarse.to_json() and sorted(p.name for p in tmp_path.iterdir()) == ["a.keras"]


def test_keras_copies_on_request(keras_net):
    classifier = extract_coarse_classifier(keras_net, COARSE, "mean", taxonomy=SHAPES, share=False, output="logits")
    assert classifier.get_layer("conv1") is not keras_net.get_layer("conv1")
    assert np.allclose(predict(classifier, KERAS_BATCH), group_scores(predict(keras_net, KERAS_BATCH), GROUPS, "mean"), atol=1e-5)
    assert extract_coarse_classifier(keras_net, COARSE, "mean", taxonomy=SHAPES).get_layer("conv1") is keras_net.get_layer("conv1")


def test_keras_convolution_as_head():
    keras = pytest.importorskip("keras")
    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(20, 1, name="conv_preds")(layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(6, 3, activation="relu")(inputs)))
    net = keras.Model(inputs, layers.Activation("softmax", name="predictions")(layers.Reshape((20,))(x)))
    batch = TORCH_BATCH.transpose(0, 2, 3, 1).copy()
    fine = np.log(predict(net, batch))
    for rule, t in EVERY[:3]: assert np.allclose(predict(extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES), batch), softmax(group_scores(fine, GROUPS, rule)), atol=1e-5)
    changed = keras.Model(inputs, layers.Dropout(0.1)(layers.ReLU()(net.output)))
    with pytest.raises(ValueError, match="changes the logits after the head"): extract_coarse_classifier(changed, COARSE, taxonomy=SHAPES)
    two = keras.Model(inputs, [net.output, x])
    with pytest.raises(ValueError, match="2 outputs"): extract_coarse_classifier(two, COARSE, taxonomy=SHAPES)
    sigmoid = keras.Sequential([keras.Input((6,)), layers.Dense(20, activation="sigmoid")])
    with pytest.raises(ValueError, match="changes the logits"): extract_coarse_classifier(sigmoid, COARSE, taxonomy=SHAPES)


def test_mobilenet_with_random_weights():
    pytest.importorskip("keras")
    net = load_mobilenet_v2(weights=None)
    batch = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    fine = np.log(predict(net, batch))
    for rule in ("mean", "log_mean_exp"):
        classifier = extract_coarse_classifier(net, ["cat", "dog", "boat"], rule, other="class")
        assert classifier.coarse.names == ("cat", "dog", "boat", "other")
        assert np.allclose(predict(classifier, batch), softmax(group_scores(fine, classifier.coarse.members, rule)), atol=1e-4)
    assert extract_coarse_classifier(net, ["cat", "dog"], "mean").layers[-2].count_params() == 2562


def test_models_refuse(keras_net):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="20 outputs, but there are 1000 classes; pass taxonomy="): extract_coarse_classifier(torch_net(), ["cat", "dog"])
    with pytest.raises(ValueError, match="20 outputs, but there are 1000 classes"): extract_coarse_classifier(keras_net, ["cat", "dog"])
    with pytest.raises(ValueError, match="no dense layer"): extract_coarse_classifier(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3)), ["cat", "dog"])
    with pytest.raises(ValueError, match="neither a Keras model nor"): extract_coarse_classifier(lambda x: x, ["cat", "dog"])
    with pytest.raises(ValueError, match="is no dense layer"): find_head(torch_net(), layer="2")
    with pytest.raises(ValueError, match="nothing to choose from"): extract_coarse_classifier(torch_net(), ["polygon"], taxonomy=SHAPES)
    with pytest.raises(ValueError, match="'probabilities' or 'logits'"): extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES, output="labels")
    net = torch_net()
    with torch.no_grad(): net[5].weight[3, 2] = math.nan
    with pytest.raises(ValueError, match="layer '5' hold NaN"): extract_coarse_classifier(net, COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="no coarse classifier"): coarse_info(net)
    with pytest.raises(AttributeError, match="no attribute"): module.nothing


def test_class_lists():
    names = [f"kind {i}" for i in range(20)]
    classifier = extract_coarse_classifier(torch_net(), {"low": names[:5], "high": names[5:]}, taxonomy=names)
    assert classifier.coarse.members == {"low": tuple(range(5)), "high": tuple(range(5, 20))} and classifier.coarse.class_names == tuple(names)
    wnids = [IMAGENET.wnid(IMAGENET.leaves[i]) for i in (*range(281, 286), *range(151, 166))]
    subset = extract_coarse_classifier(torch_net(), ["cat", "dog"], taxonomy=wnids)  # hypernyms work for a subset of ImageNet
    assert [len(m) for m in subset.coarse.members.values()] == [5, 15]


# ---- files ----
def test_info_is_json():
    for temperature in (None, 2.0, math.inf):
        info = CoarseInfo({"a": (0, 1), "b": (2,)}, ("x", "y", "z"), "tempered", temperature, "logits")
        again = CoarseInfo.from_json(json.dumps(json.loads(info.to_json())))
        assert again.__dict__ == info.__dict__ and again.names == ("a", "b")


@pytest.mark.parametrize("rule, temperature", [("mean", None), ("tempered", 2.0), ("argmax", None)])
def test_torch_programs(rule, temperature, tmp_path):
    classifier = extract_coarse_classifier(torch_net(), COARSE, rule, taxonomy=SHAPES, temperature=temperature)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.pt2", TORCH_BATCH[:2]))
    assert np.allclose(predict(again, TORCH_BATCH), predict(classifier, TORCH_BATCH), atol=1e-6) and again.coarse.names == tuple(COARSE)
    assert np.allclose(predict(again, TORCH_BATCH[:1]), predict(classifier, TORCH_BATCH[:1]), atol=1e-6)


@pytest.mark.parametrize("rule, temperature", [("mean", None), ("log_mean_exp", None), ("argmax", None)])
def test_onnx_from_torch(rule, temperature, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"): pytest.importorskip(package)
    classifier = extract_coarse_classifier(torch_net(), COARSE, rule, taxonomy=SHAPES)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.onnx", TORCH_BATCH[:2]))
    assert np.allclose(predict(again, TORCH_BATCH), predict(classifier, TORCH_BATCH), atol=1e-5) and again.coarse.rule == rule
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("rule", ["mean", "log_mean_exp", "argmax"])
def test_onnx_from_keras(keras_net, rule, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"): pytest.importorskip(package)
    if pytest.importorskip("keras").backend.backend() != "tensorflow": pytest.skip("needs the TensorFlow backend, not a GPU")
    classifier = extract_coarse_classifier(keras_net, COARSE, rule, taxonomy=SHAPES)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.onnx"))
    assert np.allclose(predict(again, KERAS_BATCH), predict(classifier, KERAS_BATCH), atol=1e-5) and again.coarse.names == tuple(COARSE)


def test_files_refuse(tmp_path, keras_net):
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="must end with .pt2 or .onnx"): save_classifier(classifier, tmp_path / "a.keras", TORCH_BATCH)
    with pytest.raises(ValueError, match="pass example="): save_classifier(classifier, tmp_path / "a.pt2")
    with pytest.raises(ValueError, match="must end with .keras or .onnx"): save_classifier(extract_coarse_classifier(keras_net, COARSE, taxonomy=SHAPES), tmp_path / "a.pt2")
    with pytest.raises(ValueError, match="no coarse classifier"): save_classifier(torch_net(), tmp_path / "a.pt2", TORCH_BATCH)
    with pytest.raises(FileNotFoundError, match="no file"): load_classifier(tmp_path / "none.pt2")
    for name in ("a.keras", "a.pt2"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(ValueError, match="not a whole classifier"): load_classifier(tmp_path / name)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="which ends with .keras"): load_classifier(tmp_path / "a.txt")
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_a_failed_export_leaves_nothing(tmp_path):
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    with pytest.raises(Exception): save_classifier(classifier, tmp_path / "a.pt2", TORCH_BATCH[:, :1])
    assert list(tmp_path.iterdir()) == []


def test_files_of_others(tmp_path, keras_net):
    "A model without names of groups says so, and a program that was read is not written again."
    torch = pytest.importorskip("torch")
    keras_net.save(tmp_path / "plain.keras")
    program = torch.export.export(torch_net(), (torch.from_numpy(TORCH_BATCH),))
    torch.export.save(program, tmp_path / "plain.pt2")
    for name, text in (("empty", "{}"), ("foreign", '{"members": {}, "more": 1}')): torch.export.save(program, tmp_path / f"{name}.pt2", extra_files={"coarse.json": text})
    for name in ("plain.keras", "plain.pt2", "empty.pt2", "foreign.pt2"):
        with pytest.raises(ValueError, match="not the names of its groups"): load_classifier(tmp_path / name)
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    read = load_classifier(save_classifier(classifier, tmp_path / "a.pt2", TORCH_BATCH.astype(np.float64)))  # float64 is cast
    assert np.allclose(predict(read, TORCH_BATCH), predict(classifier, TORCH_BATCH), atol=1e-5)
    with pytest.raises(ValueError, match="was read from a.pt2; copy that file"): save_classifier(read, tmp_path / "b.pt2", TORCH_BATCH)
    for bad in (5, "a picture", [["a"], ["b"]], TORCH_BATCH[:1]):
        with pytest.raises(ValueError, match="batch of numbers"): save_classifier(classifier, tmp_path / "b.pt2", bad)
    with pytest.raises(ValueError, match=r"does not take an example of shape \(4, 1, 12, 12\)"): save_classifier(classifier, tmp_path / "b.pt2", TORCH_BATCH[:, :1])
    assert not (tmp_path / "b.pt2").exists()


def test_torch_networks_that_are_no_plain_classifiers():
    "What would give wrong probabilities in silence is refused, at the latest when the first batch goes through."
    torch = pytest.importorskip("torch")
    nn, x, names = torch.nn, torch.eye(6), list("abcdef")
    class Softmaxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
        def forward(self, x): return torch.softmax(self.fc(x), 1)
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.aux = nn.Linear(6, 6), nn.Linear(6, 6)
        def forward(self, x): return self.main(x)
    class Tuple(Softmaxed):
        def forward(self, x): return self.fc(x), x
    groups = {"A": ["a", "b"], "B": "c"}
    for net, rule, sentence in ((Softmaxed(), "sum", "take the softmax out"), (Softmaxed(), "mean", "take the softmax out"), (TwoHeads(), "mean", "gives 6 numbers a picture and not 2"),
                                (Tuple(), "sum", "gives a tuple"), (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), "sum", None), (nn.Conv2d(3, 6, 1), "sum", "maps are not pooled")):
        if sentence is None:
            with pytest.raises(ValueError, match="ReLU '1' changes the logits"): extract_coarse_classifier(net, groups, rule, taxonomy=names)
            continue
        classifier = extract_coarse_classifier(net.eval(), groups, rule, taxonomy=names)
        with pytest.raises(ValueError, match=sentence): classifier(torch.zeros(2, 3, 4, 4) if isinstance(net, nn.Conv2d) else x)
    assert torch.allclose(extract_coarse_classifier(TwoHeads().eval(), groups, "mean", taxonomy=names, layer="main")(x).sum(1), torch.ones(6))
    for ending in (nn.Sigmoid(), nn.ReLU(), nn.BatchNorm1d(6)):
        with pytest.raises(ValueError, match="changes the logits after the head"): extract_coarse_classifier(nn.Sequential(nn.Linear(6, 6), ending), groups, taxonomy=names)
    with pytest.raises(ValueError, match="is a class, not a model"): extract_coarse_classifier(Softmaxed, groups, taxonomy=names)
    with pytest.raises(ValueError, match="name one of '5'"): find_head(torch_net(), layer="0")


def test_keras_maps_are_refused():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((5, 5, 3))
    net = keras.Model(inputs, keras.layers.Conv2D(20, 1, name="maps")(inputs))
    with pytest.raises(ValueError, match="gives a map of the shape"): extract_coarse_classifier(net, COARSE, taxonomy=SHAPES)
    outer = keras.Sequential([keras.Input((5, 5, 3)), keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(20)])])
    with pytest.raises(ValueError, match="inner model: pass that one"): extract_coarse_classifier(outer, COARSE, taxonomy=SHAPES)


def test_temperatures_of_models():
    net, fine = torch_net(), None
    fine = predict(net, TORCH_BATCH)
    for t in (1e-60, 1e-3, 1000): assert np.allclose(predict(extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature=t, output="logits"), TORCH_BATCH), group_scores(fine, GROUPS, "tempered", t), atol=1e-3)
    with pytest.raises(ValueError, match="too high for a model in float32; pass math.inf"): extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature=1e6)
    with pytest.raises(ValueError, match="needs a temperature"): extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature="2")


@pytest.mark.parametrize("groups, how, sentence", [
    ({"cat", "dog"}, {}, "no order"), ({1: "tabby", "1": "beagle"}, {}, "name must be a string"), ([("cat", "dog"), "boat"], {}, "pass a dict"), ([b"cat", "dog"], {}, "pass a dict"), ({"a": b"cat"}, {}, "must be a word"),
    ({"a": -1, "b": 2}, {"members": "path"}, "0..999"), ({"a": 5000}, {"members": "path"}, "0..999"), ({"a": True}, {}, "must be a word"), ({None: "cat"}, {}, "name must be a string"), ({"": "cat"}, {}, "name must be a string"),
    ({"a": None}, {}, "must be a word"), ({"a": 1.0}, {}, "must be a word"), (None, {}, "list of words or a dict"), (5, {}, "list of words or a dict"), (["cat"], {"taxonomy": "imagenet"}, "taxonomy must be"), (["cat"], {"taxonomy": {"cat"}}, "taxonomy must be"),
    (["cat"], {"taxonomy": 5}, "taxonomy must be"), (["cat", "automobile"], {"taxonomy": ["airplane", "cat", "ship"]}, "the classes are airplane, cat, ship"), ({"a": 3}, {"members": "cosine", "weights": np.full((4, 1000), np.nan)}, "NaN")])
def test_groups_that_would_be_misread(groups, how, sentence):
    with pytest.raises(ValueError, match=sentence) as found: select_members(groups, **how)
    assert "\n" not in str(found.value)


def test_small_print():
    assert select_members([find_synsets("dog")[0], "cat"])["dog.n.01"].size == 118 and select_members(["all classes"], ["all classes", "b"])["all classes"].tolist() == [0]
    dropped = select_members(["car", "truck"], overlap="drop", other="class")
    assert len(np.intersect1d(dropped["other"], find_hyponyms("car"))) == 0  # a minivan, both car and truck, is nothing else
    with pytest.warns(UserWarning, match="taken as crane") as said: select_members(["crane", "dog"])
    assert said[0].filename == __file__
    assert coarse_weights(np.array([[1, 2, 3]]), np.array([1, 2, 3]), [[0, 1], [2]])[0].tolist() == [[1.5, 3]]
    for bad in ([[0], [-1]], [[0], [3]], [[0], [0.5]]):
        with pytest.raises(ValueError, match="class positions in 0..2"): coarse_weights(np.ones((2, 3)), np.ones(3), bad)
    with pytest.raises(ValueError, match="must have shape"): coarse_weights(np.ones((3, 2)), np.ones(3), [[0]])
    for bad in ([[0], [-1]], [[0], [9]], [[0], []]):
        with pytest.raises(ValueError): group_scores(np.zeros((1, 4)), bad, "argmax")
    with pytest.raises(ValueError, match="NaN"): group_scores(np.full((1, 4), np.nan), [[0], [1]], "argmax")
    with pytest.raises(ValueError, match="no NaN"): decide(np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="start must be"): nearest_by_weights(np.eye(3), -1)


# ---- measurements ----
TOY = Taxonomy.from_dict({f"g{g}": [f"{g}.{c}" for c in range(5)] for g in range(6)})


def toy(noise, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(30), 4)
    return 4 * np.kron(np.eye(6), np.ones((5, 5)))[labels] + 6 * np.eye(30)[labels] + rng.normal(0, noise, (120, 30)), labels


def test_temperature_against_a_slow_reference():
    logits, labels = toy(3.0)
    for leave_out in (True, False):
        choice = choose_temperature(logits, labels, TOY, leave_out=leave_out, temperatures=(0.5, 2.0, math.inf))
        wanted = []
        for t in choice.temperatures:
            accuracies = []
            for a in range(6):
                for b in range(a):
                    recalls = []
                    for mine, theirs in ((a, b), (b, a)):
                        right = []
                        for row in np.flatnonzero(labels // 5 == mine):
                            inside = [c for c in range(5 * mine, 5 * mine + 5) if not (leave_out and c == labels[row])]
                            rule = dict(rule="tempered", temperature=t)
                            right.append(group_scores(logits[row][None], [inside], **rule)[0, 0] > group_scores(logits[row][None], [range(5 * theirs, 5 * theirs + 5)], **rule)[0, 0])
                        recalls.append(np.mean(right))
                    accuracies.append(np.mean(recalls))
            wanted.append(np.mean(accuracies))
        assert np.allclose(choice.accuracies, wanted) and choice.problems == 15 and isinstance(choice, TemperatureChoice)


def test_temperature_options():
    logits, labels = toy(1.0)
    assert choose_temperature(logits, labels, TOY, avoid=[0]).problems == 10
    with pytest.raises(ValueError, match="must have shape"): choose_temperature(logits.T, labels, TOY)
    with pytest.raises(ValueError, match="no two disjoint groups"): choose_temperature(logits, labels, TOY, min_size=6)
    assert TEMPERATURES[-1] == math.inf and 1.0 in TEMPERATURES


@pytest.mark.parametrize("how, sentence", [
    (dict(min_size=1), "at least 2"), (dict(min_size="5"), "at least 2"), (dict(temperatures=()), "list of numbers"), (dict(temperatures=2.0), "list of numbers"), (dict(temperatures=(-1,)), "list of numbers"),
    (dict(avoid=[5000]), "0..29"), (dict(avoid=[-1]), "0..29"), (dict(avoid="unicorn"), "no class is below")])
def test_temperature_refuses(how, sentence):
    logits, labels = toy(1.0)
    with pytest.raises(ValueError, match=sentence): choose_temperature(logits, labels, TOY, **how)


def test_temperature_input():
    logits, labels = toy(1.0)
    assert choose_temperature(logits, labels, TOY, avoid="g0").problems == choose_temperature(logits, labels, TOY, avoid={"a": [0, 1], "b": np.array([2])}).problems == choose_temperature(logits, labels, TOY, avoid=["g0", 1]).problems == 10
    with pytest.raises(ValueError, match="NaN"): choose_temperature(logits * np.nan, labels, TOY)
    with pytest.raises(ValueError, match="labels must be"): choose_temperature(logits, labels - 1, TOY)
    for bad in (labels, labels // 5 - 1, labels[:-1] // 5, labels / 5):
        with pytest.raises(ValueError, match="targets must be"): measure_rules(logits, bad, [np.arange(5), np.arange(5, 10)])
        with pytest.raises(ValueError, match="targets must be"): measure_unseen(logits, labels, bad, [np.arange(5), np.arange(5, 10)])
    with pytest.raises(ValueError, match="'accuracy' or 'balanced'"): rules_table({}, "acc")


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
    for rule, values in found.items():
        matrix = np.array(values["confusion"])
        assert matrix.shape == (6, 7) and matrix.sum() == 120 and abs(np.trace(matrix) / 120 - values["accuracy"][0]) < 1e-4
        assert values["accuracy"][1] <= values["accuracy"][0] <= values["accuracy"][2]
    hidden = measure_unseen(logits, labels, labels // 5, groups, 2.0)
    assert all(0 <= v <= 1 for v in hidden.values()) and hidden["argmax"] <= found["argmax"]["accuracy"][0] + 1e-9
    table = rules_table({"six": found | {"sizes": [5] * 6}}, "balanced")
    assert table.count("\n") == 2 and "**" in table and "(5, 5, 5, 5, 5, 5)" in table


def test_group_sets_are_sound():
    assert len(GROUP_SETS) >= 8
    for name, groups in GROUP_SETS.items(): assert len(select_members(list(groups))) == len(groups), name


def test_the_committed_record(repository):
    record = json.loads((repository / "nbs" / "results" / "coarse_extraction.quick.json").read_text(encoding="utf-8"))
    metrics, stored = record["metrics"], stored_logits(repository / "nbs" / "results")
    assert set(metrics["group_sets"]) == set(GROUP_SETS) and record["header"]["data_sha256"] == str(stored["digest"])
    members = select_members({"Cat": "cat.n.01", "Dog": "dog.n.01"})
    again = measure_rules(stored["pets"].astype(float), stored["pet_labels"].astype(int), members, metrics["temperature"], CONFIGS["quick"].resamples)
    for rule in RULES: assert again[rule]["accuracy"] == metrics["cats_dogs"][rule]["accuracy"]
    avoid = np.concatenate(list(members.values()))
    assert choose_temperature(stored["samples"], np.arange(1000), avoid=avoid).temperature == metrics["temperature"]
    assert (repository / "nbs" / "results" / "coarse_extraction_logits.npz").stat().st_size <= 3_000_000


def test_logits_are_those_of_the_pictures(repository, imagenet_root, petimages_root, monkeypatch):
    "A few of the committed logits, computed again."
    pytest.importorskip("efficientnet_lite_pytorch")
    samples, pets = module.load_imagenet_samples, module.load_cats_dogs
    few = lambda files, every: files.select(np.arange(0, len(files), every))
    monkeypatch.setattr(module, "load_imagenet_samples", lambda: few(samples(imagenet_root), 200))
    monkeypatch.setattr(module, "load_cats_dogs", lambda: few(pets(petimages_root), 80))
    found, stored = compute_logits(CoarseExtractionConfig()), stored_logits(repository / "nbs" / "results")
    assert np.allclose(found["samples"], stored["samples"][::200], atol=0.1) and np.allclose(found["pets"], stored["pets"][::80], atol=0.1)


def test_the_tiny_lesson(tmp_path):
    pytest.importorskip("keras")
    record = run_lesson("tiny", results=tmp_path)
    metrics = record["metrics"]
    assert metrics["fine_accuracy"] > 0.3 and metrics["coarse_accuracy"] == metrics["rules"]["log_mean_exp"] > 0.5 and set(metrics["rules"]) == set(RULES)
    assert json.loads((tmp_path / "coarse_extraction.tiny.json").read_text(encoding="utf-8"))["header"]["data"] == "shapes"
    with pytest.raises(ValueError, match="unknown profile"): run_lesson("huge")


# ---- the picture ----
def test_predict_image(tmp_path):
    import matplotlib.pyplot as plt
    from PIL import Image
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    prepare = lambda picture: TORCH_BATCH[:1]
    net = torch_net()
    for how in (dict(rule="mean"), dict(rule="argmax"), dict(output="logits")):
        figure = predict_image(picture, extract_coarse_classifier(net, COARSE, taxonomy=SHAPES, **how), prepare)
        assert len(figure.axes) == 3 and [t.get_text() for t in figure.axes[1].get_yticklabels()] == list(COARSE)
        shown = [bar.get_width() for bar in figure.axes[1].patches]
        assert abs(sum(shown) - 1) < 1e-4
        plt.close(figure)
    classifier = extract_coarse_classifier(net, COARSE, taxonomy=SHAPES)
    classifier.coarse.fine = None
    Image.fromarray(picture).save(tmp_path / "a.png")
    figure = predict_image(tmp_path / "a.png", classifier, prepare)
    assert len(figure.axes) == 2
    plt.close(figure)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"): predict_image(tmp_path / "b.png", classifier, prepare)
    with pytest.raises(FileNotFoundError, match="no picture"): predict_image(tmp_path / "c.png", classifier, prepare)
    with pytest.raises(ValueError, match="no coarse classifier"): predict_image(picture, net, prepare)
    for top in (0, -1, "5"):
        with pytest.raises(ValueError, match="top must be"): predict_image(picture, classifier, prepare, top=top)
    with pytest.raises(ValueError, match="pass the prepare= of your network"): predict_image(picture, classifier, "mobilenet_v2")


# ---- the module ----
def test_exercises(capsys):
    assert exercises.names == ("marginal", "prior", "padding", "merge-head", "prior-shift")
    assert check("prior", math.log(59 / 6)) and not check("prior", 53)
    capsys.readouterr()


def test_loads_no_framework_and_loads_files_in_a_fresh_process(tmp_path, keras_net):
    path = save_classifier(extract_coarse_classifier(keras_net, COARSE, "sum", taxonomy=SHAPES), tmp_path / "a.keras")
    code = f"""import sys, hierlearn.coarse_extraction as c
print(*[m for m in ('keras', 'tensorflow', 'torch', 'nltk.corpus') if m in sys.modules])
print(c.load_classifier({str(path)!r}).coarse.names[1])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0 and done.stdout.split("\n")[:2] == ["", "round"], done.stderr[-800:]
