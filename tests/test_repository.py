"""What holds for the repository as a whole: sizes, floors, light imports, nothing tied to one machine."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from overnight.cli import COMMANDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "overnight"
MADE = {"build", "dist", "runs", "corpora", "__pycache__"}


def files(*suffixes: str) -> list[Path]:
    """The repository's own files with these suffixes (all when none is given), without environments and builds."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        folders = path.relative_to(ROOT).parts[:-1]
        made = MADE.intersection(folders) or any(name[0] == "." and name not in (".ci", ".github") for name in folders)
        if not made and path.is_file() and (not suffixes or path.suffix in suffixes):
            found.append(path)
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules() -> list[Path]:
    return [path for path in files(".py") if path.is_relative_to(PACKAGE)]


def test_no_python_file_is_over_400_lines() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in files(".py")}
    assert len(lengths) > 20
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_examples_are_at_most_60_lines() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in (ROOT / "examples").glob("*.py")}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_every_module_is_on_a_floor() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = next(c for c in config["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    known = {name.strip() for layer in floors["layers"] for name in re.split(r"[:|]", layer)}
    assert all(
        (PACKAGE / name.split(".")[1]).exists() or (PACKAGE / f"{name.split('.')[1]}.py").exists() for name in known
    )
    top = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    entrances = {"__init__", "__main__"}  # the version; `python -m overnight`
    assert {f"overnight.{name}" for name in top - entrances} == known


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [
        relative(path) for path in modules() if vague.intersection(path.relative_to(PACKAGE).with_suffix("").parts)
    ] == []


def test_optional_libraries_are_imported_only_inside_functions() -> None:
    names = {"scikit-learn": "sklearn"}
    optional = set()
    for requirement in requires("overnight") or []:
        found = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if found and found[2] != "dev":
            optional.add(names.get(found[1], found[1]))
    assert {"jinja2", "sklearn", "zstandard"} <= optional
    # Triton compiles functions of a module that knows it by name, and a scikit-learn transformer inherits from its
    # classes; such modules are imported inside functions themselves
    kernels = [
        path
        for path in modules()
        if path.name == "triton_kernels.py" or relative(path).endswith("evaluate/features.py")
    ]
    assert {
        relative(path): sorted(optional & top_level_imports(path))
        for path in modules()
        if path not in kernels and optional & top_level_imports(path)
    } == {}
    for path in kernels:
        if optional & top_level_imports(path):
            package = f"overnight.{path.parent.name}"
            at_the_top = re.compile(
                rf"^(?:import|from) {package}(?:\.{path.stem}\b| import .*\b{path.stem}\b)", re.MULTILINE
            )
            assert [relative(other) for other in modules() if at_the_top.search(other.read_text())] == []


def top_level_imports(path: Path) -> set[str]:
    """First words of what a file imports when it is imported itself; blocks for type checkers do not count."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(path.read_text()).body)
    for node in waiting:
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Try):
            waiting += node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += node.body + node.orelse
    return found


def test_public_modules_classes_and_functions_say_what_they_are() -> None:
    silent = []
    for path in modules():
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            silent.append(relative(path))
        for node in tree.body:
            named = isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                silent.append(f"{relative(path)}: {node.name}")
    assert silent == []


def test_nothing_names_the_machine_it_was_written_on() -> None:
    ours = re.compile(r"(?<![\w.-])/(?:" + "|".join(("work", "root", "tmp/dev", "opt/wheels")) + r")/")
    found = []
    for path in files():
        text = path.read_bytes().decode(errors="ignore")
        found += [f"{relative(path)}: {match[0]}" for match in ours.finditer(text)]
    assert found == []


def tree_paths(text: str) -> list[str]:
    """Paths named by a drawn file tree: four columns a level, the first word of a line, text after it ignored.

    A name that hangs on no branch of its own (``│   gates.py``) is inside the branch above it.
    """
    paths: list[str] = []
    for tree in re.findall(r"^```[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if "├──" not in tree:
            continue
        above: list[str] = []
        for line in tree.splitlines():
            found = re.match(r"([ │├└─]*)([\w.-]+(?:/[\w.-]+)*/?)(?:\s|$)", line)
            if found and ("/" in found[2] or "." in found[2]):
                level = len(found[1]) // 4 + (1 if found[1] and "─" not in found[1] else 0)
                above = [*above[:level], found[2].rstrip("/")]
                paths.append("/".join(above))
    return paths


def test_a_drawn_tree_is_read_level_by_level() -> None:
    text = "```\nsrc/overnight/\n├── nn/         layers\n│   ├── fast/   twins\n│   gates.py\n└── cli/\n```\n"
    assert [path.removeprefix("src/overnight/") for path in tree_paths(text)][1:] == [
        "nn",
        "nn/fast",
        "nn/gates.py",
        "cli",
    ]


def test_the_readmes_tree_is_the_repositorys() -> None:
    paths = tree_paths((ROOT / "README.md").read_text())
    assert len(paths) >= 10, "the README ends in a file tree"
    assert [path for path in paths if not (ROOT / path).exists()] == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


FILES = sorted(path.stem for path in (PACKAGE / "cli").glob("*.py") if not path.stem.startswith("_"))
HEAVY = ("torch", "pyarrow", "matplotlib")


@pytest.mark.parametrize("module", ["overnight", "overnight.cli", *(f"overnight.cli.{name}" for name in FILES)])
def test_importing_a_command_loads_nothing_heavy(module: str) -> None:
    done = run_python(f"import {module}, sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_help_is_fast_and_loads_no_torch(arguments: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        f"from overnight.cli import main; sys.exit(main({arguments!r}))"
    )
    before = os.times()
    done = run_python(code)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stderr == "False\n"
    assert done.stdout.strip()
    # Processor time: on an idle machine the clock shows the same, on a busy one it shows what else runs.
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert seconds < 0.5
