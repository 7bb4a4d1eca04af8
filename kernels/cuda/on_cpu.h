// The CUDA language on a CPU: g++ compiles a .cu with this header in front of it and the emulator runs it. Built-in
// indices, shared memory, barriers, shuffles, votes, atomics, vector types and intrinsics have CUDA's names.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "on_cpu_run.h"

#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#ifndef TL_LISTING  // while the emulator lists the kernels of a file, these two stay as they are
#define __global__
#define __launch_bounds__(...)
#endif

#define threadIdx (::tl_emu::current->index)
#define blockIdx (::tl_emu::current->block->index)
#define blockDim (::tl_emu::launch.size)
#define gridDim (::tl_emu::launch.grid)
constexpr int warpSize = 32;

// ---- vectors
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

// ---- barriers, votes and shuffles
#define TL_EMU_AT ::tl_emu::Where at = ::tl_emu::Where::here()

static inline void __syncthreads(TL_EMU_AT) { ::tl_emu::block_wait("barrier", false, at); }
static inline int __syncthreads_count(int p, TL_EMU_AT) {
    return static_cast<int>(::tl_emu::block_wait("barrier_count", p != 0, at));
}
static inline int __syncthreads_or(int p, TL_EMU_AT) { return ::tl_emu::block_wait("barrier_or", p != 0, at) != 0; }
static inline int __syncthreads_and(int p, TL_EMU_AT) {
    return ::tl_emu::block_wait("barrier_and", p != 0, at) == ::tl_emu::launch.threads;
}

namespace tl_emu {

TL_RUNTIME static void finish_nothing(Thread*, unsigned) {}

struct Vote {
    bool p;
    unsigned result;
};

TL_RUNTIME static void finish_vote(Thread* lanes, unsigned members) {
    unsigned bits = 0;
    for (unsigned m = members; m; m &= m - 1)
        bits |= static_cast<Vote*>(lanes[__builtin_ctz(m)].data)->p ? m & -m : 0u;
    for (unsigned m = members; m; m &= m - 1) static_cast<Vote*>(lanes[__builtin_ctz(m)].data)->result = bits;
}

template <class T>
struct Shuffle {
    T in, out;
    unsigned from;
};

template <class T>
TL_RUNTIME static void finish_shuffle(Thread* lanes, unsigned members) {
    for (unsigned m = members; m; m &= m - 1) {
        auto* mine = static_cast<Shuffle<T>*>(lanes[__builtin_ctz(m)].data);
        if (members >> mine->from & 1)
            mine->out = static_cast<Shuffle<T>*>(lanes[mine->from].data)->in;
        else  // from a thread that does not take part: anything
            poison(&mine->out, sizeof(T));
    }
}

template <class T>
TL_RUNTIME static T shuffle(const char* what, unsigned mask, T v, unsigned from, Where at) {
    Shuffle<T> s = {v, v, from};
    warp_wait(what, mask, finish_shuffle<T>, &s, at);
    return s.out;
}

TL_RUNTIME static unsigned vote(const char* what, unsigned mask, bool p, Where at) {
    Vote v = {p, 0};
    warp_wait(what, mask, finish_vote, &v, at);
    return v.result;
}

}  // namespace tl_emu

static inline void __syncwarp(unsigned mask = ~0u, TL_EMU_AT) {
    ::tl_emu::warp_wait("warp_sync", mask, ::tl_emu::finish_nothing, nullptr, at);
}
static inline unsigned __ballot_sync(unsigned mask, int p, TL_EMU_AT) { return ::tl_emu::vote("ballot", mask, p, at); }
static inline int __any_sync(unsigned mask, int p, TL_EMU_AT) { return ::tl_emu::vote("any", mask, p, at) != 0; }
static inline int __all_sync(unsigned mask, int p, TL_EMU_AT) { return ::tl_emu::vote("all", mask, !p, at) == 0; }

// A shuffle goes within groups of `width` lanes; a lane beyond its group keeps its own value.
template <class T>
static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32, TL_EMU_AT) {
    const unsigned me = ::tl_emu::current->lane, w = static_cast<unsigned>(width);
    return ::tl_emu::shuffle("shuffle_from", mask, v, (me & ~(w - 1)) + (static_cast<unsigned>(lane) & (w - 1)), at);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, TL_EMU_AT) {
    const unsigned me = ::tl_emu::current->lane, from = me ^ static_cast<unsigned>(bits);
    const unsigned end = (me | (static_cast<unsigned>(width) - 1)) + 1;
    return ::tl_emu::shuffle("shuffle_xor", mask, v, from < end && from < 32 ? from : me, at);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, TL_EMU_AT) {
    const unsigned me = ::tl_emu::current->lane, w = static_cast<unsigned>(width), in = me & (w - 1);
    return ::tl_emu::shuffle("shuffle_down", mask, v, in + by < w ? me + by : me, at);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, TL_EMU_AT) {
    const unsigned me = ::tl_emu::current->lane, in = me & (static_cast<unsigned>(width) - 1);
    return ::tl_emu::shuffle("shuffle_up", mask, v, in >= by ? me - by : me, at);
}

// ---- atomics. Blocks and threads take turns here, but a race search must see that these are atomic.
namespace tl_emu {

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, unsigned, unsigned long long>;

template <class To, class From>
TL_RUNTIME static To bits(const From& v) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &v, sizeof to);
    return to;
}

TL_RUNTIME static void active() { ++launch.activity; }  // somebody's wait may end

// A race search sees atomics order other memory only where the thread has called a fence before, as a GPU does.
template <class W>
static bool exchange(W* p, W& old, W v) {
    return current->fenced ? __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
                           : __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

// *p = f(*p); what it was.
template <class T, class F>
static T change(T* p, F f) {
    auto* words = reinterpret_cast<Bits<T>*>(p);
    auto old = __atomic_load_n(words, __ATOMIC_RELAXED);
    while (!exchange(words, old, bits<Bits<T>>(f(bits<T>(old))))) {
    }
    active();
    return bits<T>(old);
}

}  // namespace tl_emu

#define TL_EMU_ATOMIC(name, value)                               \
    template <class T>                                           \
    static inline T name(T* p, std::common_type_t<T> v) {        \
        return ::tl_emu::change(p, [v](T o) -> T { return value; }); \
    }
TL_EMU_ATOMIC(atomicAdd, o + v)
TL_EMU_ATOMIC(atomicSub, o - v)
TL_EMU_ATOMIC(atomicMax, o > v ? o : v)
TL_EMU_ATOMIC(atomicMin, o < v ? o : v)
TL_EMU_ATOMIC(atomicOr, o | v)
TL_EMU_ATOMIC(atomicAnd, o & v)
TL_EMU_ATOMIC(atomicXor, o ^ v)
TL_EMU_ATOMIC(atomicExch, (void(o), v))

template <class T>
static inline T atomicCAS(T* p, std::common_type_t<T> wanted, std::common_type_t<T> v, TL_EMU_AT) {
    T expected = wanted;
    if (::tl_emu::exchange(p, expected, static_cast<T>(v)))
        ::tl_emu::active();
    else
        ::tl_emu::poll("atomic_cas", p, static_cast<unsigned long long>(expected), at);
    return expected;
}
TL_RUNTIME static inline void __threadfence() { ::tl_emu::current->fenced = true; }
static inline void __threadfence_block() { __threadfence(); }
static inline void __threadfence_system() { __threadfence(); }

// ---- intrinsics
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return std::sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
static inline float __fdividef(float a, float b) { return a / b; }
#define __expf(x) ::expf(x)  // the C library declares functions of these names
#define __logf(x) ::logf(x)
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline int __float_as_int(float x) { return ::tl_emu::bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return ::tl_emu::bits<unsigned>(x); }
static inline float __int_as_float(int x) { return ::tl_emu::bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return ::tl_emu::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return ::tl_emu::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return ::tl_emu::bits<double>(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int k = 0; k < 32; ++k) y |= (x >> k & 1u) << (31 - k);
    return y;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((1ull * a * b) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
template <class A, class B>
static inline std::common_type_t<A, B> min(A a, B b) {
    const std::common_type_t<A, B> x = a, y = b;
    return y < x ? y : x;
}
template <class A, class B>
static inline std::common_type_t<A, B> max(A a, B b) {
    const std::common_type_t<A, B> x = a, y = b;
    return x < y ? y : x;
}
[[noreturn]] static inline void __trap(TL_EMU_AT) {
    ::tl_emu::fail("__trap at %s:%d by %s", at.file, at.line, ::tl_emu::name_of(*::tl_emu::current).c_str());
}

// ---- shared memory: an array for each block that lives, poisoned when a block starts
#define TL_EMU_SHARED(type, name, dims)                 \
    static ::tl_emu::Site name##_site_ = {#name};       \
    typedef type name##_type_ dims;                     \
    name##_type_& name = *static_cast<name##_type_*>(::tl_emu::shared_array(name##_site_, sizeof(name##_type_)))
#define TL_EMU_DYNAMIC(type, name) type* const name = static_cast<type*>(::tl_emu::dynamic_shared())

// ---- what device.cuh has in PTX for a GPU
namespace tl_emu {

// A copy that lands at the wait; before that its destination holds NaN.
TL_RUNTIME static void copy_later(void* to, const void* from, int size, int bytes, Where at) {
    if (bytes < 0 || bytes > size) fail("cp_async at %s:%d: %d bytes; wanted 0 to %d", at.file, at.line, bytes, size);
    current->what = "cp_async", current->where = at;
    poison(to, static_cast<std::size_t>(size));
    current->copies.push_back({to, from, size, bytes});
}

TL_RUNTIME static void commit_copies() { current->groups.push_back(current->copies.size()); }

static void wait_copies(std::size_t under_way) {
    Thread& me = *current;
    if (me.groups.size() <= under_way) return;
    const std::size_t done = me.groups.size() - under_way, landed = me.groups[done - 1];
    for (std::size_t k = 0; k < landed; ++k) {
        const Copy& c = me.copies[k];
        std::memset(c.to, 0, static_cast<std::size_t>(c.size));
        if (c.bytes) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.bytes));
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(landed));
    me.groups.erase(me.groups.begin(), me.groups.begin() + static_cast<std::ptrdiff_t>(done));
    for (std::size_t& end : me.groups) end -= landed;
}

struct Rows {
    const unsigned short* row;
    unsigned* out;
};

template <int N, bool Trans>
static void finish_ldmatrix(Thread* lanes, unsigned) {
    for (unsigned l = 0; l < 32; ++l)
        for (unsigned m = 0; m < N; ++m) {
            unsigned short v[2];
            for (unsigned k = 0; k < 2; ++k) {
                const unsigned row = Trans ? 2 * (l % 4) + k : l / 4, column = Trans ? l / 4 : 2 * (l % 4) + k;
                v[k] = static_cast<Rows*>(lanes[8 * m + row].data)->row[column];
            }
            static_cast<Rows*>(lanes[l].data)->out[m] = v[0] | static_cast<unsigned>(v[1]) << 16;
        }
}

TL_RUNTIME static void whole_warp(const char* what, Where at) {
    const Thread& me = *current;
    if (me.block->warps[me.number / 32].exists != ~0u)
        fail("%s at %s:%d: a warp of less than 32 threads", what, at.file, at.line);
}

TL_RUNTIME static void one_dimension() {
    if (launch.size.y * launch.size.z != 1)
        fail("lane_id, warp_id: a block of (%u, %u, %u) threads; wanted one dimension", launch.size.x, launch.size.y,
             launch.size.z);
}

template <int N, bool Trans>
TL_RUNTIME static void ldmatrix(unsigned* out, const void* row, Where at) {
    whole_warp("ldmatrix", at);
    Rows rows = {static_cast<const unsigned short*>(row), out};
    warp_wait("ldmatrix", ~0u, finish_ldmatrix<N, Trans>, &rows, at);
}

struct Tf32 {};

struct Fragments {
    const unsigned *a, *b;
    float* d;
};

// d += a b from the fragments as PTX lays them out. T is one of Tf32, half_t, bf16_t.
template <class T>
TL_RUNTIME static void finish_mma(Thread* lanes, unsigned) {
    constexpr bool single = std::is_same_v<T, Tf32>;  // one element a register, else two
    constexpr int K = single ? 8 : 16;
    float a[16][K], b[8][K];
    const auto put = [](float* to, unsigned reg) {
        if constexpr (single) to[0] = bits<float>(reg & ~0x1fffu);
        else
            for (int k = 0; k < 2; ++k) to[k] = to_float(T{static_cast<unsigned short>(reg >> 16 * k)});
    };
    for (int l = 0; l < 32; ++l) {
        const auto* f = static_cast<const Fragments*>(lanes[l].data);
        const int g = l / 4, t = l % 4 * (single ? 1 : 2);
        put(&a[g][t], f->a[0]), put(&a[g + 8][t], f->a[1]);
        put(&a[g][t + K / 2], f->a[2]), put(&a[g + 8][t + K / 2], f->a[3]);
        put(&b[g][t], f->b[0]), put(&b[g][t + K / 2], f->b[1]);
    }
    for (int l = 0; l < 32; ++l) {
        float* d = static_cast<Fragments*>(lanes[l].data)->d;
        for (int k = 0; k < 4; ++k) {
            const float *x = a[l / 4 + k / 2 * 8], *y = b[l % 4 * 2 + k % 2];
            float sum = d[k];
            for (int i = 0; i < K; ++i) sum += x[i] * y[i];
            d[k] = sum;
        }
    }
}

template <class T>
TL_RUNTIME static void mma(float* d, const unsigned* a, const unsigned* b, Where at) {
    whole_warp("mma", at);
    Fragments f = {a, b, d};
    warp_wait("mma", ~0u, finish_mma<T>, &f, at);
}

template <class T>
static T load_flag(const T* p, Where at) {
    const T v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    if (!poll("load_flag", p, static_cast<unsigned long long>(v), at)) return v;
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

template <class T>
static void store_flag(T* p, T v) {
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    active();
}

}  // namespace tl_emu

// ---- kernels, as the host finds them
namespace tl_emu {

struct Entry {
    int count, bound;  // arguments; most threads of a block
    const char* letters;
    const unsigned char* sizes;
    void (*invoke)(const char*);
};

template <class T>
constexpr char letter() {
    if (std::is_pointer_v<T>) return 'P';
    if (std::is_same_v<T, float>) return 'f';
    if (std::is_same_v<T, double>) return 'd';
    if (!std::is_integral_v<T> || std::is_same_v<T, bool>) return '?';
    const bool s = std::is_signed_v<T>;
    return sizeof(T) == 8 ? (s ? 'q' : 'Q') : sizeof(T) == 4 ? (s ? 'i' : 'I') : '?';
}

template <class T>
static T argument(const char* from) {
    T v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <auto K, class F>
struct Caller;

template <auto K, class... A>
struct Caller<K, void (*)(A...)> {
    static constexpr char letters[] = {letter<A>()..., 0};
    static constexpr unsigned char sizes[] = {static_cast<unsigned char>(sizeof(A))..., 0};

    template <std::size_t... I>
    static void call(const char* args, std::index_sequence<I...>) {
        (void)args;
        K(argument<A>(args + 8 * I)...);
    }
    static void invoke(const char* args) { call(args, std::index_sequence_for<A...>()); }
    static constexpr Entry entry(int bound) { return {sizeof...(A), bound, letters, sizes, invoke}; }
};

}  // namespace tl_emu

#define TL_EMU_KERNEL(name, bound)                                                          \
    extern "C" __attribute__((visibility("default"))) ::tl_emu::Entry tl_emu_kernel_##name; \
    ::tl_emu::Entry tl_emu_kernel_##name =                                                  \
        ::tl_emu::Caller<&tl_kernels::name, decltype(&tl_kernels::name)>::entry(bound);

// The memory that kernels run in: that of another library from now on, where one is given.
extern "C" __attribute__((visibility("default"))) std::size_t tl_emu_layout() { return sizeof(::tl_emu::Fiber); }

extern "C" __attribute__((visibility("default"))) void* tl_emu_pool(void* shared) {
    if (shared) ::tl_emu::pool = static_cast<::tl_emu::Pool*>(shared);
    return ::tl_emu::pool;
}

// Runs a kernel over a grid; 0, or 1 with a message in `error`.
extern "C" __attribute__((visibility("default"))) int tl_emu_launch(const ::tl_emu::Entry* entry, const unsigned* grid,
                                                                    const unsigned* block, std::size_t shared,
                                                                    int cooperative, int order, const char* args,
                                                                    char* error, std::size_t error_size) {
    auto& l = ::tl_emu::launch;
    l.grid = {grid[0], grid[1], grid[2]};
    l.size = {block[0], block[1], block[2]};
    l.threads = block[0] * block[1] * block[2];
    l.blocks = std::size_t{1} * grid[0] * grid[1] * grid[2];
    l.shared = shared, l.cooperative = cooperative != 0, l.order = order;
    l.invoke = entry->invoke, l.args = args;
    l.error = error, l.error_size = error_size, l.failed = false;
    ::tl_emu::run_all();
    return l.failed;
}
