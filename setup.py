"""How tensorlite is built: pure Python, plus one optional C++ extension that never stands in an install's way."""

import sys
from glob import glob

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Compile what can be compiled. Where there is no working compiler, say so and go on without: NumPy does it all."""

    def run(self) -> None:
        try:
            super().run()
        except (Exception, SystemExit) as why:  # distutils raises many kinds, and some compilers' set-ups exit
            print(
                f"tensorlite: built without compiled kernels, NumPy will do ({type(why).__name__}: {why})",
                file=sys.stderr,
            )
            self.extensions, self.distribution.ext_modules = [], []


class OptionalBdistWheel(bdist_wheel):
    """Name the wheel after what was built: py3-none-any where there is no extension in it."""

    def run(self) -> None:
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


def extensions() -> list:
    """``tensorlite._native`` of all files in kernels/cpu: a new file there needs no line here."""
    sources = sorted(glob("kernels/cpu/*.cpp"))
    if not sources:
        return []
    try:
        from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
    except ImportError:
        print("tensorlite: pybind11 is missing, so there will be no compiled kernels", file=sys.stderr)
        return []
    ParallelCompile(default=0).install()  # as many files at a time as there are cores
    windows = sys.platform == "win32"
    extension = Pybind11Extension(
        "tensorlite._native",
        sources,
        cxx_std=17,
        include_dirs=["kernels/cpu"],
        depends=sorted(glob("kernels/cpu/*.h")),
        # pybind11 adds -fvisibility=hidden; no -march=native, since a wheel may travel to another machine
        extra_compile_args=["/O2"] if windows else ["-O3"],
        extra_link_args=[] if windows else ["-pthread"],
    )
    return [extension]


setup(
    packages=[*find_packages(include=["tensorlite", "tensorlite.*"]), "tensorlite._kernels"],
    package_dir={"tensorlite._kernels": "kernels"},
    package_data={
        "tensorlite": ["py.typed", "**/*.pyi"],
        "tensorlite._kernels": ["cpu/*.cpp", "cpu/*.h", "cuda/*.cu", "cuda/*.cuh", "cuda/*.h"],
    },
    include_package_data=False,
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuildExt, "bdist_wheel": OptionalBdistWheel},
)
