// Matrix products of any dtype, strides and sizes, for what cuBLASLt does not take: integers, bools, no inner elements.
//
// A block makes 32 x 32 elements; its 256 threads take 4 rows each. 32 inner elements at a time pass through shared
// memory, so that each element is read n / 32 or m / 32 times. Floor: 2 m n k operations at the rate of 64-bit integer
// multiplications (a sixteenth of float32's); sums run over k in order, so the bits are the same in every run. Sums of
// integers are 64-bit and wrap when stored, as on the CPU.
//
// ELEM: the elements. SUM: what is summed in: float, double, or unsigned long long (which wraps).
#include "device.cuh"

using Elem = ELEM;
using Sum = SUM;

namespace {

constexpr int TILE = 32, ROWS = 8;

__device__ inline Sum widened(half_t x) { return static_cast<Sum>(to_float(x)); }
__device__ inline Sum widened(bf16_t x) { return static_cast<Sum>(to_float(x)); }
template <class U>
__device__ inline Sum widened(U x) {
    return static_cast<Sum>(x);
}

__device__ inline void store(half_t* to, Sum x) { *to = from_float<half_t>(static_cast<float>(x)); }
__device__ inline void store(bf16_t* to, Sum x) { *to = from_float<bf16_t>(static_cast<float>(x)); }
__device__ inline void store(bool* to, Sum x) { *to = x != 0; }
template <class U>
__device__ inline void store(U* to, Sum x) {
    *to = static_cast<U>(x);
}

}  // namespace

// out[z, i, j] = sum over l of x[z, i, l] w[z, l, j], and bias[j] and residual[z, i, j] where they are given.
// Steps are in elements; out and residual are rows without gaps, matrices py apart; px, pw and py lie between matrices.
extern "C" __global__ void __launch_bounds__(256, 4)
    product(const Elem* x, const Elem* w, const Elem* bias, const Elem* residual, Elem* out, long long m, long long n,
            long long k, long long batch, long long xs, long long xk, long long px, long long wk, long long wn,
            long long pw, long long py, long long x0, long long w0, long long y0) {
    TL_SHARED(Sum, left, TILE * (TILE + 1));
    TL_SHARED(Sum, right, TILE * (TILE + 1));
    const int tx = threadIdx.x, ty = threadIdx.y;
    const long long j = static_cast<long long>(blockIdx.x) * TILE + tx;
    const bool along_k = xk == 1, along_n = wn == 1 || wk != 1;  // neighbours in a warp read neighbours in memory
    for (long long z = blockIdx.z; z < batch; z += gridDim.z) {
        const Elem* xz = x + x0 + z * px;
        const Elem* wz = w + w0 + z * pw;
        for (long long top = static_cast<long long>(blockIdx.y) * TILE; top < m;
             top += static_cast<long long>(gridDim.y) * TILE) {
            Sum sums[TILE / ROWS] = {};
            for (long long inner = 0; inner < k; inner += TILE) {
#pragma unroll 1
                for (int r = ty; r < TILE; r += ROWS) {
                    const int a = along_k ? r : tx, b = along_k ? tx : r;  // row, inner element
                    const bool in = top + a < m && inner + b < k;
                    left[a * (TILE + 1) + b] = in ? widened(xz[(top + a) * xs + (inner + b) * xk]) : Sum(0);
                    const int c = along_n ? r : tx, d = along_n ? tx : r;  // inner element, column
                    const long long column = j - tx + d;
                    const bool inside = inner + c < k && column < n;
                    right[c * (TILE + 1) + d] = inside ? widened(wz[(inner + c) * wk + column * wn]) : Sum(0);
                }
                barrier();
#pragma unroll 4
                for (int l = 0; l < TILE; ++l) {
                    const Sum f = right[l * (TILE + 1) + tx];
#pragma unroll
                    for (int q = 0; q < TILE / ROWS; ++q) sums[q] += left[(ty + q * ROWS) * (TILE + 1) + l] * f;
                }
                barrier();
            }
#pragma unroll
            for (int q = 0; q < TILE / ROWS; ++q) {
                const long long i = top + ty + q * ROWS;
                if (i >= m || j >= n) continue;
                const long long at = y0 + z * py + i * n + j;
                Sum y = sums[q];
                if (bias) y += widened(bias[j]);
                if (residual) y += widened(residual[at]);
                store(out + at, y);
            }
        }
    }
}
