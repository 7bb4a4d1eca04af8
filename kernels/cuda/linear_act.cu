// What follows the product of a linear layer, where cuBLASLt's epilogues cannot do it: bias, residual, activation; and
// the way back, dy times the slope with the sums of its columns.
//
// Floor: bytes. finish reads and writes each element once (and reads a residual), act_dx reads two and writes one: at
// 128 x 4096 float32 2 to 3 passes over 2 MB, which stay in the L2. 32 threads walk 32 neighbouring columns, 8 rows
// at a time; sums are made in an order given by the shape: down a thread's rows, over the 8 threads, over the parts.
//
// ELEM: the elements. WIDE: float, or double for double. ACT: 0 none, 1 relu, 2 tanh, 3 sigmoid, 4 gelu, 5 gelu_tanh.
#include "device.cuh"

using Elem = ELEM;
using Wide = WIDE;

namespace {

constexpr int COLS = 32, ROWS = 8;
constexpr int AHEAD = sizeof(Wide) == 8 ? 1 : 4;  // loads under way; more of double's erf would not fit in registers
constexpr Wide GAUSS = Wide(0.79788456080286535588), CUBIC = Wide(0.044715), HALF_ROOT = Wide(0.70710678118654752440);

__device__ inline Wide widened(half_t x) { return static_cast<Wide>(to_float(x)); }
__device__ inline Wide widened(bf16_t x) { return static_cast<Wide>(to_float(x)); }
__device__ inline Wide widened(float x) { return static_cast<Wide>(x); }
__device__ inline Wide widened(double x) { return static_cast<Wide>(x); }

__device__ inline void store(half_t* to, Wide x) { *to = from_float<half_t>(static_cast<float>(x)); }
__device__ inline void store(bf16_t* to, Wide x) { *to = from_float<bf16_t>(static_cast<float>(x)); }
__device__ inline void store(float* to, Wide x) { *to = static_cast<float>(x); }
__device__ inline void store(double* to, Wide x) { *to = static_cast<double>(x); }

__device__ inline Wide activated(Wide x) {
#if ACT == 1
    return x <= 0 ? Wide(0) : x;  // nan stays nan
#elif ACT == 2
    return tl_tanh(x);
#elif ACT == 3
    return tl_sigmoid(x);
#elif ACT == 4
    return x * Wide(0.5) * (tl_erf(x * HALF_ROOT) + 1);
#elif ACT == 5
    return x * Wide(0.5) * (tl_tanh((x * x * x * CUBIC + x) * GAUSS) + 1);
#else
    return x;
#endif
}

// dy times the slope; s is the output of the activation, for both gelus its input
__device__ inline Wide sloped(Wide dy, Wide s) {
#if ACT == 1
    return s <= 0 ? Wide(0) : dy;  // where s is nan, dy comes through
#elif ACT == 2
    return dy * (1 - s * s);
#elif ACT == 3
    return dy * (s * (1 - s));
#elif ACT == 4
    return dy * ((tl_erf(s * HALF_ROOT) + 1) * Wide(0.5) + s * tl_exp(s * s * Wide(-0.5)) * (Wide(0.5) * GAUSS));
#elif ACT == 5
    const Wide t = tl_tanh((s * s * s * CUBIC + s) * GAUSS);
    return dy * ((t + 1) * Wide(0.5) + s * (1 - t * t) * (s * s * (3 * CUBIC) + 1) * (Wide(0.5) * GAUSS));
#else
    return dy;
#endif
}

// The sum of a column's 8 threads, in their order; for the threads of the first row.
__device__ inline Wide down(Wide sum, Wide* shared) {
    shared[threadIdx.y * COLS + threadIdx.x] = sum;
    barrier();
    if (threadIdx.y == 0) {
        for (int r = 1; r < ROWS; ++r) sum += shared[r * COLS + threadIdx.x];
    }
    return sum;
}

}  // namespace

// out = act(y + bias + residual); out may be y or the residual.
extern "C" __global__ void __launch_bounds__(256, 4)
    finish(const Elem* y, const Elem* bias, const Elem* residual, Elem* out, long long rows, long long cols) {
    const long long j = static_cast<long long>(blockIdx.x) * COLS + threadIdx.x;
    if (j >= cols) return;
    const Wide more = bias ? widened(bias[j]) : Wide(0);
    const long long step = static_cast<long long>(gridDim.y) * ROWS;
    for (long long i = static_cast<long long>(blockIdx.y) * ROWS + threadIdx.y; i < rows; i += step) {
        const long long at = i * cols + j;
        Wide x = widened(y[at]);
        if (bias) x += more;
        if (residual) x += widened(residual[at]);
        store(out + at, activated(x));
    }
}

// dx = dy slope(s); block row p sums the columns of its ``chunk`` rows into db, or into row p of parts.
extern "C" __global__ void __launch_bounds__(256, 4)
    act_dx(const Elem* dy, const Elem* s, Elem* dx, Elem* db, Wide* parts, long long rows, long long cols,
           long long chunk) {
    TL_SHARED(Wide, shared, COLS * ROWS);
    const long long j = static_cast<long long>(blockIdx.x) * COLS + threadIdx.x;
    const long long first = blockIdx.y * chunk, past = first + chunk < rows ? first + chunk : rows;
    Wide sum = 0;
    if (j < cols) {
#pragma unroll AHEAD
        for (long long i = first + threadIdx.y; i < past; i += ROWS) {
            const Wide d = sloped(widened(dy[i * cols + j]), widened(s[i * cols + j]));
            store(dx + i * cols + j, d);
            sum += d;
        }
    }
    sum = down(sum, shared);
    if (threadIdx.y == 0 && j < cols) {
        if (parts) {
            parts[blockIdx.y * cols + j] = sum;
        } else {
            store(db + j, sum);
        }
    }
}

// db[j] = the sum of parts[:, j].
extern "C" __global__ void __launch_bounds__(256, 4)
    add_parts(const Wide* parts, Elem* db, long long count, long long cols) {
    TL_SHARED(Wide, shared, COLS * ROWS);
    const long long j = static_cast<long long>(blockIdx.x) * COLS + threadIdx.x;
    Wide sum = 0;
    if (j < cols) {
#pragma unroll 4
        for (long long p = threadIdx.y; p < count; p += ROWS) sum += parts[p * cols + j];
    }
    sum = down(sum, shared);
    if (threadIdx.y == 0 && j < cols) store(db + j, sum);
}
