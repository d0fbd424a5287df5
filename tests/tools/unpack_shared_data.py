"""Unpack the packed labelled images (zip files of mosaics and photos) into the layouts of their official archives.

usage: unpack_shared_data.py SOURCE TARGET
Makes in TARGET: cifar-10-batches-py/, cifar-100-python/, oxford-iiit-pet/{images,annotations}, PetImages/{Cat,Dog}, imagenet-samples/{images,labels.csv},
and at last an empty file `complete`. A folder appears under its name only when it is whole.
"""
import csv
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


class Python2Pickler(pickle._Pickler):
    "Writes text as Python 2 did, so that the files read with encoding='latin1' and with encoding='bytes' alike."
    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, text):
        raw = text if isinstance(text, bytes) else text.encode()
        self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_text


def dump(thing, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as f: Python2Pickler(f, 2).dump(thing)


def read_mosaics(archive):
    "Images (N, 32, 32, 3) uint8, rows of the label table, meta data."
    with zipfile.ZipFile(archive) as z:
        tiles = []
        for name in sorted(n for n in z.namelist() if n.startswith("mosaics/")):
            mosaic = np.asarray(Image.open(io.BytesIO(z.read(name))).convert("RGB"))
            rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
            tiles.append(mosaic.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
        labels = list(csv.DictReader(io.StringIO(z.read("labels.csv").decode())))
        return np.concatenate(tiles), labels, json.loads(z.read("meta.json"))


def official(images, rows, columns):
    "The dictionary of an official file; the images are sorted by class, so they are shuffled here."
    order = np.random.default_rng(0).permutation(len(images))
    flat = np.ascontiguousarray(images[order].transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    return {"data": flat, "filenames": [rows[i]["filename"] for i in order], **{key: [int(rows[i][c]) for i in order] for key, c in columns.items()}}


def cifar10(source, folder):
    for split in ("train", "test"):
        images, rows, meta = read_mosaics(source / f"cifar10_{split}.zip")
        d = official(images, rows, {"labels": "label"})
        if split == "test": dump(d, folder / "test_batch")
        else:
            for i in range(5): dump({k: v[i * 10000 : (i + 1) * 10000] for k, v in d.items()}, folder / f"data_batch_{i + 1}")
    dump({"label_names": meta["label_names"], "num_cases_per_batch": 10000, "num_vis": 3072}, folder / "batches.meta")


def cifar100(source, folder):
    for split in ("train", "test"):
        images, rows, meta = read_mosaics(source / f"cifar100_{split}.zip")
        dump(official(images, rows, {"fine_labels": "fine_label", "coarse_labels": "coarse_label"}), folder / split)
    dump({k: meta[k] for k in ("fine_label_names", "coarse_label_names")}, folder / "meta")


def photos(archive, keep):
    "A function that unpacks the members of an archive that begin with one of `keep`."
    def unpack(source, folder):
        with zipfile.ZipFile(source / archive) as z:
            for name in z.namelist():
                inner = name.removeprefix("PetImages/")
                if name.endswith("/") or not inner.startswith(keep): continue
                target = folder / inner
                if not target.resolve().is_relative_to(folder.resolve()): raise ValueError(f"{archive} holds a path outside itself: {name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(z.read(name))
    return unpack


PARTS = {
    "cifar-10-batches-py": ("cifar10_train.zip", cifar10),
    "cifar-100-python": ("cifar100_train.zip", cifar100),
    "oxford-iiit-pet": ("oxford_pets_subset.zip", photos("oxford_pets_subset.zip", ("images/", "annotations/", "labels.csv"))),
    "PetImages": ("petimages_cat_dog_subset.zip", photos("petimages_cat_dog_subset.zip", ("Cat/", "Dog/"))),
    "imagenet-samples": ("imagenet_samples.zip", photos("imagenet_samples.zip", ("images/", "labels.csv"))),
}


def main(source, target):
    source, target = Path(source), Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for name, (archive, unpack) in PARTS.items():
        if (target / name).exists() or not (source / archive).exists(): continue
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target))
        try:
            unpack(source, partial)
            partial.chmod(0o755)
            os.replace(partial, target / name)
        finally: shutil.rmtree(partial, ignore_errors=True)
    (target / "complete").write_text("")


if __name__ == "__main__":
    if len(sys.argv) != 3: sys.exit(__doc__)
    main(*sys.argv[1:])
