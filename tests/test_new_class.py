"A class more: rows, calibration, add and remove, what is refused, and that a refusal changes nothing."
import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hierlearn.hier_features import freeze, predict
from hierlearn.hier_resnet import HEADS, HierNet, contradictions
from hierlearn.new_class import (
    COUNTS, NewClasses, add_class, calibrate, class_rows, extended, finetune, imprint, leave_out, remember,
    remove_class, unit)
from hierlearn.taxonomy import Taxonomy

TREE = Taxonomy.from_dict({"cat": ["siamese", "sphynx", "bengal"], "dog": {"terrier": ["cairn", "norfolk"], "hound": ["beagle", "basset"]}})
D, L = 24, len(TREE)


def draw(count, seed=1, spread=.8):
    "Pictures of classes 0..L-1 and of three more, as features."
    means = np.random.default_rng(0).normal(size=(L + 3, D)) + 3
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(L + 3), count)
    return (means[labels] + spread * rng.normal(size=(len(labels), D))).astype(np.float32), labels


X, Y = draw(30)
KNOWN = Y < L
TEST_X, TEST_Y = draw(40, seed=2)


def new(label, k=5): return X[Y == label][:k]


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = HierNet(None, TREE, num_features=D)
    optimizer = torch.optim.Adam(model.parameters(), .03)
    x, y = torch.from_numpy(X[KNOWN]), torch.from_numpy(Y[KNOWN])
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.nll_loss(model(x), y).backward()
        optimizer.step()
    return remember(model, X[KNOWN], Y[KNOWN])


@pytest.fixture
def model(trained): return copy.deepcopy(trained)


def same(a, b):
    "Is everything equal: taxonomy, weights, answers?"
    states = a.state_dict(), b.state_dict()
    return (a.taxonomy == b.taxonomy and a.taxonomy.digest == b.taxonomy.digest and a.parents == b.parents
            and states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())
            and torch.equal(a.groups, b.groups) and (predict(a, TEST_X) == predict(b, TEST_X)).all())


# arithmetic

def test_directions_and_rows_by_hand():
    units = unit(np.array([[4., 4], [1, 5]]), np.array([1., 0]))
    assert np.allclose(units, [[.6, .8], [0, 1]])
    row = imprint(units)
    assert np.allclose(row, np.array([.6, 1.8]) / np.hypot(.6, 1.8)) and np.isclose(np.linalg.norm(row), 1)
    assert np.allclose(unit(np.ones((1, 2)), np.ones(2)), 0)  # at the centre there is no direction
    labels = np.array([1, 1])
    with pytest.raises(ValueError, match="class 0 has no picture"): class_rows(units, labels, 2)
    assert np.allclose(class_rows(units, np.array([0, 0]), 1), row[None])


def units_of_known(): return unit(X[KNOWN], X[KNOWN].mean(0)), Y[KNOWN]


def test_leave_out_against_loops():
    units, labels = units_of_known()
    units, labels = units[::5], labels[::5]  # 6 a class
    new_lack, old_lack = leave_out(units, labels, 2, draws=2, seed=3)
    assert new_lack.shape == (L * 2 * 4,) and old_lack.shape == (L * 2 * 6 * (L - 1),)
    rng, found = np.random.default_rng(3), []
    for c in range(L):
        members = np.flatnonzero(labels == c)
        for _ in range(2):
            chosen = rng.choice(members, 2, replace=False)
            row = units[chosen].mean(0) / np.linalg.norm(units[chosen].mean(0))
            for i in members:
                if i in chosen: continue
                # rows of the other classes, none of which holds the picture itself
                best = max(units[i] @ imprint(units[labels == other]) for other in range(L) if other != c)
                found.append(best - units[i] @ row)
    assert np.allclose(new_lack, found, atol=1e-6)


def test_the_constant_keeps_its_price():
    units, labels = units_of_known()
    for price in (.005, .02, .1):
        constant = calibrate(units, labels, 3, price)
        taken = (leave_out(units, labels, 3)[1] < constant).mean()
        assert abs(taken - price) < .002
    lacks = [np.median(leave_out(units, labels, k)[0]) for k in (1, 3, 10)]
    assert lacks[0] > lacks[1] > lacks[2]  # the fewer the pictures, the more the row lacks


def test_finetune_moves_towards_a_lower_loss():
    rng = np.random.default_rng(0)
    known, units = unit(rng.normal(size=(4, 8)), 0), unit(rng.normal(size=(3, 8)) + 2 * np.eye(8)[0], 0)
    others = unit(rng.normal(size=(40, 8)), 0)
    def loss(row):
        def z(u): return 20 * (u @ row + .05 - (u @ known.T).max(1))
        return np.logaddexp(0, -z(units)).mean() + np.logaddexp(0, z(others)).mean()
    row = imprint(units)
    tuned = finetune(row, .05, units, others, known)
    assert np.isclose(np.linalg.norm(tuned), 1) and loss(tuned) < loss(row)
    assert np.allclose(finetune(row, .05, units, others, known, steps=0), row)


# add and remove

@pytest.mark.parametrize("method", ["imprint", "finetune"])
def test_a_new_class_is_known_and_the_old_stay(model, method):
    old = TEST_Y < L
    before = (predict(model, TEST_X).argmax(1) == TEST_Y)[old].mean()
    assert add_class(model, "manx", "cat", new(L), method) is model
    probs = predict(model, TEST_X)
    assert probs.shape == (len(TEST_X), L + 1) and np.allclose(probs.sum(1), 1, atol=1e-5)
    assert model.taxonomy.leaves == (*TREE.leaves, "manx") and model.taxonomy.parents("manx") == ("cat",)
    best = probs.argmax(1)
    assert (best[TEST_Y == L] == L).mean() > .85 and before > .9
    assert (best == TEST_Y)[old].mean() > before - .02


def test_the_old_classes_keep_their_proportions(model):
    before = predict(model, TEST_X)
    add_class(model, "manx", "cat", new(L))
    after = predict(model, TEST_X)
    assert np.allclose(after[:, :-1], before * (1 - after[:, -1:]), atol=1e-5)


def test_two_classes_one_after_another(model):
    add_class(model, "manx", "cat", new(L))
    one = copy.deepcopy(model)
    add_class(model, "whippet", "hound", new(L + 1))
    best = predict(model, TEST_X).argmax(1)
    for label in (L, L + 1): assert (best[TEST_Y == label] == label).mean() > .8
    assert model.taxonomy.ancestors("whippet") == ("hound", "dog", "root")
    remove_class(model, "whippet")
    assert same(model, one)


@pytest.mark.parametrize("first", ["manx", "lop"])
def test_removing_restores_exactly(model, trained, first):
    add_class(model, "manx", "cat", new(L))
    add_class(model, "lop", "rabbit", new(L + 1), under="root")
    remove_class(model, first)
    assert len(model.taxonomy) == L + 1 and not same(model, trained)
    remove_class(model, "lop" if first == "manx" else "manx")
    assert same(model, trained)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_new_parent(head):
    torch.manual_seed(0)
    model = remember(HierNet(None, TREE, head, num_features=D), X[KNOWN], Y[KNOWN])
    add_class(model, "lop", "rabbit", new(L), under="root")
    add_class(model, "angora", "rabbit", new(L + 1))
    assert model.parents == ("cat", "dog", "rabbit") and model.taxonomy.children("rabbit") == ("lop", "angora")
    leaf, parent = model.both(torch.from_numpy(TEST_X))
    assert parent.shape == (len(TEST_X), 3) and torch.allclose(parent.exp().sum(1), torch.ones(len(TEST_X)), atol=1e-5)
    if head in ("flat", "factorised"): assert not contradictions(model, torch.from_numpy(TEST_X)).any()
    # who made the parent goes first; the parent stays as long as it has a class
    remove_class(model, "lop")
    assert model.taxonomy.children("rabbit") == ("angora",)
    remove_class(model, "angora")
    assert model.taxonomy == TREE and model.parents == ("cat", "dog")


def test_as_many_pictures_as_asked(model):
    other = copy.deepcopy(model)
    add_class(model, "manx", "cat", new(L, 9), k=4)
    add_class(other, "manx", "cat", new(L, 4))
    assert same(model, other)


def test_one_picture_is_enough_to_imprint(model):
    add_class(model, "manx", "cat", new(L, 1))
    best = predict(model, TEST_X).argmax(1)
    assert (best[TEST_Y == L] == L).mean() > .5
    assert np.isclose(float(model.new_classes.constants[0]), float(model.new_classes.offsets[0]))


BAD = [
    (dict(parent="fish"), r"no group 'fish' in the taxonomy"),
    (dict(parent="hond"), r"\(near: hound\)"),
    (dict(parent=None), "no group None"),
    (dict(parent="beagle"), "'beagle' is a class, not a group; pass one of its parents, 'hound'"),
    (dict(parent="fish", under="pond"), "under='pond' is no group"),
    (dict(parent="fish", under="beagle"), "under='beagle' is no group"),
    (dict(parent="manx", under="root"), "'manx' cannot be its own parent"),
    (dict(name="sphynx"), "'sphynx' is in the taxonomy already"),
    (dict(name="dog"), "'dog' is in the taxonomy already"),
    (dict(name="  "), "a class needs a name"),
    (dict(k=6), "k must be an integer in 1..5, got 6; there are 5 pictures of the new class"),
    (dict(k=0), "k must be an integer in 1..5"),
    (dict(method="magic"), "method must be one of imprint, finetune"),
    (dict(images=new(L, 1), method="finetune"), "finetune needs two pictures or more, got one"),
    (dict(images=[]), "there is no picture of the new class"),
    (dict(images=np.zeros((0, D), np.float32)), "hold no row"),
    (dict(images=np.full((3, D), np.nan, np.float32)), "NaN or infinity in row 0"),
    (dict(images=np.zeros((3, D + 1), np.float32)), rf"must have shape \(N, {D}\)"),
    (dict(images=["missing.jpg"]), "features need a network"),
]


@pytest.mark.parametrize("wrong, message", BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_refusal_changes_nothing(model, trained, wrong, message):
    right = dict(name="manx", parent="cat", images=new(L))
    with pytest.raises(ValueError, match=message) as caught: add_class(model, **right | wrong)
    assert "\n" not in str(caught.value)
    assert same(model, trained)


def test_what_cannot_be_removed(model, trained):
    for name in ("sphynx", "manx", None):
        with pytest.raises(ValueError, match="was not added"): remove_class(model, name)
    assert same(model, trained)
    with pytest.raises(ValueError, match="call remember"): add_class(HierNet(None, TREE, num_features=D), "manx", "cat", new(L))
    with pytest.raises(ValueError, match="added to a HierNet"): add_class(nn.Linear(2, 3), "manx", "cat", new(L))


def test_remember_again_starts_anew(model, trained):
    add_class(model, "manx", "cat", new(L))
    assert same(remember(model, X[KNOWN], Y[KNOWN]), trained)


@pytest.mark.parametrize("x, y, options, message", [
    (X[KNOWN], Y[KNOWN][:-1], {}, "labels must be 210 integers"),
    (X[KNOWN], Y[KNOWN] + 1, {}, "labels must be in 0..6"),
    (X[KNOWN], Y[KNOWN] * 1.0, {}, "labels must be 210 integers"),
    (X[KNOWN][30:], Y[KNOWN][30:], {}, "class 0 has no picture"),
    (X[KNOWN][29:], Y[KNOWN][29:], {}, "a class has one picture"),
    (X[KNOWN] * np.nan, Y[KNOWN], {}, "NaN"),
    (X[KNOWN], Y[KNOWN], dict(price=0), "price must be a number above 0"),
    (X[KNOWN], Y[KNOWN], dict(keep=-1), "keep must be an integer of at least 0")])
def test_remember_refuses(model, trained, x, y, options, message):
    with pytest.raises(ValueError, match=message): remember(model, x, y, **options)
    assert same(model, trained)


def test_without_examples_nothing_is_tuned(trained):
    model = remember(copy.deepcopy(trained), X[KNOWN], Y[KNOWN], keep=0)
    with pytest.raises(ValueError, match="of which none are kept"): add_class(model, "manx", "cat", new(L), "finetune")
    add_class(model, "manx", "cat", new(L))


def test_what_is_kept(trained):
    kept = trained.new_classes
    assert isinstance(kept, NewClasses) and kept.base == TREE and kept.offsets.shape == (len(COUNTS),)
    assert torch.allclose(kept.known.norm(dim=1), torch.ones(L), atol=1e-5) and len(kept.examples) == 10 * L
    assert extended(TREE, [("manx", "cat", None)]).leaves == (*TREE.leaves, "manx")


def test_pictures_instead_of_features(tmp_path):
    "Through the network's own backbone; a broken file is refused, or skipped by choice."
    torch.manual_seed(0)
    backbone = freeze(nn.Sequential(nn.Conv2d(3, D, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(D, 9)))
    model = remember(HierNet(backbone, TREE), X[KNOWN], Y[KNOWN])
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(files[-1])
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"\xff\xd8 no picture")
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="broken.jpg"): add_class(model, "manx", "cat", [*files, bad], image_size=16)
    assert same(model, before)
    with pytest.warns(UserWarning, match="1 of 4 pictures are skipped"):
        add_class(model, "manx", "cat", [*files, bad], image_size=16, errors="skip")
    add_class(before, "manx", "cat", files, image_size=16)
    assert same(model, before)
    assert predict(model, files, image_size=16).shape == (3, L + 1)


@pytest.mark.parametrize("flatter", [1.0, 0.05])
def test_a_new_class_wins_where_its_row_is_ahead_however_sure_the_head_is(model, flatter):
    "What was calibrated is what is decided: a head of flat probabilities gives no more away than a sure one."
    with torch.no_grad():
        for weight in model.head.parameters(): weight.mul_(flatter)
    before = predict(model, TEST_X)
    add_class(model, "new", "cat", new(L))
    kept, units = model.new_classes, unit(TEST_X, model.new_classes.centre.numpy())
    ahead = units @ kept.rows.numpy().T + kept.constants.numpy() > (units @ kept.known.numpy().T).max(1, keepdims=True)
    after = predict(model, TEST_X)
    assert ((after.argmax(1) == L) == ahead[:, 0]).all() and 0 < ahead.mean() < 0.5
    others = after[:, :L] / after[:, :L].sum(1, keepdims=True)
    assert np.allclose(others, before, atol=1e-5)  # old classes keep their proportions
