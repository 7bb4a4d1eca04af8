// The allocator of large arrays (memory.cpp).
#pragma once

namespace pybind11 {
class module_;
}

namespace tl {

void register_memory(pybind11::module_& m);

}  // namespace tl
