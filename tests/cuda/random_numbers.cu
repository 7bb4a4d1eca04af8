// Random words, uniform and normal numbers: test_cuda_device.py.
#include "philox.cuh"
template <class T, class F>
__device__ void fill(T* y, long long n, F numbers) {
    constexpr int each = philox_numbers<T>;
    grid_stride((n + each - 1) / each, [&](long long block) {
        T v[each];
        numbers(block, v);
        for (int k = 0; k < each && each * block + k < n; ++k) y[each * block + k] = v[k];
    });
}
#define BOTH(name, T) \
    extern "C" __global__ void uniform_##name(const long long* key, T* y, long long n) { \
        const PhiloxKey k = philox_key(key); \
        fill(y, n, [&](long long b, T (&v)[philox_numbers<T>]) { philox_uniforms(philox_block(k, b), v); }); \
    } \
    extern "C" __global__ void normal_##name(const long long* key, T* y, long long n) { \
        const PhiloxKey k = philox_key(key); \
        fill(y, n, [&](long long b, T (&v)[philox_numbers<T>]) { philox_normals(philox_block(k, b), v); }); \
    }
BOTH(f4, float)
BOTH(f8, double)
BOTH(f2, half_t)
BOTH(bf2, bf16_t)
extern "C" __global__ void words(const long long* key, unsigned* w, unsigned long long* whole, unsigned long long* below, unsigned long long n,
                                 const float* p, float* kept, long long count) {
    const PhiloxKey k = philox_key(key);
    grid_stride(count, [&](long long i) {
        w[i] = philox_word(k, i), whole[i] = philox_integer(k, i), below[i] = philox_below(k, i, n);
        kept[i] = philox_bernoulli(w[i], p[i]);
    });
}
extern "C" __global__ void far(const long long* key, unsigned* w, long long first) {
    const uint4 b = philox_block(philox_key(key), first);
    w[0] = b.x, w[1] = b.y, w[2] = b.z, w[3] = b.w;
}
