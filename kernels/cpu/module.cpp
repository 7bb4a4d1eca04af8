// tensorlite._native: every kernel that the other files of this folder registered, and their settings.
#include "conv.h"
#include "isa.h"
#include "memory.h"
#include "pool.h"
#include "tl.h"

PYBIND11_MODULE(_native, m) {
    m.doc() = "tensorlite's compiled CPU kernels: factories (specs, outs, constants) -> callable(*arrays).";
    for (auto& [name, factory] : tl::Registrar::all()) m.def(name, factory);
    tl::register_memory(m);
    m.def("_threads", [] { return tl::Pool::threads().load(); });
    m.def("_set_threads", [](int n) { tl::Pool::threads() = n; });
    m.def("_isa", [] { return static_cast<int>(tl::isa()); });
    m.def("_set_winograd", [](bool on) { tl::winograd_on() = on; });
    m.def("_set_isa", [](int limit) { tl::isa_limit() = limit; });
}
