// Shared memory in the emulator: each array of each living block lies before a guard page, is NaN when its block starts
// and is looked at around its edges when the block has ended.
#pragma once

#include "on_cpu_fibers.h"

namespace tl_emu {

// All bytes 0xff: a NaN in every floating-point type, -1 in every integer.
TL_RUNTIME static void poison(void* p, std::size_t size) {
    const Unseen unseen;
    std::memset(p, 0xff, size);
}

constexpr std::size_t edge = 64;  // bytes of a pattern before an area, and those that fill its last 16 up
constexpr unsigned char pattern = 0xa5;

TL_RUNTIME static std::size_t filled(std::size_t size) { return (size + 15) / 16 * 16; }

static std::vector<Area> spare;  // to use again

TL_RUNTIME static Area take_area(std::size_t size, const char* name) {
    const Unseen unseen;
    for (std::size_t k = 0; k < spare.size(); ++k)
        if (spare[k].size == size) {
            Area found = spare[k];
            spare[k] = spare.back();
            spare.pop_back();
            found.name = name;
            return found;
        }
    const std::size_t used = filled(size), mapped = (used + edge + page - 1) / page * page + page;
    void* map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return {};
    char* const start = static_cast<char*>(map);
    char* const base = start + mapped - page - used;
    mprotect(start + mapped - page, page, PROT_NONE);
    std::memset(base - edge, pattern, edge);
    std::memset(base + size, pattern, used - size);
    return {base, size, start, mapped, name, 0};
}

// Blocks have nothing to do with each other's shared memory, so a race search must see other memory in each.
TL_RUNTIME static void renew(Area& a) {
    if (!sanitize_races || !a.base) return;
    munmap(a.map, a.mapped);
    const Area old = a;
    a = {};
    a = take_area(old.size, old.name);
}

// At the end of a block: did somebody write just before or after the area?
TL_RUNTIME static void check_edges(const Block& b, Area& a) {
    const auto intact = [&](char* p, std::size_t n) {
        bool good = true;
        for (std::size_t k = 0; k < n; ++k) good &= static_cast<unsigned char>(p[k]) == pattern;
        if (!good) std::memset(p, pattern, n);
        return good;
    };
    if (!intact(a.base - edge, edge))
        say("block (%u, %u, %u) writes before the start of %s, %zu bytes of shared memory", b.index.x, b.index.y,
            b.index.z, a.name, a.size);
    if (!intact(a.base + a.size, filled(a.size) - a.size))
        say("block (%u, %u, %u) writes beyond the end of %s, %zu bytes of shared memory", b.index.x, b.index.y,
            b.index.z, a.name, a.size);
}

struct Site {  // a static shared array in the source
    const char* name;
    int id = -1;
};

TL_RUNTIME static void* shared_array(Site& site, std::size_t size) {
    Block& b = *current->block;
    if (site.id < 0) {
        if (sites == most_arrays) fail("shared memory: more than %d static arrays in a file", most_arrays);
        site.id = sites++;
    }
    Area& a = b.arrays[site.id];
    if (a.block == b.serial) return a.base;
    renew(a);
    if (!a.base) a = take_area(size, site.name);
    if (!a.base) fail("shared memory: the system gives no %zu bytes", size);
    a.block = b.serial;  // its first use in this block
    poison(a.base, size);
    b.static_bytes += filled(size);
    if (b.static_bytes > static_limit)
        fail("static shared memory: %zu bytes; wanted at most %zu, or dynamic shared memory", b.static_bytes,
             static_limit);
    if (b.static_bytes + launch.shared > shared_limit)
        fail("shared memory: %zu bytes static and %zu dynamic; wanted at most %zu in all", b.static_bytes,
             launch.shared, shared_limit);
    return a.base;
}

TL_RUNTIME static void* dynamic_shared() {
    char* base = current->block->dynamic.base;
    if (!base) fail("dynamic shared memory: the launch asks for none; wanted shared=the bytes of it");
    return base;
}

}  // namespace tl_emu
