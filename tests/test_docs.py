"""README, generated pages and notebooks agree with the code."""

import ast
import functools
import importlib.util
import inspect
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest

from dpolicy import Number, Positive, Sizes, at_least, one_of
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


@functools.cache
def pages():
    """What is generated of a site whose repository is at "R"."""
    return hooks.pages("R")


@functools.cache
def notebooks():
    return hooks.notebooks()


@functools.cache
def family_page(family):
    return hooks.family_page(family, ALGORITHMS)


def after_marker(marker):
    """The first line of the code block after `<!-- marker -->` in README.md, as CI finds it."""
    _, _, rest = README.partition(f"<!-- {marker} -->")
    return next(line for line in rest.splitlines() if line.strip() and not line.startswith("```"))


def commands_in(text):
    """Every `dpolicy ...` command in the shell blocks of a text."""
    blocks = re.findall(r"```bash\n(.*?)```", text.replace("\\\n", ""), re.DOTALL)
    lines = [line for block in blocks for part in block.splitlines() for line in part.split("&&")]
    commands = [[w for w in shlex.split(line, comments=True) if "XLA_FLAGS=" not in w] for line in lines]
    return [words[1:] for words in commands if words and Path(words[0]).name == "dpolicy"]


def readme_commands():
    return commands_in(README)


def page_commands():
    """The commands of the written pages that are no copies of README.md's, each once, without its values."""
    found = [
        words for page in sorted((ROOT / "docs").glob("*.md")) for words in commands_in(page.read_text())
    ]
    return [
        w
        for i, w in enumerate(found)
        if w not in found[:i] and w not in readme_commands() and "..." not in w
        if not of_a_file(w)
    ]


def of_a_file(words):
    """Whether an algorithm in a file is trained, as tests/test_docs_pages.py does, which writes the file."""
    return words[0] == "train" and ".py:" in words[1]


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


@pytest.mark.parametrize("words", [w for w in readme_commands() if not of_a_file(w)], ids=" ".join)
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


@pytest.mark.parametrize("words", page_commands(), ids=" ".join)
def test_commands_of_the_pages_are_understood(words, capsys):
    trains = words[0] == "train" and "--resume" not in words
    code, out = run([*words[: 1 + trains], "--help"], capsys)
    flags = [re.sub("^--no-", "--", word) for word in words if word.startswith("--") and word != "--help"]
    assert code == 0
    assert [flag for flag in flags if flag not in out] == []


def test_the_sweep_of_getting_started_runs(capsys):
    _, _, rest = (ROOT / "docs" / "getting-started.md").read_text().partition("## From Python")
    exec(re.search(r"```python\n(.*?)```", rest, re.DOTALL).group(1), {})
    returns = [float(number) for number in capsys.readouterr().out.strip("[] \n").split()]
    assert len(returns) == 2


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
    pages = {family: family_page(family) for family in hooks.FAMILIES}
    for name, entry in ALGORITHMS.items():
        with_section = [family for family, page in pages.items() if f"{{#{name}}}" in page]
        assert with_section == [entry.family]
        assert f"::: dpolicy.algorithms.{name}.{name}\n" in pages[entry.family]


def arguments(text):
    """Positional arguments, then keyword-only ones with their defaults, of `f(...) -> T` as Python reads it."""
    (function,) = ast.parse(f"def {text}: ...").body
    keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return [argument.arg for argument in function.args.args], {
        argument.arg: inspect.Parameter.empty if default is None else ast.literal_eval(default)
        for argument, default in keywords
    }


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_shown_as_it_is_called(name):
    entry = ALGORITHMS[name]
    _, _, section = family_page(entry.family).partition(f"## {name} {{#{name}}}")
    shown = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1).strip()
    assert shown.startswith(f"{name}(\n    *,\n")
    real = {key: p.default for key, p in inspect.signature(entry.recipe).parameters.items()}
    assert arguments(shown) == ([], real)
    assert "    learning_rate: Positive = " in shown, "a type by its own name"


def test_other_functions_are_called_as_their_source_says():
    # mkdocstrings reads sources: what is made by a decorator that changes its arguments is shown with those it has.
    changed = []
    for uri, page in hooks.pages("").items():
        for path in re.findall(r"^::: (\S+)", page, re.MULTILINE) if uri.startswith("api/") else ():
            module, _, name = path.rpartition(".")
            found = getattr(importlib.import_module(module), name)
            for thing in vars(found).values() if inspect.ismodule(found) else [found]:
                if inspect.isfunction(thing) and inspect.signature(thing) != inspect.signature(
                    inspect.unwrap(thing)
                ):
                    shown = f"options: {{show_signature: false}}\n\n```python\n{hooks.signature(thing)}\n```"
                    assert f"::: {path}\n    {shown}" in page
                    changed.append(thing.__qualname__)
    composed = [
        "flow_policy",
        "q_critics",
        "actor_critic",
        "proximal",
        "coupled_flow",
        "guided_policy",
        "implicit_critics",
        "in_sample_critics",
        "joint_categorical_critics",
        "joint_critics",
        "mirror_descent",
        "one_step_policy",
        "pathwise",
        "embedded_critics",
        "step_critics",
        "in_support_critics",
        "twin_delayed",
        "weighed_gaussian",
    ]
    assert changed == composed


def test_a_signature_says_what_settings_take():
    def function(
        *,
        rate: Positive | None = None,
        count: Annotated[int, at_least(2)] = 3,
        kind: Annotated[str, one_of({"a": 1, "b": 2})] | Callable[[int], int] = "a",
        scale: Number | None = None,
    ) -> Sizes: ...

    assert hooks.signature(function).splitlines() == [
        "function(",
        "    *,",
        "    rate: Positive | None = None,",
        "    count: Annotated[int, at_least(2)] = 3,",
        "    kind: Literal['a', 'b'] | Callable[[int], int] = \"a\",",
        "    scale: Number | None = None,",
        ") -> Sizes",
    ]


def test_reference_pages_begin_with_what_is_used_most():
    page = hooks.pages("")["api/losses.md"]
    sections = re.findall(r"^## (.*)", page, re.MULTILINE)
    assert sections[:3] == ["Match", "Noise", "Candidates"]
    assert len(sections) == len(set(sections)) == len(hooks.exports("dpolicy.losses"))
    assert page.index("dpolicy.losses.match.matching\n") < page.index("dpolicy.losses.match.Match\n")


@pytest.mark.parametrize("package", ["losses", "samplers"])
def test_a_reference_page_shows_what_its_examples_begin_with(package):
    page = hooks.pages("")[f"api/{package}.md"]
    block = re.search(r"begin with these names:\n\n```pycon\n(.*?)\n```\n", page, re.DOTALL).group(1)
    assert f">>> from dpolicy.{package} import *" in block.splitlines()


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


def test_results_are_shown_whole_under_a_title():
    text = "Command: `python x.py`, 3 seeds.\n\n| a |\n|---|\n"
    assert hooks.titled(text, "benchmarks/results/learning_brax/learning.md") == f"# Learning brax\n\n{text}"
    assert hooks.titled("# Mine\n", "benchmarks/results/x.md") == "# Mine\n"
    assert [
        uri
        for uri, page in hooks.pages("").items()
        if not re.match(r"(---\n.*?---\n\s*)?# ", page, re.DOTALL)
    ] == []


def test_names_in_headers_of_tables_may_be_broken():
    row = '<th>entropy_coefficient</th><td>entropy_coefficient</td><th style="a_b">c_d</th>'
    assert hooks.breakable(row) == (
        '<th>entropy_<wbr>coefficient</th><td>entropy_coefficient</td><th style="a_b">c_d</th>'
    )


def test_there_is_a_notebook():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_with_the_outputs_of_one_run(path):
    text = path.read_text()
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "stream", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} <= {"stdout"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert re.findall(r"/(?:home|root|tmp|usr|opt|work|Users)/", text) == [], (
        "a path of the machine it ran on"
    )
    assert len(text) < 400_000, "pictures are to be small: python docs/run_notebooks.py"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_shows_its_outputs(path):
    page = pages()[f"notebooks/{path.stem}.md"]
    pictures = notebooks()[f"notebooks/{path.stem}.md"][1]
    outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", [])]
    printed = [
        line for o in outputs if o["output_type"] == "stream" for line in "".join(o["text"]).splitlines()
    ]
    assert [line for line in printed if line.strip() not in page] == []
    assert len(pictures) == sum("image/png" in o.get("data", {}) for o in outputs)
    assert [uri for uri in pictures if f"]({Path(uri).relative_to('notebooks')})" not in page] == []
    assert f"](R/blob/main/notebooks/{path.name})" in page.split("\n", 3)[2]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_use_public_names_only(path):
    code = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    assert re.findall(r"(?:dpolicy|dp)(?:\.\w+)*\._\w+|import _\w+", code) == []
