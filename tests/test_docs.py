"""The documentation does what it says: doctests, Python blocks, links, and every quoted command line."""

import contextlib
import doctest
import functools
import importlib
import importlib.util
import io
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import overnight

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(overnight.__path__, "overnight.")
    if not module.name.endswith("__main__")
    and (module.name != "overnight.optim.triton_kernels" or importlib.util.find_spec("triton"))  # the extra gpu
)
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0, output.getvalue()


def test_there_are_docstring_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [e for name in MODULES for test in finder.find(importlib.import_module(name)) for e in test.examples]
    assert len(examples) >= 10


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run_one_after_another(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__page__"}
    for match in FENCE.finditer(text):
        if match["language"] == "python":
            line = text[: match.start()].count("\n") + 1
            code = "\n" * line + match["body"]  # so that a traceback shows the page's own line
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    targets = [t for t in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose) if "://" not in t and not t.startswith("mailto:")]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_of_docs_is_in_its_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [page for page in pages if page != "README.md" and f"]({page})" not in index] == []


def command_lines(text: str) -> list[list[str]]:
    """Every `overnight …` command in shell blocks and inline code, as words after the program's name."""
    lines: list[str] = []
    for match in FENCE.finditer(text):
        if match["language"] in ("", "sh", "bash", "shell", "console"):
            lines += re.sub(r"\\\n\s*", " ", match["body"]).splitlines()
    lines += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    found = []
    for line in lines:
        for command in re.split(r"\||&&|;|\$\(", re.sub(r"\s#\s.*$", "", line.strip().removeprefix("$ "))):
            with contextlib.suppress(ValueError):  # an apostrophe in prose
                words = shlex.split(command.rstrip(") "))
                start = program_end(words)
                if start is not None:
                    found.append(words[start:])
    return [words for words in found if words and words[0] not in ("COMMAND", "…")]


def program_end(words: list[str]) -> int | None:
    """Where the arguments of overnight begin in a command, or None if it runs something else."""
    launchers = ("torchrun", "srun", "python", "python3", "nohup", "time", "exec")
    for i, word in enumerate(words):
        if word == "-m" and words[i + 1 : i + 2] == ["overnight"]:
            return i + 2
        if Path(word).name == "overnight" and (i == 0 or all("=" in w or w in launchers for w in words[:i])):
            return i + 1
    return None


def test_commands_are_found_in_blocks_and_inline() -> None:
    text = """Run `overnight train X --epochs 3`, then `overnight --help`; not `overnight.optim` or `make train`.
```bash
$ torchrun --nproc-per-node 8 -m overnight train byte-lm \\
    --steps=5 | tee log && .venv/bin/overnight list  # both
OMP_NUM_THREADS=1 overnight generate runs/a --prompt "a b"
if true; then echo "overnight prepare"; fi
```
```json
overnight doctor
```"""
    assert command_lines(text) == [
        ["train", "byte-lm", "--steps=5"],
        ["list"],
        ["generate", "runs/a", "--prompt", "a b"],
        ["train", "X", "--epochs", "3"],
        ["--help"],
    ]


def test_wrong_flags_and_commands_are_found() -> None:
    assert wrong_uses("`overnight generate R --prompt x --lenght 3 -h`, `overnight train byte-lm --preset 4096`") == [
        "overnight generate R --prompt x --lenght 3 -h: there is no --lenght"
    ]
    assert wrong_uses("`overnight trian byte-lm`") == ["overnight trian byte-lm: there is no command trian"]


@functools.cache
def flags_of(*command: str) -> frozenset[str]:
    """The flags that `overnight COMMAND… --help` shows; empty if there is no such command."""
    from overnight.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = main([*command, "--help"])
        except SystemExit as stop:
            code = stop.code
    return frozenset(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", output.getvalue())) if not code else frozenset()


def wrong_uses(text: str) -> list[str]:
    """A sentence for every quoted command that does not exist and every flag that its command does not have."""
    wrong = []
    for words in command_lines(text):
        flags = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        command = [] if words[0].startswith("-") else words[:1]
        known = flags_of() | flags_of(*command) | {"-h", "--help"}
        if words[0] in ("train", "probe", "scale") and words[1:] and not words[1].startswith("-"):
            # What follows is a recipe, or a run to resume, repeat or scale, which needs no recipe's own flags.
            known |= flags_of(*words[:2]) or flags_of(words[0], "byte-lm")
        for kind in ("--words", "--pairs", "--bert", "--ratings"):
            if command == ["prepare"] and kind in flags:
                known |= flags_of("prepare", kind)
        if command and not flags_of(*command):
            wrong.append(f"overnight {' '.join(words)}: there is no command {command[0]}")
        else:
            wrong += [f"overnight {' '.join(words)}: there is no {flag}" for flag in flags if flag not in known]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quoted_commands_use_flags_that_exist(page: Path) -> None:
    assert wrong_uses(page.read_text()) == []
