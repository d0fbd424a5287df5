"From a word to classes: senses, neighbours, groups and folders, bad input."
import warnings

import numpy as np
import pytest
from coarse_nets import IMAGENET

from hierlearn.coarse_words import (
    MEMBERS, OVERLAPS, Sense, as_taxonomy, find_hyponyms, find_positions, find_synsets, groups_of_folder,
    nearest_by_path, nearest_by_weights, resolve_synset, select_members)


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
    ("cat", {}, "list of words or a dict"), ([], {}, "no group"), (["cat", "cat"], {}, "twice"), ({"cat": []}, {}, "group 'cat' is empty"), (["cat", "unicorn"], {}, "no class is below"),
    ({"a": 1000}, {}, "0..999"), (["dog", "animal"], {}, "share the classes .* and 113 more"), (["dog", "animal"], {"overlap": "drop"}, "empty once shared"),
    (["cat", "dog"], {"members": "best"}, "one of hyponyms"), (["cat", "dog"], {"overlap": "some"}, "overlap must be"), (["cat", "dog"], {"other": "all"}, "other must be one of None, class"),
    ({"cat": "cat", "other": "dog"}, {"other": "class"}, "a group is called 'other'"), (["cat", "dog"], {"members": "cosine"}, "pass weights="),
    (["cat", "dog"], {"members": "cosine", "weights": np.ones((3, 1000))}, "one start class .* got 7 classes"), (["cat", "dog"], {"members": "cosine", "weights": np.ones((1000, 3))}, "must have shape"),
    (["tabby", "pug"], {"members": "path", "k": 0}, "in 1..1000"), ({"a": ["tabby", "pug"]}, {"members": "path"}, "one start class")])
def test_members_refuse(groups, how, sentence):
    with pytest.raises(ValueError, match=sentence) as found: select_members(groups, **how)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("groups, how, sentence", [
    ({"cat", "dog"}, {}, "no order"), ({1: "tabby", "1": "beagle"}, {}, "named by a word"), ([("cat", "dog"), "boat"], {}, "pass a dict of name"), ([b"cat", "dog"], {}, "pass a dict of name"), ({"a": b"cat"}, {}, "must be a list"),
    ({"a": -1, "b": 2}, {"members": "path"}, "0..999"), ({"a": 5000}, {"members": "path"}, "0..999"), ({"a": True}, {}, "named by a word"), ({None: "cat"}, {}, "named by a word"), ({"": "cat"}, {}, "named by a word"),
    ({"a": None}, {}, "named by a word"), ({"a": 1.0}, {}, "named by a word"), (None, {}, "list of words or a dict"), (5, {}, "list of words or a dict"), (["cat"], {"taxonomy": "imagenet"}, "taxonomy must be"), (["cat"], {"taxonomy": {"cat"}}, "taxonomy must be"),
    (["cat"], {"taxonomy": 5}, "taxonomy must be"), (["cat", "automobile"], {"taxonomy": ["airplane", "cat", "ship"]}, "the classes are airplane, cat, ship"), ({"a": 3}, {"members": "cosine", "weights": np.full((4, 1000), np.nan)}, "NaN")])
def test_groups_that_would_be_misread(groups, how, sentence):
    with pytest.raises(ValueError, match=sentence) as found: select_members(groups, **how)
    assert "\n" not in str(found.value)


def test_overlap():
    both = {"a": [1, 2], "b": [2, 3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="each").items()} == {"a": [1, 2], "b": [2, 3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="first").items()} == {"a": [1, 2], "b": [3]}
    assert {k: v.tolist() for k, v in select_members(both, overlap="drop").items()} == {"a": [1], "b": [3]}


def test_small_print():
    assert select_members([find_synsets("dog")[0], "cat"])["dog.n.01"].size == 118
    assert select_members(["all classes"], ["all classes", "b"])["all classes"].tolist() == [0]
    dropped = select_members(["car", "truck"], overlap="drop", other="class")
    assert len(np.intersect1d(dropped["other"], find_hyponyms("car"))) == 0  # a minivan, both car and truck, is nothing else
    with pytest.warns(UserWarning, match="taken as crane") as said: select_members(["crane", "dog"])
    assert said[0].filename == __file__
    with pytest.raises(ValueError, match="start must be"): nearest_by_weights(np.eye(3), -1)


def test_what_stands_for_a_taxonomy():
    assert as_taxonomy(None) is IMAGENET or as_taxonomy(None).leaves == IMAGENET.leaves
    wnids = [IMAGENET.wnid(IMAGENET.leaves[i]) for i in (285, 281, 151)]  # an order of one's own is kept
    assert as_taxonomy(wnids).leaves == tuple(IMAGENET.leaves[i] for i in (285, 281, 151))
    assert as_taxonomy(["b", "a"]).leaves == ("b", "a")
    assert find_positions("cat", as_taxonomy(wnids)).tolist() == [0, 1] and find_positions(2, IMAGENET).tolist() == [2]


def test_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"): groups_of_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no class folder"): groups_of_folder(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="holds dog; a classifier needs at least two"): groups_of_folder(tmp_path)
    (tmp_path / "Cat").mkdir()
    (tmp_path / ".cache").mkdir()
    assert groups_of_folder(tmp_path) == {"Cat": "cat.n.01", "dog": "dog.n.01"}
    with pytest.raises(ValueError, match="speaks of Kat"): groups_of_folder(tmp_path, {"Kat": "cat"})
    (tmp_path / "Vogel").mkdir()
    with pytest.raises(ValueError, match="folder 'Vogel'"): groups_of_folder(tmp_path)
    assert list(groups_of_folder(tmp_path, {"Vogel": "bird"})) == ["Cat", "Vogel", "dog"]
