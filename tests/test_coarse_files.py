"Files of coarse classifiers: what is written is read again, what could run code is refused, what was changed is noticed."
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from coarse_nets import COARSE, EVERY, KERAS_BATCH, SHAPES, TORCH_BATCH, keras_net, torch_net

from hierlearn.coarse_extraction import extract_coarse_classifier
from hierlearn.coarse_files import OnnxClassifier, load_classifier, save_classifier
from hierlearn.models import predict


@pytest.fixture(scope="module", name="keras_net")
def keras_fixture(): return keras_net()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"): pytest.importorskip(package)
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    return classifier, save_classifier(classifier, tmp_path_factory.mktemp("onnx") / "a.onnx", TORCH_BATCH[:2])


@pytest.mark.parametrize("rule, temperature", EVERY)
def test_keras_files(keras_net, rule, temperature, tmp_path):
    classifier = extract_coarse_classifier(keras_net, COARSE, rule, taxonomy=SHAPES, temperature=temperature)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.keras"))
    assert np.allclose(predict(again, KERAS_BATCH), predict(classifier, KERAS_BATCH), atol=1e-6)
    assert again.coarse.to_json() == classifier.coarse.to_json() and [p.name for p in tmp_path.iterdir()] == ["a.keras"]
    twice = load_classifier(save_classifier(again, tmp_path / "b.keras"))
    assert twice.coarse.names == tuple(COARSE)


@pytest.mark.parametrize("rule, temperature", [("mean", None), ("log_mean_exp", None), ("argmax", None)])
def test_onnx_from_torch(rule, temperature, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"): pytest.importorskip(package)
    classifier = extract_coarse_classifier(torch_net(), COARSE, rule, taxonomy=SHAPES)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.onnx", TORCH_BATCH[:2]))
    assert np.allclose(predict(again, TORCH_BATCH), predict(classifier, TORCH_BATCH), atol=1e-5) and again.coarse.rule == rule
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("rule", ["mean", "log_mean_exp", "argmax"])
def test_onnx_from_keras(keras_net, rule, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"): pytest.importorskip(package)
    if pytest.importorskip("keras").backend.backend() != "tensorflow": pytest.skip("needs the TensorFlow backend, not a GPU")
    classifier = extract_coarse_classifier(keras_net, COARSE, rule, taxonomy=SHAPES)
    again = load_classifier(save_classifier(classifier, tmp_path / "a.onnx"))
    assert np.allclose(predict(again, KERAS_BATCH), predict(classifier, KERAS_BATCH), atol=1e-5) and again.coarse.names == tuple(COARSE)


def test_what_the_classifier_of_onnx_takes(onnx_file):
    classifier, path = onnx_file
    read = load_classifier(path)
    assert isinstance(read, OnnxClassifier) and np.allclose(predict(read, TORCH_BATCH[:1]), predict(classifier, TORCH_BATCH[:1]), atol=1e-5)
    with pytest.raises(ValueError, match="was read from a.onnx; copy that file"): save_classifier(read, path.with_name("b.onnx"))


def test_a_flipped_bit_is_noticed(onnx_file, keras_net, tmp_path):
    _, path = onnx_file
    save_classifier(extract_coarse_classifier(keras_net, COARSE, taxonomy=SHAPES), tmp_path / "a.keras")
    rng = np.random.default_rng(0)
    for source, count in ((path, 150), (tmp_path / "a.keras", 12)):
        content, again = source.read_bytes(), tmp_path / f"flipped{source.suffix}"
        noise, wanted = (TORCH_BATCH, predict(load_classifier(source), TORCH_BATCH)) if source.suffix == ".onnx" else (KERAS_BATCH, predict(load_classifier(source), KERAS_BATCH))
        for place in rng.integers(0, len(content), count):
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            again.write_bytes(changed)
            try: found = load_classifier(again)
            except ValueError: continue
            # a zip file holds bytes that nobody reads: names and answers must be those of before
            assert source.suffix == ".keras" and found.coarse.names == tuple(COARSE) and np.array_equal(predict(found, noise), wanted), place


class Planted:
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return os.system, (f"echo ran > {self.path}",)


def test_pt2_is_refused_without_being_opened(tmp_path):
    "A .pt2 file may run code in many ways on loading; whatever it holds, it is not even opened."
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps(Planted(tmp_path / "ran")))
        file.writestr("coarse.json", "{}")
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    for path in (tmp_path / "a.pt2", str(tmp_path / "a.pt2"), tmp_path / "none.pt2"):
        with pytest.raises(ValueError, match="refused: a .pt2 file can run any code") as found: load_classifier(path)
        assert "\n" not in str(found.value)
    (tmp_path / "sign").read_bytes() if (tmp_path / "sign").exists() else open(__file__).close()
    assert any("test_coarse_files" in name for name in opened)  # the hook works
    assert not any(name.endswith(".pt2") for name in opened) and not (tmp_path / "ran").exists()
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="can run any code"): save_classifier(classifier, tmp_path / "b.pt2", TORCH_BATCH)
    assert not (tmp_path / "b.pt2").exists()


def test_a_program_by_another_name(tmp_path):
    "The pickle of a .pt2 file under another suffix is read by nobody."
    for suffix in (".keras", ".onnx"):
        if suffix == ".onnx": pytest.importorskip("onnxruntime")
        path = tmp_path / f"a{suffix}"
        with zipfile.ZipFile(path, "w") as file: file.writestr("a/data.pkl", pickle.dumps(Planted(tmp_path / "ran")))
        with pytest.raises(ValueError, match="not a whole classifier"): load_classifier(path)
    assert not (tmp_path / "ran").exists()


def replant(source, target, change):
    "A copy of a .keras file with another config."
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json": data = json.dumps(change(json.loads(data))).encode()
            new.writestr(name, data)


def test_planted_code_in_keras_files_does_not_run(keras_net, tmp_path):
    keras = pytest.importorskip("keras")
    mark = tmp_path / "ran"
    place = str(mark)
    good = save_classifier(extract_coarse_classifier(keras_net, COARSE, taxonomy=SHAPES), tmp_path / "good.keras")
    # a Lambda layer, whose code is in the file
    inputs = keras.Input((4,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: (__import__("os").system(f"echo ran > {place}"), x)[1], output_shape=(4,))(inputs)).save(tmp_path / "lambda.keras")
    with zipfile.ZipFile(tmp_path / "lambda.keras", "a") as file: file.writestr("coarse.json", zipfile.ZipFile(good).read("coarse.json"))
    mark.unlink(missing_ok=True)  # the lambda ran when it was made
    # functions of the standard library that are named as layers, or as an activation
    call = {"module": "os", "class_name": "system", "config": {"command": f"echo ran > {mark}"}, "registered_name": None}
    function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    def layer(config): config["config"]["layers"][1] |= call; return config
    def legacy(config):
        config["config"]["layers"][1] = {"class_name": "function", "module": "os", "config": "system", "registered_name": "system", "name": "x",
                                         "inbound_nodes": [{"args": [f"echo ran > {mark}"], "kwargs": {}}]}
        return config
    def activation(config):
        for found in config["config"]["layers"]:
            if found["class_name"] == "Dense": found["config"]["activation"] = function
        return config
    def whole(config): return config | call
    for name, change in (("layer", layer), ("legacy", legacy), ("activation", activation), ("whole", whole)): replant(good, tmp_path / f"{name}.keras", change)
    for name in ("lambda", "layer", "legacy", "activation", "whole"):
        with pytest.raises(ValueError, match="not a whole classifier"): load_classifier(tmp_path / f"{name}.keras")
        assert not mark.exists(), name
    assert load_classifier(good).coarse.names == tuple(COARSE)


def test_names_and_outputs_must_fit(keras_net, onnx_file, tmp_path):
    "A coarse.json with two names for five outputs is refused."
    source = save_classifier(extract_coarse_classifier(keras_net, COARSE, taxonomy=SHAPES), tmp_path / "a.keras")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "b.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "coarse.json":
                info = json.loads(data)
                info["members"] = dict(list(info["members"].items())[:2])
                data = json.dumps(info)
            new.writestr(name, data)
    with pytest.raises(ValueError, match="names 2 groups for 5 outputs"): load_classifier(tmp_path / "b.keras")
    onnx = pytest.importorskip("onnx")
    program = onnx.load(onnx_file[1])
    onnx.helper.set_model_props(program, {"coarse": json.dumps(info)})
    onnx.save(program, tmp_path / "b.onnx")
    with pytest.raises(ValueError, match="was changed"): load_classifier(tmp_path / "b.onnx")
    onnx.helper.set_model_props(program, {})
    onnx.save(program, tmp_path / "plain.onnx")
    with pytest.raises(ValueError, match="not the names of its groups"): load_classifier(tmp_path / "plain.onnx")


def test_files_refuse(tmp_path, keras_net):
    classifier = extract_coarse_classifier(torch_net(), COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="must end with .onnx"): save_classifier(classifier, tmp_path / "a.keras", TORCH_BATCH)
    with pytest.raises(ValueError, match="pass example="): save_classifier(classifier, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="must end with .keras or .onnx"): save_classifier(extract_coarse_classifier(keras_net, COARSE, taxonomy=SHAPES), tmp_path / "a.h5")
    with pytest.raises(ValueError, match="no coarse classifier"): save_classifier(torch_net(), tmp_path / "a.onnx", TORCH_BATCH)
    with pytest.raises(FileNotFoundError, match="no file"): load_classifier(tmp_path / "none.onnx")
    for name in ("a.keras", "a.onnx"):
        if name.endswith("onnx"): pytest.importorskip("onnxruntime")
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(ValueError, match="not a whole classifier"): load_classifier(tmp_path / name)
    with pytest.raises(ValueError, match="must end with .keras or .onnx"): load_classifier(tmp_path / "a.txt")
    keras_net.save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="not the names of its groups"): load_classifier(tmp_path / "plain.keras")
    for bad in (5, "a picture", [["a"], ["b"]], TORCH_BATCH[:1]):
        with pytest.raises(ValueError, match="batch of numbers"): save_classifier(classifier, tmp_path / "b.onnx", bad)
    with pytest.raises(ValueError, match="the export of this model failed"): save_classifier(classifier, tmp_path / "b.onnx", TORCH_BATCH[:, :1])
    assert not (tmp_path / "b.onnx").exists() and not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_a_failed_export_leaves_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    for package in ("onnx", "onnxscript"): pytest.importorskip(package)
    class Counted(torch.nn.Linear):
        def forward(self, x): return super().forward(x) if float(x.sum()) > -1e9 else x  # depends on the numbers
    classifier = extract_coarse_classifier(Counted(6, 20).eval(), COARSE, taxonomy=SHAPES)
    with pytest.raises(ValueError, match="export of this model failed"): save_classifier(classifier, tmp_path / "a.onnx", np.ones((2, 6)))
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_in_a_fresh_process(tmp_path, keras_net):
    path = save_classifier(extract_coarse_classifier(keras_net, COARSE, "log_sum_exp", taxonomy=SHAPES), tmp_path / "a.keras")
    code = f"import hierlearn.coarse_files as c; print(c.load_classifier({str(path)!r}).coarse.names[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0 and done.stdout.strip() == "round", done.stderr[-800:]
