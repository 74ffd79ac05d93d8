"""What the pages of "Use it", and two of the guide, say is run as a reader would run it, in one directory."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import dpolicy.presets
import dpolicy.train
from dpolicy.cli import main

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = (
    "own-environment",
    "own-algorithm",
    "use-a-policy",
    "run-directory",
    "command-line",
    "stages",
    "critics",
)
# What makes a run of theirs small; the words of the page are otherwise its own.
SMALL = {
    "num_envs": 2,
    "warmup": 8,
    "replay_size": 64,
    "batch_size": 4,
    "evaluation_interval": 8,
    "evaluation_episodes": 2,
    "steps": 16,
}
# Runs that later blocks read; of all others the settings are printed.
TRAINED = ("runs/cart", "runs/flow_ql")


def blocks(page):
    """The marked code blocks of a page: what is marked (a file's name, or "run"), language and text."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    pattern = r"<!-- (?:file: (\S+)|(run)) -->\n```(\w+)\n(.*?)```"
    return [
        (file or run, language, code) for file, run, language, code in re.findall(pattern, text, re.DOTALL)
    ]


def small(words):
    """A command that trains with the small settings in the place of its own."""
    if "--resume" in words:
        return [*words[: words.index("--steps") + 1], "24"]
    given = {word.split("=")[0] for word in words}
    for name, value in SMALL.items():
        flag = f"--{name.replace('_', '-')}"
        if flag in given:
            words[words.index(flag) + 1] = str(value)
        else:
            words += [flag, str(value)]
    return words


def command(line):
    words = shlex.split(line, comments=True)
    if words[:1] != ["dpolicy"]:
        return
    words = words[1:]
    if words[0] == "train" and not {"--help", "--print-config"} & set(words):
        out = next((words[i + 1] for i, word in enumerate(words) if word in ("--out", "--resume")), "")
        words = small(words) if out in TRAINED else [*words, "--print-config"]
    elif "--episodes" in words:
        words[words.index("--episodes") + 1] = "2"
    try:
        code = main(words)
    except SystemExit as exit:
        code = exit.code
    assert code in (0, None), line


def small_runs(patch):
    """What Python blocks train is small, too."""
    resolve, off_policy, train_loop = (
        dpolicy.presets.resolve,
        dpolicy.train.off_policy,
        dpolicy.train.train_loop,
    )
    settings = {name: value for name, value in SMALL.items() if name != "steps"}

    def small_resolve(algorithm, env, overrides=None, **options):
        resolve(algorithm, env, overrides, **options)  # as it stands, it must be right
        return resolve(algorithm, env, {**(overrides or {}), **SMALL}, **options)

    def small_off_policy(algorithm, env, **given):
        off_policy(algorithm, env, **given)
        return off_policy(algorithm, env, **{**given, **settings})

    def small_loop(program, **given):
        return train_loop(program, **{**given, "steps": SMALL["steps"], "progress": False})

    patch.setattr(dpolicy.presets, "resolve", small_resolve)
    patch.setattr(dpolicy.train, "off_policy", small_off_policy)
    patch.setattr(dpolicy.train, "train_loop", small_loop)


def python(code, page, namespace):
    with pytest.MonkeyPatch.context() as patch:
        small_runs(patch)
        exec(compile(code, f"{page}.md", "exec"), namespace)


def test_the_pages_of_use_it_run_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    namespace = {"__name__": "page"}
    seen = {"bash": 0, "python": 0}
    try:
        for page in PAGES:
            for mark, language, code in blocks(page):
                seen[language] += 1
                if mark != "run":
                    (tmp_path / mark).write_text(code, encoding="utf-8")
                elif language == "python":
                    python(code, page, namespace)
                else:
                    for line in code.replace("\\\n", "").splitlines():
                        command(line)
    finally:
        for name in {"my_envs", "my_algo"} & (set(sys.modules) - before):
            del sys.modules[name]
    assert seen["bash"] >= 6 and seen["python"] >= 8
    assert (tmp_path / "log.txt").read_text().count("\n") == 1
