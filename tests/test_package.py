"""What is shipped and what importing it costs: wheel and source distribution, public names, imports."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dpolicy", *(f"dpolicy.{name}" for name in importlib.import_module("dpolicy")._PACKAGES))


def python_files(*folders):
    """The project's own Python files, each once: the links inside dpolicy/ are not followed."""
    folders = folders or ("dpolicy", "losses", "samplers", "envs", "tests", "benchmarks", "docs")
    return [file for folder in folders for file in sorted((ROOT / folder).glob("**/*.py"))]


def fresh(program):
    """What a new interpreter prints, parsed as JSON."""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def build(source, kind, into):
    """Build a `wheel`, an editable one (`wheel:editable`) or an `sdist` of the project in `source`; its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=source)
    assert result.returncode == 0, result.stderr
    (built,) = into.iterdir()
    return built


def shipped(wheel):
    """The package's files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.startswith("dpolicy/")}


@pytest.fixture
def source_tree():
    """What a wheel must hold, the linked folders being packages of dpolicy."""
    files = {file.relative_to(ROOT).as_posix() for file in python_files("dpolicy")}
    for folder in ("losses", "samplers", "envs"):
        files |= {f"dpolicy/{file.relative_to(ROOT).as_posix()}" for file in python_files(folder)}
    return files | {"dpolicy/py.typed"}


def test_the_wheel_holds_the_source_tree(tmp_path, source_tree):
    assert "dpolicy/losses/match.py" in source_tree
    assert shipped(build(ROOT, "wheel", tmp_path)) == source_tree


def test_the_source_distribution_builds_the_same_wheel(tmp_path, source_tree):
    (tmp_path / "sdist").mkdir()
    (tmp_path / "wheel").mkdir()
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert shipped(build(unpacked, "wheel", tmp_path / "wheel")) == source_tree


def test_an_editable_install_makes_nothing_else_importable(tmp_path):
    with zipfile.ZipFile(build(ROOT, "wheel:editable", tmp_path)) as archive:
        (paths,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".pth")]
        assert shipped(archive.filename) == set()
    (path,) = paths.split("\n")
    assert [entry.name for entry in Path(path).iterdir()] == ["dpolicy"]
    program = (
        "import dpolicy.losses, dpolicy.envs, dpolicy.samplers, importlib.util as u;"
        "print([dpolicy.losses.__file__, *(n for n in ('losses', 'envs', 'samplers', 'tests') if u.find_spec(n))])"
    )
    # Without site-packages of this environment, which may hold an older install; what the library needs comes after it.
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    result = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([path, *others])},
    )
    assert result.returncode == 0, result.stderr
    assert ast.literal_eval(result.stdout) == [str(Path(path) / "dpolicy" / "losses" / "__init__.py")]


def syntax(module):
    """The statements of a module."""
    return ast.parse(Path(importlib.import_module(module).__file__).read_text()).body


def exports(module):
    """Public name -> the module it comes from, for what a package or a module exports of others."""
    return {
        alias.name: node.module
        for node in syntax(module)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname == alias.name
    }


def test_every_public_name_is_exported_once():
    homes = {}
    for package in PACKAGES:
        for name, module in exports(package).items():
            # `dpolicy` repeats what is used most of a room.
            if module not in PACKAGES:
                homes.setdefault(name, []).append(package)
    assert len(homes) > 100
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def definition(module, name):
    """The statement that defines `name`, wherever `module` has it from; None for one that is no class or function."""
    while name in exports(module):
        module = exports(module)[name]
    for node in syntax(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package):
    public = {name: getattr(importlib.import_module(package), name) for name in exports(package)}
    # From the source: a dataclass without a docstring is given one made of its fields.
    found = {name: definition(package, name) for name, value in public.items()}
    lost = [n for n, value in public.items() if inspect.isroutine(value) and found[n] is None]
    assert lost == []
    assert [name for name, node in found.items() if node is not None and not ast.get_docstring(node)] == []


HEAVY = (
    "brax",
    "flax",
    "gymnasium",
    "gymnax",
    "h5py",
    "matplotlib",
    "mujoco",
    "orbax",
    "pyarrow",
    "rich",
    "sklearn",
    "tyro",
)


def test_importing_dpolicy_imports_nothing_heavy():
    program = "import json, sys, dpolicy; print(json.dumps([m for m in %r if m in sys.modules]))"
    assert fresh(program % (HEAVY,)) == []


def test_the_blocks_need_no_simulator():
    program = (
        "import json, sys, dpolicy.algorithms, dpolicy.envs, dpolicy.losses, dpolicy.samplers;"
        "print(json.dumps([m for m in ('brax', 'gymnasium', 'gymnax', 'mujoco') if m in sys.modules]))"
    )
    assert fresh(program) == []


def test_importing_costs_little_more_than_what_it_stands_on():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import_time = importlib.import_module("import_time")
    finally:
        sys.path.pop(0)
    ratios = [ours / base for base, ours in import_time.ratios(3)]
    assert sorted(ratios)[1] <= import_time.LIMIT


def sources():
    """Text of every Python file and notebook, by path."""
    texts = {file.relative_to(ROOT).as_posix(): file.read_text() for file in python_files()}
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(file.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        texts[file.relative_to(ROOT).as_posix()] = "\n".join(code)
    return texts


def test_the_linked_folders_are_imported_as_parts_of_dpolicy():
    bare = []
    for path, text in sources().items():
        for node in ast.walk(ast.parse(text)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            bare += [f"{path}: {m}" for m in modules if m.split(".")[0] in ("losses", "samplers", "envs")]
    assert bare == []


def test_no_file_names_a_directory_of_somebodys_machine():
    # Put together from parts, or this file would be the first to be found.
    private = re.compile(
        r"(?<![\w.])/(?:" + "|".join(("home", "Users", "root")) + r")/\w|" + re.escape(str(ROOT))
    )
    texts = sources()
    for pattern in ("*", "docs/*.md", "notebooks/*", "benchmarks/**/*.md", ".ci/*"):
        texts |= {
            file.relative_to(ROOT).as_posix(): file.read_text(errors="replace")
            for file in ROOT.glob(pattern)
            if file.is_file() and not file.name.startswith(".git")
        }
    assert "README.md" in texts
    assert [path for path, text in texts.items() if private.search(text)] == []
