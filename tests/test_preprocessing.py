"hierlearn.preprocessing: exact on small cases, seeded, alike on bytes and floats, one-line errors."
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlearn import preprocessing as P
from hierlearn.datasets import load_cifar10
from hierlearn.shapes import load_shapes

NAMES = {"channel_statistics", "standardize", "random_flip", "random_crop", "ColorPCA", "color_pca", "color_shift", "augment_color", "global_contrast_normalization", "ZCA"}


@pytest.fixture(scope="module")
def images(): return load_shapes(300, 20).train.images


def test_every_name_is_known_here(): assert set(P.__all__) == NAMES


# --- statistics ---------------------------------------------------------------------------------

def test_channel_statistics_of_bytes_and_floats(images):
    for x in (images, images / 255, (images / 255).astype(np.float32)):
        mean, std = P.channel_statistics(x)
        assert mean.dtype == std.dtype == np.float64
        assert np.allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-6) and np.allclose(std, (images / 255).std((0, 1, 2)), atol=1e-6)


def test_standardize(images):
    mean, std = P.channel_statistics(images)
    z = P.standardize(images, mean, std)
    assert z.dtype == np.float32 and np.allclose(z.mean((0, 1, 2)), 0, atol=1e-4) and np.allclose(z.std((0, 1, 2)), 1, atol=1e-4)
    assert np.allclose(P.standardize(images / 255, mean, std), z, atol=1e-4) and P.standardize(images / 255, mean, std).dtype == np.float32
    shift = np.linspace(-0.1, 0.1, 900).reshape(300, 3)
    assert np.allclose(P.standardize(images, mean, std, shift), (images / 255 + shift[:, None, None] - mean) / std, atol=1e-4)
    before = images.copy(); P.standardize(images, mean, std, shift)
    assert (images == before).all()


# --- flips and crops ----------------------------------------------------------------------------

def test_random_flip_mirrors_about_half(images):
    out = P.random_flip(images, np.random.default_rng(0))
    same, mirrored = ((out == x).all((1, 2, 3)) for x in (images, images[:, :, ::-1]))
    assert (same | mirrored).all() and 110 < mirrored.sum() < 190
    assert out.dtype == images.dtype and not np.shares_memory(out, images)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), h=st.integers(3, 9), w=st.integers(3, 9), c=st.integers(1, 4), padding=st.integers(0, 2),
       mode=st.sampled_from(["constant", "reflect"]), seed=st.integers(0, 10**6), floats=st.booleans())
def test_random_crop_equals_a_loop(n, h, w, c, padding, mode, seed, floats):
    images = np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)
    if floats: images = images / np.float32(255)
    out = P.random_crop(images, np.random.default_rng(seed), padding, mode)
    top, left = np.random.default_rng(seed).integers(0, 2 * padding + 1, (2, n))
    for i in range(n):
        padded = np.pad(images[i], ((padding, padding), (padding, padding), (0, 0)), mode=mode)
        assert (out[i] == padded[top[i] : top[i] + h, left[i] : left[i] + w]).all()
    assert out.shape == images.shape and out.dtype == images.dtype and out.flags.c_contiguous


@pytest.mark.parametrize("change", [
    lambda x, rng: P.random_flip(x, rng), lambda x, rng: P.random_crop(x, rng), lambda x, rng: P.augment_color(x, P.color_pca(x), rng)])
def test_random_changes_follow_their_seed(images, change):
    a, b, c = (change(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


def test_random_streams_stay_as_they_are():
    "Trainings of older records draw from these streams."
    rng = np.random.default_rng(0)
    dot = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)
    flipped = P.random_flip(dot, rng)[:, 0, 0, 0].tolist()
    assert flipped == [int(dot[i, 0, 1 if u < 0.5 else 0, 0]) for i, u in enumerate(np.random.default_rng(0).random(4))]
    pca = P.ColorPCA(np.array([0.2, 0.02, 0.002]), np.eye(3))
    assert np.allclose(P.color_shift(pca, 4, np.random.default_rng(1)), np.random.default_rng(1).normal(0, 0.1, (4, 3)) * pca.eigenvalues)


# --- colours ------------------------------------------------------------------------------------

def test_color_pca_agrees_with_a_covariance_matrix(images):
    pca = P.color_pca(images)
    covariance = np.cov(images.reshape(-1, 3).T / 255, bias=True)
    assert np.allclose(pca.eigenvectors * pca.eigenvalues @ pca.eigenvectors.T, covariance, atol=1e-9)
    assert (np.diff(pca.eigenvalues) <= 0).all() and np.allclose(P.color_pca(images / 255).eigenvalues, pca.eigenvalues)
    largest = np.abs(pca.eigenvectors).argmax(0)
    assert (pca.eigenvectors[largest, range(3)] > 0).all()


def test_color_shift_has_the_covariance_of_the_formula():
    pca = P.ColorPCA(np.array([0.3, 0.02, 0.01]), np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0])
    shift = P.color_shift(pca, 200_000, np.random.default_rng(0), std=0.5)
    expected = (pca.eigenvectors * (0.5 * pca.eigenvalues) ** 2) @ pca.eigenvectors.T
    assert np.allclose(np.cov(shift.T), expected, atol=3e-4)


def test_augment_color_is_one_shift_an_image(images):
    pca = P.color_pca(images)
    for x in (images, images / 255):
        out = P.augment_color(x, pca, np.random.default_rng(0))
        moved = out - images / 255
        assert out.dtype == np.float32 and np.allclose(moved, moved[:, :1, :1], atol=1e-6) and np.abs(moved).max() > 1e-3


def test_eigenvalues_of_cifar10(cifar_root):
    train = load_cifar10(cifar_root).train.images
    mean, std = P.channel_statistics(train)
    assert np.allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-4) and np.allclose(std, [0.2470, 0.2435, 0.2616], atol=5e-4)
    pca = P.color_pca(train)
    # the shared copies went through JPEG, which moves the eigenvalues by up to one per cent
    assert np.allclose(pca.eigenvalues, [0.17191, 0.01393, 0.00290], rtol=0.012)
    assert np.allclose(np.abs(pca.eigenvectors[:, 0]), [0.558, 0.577, 0.596], atol=1e-3)
    assert abs(P.color_shift(pca, 100_000, np.random.default_rng(0)).std(0).mean() - 0.0097) < 3e-4


# --- contrast and whitening ---------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(gain=st.floats(0.2, 1), offset=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_contrast_normalization_removes_gain_and_offset(gain, offset, seed):
    x = np.random.default_rng(seed).random((3, 4, 4, 3))
    assert np.allclose(P.global_contrast_normalization(x * gain + offset), P.global_contrast_normalization(x), atol=1e-4)


def test_contrast_normalization_by_hand(images):
    x = np.array([0.0, 1.0]).reshape(1, 1, 2, 1)
    assert P.global_contrast_normalization(x).ravel().tolist() == [-1, 1]
    assert P.global_contrast_normalization(x, scale=3).ravel().tolist() == [-3, 3]
    assert np.allclose(P.global_contrast_normalization(x, bias=0.75).ravel(), [-0.5, 0.5])
    assert np.allclose(P.global_contrast_normalization(images), P.global_contrast_normalization(images / 255), atol=1e-5)
    assert not P.global_contrast_normalization(np.full((2, 3, 3, 3), 0.3)).any()


def test_zca_whitens(images):
    x = P.global_contrast_normalization(images[:, ::8, ::8])  # (300, 4, 4, 3)
    zca = P.ZCA(epsilon=1e-5).fit(x)
    white = zca.transform(x)
    assert white.shape == x.shape and white.dtype == np.float32
    # the mean of an image is 0 after contrast normalisation, so one direction has no variance at all
    values = np.linalg.eigvalsh(np.cov(white.reshape(len(x), -1).T, bias=True))
    assert values[0] < 0.05 and np.allclose(values[1:], 1, atol=0.02)
    assert np.allclose(zca.matrix, zca.matrix.T, atol=1e-4) and np.allclose(zca.inverse_transform(white), x, atol=1e-2)
    strong = P.ZCA(epsilon=1e6).fit(x).transform(x)
    assert np.abs(strong).max() < 0.01


def test_whitened_covariance_is_the_unit_matrix():
    "An epsilon that is small beside the eigenvalues, and more images than directions."
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3000, 12)) @ rng.normal(size=(12, 12)) + 3).astype(np.float32).reshape(3000, 2, 2, 3)
    white = P.ZCA(1e-7).fit(x).transform(x).reshape(3000, 12)
    assert np.allclose(np.cov(white.T, bias=True), np.eye(12), atol=2e-3) and np.allclose(white.mean(0), 0, atol=1e-3)


def test_zca_is_the_textbook_formula():
    "Two and more parts of 2000 images give what one product over all of them gives."
    x = np.random.default_rng(0).normal(1, 1, (4500, 2, 2, 1)) * [[[1], [2]], [[3], [4]]]
    flat = x.reshape(4500, 4)
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    matrix = vectors / np.sqrt(values + 0.1) @ vectors.T
    zca = P.ZCA().fit(x)
    assert np.allclose(zca.matrix, matrix, atol=1e-5) and np.allclose(zca.mean, flat.mean(0), atol=1e-5)
    expected = ((flat - flat.mean(0)) @ matrix).reshape(x.shape)
    assert np.allclose(zca.transform(x), expected, atol=1e-4) and np.allclose(zca.transform(x[:3]), expected[:3], atol=1e-4)
    assert np.allclose(zca.inverse_transform(expected), x, atol=1e-4)
    before = x.copy(); zca.transform(x), zca.inverse_transform(x)
    assert (x == before).all()


def test_directions_that_were_never_seen_are_left_to_epsilon():
    "Three images span two directions; the others are divided by sqrt(epsilon)."
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 2))
    values = np.sort(np.linalg.eigvalsh(P.ZCA(0.01).fit(x).matrix.astype(float)))
    assert np.allclose(values[2:], 10, atol=1e-3) and (values[:2] < 9).all()


def test_zca_needs_little_memory():
    "Neither fitting nor whitening holds a second copy of the images."
    x = np.random.default_rng(0).random((40_000, 8, 8, 1), np.float32)
    zca = P.ZCA()
    tracemalloc.start()
    try:
        zca.fit(x)
        fitting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        zca.transform(x)
        whitening = tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()
    assert fitting < 0.5 * x.nbytes and whitening < 1.3 * x.nbytes  # the result is one of them


@pytest.fixture(scope="module")
def fitted(): return P.ZCA(0.02).fit(np.random.default_rng(0).normal(size=(40, 3, 2, 2)))


def test_zca_comes_back_from_its_file(fitted, tmp_path):
    path = fitted.save(tmp_path / "new" / "whitening")  # the suffix is the caller's
    assert [p.name for p in path.parent.iterdir()] == ["whitening"]
    again = P.ZCA.load(path)
    assert again.epsilon == 0.02 and again.shape == (3, 2, 2)
    for name in ("mean", "matrix", "inverse"): assert np.array_equal(getattr(again, name), getattr(fitted, name)), name
    first = path.read_bytes()
    again.save(str(path))
    assert path.read_bytes() == first


def test_a_changed_bit_of_a_saved_zca_is_noticed(fitted, tmp_path):
    content, other = fitted.save(tmp_path / "a.npz").read_bytes(), tmp_path / "b.npz"
    for place in np.random.default_rng(0).choice(len(content), 150, replace=False):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        other.write_bytes(changed)
        try: found = P.ZCA.load(other)
        except ValueError as error: assert "no whole file of ZCA.save" in str(error) and "\n" not in str(error)
        else:  # a bit that says nothing, such as the archive's date
            for name in ("mean", "matrix", "inverse", "epsilon", "shape"): assert np.array_equal(getattr(found, name), getattr(fitted, name))
    for end in (0, 1, 50, len(content) // 2, len(content) - 1):
        other.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"b.npz is no whole file of ZCA.save \(.*\); fit and save again"): P.ZCA.load(other)


class Trap:
    "What a pickle would run."
    def __reduce__(self): return Path.touch, (Path("sprung"),)


def test_foreign_files_are_refused_and_run_nothing(fitted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = fitted.mean.size
    parts = {"epsilon": 0.1, "shape": np.array([3, 2, 2]), "mean": fitted.mean, "matrix": fitted.matrix, "inverse": fitted.inverse}
    parts = {name: np.asarray(x) for name, x in parts.items()}
    signed = lambda **changes: (lambda x: {"digest": P._digest(x), **x})({**parts, **changes})
    cases = {
        "pickle": {**parts, "digest": np.array([Trap()], object)}, "other": {"x": np.ones(3)},
        "unsigned": {**parts, "digest": np.zeros(32, np.uint8)}, "sizes": signed(matrix=fitted.matrix[:2]), "shape": signed(shape=np.array([5, 2, 2])),
        "negative": signed(epsilon=np.array(-1.0)), "text": signed(mean=np.array(["a"] * n)), "infinite": signed(mean=np.full(n, np.inf)), "bytes": signed(matrix=np.ones((n, n), np.uint8)),
        "deep": signed(shape=np.array([2, 3, 2, 1]))}
    for name, arrays in cases.items():
        np.savez(f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match=f"{name}.npz is no whole file of ZCA.save") as e: P.ZCA.load(f"{name}.npz")
        assert "\n" not in str(e.value) and not Path("sprung").exists()
    np.savez_compressed("bomb.npz", **signed())
    with pytest.raises(ValueError, match="bomb.npz is no whole file"): P.ZCA.load("bomb.npz")
    Path("text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="text.npz is no whole file"): P.ZCA.load("text.npz")
    with pytest.raises(FileNotFoundError, match="no file .*nothing.npz; write it with ZCA.save"): P.ZCA.load("nothing.npz")


def test_a_failed_save_or_fit_leaves_what_was_there(fitted, tmp_path, monkeypatch):
    path = fitted.save(tmp_path / "a.npz")
    before = path.read_bytes()
    def full(*args, **more): raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(P.np, "savez", full)
        with pytest.raises(OSError, match="No space"): fitted.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    zca, matrix = P.ZCA.load(path), fitted.matrix
    with pytest.raises(ValueError, match="nothing to whiten"): zca.fit(np.ones((5, 4, 4, 3)))
    assert zca.shape == (3, 2, 2) and np.array_equal(zca.matrix, matrix)


# --- bad input ----------------------------------------------------------------------------------

GOOD = np.zeros((2, 4, 4, 3), np.uint8)
RNG = np.random.default_rng(0)
PCA = P.ColorPCA(np.ones(3), np.eye(3))
ZCA = P.ZCA().fit(np.random.default_rng(1).random((4, 4, 4, 3)))
SCALED = [P.channel_statistics, P.color_pca, P.global_contrast_normalization, lambda x: P.standardize(x, 0, 1), lambda x: P.augment_color(x, PCA, RNG)]


@pytest.mark.parametrize("call", [*SCALED, lambda x: P.random_flip(x, RNG), lambda x: P.random_crop(x, RNG), lambda x: P.ZCA().fit(x)])
@pytest.mark.parametrize("bad, message", [
    (GOOD[0], r"must be an array of shape \(N, H, W, C\), got \(4, 4, 3\)"), ([GOOD[0]], "got list"),
    (GOOD.astype(np.int64), "must be uint8 or float in 0..1, got int64"), (GOOD[:0], "images is empty"), (GOOD[:, :0], "images is empty")])
def test_images_of_the_wrong_kind(call, bad, message):
    with pytest.raises(ValueError, match=message) as e: call(bad)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("call", SCALED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [255, -3, np.nan, np.inf, -np.inf])
def test_floats_on_another_scale_are_refused(call, dtype, value):
    images = np.full((2, 4, 4, 3), 0.5, dtype)
    call(images + np.linspace(-0.7, 0.7, 4, dtype=dtype)[:, None])  # augmented colours may leave 0..1 a little
    images[1, 2, 3, 1] = value
    with pytest.raises(ValueError, match="float images must be in 0..1, got .*; divide by 255") as e: call(images)
    assert "\n" not in str(e.value)


def test_flips_and_crops_take_any_floats():
    images = np.full((2, 4, 4, 3), -9.0)
    assert (P.random_flip(images, RNG) == -9).all() and (P.random_crop(images, RNG, padding=0) == -9).all()


@pytest.mark.parametrize("call, message", [
    (lambda: P.standardize(GOOD, [0, 0, 0], [1, 0, 1]), "std must be positive"),
    (lambda: P.standardize(GOOD, [0, 0, 0], [1, -1, 1]), "std must be positive"),
    (lambda: P.standardize(GOOD, [0, 0, 0], [1, np.nan, 1]), r"std must hold finite numbers of shape \(3,\)"),
    (lambda: P.standardize(GOOD, [0, 0, 0], [1, np.inf, 1]), "std must hold finite numbers"),
    (lambda: P.standardize(GOOD, [np.nan] * 3, [1, 1, 1]), "mean must hold finite numbers"),
    (lambda: P.standardize(GOOD, [0, 0], [1, 1, 1]), "mean must hold finite numbers"),
    (lambda: P.standardize(GOOD, "a", 1), "mean must hold finite numbers"),
    (lambda: P.standardize(GOOD, 0, None), "std must hold finite numbers"),
    (lambda: P.standardize(GOOD, 0, 1, np.zeros((3, 3))), r"shift must hold finite numbers of shape \(2, 3\)"),
    (lambda: P.standardize(GOOD, 0, 1, np.full((2, 3), np.nan)), "shift must hold finite numbers"),
    (lambda: P.random_crop(GOOD, RNG, padding=-1), "padding must be an integer of at least 0, got -1"),
    (lambda: P.random_crop(GOOD, RNG, padding=1.5), "padding must be an integer"),
    (lambda: P.random_crop(GOOD, RNG, mode="wrap"), "mode must be one of constant, reflect"),
    (lambda: P.color_pca(GOOD[..., :1]), "must have 3 channels"),
    (lambda: P.global_contrast_normalization(GOOD, scale=-1), "scale must be a number above 0"),
    (lambda: P.global_contrast_normalization(GOOD, bias=-1), "bias must be a number of at least 0"),
    (lambda: P.global_contrast_normalization(GOOD, epsilon=0), "epsilon must be a number above 0"),
    (lambda: P.global_contrast_normalization(GOOD, scale=np.nan), "scale must be a number"),
    (lambda: P.ZCA(0), "epsilon must be a number above 0"),
    (lambda: P.ZCA(np.nan), "epsilon must be a number"),
    (lambda: P.ZCA().fit(GOOD), "must be finite floats for ZCA"),
    (lambda: P.ZCA().fit(np.full((2, 2, 2, 1), np.nan)), "must be finite floats for ZCA"),
    (lambda: P.ZCA().fit(np.ones((1, 2, 2, 1))), "one image has no covariance; fit ZCA to a training set"),
    (lambda: P.ZCA().fit(np.full((9, 2, 2, 3), 0.1)), "all images are the same, there is nothing to whiten; fit ZCA to others"),
    (lambda: P.ZCA().fit(np.full((5000, 2, 2, 3), 0.1, np.float32)), "all images are the same"),
    (lambda: P.ZCA().fit(GOOD / 255), "all images are the same"),
    (lambda: P.ZCA().transform(GOOD / 255), "no images seen yet"),
    (lambda: P.ZCA().save("nowhere.npz"), "nothing to save yet; call fit"),
    (lambda: ZCA.transform(GOOD[:, :3] / 255), "that fit saw"),
    (lambda: ZCA.inverse_transform(GOOD[:, :3] / 255), "that fit saw"),
    (lambda: ZCA.transform(GOOD), "must be finite floats for ZCA"),
    (lambda: ZCA.transform(np.full((2, 4, 4, 3), np.inf)), "must be finite floats for ZCA"),
])
def test_other_bad_input(call, message):
    with pytest.raises(ValueError, match=message) as e: call()
    assert "\n" not in str(e.value)
