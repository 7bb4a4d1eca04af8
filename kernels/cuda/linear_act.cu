// What follows the product of a linear layer, where cuBLASLt's epilogues cannot do it: bias and activation; and the way
// back, dy times the slope with the sums of its columns.
//
// Floor: bytes. finish reads and writes each element once, act_dx reads two and writes one: at 128 x 4096 float32 2 to
// 3 passes over 2 MB, which stay in the L2. 32 threads walk 32 neighbouring columns, 8 rows at a time; sums are made in
// an order given by the shape: down a thread's rows, over the 8 threads, over the parts.
//
// ELEM: the elements. WIDE: what is computed in, float, or double for double. FROM: the product's elements, which are
// ELEM, or float where halves shall be rounded once, after the activation.
#include "device.cuh"

using Elem = ELEM;
using Wide = WIDE;
using Product = FROM;

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

enum Act { NONE, RELU, TANH, SIGMOID, GELU, GELU_TANH };  // as in backends/launch/linear_act.py

__device__ inline Wide activated(int act, Wide x) {
    switch (act) {
        case RELU: return x <= 0 ? Wide(0) : x;  // nan stays nan
        case TANH: return tl_tanh(x);
        case SIGMOID: return tl_sigmoid(x);
        case GELU: return x * Wide(0.5) * (tl_erf(x * HALF_ROOT) + 1);
        case GELU_TANH: return x * Wide(0.5) * (tl_tanh((x * x * x * CUBIC + x) * GAUSS) + 1);
        default: return x;
    }
}

// dy times the slope; s is the output of the activation, for both gelus its input
__device__ inline Wide sloped(int act, Wide dy, Wide s) {
    switch (act) {
        case RELU: return s <= 0 ? Wide(0) : dy;  // where s is nan, dy comes through
        case TANH: return dy * (1 - s * s);
        case SIGMOID: return dy * (s * (1 - s));
        case GELU: {
            const Wide bell = tl_exp(s * s * Wide(-0.5)) * (Wide(0.5) * GAUSS);
            return dy * ((tl_erf(s * HALF_ROOT) + 1) * Wide(0.5) + s * bell);
        }
        case GELU_TANH: {
            const Wide t = tl_tanh((s * s * s * CUBIC + s) * GAUSS);
            return dy * ((t + 1) * Wide(0.5) + s * (1 - t * t) * (s * s * (3 * CUBIC) + 1) * (Wide(0.5) * GAUSS));
        }
        default: return dy;
    }
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

// pre = y + bias, out = act(pre), each rounded once; out and pre may be y. Null leaves bias or pre out.
extern "C" __global__ void __launch_bounds__(256, 4)
    finish(const Product* y, const Elem* bias, Elem* pre, Elem* out, int act, long long rows, long long cols) {
    const long long j = static_cast<long long>(blockIdx.x) * COLS + threadIdx.x;
    if (j >= cols) return;
    const Wide more = bias ? widened(bias[j]) : Wide(0);
    const long long step = static_cast<long long>(gridDim.y) * ROWS;
    for (long long i = static_cast<long long>(blockIdx.y) * ROWS + threadIdx.y; i < rows; i += step) {
        const long long at = i * cols + j;
        const Wide x = bias ? widened(y[at]) + more : widened(y[at]);
        if (pre) store(pre + at, x);
        store(out + at, activated(act, x));
    }
}

// dx = dy slope(s); block row p sums the columns of its ``chunk`` rows into db, or into row p of parts.
extern "C" __global__ void __launch_bounds__(256, 4)
    act_dx(const Elem* dy, const Elem* s, Elem* dx, Elem* db, Wide* parts, int act, long long rows, long long cols,
           long long chunk) {
    TL_SHARED(Wide, shared, COLS * ROWS);
    const long long j = static_cast<long long>(blockIdx.x) * COLS + threadIdx.x;
    const long long first = blockIdx.y * chunk, past = first + chunk < rows ? first + chunk : rows;
    Wide sum = 0;
    if (j < cols) {
#pragma unroll AHEAD
        for (long long i = first + threadIdx.y; i < past; i += ROWS) {
            const Wide d = sloped(act, widened(dy[i * cols + j]), widened(s[i * cols + j]));
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
