"hierlearn.shapes: the drawn data set: its form, its seeds, and all bad input."
import numpy as np
import pytest

from hierlearn import shapes as S
from hierlearn.taxonomy import SHAPES_HIERARCHY


def test_every_name_is_known_here(): assert set(S.__all__) == {"draw_shapes", "load_shapes"}


def test_shapes_form():
    data = S.load_shapes(205, 41, seed=3)
    assert data.class_names == tuple(f for fs in SHAPES_HIERARCHY.values() for f in fs) and data.coarse_names == tuple(SHAPES_HIERARCHY)
    assert data.fine_to_coarse == tuple(i // 4 for i in range(20)) and (data.train.coarse_labels == data.train.labels // 4).all()
    counts = np.bincount(data.train.labels, minlength=20)
    assert data.train.images.shape == (205, 32, 32, 3) and data.train.images.dtype == np.uint8 and counts.max() - counts.min() <= 1
    assert (np.diff(data.train.labels) != 0).mean() > 0.8 and data.test.labels.dtype == np.int64
    assert len(np.unique(data.train.images.reshape(205, -1), axis=0)) == 205


def test_shapes_are_seeded_and_the_same_everywhere():
    data = S.load_shapes(100, 40)
    assert data.digest == S.load_shapes(100, 40).digest and data.digest != S.load_shapes(100, 40, seed=1).digest
    assert np.array_equal(data.test.images, S.load_shapes(60, 40).test.images)  # the parts are independent
    assert data.digest[:16] == "9ff63bc701a2a370"


def test_draw_shapes():
    images = S.draw_shapes(np.arange(20), seed=(1, 2), image_size=48)
    assert images.shape == (20, 48, 48, 3) and np.array_equal(images[5], S.draw_shapes([5], seed=(1, 2), image_size=48)[0])
    assert S.draw_shapes(np.empty(0, int)).shape == (0, 32, 32, 3)
    for bad in ([20], [-1], [0.5], [[1]], ["a"], [True]):
        with pytest.raises(ValueError, match="labels must be a flat array of integers in 0..19"): S.draw_shapes(np.array(bad))
    for bad in (8, 15.5, None):
        with pytest.raises(ValueError, match="image_size must be an integer of at least 16"): S.draw_shapes([0], image_size=bad)
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="n_train must be an integer of at least 1"): S.load_shapes(bad, 10)
        with pytest.raises(ValueError, match="n_test must be an integer of at least 1"): S.load_shapes(10, bad)
