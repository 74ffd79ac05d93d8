"""Runs the notebooks and stores their outputs in them, small: `python docs/run_notebooks.py [FILE ...]`.

Pictures get a palette of 64 colours, a third of the bytes; nothing is kept that differs from machine to machine without
being a result, as times and versions do.
"""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def small(png: str) -> str:
    """A picture in base64 with few colours, on white."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    out = io.BytesIO()
    page.convert("RGB").quantize(64).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def shrink(notebook: Any) -> None:
    """Leave of each output what a reader sees."""
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = small(data["image/png"])


def main(files: list[str]) -> None:
    for path in map(Path, files or sorted(map(str, ROOT.glob("notebooks/*.ipynb")))):
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=None, record_timing=False, kernel_name="python3")
        client.execute()
        shrink(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
