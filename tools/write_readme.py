"""Write README.md from nbs/index.ipynb: hidden code goes, links lead where a reader of the repository needs them.

usage: write_readme.py [FILE]      default: README.md
"""
import re
import sys
from pathlib import Path

from common import NBS, ROOT, settings

HIDDEN, GONE = re.compile(r"^#\|\s*(echo:\s*false|hide)\b", re.M), "(no code)"


def readme():
    "The text of README.md."
    import nbformat
    from nbconvert import MarkdownExporter
    s = settings()
    nb = nbformat.read(NBS / "index.ipynb", 4)
    for cell in nb.cells:
        if cell.cell_type == "code" and re.search(r"^#\|\s*hide\b", cell.source, re.M): cell.outputs = []
        if cell.cell_type == "code" and HIDDEN.search(cell.source): cell.source = GONE
        # of an output's forms the page shows HTML, a README Markdown
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output["data"] = {"text/markdown": output["data"]["text/markdown"]}
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(rf"```(python)?\n{re.escape(GONE)}\n```", "", text)
    site = s["doc_host"].rstrip("/") + s["doc_baseurl"].rstrip("/") + "/"
    page = lambda m: f"]({site}{re.sub(r'^[0-9]+[a-z]?_', '', m[1])}.html{m[2] or ''})"
    text = re.sub(r"\]\(([\w-]+)\.(?:ipynb|md)(#[\w-]*)?\)", page, text)
    text = re.sub(r"(\]\(|src=\")(images/)", r"\1nbs/\2", text)
    text = re.sub(r"^:::.*\n", "", text, flags=re.M)
    text = re.sub(r"(\[[^\]]*\]\([^)]*\))\{[^}]*\}", r"\1", text)  # attributes that only the site reads
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    return "<!-- Made from nbs/index.ipynb by `make readme`: change it there. -->\n\n" + re.sub(r"\n{3,}", "\n\n",
        text).strip() + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md"
    target.write_text(readme(), encoding="utf-8")
