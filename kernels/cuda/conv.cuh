// What the kernels of convolutions and pooling share: numbers that are stored in ELEM and computed in WIDE, digits of
// an index that grow by a fixed step without divisions, and one step of a tiled product.
#pragma once
#include "device.cuh"

using Elem = ELEM;
using Wide = WIDE;

TL_DEVICE Wide widened(half_t x) { return static_cast<Wide>(to_float(x)); }
TL_DEVICE Wide widened(bf16_t x) { return static_cast<Wide>(to_float(x)); }
TL_DEVICE Wide widened(float x) { return static_cast<Wide>(x); }
TL_DEVICE Wide widened(double x) { return static_cast<Wide>(x); }

template <class To>
struct Narrow {
    TL_DEVICE To of(Wide x) { return static_cast<To>(x); }
};
template <>
struct Narrow<half_t> {
    TL_DEVICE half_t of(Wide x) { return half_of(x); }
};
template <>
struct Narrow<bf16_t> {
    TL_DEVICE bf16_t of(Wide x) { return bf16_of(static_cast<float>(x)); }
};
TL_DEVICE Elem narrowed(Wide x) { return Narrow<Elem>::of(x); }

TL_DEVICE Wide rectified(Wide x) { return x <= 0 ? Wide(0) : x; }  // nan stays nan

// A number as a * (nb * nc) + b * nc + c, and what to add to each digit for a step.
struct Digits {
    int a, b, c, nb, nc, da, db, dc;
    __device__ __forceinline__ Digits(int k, int step, int across_b, int across_c) : nb(across_b), nc(across_c) {
        a = k / (nb * nc), b = k / nc % nb, c = k % nc;
        da = step / (nb * nc), db = step / nc % nb, dc = step % nc;
    }
    __device__ __forceinline__ void next() {
        c += dc;
        const int more_b = c >= nc;
        c -= more_b ? nc : 0;
        b += db + more_b;
        const int more_a = b >= nb;
        b -= more_a ? nb : 0;
        a += da + more_a;
    }
};

// How output pixels and taps meet input pixels along one dimension:
// input = output * by + from + tap * step; output in memory: output * apart + first.
struct Side {
    int by, from, step, taps, first_tap, every, apart, first;
};

TL_DEVICE Side side(int transposed, int phase, int stride, int pad, int dilation, int kernel) {
    if (!transposed) return {stride, -pad, dilation, kernel, 0, 1, 1, 0};
    int a = stride, b = dilation;
    while (b) {
        const int rest = a % b;
        a = b, b = rest;
    }
    const int every = stride / a;  // of the taps meet a pixel of this phase, from the first one on
    int tap = 0;
    while (tap < kernel && (phase + pad - tap * dilation) % stride) ++tap;
    const int taps = tap < kernel ? (kernel - tap + every - 1) / every : 0;
    return {1, taps ? (phase + pad - tap * dilation) / stride : 0, -(dilation / a), taps, tap, every, stride, phase};
}

constexpr int DEEP = 16;  // inner elements of a tile

// Four neighbours in shared memory, 16 bytes at a time.
TL_DEVICE void quad(const float* p, float* v) {
    const float4 q = load4(p);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
TL_DEVICE void quad(const double* p, double* v) {
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        const Vec<double, 2> q = load_vec<2>(p + k);
        v[k] = q[0], v[k + 1] = q[1];
    }
}
TL_DEVICE void pair(const float* p, float* v) {
    const Vec<float, 2> q = load_vec<2>(p);
    v[0] = q[0], v[1] = q[1];
}
TL_DEVICE void pair(const double* p, double* v) {
    const Vec<double, 2> q = load_vec<2>(p);
    v[0] = q[0], v[1] = q[1];
}

// sums[i][j] += left[k][row i] * right[k][column j] over a tile, for thread (tx, ty) of 16 x 16. Its rows are quads 64
// apart from 4 tx on, its columns the N from N ty on, so that a warp's loads are few and wide.
template <int M, int N>
TL_DEVICE void tile_product(const Wide* left, const Wide* right, int pitch_left, int pitch_right, int tx, int ty,
                            Wide (&sums)[M][N]) {
#pragma unroll
    for (int k = 0; k < DEEP; ++k) {
        Wide a[M], b[N];
#pragma unroll
        for (int i = 0; i < M; i += 4) quad(left + k * pitch_left + i * 16 + tx * 4, a + i);
        if (N == 2) {
            pair(right + k * pitch_right + ty * N, b);
        } else {
#pragma unroll
            for (int j = 0; j < N; j += 4) quad(right + k * pitch_right + ty * N + j, b + j);
        }
#pragma unroll
        for (int i = 0; i < M; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) sums[i][j] = tl_fma(a[i], b[j], sums[i][j]);
    }
}
