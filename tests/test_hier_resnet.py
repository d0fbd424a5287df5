"HierNet and its heads: log-probabilities, wiring, backbones, contradictions, both levels trained."
import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hierlearn.batches import Batches
from hierlearn.hier_resnet import (
    FAR, HEADS, FactorisedHead, FlatHead, HierNet, TwoBranchHead, WithParents, as_backbone, contradictions,
    families_and_paths, layers, sibling_log_softmax, standardise, two_level_loss)
from hierlearn.losses import Conditional
from hierlearn.models import load_resnet18
from hierlearn.taxonomy import Taxonomy
from hierlearn.torch_training import fit

PETS = Taxonomy.pets()
DEEP = Taxonomy.from_dict({
    "animal": {"cat": ["siamese", "sphynx"], "dog": {"terrier": ["cairn", "norfolk", "irish"], "hound": ["beagle"]}},
    "boat": None})  # four levels on one side, one on the other; a family of one
HIER = sorted(HEADS)


def net(head="factorised", tree=DEEP, features=12, **options):
    torch.manual_seed(0)
    return HierNet(None, tree, head, num_features=features, **options)


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("tree", [PETS, DEEP], ids=["pets", "deep"])
@pytest.mark.parametrize("head", HIER)
def test_every_head_gives_log_probabilities(head, tree, hidden):
    model, x = net(head, tree, hidden=hidden), torch.randn(7, 12)
    leaf, parent = model.both(x)
    assert leaf.shape == (7, len(tree)) and parent.shape == (7, len(tree.cut(1)))
    assert model.parents == tuple(tree.cut(1))
    assert torch.equal(model(x), leaf)
    for part in (leaf, parent): assert torch.allclose(part.exp().sum(1), torch.ones(7), atol=1e-5)
    assert torch.allclose(model.summed(leaf).exp().sum(1), torch.ones(7), atol=1e-5)
    leaf.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters())


@pytest.mark.parametrize("head", ["flat", "factorised"])
def test_these_heads_cannot_contradict_themselves(head):
    model, x = net(head, PETS), 20 * torch.randn(500, 12)
    leaf, parent = model.both(x)
    assert torch.allclose(model.summed(leaf), parent)
    assert not contradictions(model, x).any()


@pytest.mark.parametrize("head", ["source", "mlp"])
def test_two_branches_contradict_each_other(head):
    model, x = net(head, PETS), 20 * torch.randn(500, 12)
    found = contradictions(model, x)
    leaf, parent = model.both(x)
    by_hand = [[leaf[i].exp()[PETS.leaf_indices(g)].sum().item() for g in ("cat", "dog")] for i in range(500)]
    assert found.shape == (500,) and found.dtype == bool and 50 < found.sum() < 450
    assert (found == (np.argmax(by_hand, 1) != parent.argmax(1).numpy())).all()
    model.train()
    contradictions(model, x)
    assert model.training


def test_the_factorised_head_is_the_product_of_its_steps():
    head = FactorisedHead(12, DEEP).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    scores, wanted = head.node(x), torch.zeros(5, len(DEEP), dtype=torch.float64)
    number = {node: i - 1 for i, node in enumerate(DEEP.nodes)}
    for i, leaf in enumerate(DEEP.leaves):
        for node in DEEP.ancestors(leaf, include_self=True)[:-1]:
            siblings = [number[other] for other in DEEP.children(DEEP.parents(node)[0])]
            wanted[:, i] += scores[:, number[node]] - scores[:, siblings].logsumexp(1)
    assert torch.allclose(head(x)[0], wanted, atol=1e-12)


def test_the_factorised_head_agrees_with_the_conditional_loss():
    head, loss = FactorisedHead(12, PETS), Conditional(PETS)
    scores = head.node(torch.randn(6, 12))
    number = {node: i - 1 for i, node in enumerate(PETS.nodes)}
    order = [number[child] for _, child in loss.edges]
    labels = torch.arange(6)
    steps = functional.pad(sibling_log_softmax(scores, head.family), (0, 1))
    leaf = steps[:, head.paths].sum(2)
    assert torch.allclose(functional.nll_loss(leaf, labels), loss(scores[:, order], labels), atol=1e-6)


def test_siblings_share_one_and_do_not_overflow():
    family = torch.tensor([0, 0, 3, 3, 3, 2])
    scores = torch.tensor([[1000., 999, -1e4, -1e4, -1e4, 7]], requires_grad=True)
    steps = sibling_log_softmax(scores, family)
    assert torch.allclose(steps[0, :2].exp().sum(), torch.tensor(1.)) and steps[0, 5] == 0
    assert torch.allclose(steps[0, 2:5], torch.tensor(3.).log().neg().expand(3))
    assert torch.autograd.gradcheck(lambda z: sibling_log_softmax(z, family), torch.randn(2, 6, dtype=torch.float64, requires_grad=True))


def test_families_and_paths_by_hand():
    tree = Taxonomy.from_dict({"pet": ["cat", "dog"], "boat": None})
    family, paths = families_and_paths(tree)
    assert tree.nodes == ("root", "pet", "cat", "dog", "boat")
    assert family.tolist() == [0, 1, 1, 0]
    assert paths.tolist() == [[1, 0], [2, 0], [3, 4]]  # 4: the root, certain


def test_the_factorised_head_wants_a_tree():
    graph = Taxonomy.from_edges([("pet", "cat"), ("hunter", "cat"), ("pet", "dog"), ("hunter", "hawk")])
    with pytest.raises(ValueError, match="'cat' has several parents; a factorised head needs a tree"): net(tree=graph)
    inner = Taxonomy.from_edges([("dog", "terrier"), ("pet", "dog"), ("pet", "cat")], leaves=["terrier", "dog", "cat"])
    with pytest.raises(ValueError, match="class 'dog' has classes below it"): net(tree=inner)


def test_layers_and_flat_head():
    assert isinstance(layers(4, None, 3), nn.Linear)
    assert [type(part) for part in layers(4, 5, 3)] == [nn.Linear, nn.ReLU, nn.Linear]
    leaf, parent = FlatHead(4, PETS)(torch.zeros(2, 4))
    assert leaf.shape == (2, 37) and parent is None


def test_the_sources_head_is_one_affine_map():
    "Equal to W x + b, whose rank the child's branch and two parents bound; the MLP is not."
    torch.manual_seed(1)
    for bend in (False, True):
        head = TwoBranchHead(40, PETS, hidden=8, bend=bend).double()
        def logits(x, head=head):
            both = torch.cat([head.child(x), head.parent_wide(head.parent(x))], 1)
            return head.leaf(head.bend(both))
        start = logits(torch.zeros(1, 40, dtype=torch.float64))
        kernel = logits(torch.eye(40, dtype=torch.float64)) - start
        x = torch.randn(9, 40, dtype=torch.float64)
        assert torch.allclose(logits(x), x @ kernel + start, atol=1e-10) == (not bend)
        if not bend: assert torch.linalg.matrix_rank(kernel) == 8 + 2
        assert torch.allclose(head(x)[0], logits(x).log_softmax(1))


def test_backbones_lose_their_last_layer_and_nothing_else():
    network = load_resnet18(weights=None)
    before = copy.deepcopy(network.state_dict())
    backbone, width = as_backbone(network)
    assert width == 512 and isinstance(backbone.fc, nn.Identity) and isinstance(network.fc, nn.Linear)
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(network.fc(backbone(x)), network(x), atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    model = HierNet(network, PETS, "flat")
    assert model(x).shape == (2, 37) and torch.allclose(model.features(x), backbone(x), atol=1e-5)
    # features pass by the backbone
    assert torch.allclose(model(backbone(x)), model(x), atol=1e-5)


def test_other_backbones():
    bare = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert as_backbone(bare, 6)[1] == 6 and HierNet(bare, PETS, num_features=6)(torch.randn(2, 3, 9, 9)).shape == (2, 37)
    with pytest.raises(ValueError, match="does not end with a linear layer"): as_backbone(bare)
    bare.num_features = 6  # as timm's networks have it
    assert as_backbone(bare)[1] == 6
    with pytest.raises(ValueError, match="backbone=None needs num_features="): HierNet(None, PETS)
    with pytest.raises(ValueError, match="a linear layer alone is no backbone"): as_backbone(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="num_features must be an integer of at least 1"): as_backbone(bare, 0)


@pytest.mark.parametrize("options, message", [
    (dict(head="mpl"), r"head must be one of flat, source, mlp, factorised, got 'mpl' \(near: mlp"),
    (dict(hidden=0), "hidden must be an integer of at least 1")])
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message): net(**options)


def test_standardise_is_one_affine_map_more():
    features = np.random.default_rng(0).normal(5, 3, (200, 12))
    model = net("flat")
    plain = copy.deepcopy(model)
    assert standardise(model, features) is model
    x = torch.from_numpy(features).float()
    seen = (x - model.shift) / model.scale
    assert seen.mean(0).abs().max() < 1e-5 and abs(seen.square().mean() - 1) < 1e-5
    assert torch.allclose(model(x), plain(seen), atol=1e-5)
    for bad, message in ((features[:, :3], "must have shape"), (features * np.nan, "NaN or infinity")):
        with pytest.raises(ValueError, match=message): standardise(model, bad)
    assert torch.allclose(model(x), plain(seen), atol=1e-5)  # unchanged by the failures


def data(tree=PETS, each=12, features=12):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(tree)), each)
    means = rng.normal(size=(len(tree), features)) * 2
    return (means[labels] + rng.normal(size=(len(labels), features))).astype(np.float32), labels


@pytest.mark.parametrize("head", HIER)
def test_heads_learn_with_the_engine(head):
    x, y = data()
    model = net(head, PETS)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    curves = fit(model, Batches(x, y, 37), (x, y), 8, optimizer, progress=False)
    assert curves["val_accuracy"][-1] > .8 and curves["loss"][-1] < curves["loss"][0] / 2


@pytest.mark.parametrize("head", ["source", "mlp"])
def test_both_levels_learn_together(head):
    x, y = data()
    model, loss = net(head, PETS), two_level_loss(PETS)
    both = WithParents(model)
    outputs = both(torch.from_numpy(x))
    leaf, parent = model.both(torch.from_numpy(x))
    assert torch.allclose(outputs, torch.cat([leaf, parent - FAR], 1))
    assert (outputs.argmax(1) < 37).all()  # so accuracy is that of the leaves
    labels = torch.from_numpy(y)
    above = torch.from_numpy(PETS.fine_to_coarse(1))[labels]
    by_hand = functional.nll_loss(leaf, labels) + functional.nll_loss(parent, above)
    assert torch.allclose(loss(outputs, labels), by_hand, atol=1e-5)
    assert torch.allclose(two_level_loss(PETS, 0)(outputs, labels), functional.nll_loss(leaf, labels), atol=1e-6)
    optimizer = torch.optim.Adam(both.parameters(), 1e-2)
    curves = fit(both, Batches(x, y, 37), (x, y), 8, optimizer, loss=loss, progress=False)
    assert curves["val_accuracy"][-1] > .6
    right = (model.both(torch.from_numpy(x))[1].argmax(1) == above).float().mean()
    assert right > .72  # 25 of 37 classes have one parent: .68 says nothing
    with pytest.raises(ValueError, match="weight must be a number of at least 0"): two_level_loss(PETS, -1)


def test_a_model_is_copied_and_pickled():
    model, x = net("mlp", PETS), torch.randn(3, 12)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x)) and other.taxonomy == PETS
