// Includes the file named by TL_BODY once for each instruction set that this compiler can aim at, in namespaces `base`,
// `avx2` and `avx512` of the anonymous one. A body is templates over the element type; simd.h and vmath.h stand before
// it.
//
//     #define TL_BODY "softmax_body.h"
//     #include "each_isa.h"
//     ... TL_PICK(softmax<float>)(n, x, y);
//
// Target pragmas keep everything in one file and every inline function of the standard library at the baseline, so that
// no AVX code can leak into what an old processor runs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define TL_INLINE static inline __attribute__((always_inline))

namespace {

namespace base {
#define TL_LEVEL 0
#define TL_BYTES 16
#include "simd.h"
#include "vmath.h"
#include TL_BODY
#undef TL_LEVEL
#undef TL_BYTES
}  // namespace base

#if defined(__x86_64__) && defined(__GNUC__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define TL_LEVEL 1
#define TL_BYTES 32
#include "simd.h"
#include "vmath.h"
#include TL_BODY
#undef TL_LEVEL
#undef TL_BYTES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#endif
namespace avx512 {
#define TL_LEVEL 2
#define TL_BYTES 64
#include "simd.h"
#include "vmath.h"
#include TL_BODY
#undef TL_LEVEL
#undef TL_BYTES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

// The function of this name for the instruction set in use. Read when it is called, so that TL_ISA holds at once.
#define TL_PICK(...)                                       \
    (tl::isa() == tl::avx512 ? &avx512::__VA_ARGS__        \
     : tl::isa() == tl::avx2 ? &avx2::__VA_ARGS__          \
                             : &base::__VA_ARGS__)
#else
#define TL_PICK(...) (&base::__VA_ARGS__)
#endif

}  // namespace
#undef TL_BODY
