// Layer norm, group norm and RMS norm of rows, with a residual before or an activation behind, and their gradients.
//
// Floor: bytes. Forward reads x (and the residual) and writes y (and the sum) once: 8 (16) bytes an element of float.
// The gradient reads dy and x and writes dx once (12), while it adds up those of scale and shift in registers; blocks
// walk many rows, so that few partial sums are left for `add_parts`, in a fixed order. Rows that no block holds are
// read again in each pass, and `column_sums` makes the sums.
// Macros: those of rows.cuh; AFFINE, the type of scale and shift; ACT, an activation (0: none); GROUPS, 1 where these
// belong to channels of `inner` elements, and rows take turns through `period` sets of channels.
#include "rows.cuh"

using namespace tl;
typedef AFFINE W;
constexpr bool kSums = KEEP > 0 && KEEP <= 8 && !GROUPS;  // the gradient holds sums of its columns in registers

namespace {

enum Act { NONE, RELU, TANH, SIGMOID, GELU, GELU_TANH };  // as in backends/launch/linear_act.py

__device__ __forceinline__ C activated(C z) {
    if constexpr (ACT == RELU) return op_relu(z);
    else if constexpr (ACT == TANH) return op_tanh(z);
    else if constexpr (ACT == SIGMOID) return op_sigmoid(z);
    else if constexpr (ACT == GELU) return op_gelu(z, false);
    else if constexpr (ACT == GELU_TANH) return op_gelu(z, true);
    else return z;
}
// The gradient that passes the activation of z.
__device__ __forceinline__ C passed(C g, C z) {
    if constexpr (ACT == RELU) return op_relu_dx(g, op_relu(z));
    else if constexpr (ACT == TANH) return op_tanh_dx(g, op_tanh(z));
    else if constexpr (ACT == SIGMOID) return op_sigmoid_dx(g, op_sigmoid(z));
    else if constexpr (ACT == GELU) return op_gelu_dx(g, z, false);
    else if constexpr (ACT == GELU_TANH) return op_gelu_dx(g, z, true);
    else return g;
}

// The scale or shift of each element, from that of its channel.
struct OfChannel {
    const W* p;
    unsigned inner;
    C otherwise, v[V];
    TL_INLINE void load(long long) {}
    TL_INLINE void ready(long long at) {
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = p ? read<C>(p[static_cast<unsigned>(at + j) / inner]) : otherwise;
    }
    TL_INLINE C& get(int k) { return v[k % V]; }
};
#if GROUPS
__device__ __forceinline__ OfChannel affine(const W* p, long long row, long long period, long long channels,
                                            long long inner, C otherwise) {
    OfChannel a;
    a.p = p ? p + row % period * channels : p, a.inner = static_cast<unsigned>(inner), a.otherwise = otherwise;
    return a;
}
#else
__device__ __forceinline__ Beside<W> affine(const W* p, long long, long long, long long, long long, C otherwise) {
    return beside(p, 1, otherwise);
}
#endif

}  // namespace

// y = act((a - mean) / sqrt(var + eps) * w + b) of a = x + residual; rms: with 0 for the mean. Null leaves out residual,
// w, b, sum (which is a) and mean. n = channels * inner.
extern "C" __global__ void __launch_bounds__(THREADS, THREADS > 256 ? 1 : 2)
    normalize(const X* x, const X* residual, const W* w, const W* b, X* y, X* sum, C* mean_out, C* var_out, int rms,
              long long count, long long n, long long period, long long channels, long long inner, long long x_row,
              long long x_step, long long more_row, long long more_step, double eps) {
    TL_SHARED(C, scratch, kThreads);
    for (long long first = static_cast<long long>(blockIdx.x) * kRows; first < count;
         first += static_cast<long long>(gridDim.x) * kRows) {
        const long long row = first + group();
        const bool live = row < count;
        const long long k = live ? row : 0, own = live ? n : 0;
        Row<X> a = row_of(x + k * x_row, own, x_step);
        auto more = beside(residual ? residual + k * more_row : residual, more_step, C(0));
        C mean = C(0), var = C(0);
        each(own, [&](long long, C& v, C r) { v += r, mean += v; }, a, more);
        if (sum) {
            if constexpr (KEEP > 0) write(sum + k * n, 1, own, [&](long long, C v) { return v; }, a);
            else write(sum + k * n, 1, own, [&](long long, C v, C r) { return v + r; }, a, more);
        }
        mean = rms ? C(0) : group_sum(mean, scratch) / static_cast<C>(n);
        if constexpr (KEEP > 0) each(own, [&](long long, C v) { var += (v - mean) * (v - mean); }, a);
        else each(own, [&](long long, C v, C r) { var += (v + r - mean) * (v + r - mean); }, a, more);
        var = group_sum(var, scratch) / static_cast<C>(n);
        if (live && member() == 0) {
            if (mean_out) mean_out[row] = mean;
            var_out[row] = var;
        }
        const C r = C(1) / tl_sqrt(var + static_cast<C>(eps));
        auto scale = affine(w, k, period, channels, inner, C(1)), shift = affine(b, k, period, channels, inner, C(0));
        const auto made = [&](C v, C s, C t) { return activated((v - mean) * r * s + t); };
        if constexpr (KEEP > 0)
            write(y + k * n, 1, own, [&](long long, C v, C s, C t) { return made(v, s, t); }, a, scale, shift);
        else
            write(y + k * n, 1, own, [&](long long, C v, C m, C s, C t) { return made(v + m, s, t); }, a, more, scale,
                  shift);
    }
}

// With h = (x - mean) r, g what passed the activation and v = g w: dx = r (v - sum(v) / n - h sum(v h) / n) + d_sum.
// Where a thread holds at most 8 numbers of a row, dw = sum(g h) and db = sum(g) over rows too: block p's to
// parts[p, 0 and 1], or, where those are null, to dw and db. (With more in hand it is not launched.)
#if !GROUPS && KEEP <= 8
extern "C" __global__ void __launch_bounds__(THREADS, THREADS > 256 || sizeof(X) == 8 ? 1 : 2)
    normalize_dx(const X* dy, const X* d_sum, const X* x, const C* means, const C* vars, const W* w, const W* b, X* dx,
                 C* dw, C* db, C* parts, int rms, long long count, long long n, long long dy_row, long long dy_step,
                 long long sum_row, long long sum_step, long long x_row, long long x_step, double eps) {
    TL_SHARED(C, scratch, kThreads);
    TL_SHARED(C, joined, kSums && kRows > 1 ? 64 * E : 1);
    C to_w[kSums ? E : 1], to_b[kSums ? E : 1];
    if constexpr (kSums) {
#pragma unroll
        for (int k = 0; k < E; ++k) to_w[k] = to_b[k] = C(0);
    }
    for (long long first = static_cast<long long>(blockIdx.x) * kRows; first < count;
         first += static_cast<long long>(gridDim.x) * kRows) {
        const long long row = first + group();
        const bool live = row < count;
        const long long k = live ? row : 0, own = live ? n : 0;
        const C mean = means ? means[k] : C(0), r = C(1) / tl_sqrt(vars[k] + static_cast<C>(eps));
        Row<X> a = row_of(x + k * x_row, own, x_step), g = row_of(dy + k * dy_row, own, dy_step);
        auto scale = beside(w, 1, C(1)), shift = beside(b, 1, C(0));
        auto more = beside(d_sum ? d_sum + k * sum_row : d_sum, sum_step, C(0));
        C total = C(0), inner = C(0);
        each(own,
             [&](long long, C& h, C& d, C s, C t) {
                 h = (h - mean) * r;
                 d = passed(d, h * s + t);
                 total += d * s, inner += d * s * h;
             },
             a, g, scale, shift);
        if constexpr (kSums) {
#pragma unroll
            for (int q = 0; q < E; ++q)
                if (place(0, q) < own) to_w[q] += g.v[q] * a.v[q], to_b[q] += g.v[q];
        }
        group_sums(total, inner, scratch);
        const C less = rms ? C(0) : total / static_cast<C>(n) * r, slope = inner / static_cast<C>(n) * r;
        if constexpr (KEEP > 0)
            write(dx + k * n, 1, own,
                  [&](long long, C h, C d, C s, C m) { return d * s * r - (h * slope + less) + m; }, a, g, scale, more);
        else
            write(dx + k * n, 1, own,
                  [&](long long, C v, C d, C s, C t, C m) {
                      const C h = (v - mean) * r;
                      return passed(d, h * s + t) * s * r - (h * slope + less) + m;
                  },
                  a, g, scale, shift, more);
    }
    if constexpr (kSums) {
        if constexpr (kRows > 1) {  // the warps of the block, one after the other
            for (int turn = 0; turn < kRows; ++turn) {
                if (group() == turn) {
#pragma unroll
                    for (int q = 0; q < E; ++q) {
                        const long long at = place(0, q);
                        joined[at] = turn ? joined[at] + to_w[q] : to_w[q];
                        joined[32 * E + at] = turn ? joined[32 * E + at] + to_b[q] : to_b[q];
                    }
                }
                barrier();
            }
        }
        C* own_w = parts ? parts + 2 * blockIdx.x * n : dw;
        C* own_b = parts ? own_w + n : db;
        if (group() == 0) {
#pragma unroll
            for (int q = 0; q < E; ++q) {
                const long long at = place(0, q);
                if (at >= n) continue;
                own_w[at] = kRows > 1 ? joined[at] : to_w[q];
                if (own_b) own_b[at] = kRows > 1 ? joined[32 * E + at] : to_b[q];
            }
        }
    }
}

// dw and db of 32 neighbouring columns and a part of the rows, where normalize_dx has no room for them.
extern "C" __global__ void __launch_bounds__(256, 2)
    column_sums(const X* dy, const X* x, const C* means, const C* vars, const W* w, const W* b, C* dw, C* db, C* parts,
                long long count, long long n, long long dy_row, long long dy_step, long long x_row, long long x_step,
                long long a_part, double eps) {
    TL_SHARED(C, shared, 512);
    const int lane = threadIdx.x % 32;
    const long long at = blockIdx.x * 32ll + lane, first = blockIdx.y * a_part;
    const long long last = first + a_part < count ? first + a_part : count;
    C to_w = C(0), to_b = C(0);
    if (at < n) {
        const C scale = w ? read<C>(w[at]) : C(1), shift = b ? read<C>(b[at]) : C(0);
#pragma unroll 4
        for (long long k = first + threadIdx.x / 32; k < last; k += 8) {
            const C r = C(1) / tl_sqrt(vars[k] + static_cast<C>(eps)), mean = means ? means[k] : C(0);
            const C h = (read<C>(x[k * x_row + at * x_step]) - mean) * r;
            const C g = passed(read<C>(dy[k * dy_row + at * dy_step]), h * scale + shift);
            to_w += g * h, to_b += g;
        }
    }
    shared[threadIdx.x] = to_w, shared[256 + threadIdx.x] = to_b;
    barrier();
    if (threadIdx.x >= 32 || at >= n) return;
    for (int k = 1; k < 8; ++k) to_w += shared[32 * k + lane], to_b += shared[256 + 32 * k + lane];
    C* own_w = parts ? parts + 2 * blockIdx.y * n : dw;
    C* own_b = parts ? own_w + n : db;
    own_w[at] = to_w;
    if (own_b) own_b[at] = to_b;
}
#elif GROUPS
// A block a row of channels * inner numbers: the sums of each channel first, which go to parts[0 and 1, row, channel]
// (0: of g h, 1: of g), then dx. A warp takes a channel, or the block does where there are few.
extern "C" __global__ void __launch_bounds__(256, 2)
    groups_dx(const X* dy, const X* d_sum, const X* x, const C* means, const C* vars, const W* w, const W* b, X* dx,
              C* parts, long long count, long long period, long long channels, long long inner, long long dy_row,
              long long dy_step, long long sum_row, long long sum_step, long long x_row, long long x_step, double eps) {
    TL_SHARED(C, scratch, 64);
    const bool together = channels < 8;
    const int turn = together ? 0 : warp_id(), turns = together ? 1 : 8;
    const int from = together ? static_cast<int>(threadIdx.x) : lane_id(), step = together ? 256 : 32;
    const long long n = channels * inner;
    for (long long k = blockIdx.x; k < count; k += gridDim.x) {
        const X *a = x + k * x_row, *g = dy + k * dy_row;
        const long long own = k % period * channels;
        const C mean = means[k], r = C(1) / tl_sqrt(vars[k] + static_cast<C>(eps));
        C total = C(0), product = C(0);
        for (long long c = turn; c < channels; c += turns) {
            const C scale = w ? read<C>(w[own + c]) : C(1), shift = b ? read<C>(b[own + c]) : C(0);
            C d = C(0), q = C(0);
#pragma unroll 4
            for (long long i = c * inner + from; i < (c + 1) * inner; i += step) {
                const C h = (read<C>(a[i]) - mean) * r, v = passed(read<C>(g[i * dy_step]), h * scale + shift);
                d += v, q += v * h;
            }
            if (together) d = block_sum(d, scratch), q = block_sum(q, scratch);
            else d = warp_sum(d), q = warp_sum(q);
            if (from == 0) parts[k * channels + c] = q, parts[(count + k) * channels + c] = d;
            total += d * scale, product += q * scale;
        }
        if (!together) {
            if (lane_id() == 0) scratch[warp_id()] = total, scratch[8 + warp_id()] = product;
            barrier();
            total = scratch[0], product = scratch[8];
            for (int k2 = 1; k2 < 8; ++k2) total += scratch[k2], product += scratch[8 + k2];
            barrier();
        }
        const C less = total / static_cast<C>(n) * r, slope = product / static_cast<C>(n) * r;
#pragma unroll 4
        for (long long i = threadIdx.x; i < n; i += 256) {
            const long long c = own + static_cast<unsigned>(i) / static_cast<unsigned>(inner);
            const C scale = w ? read<C>(w[c]) : C(1), shift = b ? read<C>(b[c]) : C(0);
            const C h = (read<C>(a[i]) - mean) * r, v = passed(read<C>(g[i * dy_step]), h * scale + shift);
            const C rest = d_sum ? read<C>(d_sum[k * sum_row + i * sum_step]) : C(0);
            dx[k * n + i] = Put<X>::of(v * scale * r - (h * slope + less) + rest);
        }
    }
}
#endif

// dw (and db, `second` further on) = the sums over parts, in their order: 32 neighbours a block, blockIdx.y of the two.
extern "C" __global__ void __launch_bounds__(256, 2)
    add_parts(const C* parts, C* dw, C* db, long long count, long long n, long long step, long long second) {
    TL_SHARED(C, shared, 256);
    const int lane = threadIdx.x % 32;
    const long long at = blockIdx.x * 32ll + lane;
    const C* p = parts + blockIdx.y * second + at;
    C sum = C(0);
    if (at < n) {
#pragma unroll 4
        for (long long k = threadIdx.x / 32; k < count; k += 8) sum += p[k * step];
    }
    shared[threadIdx.x] = sum;
    barrier();
    if (threadIdx.x >= 32 || at >= n) return;
    for (int k = 1; k < 8; ++k) sum += shared[32 * k + lane];
    (blockIdx.y ? db : dw)[at] = sum;
}
