"""README, generated pages and notebooks agree with the code."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from dpolicy.algorithms import ALGORITHMS
from dpolicy.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def load_hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()


def after_marker(marker):
    """The first line of the code block after `<!-- marker -->` in README.md, as CI finds it."""
    _, _, rest = README.partition(f"<!-- {marker} -->")
    return next(line for line in rest.splitlines() if line.strip() and not line.startswith("```"))


def readme_commands():
    """Every `dpolicy ...` command in README.md's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for part in block.splitlines() for line in part.split("&&")]
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words[1:] for words in commands if words and Path(words[0]).name == "dpolicy"]


def run(words, capsys):
    """Exit code and standard output of a command."""
    try:
        code = main(words)
    except SystemExit as exit:
        code = exit.code
    return code or 0, capsys.readouterr().out


@pytest.mark.parametrize("marker", ["main-job", "test-command"])
def test_readme_lines_make_the_environment_they_use(marker):
    line = after_marker(marker)
    environment = re.match(r"python3 -m venv (\S+) && ", line).group(1)
    assert line.count(f"{environment}/bin/") == 2
    assert environment.startswith(".venv"), "what .gitignore leaves out"


def test_readme_test_line_is_the_documented_one():
    _, install, test = after_marker("test-command").split(" && ")
    assert install.endswith("pip install -e '.[test]'")
    assert test.endswith("pytest -n 2")


@pytest.mark.parametrize("words", readme_commands(), ids=" ".join)
def test_readme_commands_are_understood(words, capsys):
    trains = words[0] == "train" and not {"--help", "--resume"} & set(words)
    if trains:
        assert run([*words, "--print-config"], capsys)[0] == 0
    elif len(words) == 1 or "--help" in words:
        code, out = run(words, capsys)
        assert code == 0
        assert out.strip()
    else:
        code, out = run([words[0], "--help"], capsys)
        assert code == 0
        flags = [word for word in words if word.startswith("--")]
        assert [flag for flag in flags if flag not in out] == []


def test_readme_names_every_algorithm():
    assert [name for name in ALGORITHMS if f"`{name}`" not in README] == []


def unlinked(markdown):
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)


def rows(markdown):
    """The cells of a Markdown table."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]


def test_the_taxonomy_page_is_what_the_command_prints(capsys):
    code, printed = run(["taxonomy", "--markdown"], capsys)
    page = rows(unlinked(hooks.taxonomy_page(ALGORITHMS)))
    assert code == 0
    assert page == rows(printed)
    assert [row[0] for row in page[1:]] == list(ALGORITHMS)


def test_the_taxonomy_follows_the_registry():
    entry = ALGORITHMS["qsm"]._replace(transforms="perturb, a_new_block", source="arXiv 1234.56789")
    page = hooks.taxonomy_page({**ALGORITHMS, "new": entry})
    (row,) = [line for line in page.splitlines() if "[new]" in line]
    assert "a_new_block" in row
    assert "[arXiv 1234.56789](https://arxiv.org/abs/1234.56789)" in row


def test_every_algorithm_has_its_section_on_one_family_page():
    pages = {family: hooks.family_page(family, ALGORITHMS) for family in hooks.FAMILIES}
    for name, entry in ALGORITHMS.items():
        with_section = [family for family, page in pages.items() if f"{{#{name}}}" in page]
        assert with_section == [entry.family]
        assert f"::: dpolicy.algorithms.{name}.{name}\n" in pages[entry.family]


def test_every_export_is_on_its_reference_page():
    pages = hooks.pages("https://example.org")
    for package in hooks.PACKAGES:
        found = hooks.exports(f"dpolicy.{package}")
        names = [f"::: {module}.{name}\n" for module, names in found.items() for name in names]
        assert names
        assert [name for name in names if name not in pages[f"api/{package}.md"]] == []


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    written = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").glob("**/*.md")}
    generated = {uri for uri in hooks.pages("") if not uri.startswith("benchmarks/results/")}
    assert listed == written | generated


def test_links_to_files_the_site_does_not_show_lead_to_the_repository():
    text = "[a](CHANGELOG.md) [b](pyproject.toml#x) ![c](nowhere.png) [d](https://example.org/x) [e](#here)"
    assert hooks.relinked(text, "README.md", "https://repo") == (
        "[a](CHANGELOG.md) [b](https://repo/blob/main/pyproject.toml#x) ![c](nowhere.png) "
        "[d](https://example.org/x) [e](#here)"
    )
    assert hooks.relinked("[f](../../LICENSE)", "benchmarks/results/x.md", "R") == "[f](R/blob/main/LICENSE)"


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_use_public_names_only(path):
    code = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    assert re.findall(r"(?:dpolicy|dp)(?:\.\w+)*\._\w+|import _\w+", code) == []
