// Threads together: shuffles, votes, sums, atomics, copies, flags: test_cuda_device.py.
#include "device.cuh"
extern "C" __global__ void indices(int* y) {
    const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    y[b * blockDim.x * blockDim.y * blockDim.z + t] = b * 1000 + t;
}
extern "C" __global__ void shuffles(const float* x, float* y, const double* d, double* dd, long long* q) {
    const int i = threadIdx.x;
    y[i] = shuffle_xor(x[i], 5), y[64 + i] = shuffle_down(x[i], 3), y[128 + i] = shuffle_up(x[i], 3);
    y[192 + i] = shuffle_from(x[i], 7), y[256 + i] = __shfl_xor_sync(all_lanes, x[i], 9, 16);
    y[320 + i] = __shfl_down_sync(all_lanes, x[i], 3, 8), y[384 + i] = __shfl_sync(all_lanes, x[i], 5, 4);
    dd[i] = shuffle_xor(d[i], 1), q[i] = shuffle_from((long long)i << 40, i + 1);
    if (i < 32) {  // half a warp by its own mask
        const unsigned half = i < 16 ? 0xffffu : 0xffff0000u;
        if (i < 16) y[448 + i] = __shfl_xor_sync(half, x[i], 1);
        else y[448 + i] = __shfl_up_sync(half, x[i], 1, 16);
    }
}
extern "C" __global__ void votes(const float* x, unsigned* y) {
    const int i = threadIdx.x;
    y[i] = ballot(x[i] > 0), y[64 + i] = any(x[i] > 1.5f), y[128 + i] = all(x[i] > -1.5f);
    y[192 + i] = barrier_or(x[i] > 2), y[256 + i] = barrier_and(x[i] > -9), y[320 + i] = barrier_count(x[i] > 0);
}
extern "C" __global__ void sums(const float* x, float* y, int* z) {
    TL_SHARED(float, scratch, 32);
    TL_SHARED(int, ints, 32);
    const int i = threadIdx.x, n = blockDim.x;
    y[i] = warp_sum(x[i]), y[n + i] = warp_max(x[i]);
    y[2 * n + i] = block_sum(x[i], scratch), y[3 * n + i] = block_max(x[i], scratch), z[i] = block_sum(i, ints);
}
extern "C" __global__ void atomics(unsigned* u, int* i, long long* q, float* f, double* d) {
    const int t = threadIdx.x;
    atomic_add(u, 2u), atomic_or(u + 1, 1u << t % 32), atomic_and(u + 2, ~(1u << t % 32)), atomic_max(i, t), atomic_min(i + 1, t);
    atomic_add(q, 1ll), atomic_add(f, 0.5f), atomic_add(d, 0.25), atomic_exchange(i + 2, 5);
    for (unsigned old = u[3], seen; (seen = atomic_cas(u + 3, old, old + 3)) != old; old = seen) {}
}
extern "C" __global__ void vectors(const float* x, float* y, const half_t* h, half_t* hh) {
    const int i = threadIdx.x;
    float4 v = load4(x + 4 * i);
    v.x += 1, v.w += 4;
    store4(y + 4 * i, v);
    store16(hh + 8 * i, load16(h + 8 * i));
    auto p = load_vec<2>(h + 2 * i);
    p[0] = half_of(to_float(p[0]) + 1);
    store_vec(hh + 512 + 2 * i, p);
    if (i == 0 && is_aligned(x, 16) && !is_aligned(x + 1, 16)) y[256] = 1;
}
extern "C" __global__ void copies(const float* x, float* y) {
    TL_SHARED(float, a, 128);
    TL_SHARED(float, b, 128);
    const int i = threadIdx.x;
    cp_async16(a + 4 * i, x + 4 * i, i == 31 ? 8 : 16);
    cp_async_commit();
    cp_async4(b + i, x + 128 + i, i < 16 ? 4 : 0);
    cp_async_commit();
    y[i] = a[4 * i];
    cp_async_wait<1>();
    y[32 + i] = a[4 * i + 3], y[64 + i] = b[i];
    cp_async_wait<0>();
    y[96 + i] = b[i], y[128 + i] = a[4 * i + 1], y[160 + i] = b[64 + i];
    barrier();
    y[192 + i] = a[4 * (i ^ 1)];
}
extern "C" __global__ void faulty(const long long* index, long long* flag, float* y, int n) {
    for (int k = threadIdx.x; k < 64; k += blockDim.x) {
        long long i = index[k];
        if (i < 0 || i >= n) fault(flag, 4, i, n), i = 0;
        y[k] = static_cast<float>(i);
    }
}
extern "C" __global__ void chain(unsigned* flags, unsigned long long* wide, float* data) {  // each block after the one before it
    const unsigned b = blockIdx.x;
    if (threadIdx.x == 0) {
        while (b && load_flag(flags + b - 1) == 0) {}
        while (b && load_flag(wide) < b) {}
        data[b] = b ? data[b - 1] + 1 : 1;
        store_flag(wide, b + 1ull);
        store_flag(flags + b, 1u);
    }
}
extern "C" __global__ void grid_sum(unsigned* counter, const float* x, float* partial, float* y, int rounds) {
    TL_SHARED(float, scratch, 32);
    for (int r = 0; r < rounds; ++r) {
        const float s = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x], scratch);
        if (threadIdx.x == 0) partial[blockIdx.x] = s + r;
        grid_barrier(counter);
        float sum = 0;
        for (unsigned b = 0; b < gridDim.x; ++b) sum += partial[b];
        y[(r * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = sum;
        grid_barrier(counter);
    }
}
extern "C" __global__ void ticket(unsigned* next, unsigned* done, int* order) {  // a lock that polls with compare-and-swap
    if (threadIdx.x % 16 == 0) {
        while (atomic_cas(next, 0u, 1u) != 0) {}
        order[*done] = blockIdx.x, *done += 1;
        store_flag(next, 0u);
    }
    barrier();
}
