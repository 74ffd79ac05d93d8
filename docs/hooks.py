"""Pages generated from the code, and formulas as MathML, so that a browser needs no script to show them.

mkdocs calls the `on_...` functions; everything else here runs without mkdocs.
"""

import ast
import functools
import importlib
import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {
    "offline": "Offline algorithms learn from a fixed data set.",
    "off_policy": "Off-policy algorithms learn from a replay of everything they have seen.",
    "on_policy": "On-policy algorithms learn from the rollout of their own current policy.",
}
# Reference pages that list the public names of these modules, in this order; of private ones what dpolicy exports.
MODULES = {"recipes": ("Algorithms and recipes", ["algorithm", "recipe", "_settings"])}
# Reference pages that list what these packages export: the modules named here first, then the others.
PACKAGES = {
    "fields": (
        "Fields",
        "schedule schedules discrete field mean_field consistency predictions guidance embeddings",
    ),
    "networks": ("Networks, policies, critics", "mlp ensemble critics policies gaussian activations layers"),
    "optimisers": ("Learners and rates", "learner rates ema"),
    "learning": ("Stages and combinators", "stages makers combinators"),
    "blocks": ("Blocks of methods", "field_policy critics actor_critic proximal advantages"),
    "modes": ("Modes of behaviour", "discovery clustering episodes groups novelty"),
    "losses": (
        "Losses",
        "match noise candidates targets weights tilt ratios surrogates pathwise value gae compose",
    ),
    "samplers": ("Samplers", "ode sde ancestral best_of langevin coupled likelihood"),
    "envs": ("Environments", "registry protocol vector wrappers check multigoal energies bandits probes"),
    "train": ("Training", "loop policy runs evaluate on_policy off_policy offline program"),
    "data": (
        "Data sets",
        "reading sets sources places rewards scores d4rl ogbench ogbench_tasks minari cep made mixtures recording "
        "saving",
    ),
    "mixtures": ("Mixtures of our agents", "making"),
    "audit": ("Audit of losses", "alignment experience"),
}
# Files outside docs/ that become pages and pictures under the same path (README.md: the front page).
MIRRORED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/**/*.md", "benchmarks/**/*.png")


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


@functools.cache
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


def shared_names(package: str) -> str:
    """What the examples of a package begin with, from its docstring, as a block of code; empty where it has none."""
    docstring = ast.get_docstring(ast.parse(_file(package).read_text())) or ""
    _, sentence, block = docstring.partition("The examples begin with these names:")
    return f"{sentence}\n\n```pycon\n{textwrap.dedent(block).strip()}\n```\n" if sentence else ""


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
            parts.append(
                f"::: {module}\n    options: {{show_root_heading: false, show_root_toc_entry: false}}\n"
            )
            parts += [f"::: {other}.{name}\n" for other, found in exports(module).items() for name in found]
        else:
            parts.append(_summary(module) + "\n")
            # What is called most comes first: functions, then classes and constants.
            parts += [_entry(module, name) for name in sorted(names, key=lambda name: not name.islower())]
    return "\n".join(parts)


def _entry(module: str, name: str) -> str:
    """What mkdocstrings is asked to show; of a function made by a decorator with its arguments, as it is called."""
    found = getattr(importlib.import_module(module), name)
    if inspect.isfunction(found) and inspect.signature(found) != inspect.signature(inspect.unwrap(found)):
        called = f"```python\n{signature(found)}\n```\n"
        return f"::: {module}.{name}\n    options: {{show_signature: false}}\n\n{called}"
    return f"::: {module}.{name}\n"


def _first(found: dict[str, list[str]], first: str) -> dict[str, list[str] | None]:
    """The modules, those whose own names are in `first` in front."""
    own = {module.rpartition(".")[2].strip("_"): module for module in found}
    order = [own[name] for name in first.split()]
    return {module: found[module] for module in dict.fromkeys([*order, *found])}


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
        "---\nhide: [toc]\n---\n\n# Taxonomy\n\n"
        "Generated from `dpolicy.algorithms.ALGORITHMS`; `dpolicy taxonomy` prints the same table.\n"
        "*Guidance* is how the critic or the advantage steers the field, *reference* the distribution that the "
        "policy stays close to, *transforms* the blocks of the actor's loss, *selection* how it acts.\n\n"
        + table(header, rows, markdown=True)
        + "\n"
    )


def _annotation(annotation: Any) -> str:
    """A type as the sources write it: by its own name; numbers, their ranges and keys by the vocabulary's."""
    from dpolicy import _settings
    from dpolicy._types import Key, Number

    ranges = {name: getattr(_settings, name) for name in exports("dpolicy")["dpolicy._settings"]}
    aliases = {name: kind for name, kind in ranges.items() if not inspect.isfunction(kind)}
    written = {id(kind): name for name, kind in {**aliases, "Number": Number, "Key": Key}.items()}
    if id(annotation) in written:
        return written[id(annotation)]
    kinds = _settings.alternatives(annotation)
    if len(kinds) > 1 and any(map(_settings.allowed, kinds)):
        return " | ".join("None" if kind is type(None) else _annotation(kind) for kind in kinds)
    for declared in _settings.allowed(annotation):
        if declared.choices is not None:  # of a table, which the reader does not see
            return f"Literal{list(declared.choices)}"
    text = inspect.formatannotation(annotation)
    for name, alias in (("Number", Number), ("Key", Key)):
        text = text.replace(inspect.formatannotation(alias), name)
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", text)


def signature(function: Callable[..., Any]) -> str:
    """How a function is really called, one argument a line, decorated or not."""
    whole = inspect.signature(function)
    lines, keywords = [], False
    for parameter in whole.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            lines.append("*")
        value = parameter.default
        text = json.dumps(value) if isinstance(value, str) else repr(value)
        default = "" if value is parameter.empty else f" = {text}"
        lines.append(f"{parameter.name}: {_annotation(parameter.annotation)}{default}")
    arguments = "".join(f"    {line},\n" for line in lines)
    return f"{function.__name__}(\n{arguments}) -> {_annotation(whole.return_annotation)}"


def family_page(family: str, algorithms: dict[str, Any]) -> str:
    """All algorithms of one family, each with its row of the taxonomy, its real signature and every hyperparameter."""
    from dpolicy.cli._flags import flags_of
    from dpolicy.cli.catalogue import table

    title = family.replace("_", " ").capitalize()
    parts = [
        f"# {title}\n\n{FAMILIES[family]} Each is `from dpolicy.algorithms import NAME` in Python and "
        "`dpolicy train NAME` on the command line; a hyperparameter `like_this` is the flag `--like-this`.\n"
    ]
    for name, entry in algorithms.items():
        if entry.family == family:
            recipe = f"{entry.recipe.__module__}.{entry.recipe.__name__}"
            facts = " · ".join(
                f"*{column}:* {text}" for column, text in _cells(entry).items() if column != "family"
            )
            # The heading is also what links to the function lead to.
            parts.append(f"[](){{#{recipe}}}\n\n## {name} {{#{name}}}\n\n{facts}\n")
            # Settings taken over from blocks exist at run time only, so what mkdocstrings reads of them is left out.
            parts.append(
                f"::: {recipe}\n    options: {{show_root_heading: false, show_root_toc_entry: false, "
                "show_signature: false, show_docstring_parameters: false}\n"
            )
            parts.append(f"```python\n{signature(entry.recipe)}\n```\n")
            settings = [(f"`{flag.name}`", f"`{flag.default}`", flag.help) for flag in flags_of(entry.recipe)]
            parts.append(table(("hyperparameter", "default", "meaning"), settings, markdown=True) + "\n")
    return "\n".join(parts)


def top_level_page() -> str:
    """The names that `import dpolicy` gives, each linked to where it is described."""
    lines = ["# dpolicy\n", _summary("dpolicy"), "\n| name | from |", "|---|---|"]
    for module, names in exports("dpolicy").items():
        if module != "dpolicy._types":
            lines += [f"| [`{name}`][{_home(module, name)}] | `{module}` |" for name in names]
    vocabulary = "::: dpolicy._types\n    options: {show_root_heading: false, show_root_toc_entry: false}"
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


@functools.cache
def notebooks() -> dict[str, tuple[str, dict[str, bytes]]]:
    """Each notebook as Markdown, with the outputs that are stored in it, and its pictures; by the path of its page."""
    from nbconvert import MarkdownExporter

    found = {}
    for file in sorted(ROOT.glob("notebooks/*.ipynb")):
        resources = {"output_files_dir": f"{file.stem}_files"}
        text, resources = MarkdownExporter().from_filename(str(file), resources)
        pictures = {f"notebooks/{name}": data for name, data in resources["outputs"].items()}
        found[f"notebooks/{file.stem}.md"] = (text, pictures)
    return found


def _notebook_page(uri: str, text: str, repository: str) -> str:
    """The page of a notebook: where the notebook is stands under its title."""
    file = Path(uri).with_suffix(".ipynb").as_posix()
    title, _, rest = text.lstrip().partition("\n")
    where = f"*This page is the notebook [{file}]({repository}/blob/main/{file}) with the outputs of its last run.*"
    return f"{title}\n\n{where}\n{rest}"


def titled(text: str, uri: str) -> str:
    """`text` under a title, made of its path where it has none.

    Without one, mkdocs takes a first line such as "Command: ..." for a field of metadata, and leaves it out.
    """
    if text.startswith("# "):
        return text
    words = re.split(r"\W|_", uri.removeprefix("benchmarks/results/").removesuffix(".md"))
    return f"# {' '.join(dict.fromkeys(words)).capitalize()}\n\n{text}"


def pages(repository: str) -> dict[str, str]:
    """Every generated page, by its path under docs/."""
    from dpolicy.algorithms import ALGORITHMS

    result = {"taxonomy.md": taxonomy_page(ALGORITHMS), "api/dpolicy.md": top_level_page()}
    for uri, file in mirrored().items():
        if file.suffix == ".md":
            text = relinked(file.read_text(), file.relative_to(ROOT).as_posix(), repository)
            result[uri] = titled(text, uri)
    for family in FAMILIES:
        result[f"algorithms/{family}.md"] = family_page(family, ALGORITHMS)
    for name, (title, modules) in MODULES.items():
        exported = exports("dpolicy")
        shown = {m: exported[m] if "._" in m else None for m in (f"dpolicy.{module}" for module in modules)}
        result[f"api/{name}.md"] = _reference(title, "", shown)
    for name, (title, first) in PACKAGES.items():
        found = _first(exports(f"dpolicy.{name}"), first)
        intro = f"{_summary(f'dpolicy.{name}')}\n\nImport from `dpolicy.{name}`.\n"
        intro += f"\n{shared_names(f'dpolicy.{name}')}"
        result[f"api/{name}.md"] = _reference(title, intro, found)
    for uri, (text, _) in notebooks().items():
        result[uri] = _notebook_page(uri, text, repository)
    return result


def to_mathml(html: str) -> str:
    """TeX that arithmatex has marked becomes MathML."""
    from html import unescape

    from latex2mathml.converter import convert

    def inline(match: re.Match[str]) -> str:
        return convert(unescape(match.group(1)))

    def display(match: re.Match[str]) -> str:
        return f'<div class="formula">{convert(unescape(match.group(1)), display="block")}</div>'

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
    for _, pictures in notebooks().values():
        for uri, data in pictures.items():
            files.append(File.generated(config, uri, content=data))
    return files


def breakable(html: str) -> str:
    """Names in the headers of tables may be broken behind an underscore, so that wide tables fit."""
    return re.sub(r"(?<=<th>)[^<]+", lambda match: match.group(0).replace("_", "_<wbr>"), html)


def on_page_content(html: str, **_: Any) -> str:
    """Show formulas without a script, and tables that fit."""
    return breakable(to_mathml(html))
