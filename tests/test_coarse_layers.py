"The group layer of both frameworks: ordinary classes, equal to the NumPy reference, registered and picklable."
import copy
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from hierlearn.coarse_extraction import group_scores

LOGITS = np.random.default_rng(0).normal(0, 4, (7, 9)).astype(np.float32)
LOGITS[0, 2] = LOGITS[0, 8] = 9  # a tie: the first counts
GROUPS = [[0], [2, 1, 5], [3, 4, 6, 7]]
MEMBERS = [("mean", None, math.inf, True), ("log_sum_exp", None, 1.0, False), ("log_mean_exp", None, 1.0, True),
           ("tempered", 0.3, 0.3, True), ("tempered", 0, 0, True), ("argmax", None, None, True)]


@pytest.mark.parametrize("rule, temperature, t, average", MEMBERS)
def test_torch_layer(rule, temperature, t, average):
    torch = pytest.importorskip("torch")
    from hierlearn.coarse_torch import TorchGroupScores
    layer = TorchGroupScores(GROUPS, 9, t, average)
    wanted = group_scores(LOGITS, GROUPS, rule, temperature)
    for again in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.allclose(again(torch.from_numpy(LOGITS)), wanted, atol=1e-5)
    assert not list(layer.parameters()) and not layer.state_dict() and "3 groups of 9 classes" in repr(layer)


@pytest.mark.parametrize("rule, temperature, t, average", MEMBERS)
def test_keras_layer(rule, temperature, t, average):
    keras = pytest.importorskip("keras")
    from hierlearn.coarse_keras import KerasGroupScores
    layer = KerasGroupScores(GROUPS, 9, t, average, name="groups")
    wanted = group_scores(LOGITS, GROUPS, rule, temperature)
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(twin) is KerasGroupScores and twin.name == "groups" and twin.compute_output_shape((None, 9)) == (None, 3)
    for again in (layer, twin): assert np.allclose(keras.ops.convert_to_numpy(again(LOGITS)), wanted, atol=1e-5)
    assert keras.saving.get_registered_name(KerasGroupScores) == "hierlearn>KerasGroupScores"


def test_a_pickled_layer_is_found_by_its_address():
    "Another process reads the pickle: it holds nothing but the address of the class and its buffers."
    pytest.importorskip("torch")
    from hierlearn.coarse_torch import TorchGroupScores, TorchLogits
    assert TorchGroupScores.__qualname__ == "TorchGroupScores" and TorchLogits.__module__ == "hierlearn.coarse_torch"
    code = "import sys, pickle; print(type(pickle.load(sys.stdin.buffer)).__name__)"
    for layer in (TorchGroupScores(GROUPS, 9), TorchLogits(9)):
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(layer), capture_output=True, env=os.environ)
        assert done.stdout.decode().strip() == type(layer).__name__, done.stderr[-500:]


def test_outputs_that_are_no_logits():
    torch = pytest.importorskip("torch")
    from hierlearn.coarse_torch import TorchLogits
    many = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 30)).astype(np.float32))
    assert TorchLogits(30)(many) is not None and TorchLogits(30)(torch.zeros(2, 30)).shape == (2, 30)
    for bad, sentence in ((many.softmax(1), "take the softmax out"), (many.sigmoid(), "take the sigmoid out"), (many[:, :29], "gives 29 numbers"), ((many,), "gives a tuple")):
        with pytest.raises(ValueError, match=sentence): TorchLogits(30)(bad)
    few = torch.tensor([[0.2, 0.9, 0.7]])  # three small logits may well be positive
    assert torch.equal(TorchLogits(3)(few), few)


def test_heads_of_both_frameworks():
    torch, keras = pytest.importorskip("torch"), pytest.importorskip("keras")
    from hierlearn import coarse_keras, coarse_torch
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 1, bias=False), torch.nn.Flatten(), torch.nn.Linear(5, 9))
    assert [(name, outputs) for name, _, outputs in coarse_torch.find_heads(net)] == [("1", 5), ("3", 9)]
    kernel, bias = coarse_torch.head_weights(net[1])
    assert kernel.shape == (4, 5) and bias is None and np.allclose(kernel.T, net[1].weight.detach().reshape(5, 4))
    model = keras.Sequential([keras.Input((2, 2, 4)), keras.layers.Conv2D(5, 1, name="a"), keras.layers.Flatten(), keras.layers.Dense(9, name="b")])
    assert [(name, outputs) for name, _, outputs in coarse_keras.find_heads(model)] == [("a", 5), ("b", 9)]
    assert [part.shape for part in coarse_keras.head_weights(model.get_layer("a"))] == [(4, 5), (5,)]
    built = coarse_torch.build_classifier(torch.nn.Linear(4, 9), "", GROUPS, 9, 1.0, True)
    assert built(torch.zeros(2, 4)).shape == (2, 3) and not built.training
    inputs = keras.Input((4,))
    fine = keras.Model(inputs, keras.layers.Dense(9, name="c")(inputs))
    assert coarse_keras.build_classifier(fine, "c", GROUPS, 9, 1.0, True).output_shape == (None, 3)
