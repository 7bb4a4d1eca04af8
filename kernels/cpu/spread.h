// Rows over threads, and scratch memory that a thread keeps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "pool.h"

namespace tl {

// How many rows a task of `spread` has: so many that it does some 16,000 elements' work, by shape alone.
inline std::int64_t rows_of_task(std::int64_t count, std::int64_t cost) {
    const std::int64_t least = (1 << 14) / std::max<std::int64_t>(cost, 1);
    return std::max<std::int64_t>({least, (count + 255) / 256, 1});
}

// Calls f(from, to) for parts of the rows 0 .. count - 1, each of which costs as much as `cost` elements.
template <class F>
void spread(std::int64_t count, std::int64_t cost, F f) {
    const std::int64_t part = rows_of_task(count, cost), tasks = (count + part - 1) / part;
    if (tasks < 2) return f(std::int64_t(0), count);
    Pool::get().run(static_cast<int>(tasks), [&](int k) { f(k * part, std::min(count, (k + 1) * part)); });
}

// Room for n elements of T on whole cache lines, this thread's until it asks for more under the same tag.
template <class T, int Tag = 0>
T* scratch(std::int64_t n) {
    static thread_local T* room = nullptr;
    static thread_local std::int64_t size = 0;
    if (n > size) {
        std::free(room);
        room = nullptr, size = 0;  // should there be no more memory
        const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(T) + 63) / 64 * 64;
#if defined(_WIN32)
        room = static_cast<T*>(std::malloc(bytes));
#else
        room = static_cast<T*>(std::aligned_alloc(64, bytes));
#endif
        if (!room) throw std::bad_alloc();
        size = n;
    }
    return room;
}

}  // namespace tl
