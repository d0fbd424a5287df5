"A saved model comes back as it was, classes added later included; what does not fit is refused."
import json
import struct

import numpy as np
import pytest
import torch
from torch import nn

from hierlearn.hier_features import freeze, is_frozen, predict
from hierlearn.hier_files import load_model, save_model
from hierlearn.hier_resnet import HEADS, HierNet, standardise
from hierlearn.new_class import add_class, remember, remove_class
from hierlearn.taxonomy import Taxonomy

TREE = Taxonomy.from_dict({"cat": ["siamese", "sphynx"], "dog": ["pug", "beagle"]})
Y = np.repeat(np.arange(4), 5)
X = (np.random.default_rng(0).normal(size=(4, 6))[Y] + .3 * np.random.default_rng(1).normal(size=(20, 6))).astype(np.float32)


def trunk(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9))


@pytest.mark.parametrize("hidden", [None, 7])
@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_model_comes_back(head, hidden, tmp_path):
    model = standardise(HierNet(None, TREE, head, 6, hidden), X)
    again = load_model(save_model(model, tmp_path / "deep" / "model.safetensors"))
    assert (predict(again, X) == predict(model, X)).all() and not again.training
    assert again.taxonomy == TREE and again.kind == head and again.parents == model.parents
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.safetensors"]


def test_added_classes_come_along_and_go(tmp_path):
    model = remember(HierNet(None, TREE, num_features=6), X, Y)
    bare = predict(model, X)
    add_class(model, "lop", "rabbit", X[:3] + 2, under="root")
    add_class(model, "manx", "cat", X[:2] - 2)
    again = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert again.taxonomy.leaves == (*TREE.leaves, "lop", "manx") and (predict(again, X) == predict(model, X)).all()
    add_class(again, "angora", "rabbit", X[:2] * 2)
    for name in ("lop", "angora", "manx"): remove_class(again, name)
    assert (predict(again, X) == bare).all() and again.taxonomy == TREE


def test_backbones_with_and_without_their_weights(tmp_path):
    model = remember(HierNet(freeze(trunk()), TREE), X, Y)
    x = torch.randn(2, 3, 9, 9)
    with_weights = save_model(model, tmp_path / "a.safetensors")
    without = save_model(model, tmp_path / "b.safetensors", backbone=False)
    assert without.stat().st_size < with_weights.stat().st_size
    model.eval()
    for path, network in ((with_weights, trunk(1)), (without, trunk(0))):
        again = load_model(path, network)
        assert torch.equal(again(x), model(x)) and is_frozen(again.backbone)
    assert load_model(with_weights).backbone is None and (predict(load_model(without), X) == predict(model, X)).all()
    with pytest.raises(ValueError, match="other weights than the one the head was trained on"): load_model(without, trunk(1))
    with pytest.raises(ValueError, match="pass backbone= of the kind that was saved"): load_model(with_weights, nn.Sequential(nn.Flatten(), nn.Linear(243, 9)))
    alone = save_model(HierNet(None, TREE, num_features=6), tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="saved without a backbone"): load_model(alone, trunk())


def rewritten(path, change):
    "The file with another header."
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def test_changed_and_strange_files_are_refused(tmp_path):
    path = save_model(HierNet(None, TREE, num_features=6), tmp_path / "m.safetensors")
    whole = path.read_bytes()
    def swap(about): about["hierlearn"] = about["hierlearn"].replace("siamese", "siamase")
    def forget(about): del about["digest"]
    def flip(): path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    def cut(): path.write_bytes(whole[:-9])
    changes = [(lambda: rewritten(path, swap), "some of it was changed"), (flip, "some of it was changed"),
               (lambda: rewritten(path, forget), "no whole file of save_model"), (cut, "no whole file of save_model"),
               (lambda: path.write_bytes(b"pickle"), "no whole file of save_model")]
    for change, message in changes:
        path.write_bytes(whole)
        change()
        with pytest.raises(ValueError, match=message) as caught: load_model(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="write it with save_model"): load_model(tmp_path / "none.safetensors")


def test_what_cannot_be_saved(tmp_path):
    model = HierNet(None, TREE, num_features=6)
    with pytest.raises(ValueError, match="must end with .safetensors, a format that holds no code"): save_model(model, tmp_path / "m.pth")
    with pytest.raises(ValueError, match="only a HierNet"): save_model(nn.Linear(2, 2), tmp_path / "m.safetensors")
    model.head.node.weight.data[0, 0] = np.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"): save_model(model, tmp_path / "m.safetensors")
    assert not [*tmp_path.iterdir()]
