"Batched augmentation against a fair loop over the images of a batch: medians of one run, written to nbs/results/bench_preprocessing.json."
import statistics
import time
from pathlib import Path

import numpy as np

from hierlearn import preprocessing as P
from hierlearn.records import write_record
from hierlearn.shapes import load_shapes

BATCH, REPEATS, SLOW = 128, 40, 8  # SLOW: repeats of whitening, whose loop reads 38 MB an image
FOLDER = Path(__file__).resolve().parents[2] / "nbs" / "results"


def loop_flip(images, rng):
    out = np.empty_like(images)
    for i, u in enumerate(rng.random(len(images))): out[i] = images[i, :, ::-1] if u < 0.5 else images[i]
    return out


def loop_crop(images, rng, p=4):
    # the fair version: one allocation for the batch and for the padded image, slices instead of np.pad
    h, w = images.shape[1:3]
    out, padded = np.empty_like(images), np.zeros((h + 2 * p, w + 2 * p, images.shape[3]), images.dtype)
    for i, (top, left) in enumerate(rng.integers(0, 2 * p + 1, (2, len(images))).T):
        padded[p : p + h, p : p + w] = images[i]
        out[i] = padded[top : top + h, left : left + w]
    return out


def loop_standardize(images, mean, std, shift):
    out = np.empty(images.shape, np.float32)
    scale = (1 / 255 / std).astype(np.float32)
    for i in range(len(images)): out[i] = images[i] * scale + ((shift[i] - mean) / std).astype(np.float32)
    return out


def loop_shift(pca, n, rng): return np.stack([pca.eigenvectors @ (rng.normal(0, 0.1, 3) * pca.eigenvalues) for _ in range(n)])


def loop_contrast(images):
    out = np.empty(images.shape, np.float32)
    for i, image in enumerate(images):
        x = image * np.float32(1 / 255)
        x -= x.mean()
        out[i] = x / max(1e-8, x.std())
    return out


def loop_whiten(images, zca):
    out, mean, matrix = np.empty(images.shape, np.float32), zca.mean, zca.matrix
    for i, image in enumerate(images): out[i] = ((image.reshape(-1) - mean) @ matrix).reshape(image.shape)
    return out


def main():
    begin, data = time.perf_counter(), load_shapes(BATCH, 20)
    images = data.train.images
    mean, std = P.channel_statistics(images)
    pca = P.color_pca(images)
    shift = P.color_shift(pca, BATCH, np.random.default_rng(0))
    normal = P.global_contrast_normalization(images)
    zca = P.ZCA().fit(normal)

    def everything(flip, crop, standardize, color):
        rng = np.random.default_rng(0)
        return standardize(crop(flip(images, rng), rng), mean, std, color(pca, BATCH, rng))
    rng = lambda: np.random.default_rng(0)
    pairs = {
        "random_flip": (lambda: loop_flip(images, rng()), lambda: P.random_flip(images, rng())),
        "random_crop": (lambda: loop_crop(images, rng()), lambda: P.random_crop(images, rng())),
        "standardize": (lambda: loop_standardize(images, mean, std, shift), lambda: P.standardize(images, mean, std, shift)),
        "color_shift": (lambda: loop_shift(pca, BATCH, rng()), lambda: P.color_shift(pca, BATCH, rng())),
        "global_contrast_normalization": (lambda: loop_contrast(images), lambda: P.global_contrast_normalization(images)),
        "ZCA.transform": (lambda: loop_whiten(normal, zca), lambda: zca.transform(normal)),
        "flip + crop + colour + standardize": (lambda: everything(loop_flip, loop_crop, loop_standardize, loop_shift),
                                               lambda: everything(P.random_flip, P.random_crop, P.standardize, P.color_shift)),
    }
    rows = {}
    for name, both in pairs.items():
        assert np.allclose(both[0](), both[1](), atol=1e-4), name  # the two do the same
        seconds = ([], [])
        for _ in range(SLOW if name.startswith("ZCA") else REPEATS):  # in turns; processor time, which a busy machine does not change
            for call, times in zip(both, seconds):
                start = time.process_time(); call(); times.append(time.process_time() - start)
        loop, batched = map(statistics.median, seconds)
        rows[name] = {"loop_ms": round(1000 * loop, 3), "batched_ms": round(1000 * batched, 3), "ratio": round(loop / batched, 2), "batched_images_per_second": round(BATCH / batched)}
    print(f"{'batch of ' + str(BATCH):36}{'loop ms':>10}{'batched ms':>12}{'ratio':>8}{'images/s':>12}")
    for name, r in rows.items(): print(f"{name:36}{r['loop_ms']:10.2f}{r['batched_ms']:12.2f}{r['ratio']:8.1f}{r['batched_images_per_second']:12,}")
    write_record("bench_preprocessing", None, rows, {"batch": BATCH, "repeats": REPEATS, "repeats_zca": SLOW, "statistic": "median processor time"},
                 data.name, data.digest, 0, time.perf_counter() - begin, "float32", folder=FOLDER)


if __name__ == "__main__": main()
