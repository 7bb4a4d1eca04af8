// Kernels that a sanitizer finds fault with, beside right ones: test_cuda_emulator.py.
#include "device.cuh"
extern "C" __global__ void reverse(float* x, int with) {
    TL_SHARED(float, s, 64);
    s[threadIdx.x] = x[threadIdx.x];
    if (with) barrier();
    x[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void one_place(float* x, int with) {
    if (with) atomic_add(x, 1.0f);
    else x[0] += 1.0f;
}
extern "C" __global__ void copy(float* x, int with) {
    TL_SHARED(float, s, 256);
    cp_async16(s + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
    cp_async_commit();
    cp_async_wait<0>();
    if (with) barrier();
    const float v = s[4 * (63 - threadIdx.x)];
    barrier();
    x[threadIdx.x] = v;
}
extern "C" __global__ void handed_on(unsigned* flag, float* x, int with) {
    if (threadIdx.x) return;
    if (blockIdx.x == 0) {
        x[0] = 1;
        if (with) store_flag(flag, 1u);
        else flag[0] = 1;
    } else {
        while (load_flag(flag) == 0) {}
        x[1] = x[0] + 1;
    }
}
extern "C" __global__ void last_one(const float* x, float* y, unsigned* done, int with) {  // adds up what the others left
    if (threadIdx.x) return;
    y[1 + blockIdx.x] = x[blockIdx.x];
    if (with) __threadfence();
    if (atomic_add(done, 1u) != gridDim.x - 1) return;
    for (unsigned b = 0; b < gridDim.x; ++b) y[0] += y[1 + b];
}
extern "C" __global__ void sums(const float* x, float* y, unsigned* counter) {  // right
    TL_SHARED(float, scratch, 32);
    const float s = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x], scratch) + warp_max(x[threadIdx.x]);
    if (threadIdx.x == 0) y[blockIdx.x] = s;
    grid_barrier(counter);
    if (threadIdx.x == 0 && blockIdx.x == 0)
        for (unsigned b = 1; b < gridDim.x; ++b) y[0] += y[b];
}
extern "C" __global__ void beyond(const float* x, float* y, int n) { y[0] = x[n]; }
extern "C" __global__ void index(float* x, int n) {
    TL_SHARED(float, s, 8);
    s[n] = 1;
    x[0] = s[n];
}
extern "C" __global__ void shift(int* x, int n) { x[0] = 1 << n; }
