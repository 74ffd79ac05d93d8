"""Who may import whom: the order of the floors, no circles, and every import inside a function meant to be there."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("losses", "samplers", "envs")
# Beneath everything: files at the root that know the vocabulary and each other.
HELPERS = {
    *("_batch", "_blocks", "_checks", "_files", "_metrics", "_order", "_parts", "_places", "_rarely"),
    *("_select", "_settings", "_spread", "_types", "algorithm", "recipe"),
}
# What each floor may import, beside itself and the helpers; from the ground up.
BLOCKS = (
    *("networks", "fields", "samplers", "losses", "optimisers", "learning", "blocks", "modes", "algorithms"),
)
MAY = {
    **{floor: set(BLOCKS[:i]) for i, floor in enumerate(BLOCKS)},
    "envs": set(),
    "data": {"envs"},
    "train": {*BLOCKS, "envs", "data"},
    "plots": {*BLOCKS, "envs", "data", "train"},
    "presets": {*BLOCKS, "envs", "data", "train"},
    "mixtures": {*BLOCKS, "envs", "data", "train", "presets"},
    "reports": {*BLOCKS, "envs", "data", "train", "plots", "presets"},
    "audit": {*BLOCKS, "envs", "data", "train"},
    "cli": {*BLOCKS, "envs", "data", "train", "plots", "presets", "mixtures", "reports", "audit"},
}
# What the blocks do not know, of other packages.
FOREIGN = {
    "networks": {"optax"},
    "fields": {"optax"},
    "samplers": {"optax"},
    "losses": {"optax"},
}
# Modules that import others of dpolicy inside a function, and why.
LAZY = {
    "dpolicy.cli": "help and mistakes show before JAX has been loaded",
    "dpolicy.presets": "the table of presets is read without the recipes that it is about",
    "dpolicy.train.building": "the recipes are loaded where one is named",
    "dpolicy.train.naming": "the recipes are loaded where one is named",
    "dpolicy.train.runs": "an episode is recorded seldom",
    "dpolicy.samplers": "diffrax is slow to load, and most samplers are scans",
}


def modules():
    """Every module of the package by its name, and its file; the linked folders are packages of dpolicy."""
    found = {}
    for folder in ("dpolicy", *LINKED):
        for file in sorted((ROOT / folder).glob("**/*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "dpolicy" else ("dpolicy", *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()
STARTED = {name for name in MODULES if name.endswith(".__main__")}  # never imported
PACKAGES = {name for name, file in MODULES.items() if file.name == "__init__.py"}


def imported(node):
    """The modules that an import statement names, of dpolicy or another package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0 and node.module, "imports are absolute"
    # `from dpolicy import fields` is of a module, `from dpolicy.fields import Field` of a name.
    return [
        f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
        for alias in node.names
    ]


def exports(file):
    """(module, name) of everything that a face exports."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names if alias.asname == alias.name)


def imports(tree, inside=False):
    """(imported module, whether inside a function or for types only), for a whole module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((name, inside) for name in imported(node))
        else:
            types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, inside or function or types)


# (importing module, imported module, whether only when a function is called); the root's face is no floor.
EDGES = [
    (name, other, late)
    for name, file in MODULES.items()
    if name not in {"dpolicy", *STARTED}
    for other, late in imports(ast.parse(file.read_text()))
]
INTERNAL = [edge for edge in EDGES if edge[1].startswith("dpolicy.")]


def floor(module):
    """The floor that a module stands on, None beneath them all."""
    part = module.split(".")[1]
    if part in HELPERS:
        return None
    return part


def test_the_imports_were_read():
    assert len(MODULES) > 150 and len(INTERNAL) > 500
    assert {floor(module) for module in MODULES if module not in {"dpolicy", *STARTED}} == {
        None,
        *MAY,
    }
    tree = ast.parse(
        "import optax\nfrom dpolicy import fields, Field\ndef f():\n    if x:\n        import jax.numpy as jnp"
    )
    assert list(imports(tree)) == [
        ("optax", False),
        ("dpolicy.fields", False),
        ("dpolicy", False),
        ("jax.numpy", True),
    ]


def test_imports_lead_down():
    up = [
        f"{name} imports {other}"
        for name, other, _ in INTERNAL
        if floor(other) not in (None, floor(name)) and floor(other) not in MAY.get(floor(name) or "", ())
    ]
    assert up == []


def test_the_blocks_know_no_optimiser():
    known = [
        f"{name} imports {other}"
        for name, other, _ in EDGES
        if other.split(".")[0] in FOREIGN.get(floor(name) or "", ())
    ]
    assert known == []


ROOMS = [
    f"dpolicy.{room}" for room in ("fields", "networks", "optimisers", "learning", "blocks", "modes", "audit")
]


def test_a_room_is_entered_by_its_face():
    """Its files are private: only what the face does not show is imported from them, and that within the package."""
    files = {path for name, path in MODULES.items() if name.rpartition(".")[0] in ROOMS}
    assert len(files) > 15 and [path.name for path in files if not path.name.startswith("_")] == []
    shown = {room: {alias for _, alias in exports(MODULES[room])} for room in ROOMS}
    assert "Field" in shown["dpolicy.fields"] and "MLP" in shown["dpolicy.networks"]
    outside = [file for folder in ("tests", "benchmarks", "docs") for file in (ROOT / folder).glob("**/*.py")]
    by_the_window = [
        f"{file.relative_to(ROOT)}: {name} of {module}"
        for file in [*MODULES.values(), *outside]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").rpartition(".")[0] in ROOMS
        for name in (alias.name for alias in node.names)
        if file.parent != MODULES[module].parent
        and (file in outside or name in shown[module.rpartition(".")[0]])
    ]
    assert by_the_window == []


def shown_by(package):
    """The names that a package's face has once it is imported: what it exports, and what it defines itself."""
    made = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(MODULES[package].read_text())
    return {name for _, name in exports(MODULES[package])} | {
        node.name for node in tree.body if isinstance(node, made)
    }


def test_no_module_is_hidden_by_a_name_of_its_face():
    """`dpolicy.losses.gae` is the function, so its file is not a public module of that name.

    A recipe's file is called as the recipe, and holds nothing else: there, nothing is hidden that anybody wants.
    """
    assert "gae" in shown_by("dpolicy.losses") and "preset" in shown_by("dpolicy.presets")
    hidden = [
        name
        for name in MODULES
        if (package := name.rpartition(".")[0]) in PACKAGES - {"dpolicy.algorithms"}
        and name.rpartition(".")[2] in shown_by(package)
    ]
    assert hidden == []


def test_imports_inside_functions_are_meant():
    late = {name for name, other, late in INTERNAL if late}
    reasons = {name: [key for key in LAZY if name == key or name.startswith(f"{key}.")] for name in late}
    assert [name for name, found in reasons.items() if not found] == []
    assert {key for found in reasons.values() for key in found} == set(LAZY), "a reason for nothing"


def loads(module):
    """What importing a module runs: it, and the packages that it lies in; not the root's face."""
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(2, len(parts) + 1)]


def circle(edges):
    """The modules of some circle among `edges` (name -> names), [] if there is none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        found = next((found for other in sorted(edges.get(name, ())) if (found := visit(other))), [])
        path.pop()
        done.add(name)
        return found

    return next((found for name in sorted(edges) if (found := visit(name))), [])


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def graph(late):
    """name -> what it imports, with (or without) the imports inside functions."""
    edges = {}
    for name, other, inside in INTERNAL:
        # The face of one's own room is being made when one's file is imported.
        own = set(loads(name))
        if late or not inside:
            edges.setdefault(name, set()).update(m for m in loads(other) if m in MODULES and m not in own)
    return edges


def test_there_is_no_circle():
    assert circle(graph(late=False)) == []


def test_no_file_imports_the_face_of_its_own_room():
    faces = [
        f"{name} imports {other}"
        for name, other, late in INTERNAL
        if not late and other in PACKAGES and name.startswith(f"{other}.")
    ]
    assert faces == []


PROGRAM = """
import sys
sys.path.insert(0, ".")
import importlib, jax, equinox, optax
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "dpolicy"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
"""


def test_every_module_can_be_the_first_without_the_face_of_the_package(tmp_path):
    shutil.copytree(ROOT / "dpolicy", tmp_path / "dpolicy", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "dpolicy" / "__init__.py").write_text("")
    # What a room's face imports is imported with it.
    names = [name for name in MODULES if name.count(".") == 1 and name not in STARTED]
    assert len(names) > 20
    command = [sys.executable, "-c", PROGRAM, *names]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_no_test_imports_another():
    """What tests share is in modules of their folder that hold no tests."""
    found = []
    for path in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, name) for name in names if name.split(".")[-1].startswith("test_")]
    assert found == []
