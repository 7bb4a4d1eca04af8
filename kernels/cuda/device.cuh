// What every kernel needs of a device: small floats, shared memory, barriers, shuffles, sums, atomics, vector loads,
// asynchronous copies, tensor cores, flags between blocks. Inline PTX for sm_80 and up, and beside it what a CPU does
// for the emulator. Needs no header of CUDA. Blocks are whole warps: a warp's functions want all its 32 threads.
#pragma once

#if defined(__CUDACC__)
#define TL_GPU 1
#define TL_AT0  // the place of a call, which only the emulator wants to know
#define TL_AT
#define TL_PASS0
#define TL_PASS
#else
#define TL_GPU 0
#include "on_cpu.h"
#define TL_AT0 ::tl_emu::Where at = ::tl_emu::Where::here()
#define TL_AT , ::tl_emu::Where at = ::tl_emu::Where::here()
#define TL_PASS0 at
#define TL_PASS , at
#endif
#define TL_DEVICE static __device__ __forceinline__

// ---- numbers
#define INF (__int_as_float(0x7f800000))
#define NAN_F (__int_as_float(0x7fffffff))

// Two bytes that hold a number; arithmetic is done in float.
struct half_t {
    unsigned short bits;
};
struct bf16_t {
    unsigned short bits;
};

template <class T>
TL_DEVICE float to_float(T x) {
    return static_cast<float>(x);
}

TL_DEVICE float to_float(bf16_t x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

TL_DEVICE float to_float(half_t x) {
#if TL_GPU
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    const unsigned sign = (x.bits & 0x8000u) << 16, e = x.bits >> 10 & 31, m = x.bits & 0x3ffu;
    if (e == 31) return __uint_as_float(sign | 0x7f800000u | m << 13);
    if (e) return __uint_as_float(sign | (e + 112) << 23 | m << 13);
    const float small = static_cast<float>(m) * 0x1p-24f;
    return sign ? -small : small;
#endif
}

TL_DEVICE half_t half_of(float x) {
    half_t y;
#if TL_GPU
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    const unsigned u = __float_as_uint(x), a = u & 0x7fffffffu, sign = u >> 16 & 0x8000u;
    unsigned r;
    if (a > 0x7f800000u) return {0x7fff};
    if (a >= 0x477ff000u) r = 0x7c00;  // 65520 and more round to infinity
    else if (a >= 0x38800000u) r = (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13;
    else r = static_cast<unsigned>(std::nearbyint(__uint_as_float(a) * 0x1p24f));  // a multiple of 2^-24
    y.bits = static_cast<unsigned short>(sign | r);
#endif
    return y;
}

TL_DEVICE half_t half_of(double x) {  // in one rounding, which by way of float would be two
#if TL_GPU
    half_t y;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(y.bits) : "d"(x));
    return y;
#else
    if (!(std::fabs(x) < 0x1p16)) return half_of(static_cast<float>(x));
    const double unit = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
    return half_of(static_cast<float>(std::nearbyint(x / unit) * unit));
#endif
}

TL_DEVICE bf16_t bf16_of(float x) {
    bf16_t y;
#if TL_GPU
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    const unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    y.bits = static_cast<unsigned short>((u + 0x7fffu + (u >> 16 & 1)) >> 16);
#endif
    return y;
}

template <class T>
struct From {  // from_float<T>, for integers as C converts them
    TL_DEVICE T of(float x) { return static_cast<T>(x); }
};
template <>
struct From<half_t> {
    TL_DEVICE half_t of(float x) { return half_of(x); }
};
template <>
struct From<bf16_t> {
    TL_DEVICE bf16_t of(float x) { return bf16_of(x); }
};
template <class T>
TL_DEVICE T from_float(float x) {
    return From<T>::of(x);
}

// Two halves in a register, the first one low: what ldmatrix and mma use.
template <class T>
TL_DEVICE unsigned pack2(T low, T high) {
    return static_cast<unsigned>(low.bits) | static_cast<unsigned>(high.bits) << 16;
}

// The 32 bits that a tensor core reads as a TF32 number: float's range, ten bits of mantissa, ties away from zero.
TL_DEVICE unsigned to_tf32(float x) {
#if TL_GPU
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
#else
    const unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
    return (u & 0x7f800000u) == 0x7f800000u ? u : (u + 0x1000u) & ~0x1fffu;
#endif
}

// ---- functions, exact as the C library's; each for float and double
#if !TL_GPU
#define TL_C(name) ::name
#else
#define TL_C(name) name
#endif
#define TL_FUNCTION1(ours, theirs)                                 \
    TL_DEVICE float ours(float x) { return TL_C(theirs##f)(x); } \
    TL_DEVICE double ours(double x) { return TL_C(theirs)(x); }
#define TL_FUNCTION2(ours, theirs)                                             \
    TL_DEVICE float ours(float x, float y) { return TL_C(theirs##f)(x, y); } \
    TL_DEVICE double ours(double x, double y) { return TL_C(theirs)(x, y); }
TL_FUNCTION1(tl_exp, exp)
TL_FUNCTION1(tl_exp2, exp2)
TL_FUNCTION1(tl_expm1, expm1)
TL_FUNCTION1(tl_log, log)
TL_FUNCTION1(tl_log2, log2)
TL_FUNCTION1(tl_log10, log10)
TL_FUNCTION1(tl_log1p, log1p)
TL_FUNCTION1(tl_sqrt, sqrt)
TL_FUNCTION1(tl_rsqrt, rsqrt)
TL_FUNCTION1(tl_cbrt, cbrt)
TL_FUNCTION1(tl_sin, sin)
TL_FUNCTION1(tl_cos, cos)
TL_FUNCTION1(tl_tan, tan)
TL_FUNCTION1(tl_asin, asin)
TL_FUNCTION1(tl_acos, acos)
TL_FUNCTION1(tl_atan, atan)
TL_FUNCTION1(tl_sinh, sinh)
TL_FUNCTION1(tl_cosh, cosh)
TL_FUNCTION1(tl_tanh, tanh)
TL_FUNCTION1(tl_asinh, asinh)
TL_FUNCTION1(tl_acosh, acosh)
TL_FUNCTION1(tl_atanh, atanh)
TL_FUNCTION1(tl_erf, erf)
TL_FUNCTION1(tl_erfc, erfc)
TL_FUNCTION1(tl_lgamma, lgamma)
TL_FUNCTION1(tl_tgamma, tgamma)
TL_FUNCTION1(tl_abs, fabs)
TL_FUNCTION1(tl_floor, floor)
TL_FUNCTION1(tl_ceil, ceil)
TL_FUNCTION1(tl_trunc, trunc)
TL_FUNCTION1(tl_round, rint)  // ties to even
TL_FUNCTION2(tl_pow, pow)
TL_FUNCTION2(tl_atan2, atan2)
TL_FUNCTION2(tl_fmod, fmod)
TL_FUNCTION2(tl_hypot, hypot)
TL_FUNCTION2(tl_copysign, copysign)
TL_DEVICE float tl_fma(float a, float b, float c) { return TL_C(fmaf)(a, b, c); }
TL_DEVICE double tl_fma(double a, double b, double c) { return TL_C(fma)(a, b, c); }
TL_DEVICE float tl_sigmoid(float x) { return 1.0f / (1.0f + tl_exp(-x)); }
TL_DEVICE double tl_sigmoid(double x) { return 1.0 / (1.0 + tl_exp(-x)); }
template <class T>
TL_DEVICE bool is_nan(T x) {
    return x != x;
}

// The smaller and the larger; NaN where one is NaN.
template <class T>
TL_DEVICE T tl_min(T a, T b) {
    return a < b || a != a ? a : b;
}
template <class T>
TL_DEVICE T tl_max(T a, T b) {
    return a > b || a != a ? a : b;
}

// Quick and rough: relative error about 1e-6 and 5e-4.
TL_DEVICE float fast_exp(float x) { return __expf(x); }
TL_DEVICE float fast_tanh(float x) {
#if TL_GPU
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return tl_tanh(x);
#endif
}

// n / divisor for n < 2^31 without a division: shift = ceil(log2(divisor)),
// mul = (2^32 * (2^shift - divisor)) / divisor + 1, which the host works out and passes.
struct FastDivider {
    unsigned mul, shift, divisor;
    __device__ __forceinline__ unsigned divide(unsigned n) const { return (__umulhi(n, mul) + n) >> shift; }
    __device__ __forceinline__ unsigned divide(unsigned n, unsigned& rest) const {
        const unsigned q = divide(n);
        rest = n - q * divisor;
        return q;
    }
};

// ---- who am I
// Blocks of one dimension, in all of this file that asks for a lane or a warp.
TL_DEVICE int lane_id() {
#if !TL_GPU
    ::tl_emu::one_dimension();
#endif
    return static_cast<int>(threadIdx.x & 31);
}
TL_DEVICE int warp_id() {
#if !TL_GPU
    ::tl_emu::one_dimension();
#endif
    return static_cast<int>(threadIdx.x >> 5);
}
TL_DEVICE long long grid_first() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
TL_DEVICE long long grid_step() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// f(i) for the i in [0, n) that are this thread's, whatever the grid.
template <class F>
TL_DEVICE void grid_stride(long long n, F f) {
    for (long long i = grid_first(); i < n; i += grid_step()) f(i);
}

// ---- shared memory: TL_SHARED(float, tile, 1024); TL_DYNAMIC_SHARED(float, all);
#if TL_GPU
#define TL_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define TL_DYNAMIC_SHARED(type, name)                                  \
    extern __shared__ __align__(16) unsigned char tl_dynamic_shared[]; \
    type* const name = reinterpret_cast<type*>(tl_dynamic_shared)
#else
#define TL_SHARED(type, name, count) TL_EMU_SHARED(type, name, [count])
#define TL_DYNAMIC_SHARED(type, name) TL_EMU_DYNAMIC(type, name)
#endif

// ---- barriers and votes
TL_DEVICE void barrier(TL_AT0) { __syncthreads(TL_PASS0); }
TL_DEVICE bool barrier_or(bool p TL_AT) { return __syncthreads_or(p TL_PASS) != 0; }
TL_DEVICE bool barrier_and(bool p TL_AT) { return __syncthreads_and(p TL_PASS) != 0; }
TL_DEVICE int barrier_count(bool p TL_AT) { return __syncthreads_count(p TL_PASS); }
constexpr unsigned all_lanes = 0xffffffffu;
TL_DEVICE void warp_sync(TL_AT0) { __syncwarp(all_lanes TL_PASS); }
TL_DEVICE unsigned ballot(bool p TL_AT) { return __ballot_sync(all_lanes, p TL_PASS); }
TL_DEVICE bool any(bool p TL_AT) { return __any_sync(all_lanes, p TL_PASS) != 0; }
TL_DEVICE bool all(bool p TL_AT) { return __all_sync(all_lanes, p TL_PASS) != 0; }

// ---- shuffles, of 32 and 64 bits
template <class T>
TL_DEVICE T shuffle_xor(T v, int bits TL_AT) {
    return __shfl_xor_sync(all_lanes, v, bits, 32 TL_PASS);
}
template <class T>
TL_DEVICE T shuffle_down(T v, int by TL_AT) {
    return __shfl_down_sync(all_lanes, v, static_cast<unsigned>(by), 32 TL_PASS);
}
template <class T>
TL_DEVICE T shuffle_up(T v, int by TL_AT) {
    return __shfl_up_sync(all_lanes, v, static_cast<unsigned>(by), 32 TL_PASS);
}
template <class T>
TL_DEVICE T shuffle_from(T v, int lane TL_AT) {
    return __shfl_sync(all_lanes, v, lane, 32 TL_PASS);
}

// ---- sums and maxima, which every thread gets; the order of adding is fixed, so their bits are too
template <class T>
TL_DEVICE T warp_sum(T v TL_AT) {
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) v += shuffle_xor(v, bits TL_PASS);
    return v;
}
template <class T>
TL_DEVICE T warp_max(T v TL_AT) {
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) v = tl_max(v, shuffle_xor(v, bits TL_PASS));
    return v;
}

// `scratch` is shared memory for 32 values; it is free again when the function is left.
template <class T>
TL_DEVICE T block_sum(T v, T* scratch TL_AT) {
    v = warp_sum(v TL_PASS);
    if (lane_id() == 0) scratch[warp_id()] = v;
    barrier(TL_PASS0);
    v = warp_sum(lane_id() < static_cast<int>(blockDim.x >> 5) ? scratch[lane_id()] : T(0) TL_PASS);
    barrier(TL_PASS0);
    return v;
}
template <class T>
TL_DEVICE T block_max(T v, T* scratch TL_AT) {
    v = warp_max(v TL_PASS);
    if (lane_id() == 0) scratch[warp_id()] = v;
    barrier(TL_PASS0);
    v = warp_max(lane_id() < static_cast<int>(blockDim.x >> 5) ? scratch[lane_id()] : v TL_PASS);
    barrier(TL_PASS0);
    return v;
}

// ---- atomics: they give what was there before
template <class T>
TL_DEVICE T atomic_add(T* p, T v) {
    return atomicAdd(p, v);
}
template <class T>
TL_DEVICE T atomic_max(T* p, T v) {
    return atomicMax(p, v);
}
template <class T>
TL_DEVICE T atomic_min(T* p, T v) {
    return atomicMin(p, v);
}
template <class T>
TL_DEVICE T atomic_or(T* p, T v) {
    return atomicOr(p, v);
}
template <class T>
TL_DEVICE T atomic_and(T* p, T v) {
    return atomicAnd(p, v);
}
template <class T>
TL_DEVICE T atomic_exchange(T* p, T v) {
    return atomicExch(p, v);
}
template <class T>
TL_DEVICE T atomic_cas(T* p, T wanted, T v TL_AT) {
    return atomicCAS(p, wanted, v TL_PASS);
}
#if TL_GPU  // no such types in CUDA's own
TL_DEVICE long long atomic_add(long long* p, long long v) {
    return static_cast<long long>(
        atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(v)));
}
TL_DEVICE long long atomic_cas(long long* p, long long wanted, long long v) {
    return static_cast<long long>(atomicCAS(reinterpret_cast<unsigned long long*>(p),
                                            static_cast<unsigned long long>(wanted),
                                            static_cast<unsigned long long>(v)));
}
#endif

// Records the first bad index in flag[0 .. 2] = code (not 0), index, size; the host reads it after the launch.
TL_DEVICE void fault(long long* flag, int code, long long index, long long size) {
    if (atomic_cas(flag, 0ll, static_cast<long long>(code)) == 0) flag[1] = index, flag[2] = size;
}

// ---- vectors in memory
TL_DEVICE bool is_aligned(const void* p, int bytes) {
    return (reinterpret_cast<unsigned long long>(p) & static_cast<unsigned long long>(bytes - 1)) == 0;
}

#if TL_GPU
#define TL_CHECK_ALIGNED(p, bytes)
#else
#define TL_CHECK_ALIGNED(p, bytes)                                                                                 \
    if (!is_aligned(p, bytes))                                                                                     \
    ::tl_emu::fail("%s:%d: %s reads or writes %d bytes at %p, which is not a multiple of %d", at.file, at.line,    \
                   ::tl_emu::name_of(*::tl_emu::current).c_str(), static_cast<int>(bytes),                         \
                   const_cast<void*>(static_cast<const volatile void*>(p)), static_cast<int>(bytes))
#endif

TL_DEVICE float4 load4(const float* p TL_AT) {
    TL_CHECK_ALIGNED(p, 16);
    return *reinterpret_cast<const float4*>(p);
}
TL_DEVICE void store4(float* p, float4 v TL_AT) {
    TL_CHECK_ALIGNED(p, 16);
    *reinterpret_cast<float4*>(p) = v;
}
TL_DEVICE uint4 load16(const void* p TL_AT) {
    TL_CHECK_ALIGNED(p, 16);
    return *reinterpret_cast<const uint4*>(p);
}
TL_DEVICE void store16(void* p, uint4 v TL_AT) {
    TL_CHECK_ALIGNED(p, 16);
    *reinterpret_cast<uint4*>(p) = v;
}

// N elements of any type that lie together: load_vec<4>(p) is one instruction of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
    T v[N];
    __device__ __forceinline__ T& operator[](int k) { return v[k]; }
    __device__ __forceinline__ const T& operator[](int k) const { return v[k]; }
};
template <int N, class T>
TL_DEVICE Vec<T, N> load_vec(const T* p TL_AT) {
    TL_CHECK_ALIGNED(p, sizeof(T) * N);
    return *reinterpret_cast<const Vec<T, N>*>(p);
}
template <int N, class T>
TL_DEVICE void store_vec(T* p, const Vec<T, N>& v TL_AT) {
    TL_CHECK_ALIGNED(p, sizeof(T) * N);
    *reinterpret_cast<Vec<T, N>*>(p) = v;
}

// ---- copies into shared memory that go on beside the work
#if TL_GPU
TL_DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
#endif

// 16 bytes to shared memory, the first `bytes` of them from src, the rest 0. They are there after the wait, and for
// other threads after the barrier that follows it.
TL_DEVICE void cp_async16(void* dst_shared, const void* src, int bytes TL_AT) {
    TL_CHECK_ALIGNED(dst_shared, 16);
    TL_CHECK_ALIGNED(src, 16);
#if TL_GPU
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst_shared)), "l"(src),
                 "r"(bytes)
                 : "memory");
#else
    ::tl_emu::copy_later(dst_shared, src, 16, bytes, at);
#endif
}
// The same for 4 bytes.
TL_DEVICE void cp_async4(void* dst_shared, const void* src, int bytes TL_AT) {
    TL_CHECK_ALIGNED(dst_shared, 4);
    TL_CHECK_ALIGNED(src, 4);
#if TL_GPU
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(dst_shared)), "l"(src),
                 "r"(bytes)
                 : "memory");
#else
    ::tl_emu::copy_later(dst_shared, src, 4, bytes, at);
#endif
}
TL_DEVICE void cp_async_commit() {
#if TL_GPU
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    ::tl_emu::commit_copies();
#endif
}
// Until at most N of the committed groups are still under way.
template <int N>
TL_DEVICE void cp_async_wait() {
#if TL_GPU
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    ::tl_emu::wait_copies(N);
#endif
}

// ---- tensor cores. Lane l has g = l / 4, t = l % 4; registers are those of PTX:
//   A 16x16 (two elements a register): rows g, g + 8, g, g + 8; columns 2t, 2t + 1 and, from the third on, those + 8
//   B 16x8: rows 2t, 2t + 1 and those + 8; column g          A 16x8 and B 8x8 of TF32: t, t + 4 in place of pairs
//   D 16x8: row g, columns 2t, 2t + 1; row g + 8, the same columns

// Four 8x8 matrices of 2-byte elements. Lane l names row l % 8 of matrix l / 8 (16 bytes, aligned); lane l gets
// elements 2t, 2t + 1 of row g of each; _trans: of the transposed matrices.
TL_DEVICE void ldmatrix_x4(unsigned (&r)[4], const void* row TL_AT) {
    TL_CHECK_ALIGNED(row, 16);
#if TL_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    ::tl_emu::ldmatrix<4, false>(r, row, at);
#endif
}
TL_DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row TL_AT) {
    TL_CHECK_ALIGNED(row, 16);
#if TL_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    ::tl_emu::ldmatrix<4, true>(r, row, at);
#endif
}
// Two matrices; the rows are named by lanes 0 to 15.
TL_DEVICE void ldmatrix_x2(unsigned (&r)[2], const void* row TL_AT) {
    TL_CHECK_ALIGNED(row, 16);
#if TL_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#else
    ::tl_emu::ldmatrix<2, false>(r, row, at);
#endif
}
TL_DEVICE void ldmatrix_x2_trans(unsigned (&r)[2], const void* row TL_AT) {
    TL_CHECK_ALIGNED(row, 16);
#if TL_GPU
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#else
    ::tl_emu::ldmatrix<2, true>(r, row, at);
#endif
}

// d += a b, in float.
TL_DEVICE void mma_tf32_16x8x8(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2] TL_AT) {
#if TL_GPU
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    ::tl_emu::mma<::tl_emu::Tf32>(d, a, b, at);
#endif
}
TL_DEVICE void mma_bf16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2] TL_AT) {
#if TL_GPU
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    ::tl_emu::mma<bf16_t>(d, a, b, at);
#endif
}
TL_DEVICE void mma_f16_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2] TL_AT) {
#if TL_GPU
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    ::tl_emu::mma<half_t>(d, a, b, at);
#endif
}

// ---- between blocks: unsigned, int and 64-bit flags in global memory
// Reads after load_flag see what was written before the store_flag whose value it read.
TL_DEVICE unsigned load_flag(const unsigned* p TL_AT) {
#if TL_GPU
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#else
    return ::tl_emu::load_flag(p, at);
#endif
}
TL_DEVICE unsigned long long load_flag(const unsigned long long* p TL_AT) {
#if TL_GPU
    unsigned long long v;
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
#else
    return ::tl_emu::load_flag(p, at);
#endif
}
TL_DEVICE int load_flag(const int* p TL_AT) {
    return static_cast<int>(load_flag(reinterpret_cast<const unsigned*>(p) TL_PASS));
}
TL_DEVICE void store_flag(unsigned* p, unsigned v) {
#if TL_GPU
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#else
    ::tl_emu::store_flag(p, v);
#endif
}
TL_DEVICE void store_flag(unsigned long long* p, unsigned long long v) {
#if TL_GPU
    asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
#else
    ::tl_emu::store_flag(p, v);
#endif
}
TL_DEVICE void store_flag(int* p, int v) { store_flag(reinterpret_cast<unsigned*>(p), static_cast<unsigned>(v)); }

// A barrier of all blocks of a cooperative launch. The counter is 0 before its first use and needs no reset: each
// barrier turns its top bit, and leaves the lower ones as they were.
TL_DEVICE void grid_barrier(unsigned* counter TL_AT) {
    const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
#if !TL_GPU
    if (!::tl_emu::launch.cooperative)
        ::tl_emu::fail("grid_barrier at %s:%d in a launch without cooperative=True", at.file, at.line);
#endif
    barrier(TL_PASS0);
    if (threadIdx.x + threadIdx.y + threadIdx.z == 0) {
        const bool first = blockIdx.x + blockIdx.y + blockIdx.z == 0;
        __threadfence();
        const unsigned before = atomicAdd(counter, first ? 0x80000000u - (blocks - 1) : 1u);
        while (!((before ^ load_flag(counter TL_PASS)) & 0x80000000u)) {
        }
    }
    barrier(TL_PASS0);
}
