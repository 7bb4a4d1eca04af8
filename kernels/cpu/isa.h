// Which instruction set kernels use: the best that the processor has, or a lower one that was asked for (TL_ISA).
#pragma once

#include <algorithm>
#include <atomic>

namespace tl {

enum Isa { baseline, avx2, avx512 };

inline std::atomic<int>& isa_limit() {
    static std::atomic<int> limit{avx512};
    return limit;
}

inline Isa isa_of_machine() {
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2;
#endif
    return baseline;
}

inline Isa isa() {
    static const Isa best = isa_of_machine();
    return static_cast<Isa>(std::min<int>(best, isa_limit().load(std::memory_order_relaxed)));
}

}  // namespace tl
