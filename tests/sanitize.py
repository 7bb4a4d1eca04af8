"""Compiled kernels under the compiler's watch: bad memory, undefined behaviour, races, and what no test reaches.

    python tests/sanitize.py [address] [undefined] [thread] [coverage] [--keep FOLDER] [-- PYTEST ARGUMENTS]

A script, not a test. It builds kernels/cpu anew, lightly optimised, into a temporary copy of the package and runs
tests/test_native*.py in it, tests/test_pool.py and tests/test_memory.py: once with the address and
undefined-behaviour sanitizers, once with the thread sanitizer (which can be combined with no other), once counting
calls, to list the functions that were compiled and never called: for each instruction set, dtype and way of dispatch
is a function of its own. The slow tests that sweep over all tiles are among them (but not for threads, which a tile
has nothing to do with), the fuzz is not. Needs Linux and GCC with its sanitizers; takes minutes. Exit status: 0 where
nothing was found, 1 where a sanitizer or a test complained or a function was never called and NEVER does not say why,
2 where the build failed.

What CPython, NumPy and OpenBLAS read and write is not judged, for they are not instrumented; but the thread sanitizer
sees their locks, so that what the interpreter's lock guards counts as guarded. Only OpenBLAS's threads, which wait for
each other without locks, look like races in what they write by memset, and are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILER = os.environ.get("CXX", "g++")
NAME = "_native" + sysconfig.get_config_var("EXT_SUFFIX")
FLAGS = ["-O1", "-g1", "-fno-omit-frame-pointer", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wno-psabi"]
# with kept memory the address sanitizer would not see who uses a dead array, so kernels run without
TESTS = (("test_native*.py test_pool.py", "0"), ("test_memory.py", "1"))  # (files, TL_CACHE)
LIBRARIES = {"address": "libasan.so", "undefined": "libubsan.so", "thread": "libtsan.so", "coverage": ""}
OPTIONS = {
    "address": "detect_leaks=0:allocator_may_return_null=1",  # CPython frees little when it ends
    "undefined": "print_stacktrace=1:halt_on_error=1",
    "thread": "die_after_fork=0:exitcode=66:allocator_may_return_null=1",  # the pool goes on in the child of a fork
}
VARIABLES = {"address": "ASAN_OPTIONS", "undefined": "UBSAN_OPTIONS", "thread": "TSAN_OPTIONS"}
# What cannot be called, and why: a part of a line as it is printed. An entry that nothing needs is told, too. Tables of
# tiles have every height, though some families take no sizes that would ask for the lowest.
NEVER = {
    r"PlanesTile<\w+>::call<1, ": "one feature alone counts as channels last (fits_planes)",
    r"FewPlanes<\w+>::call<([123], 1|1, [23])>": "four features at least (fits_planes_dw), cut evenly",
    r"FewPlanes<\w+>::call<([123], [23]|[12], 4)>.* \[avx512\]$": "the same, in tiles of up to 16",
    r"FewPixels<double>.*(::call<\d+, 1>|, 1, 0ul)": "features by sixteens (fits_planes_dw) are two vectors at least",
    r"FewPixels<float>.*(::call<\d+, 1>|, 1, 0ul).* \[avx2, base\]$": "the same, but where a vector has sixteen",
}
REPORT = re.compile(r"ERROR: AddressSanitizer|(?:WARNING|ERROR): ThreadSanitizer|Sanitizer: CHECK|runtime error:")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/sanitize.py", description=__doc__.splitlines()[0])
    parser.add_argument("watches", nargs="*", metavar="watch", help=f"some of {', '.join(LIBRARIES)}; default: all")
    parser.add_argument("--keep", type=Path, help="build here and leave it, so that the next run compiles less")
    own, rest = split(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(own)
    asked = [name for text in given.watches for name in text.split(",")] or list(LIBRARIES)
    if wrong := [name for name in asked if name not in LIBRARIES]:
        parser.error(f"got {', '.join(wrong)}; wanted some of {', '.join(LIBRARIES)}")
    together = (("address", "undefined"), ("thread",), ("coverage",))
    groups = [[name for name in names if name in asked] for names in together]
    with tempfile.TemporaryDirectory(prefix="sanitize") as folder:
        status = [run(group, (given.keep or Path(folder)) / "-".join(group), rest) for group in groups if group]
    return max(status)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def run(group: list[str], folder: Path, pytest: list[str]) -> int:
    """Build with these watches in a folder, and run the tests there; the exit status."""
    start = time.perf_counter()
    for part in ("tensorlite", "tests"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if not build(["--coverage" if "coverage" in group else "-fsanitize=" + ",".join(group)], folder):
        return 2
    print(f"{' and '.join(group)}: built in {time.perf_counter() - start:.0f} s", flush=True)
    status = 0
    for patterns, cache in TESTS:
        files = sorted(str(p) for pattern in patterns.split() for p in (folder / "tests").glob(pattern))
        if files:
            usual = ["-m", "not slow"] if "thread" in group else ["-m", "not parity", "-k", "not fuzz"]
            code = tested(group, folder, [*(pytest or usual), *files], {"TL_CACHE": cache})
            status = status or (0 if code == 5 else code)  # 5: none of these tests was asked for
    found = never_called(folder / "objects") if "coverage" in group else 0
    for path in folder.glob("report.*"):  # one a process, and what went to stderr
        text = path.read_text(errors="replace")
        found += len(REPORT.findall(text))
        print(text[:20000])
        path.unlink()
    print(f"{' and '.join(group)}: pytest's status {status}, {found} found, {time.perf_counter() - start:.0f} s")
    return int(bool(status or found))


def tested(group: list[str], folder: Path, arguments: list[str], more: dict[str, str]) -> int:
    """pytest under these sanitizers; its exit status.

    Beside the address sanitizer the one for undefined behaviour has no file of its own: it writes to stderr and ends
    the process, so that stderr must be neither captured by pytest nor lost.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--maxfail=5", "--capture=sys", "-p", "no:cacheprovider"]
    command += arguments
    if "thread" in group:  # its shadow memory wants fixed addresses
        command = ["setarch", platform.machine(), "-R", *command]
    environment = {**os.environ, **settings(group, folder), **more}
    with open(folder / "report.stderr", "a") as stderr:
        return subprocess.run(command, cwd=folder, env=environment, stderr=stderr).returncode


def never_called(objects: Path) -> int:
    """Print the functions of kernels/cpu that were compiled and that no test called; how many."""
    calls: Counter = Counter()
    for counts in objects.glob("*.gcda"):
        text = subprocess.run(
            ["gcov", "--json-format", "--stdout", str(counts)], cwd=objects, capture_output=True
        ).stdout
        for line in text.splitlines():
            for file in json.loads(line)["files"]:
                if Path(file["file"]).parent == ROOT / "kernels" / "cpu":
                    for f in file["functions"]:
                        calls[Path(file["file"]).name, f["start_line"], f["demangled_name"]] += f["execution_count"]
    never = {where for where, count in calls.items() if not count}
    # what is inside of a function that was never called needs no line of its own
    told = [w for w in never if not any(w[2] != f and w[2].startswith(f + "::") for _, _, f in never)]
    alike: dict = {}
    for name, line, function in sorted(told):
        sets = re.findall(r"\b(base|avx2|avx512)::", function)
        plain = re.sub(r"\(anonymous namespace\)::|\b(base|avx2|avx512)::|\[abi:\w+\]", "", function)
        alike.setdefault((name, line, plain[:140]), []).extend(sets[:1])
    lines = [
        f"{name}:{line}: {function}" + (f" [{', '.join(sorted(set(sets)))}]" if sets else "")
        for (name, line, function), sets in alike.items()
    ]
    known = {part: [text for text in lines if re.search(part, text)] for part in NEVER}
    left = [text for text in lines if not any(text in texts for texts in known.values())]
    print(*left, sep="\n")
    for part, texts in known.items():
        print(f"{len(texts)} lines left out, {part}: {NEVER[part]}" if texts else f"nothing needs NEVER[{part!r}]")
    print(f"{len(never)} of {len(calls)} functions were never called; {len(left)} lines of them without a reason")
    return len(left) + sum(not texts for texts in known.values())


def build(flags: list[str], folder: Path) -> bool:
    """Compile what is newer than its object, as many files at a time as there are cores, and link."""
    import pybind11  # here, since pytest reads this file too where only tests are installed

    objects = folder / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    for counts in objects.glob("*.gcda"):
        counts.unlink()
    sources = sorted((ROOT / "kernels" / "cpu").glob("*.cpp"))
    include = [f"-I{ROOT / 'kernels' / 'cpu'}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]

    def compile_one(source: Path) -> bool:
        out = objects / (source.stem + ".o")
        made_of = out.with_suffix(".d")  # the compiler's list of what it read
        if out.exists() and made_of.exists():
            read = made_of.read_text().replace("\\\n", " ").split(":", 1)[1].split()
            if all(os.path.exists(p) and os.stat(p).st_mtime < out.stat().st_mtime for p in read):
                return True
        command = [COMPILER, *FLAGS, *flags, *include, "-MMD", "-c", str(source), "-o", str(out)]
        return subprocess.run(command).returncode == 0

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        if not all(pool.map(compile_one, sources)):
            return False
    out = folder / "tensorlite" / NAME
    made = [str(objects / (source.stem + ".o")) for source in sources]
    return subprocess.run([COMPILER, "-shared", "-pthread", *flags, "-o", str(out), *made]).returncode == 0


def settings(group: list[str], folder: Path) -> dict[str, str]:
    """The environment of a run: libraries that must come first, and what sanitizers are told."""
    watched = [name for name in group if name in OPTIONS]
    libraries = [library(name) for name in (*(LIBRARIES[n] for n in watched), "libstdc++.so")]  # it must see exceptions
    options = {VARIABLES[name]: f"{OPTIONS[name]}:log_path={folder / 'report'}" for name in watched}
    if "thread" in group:
        left_out = folder / "thread.suppressions"
        left_out.write_text("called_from_lib:openblas\n")
        options[VARIABLES["thread"]] += f":suppressions={left_out}"
    return {
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": str(folder),
        "PYTHONMALLOC": "malloc",  # every object and array in a block of its own
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "2",
        **options,
    }


def library(name: str) -> str:
    found = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        sys.exit(f"sanitize: {COMPILER} has no {name}; wanted a compiler with its sanitizers")
    return os.path.realpath(found)


if __name__ == "__main__":
    sys.exit(main())
