"hierlearn.datasets: the official layout, downloads from a local server, picture folders, and hostile input."
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hierlearn import datasets as D
from hierlearn import taxonomy as T
from hierlearn.taxonomy import PET_BREEDS

NAMES = {
    "ARCHIVES", "Archive", "Dataset", "ImageFiles", "Split", "download_archive", "has_data", "load_cats_dogs", "load_cifar10",
    "load_cifar100", "load_image_folder", "load_imagenet_samples", "load_pets", "open_picture", "read_cifar_file", "stratified_split"}


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
    with pytest.raises(ValueError, match="a data set must be one of cifar10, .*got 'mnist'"): D.has_data("mnist")


def test_has_data(tmp_path):
    make_cifar10(tmp_path)
    assert D.has_data("cifar10", tmp_path) and D.has_data("cifar10", tmp_path / "cifar-10-batches-py") and not D.has_data("cifar100", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="no file .*data_batch_3; delete its folder"): D.load_cifar10(tmp_path)


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
    (b"cnumpy\nndarray\n(tR\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
])
def test_a_pickle_that_imports_is_refused(tmp_path, monkeypatch, payload, refused):
    monkeypatch.chdir(tmp_path)
    folder = make_cifar10(tmp_path)
    (folder / "data_batch_2").write_bytes(payload)
    with pytest.raises(ValueError, match=f"data_batch_2 .*asks for ({refused}), which no CIFAR file needs") as e: D.load_cifar10(tmp_path)
    assert "\n" not in str(e.value) and not (tmp_path / "hacked").exists()


def test_arrays_of_objects_are_refused(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps({"data": np.array([None, 1], object)}, 4))
    with pytest.raises(ValueError, match="truncated or no CIFAR file"): D.read_cifar_file(tmp_path / "f")


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
    ({"data": np.zeros((20, 3000), np.uint8)}, r"'data' must be uint8 of shape \(N, 3072\), got .*\(20, 3000\)"),
    ({"data": np.zeros((0, 3072), np.uint8)}, r"'data' must be uint8 of shape \(N, 3072\)"),
    ({"data": np.zeros((20, 3072), np.int64)}, "truncated or no CIFAR file"),
    ({"data": np.zeros(6, np.uint8)}, "'data' must be uint8"),
    ({"data": [1, 2]}, r"'data' must be uint8 .* got \[1, 2\]"),
    ({"labels": [0] * 19}, "'labels' must be 20 integers in 0..9"),
    ({"labels": [0.5] * 20}, "truncated or no CIFAR file|must be 20 integers"),
    ({"labels": [[0], [1, 2]] * 10}, "truncated or no CIFAR file"),
    ({"labels": [True] * 20}, "truncated or no CIFAR file"),
    ({"labels": ["1"] * 20}, "must be 20 integers"),
    ({"labels": [0] * 19 + [10]}, r"must be 20 integers in 0..9"),
    ({"labels": [-1] + [0] * 19}, r"must be 20 integers in 0..9"),
])
def test_wrong_contents(tmp_path, values, message):
    folder = make_cifar10(tmp_path)
    change(folder / "data_batch_4", **values)
    with pytest.raises(ValueError, match=f"data_batch_4.*({message})") as e: D.load_cifar10(tmp_path)
    assert "\n" not in str(e.value)


def test_other_wrong_contents(tmp_path):
    folder = make_cifar10(tmp_path)
    change(folder / "batches.meta", label_names=["one"])
    with pytest.raises(ValueError, match="batches.meta: 'label_names' must be a list of 10 names"): D.load_cifar10(tmp_path)
    folder = make_cifar10(tmp_path)
    dump({"data": pixels(3, 0), "fine_labels": [1, 2, 3]}, folder / "test_batch")
    with pytest.raises(ValueError, match="test_batch: 'labels' must be 3 integers in 0..9, got None"): D.load_cifar10(tmp_path)
    dump([1, 2], folder / "test_batch")
    with pytest.raises(ValueError, match="test_batch is truncated or no CIFAR file"): D.load_cifar10(tmp_path)
    folder = make_cifar100(tmp_path)
    change(folder / "test", coarse_labels=[0] * 200)
    with pytest.raises(ValueError, match="each fine label must stand under one coarse label"): D.load_cifar100(tmp_path)
    with pytest.raises(FileNotFoundError): D.read_cifar_file(tmp_path / "absent")


def nested_tuples(depth):
    "A pickle of some hundred bytes: the hash of its key takes 2 ** depth steps."
    raw = b"\x80\x02}(K\x01\x85"
    for i in range(depth): raw += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    return raw + b"K\x01u."


def nested_lists(depth):
    raw = b"\x80\x02}(U\x06labels](K\x01e"
    for i in range(depth): raw += b"q" + bytes([i]) + b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e"
    return raw + b"u."


@pytest.mark.parametrize("raw", [
    nested_tuples(40), nested_lists(40),
    b"\x80\x02}r\xfe\xff\xff\xff.", b"\x80\x02}r\xff\xff\xff\x7fU\x01aK\x01s.",  # a place in memory far away
    b"\x80\x02T\xff\xff\xff\x7fabc.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.",
    b"\x80\x02}(U\x01aU\xfah\x00u", b"I1\n.", b"\x80\x02cnumpy\nndarray\n]R.", b"(" * 9999 + b".", b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
], ids=range(12))
def test_pickles_without_bound(tmp_path, raw):
    "Refused, or read, in a moment and in little memory; today's way for a dozen of ways to hang or to fill it."
    (tmp_path / "f").write_bytes(raw)
    start = time.process_time()
    try: content = D.read_cifar_file(tmp_path / "f")
    except ValueError as e: assert "\n" not in str(e)
    else: assert len(content) <= 1
    assert time.process_time() - start < 20  # hashing 2 ** 40 tuples takes hours


def test_files_of_no_bound(tmp_path):
    "Pipes would hang, and a file of an absurd size would fill the memory."
    folder = make_cifar10(tmp_path)
    (folder / "data_batch_2").unlink(); os.mkfifo(folder / "data_batch_2")
    with pytest.raises(ValueError, match="data_batch_2 must be a file of at most"): D.load_cifar10(tmp_path)
    (folder / "data_batch_2").unlink()
    with open(folder / "data_batch_2", "wb") as file: file.truncate(2**40)
    with pytest.raises(ValueError, match="data_batch_2 must be a file of at most"): D.load_cifar10(tmp_path)


# --- downloads from a local server -----------------------------------------------------------------

@pytest.fixture
def server(tmp_path):
    "Serves a folder over HTTP; yields the folder and its address."
    folder = tmp_path / "served"; folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *unused): pass

        def do_GET(self):
            if self.path.startswith("/odd/"):
                self.send_response(200); self.send_header("Content-Length", "abc"); self.end_headers()
                return self.wfile.write((folder / self.path[5:]).read_bytes())
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


def nothing_left(root, kept): return sorted(p.name for p in root.iterdir()) == kept


FILES = ("data_batch_1", "batches.meta")


@pytest.mark.parametrize("kept", [[], ["mine.txt"]])
@pytest.mark.parametrize("case, error, message", [
    ("another", ValueError, "it is truncated or another file"),
    ("cut", (ValueError, ConnectionError), "could not fetch|it is truncated"),
    ("absent", ConnectionError, "could not fetch .*404"),
    ("refused", ConnectionError, "could not fetch"),
    ("no address", ConnectionError, "could not fetch"),
    ("no archive", ValueError, "cannot be unpacked"),
    ("half archive", ValueError, "cannot be unpacked"),
    ("foreign", ValueError, "lacks cifar-10-batches-py/data_batch_1"),
    ("large", ConnectionError, "larger than was expected"),
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
    if case in ("no archive", "half archive", "foreign"): md5 = hashlib.md5(path.read_bytes()).hexdigest()
    most = 1000 if case == "large" else 2**28
    with pytest.raises(error, match=message) as e: D.download_archive(address, md5, "cifar-10-batches-py", FILES, root, most)
    assert "\n" not in str(e.value) and nothing_left(root, kept)


def test_a_foolish_length_is_no_harm(server, tmp_path):
    served, url = server
    md5 = pack(make_cifar10(tmp_path / "made"), served / "a.tar.gz")
    folder = D.download_archive(f"{url}/odd/a.tar.gz", md5, "cifar-10-batches-py", FILES, tmp_path / "cache")
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def entry(name, content=b"", kind=tarfile.REGTYPE, link="", **values):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    for key, value in values.items(): setattr(info, key, value)
    return info, content


def raw_entry(name, size):
    "A header that says what it likes."
    head = tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)
    return head[:124] + size.ljust(12, b"\0") + head[136:]


GOOD = entry("data/wanted", b"good")


def hostile(out):
    "name -> entries of an archive, and whether the wanted file in it can be had."
    through = [entry("data", kind=tarfile.SYMTYPE, link=str(out)), entry("data/evil", b"x")]
    steps, path, letters = [], "", "abcdefghijklmnop"  # CVE-2025-4517: so long that the check of the real path gives up
    for letter in letters:
        steps += [entry(f"{path}{'d' * 247}", kind=tarfile.DIRTYPE), entry(path + letter, kind=tarfile.SYMTYPE, link="d" * 247)]
        path += "d" * 247 + "/"
    link = "/".join(letters) + "/" + "l" * 254
    up = "../" * (3 if out.name else 0) + out.name
    steps += [entry(link, kind=tarfile.SYMTYPE, link="../" * 16), entry("escape", kind=tarfile.SYMTYPE, link=f"{link}/../{up}"), entry("escape/evil", b"x")]
    return {
        "parents": ([entry("../evil", b"x"), entry("data/../../evil", b"x"), GOOD], True),
        "absolute": ([entry(str(out / "evil"), b"x"), GOOD], True),
        "through a link": ([*through, GOOD], True),
        "long paths": ([*steps, GOOD], True),
        "hard link": ([entry("data/wanted", kind=tarfile.LNKTYPE, link=str(out / "secret"))], False),
        "wanted link": ([entry("data/wanted", kind=tarfile.SYMTYPE, link=str(out / "secret"))], False),
        "wanted link first": ([entry("data/wanted", kind=tarfile.SYMTYPE, link=str(out / "evil")), GOOD], False),
        "wanted folder": ([entry("data/wanted", kind=tarfile.DIRTYPE)], False),
        "wanted device": ([entry("data/wanted", kind=tarfile.CHRTYPE, devmajor=1, devminor=5)], False),
        "wanted pipe": ([entry("data/wanted", kind=tarfile.FIFOTYPE)], False),
        "devices": ([entry("data/zero", kind=tarfile.CHRTYPE, devmajor=1, devminor=5), entry("data/p", kind=tarfile.FIFOTYPE), GOOD], True),
        "twice": ([GOOD, entry("data/wanted", b"evil")], True),  # the first one counts
        "twice, a link": ([GOOD, entry("data/wanted", kind=tarfile.SYMTYPE, link=str(out / "evil"))], True),
        "another name": ([entry("data/WANTED", b"x"), entry("./data/wanted", b"x"), entry("data//wanted", b"x")], False),
        "renamed": ([entry("data/other", b"x", pax_headers={"path": "data/wanted"})], False),
    }


@pytest.mark.parametrize("case", hostile(Path("/")))
def test_hostile_archives_write_nothing_outside(tmp_path, case):
    out = tmp_path / "outside"; out.mkdir(); (out / "secret").write_text("secret")
    entries, is_there = hostile(out)[case]
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for info, content in entries: tar.addfile(info, io.BytesIO(content))
    md5, root = hashlib.md5((tmp_path / "a.tar.gz").read_bytes()).hexdigest(), tmp_path / "top" / "root"
    get = functools.partial(D.download_archive, (tmp_path / "a.tar.gz").as_uri(), md5, "data", ("wanted",), root)
    if is_there:
        folder = get()
        assert [p.name for p in folder.iterdir()] == ["wanted"] and (folder / "wanted").read_bytes() == b"good"
        assert (folder / "wanted").is_file() and not (folder / "wanted").is_symlink()
    else:
        with pytest.raises(ValueError, match="cannot be unpacked") as e: get()
        assert "\n" not in str(e.value) and nothing_left(root, [])
    assert [p.name for p in out.iterdir()] == ["secret"] and (out / "secret").read_text() == "secret"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.name not in ("data", "wanted")) == ["a.tar.gz", "outside", "root", "secret", "top"]


def many(n): return b"".join(raw_entry(f"f{i}", b"00000000000") for i in range(n))


@pytest.mark.parametrize("raw, message", [
    (raw_entry("data/wanted", b"77777777777") + b"x" * 512, "more than was expected"),  # 8 GiB are promised
    (raw_entry("other", b"77777777777") + b"x" * 512, "more than was expected"),
    (raw_entry("data/wanted", b"00000001000") + b"x" * 100, "breaks off"),
    (raw_entry("data/wanted", b"-0000000010") + b"x" * 512, "no tar file"),  # backwards, for ever
    (raw_entry("data/wanted", b"\x80" + b"\xff" * 11), "no tar file"),
    (raw_entry("other", b"00010000000") + bytes(2**21), "more than was expected"),  # a bomb: zeros shrink a thousand times
    (many(5000), "more than was expected"),
    (b"", "lacks data/wanted"), (bytes(1024), "lacks data/wanted"), (b"x" * 99, "no tar file"),
], ids=range(10))
def test_archives_of_false_sizes(tmp_path, raw, message):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(raw))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=f"cannot be unpacked .*{message}") as e: D.download_archive(path.as_uri(), md5, "data", ("wanted",), tmp_path / "root", 2**20)
    assert "\n" not in str(e.value) and nothing_left(tmp_path / "root", [])


def test_two_who_fetch_at_once(tmp_path):
    folder = make_cifar10(tmp_path / "made")
    md5, url = pack(folder, tmp_path / "a.tar.gz"), (tmp_path / "a.tar.gz").as_uri()
    root, errors, start = tmp_path / "root", [], threading.Barrier(6)
    def fetch():
        try:
            start.wait(20)
            got = D.download_archive(url, md5, folder.name, FILES, root)
            assert all((got / name).read_bytes() == (folder / name).read_bytes() for name in FILES)
        except BaseException as e: errors.append(e)
    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not errors and [p.name for p in root.iterdir()] == [folder.name]
    assert sorted(p.name for p in (root / folder.name).iterdir()) == sorted(FILES)


def test_a_planted_link_is_not_followed(tmp_path):
    "Where a link stands under the folder's name, nothing is written through it."
    folder = make_cifar10(tmp_path / "made")
    md5, url = pack(folder, tmp_path / "a.tar.gz"), (tmp_path / "a.tar.gz").as_uri()
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir(); out.mkdir(); (root / folder.name).symlink_to(out)
    D.download_archive(url, md5, folder.name, FILES, root)
    assert not list(out.iterdir()) and [p.name for p in root.iterdir()] == [folder.name]


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
    (np.zeros(5, int), 5, "n_validation must be an integer in 1..4, got 5"), (np.zeros(5, int), 0, "got 0"), (np.zeros(5, int), 0.2, "got 0.2"),
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
    with pytest.warns(UserWarning, match="1 files are no pictures: notes.txt"): files = D.load_image_folder(tmp_path / "top")
    assert files.class_names == ("wolf", "shark", "whale") and files.coarse_names == ("land", "sea") and files.fine_to_coarse == (0, 1, 1)
    assert len(files) == 4 and [p.name for p in files.skipped] == ["notes.txt"] and files.labels.tolist() == [0, 1, 2, 2] and files.coarse_labels.tolist() == [0, 1, 1, 1]
    split = files.load(8)
    assert split.images.shape == (4, 8, 8, 3) and np.abs(split.images.astype(int) - [10, 20, 30]).max() < 12 and "4 pictures, 3 classes" in repr(files)
    assert isinstance(files, D.ImageFiles) and files.select([2, 3]).load(4).images.shape == (2, 4, 4, 3) and files.select(files.labels == 2).labels.tolist() == [2, 2]


def test_every_suffix_of_the_taxonomy_is_a_picture_here(tmp_path):
    assert D.PICTURE_SUFFIXES is T.PICTURE_SUFFIXES
    for suffix in T.PICTURE_SUFFIXES:
        picture(tmp_path / suffix[1:] / f"a{suffix.upper()}", mode="L" if suffix == ".pgm" else "RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = D.load_image_folder(tmp_path)
    assert len(files) == len(T.PICTURE_SUFFIXES) and files.load(4).images.shape[1:] == (4, 4, 3)


def test_classes_are_those_of_the_training_part(tmp_path):
    for place in ("train/a/x.png", "train/b/x.png", "train/c/x.png", "val/c/y.png", "val/a/y.png", "odd/d/z.png"): picture(tmp_path / place)
    train = D.load_image_folder(tmp_path / "train")
    val = D.load_image_folder(tmp_path / "val", like=train)
    assert val.class_names == train.class_names == ("a", "b", "c") and val.labels.tolist() == [0, 2] and val.name == "val"
    assert D.load_image_folder(tmp_path / "val").labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="like= has no class d"): D.load_image_folder(tmp_path / "odd", like=train)


def test_a_class_without_a_real_picture_is_refused(tmp_path):
    picture(tmp_path / "a" / "x.png")
    (tmp_path / "b").mkdir(); (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="no picture in b; fill or remove it"): D.load_image_folder(tmp_path)
        (tmp_path / "b" / "gone.png").unlink(); os.mkfifo(tmp_path / "b" / "pipe.png")
        with pytest.raises(ValueError, match="no picture in b"): D.load_image_folder(tmp_path)
    picture(tmp_path / "b" / "y.png")
    with pytest.warns(UserWarning, match="1 files are no pictures: pipe.png"): assert len(D.load_image_folder(tmp_path).load(4).images) == 2


def test_a_class_that_is_a_link_to_a_folder(tmp_path):
    picture(tmp_path / "elsewhere" / "x.png"); picture(tmp_path / "top" / "a" / "y.png")
    (tmp_path / "top" / "b").symlink_to(tmp_path / "elsewhere")
    files = D.load_image_folder(tmp_path / "top")
    assert files.class_names == ("a", "b") and files.labels.tolist() == [0, 1]


def test_flat_folder_and_modes(tmp_path):
    for i, mode in enumerate(("RGB", "L", "P", "RGBA", "1")): picture(tmp_path / "one" / f"{i}.png", mode=mode)
    picture(tmp_path / "two" / "0.JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = D.load_image_folder(tmp_path)
    assert files.coarse_names is None and files.coarse_labels is None and files.load(5).images.shape == (6, 5, 5, 3)


def test_bad_folders_and_pictures(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"): D.load_image_folder(tmp_path / "absent")
    picture(tmp_path / "a" / "good.jpg", size=(64, 64))
    whole = (tmp_path / "a" / "good.jpg").read_bytes()
    for name, raw in (("empty.jpg", b""), ("text.jpg", b"not a picture"), ("cut.jpg", whole[: len(whole) // 2])):
        (tmp_path / "a" / name).write_bytes(raw)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture") as e: D.open_picture(tmp_path / "a" / name)
        with pytest.raises(ValueError, match="cannot be read as a picture"): D.load_image_folder(tmp_path).load(16)
        assert "\n" not in str(e.value)
        (tmp_path / "a" / name).unlink()
    files = D.load_image_folder(tmp_path)
    for size in (None, 0, -3, 2.5):
        with pytest.raises(ValueError, match="image_size must be an integer of at least 1, got"): files.load(size)
    with pytest.raises(ValueError, match="has no part 'train'; pass indices"): files.select("train")
    with pytest.raises(FileNotFoundError, match="no picture .*absent.png; check the path"): D.open_picture(tmp_path / "absent.png")


def test_load_cuts_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8); wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    files = D.ImageFiles("wide", (tmp_path / "wide.png",), np.array([0]), ("a",))
    assert (files.load(10).images == 200).all()


# --- one reader of a picture ---------------------------------------------------------------------------

RAMP = np.arange(0, 256, 5, dtype=np.uint8)[None].repeat(9, 0)  # 9 rows, 52 columns


def levels(picture): return np.asarray(D.open_picture(picture)).astype(int)


@pytest.mark.parametrize("name, image, tolerance", [
    ("grey.png", Image.fromarray(RAMP), 0), ("grey.jpg", Image.fromarray(RAMP), 4), ("grey.pgm", Image.fromarray(RAMP), 0),
    ("palette.gif", Image.fromarray(RAMP), 0), ("palette.png", Image.fromarray(RAMP).convert("P"), 0), ("alpha.png", Image.fromarray(RAMP).convert("LA"), 0),
    ("rgba.png", Image.fromarray(RAMP).convert("RGBA"), 0), ("cmyk.jpg", Image.fromarray(RAMP).convert("CMYK"), 6), ("cmyk.tif", Image.fromarray(RAMP).convert("CMYK"), 1),
    ("16.png", Image.fromarray(RAMP.astype(np.uint16) * 257), 0), ("16.tif", Image.fromarray(RAMP.astype(np.uint16) * 257), 0), ("web.webp", Image.fromarray(RAMP).convert("RGB"), 12),
])
def test_modes_of_pictures(tmp_path, name, image, tolerance):
    image.save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name)):
            assert D.open_picture(source).mode == "RGB" and np.abs(levels(source) - RAMP[..., None]).max() <= tolerance


def test_sixteen_bits_in_other_forms(tmp_path):
    (tmp_path / "16.pgm").write_bytes(b"P5 52 9 65535\n" + (RAMP.astype(">u2") * 257).astype(">u2").tobytes())
    assert (levels(tmp_path / "16.pgm") == RAMP[..., None]).all()
    assert (levels(Image.fromarray(RAMP.astype(np.uint16) * 257)) == RAMP[..., None]).all()


@pytest.mark.parametrize("name, image", [
    ("float.tif", Image.fromarray(RAMP.astype(np.float32) / 255)), ("int32.tif", Image.fromarray(RAMP.astype(np.int32)))])
def test_numbers_without_a_known_white_are_refused(tmp_path, name, image):
    image.save(tmp_path / name)
    for source in (tmp_path / name, image):
        with pytest.raises(ValueError, match="no known white; save 8 bits") as e: D.open_picture(source)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_turned_pictures_stand_upright(tmp_path, kind):
    upright = Image.fromarray(np.full((6, 10, 3), 99, np.uint8))
    for orientation, size in ((1, (10, 6)), (3, (10, 6)), (6, (6, 10)), (8, (6, 10))):
        exif = Image.Exif(); exif[274] = orientation
        upright.save(tmp_path / f"a.{kind}", exif=exif)
        assert D.open_picture(tmp_path / f"a.{kind}").size == size
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "16.png", exif=exif)
    assert D.open_picture(tmp_path / "16.png").size == (9, 52)


def test_transparent_palettes_say_nothing(tmp_path):
    image = Image.fromarray(RAMP).convert("P"); image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert D.open_picture(tmp_path / "p.png").mode == "RGB"


@pytest.mark.parametrize("name", ["drawing.jpg", "drawing.eps", "drawing.png"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, name):
    "A program called gs on the path leaves a trace when it is started; opened by Pillow alone, this file starts it."
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\necho 10.0\n"); (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match="cannot be read as a picture"): D.open_picture(tmp_path / name)
    files = D.ImageFiles("drawing", (tmp_path / name,), np.array([0]), ("a",))
    with pytest.raises(ValueError, match="cannot be read as a picture"): files.load(8)
    assert not (tmp_path / "started").exists()


def test_bombs_and_pipes(tmp_path):
    def chunk(kind, data):
        import zlib
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for side in (8193, 13300, 60000):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(ValueError, match="bomb.png cannot be read as a picture .*(over 67,108,864 pixels|bomb)") as e: D.open_picture(tmp_path / "bomb.png")
        assert "\n" not in str(e.value)
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        with pytest.raises(ValueError, match="no regular file"): D.open_picture(path)


def test_arrays_and_strangers():
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert (levels(colour) == colour).all() and (levels(colour[..., 0]) == colour[..., :1]).all()
    for bad, got in ((colour / 255, "float64"), (colour[None], r"\(1, 4, 6, 3\)"), (colour[..., :2], r"\(4, 6, 2\)"), (colour[:0], r"\(0, 6, 3\)"), (3, "int"), (None, "NoneType"), (colour[0, 0], r"\(3,\)")):
        with pytest.raises(ValueError, match=f"a picture must be a path, a PIL image or a uint8 array .*got .*{got}"): D.open_picture(bad)


def test_large_photographs_are_decoded_no_larger_than_needed(tmp_path):
    Image.new("RGB", (1600, 1200), (200, 100, 50)).save(tmp_path / "a.jpg")
    assert D.open_picture(tmp_path / "a.jpg").size == (1600, 1200) and min(D.open_picture(tmp_path / "a.jpg", 64).size) in range(64, 600)


def test_pets_in_small(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("Abyssinian_1", "american_bulldog_2", "Siamese_3"): picture(folder / "images" / f"{name}.jpg")
    notes = folder / "annotations"; notes.mkdir()
    (notes / "list.txt").write_text("# all\n"); (notes / "test.txt").write_text("Siamese_3 33 1 11\n")
    (notes / "trainval.txt").write_text("#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\namerican_bulldog_2 2 2 1\n")
    pets = D.load_pets(tmp_path)
    assert pets.class_names == PET_BREEDS and pets.labels.tolist() == [0, 1, 32] and pets.coarse_labels.tolist() == [0, 1, 0]
    assert len(pets.select("train")) == 2 and pets.select("test").load(6).images.shape == (1, 6, 6, 3)
    for bad in ("Abyssinian_1 2 1 1", "Abyssinian_1 1 2 1", "dragon_1 1 1 1", "Abyssinian_1 1"):
        (notes / "test.txt").write_text(bad + "\n")
        with pytest.raises(ValueError, match="test.txt: odd line"): D.load_pets(tmp_path)
    (notes / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no file .*test.txt"): D.load_pets(tmp_path)


def test_imagenet_samples_need_their_columns(tmp_path):
    for text in ("file,class\na,b\n", "", "filename,wnid,name\na.png,n1\n", "filename,wnid,name\na.png,,x\n"):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(ValueError, match="must have the columns filename, wnid and name"): D.load_imagenet_samples(tmp_path)
    (tmp_path / "labels.csv").write_bytes("filename,wnid,name\n".encode("utf-16"))
    with pytest.raises(ValueError, match="must be UTF-8"): D.load_imagenet_samples(tmp_path)


@pytest.mark.parametrize("name", ["../secret.jpg", "{top}/secret.jpg", "link.jpg", "sub/../../secret.jpg", "folder/secret.jpg", "..", "."])
def test_lists_of_files_stay_in_their_folder(tmp_path, name):
    picture(tmp_path / "secret.jpg")
    for folder, mark in (("imagenet-samples", "labels.csv"), ("oxford-iiit-pet", "annotations/list.txt")):
        images = tmp_path / folder / "images"
        (images / "sub").mkdir(parents=True); (tmp_path / folder / mark).parent.mkdir(exist_ok=True)
        (images / "folder").symlink_to(tmp_path)
        for link in ("link.jpg", "Abyssinian_link.jpg"): (images / link).symlink_to(tmp_path / "secret.jpg")
    name = name.format(top=tmp_path)
    (tmp_path / "imagenet-samples" / "labels.csv").write_text(f"filename,wnid,name\n{name},n01,x\n")
    with pytest.raises(ValueError, match="labels.csv names .*which lies elsewhere"): D.load_imagenet_samples(tmp_path)
    notes = tmp_path / "oxford-iiit-pet" / "annotations"
    for file in ("list.txt", "test.txt"): (notes / file).write_text("")
    stem = {"link.jpg": "Abyssinian_link"}.get(name, f"Abyssinian_/../{name.removesuffix('.jpg')}")
    (notes / "trainval.txt").write_text(f"{stem} 1 1 1\n")
    with pytest.raises(ValueError, match="trainval.txt (names .*which lies elsewhere|.*odd line)|trainval.txt: odd line"): D.load_pets(tmp_path)


def test_classes_stand_in_the_order_of_the_taxonomies(cifar_root, cifar100_root):
    "A data set and its ready-made taxonomy number the classes alike."
    ten, hundred = D.load_cifar10(cifar_root), D.load_cifar100(cifar100_root)
    assert ten.class_names == T.Taxonomy.cifar10().leaves and hundred.class_names == T.Taxonomy.cifar100().leaves
    assert T.Taxonomy.pets().leaves == PET_BREEDS


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
