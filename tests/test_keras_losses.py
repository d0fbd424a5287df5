"The Keras twins: equal to the PyTorch losses to a millionth, in a compiled step too, and what wrong input does there."
import numpy as np
import pytest
from hierarchies import SIX

from hierlearn.basics import import_torch

keras = pytest.importorskip("keras")
torch = import_torch()

from hierlearn import keras_losses, losses  # noqa: E402
from hierlearn.keras_losses import (  # noqa: E402
    HXE, Conditional, CrossEntropy, ExpectedCost, HierarchicalLoss, MultiLevel, PathLoss, SiblingSmoothing, SoftLabels, level_features)
from hierlearn.taxonomy import Taxonomy  # noqa: E402

DIAMOND = Taxonomy.from_edges([("top", "pet"), ("top", "canine"), ("pet", "dog"), ("pet", "cat"), ("canine", "dog"), ("canine", "wolf")],
                              leaves=["dog", "cat", "wolf"])
TREES = {"six": SIX, "pets": Taxonomy.pets(), "diamond": DIAMOND}
SETTINGS = {CrossEntropy: {}, SiblingSmoothing: {"mu": 0.3}, SoftLabels: {"beta": 6.0}, ExpectedCost: {}, HXE: {"alpha": 0.4},
            MultiLevel: {"levels": [1]}, Conditional: {}}
every = pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)


def pair(kind, tree, **more):
    "The loss and its twin for PyTorch, and logits and labels."
    flat = tree.height(tree.root) == 1
    settings = {} if kind is MultiLevel and flat else SETTINGS[kind]
    other = getattr(losses, kind.__name__)(tree, **settings)
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (9, other.num_outputs)).astype("float32")
    return kind(tree, **settings, **more), other, z, rng.integers(0, len(tree), 9)


@every
@pytest.mark.parametrize("tree", TREES)
def test_equals_its_twin(kind, tree):
    loss, other, z, y = pair(kind, TREES[tree])
    expected = other(torch.tensor(z), torch.tensor(y)).item()
    for labels in (y, y[:, None], y.astype("float32"), y.astype("int32")): assert float(loss(labels, z)) == pytest.approx(expected, rel=1e-6)
    rows, _, _, _ = pair(kind, TREES[tree], reduction=None)
    other.reduction = "none"
    assert np.allclose(np.asarray(rows(y, z)), other(torch.tensor(z), torch.tensor(y)).numpy(), rtol=1e-6, atol=1e-6)


@every
def test_gradients_equal_those_of_its_twin(kind):
    loss, other, z, y = pair(kind, SIX)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf
        weights = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = loss(y, weights)
        found = tf.convert_to_tensor(tape.gradient(value, weights)).numpy()
    else: pytest.skip("the gradient of TensorFlow's backend")
    x = torch.tensor(z, requires_grad=True)
    other(x, torch.tensor(y)).backward()
    assert np.allclose(found, x.grad.numpy(), atol=1e-6)


@every
def test_a_compiled_step_trains_saves_and_loads(kind, tmp_path):
    loss, _, z, y = pair(kind, SIX)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(loss.num_outputs)])
    model.compile(keras.optimizers.SGD(0.1), loss)
    x = np.random.default_rng(1).normal(size=(9, 4)).astype("float32")
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))
    assert again.loss.taxonomy == SIX
    assert np.isnan(model.fit(x, np.where(y == y[0], 9, y), verbose=0).history["loss"][0])  # a wrong label shows


@every
def test_bad_input(kind):
    loss, _, z, y = pair(kind, SIX)
    v, nan, inf = loss.num_outputs, z.copy(), z.copy()
    nan[2, -1], inf[1, 0] = np.nan, np.inf
    for labels, logits, says in ((y, z[:, 1:], rf"shape \(N, {v}\)"), (y[:3], z, "9 rows of logits, 3 labels"), (y, nan, "row 2"), (y, inf, "row 1"),
                                 (y + 6, z, r"0\.\.5"), (y - 9, z, r"0\.\.5"), (y + 0.5, z, r"0\.\.5"), (y[:0], z[:0], "N >= 1")):
        with pytest.raises(ValueError, match=says): loss(labels, logits)


def test_far_logits_stay_finite():
    for kind in SETTINGS:
        loss, other, z, _ = pair(kind, SIX)
        z[:6] = 0
        z[:6, 0], z[:6, -1] = 300, -300
        y = np.arange(6)
        assert float(loss(y, z[:6])) == pytest.approx(other(torch.tensor(z[:6]), torch.tensor(y)).item(), rel=1e-6)


@pytest.mark.parametrize("tree", TREES)
def test_leaf_log_probabilities(tree):
    loss, other, z, y = pair(Conditional, TREES[tree])
    assert loss.edges == other.edges
    log_p = np.asarray(loss.log_probs(z))
    assert np.allclose(log_p, other.log_probs(torch.tensor(z)).numpy(), atol=2e-6)
    assert float(CrossEntropy(TREES[tree])(y, log_p)) == pytest.approx(float(loss(y, z)), rel=1e-5)


def test_configurations_are_plain():
    cost = np.arange(36.0).reshape(6, 6)
    for loss in (ExpectedCost(SIX, cost), MultiLevel(SIX, [1], [0.2, 0.8]), SoftLabels(SIX, 3)):
        again = keras.losses.deserialize(keras.losses.serialize(loss))
        z = np.random.default_rng(0).normal(size=(6, 6))
        assert float(again(np.arange(6), z)) == float(loss(np.arange(6), z))


def test_what_cannot_be_made():
    for make, says in ((lambda: CrossEntropy(Taxonomy.from_dict(["a"])), "single class"), (lambda: CrossEntropy({"a": None}), "must be a Taxonomy"),
                       (lambda: HXE(SIX, -1), "alpha"), (lambda: MultiLevel(SIX, [7]), "level")):
        with pytest.raises(ValueError, match=says): make()


def test_the_same_names_and_a_common_base():
    names = {*keras_losses.__all__} - {"keras"}
    assert names <= {*losses.__all__}
    assert issubclass(HXE, PathLoss) and issubclass(PathLoss, HierarchicalLoss) and issubclass(HierarchicalLoss, keras.losses.Loss)


def test_level_features_stop_the_gradient():
    coarse, fine = np.ones((2, 1), "float32"), np.zeros((2, 3), "float32")
    first, second = level_features([coarse, fine])
    assert np.asarray(first).shape == (2, 4) and np.asarray(second).shape == (2, 3)
    if keras.backend.backend() != "tensorflow": return
    import tensorflow as tf
    x = tf.Variable(fine)
    with tf.GradientTape() as tape: total = tf.reduce_sum(level_features([coarse, x])[0])
    assert tape.gradient(total, x) is None
