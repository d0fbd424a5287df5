"""Build the documentation site from nbs/: nbdev makes the pages, smalldocs renders them, all that they need is local.

usage: build_docs.py [FOLDER [NAME ...]]

Default: docs/. With names only the notebooks that they are part of, for a quick look.
"""
import ast
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
import warnings as python_warnings
from pathlib import Path

from common import DOCS, NBS, ROOT, environment, settings
from rooms import cells as cells_of
from rooms import default_exp, defined_names, seen, source

# pages of the site that are files of the repository
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
# directives of ours, and flags of nbdev, that the renderer would not read
OURS = re.compile(r"^#\|\s*(exercise:.*|solution:.*|slow|cuda)\s*\n", re.M)


def colab_url(name):
    "Where Colab opens a notebook of the repository."
    s = settings()
    return f"https://colab.research.google.com/github/{s['user']}/{s['repo']}/blob/{s['branch']}/nbs/{name}"


def mixed(code):
    "Does a cell import and also work? nbdev would run it to build the docs."
    if re.search(r"^#\|\s*(export|exporti|exec_doc|eval:)", code, re.M): return False
    try: nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError: return False
    kinds = {type(n) for n in nodes}
    return bool(kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign, ast.FunctionDef, ast.With})


def cell(kind, name, text):
    "A new cell of a notebook."
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": {}, "source": text, **code}


def from_import(module, names):
    "An import in lines of 88 characters."
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 88: return line
    return f"from {module} import (\n{textwrap.indent(textwrap.fill(', '.join(names), 84), '    ')})"


def import_line(path):
    """The imports that a reader needs who copies from a page: what folded cells define, and what they import of it.

    Helpers with an underscore and modules are named only where a visible cell uses them.
    """
    code = "\n".join(text for _, text in seen(path))
    used = {n.id for n in ast.walk(ast.parse(re.sub(r"^\s*[%!].*", "", code, flags=re.M))) if isinstance(n, ast.Name)}
    lines = []
    for c in cells_of(path):
        if c["cell_type"] != "code" or not re.search(r"^#\|\s*export\b", source(c), re.M): continue
        for node in ast.parse(source(c)).body:
            if not isinstance(node, (ast.Import, ast.ImportFrom)): continue
            names = [ast.unparse(a) for a in node.names if (a.asname or a.name).split(".")[0] in used]
            if names:
                lines.append(from_import(node.module, names) if isinstance(node, ast.ImportFrom)
                    else f"import {', '.join(names)}")
    names = [n for n in defined_names(path) if (not n.startswith("_") or n in used) and not n.startswith("__")]
    if names: lines.append(from_import(f"hierlearn.{default_exp(path)}", names))
    return "\n".join(lines)


def prepare_notebook(path):
    """Make of a notebook what nbdev and the renderer show as we want it.

    Our directives go; what `#| exports` shows stands once, as it is, below the anchors of its names; no cell runs
    but imports and exports; badge, import line and the author's text follow the title. Returns the ids of the cells.
    """
    nb = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for c in nb["cells"]:
        c["source"] = "".join(c["source"])
        if c["cell_type"] == "code":
            c["source"] = OURS.sub("", c["source"])
            if re.search(r"^#\|\s*exports\b", c["source"], re.M):
                c["source"] = re.sub(r"^#\|\s*exports\b.*\n", "", c["source"], flags=re.M)
                body = ast.parse(c["source"]).body
                if not all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body):
                    c["source"] = "#| eval: false\n" + c["source"]
                names = [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
                anchors = "".join(f'<span id="{n.lower()}"></span>' for n in names)
                cells.append(cell("markdown", f"anchor-{c['id']}", f'<div class="shown-code">{anchors}</div>'))
            elif mixed(c["source"]): c["source"] = "#| eval: false\n" + c["source"]
        cells.append(c)
    # of the first cell nbdev keeps title and subtitle alone
    title = re.match(r"(# .+\n+> .+)\n*", cells[0]["source"])
    rest = cells[0]["source"][title.end():] if title else ""
    badge = (f'<p class="colab-badge"><a href="{colab_url(path.name)}">'
             '<img src="images/badge-colab.svg" alt="Open in Colab" width="132" height="24"></a></p>')
    head = [cell("markdown", "colab-badge", badge)]
    # shown cells are not run: what they define comes from the module
    if names := defined_names(path):
        head.append(cell("code", "names",
            f"#| include: false\nfrom hierlearn.{default_exp(path)} import {', '.join(names)}"))
    if line := import_line(path):
        fold = '#| code-fold: true\n#| code-summary: "To follow along: imports"\n'
        head.append(cell("code", "follow", fold + line))
    if rest:
        cells[0]["source"] = title[1]
        head.append(cell("markdown", "under-title", rest))
    nb["cells"] = [cells[0], *head, *cells[1:]]
    path.write_text(json.dumps(nb), encoding="utf-8")
    return {c["id"] for c in cells}


def fold_helpers(path, written):
    "Fold the signatures of helpers into one line; `show_doc` of the author stays open."
    nb, cells, run = json.loads(path.read_text(encoding="utf-8")), [], []
    def end_run():
        # nbdev shows the names of one cell in reverse: the line in the module tells the order
        if run:
            run.sort(key=lambda found: found[0])
            names = ", ".join(f"<code>{name}</code>" for _, name, _ in run)
            texts = "\n\n".join(f'<div id="{name.lower()}"></div>\n\n{text}' for _, name, text in run)
            fold = f'<details class="helpers"><summary>Helpers: {names}</summary>\n\n{texts}\n\n</details>'
            cells.append(cell("markdown", f"fold-{run[0][1]}", fold))
        run.clear()
    for c in nb["cells"]:
        found = re.search(r"^show_doc\((\w+)\)$", "".join(c["source"]), re.M)
        if not found or c["cell_type"] != "code" or c.get("id") in written:
            end_run()
            cells.append(c)
            continue
        text = "".join("".join(o.get("data", {}).get("text/markdown", "")) for o in c["outputs"])
        line = re.search(r"\.py#L(\d+)", text)
        run.append((int(line[1]) if line else 0, found[1], re.sub(r"^---\n*|^#+ .*\n*", "", text, flags=re.M)))
    end_run()
    path.write_text(json.dumps({**nb, "cells": cells}), encoding="utf-8")


def local_lookup():
    "Let nbdev link only to names of this project, whatever else is installed."
    import nbdev.doclinks as doclinks
    scope = {}
    exec((ROOT / "hierlearn" / "_modidx.py").read_text(encoding="utf-8"), scope)
    entries = doclinks._qual_syms(scope["d"])
    symbols = {}
    for module, names in entries["syms"].items():
        for name, where in names.items():
            symbols[name] = where
            symbols.setdefault(name.removeprefix(f"{module}."), where)
    # links to our own pages stay inside the site, where smalldocs first names a page like its notebook
    pages = {re.sub(r"^\d+[a-z]?_", "", p.stem) + ".html": p.stem + ".html" for p in NBS.glob("*.ipynb")}
    base = entries["settings"]["doc_host"].rstrip("/") + entries["settings"]["doc_baseurl"].rstrip("/") + "/"
    def local(url):
        page, _, anchor = url.removeprefix(base).partition("#")
        return f"{pages.get(page, page)}#{anchor}"
    symbols = {name: (local(w[0]), *w[1:]) for name, w in symbols.items()}
    doclinks._build_lookup_table = lambda *args, **kwargs: ({"hierlearn": entries}, symbols)


def add_repository_link(path):
    "Put the links to the repository into a copied _quarto.yml: its address is a setting, not a second one there."
    import yaml
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["website"]["navbar"]["tools"] = [{"icon": "github", "href": settings()["git_url"],
        "aria-label": "Source code"}]
    config["website"]["repo-subdir"] = "nbs"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def mend_anchors(site):
    "A link to a method that has no heading of its own leads to its class."
    pages = {p.name: p.read_text(encoding="utf-8") for p in site.glob("*.html")}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in pages.items()}
    for name, text in pages.items():
        def mended(m, name=name):
            page, anchor = m[1] or name, m[2]
            if page not in ids or anchor in ids[page]: return m[0]
            owner = anchor.rsplit(".", 1)[0] if "." in anchor else ""
            return f'href="{m[1]}#{owner}"' if owner in ids[page] else (f'href="{m[1]}"' if m[1] and "." in anchor
                else m[0])
        new = re.sub(r'href="([\w-]*(?:\.html)?)#([^"]+)"', mended, text)
        if new != text: (site / name).write_text(new, encoding="utf-8")


def head_script(site):
    """A page opened from a folder may not fetch: there the search reads its index from a script.
    And a heading `Exports` must not look like a module to KaTeX."""
    index = (site / "search.json").read_text(encoding="utf-8")
    (site / "site_libs" / "search-index.js").write_text(f"window.hierlearnSearch = {index};\n", encoding="utf-8")
    load = (
        "<script>var exports,module,define;if(location.protocol==='file:'){const f=window.fetch;"
        "window.fetch=u=>String(u).endsWith('search.json')?new Promise((done,no)=>{"
        "const s=document.createElement('script');s.src='site_libs/search-index.js';"
        "s.onload=()=>done({json:()=>window.hierlearnSearch});s.onerror=no;document.head.append(s)}):f(u)}</script>")
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", load + "</head>", 1), encoding="utf-8")


def finish(site):
    "Make the pages independent of network, machine and Python version."
    from hierlearn.plots import link_explorers
    # a page is called as nbdev calls it, without the number: links from outside last when the order changes
    numbered = {p.name: re.sub(r"^\d+[a-z]?_", "", p.name) for p in site.glob("[0-9]*_*.html")}
    if len(set(numbered.values())) < len(numbered): raise SystemExit("two notebooks differ only in their numbers")
    rename = lambda text: re.sub(r"(?<![\w/-])(\d+[a-z]?_\w+\.html)", lambda m: numbered.get(m[1], m[1]), text)
    for old, new in numbered.items(): (site / old).rename(site / new)
    for name in ("search.json", "sitemap.xml"):
        path = site / name
        if path.exists():
            path.write_text(re.sub(r"(\d+[a-z]?_\w+\.html)", lambda m: numbered.get(m[1], m[1]),
                path.read_text(encoding="utf-8")), encoding="utf-8")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if page.parent == site: text = re.sub(r'(href|action)="([^"]*)"', lambda m: f'{m[1]}="{rename(m[2])}"', text)
        # a page links the explorer's file where a notebook has to carry it
        if page.parent == site: text = link_explorers(text)
        depth = "../" * (len(page.relative_to(site).parts) - 1)
        text = re.sub(r"https://cdn\.jsdelivr\.net/npm/katex@[\d.]+/dist/", f"{depth}site_libs/katex/", text)
        text = re.sub(r" integrity=\"[^\"]*\"| crossorigin=\"[^\"]*\"", "", text)
        for name in PAGES: text = text.replace(f'/nbs/{name.lower()}"', f'/{name}"')
        text = text.replace("pathlib._local.", "pathlib.").replace("pathlib.Path", "Path")
        # nbdev links names in the comments of a signature, where a link is no link but text
        text = re.sub(r"\[(`[^`\]]+`)\]\([^()\s]*\.html[^()\s]*\)", r"\1", text)
        # wide tables scroll in their own box, not the page
        text = re.sub(r"(<table\b.*?</table>)", r'<div class="table-scroll">\1</div>', text, flags=re.S)
        page.write_text(text, encoding="utf-8")
    mend_anchors(site)
    head_script(site)
    for sheet in (site / "site_libs").rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        # fonts of another host
        local = re.sub(r"@import\s+(url\(\s*[\"']?https?://[^)]*\)|\"https?://[^\"]*\"|'https?://[^']*')\s*;", "",
            text)
        if local != text: sheet.write_text(local, encoding="utf-8")
    shutil.copytree(NBS / "styles" / "katex", site / "site_libs" / "katex")
    sitemap = site / "sitemap.xml"
    if sitemap.exists(): sitemap.write_text(re.sub(r"\s*<lastmod>.*?</lastmod>", "", sitemap.read_text()))
    (site / ".nojekyll").write_text("")


def build(target, only=()):
    "Build the site into the folder `target`, which is replaced."
    target = Path(target).resolve()
    os.environ.update({k: v for k, v in environment().items() if k != "PYTHONPATH"})
    # what libraries warn of when they are imported differs from machine to machine, with their paths in it
    os.environ["PYTHONWARNINGS"] = "ignore"
    python_warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT))
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve() / "hierlearn"
        shutil.copytree(NBS, work / "nbs",
            ignore=shutil.ignore_patterns(".*", "_proc", "results", "runs", "logs", "checkpoints", "katex"))
        shutil.copytree(NBS / "results", work / "nbs" / "results") if (NBS / "results").exists() else None
        for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT / name, work)
        shutil.copytree(ROOT / "hierlearn", work / "hierlearn", ignore=shutil.ignore_patterns("__pycache__"))
        for name in PAGES:  # their links lead from the repository's root
            text = (ROOT / name).read_text(encoding="utf-8").replace("](nbs/", "](")
            (work / "nbs" / name.lower()).write_text(text, encoding="utf-8")
        written = set()
        for path in sorted((work / "nbs").glob("*.ipynb")):
            if only and not any(name in path.stem for name in only): path.unlink()
            else: written |= prepare_notebook(path)
        add_repository_link(work / "nbs" / "_quarto.yml")
        os.chdir(work)
        try:
            local_lookup()
            from nbdev.quarto import refresh_quarto_yml
            from nbdev.serve import proc_nbs
            refresh_quarto_yml()
            shutil.copy(work / "nbs" / "nbdev.yml", work / "nbdev.yml")
            proc_nbs(force=True, n_workers=0)
            for path in (work / "_proc").glob("*.ipynb"): fold_helpers(path, written)
            shutil.copy(work / "nbdev.yml", work / "_proc" / "nbdev.yml")
            from smalldocs.site import build as render
            site = render(work / "_proc", quiet=True)
            warnings = [w for w in site.warnings if "output-file is not read" not in w]
            for w in warnings: print("docs:", w, file=sys.stderr)
            built = Path(site.out)
            finish(built)
            if target.exists(): shutil.rmtree(target)
            shutil.copytree(built, target)
        finally: os.chdir(here)
    return warnings


if __name__ == "__main__":
    target = sys.argv[1] if len(sys.argv) > 1 else DOCS
    broken = [w for w in build(target, sys.argv[2:]) if "broken link" in w]
    pages = list(Path(target).rglob("*.html"))
    size = sum(p.stat().st_size for p in Path(target).rglob("*") if p.is_file())
    print(f"{len(pages)} pages, {size / 1e6:.1f} MB in {target}")
    sys.exit(bool(broken))
