"""Make hierlearn/data/imagenet_wordnet.json.gz: the WordNet 3.0 hypernym graph above the 1,000 ImageNet classes.

    python tools/make_imagenet_graph.py --wordnet wordnet.zip --classes imagenet_samples.zip

`--wordnet` is NLTK's corpora/wordnet.zip (or its unpacked folder), `--classes` a CSV file with the columns wnid and
name, or a zip that holds labels.csv. The order of the classes is that of the sorted wnids, which is the order of
every ImageNet-1k model. The same input gives the same bytes. WordNet's licence notice is written beside the file."""
import argparse, csv, gzip, io, json, os, re, zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("HIERLEARN_SHARED", HERE.parent.parent / "shared" / "data"))


def read_member(archive, name):
    "Text of `name` in a zip or folder, wherever it lies inside"
    if Path(archive).is_dir(): return next(Path(archive).rglob(name)).read_text(encoding="utf-8")
    with zipfile.ZipFile(archive) as zipped:
        return zipped.read(next(member for member in zipped.namelist() if member.split("/")[-1] == name)).decode(
            "utf-8")


def read_classes(path):
    "`{wnid: class name}` sorted by wnid"
    text = Path(path).read_text(encoding="utf-8") if Path(path).suffix == ".csv" else read_member(path, "labels.csv")
    names = {row["wnid"]: row["name"] for row in csv.DictReader(io.StringIO(text))}
    if len(names) != 1000: raise SystemExit(f"{path} holds {len(names)} classes, 1000 are needed")
    return dict(sorted(names.items()))


def read_nouns(wordnet):
    "`{offset: (lemmas, hypernym offsets, definition)}` of all noun synsets; the format is that of wndb(5WN)"
    nouns = {}
    for line in read_member(wordnet, "data.noun").splitlines():
        if line.startswith("  "): continue  # the licence
        data, _, gloss = line.partition("|")
        fields = data.split()
        count = int(fields[3], 16)
        lemmas = fields[4:4 + 2 * count:2]
        pointers = fields[5 + 2 * count:]
        # @i: of an instance
        hypernyms = [pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
        definition = re.sub(r'"[^"]*"', "", gloss).strip().strip("; ")  # without the examples
        nouns[fields[0]] = lemmas, hypernyms, definition
    return nouns


def read_licence(wordnet):
    "WordNet's licence, which stands numbered at the top of each of its files"
    lines = [line for line in read_member(wordnet, "data.noun").splitlines()[:60] if line.startswith("  ")]
    return "\n".join(re.sub(r"^ *\d+ ?", "", line).rstrip() for line in lines) + "\n"


def read_senses(wordnet):
    "`{lemma: offsets of its senses, the most usual first}`"
    senses = {}
    for line in read_member(wordnet, "index.noun").splitlines():
        if line.startswith("  "): continue
        fields = line.split()
        senses[fields[0]] = fields[-int(fields[2]):]
    return senses


def graph(wordnet, classes):
    "The content of the file: parallel lists, one entry for each synset"
    names, nouns, senses = read_classes(classes), read_nouns(wordnet), read_senses(wordnet)
    kept, queue = set(), [wnid[1:] for wnid in names]
    while queue:
        offset = queue.pop()
        if offset not in kept: kept.add(offset); queue += nouns[offset][1]
    order = sorted(kept)
    place = {offset: i for i, offset in enumerate(order)}
    rank = lambda lemma, offset: senses[lemma.lower()].index(offset) + 1
    return {
        "source": "WordNet 3.0, Princeton University; see WORDNET_LICENSE.txt",
        "synsets": [f"{nouns[o][0][0].lower()}.n.{rank(nouns[o][0][0], o):02d}" for o in order],
        "wnids": ["n" + o for o in order],
        "parents": [[place[parent] for parent in nouns[o][1]] for o in order],
        "lemmas": [nouns[o][0] for o in order],
        "senses": [[rank(lemma, o) for lemma in nouns[o][0]] for o in order],
        "glosses": [nouns[o][2] for o in order],
        "classes": [place[wnid[1:]] for wnid in names],
        "labels": list(names.values()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wordnet", type=Path, default=Path(os.environ.get("NLTK_DATA", SHARED / "nltk_data"))
        / "corpora" / "wordnet.zip")
    parser.add_argument("--classes", type=Path, default=SHARED / "imagenet_samples.zip")
    parser.add_argument("--out", type=Path, default=HERE.parent / "hierlearn" / "data" / "imagenet_wordnet.json.gz")
    args = parser.parse_args()
    data = graph(args.wordnet, args.classes)
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=9, mtime=0) as file: file.write(text)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(packed.getvalue())
    (args.out.parent / "WORDNET_LICENSE.txt").write_text(read_licence(args.wordnet), encoding="utf-8")
    print(
        f"{args.out}: {len(data['synsets'])} synsets, {sum(map(len, data['parents']))} edges, "
        f"{len(data['classes'])} classes, {len(packed.getvalue())} bytes")


if __name__ == "__main__": main()
