"""The rooms: which notebook exports which module, what they import from each other, and a drawing of it.

usage: rooms.py [FILE]      default: nbs/images/imports.svg
"""
import ast
import json
import re
import sys
from pathlib import Path

from common import NBS, PACKAGE, notebooks

EXPORT = re.compile(r"^#\|\s*exports?\b", re.M)
# cells whose code a page does not show
UNSEEN = re.compile(r"^#\|\s*(hide|default_exp|export|exporti|include:\s*false|echo:\s*false|eval:\s*false)\b", re.M
    | re.I)


def cells(path):
    "The cells of a notebook."
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    "The text of a cell."
    return "".join(cell["source"])


def default_exp(path):
    "The module that a notebook exports, dotted below the package, or None."
    text = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code")
    found = re.search(r"^#\|\s*default_exp\s+(\S+)", text, re.M)
    return found and found[1]


def seen(path):
    "Code of the cells that a page shows: (id, text)."
    found = [(c["id"], source(c)) for c in cells(path) if c["cell_type"] == "code"]
    return [(name, text) for name, text in found if text.strip() and not UNSEEN.search(text)]


def defined_names(path):
    "Names that the export cells of a notebook define."
    found = []
    for cell in cells(path):
        if cell["cell_type"] != "code" or not EXPORT.search(source(cell)): continue
        for node in ast.parse(source(cell)).body:
            targets = getattr(node, "targets", [getattr(node, "target", node)])
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                found += [t.id for t in targets if isinstance(t, ast.Name)]
    return list(dict.fromkeys(found))


def public_names(path):
    "Those of them that are for others."
    return [name for name in defined_names(path) if not name.startswith("_")]


def rooms():
    "Number of each module's notebook, in reading order."
    found = {default_exp(p): int(p.stem[:2]) for p in notebooks() if p.stem[:2].isdigit()}
    return {module: number for module, number in found.items() if module}


def tree(module):
    "The syntax of an exported module."
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def at_once(node):
    "What runs when a module is imported: everything but the bodies of functions."
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from at_once(child)


def imported(nodes, module=""):
    "Dotted names that statements import, those given to import_extra and import_torch too."
    for node in nodes:
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["hierlearn", *module.split(".")[:-1]]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_extra", "import_torch"):
            yield str(getattr(node.args[0], "value", "")) if node.args else "torch"


def used_rooms(module, known):
    "The rooms that a module imports, anywhere in it."
    names = {n.removeprefix("hierlearn.") for n in imported(ast.walk(tree(module)), module)
        if n.startswith("hierlearn.")}
    return sorted(names & set(known), key=known.get)


def drawing():
    "The imports as SVG text: a row for each room, a dot in the column of each room that it imports."
    known = rooms()
    step, left, top = 16, 232, 24
    side = step * len(known)
    size = (left + side + 12, top + side + 12)
    place = {module: i for i, module in enumerate(known)}
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" role="img" '
        'font-family="system-ui, sans-serif" font-size="11">',
        "<title>Which room imports which: all dots lie left of the diagonal, at lower numbers</title>",
        "<style>text{fill:#334}line{stroke:#8892a8;stroke-width:.4}.d{fill:#8892a8}.i{fill:#3b5bdb}"
        "@media(prefers-color-scheme:dark){text{fill:#ccd}.i{fill:#8ea4ff}}</style>"]
    centre = {module: left + step * i + step / 2 for module, i in place.items()}
    for module, i in place.items():
        y, x, number = top + step * i + step / 2, centre[module], f"{known[module]:02d}"
        out += [
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{number} {module}</text>',
            f'<text x="{x}" y="{top - 8}" text-anchor="middle">{number}</text>',
            f'<line x1="{left}" y1="{y}" x2="{left + side}" y2="{y}"/>',
            f'<rect class="d" x="{x - 4}" y="{y - 4}" width="8" height="8"><title>{module}</title></rect>']
        for other in used_rooms(module, known):
            says = f"<title>{module} imports {other}</title>"
            out.append(f'<circle class="i" cx="{centre[other]}" cy="{y}" r="4.5">{says}</circle>')
    return "\n".join([*out, "</svg>", ""])


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else NBS / "images" / "imports.svg"
    target.write_text(drawing(), encoding="utf-8")
