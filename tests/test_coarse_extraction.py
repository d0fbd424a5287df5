"Coarse classifiers from fine ones: rules, heads, models of both frameworks, pictures, bad input."
import json
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from coarse_nets import COARSE, EVERY, GROUPS, IMAGENET, KERAS_BATCH, SHAPES, TORCH_BATCH, keras_net, torch_net
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn.coarse_extraction import (
    OUTPUTS, RULES, CoarseInfo, Head, coarse_info, coarse_weights, decide, extract_coarse_classifier, find_head,
    group_scores, predict_image)
from hierlearn.decisions import softmax
from hierlearn.models import load_mobilenet_v2, predict


@pytest.fixture(scope="module", name="keras_net")
def keras_fixture(): return keras_net()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 50), st.floats(-1e3, 1e3))
def test_rules_are_what_they_say(seed, scale, shift):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (5, 9))
    groups = np.array_split(rng.permutation(9), [2, 5])
    p = softmax(z)
    assert np.allclose(group_scores(z, groups, "mean"), np.stack([z[:, g].mean(1) for g in groups], 1))
    marginal = np.stack([p[:, g].sum(1) for g in groups], 1)
    assert np.allclose(softmax(group_scores(z, groups, "log_sum_exp")), marginal)
    assert np.allclose(group_scores(z, groups, "log_sum_exp") - group_scores(z, groups), np.log([len(g) for g in groups]))
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
    found = [softmax(group_scores(z, [range(6), range(6, 9)], rule))[0, 0] for rule in ("mean", "log_sum_exp", "log_mean_exp")]
    assert [round(float(p), 3) for p in found] == [0.339, 0.993, 0.985]


@pytest.mark.parametrize("rule, temperature, sentence", [("median", None, "one of mean"), ("tempered", None, "of at least 0"), ("tempered", -1, "of at least 0"), ("tempered", math.nan, "of at least 0"), ("log_sum_exp", 2.0, "takes no temperature")])
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


def test_groups_of_wrong_positions():
    assert coarse_weights(np.array([[1, 2, 3]]), np.array([1, 2, 3]), [[0, 1], [2]])[0].tolist() == [[1.5, 3]]
    for bad in ([[0], [-1]], [[0], [3]], [[0], [0.5]]):
        with pytest.raises(ValueError, match="class positions in 0..2"): coarse_weights(np.ones((2, 3)), np.ones(3), bad)
    with pytest.raises(ValueError, match="must have shape"): coarse_weights(np.ones((3, 2)), np.ones(3), [[0]])
    for bad in ([[0], [-1]], [[0], [9]], [[0], []]):
        with pytest.raises(ValueError): group_scores(np.zeros((1, 4)), bad, "argmax")
    with pytest.raises(ValueError, match="NaN"): group_scores(np.full((1, 4), np.nan), [[0], [1]], "argmax")
    with pytest.raises(ValueError, match="no NaN"): decide(np.full((1, 2), np.nan))


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
    for rule in ("mean", "log_sum_exp"):
        a, b = (extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES) for net in (plain, ended))
        assert np.allclose(predict(a, TORCH_BATCH), predict(b, TORCH_BATCH), atol=1e-6)
    assert isinstance(find_head(plain), Head) and find_head(plain).name == "5" and find_head(plain, layer="5").weights.shape == (6, 20)
    alone = extract_coarse_classifier(torch.nn.Linear(6, 20).eval(), COARSE, "mean", taxonomy=SHAPES)
    assert predict(alone, np.ones((2, 6), np.float32)).shape == (2, 5)
    # a network that was left in train mode answers as predict says, and stays as it is
    left = extract_coarse_classifier(plain.train(), COARSE, taxonomy=SHAPES)
    assert plain.training and not left.training
    with torch.no_grad(): assert np.allclose(left(torch.from_numpy(TORCH_BATCH)), predict(left, TORCH_BATCH), atol=1e-6)
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
    for net, rule, sentence in ((Softmaxed(), "log_sum_exp", "take the softmax out"), (Softmaxed(), "mean", "take the softmax out"), (TwoHeads(), "mean", "gives 6 numbers a picture and not 2"),
                                (Tuple(), "log_sum_exp", "gives a tuple"), (nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)), "log_sum_exp", None), (nn.Conv2d(3, 6, 1), "log_sum_exp", "maps are not pooled")):
        if sentence is None:
            with pytest.raises(ValueError, match="ReLU '1' changes the logits"): extract_coarse_classifier(net, groups, rule, taxonomy=names)
            continue
        classifier = extract_coarse_classifier(net.eval(), groups, rule, taxonomy=names)
        with pytest.raises(ValueError, match=sentence): classifier(torch.zeros(2, 3, 4, 4) if isinstance(net, nn.Conv2d) else x)
    assert torch.allclose(extract_coarse_classifier(TwoHeads().eval(), groups, "mean", taxonomy=names, layer="main")(x).sum(1), torch.ones(6))
    for ending in (nn.Sigmoid(), nn.ReLU(), nn.BatchNorm1d(6)):
        with pytest.raises(ValueError, match="changes the logits after the head"): extract_coarse_classifier(nn.Sequential(nn.Linear(6, 6), ending), groups, taxonomy=names)
    with pytest.raises(ValueError, match="is neither a Keras model"): extract_coarse_classifier(Softmaxed, groups, taxonomy=names)
    with pytest.raises(ValueError, match="name one of '5'"): find_head(torch_net(), layer="0")


@pytest.mark.parametrize("rule, temperature", EVERY)
def test_keras(keras_net, rule, temperature):
    fine = predict(keras_net, KERAS_BATCH)
    classifier = extract_coarse_classifier(keras_net, COARSE, rule, taxonomy=SHAPES, temperature=temperature)
    wanted = group_scores(fine, GROUPS, rule, temperature)
    assert np.allclose(predict(classifier, KERAS_BATCH), wanted if rule == "argmax" else softmax(wanted), atol=1e-5)


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
    for rule, _ in EVERY[:3]: assert np.allclose(predict(extract_coarse_classifier(net, COARSE, rule, taxonomy=SHAPES), batch), softmax(group_scores(fine, GROUPS, rule)), atol=1e-5)
    changed = keras.Model(inputs, layers.Dropout(0.1)(layers.ReLU()(net.output)))
    with pytest.raises(ValueError, match="changes the logits after the head"): extract_coarse_classifier(changed, COARSE, taxonomy=SHAPES)
    two = keras.Model(inputs, [net.output, x])
    with pytest.raises(ValueError, match="2 outputs"): extract_coarse_classifier(two, COARSE, taxonomy=SHAPES)
    sigmoid = keras.Sequential([keras.Input((6,)), layers.Dense(20, activation="sigmoid")])
    with pytest.raises(ValueError, match="changes the logits"): extract_coarse_classifier(sigmoid, COARSE, taxonomy=SHAPES)


def test_keras_maps_are_refused():
    keras = pytest.importorskip("keras")
    inputs = keras.Input((5, 5, 3))
    net = keras.Model(inputs, keras.layers.Conv2D(20, 1, name="maps")(inputs))
    with pytest.raises(ValueError, match="gives a map of the shape"): extract_coarse_classifier(net, COARSE, taxonomy=SHAPES)
    outer = keras.Sequential([keras.Input((5, 5, 3)), keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(20)])])
    with pytest.raises(ValueError, match="inner model: pass that one"): extract_coarse_classifier(outer, COARSE, taxonomy=SHAPES)


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
    with pytest.raises(ValueError, match="output must be one of probabilities, logits"): extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES, output="labels")
    net = torch_net()
    with torch.no_grad(): net[5].weight[3, 2] = math.nan
    with pytest.raises(ValueError, match="layer '5' hold NaN"): extract_coarse_classifier(net, COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="no coarse classifier"): coarse_info(net)


def test_temperatures_of_models():
    net, fine = torch_net(), None
    fine = predict(net, TORCH_BATCH)
    for t in (1e-60, 1e-3, 1000): assert np.allclose(predict(extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature=t, output="logits"), TORCH_BATCH), group_scores(fine, GROUPS, "tempered", t), atol=1e-3)
    with pytest.raises(ValueError, match="too high for a model in float32; pass math.inf"): extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature=1e6)
    with pytest.raises(ValueError, match="temperature must be a number"): extract_coarse_classifier(net, COARSE, "tempered", taxonomy=SHAPES, temperature="2")


def test_class_lists():
    names = [f"kind {i}" for i in range(20)]
    classifier = extract_coarse_classifier(torch_net(), {"low": names[:5], "high": names[5:]}, taxonomy=names)
    assert classifier.coarse.members == {"low": tuple(range(5)), "high": tuple(range(5, 20))} and classifier.coarse.class_names == tuple(names)
    wnids = [IMAGENET.wnid(IMAGENET.leaves[i]) for i in (*range(281, 286), *range(151, 166))]
    subset = extract_coarse_classifier(torch_net(), ["cat", "dog"], taxonomy=wnids)  # hypernyms work for a subset of ImageNet
    assert [len(m) for m in subset.coarse.members.values()] == [5, 15]


def test_info_is_json():
    for rule, temperature in (("mean", None), ("tempered", 2.0), ("tempered", math.inf)):
        info = CoarseInfo({"a": (0, 1), "b": (2,)}, ("x", "y", "z"), rule, temperature, "logits")
        again = CoarseInfo.from_json(json.dumps(json.loads(info.to_json())))
        assert again.__dict__ == info.__dict__ and again.names == ("a", "b")


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


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"members": {}, "more": 1}', "null", "[1, 2]"])
def test_json_of_others(text):
    with pytest.raises(ValueError): CoarseInfo.from_json(text)


def test_json_that_does_not_fit():
    info = CoarseInfo({"a": (0, 1), "b": (2,)}, ("x", "y", "z"), "mean")
    for old, new in (("[2]", "[3]"), ("[2]", "[]"), ("mean", "median"), ("probabilities", "labels"), ("null", "2")):
        assert old in info.to_json()
        with pytest.raises(ValueError): CoarseInfo.from_json(info.to_json().replace(old, new))
    assert OUTPUTS == ("probabilities", "logits") and RULES[0] == "mean"


def test_the_module_loads_no_framework():
    code = "import sys, hierlearn.coarse_files; print(*[m for m in ('keras', 'tensorflow', 'torch', 'nltk.corpus', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0 and done.stdout.strip() == "", done.stderr[-800:]
