"hierlearn.datasets: the official layout, downloads from a local server, picture folders, and all bad input."
import functools
import hashlib
import http.server
import os
import pickle
import struct
import tarfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hierlearn import datasets as D
from hierlearn.taxonomy import PET_BREEDS

NAMES = {"ARCHIVES", "PICTURE_SUFFIXES", "Archive", "Dataset", "ImageFiles", "Split", "download_archive", "has_data", "load_cats_dogs",
         "load_cifar10", "load_cifar100", "load_image_folder", "load_imagenet_samples", "load_pets", "open_picture", "read_cifar_file", "read_image", "stratified_split"}


def test_every_name_is_known_here(): assert set(D.__all__) == NAMES


# --- a small data set in the official form --------------------------------------------------------

class Python2Pickler(pickle._Pickler):
    "Writes strings as Python 2 did, so that the files are those of the official archives in form."
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value if isinstance(value, bytes) else value.encode()
        self.write(b"T" + struct.pack("<i", len(raw)) + raw); self.memoize(value)
    dispatch[str] = dispatch[bytes] = save_string


def dump(value, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file: Python2Pickler(file, 2).dump(value)


def pixels(n, seed): return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


def make_cifar10(root, n=20):
    folder = root / "cifar-10-batches-py"
    for i, name in enumerate((*D.ARCHIVES["cifar10"].train_files, "test_batch")):
        dump({"data": pixels(n, i), "labels": [(i + j) % 10 for j in range(n)], "filenames": [f"{j}.png" for j in range(n)], "batch_label": name}, folder / name)
    dump({"label_names": [f"class{i}" for i in range(10)], "num_cases_per_batch": n, "num_vis": 3072}, folder / "batches.meta")
    return folder


def make_cifar100(root, n=200):
    folder = root / "cifar-100-python"
    for i, name in enumerate(("train", "test")):
        fine = [j % 100 for j in range(n)]
        dump({"data": pixels(n, i), "fine_labels": fine, "coarse_labels": [f // 5 for f in fine]}, folder / name)
    dump({"fine_label_names": [f"fine{i}" for i in range(100)], "coarse_label_names": [f"coarse{i}" for i in range(20)]}, folder / "meta")
    return folder


def change(path, **values): dump({**pickle.loads(path.read_bytes(), encoding="latin1"), **values}, path)


def test_cifar10_in_small(tmp_path):
    folder = make_cifar10(tmp_path)
    data = D.load_cifar10(tmp_path)
    assert data.name == "cifar10" and data.class_names[3] == "class3" and data.coarse_names is None and data.train.coarse_labels is None
    assert data.train.images.shape == (100, 32, 32, 3) and data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int64
    # pixel (row 2, column 5) of the last training image, channel by channel in the file
    assert data.train.images[-1, 2, 5].tolist() == [pixels(20, 4)[-1][1024 * c + 2 * 32 + 5] for c in range(3)]
    assert data.train.labels[20:23].tolist() == [1, 2, 3] and data.test.images.flags.c_contiguous and data.test.images.flags.writeable
    inside = D.load_cifar10(folder)  # the folder itself will do
    assert inside.digest == data.digest and len(data.digest) == 64 and data.digest is data.digest
    expected = hashlib.sha256(b"".join(a.tobytes() for a in (*data.train[:2], *data.test[:2]))).hexdigest()
    assert data.digest == expected and "100 train + 20 test" in repr(data)


def test_cifar100_in_small(tmp_path):
    make_cifar100(tmp_path)
    data = D.load_cifar100(tmp_path)
    assert len(data.class_names) == 100 and len(data.coarse_names) == 20 and data.fine_to_coarse == tuple(i // 5 for i in range(100))
    assert (data.train.coarse_labels == data.train.labels // 5).all() and isinstance(data, D.Dataset) and isinstance(data.test, D.Split)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_pickles_of_other_writers(tmp_path, protocol, as_bytes):
    key = (lambda s: s.encode()) if as_bytes and protocol == 4 else str
    (tmp_path / "f").write_bytes(pickle.dumps({key("labels"): [1, 2], key("names"): [key("a")]}, protocol=protocol))
    assert D.read_cifar_file(tmp_path / "f") == {"labels": [1, 2], "names": ["a"]}


def test_real_cifar10(cifar_root):
    data = D.load_cifar10(cifar_root)
    assert data.train.images.shape == (50000, 32, 32, 3) and data.test.images.shape == (10000, 32, 32, 3)
    assert (np.bincount(data.train.labels) == 5000).all() and (np.bincount(data.test.labels) == 1000).all()
    assert data.class_names == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_real_cifar100(cifar100_root):
    data = D.load_cifar100(cifar100_root)
    assert data.train.images.shape == (50000, 32, 32, 3) and (np.bincount(data.test.labels) == 100).all() and (np.bincount(data.fine_to_coarse) == 5).all()
    assert data.class_names[:2] == ("apple", "aquarium_fish") and data.coarse_names[data.fine_to_coarse[0]] == "fruit_and_vegetables"


# --- where data live ------------------------------------------------------------------------------

def test_missing_data_names_the_three_ways(tmp_path):
    for load, name in ((D.load_cifar10, "cifar10"), (D.load_cifar100, "cifar100")):
        with pytest.raises(FileNotFoundError) as e: load(tmp_path)
        message = str(e.value)
        assert "root=" in message and "HIERLEARN_DATA" in message and f"load_{name}(download=True)" in message and "\n" not in message
        assert not D.has_data(name, tmp_path)
    for load, name in ((D.load_pets, "pets"), (D.load_cats_dogs, "petimages"), (D.load_imagenet_samples, "imagenet_samples")):
        with pytest.raises(FileNotFoundError, match="HIERLEARN_DATA"): load(tmp_path)
        assert not D.has_data(name, tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'mnist'; choose one of cifar10"): D.has_data("mnist")


def test_has_data(tmp_path):
    make_cifar10(tmp_path)
    assert D.has_data("cifar10", tmp_path) and D.has_data("cifar10", tmp_path / "cifar-10-batches-py") and not D.has_data("cifar100", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="lacks data_batch_3; delete the folder"): D.load_cifar10(tmp_path)


# --- files that are not what they say --------------------------------------------------------------

class Command:
    def __reduce__(self): return os.system, ("touch hacked",)


class Global:
    "Pickles as the bare global `module.name`."
    def __init__(self, name): self.name = name
    def __reduce__(self): return self.name


@pytest.mark.parametrize("payload, refused", [
    (pickle.dumps({"data": Command()}, 2), r"(posix|nt)\.system"),
    (b"cbuiltins\neval\n(S'1'\ntR.", "__builtin__.eval|builtins.eval"),
    (b"cnumpy.lib.npyio\nload\n.", "numpy.lib.npyio.load"),
    (b"cnumpy\nload\n.", "numpy.load"),
    (pickle.dumps({"a": np.float64(1)}, 2), "numpy.*scalar"),
])
def test_a_pickle_that_imports_is_refused(tmp_path, monkeypatch, payload, refused):
    monkeypatch.chdir(tmp_path)
    folder = make_cifar10(tmp_path)
    (folder / "data_batch_2").write_bytes(payload)
    with pytest.raises(ValueError, match=f"data_batch_2 asks for ({refused}), which no CIFAR file needs") as e: D.load_cifar10(tmp_path)
    assert "\n" not in str(e.value) and not (tmp_path / "hacked").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps({"data": np.array([None, 1], object)}, 4))
    with pytest.raises(ValueError, match="truncated or not a CIFAR file"): D.read_cifar_file(tmp_path / "f")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_damaged_files_give_one_line(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("damaged")
    dump({"data": pixels(2, 0), "labels": [1, 2], "label_names": ["a"]}, folder / "f")
    raw = bytearray((folder / "f").read_bytes())
    if seed % 2: raw = raw[: rng.integers(0, len(raw))]
    else:
        for at in rng.integers(0, min(len(raw), 200), 5): raw[at] = rng.integers(0, 256)
    (folder / "f").write_bytes(bytes(raw))
    try: D.read_cifar_file(folder / "f")
    except ValueError as e: assert "\n" not in str(e)


@pytest.mark.parametrize("values, message", [
    ({"data": np.zeros((20, 3000), np.uint8)}, r"must be uint8 of shape \(N, 3072\), got uint8 of shape \(20, 3000\)"),
    ({"data": np.zeros((20, 3072), np.int64)}, "got int64 of shape"),
    ({"data": [1, 2]}, "got list"),
    ({"labels": [0] * 19}, "must be 20 integers, got int64 of shape \\(19,\\)"),
    ({"labels": [0.5] * 20}, "must be 20 integers, got float64"),
    ({"labels": [[0], [1, 2]] * 10}, "must be 20 integers"),
    ({"labels": [0] * 19 + [10]}, r"must lie in 0..9, got 10 at position 19"),
    ({"labels": [-1] + [0] * 19}, r"must lie in 0..9, got -1 at position 0"),
])
def test_wrong_contents(tmp_path, values, message):
    folder = make_cifar10(tmp_path)
    change(folder / "data_batch_4", **values)
    with pytest.raises(ValueError, match=f"data_batch_4: .*{message}") as e: D.load_cifar10(tmp_path)
    assert "\n" not in str(e.value)


def test_other_wrong_contents(tmp_path):
    folder = make_cifar10(tmp_path)
    change(folder / "batches.meta", label_names=["one"])
    with pytest.raises(ValueError, match="batches.meta: 'label_names' must be a list of 10 names"): D.load_cifar10(tmp_path)
    folder = make_cifar10(tmp_path)
    dump({"data": pixels(3, 0), "fine_labels": [1, 2, 3]}, folder / "test_batch")
    with pytest.raises(ValueError, match="test_batch has no 'labels' .*the other CIFAR"): D.load_cifar10(tmp_path)
    dump([1, 2], folder / "test_batch")
    with pytest.raises(ValueError, match="holds a list where a CIFAR file holds a dict"): D.load_cifar10(tmp_path)
    folder = make_cifar100(tmp_path)
    change(folder / "test", coarse_labels=[0] * 200)
    with pytest.raises(ValueError, match="stands under more than one coarse label"): D.load_cifar100(tmp_path)
    with pytest.raises(FileNotFoundError): D.read_cifar_file(tmp_path / "absent")


# --- downloads from a local server -----------------------------------------------------------------

@pytest.fixture
def server(tmp_path):
    "Serves a folder over HTTP; yields the folder and its address."
    folder = tmp_path / "served"; folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *unused): pass

        def do_GET(self):
            if not self.path.startswith("/cut/"): return super().do_GET()
            raw = (folder / self.path[5:]).read_bytes()  # promises more than it sends
            self.send_response(200); self.send_header("Content-Length", str(len(raw))); self.end_headers()
            self.wfile.write(raw[: len(raw) // 2])
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True); thread.start()
    yield folder, f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown(); httpd.server_close(); thread.join()


def pack(source, path):
    with tarfile.open(path, "w:gz") as tar: tar.add(source, source.name)
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_official_addresses():
    assert all(isinstance(a, D.Archive) and a.url.startswith("https://www.cs.toronto.edu/~kriz/") and len(a.md5) == 32 for a in D.ARCHIVES.values())


def test_download_and_load(server, tmp_path, monkeypatch, capfd):
    served, url = server
    md5 = pack(make_cifar10(tmp_path / "made"), served / "cifar-10-python.tar.gz")
    monkeypatch.setitem(D.ARCHIVES, "cifar10", D.ARCHIVES["cifar10"]._replace(url=f"{url}/cifar-10-python.tar.gz", md5=md5))
    root = tmp_path / "new" / "cache"
    data = D.load_cifar10(root, download=True)
    assert data.digest == D.load_cifar10(tmp_path / "made").digest
    assert [p.name for p in root.iterdir()] == ["cifar-10-batches-py"]  # no archive, no temporary folder
    out, err = capfd.readouterr()
    assert out == "" and "cifar-10-python.tar.gz" in err  # progress goes to stderr
    (served / "cifar-10-python.tar.gz").unlink()
    assert D.load_cifar10(root, download=True).digest == data.digest  # what is there is not fetched again


def nothing_left(root, kept): return sorted(p.name for p in root.iterdir()) == kept if kept else not root.exists()


@pytest.mark.parametrize("kept", [[], ["mine.txt"]])
@pytest.mark.parametrize("case, error, message", [
    ("another", ValueError, "it is truncated or another file"),
    ("cut", (ValueError, ConnectionError), "could not fetch|it is truncated"),
    ("absent", ConnectionError, "could not fetch .*404"),
    ("refused", ConnectionError, "could not fetch"),
    ("no address", ConnectionError, "could not fetch"),
    ("no archive", ValueError, "cannot be unpacked"),
    ("half archive", ValueError, "cannot be unpacked"),
    ("foreign", ValueError, "holds no folder cifar-10-batches-py"),
    ("escaping", ValueError, "cannot be unpacked .*outside|cannot be unpacked"),
    ("link", ValueError, "cannot be unpacked"),
])
def test_failed_downloads_leave_nothing(server, tmp_path, kept, case, error, message):
    served, url = server
    root, path = tmp_path / "deep" / "cache", served / "a.tar.gz"
    if kept: root.mkdir(parents=True); (root / "mine.txt").write_text("stays")
    md5 = pack(make_cifar10(tmp_path / "made"), path)
    address = {"cut": f"{url}/cut/a.tar.gz", "absent": f"{url}/b.tar.gz", "refused": "http://127.0.0.1:9/a.tar.gz", "no address": "a.tar.gz"}.get(case, f"{url}/a.tar.gz")
    if case == "another": md5 = "0" * 32
    if case == "no archive": path.write_bytes(b"<html>maintenance</html>")
    if case == "half archive": path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if case == "foreign": pack(make_cifar100(tmp_path / "made"), path)
    if case in ("escaping", "link"):
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo("../../escaped" if case == "escaping" else "cifar-10-batches-py")
            if case == "link": info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path)
            tar.addfile(info)
    if case in ("no archive", "half archive", "foreign", "escaping", "link"): md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(error, match=message) as e: D.download_archive(address, md5, "cifar-10-batches-py", root)
    assert "\n" not in str(e.value) and nothing_left(root, kept)
    assert not list(tmp_path.rglob("escaped")) and (kept or not (tmp_path / "deep").exists())


# --- splits ------------------------------------------------------------------------------------------

@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(-3, 6), min_size=2, max_size=200), seed=st.integers(0, 1000), data=st.data())
def test_stratified_split(labels, seed, data):
    labels = np.array(labels)
    n = data.draw(st.integers(1, len(labels) - 1))
    train, validation = D.stratified_split(labels, n, seed)
    assert len(validation) == n and np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(len(labels)))
    for c in np.unique(labels): assert abs((labels[validation] == c).sum() - (labels == c).sum() * n / len(labels)) < 1
    again = D.stratified_split(labels, n, seed)
    assert np.array_equal(train, again[0]) and np.array_equal(validation, again[1])


def test_stratified_split_shuffles():
    labels = np.repeat(np.arange(10), 100)
    train, validation = D.stratified_split(labels, 200, seed=0)
    assert (np.bincount(labels[validation]) == 20).all() and (np.bincount(labels[train]) == 80).all()
    assert len(set(labels[train[:50]])) > 5 and not np.array_equal(validation, D.stratified_split(labels, 200, seed=1)[1])
    # the split of older records
    digest = hashlib.sha256(np.concatenate([train, validation]).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "c3825b3c3dbb79eb"


@pytest.mark.parametrize("labels, n, message", [
    (np.zeros(5, int), 5, "n_validation must be an integer in 1..4 for 5 labels, got 5"), (np.zeros(5, int), 0, "got 0"), (np.zeros(5, int), 0.2, "got 0.2"),
    (np.zeros((5, 2), int), 2, "flat array of integers"), (np.zeros(5), 2, "flat array of integers, got float64")])
def test_bad_splits(labels, n, message):
    with pytest.raises(ValueError, match=message): D.stratified_split(labels, n)


# --- picture folders -----------------------------------------------------------------------------------

def picture(path, color=(10, 20, 30), size=(12, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def test_nested_folder(tmp_path):
    for place in ("sea/whale/a.jpg", "sea/whale/b.png", "sea/shark/c.gif", "land/wolf/d.bmp", "land/wolf/.hidden.png"): picture(tmp_path / "top" / place)
    (tmp_path / "top" / "land" / "wolf" / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match="skipped 1 files that are no pictures, for example notes.txt"): files = D.load_image_folder(tmp_path / "top", image_size=8)
    assert files.class_names == ("wolf", "shark", "whale") and files.coarse_names == ("land", "sea") and files.fine_to_coarse == (0, 1, 1)
    assert len(files) == 4 and [p.name for p in files.skipped] == ["notes.txt"] and files.labels.tolist() == [0, 1, 2, 2] and files.coarse_labels.tolist() == [0, 1, 1, 1]
    split = files.load()
    assert split.images.shape == (4, 8, 8, 3) and np.abs(split.images.astype(int) - [10, 20, 30]).max() < 12 and "4 pictures, 3 classes" in repr(files)
    assert isinstance(files, D.ImageFiles) and files.select([2, 3]).load(4).images.shape == (2, 4, 4, 3) and files.select(files.labels == 2).labels.tolist() == [2, 2]


def test_flat_folder_and_modes(tmp_path):
    for i, mode in enumerate(("RGB", "L", "P", "RGBA", "1")): picture(tmp_path / "one" / f"{i}.png", mode=mode)
    picture(tmp_path / "two" / "0.JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = D.load_image_folder(tmp_path)
    assert files.coarse_names is None and files.coarse_labels is None and files.load(5).images.shape == (6, 5, 5, 3) and ".jpeg" in D.PICTURE_SUFFIXES


def test_bad_folders_and_pictures(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"): D.load_image_folder(tmp_path / "absent")
    picture(tmp_path / "a" / "good.jpg", size=(64, 64))
    whole = (tmp_path / "a" / "good.jpg").read_bytes()
    for name, raw in (("empty.jpg", b""), ("text.jpg", b"not a picture"), ("cut.jpg", whole[: len(whole) // 2])):
        (tmp_path / "a" / name).write_bytes(raw)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture") as e: D.read_image(tmp_path / "a" / name, 16)
        with pytest.raises(ValueError, match="cannot be read as a picture"): D.load_image_folder(tmp_path).load(16)
        assert "\n" not in str(e.value)
        (tmp_path / "a" / name).unlink()
    files = D.load_image_folder(tmp_path)
    for size in (None, 0, -3, 2.5):
        with pytest.raises(ValueError, match="image_size must be a positive number"): files.load(size)
    with pytest.raises(ValueError, match="has no part 'train'; pass indices"): files.select("train")
    with pytest.raises(FileNotFoundError, match="no picture"): D.read_image(tmp_path / "absent.png", 4)


def test_read_image_cuts_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8); wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (D.read_image(tmp_path / "wide.png", 10) == 200).all()


def test_pets_in_small(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "american_bulldog_2", "Siamese_3"): picture(folder / "images" / f"{name}.jpg")
    notes = folder / "annotations"; notes.mkdir()
    (notes / "list.txt").write_text("# all\n"); (notes / "test.txt").write_text("Siamese_3 33 1 11\n")
    (notes / "trainval.txt").write_text("#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n")
    pets = D.load_pets(tmp_path, image_size=6)
    assert pets.class_names == PET_BREEDS and pets.labels.tolist() == [0, 1, 32] and pets.coarse_labels.tolist() == [0, 1, 0]
    assert len(pets.select("train")) == 2 and pets.select("test").load().images.shape == (1, 6, 6, 3)
    for bad in ("Abyssinian_1 2 1 1", "Abyssinian_1 1 2 1", "dragon_1 1 1 1", "Abyssinian_1 1"):
        (notes / "test.txt").write_text(bad + "\n")
        with pytest.raises(ValueError, match="test.txt: unexpected line"): D.load_pets(tmp_path)
    (notes / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="lacks test.txt"): D.load_pets(tmp_path)


def test_imagenet_samples_need_their_columns(tmp_path):
    (tmp_path / "labels.csv").write_text("file,class\na,b\n")
    with pytest.raises(ValueError, match="must have the columns filename, wnid and name"): D.load_imagenet_samples(tmp_path)


def test_real_pets(pets_root):
    pets = D.load_pets(pets_root)
    train, test = pets.select("train"), pets.select("test")
    assert len(train) + len(test) == len(pets) and set(pets.labels) == set(range(37)) and not set(train.paths) & set(test.paths)
    assert pets.select(np.arange(0, len(pets), 300)).load(32).images.std() > 20
    assert D.has_data("pets", pets_root)


def test_real_cats_and_dogs(petimages_root):
    files = D.load_cats_dogs(petimages_root)
    assert files.class_names == ("Cat", "Dog") and set(files.labels) == {0, 1} and files.select([0, -1]).load(16).labels.tolist() == [0, 1]


def test_real_imagenet_samples(imagenet_root):
    files = D.load_imagenet_samples(imagenet_root)
    assert len(files) == len(set(files.class_ids)) == 1000 and files.class_ids[0] == "n01440764" and files.class_names[0] == "tench" and (files.labels == np.arange(1000)).all()
    assert files.select([0, 999]).load(24).images.shape == (2, 24, 24, 3)
