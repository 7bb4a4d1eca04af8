// Kernels that do wrong, each in its own way, and a few that do right beside them: test_cuda_emulator.py.
#include "device.cuh"
extern "C" __global__ void divergent(float* x) {
    if (threadIdx.x < 20) barrier();
    else barrier();
}
extern "C" __global__ void partial(float* x, int n) {
    if (static_cast<int>(threadIdx.x) >= n) return;
    barrier();
}
extern "C" __global__ void half_warp(float* x) {
    if (threadIdx.x % 32 < 16) x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
}
extern "C" __global__ void mixed_warp(float* x) {
    if (threadIdx.x % 32 < 16) x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
    else x[threadIdx.x] = shuffle_xor(x[threadIdx.x], 1);
}
extern "C" __global__ void other_mask(float* x) { x[threadIdx.x] = __shfl_xor_sync(0xffff, x[threadIdx.x], 1); }
extern "C" __global__ void half_product(float* x) {
    unsigned a[4] = {}, b[2] = {};
    float d[4] = {};
    mma_f16_16x8x16(d, a, b);
}
extern "C" __global__ void reverse(float* x, int with) {
    TL_SHARED(float, s, 64);
    s[threadIdx.x] = x[threadIdx.x];
    if (with) barrier();
    x[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void warp_reverse(float* x, int with) {
    TL_SHARED(float, s, 32);
    s[threadIdx.x] = x[threadIdx.x];
    if (with) warp_sync();
    x[threadIdx.x] = s[31 - threadIdx.x];
}
extern "C" __global__ void racy_blocks(float* x) { x[0] = blockIdx.x; }
extern "C" __global__ void unset(float* x, int* y) {
    TL_SHARED(float, f, 4);
    TL_SHARED(int, i, 4);
    TL_DYNAMIC_SHARED(half_t, h);
    if (threadIdx.x < 4) x[threadIdx.x] = f[threadIdx.x], x[4 + threadIdx.x] = to_float(h[threadIdx.x]), y[threadIdx.x] = i[threadIdx.x];
    barrier();
    if (threadIdx.x < 4) f[threadIdx.x] = 1, i[threadIdx.x] = 1, h[threadIdx.x] = half_of(1.0f);
}
extern "C" __global__ void too_far(float* x, int n) {
    TL_SHARED(float, tile, 8);
    tile[n] = 1;
    x[0] = tile[0];
}
extern "C" __global__ void too_far_dynamic(float* x, int n) {
    TL_DYNAMIC_SHARED(float, s);
    s[n] = 1;
}
extern "C" __global__ void far_read(const float* x, float* y, int n) {
    barrier();
    y[0] = x[n];
}
extern "C" __global__ void misaligned(const float* x, float* y) { store4(y, load4(x)); }
extern "C" __global__ void misaligned_copy(const float* x, float* y) {
    TL_SHARED(float, s, 8);
    cp_async16(s + 1, x, 16);
}
extern "C" __global__ void long_copy(const float* x) {
    TL_SHARED(float, s, 8);
    cp_async16(s, x, 17);
}
extern "C" __global__ void zero_division(int* x, int n) { x[0] = 5 / n; }
__device__ __noinline__ int deep(volatile int* x, int n) {
    volatile int here[64] = {n};
    return n ? deep(here, n - 1) + x[0] : 0;
}
extern "C" __global__ void recursive(int* x, int n) { x[0] = deep(x, n); }
extern "C" __global__ void spin(unsigned* flag) {
    if (threadIdx.x == 0) while (load_flag(flag) == 0) {}
    barrier();
}
extern "C" __global__ void spin_two(unsigned* flag) { while (load_flag(flag) == 0 || load_flag(flag + 1) == 0) {} }
extern "C" __global__ void handed_on(unsigned* flag) {
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) while (load_flag(flag) == 0) {}
        else store_flag(flag, 1u);
    }
}
extern "C" __global__ void together_only(unsigned* counter) { grid_barrier(counter); }
extern "C" __global__ void trap(float* x) { if (threadIdx.x == 3) __trap(); }
extern "C" __global__ void endless(volatile int* x) {
    x[1] = threadIdx.x;
    while (x[0] == 0) {}
}
constexpr int most = 64;
extern "C" __global__ void __launch_bounds__(most, 1) bounded(float* x) { x[threadIdx.x] = 1; }
extern "C" __global__ void two_dimensions(int* x) { x[0] = lane_id(); }
extern "C" __global__ void big_static(float* x) {
    TL_SHARED(float, a, 7000);
    TL_SHARED(float, b, 7000);
    x[0] = a[0] + b[0];
}
extern "C" __global__ void types(float* p, int i, unsigned u, long long q, unsigned long long w, float f, double d, float* y) {
    y[0] = i, y[1] = u, y[2] = q, y[3] = w, y[4] = f, y[5] = d, y[6] = p == nullptr;
}
extern "C" __global__ void odd_types(bool b, short s) {}
