"""Pages generated from the code, and formulas as MathML, so that a browser needs no script to show them.

mkdocs calls the `on_...` functions; everything else here runs without mkdocs.
"""

import ast
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {
    "offline": "Offline algorithms learn from a fixed data set.",
    "off_policy": "Off-policy algorithms learn from a replay of everything they have seen.",
    "on_policy": "On-policy algorithms learn from the rollout of their own current policy.",
}
# Reference pages that list the public names of these modules, in this order.
MODULES = {
    "schedules": ("Schedules", ["schedules"]),
    "fields": ("Fields", ["fields", "mean_field", "guidance", "embeddings"]),
    "networks": ("Networks, policies, critics", ["networks", "policies", "critics"]),
    "combinators": (
        "Combinators",
        [
            "algorithm",
            "recipe",
            "actor_critic",
            "proximal",
            "field_policy",
            "learner",
            "cloning",
            "ema",
            "extras",
            "minibatches",
            "discovery",
            "clustering",
            "episodes",
            "modes",
            "novelty",
        ],
    ),
}
# Reference pages that list what these packages export.
PACKAGES = {
    "losses": "Losses",
    "samplers": "Samplers",
    "envs": "Environments",
    "train": "Training",
    "data": "Data sets",
}
# Files outside docs/ that become pages and pictures under the same path (README.md: the front page).
MIRRORED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/**/*.md", "benchmarks/**/*.png")


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def exports(module: str) -> dict[str, list[str]]:
    """What a module or package exports by `from other import name as name`: the names, by the other module."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(_file(module).read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [alias.name for alias in node.names if alias.asname == alias.name]
            if names:
                found.setdefault(node.module, []).extend(names)
    return found


def _summary(module: str) -> str:
    """The first paragraph of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(_file(module).read_text())) or ""
    return docstring.split("\n\n")[0]


def _home(module: str, name: str) -> str:
    """The full path of what `module` calls `name`, where it is defined."""
    for other, names in exports(module).items():
        if name in names:
            return _home(other, name)
    return f"{module}.{name}"


def _reference(title: str, intro: str, modules: dict[str, list[str] | None]) -> str:
    """A page with a section for each module: its chosen names, or all its public ones."""
    parts = [f"# {title}\n", intro]
    for module, names in modules.items():
        if len(modules) > 1:
            heading = module.rpartition(".")[2].strip("_").replace("_", " ").capitalize()
            parts.append(f"\n## {heading}\n")
        if names is None:
            parts.append(f"::: {module}\n    options: {{show_root_heading: false}}\n")
            parts += [f"::: {other}.{name}\n" for other, found in exports(module).items() for name in found]
        else:
            parts.append(_summary(module) + "\n")
            parts += [f"::: {module}.{name}\n" for name in names]
    return "\n".join(parts)


def _arxiv_links(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def _cells(entry: Any) -> dict[str, str]:
    """A row of the registry as text, by column; the recipe itself is left out."""
    values = entry._asdict()
    del values["recipe"]
    return {column.replace("_", " "): _arxiv_links(str(value)) for column, value in values.items()}


def taxonomy_page(algorithms: dict[str, Any]) -> str:
    """The taxonomy: one row for each algorithm, as `dpolicy taxonomy` prints it, with links."""
    from dpolicy.cli.catalogue import table

    rows = [
        [f"[{name}](algorithms/{entry.family}.md#{name})", *_cells(entry).values()]
        for name, entry in algorithms.items()
    ]
    header = ["name", *_cells(next(iter(algorithms.values())))]
    return (
        "# Taxonomy\n\nGenerated from `dpolicy.algorithms.ALGORITHMS`; `dpolicy taxonomy` prints the same table.\n"
        "*Guidance* is how the critic or the advantage steers the field, *reference* the distribution that the "
        "policy stays close to, *transforms* the blocks of the actor's loss, *selection* how it acts.\n\n"
        + table(header, rows, markdown=True)
        + "\n"
    )


def family_page(family: str, algorithms: dict[str, Any]) -> str:
    """All algorithms of one family, each with its row of the taxonomy, its recipe and every hyperparameter."""
    from dpolicy.cli._flags import flags_of
    from dpolicy.cli.catalogue import table

    title = family.replace("_", " ").capitalize()
    parts = [f"# {title}\n\n{FAMILIES[family]}\n"]
    for name, entry in algorithms.items():
        if entry.family == family:
            recipe = f"{entry.recipe.__module__}.{entry.recipe.__name__}"
            facts = [(f"*{column}*", text) for column, text in _cells(entry).items() if column != "family"]
            parts.append(f"## {name} {{#{name}}}\n\n{table(('', ''), facts, markdown=True)}\n")
            parts.append(f"::: {recipe}\n    options: {{show_root_toc_entry: false}}\n")
            # The source shows what is the method's own; its blocks' settings are only known at run time.
            settings = [(f"`{flag.name}`", f"`{flag.default}`", flag.help) for flag in flags_of(entry.recipe)]
            header = ("hyperparameter", "default", "meaning")
            parts.append(f"Every hyperparameter of `{name}`:\n\n{table(header, settings, markdown=True)}\n")
    return "\n".join(parts)


def top_level_page() -> str:
    """The names that `import dpolicy` gives, each linked to where it is described."""
    lines = ["# dpolicy\n", _summary("dpolicy"), "\n| name | from |", "|---|---|"]
    for module, names in exports("dpolicy").items():
        if module != "dpolicy._types":
            lines += [f"| [`{name}`][{_home(module, name)}] | `{module}` |" for name in names]
    vocabulary = "::: dpolicy._types\n    options: {show_root_heading: false}"
    return "\n".join([*lines, "\n## Vocabulary\n", vocabulary])


def mirrored() -> dict[str, Path]:
    """Files outside docs/ that the site shows, by their path in it."""
    files = [file for pattern in MIRRORED for file in sorted(ROOT.glob(pattern))]
    paths = {file.relative_to(ROOT).as_posix(): file for file in files}
    return {"index.md" if path == "README.md" else path: file for path, file in paths.items()}


def relinked(text: str, path: str, repository: str) -> str:
    """`text` of the repository's file `path`, links to files that the site does not show leading to the repository.

    A link to nothing is left as it is, for mkdocs to complain about.
    """
    shown = mirrored()

    def target(match: re.Match[str]) -> str:
        label, link = match.group(1), match.group(2)
        file, _, anchor = link.partition("#")
        if not file or re.match(r"[a-z]+:", link):
            return match.group(0)
        resolved = os.path.normpath(os.path.join(os.path.dirname(path), file))
        if resolved in shown or not (ROOT / resolved).exists():
            return match.group(0)
        return f"{label}({repository}/blob/main/{resolved}{'#' + anchor if anchor else ''})"

    return re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", target, text)


def pages(repository: str) -> dict[str, str]:
    """Every generated page, by its path under docs/."""
    from dpolicy.algorithms import ALGORITHMS

    result = {"taxonomy.md": taxonomy_page(ALGORITHMS), "api/dpolicy.md": top_level_page()}
    for uri, file in mirrored().items():
        if file.suffix == ".md":
            result[uri] = relinked(file.read_text(), file.relative_to(ROOT).as_posix(), repository)
    for family in FAMILIES:
        result[f"algorithms/{family}.md"] = family_page(family, ALGORITHMS)
    for name, (title, modules) in MODULES.items():
        result[f"api/{name}.md"] = _reference(title, "", {f"dpolicy.{module}": None for module in modules})
    for name, title in PACKAGES.items():
        found = exports(f"dpolicy.{name}")
        intro = f"{_summary(f'dpolicy.{name}')}\n\nImport from `dpolicy.{name}`.\n"
        result[f"api/{name}.md"] = _reference(title, intro, dict(found))
    return result


def to_mathml(html: str) -> str:
    """TeX that arithmatex has marked becomes MathML."""
    from html import unescape

    from latex2mathml.converter import convert

    def inline(match: re.Match[str]) -> str:
        return convert(unescape(match.group(1)))

    def display(match: re.Match[str]) -> str:
        return convert(unescape(match.group(1)), display="block")

    html = re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', inline, html, flags=re.DOTALL)
    return re.sub(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', display, html, flags=re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and the mirrored pictures."""
    from mkdocs.structure.files import File

    for uri, content in pages(config["repo_url"]).items():
        files.append(File.generated(config, uri, content=content))
    for uri, file in mirrored().items():
        if file.suffix != ".md":
            files.append(File.generated(config, uri, abs_src_path=str(file)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show formulas without a script."""
    return to_mathml(html)
