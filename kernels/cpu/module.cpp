// tensorlite._native: every kernel that the other files of this folder registered.
#include "tl.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "tensorlite's compiled CPU kernels: factories (specs, outs, constants) -> callable(*arrays).";
    for (auto& [name, factory] : tl::Registrar::all()) m.def(name, factory);
}
