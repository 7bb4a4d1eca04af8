// Memory of the calling thread that is kept from call to call, since fresh pages cost more than most kernels take.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace tl {

// Room for `count` elements at an address that 64 divides; what is in it is anybody's guess. Each `Use` (a type that
// is declared for it alone) has memory of its own, so that a kernel may call another one while it works in its own.
template <class Use, class T>
T* scratch(std::int64_t count) {
    struct Kept {
        void* block = nullptr;
        std::int64_t bytes = 0;
        ~Kept() { std::free(block); }
    };
    static thread_local Kept kept;
    const std::int64_t bytes = (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (bytes > kept.bytes) {
        std::free(kept.block);
        kept.bytes = 0;
        kept.block = std::aligned_alloc(64, static_cast<std::size_t>(bytes));
        if (!kept.block) throw std::bad_alloc();
        kept.bytes = bytes;
    }
    return static_cast<T*>(kept.block);
}

}  // namespace tl
