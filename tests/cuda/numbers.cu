// Small floats, functions, division, intrinsics: test_cuda_device.py.
#include "device.cuh"
extern "C" __global__ void from_half(const half_t* h, const bf16_t* b, float* x, float* y, half_t* hh, bf16_t* bb, long long n) {
    grid_stride(n, [&](long long i) {
        x[i] = to_float(h[i]), y[i] = to_float(b[i]);
        hh[i] = from_float<half_t>(x[i]), bb[i] = from_float<bf16_t>(y[i]);
    });
}
extern "C" __global__ void to_small(const float* x, const double* xx, half_t* h, half_t* hh, bf16_t* b, unsigned* t, long long n) {
    grid_stride(n, [&](long long i) { h[i] = half_of(x[i]), hh[i] = half_of(xx[i]), b[i] = bf16_of(x[i]), t[i] = to_tf32(x[i]); });
}
template <class T>
__device__ void all_functions(T x, T y, T* to, long long n) {
    const T v[] = {tl_exp(x), tl_exp2(x), tl_expm1(x), tl_log(y), tl_log2(y), tl_log10(y), tl_log1p(y), tl_sqrt(y),
                   tl_rsqrt(y), tl_cbrt(x), tl_sin(x), tl_cos(x), tl_tan(x), tl_atan(x), tl_sinh(x), tl_cosh(x),
                   tl_tanh(x), tl_asinh(x), tl_abs(x), tl_floor(x), tl_ceil(x), tl_trunc(x), tl_round(x), tl_pow(y, x),
                   tl_atan2(x, y), tl_fmod(x, y), tl_hypot(x, y), tl_copysign(y, x), tl_fma(x, y, x), tl_sigmoid(x),
                   tl_min(x, y), tl_max(x, y)};
    for (int k = 0; k < 32; ++k) to[k * n] = v[k];
}
extern "C" __global__ void functions(const float* x, const float* y, float* to, const double* xx, const double* yy, double* too, long long n) {
    grid_stride(n, [&](long long i) {
        all_functions(x[i], y[i], to + i, n);
        all_functions(xx[i], yy[i], too + i, n);
    });
}
extern "C" __global__ void bounded(const double* x, double* to, long long n) {
    grid_stride(n, [&](long long i) {
        const double v[] = {tl_asin(x[i]), tl_acos(x[i]), tl_atanh(x[i]), tl_erf(x[i]), tl_erfc(x[i]),
                            tl_acosh(1 + x[i] * x[i]), tl_lgamma(x[i]), tl_tgamma(x[i] + 2)};
        for (int k = 0; k < 8; ++k) to[k * n + i] = v[k];
    });
}
extern "C" __global__ void rough(const float* x, float* e, float* t, float* extreme, long long n) {
    grid_stride(n, [&](long long i) { e[i] = fast_exp(x[i]), t[i] = fast_tanh(x[i]); });
    extreme[0] = INF, extreme[1] = NAN_F, extreme[2] = tl_max(NAN_F, 1.0f), extreme[3] = tl_max(1.0f, NAN_F);
    extreme[4] = tl_min(NAN_F, 1.0f), extreme[5] = tl_min(1.0f, NAN_F), extreme[6] = is_nan(extreme[1]);
}
extern "C" __global__ void divide(const unsigned* n, unsigned* q, unsigned* r, unsigned mul, unsigned shift, unsigned divisor, int count) {
    const FastDivider d{mul, shift, divisor};
    for (int i = 0; i < count; ++i) q[i] = d.divide(n[i], r[i]);
}
extern "C" __global__ void intrinsics(unsigned* y, float* f) {
    y[0] = __popc(0xf0f1u), y[1] = __ffs(8), y[2] = __clz(1), y[3] = __brev(1u), y[4] = __umulhi(0x80000000u, 6u);
    y[5] = min(3, 4u), y[6] = max(3, 2), y[7] = __float_as_uint(1.0f), y[8] = __clz(0), y[9] = __popcll(~0ull);
    f[0] = __fmul_rn(3, 4), f[1] = __fadd_rn(3, 4), f[2] = __fmaf_rn(3, 4, 5), f[3] = rsqrtf(4), f[4] = __int_as_float(0x40000000);
    f[5] = make_float4(1, 2, 3, 4).z, f[6] = __ldg(f + 5), f[7] = __dadd_rn(1, 2), f[8] = __fdividef(1, 2);
}
