"A backbone that is frozen stays so; features, their cache and views; odd pictures; fastai's order and rates."
import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hierlearn.hier_features import (
    Features, Still, blocks, check_features, extract_features, freeze, is_frozen, ordered_like, predict,
    random_view, splitter, state_digest, unfreeze)
from hierlearn.hier_resnet import HierNet
from hierlearn.models import load_resnet18, picture_batch
from hierlearn.taxonomy import Taxonomy

TREE = Taxonomy.from_dict({"cat": ["siamese", "sphynx"], "dog": ["beagle", "pug"]})


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.5), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


def noise(count=1, size=(40, 30), seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for _ in range(count)]


def one_step(model, optimizer):
    model.train()
    optimizer.zero_grad()
    nn.functional.nll_loss(model(torch.randn(8, 3, 32, 32)), torch.arange(8) % 4).backward()
    optimizer.step()


# frozen

def test_a_frozen_backbone_does_not_move_and_the_head_learns():
    torch.manual_seed(0)
    model = HierNet(freeze(load_resnet18(weights=None)), TREE)
    before, head = state_digest(model.backbone), state_digest(model.head)
    assert is_frozen(model.backbone) and not is_frozen(model)
    for _ in range(2): one_step(model, torch.optim.Adam(model.parameters(), 1e-2))
    assert state_digest(model.backbone) == before and state_digest(model.head) != head
    assert model.training and model.head.training and not model.backbone.bn1.training
    unfreeze(model.backbone)
    one_step(model, torch.optim.Adam(model.parameters(), 1e-2))
    assert state_digest(model.backbone) != before and not is_frozen(model.backbone)


def test_gradients_alone_are_not_enough():
    "What the source does: weights stand still, statistics move."
    model = HierNet(small(), TREE)
    model.backbone.requires_grad_(False)
    before, weights = state_digest(model.backbone), model.backbone[0].weight.clone()
    one_step(model, torch.optim.Adam(model.parameters(), 1e-2))
    assert torch.equal(model.backbone[0].weight, weights) and state_digest(model.backbone) != before


def test_frozen_survives_copies_and_pickles():
    network = freeze(small())
    assert isinstance(network.train, Still) and network.train() is network and network.eval() is network
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other.train()
        assert is_frozen(other) and not any(part.training for part in other.modules())
        assert other[1].train.module is other[1]  # its own, not the first one's
    assert unfreeze(network).train()[1].training and all(p.requires_grad for p in network.parameters())


def test_last_blocks_stay_free():
    network = load_resnet18(weights=None)
    names = [name for name, _ in blocks(network)]
    assert names == ["conv1", "bn1", *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "fc"]
    freeze(network, last=2)
    network.train()
    parts = dict(blocks(network))
    assert [name for name in names if any(p.requires_grad for p in parts[name].parameters())] == ["layer4.1", "fc"]
    assert parts["layer4.1"].bn1.training and not parts["layer4.0"].bn1.training and not is_frozen(network)
    freeze(network)
    assert is_frozen(network)
    with pytest.raises(ValueError, match="last must be an integer in 0..11"): freeze(network, last=12)


# features

def model_of(seed=0):
    backbone = HierNet(small(seed), TREE).backbone
    return freeze(backbone)


def test_features_are_what_the_backbone_says():
    pictures = noise(5)
    backbone = model_of()
    backbone_free = unfreeze(copy.deepcopy(backbone)).train()
    found = extract_features(backbone, pictures, batch_size=2, image_size=24)
    assert isinstance(found, Features) and found.values.shape == (5, 6) and found.values.dtype == np.float32
    assert found.kept.tolist() == [0, 1, 2, 3, 4] and found.skipped == ()
    with torch.no_grad(): wanted = backbone(torch.from_numpy(picture_batch(pictures, image_size=24)))
    assert np.allclose(found.values, wanted, atol=1e-6)
    # in evaluation mode whatever the mode is, which is put back
    assert np.allclose(extract_features(backbone_free, pictures, image_size=24).values, wanted, atol=1e-6)
    assert backbone_free.training
    assert np.allclose(extract_features(HierNet(backbone, TREE, num_features=6), pictures, image_size=24).values, wanted, atol=1e-6)


def test_views_are_seeded_by_position():
    pictures, backbone = noise(5), model_of()
    found = extract_features(backbone, pictures, 2, views=3, image_size=24)
    assert found.values.shape == (5, 4, 6)
    assert np.allclose(found.values[:, 0], extract_features(backbone, pictures, image_size=24).values, atol=1e-6)
    again = extract_features(backbone, pictures, 5, views=3, image_size=24).values
    assert np.allclose(found.values, again, atol=1e-6)
    other = extract_features(backbone, pictures, 5, views=3, image_size=24, seed=1).values
    assert np.abs(other - again)[:, 1:].max() > 1e-3 and np.allclose(other[:, 0], again[:, 0], atol=1e-6)
    fewer = extract_features(backbone, pictures[:3], 5, views=1, image_size=24).values
    assert np.allclose(fewer, again[:3, :2], atol=1e-6)


def test_a_view_is_a_square_of_the_picture():
    ramp = Image.fromarray(np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 40, 0).repeat(3, 2) * 4)
    rng, slopes = np.random.default_rng(0), []
    for _ in range(40):
        view = random_view(ramp, rng)
        assert view.width == view.height and 24 <= view.width <= 40
        row = np.asarray(view)[0, :, 0].astype(int)
        slopes.append(np.sign(row[-1] - row[0]))
    assert 8 < slopes.count(1) < 32 and set(slopes) == {1, -1}


def test_the_cache_knows_what_features_depend_on(tmp_path, monkeypatch):
    cache, backbone = tmp_path / "cache", model_of()
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, image in zip(files, noise(3)): image.save(file)
    def get(backbone=backbone, files=files, **options):
        return extract_features(backbone, files, cache=cache, image_size=24, **options).values
    first = get()
    assert len(list(cache.iterdir())) == 1
    [path] = cache.iterdir()
    stamp = path.stat().st_mtime_ns
    assert (get() == first).all() and path.stat().st_mtime_ns == stamp  # read, not made again
    noise(1, seed=9)[0].save(files[1])
    changed = get()
    assert np.abs(changed - first)[1].max() > 1e-4 and (changed[[0, 2]] == first[[0, 2]]).all()
    assert np.abs(get(model_of(1)) - changed).max() > 1e-3
    assert get(views=1).shape == (3, 2, 6)
    assert len(list(cache.iterdir())) == 4
    for file in cache.iterdir(): file.write_bytes(file.read_bytes()[:100])
    assert (get() == changed).all()  # a damaged file is made again
    with pytest.raises(ValueError, match=r"cache= keeps features of a frozen backbone: freeze\(backbone\) first"):
        get(unfreeze(copy.deepcopy(backbone)))


# odd pictures

def test_odd_pictures_are_read_right(tmp_path):
    "Grey, CMYK, 16 bits and a rotated one give what the plain picture gives."
    backbone = model_of()
    plain = Image.fromarray(np.repeat(np.linspace(0, 255, 48 * 48).reshape(48, 48, 1), 3, 2).astype(np.uint8))
    def get(picture): return extract_features(backbone, [picture], image_size=24).values[0]
    wanted = get(plain)
    plain.convert("L").save(tmp_path / "grey.png")
    Image.fromarray(np.asarray(plain)[..., 0].astype(np.uint16) * 257).save(tmp_path / "16bit.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees to be upright
    plain.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "rotated.png", exif=exif)
    plain.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("grey.png", "16bit.png", "rotated.png", "cmyk.tif"):
        assert np.allclose(get(tmp_path / name), wanted, atol=.01), name
    assert np.abs(get(plain.transpose(Image.Transpose.ROTATE_90)) - wanted).max() > .015
    assert np.allclose(get(np.asarray(plain)), wanted) and np.allclose(get(np.asarray(plain)[..., 0]), wanted)


def test_unreadable_pictures_are_named_and_refused_or_skipped(tmp_path):
    backbone, cache = model_of(), tmp_path / "cache"
    good = tmp_path / "good.png"
    noise()[0].save(good)
    broken, missing, huge = tmp_path / "broken.jpg", tmp_path / "missing.png", tmp_path / "huge.png"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    Image.new("1", (9000, 8000)).save(huge)
    for path, message in ((broken, "broken.jpg cannot be read"), (huge, "over 67,108,864 pixels"), (missing, "no picture .*missing.png")):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            extract_features(backbone, [good, path], image_size=24)
        assert "\n" not in str(caught.value)
    files = [broken, good, missing, good]
    for _ in range(2):  # the second time from the cache
        if not cache.exists():
            with pytest.warns(UserWarning, match="2 of 4 pictures are skipped: .*broken.jpg"):
                found = extract_features(backbone, files, image_size=24, errors="skip", cache=cache, views=1)
        else: found = extract_features(backbone, files, image_size=24, errors="skip", cache=cache, views=1)
        assert found.kept.tolist() == [1, 3] and found.values.shape == (2, 2, 6)
        assert [place for place, _ in found.skipped] == [0, 2] and "broken.jpg" in found.skipped[0][1]
    with pytest.raises(ValueError, match="none of 1 pictures can be read: .*broken.jpg"):
        extract_features(backbone, [broken], errors="skip")


@pytest.mark.parametrize("options, message", [
    (dict(batch_size=0), "batch_size must be an integer of at least 1"),
    (dict(views=-1), "views must be an integer of at least 0"),
    (dict(errors="ignore"), "errors must be one of refuse, skip"),
    (dict(network="vgg"), "network must be one of"),
    (dict(image_size=2.5), "image_size must be an integer"),
    (dict(pictures=[]), "there is no picture"),
    (dict(backbone=None), "features need a network, got None"),
    (dict(backbone=nn.Conv2d(3, 4, 3)), r"the backbone gives \(1, 4, 22, 22\), not \(N, D\)")])
def test_wrong_arguments(options, message):
    right = dict(backbone=model_of(), pictures=noise(), image_size=24)
    with pytest.raises(ValueError, match=message): extract_features(**right | options)


def test_a_diverged_backbone_is_noticed():
    backbone = model_of()
    backbone[0].weight.data[:] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"): extract_features(backbone, noise(), image_size=24)


# predictions

def test_predict_pictures_and_features():
    model = HierNet(model_of(), TREE, num_features=6)
    pictures = noise(3)
    probs = predict(model, pictures, image_size=24)
    features = extract_features(model, pictures, image_size=24).values
    assert probs.shape == (3, 4) and probs.dtype == np.float32 and np.allclose(probs.sum(1), 1)
    assert np.allclose(predict(model, features), probs, atol=1e-6) and model.training
    assert np.allclose(predict(model, pictures[0], image_size=24), probs[:1], atol=1e-6)
    assert np.allclose(predict(model, np.stack(pictures), image_size=24), probs, atol=1e-6)


@pytest.mark.parametrize("bad, message", [
    (np.zeros((2, 5), "f"), r"must have shape \(N, 6\)"), (np.zeros((0, 6), "f"), "hold no row"),
    (np.array([[0, 0, 0, 0, 0, np.inf]]), "NaN or infinity in row 0"), (np.zeros((1, 6), str), r"must have shape")])
def test_features_are_checked(bad, message):
    with pytest.raises(ValueError, match=message): check_features(bad, 6)
    assert check_features(np.zeros(6), 6).shape == (1, 6)


# fastai

def test_a_vocabulary_orders_the_leaves():
    names = sorted(TREE.leaves)
    tree = ordered_like(TREE, names)
    assert tree.leaves == tuple(names) != TREE.leaves and tree.parents("beagle") == ("dog",)
    assert ordered_like(TREE, TREE.leaves) is TREE
    for bad in (names[:3], [*names, "manx"], ["manx", *names[1:]]):
        with pytest.raises(ValueError, match="the vocabulary and the taxonomy's leaves are not the same"): ordered_like(TREE, bad)


def test_groups_for_rates_hold_what_is_learned():
    model = HierNet(freeze(load_resnet18(weights=None), last=2), TREE)
    trunk, head = splitter(model)
    assert {id(p) for p in head} == {id(p) for p in model.head.parameters()}
    assert {id(p) for p in trunk} == {id(p) for p in model.backbone.layer4[1].parameters()}
    freeze(model.backbone)
    assert len(splitter(model)) == 1 and len(splitter(HierNet(None, TREE, num_features=4))) == 1


def test_fastai_trains_the_last_block_and_the_head(tmp_path):
    "DataBlock on picture files, vocabulary in order, two rates; what is frozen does not move."
    vision = pytest.importorskip("fastai.vision.all")
    for i, name in enumerate(TREE.leaves):
        (tmp_path / name).mkdir()
        for j, image in enumerate(noise(6, (32, 32), seed=i)): image.save(tmp_path / name / f"{j}.png")
    block = vision.DataBlock(
        blocks=(vision.ImageBlock, vision.CategoryBlock), get_items=vision.get_image_files, get_y=vision.parent_label,
        splitter=vision.RandomSplitter(.25, seed=0))
    dls = block.dataloaders(tmp_path, bs=6, num_workers=0)
    tree = ordered_like(TREE, dls.vocab)
    torch.manual_seed(0)
    model = HierNet(freeze(load_resnet18(weights=None), last=2), tree)
    part = dict(blocks(model.backbone))
    before = {name: state_digest(block) for name, block in part.items()}
    learner = vision.Learner(dls, model, loss_func=nn.NLLLoss(), splitter=splitter, train_bn=False, path=tmp_path)
    with learner.no_bar(), learner.no_logging(): learner.fit_one_cycle(1, slice(1e-4, 1e-2))
    assert [h["lr"] for h in learner.opt.hypers][0] < learner.opt.hypers[1]["lr"]
    moved = [name for name, block in part.items() if state_digest(block) != before[name]]
    assert moved == ["layer4.1"]
