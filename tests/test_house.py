"""The house stands: floors, file sizes, imports, switches, names, packaging. Nothing here runs an op."""

import ast
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tensorlite"

# The floor of a module is that of the longest prefix listed here. A new top-level module must be added.
FLOORS = {
    0: "_version errors config dtypes shapes",
    1: "backends _kernels _native",
    2: "autograd",
    3: "ops",
    4: "program",
    5: "nn optim utils amp io vision text",
    6: "train metrics callbacks keras kernel distributed profile draw bench",
    7: "cuda compat cli __main__ dev stubs examples",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
TOP = 7  # of tensorlite/__init__.py itself

# Imports inside functions that point up, each with its reason. None is the aim.
UPWARD: dict[tuple[str, str], str] = {}

LENGTH_REPORTED, LENGTH_REFUSED = 400, 700  # code lines of a file: no blank lines, comments, docstrings
STANDARD_ENVIRONMENT = {"XDG_CACHE_HOME", "LOCALAPPDATA", "COLUMNS", "NO_COLOR", "OMP_NUM_THREADS", "TERM"} | {
    "TORCHINDUCTOR_CACHE_DIR"  # of a peer, in the benchmarks
}
NOT_AT_IMPORT = "cupy numba scipy matplotlib sklearn safetensors tqdm PIL torch pytest"
IMPORT_SECONDS = 0.1


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def floor_of(module: str) -> int:
    return TOP if module == "tensorlite" else FLOOR_OF[module.split(".")[1]]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(module: str) -> list[tuple[str, int, bool]]:
    """The modules of the package that ``module`` imports: (name, line, whether at its top level)."""
    found: list[tuple[str, int, bool]] = []

    def add(name: str, line: int, top: bool) -> None:
        while name not in modules() and name not in ("tensorlite._native", "tensorlite._kernels"):
            name = name.rpartition(".")[0]  # a name in a module, not a module
        found.append((name, line, top))

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.name.split(".")[0] == "tensorlite":
                        add(alias.name, child.lineno, top)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:  # relative
                    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
                    above = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                if base.split(".")[0] == "tensorlite":
                    for alias in child.names:
                        add(f"{base}.{alias.name}", child.lineno, top)
            elif _is_type_checking(child):
                visit(ast.Module(child.orelse, []), top)
            else:
                visit(child, top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(parsed(modules()[module]), True)
    return found


def test_every_module_stands_on_a_floor():
    strays = [m for m in modules() if m != "tensorlite" and m.split(".")[1] not in FLOOR_OF]
    assert not strays, f"not on any floor (add them to FLOORS): {strays}"


def test_imports_only_point_down():
    wrong = []
    for module in modules():
        for target, line, top in imports(module):
            if floor_of(target) > floor_of(module) and (top or (module, target) not in UPWARD):
                wrong.append(
                    f"{modules()[module].relative_to(ROOT)}:{line} (floor {floor_of(module)}) imports {target} "
                    f"(floor {floor_of(target)})"
                )
    assert not wrong, "\n".join(wrong)


def test_the_list_of_upward_imports_is_not_stale():
    there = {(m, t) for m in modules() for t, _, top in imports(m) if not top}
    assert set(UPWARD) <= there


def test_no_circle_of_imports():
    """At the top level of modules; an import inside a function may go sideways."""
    graph = {m: {t for t, _, top in imports(m) if top and t in modules() and t != m} for m in modules()}
    done: set[str] = set()
    path: list[str] = []

    def walk(module: str) -> None:
        if module in path:
            raise AssertionError("a circle: " + " -> ".join([*path[path.index(module) :], module]))
        if module not in done:
            path.append(module)
            for target in sorted(graph[module]):
                walk(target)
            done.add(path.pop())

    for module in graph:
        walk(module)


def test_every_file_says_what_it_holds_and_its_floor():
    wrong = []
    for module, path in modules().items():
        doc = ast.get_docstring(parsed(path)) or ""
        if not doc.splitlines() or not doc.splitlines()[0].rstrip().endswith((".", ":")):
            wrong.append(f"{path.relative_to(ROOT)}: its docstring's first line is not a sentence")
        named = re.search(r"\bFloor (\d)\b", doc)
        if module != "tensorlite" and (named is None or int(named[1]) != floor_of(module)):
            wrong.append(f"{path.relative_to(ROOT)}: says {named and named[0]!r}; wanted 'Floor {floor_of(module)}'")
    assert not wrong, "\n".join(wrong)


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            first = node.body[0]
            lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def test_files_are_short():
    """A count to look at (`pytest -rP tests/test_house.py -k short`); far too long is refused."""
    files = [*modules().values(), *sorted((ROOT / "tests").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
    sizes = {str(p.relative_to(ROOT)): code_lines(p) for p in files}
    for name, n in sorted(sizes.items(), key=lambda item: -item[1]):
        if n > LENGTH_REPORTED:
            print(f"{n:5} code lines in {name}; about {LENGTH_REPORTED} is the aim")
    too_long = {name: n for name, n in sizes.items() if n > LENGTH_REFUSED}
    assert not too_long, f"more than {LENGTH_REFUSED} code lines: {too_long}"


def test_star_imports_only_in_package_faces():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules().values()
        if path.name != "__init__.py"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
    ]
    assert not wrong, f"import * outside of an __init__.py: {wrong}"


# ---- importing
def _python(code: str, cache_dir: Path, *options: str) -> str:
    """What ``code`` prints in a fresh interpreter that keeps its bytecode in ``cache_dir``, as an install does."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TL_", "COV_"))}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(cache_dir)}
    done = subprocess.run([sys.executable, *options, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick(tmp_path):
    """`import tensorlite` costs at most 0.1 s beyond `import numpy`: the median of several fresh interpreters."""
    code = "import time, numpy; t = time.perf_counter(); import tensorlite; print(time.perf_counter() - t)"
    _python(code, tmp_path)  # compiles the bytecode
    seconds = sorted(float(_python(code, tmp_path)) for _ in range(7))
    print("import tensorlite after import numpy, seconds:", *(f"{s:.3f}" for s in seconds))
    assert statistics.median(seconds) <= IMPORT_SECONDS, seconds


def test_import_brings_no_heavy_modules(tmp_path):
    code = f"import sys, tensorlite; print(*(m for m in {NOT_AT_IMPORT.split()!r} if m in sys.modules))"
    assert _python(code, tmp_path).split() == []


def test_import_warns_of_nothing(tmp_path):
    assert _python("import tensorlite", tmp_path, "-W", "error") == ""


# ---- names
def environment_names() -> dict[str, str]:
    """Every environment variable that the code reads or names whole: name -> file."""
    found: dict[str, str] = {}
    for path in [*modules().values(), *sorted((ROOT / "benchmarks").glob("*.py"))]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if re.fullmatch(r"(TL|TENSORLITE)_[A-Z0-9_]+", node.value):
                    found[node.value] = str(path.relative_to(ROOT))
            reads = None
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv", "environ.get"):
                reads = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ"):
                reads = node.slice
            if isinstance(reads, ast.Constant):
                found[reads.value] = str(path.relative_to(ROOT))
    for path in sorted((ROOT / "kernels").rglob("*.[ch]*")):
        for name in re.findall(r'getenv\(\s*"(\w+)"', path.read_text(encoding="utf-8")):
            found[name] = str(path.relative_to(ROOT))
    return found


def test_every_switch_is_documented():
    from tensorlite import config

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = set(config.Switch.table) | {"TENSORLITE_DATA"} | STANDARD_ENVIRONMENT
    assert not {n: f for n, f in environment_names().items() if n not in known}, "environment names that nobody knows"
    missing = [n for n in [*config.Switch.table, "TENSORLITE_DATA"] if f"`{n}`" not in readme]
    assert not missing, f"not in README: {missing}"


def project_files() -> list[Path]:
    """The files that git would commit, or all text files where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        paths = [p for p in ROOT.rglob("*") if not {"build", "dist", ".venv", "__pycache__", ".git"} & set(p.parts)]
    return [p for p in paths if p.is_file() and p.suffix in {".py", ".pyi", ".md", ".toml", ".cpp", ".h", ".yaml", ""}]


def test_no_file_names_the_machine_it_was_written_on():
    places = re.compile(r"(?<![\w.])/(?:home|root|work|Users|tmp)/\w|\bfarm[-]\w|\bissues[ ]show\b")
    wrong = [
        f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
        for path in project_files()
        for n, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if places.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_loose_ends():
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
    wrong = [
        f"{path.relative_to(ROOT)}:{n}"
        for path in project_files()
        if path.suffix in {".py", ".cpp", ".h"} and path != Path(__file__).resolve()
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not wrong, wrong


# ---- packaging
def test_version_stands_in_one_place():
    import tensorlite
    from tensorlite._version import __version__

    assert tensorlite.__version__ == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.slow
def test_a_wheel_builds_where_there_is_no_compiler(tmp_path):
    """It is then pure Python and works. Needs the package index (pip fetches setuptools and pybind11)."""
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    for path in project_files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    (source / "tensorlite" / "py.typed").touch()
    (source / "kernels" / "cpu").mkdir(parents=True, exist_ok=True)
    (source / "kernels" / "cpu" / "probe.cpp").write_text("int probe() { return 1; }\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(wheels), str(source)],
        check=True,
        env=os.environ | {"CC": "/bin/false", "CXX": "/bin/false"},
        timeout=300,
    )
    (wheel,) = wheels.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert "tensorlite/py.typed" in names and "tensorlite/_kernels/cpu/probe.cpp" in names
    assert not [n for n in names if n.endswith((".so", ".pyd"))]
    code = "import tensorlite as tl; print(tl.__file__, (tl.ones(2) + 1).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout and "[2.0, 2.0]" in done.stdout
