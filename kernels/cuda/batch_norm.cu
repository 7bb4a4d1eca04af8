// Batch norm, with a residual and relu behind, its gradient, and the form with given statistics.
//
// Floor: bytes. Training reads x twice and writes y (12 bytes an element of float), the gradient reads dy and x (and
// y, for relu) twice and writes dx (20, 28): the second reading comes from the L2 where the tensor fits there, from the
// L1 where one block does a channel. `moments` and `sums` leave a few numbers for each part of a channel; every block
// of the second pass joins them itself, in one order, which saves a launch. Channels of few elements take one launch.
// Means and squared deviations are joined by Chan's formulas.
// Macros: those of rows.cuh, a channel being the row: GROUP 256 where it lies in planes of `inner` elements, 8 where
// channels are neighbours; AFFINE and RUNNING, the types of scale and shift, and of the running statistics.
#include "rows.cuh"

using namespace tl;
typedef AFFINE W;
typedef RUNNING R;
static_assert(KEEP == 0, "batch_norm.cu: channels are read again");

namespace {

struct Channel {
    long long c, first, last, channels, inner;  // elements [first, last) of channel c
    __device__ __forceinline__ long long offset(long long at) const {
        if constexpr (kColumns) return at * channels + c;
        if (at >> 31) return (at / inner * channels + c) * inner + at % inner;
        const unsigned k = static_cast<unsigned>(at) / static_cast<unsigned>(inner);
        return (k * channels + c) * inner + (at - k * inner);
    }
};
__device__ __forceinline__ Channel channel_of(long long channels, long long n, long long inner, long long part,
                                              long long a_part) {
    const long long c = static_cast<long long>(blockIdx.x) * kRows + group(), first = part * a_part;
    const bool live = c < channels;
    return {live ? c : 0, first, !live ? first : first + a_part < n ? first + a_part : n, channels, inner};
}
__device__ __forceinline__ bool is_live(long long channels) {
    return static_cast<long long>(blockIdx.x) * kRows + group() < channels;
}

template <class S> __device__ __forceinline__ void take(const S* p, const Channel& f, long long base, C (&v)[E]) {
#pragma unroll
    for (int q = 0; q < E; q += V) {
        const long long at = place(base, q);
        if (at < f.last) load_some(p + f.offset(at), v + q);
    }
}
template <class S> __device__ __forceinline__ void give(S* p, const Channel& f, long long base, const C (&v)[E]) {
#pragma unroll
    for (int q = 0; q < E; q += V) {
        const long long at = place(base, q);
        if (at < f.last) store_some(p + f.offset(at), v + q);
    }
}
constexpr long long kStep = static_cast<long long>(kGroup) * E;

// The mean and the sum of squared deviations of a channel's elements, for all of its threads.
__device__ __forceinline__ void moments_of(const X* x, const Channel& f, C* scratch, C& mean, C& squares) {
    C n = C(0), m = C(0), s = C(0);
    for (long long base = f.first; base < f.last; base += kStep) {
        C v[E], here = C(0), off = C(0), count = C(0);
        take(x, f, base, v);
#pragma unroll
        for (int k = 0; k < E; ++k)
            if (place(base, k) < f.last) here += v[k], count += C(1);
        if (count == C(0)) break;
        here /= count;
#pragma unroll
        for (int k = 0; k < E; ++k)
            if (place(base, k) < f.last) off += (v[k] - here) * (v[k] - here);
        const C d = here - m, share = count / (n + count);
        s += off + d * d * n * share;
        m += d * share;
        n += count;
    }
    const C all_of_them = static_cast<C>(f.last - f.first);
    mean = group_sum(n * m, scratch) / all_of_them;
    squares = group_sum(s + n * (m - mean) * (m - mean), scratch);
}

// Sums of g and g h, g what passed relu, h what was normalised.
__device__ __forceinline__ void sums_of(const X* dy, const X* x, const X* y, const Channel& f, C mean, C r, C* scratch,
                                        C& total, C& product) {
    total = product = C(0);
    for (long long base = f.first; base < f.last; base += kStep) {
        C g[E], v[E], s[E];
        take(dy, f, base, g), take(x, f, base, v);
        if (y) take(y, f, base, s);
#pragma unroll
        for (int k = 0; k < E; ++k) {
            if (place(base, k) >= f.last) continue;
            const C d = y ? op_relu_dx(g[k], s[k]) : g[k];
            total += d, product += d * ((v[k] - mean) * r);
        }
    }
    group_sums(total, product, scratch);
}

}  // namespace

// Parts [part, 0 and 1, channel]: mean and squared deviations of each part of each channel.
extern "C" __global__ void __launch_bounds__(256, 2)
    moments(const X* x, C* parts, long long channels, long long n, long long inner, long long a_part) {
    TL_SHARED(C, scratch, kThreads);
    const Channel f = channel_of(channels, n, inner, blockIdx.y, a_part);
    C mean, squares;
    moments_of(x, f, scratch, mean, squares);
    if (member() || !is_live(channels)) return;
    parts[2 * blockIdx.y * channels + f.c] = mean;
    parts[(2 * blockIdx.y + 1) * channels + f.c] = squares;
}

// y = relu((x - mean) / sqrt(var + eps) * w + b + residual), relu and what is null left out. `count` parts of a_part
// elements are given; where parts is null, the block has the whole channel and makes its moments first.
extern "C" __global__ void __launch_bounds__(256, 2)
    apply(const X* x, const X* residual, const W* w, const W* b, X* y, C* mean_out, C* var_out, R* running_mean,
          R* running_var, const C* parts, int count, int relu, long long channels, long long n, long long inner,
          long long a_part, long long a_block, double momentum, double eps) {
    TL_SHARED(C, scratch, kThreads);
    const Channel f = channel_of(channels, n, inner, blockIdx.y, a_block);
    const bool live = is_live(channels);
    C mean, squares;
    if (parts) {
        C here = C(0);
        for (int p = member(); p < count; p += kGroup) {
            const long long size = p + 1 < count ? a_part : n - p * a_part;
            here += parts[2 * p * channels + f.c] * static_cast<C>(size);
        }
        mean = group_sum(here, scratch) / static_cast<C>(n);
        here = C(0);
        for (int p = member(); p < count; p += kGroup) {
            const long long size = p + 1 < count ? a_part : n - p * a_part;
            const C d = parts[2 * p * channels + f.c] - mean;
            here += parts[(2 * p + 1) * channels + f.c] + d * d * static_cast<C>(size);
        }
        squares = group_sum(here, scratch);
    } else {
        moments_of(x, f, scratch, mean, squares);
    }
    if (!live) return;
    const C var = squares / static_cast<C>(n);
    if (blockIdx.y == 0 && member() == 0) {
        mean_out[f.c] = mean, var_out[f.c] = var;
        const C keep = static_cast<C>(1 - momentum), move = static_cast<C>(momentum);
        const C whole = static_cast<C>(static_cast<double>(n) / static_cast<double>(n > 1 ? n - 1 : 1));
        if (running_mean) running_mean[f.c] = Put<R>::of(read<C>(running_mean[f.c]) * keep + mean * move);
        if (running_var) running_var[f.c] = Put<R>::of(read<C>(running_var[f.c]) * keep + var * whole * move);
    }
    const C scale = (w ? read<C>(w[f.c]) : C(1)) / tl_sqrt(var + static_cast<C>(eps));
    const C shift = b ? read<C>(b[f.c]) : C(0);
    for (long long base = f.first; base < f.last; base += kStep) {
        C v[E], more[E];
        take(x, f, base, v);
        if (residual) take(residual, f, base, more);
#pragma unroll
        for (int k = 0; k < E; ++k) {
            v[k] = (v[k] - mean) * scale + shift;
            if (residual) v[k] += more[k];
            if (relu) v[k] = op_relu(v[k]);
        }
        give(y, f, base, v);
    }
}

// Parts [part, 0 and 1, channel]: the sums of g and of g h.
extern "C" __global__ void __launch_bounds__(256, 2)
    sums(const X* dy, const X* x, const C* means, const C* vars, const X* y, C* parts, long long channels, long long n,
         long long inner, long long a_part, double eps) {
    TL_SHARED(C, scratch, kThreads);
    const Channel f = channel_of(channels, n, inner, blockIdx.y, a_part);
    C total, product;
    sums_of(dy, x, y, f, means[f.c], C(1) / tl_sqrt(vars[f.c] + static_cast<C>(eps)), scratch, total, product);
    if (member() || !is_live(channels)) return;
    parts[2 * blockIdx.y * channels + f.c] = total;
    parts[(2 * blockIdx.y + 1) * channels + f.c] = product;
}

// dx = (g - sum(g) / n - h sum(g h) / n) w r, where g is dy, or what of it passed the relu that gave y; dw = sum(g h),
// db = sum(g); passed, where not null, gets g.
extern "C" __global__ void __launch_bounds__(256, 2)
    apply_dx(const X* dy, const X* x, const C* means, const C* vars, const W* w, const X* y, X* dx, C* dw, C* db,
             X* passed, const C* parts, int count, long long channels, long long n, long long inner, long long a_block,
             double eps) {
    TL_SHARED(C, scratch, kThreads);
    const Channel f = channel_of(channels, n, inner, blockIdx.y, a_block);
    const bool live = is_live(channels);
    const C mean = means[f.c], r = C(1) / tl_sqrt(vars[f.c] + static_cast<C>(eps));
    C total = C(0), product = C(0);
    if (parts) {
        for (int p = member(); p < count; p += kGroup)
            total += parts[2 * p * channels + f.c], product += parts[(2 * p + 1) * channels + f.c];
        group_sums(total, product, scratch);
    } else {
        sums_of(dy, x, y, f, mean, r, scratch, total, product);
    }
    if (!live) return;
    if (blockIdx.y == 0 && member() == 0) dw[f.c] = product, db[f.c] = total;
    const C scale = (w ? read<C>(w[f.c]) : C(1)) * r;
    total /= static_cast<C>(n), product /= static_cast<C>(n);
    for (long long base = f.first; base < f.last; base += kStep) {
        C g[E], v[E], s[E];
        take(dy, f, base, g), take(x, f, base, v);
        if (y) take(y, f, base, s);
#pragma unroll
        for (int k = 0; k < E; ++k) {
            if (y) g[k] = op_relu_dx(g[k], s[k]);
            v[k] = (g[k] - (v[k] - mean) * r * product - total) * scale;
        }
        if (passed) give(passed, f, base, g);
        give(dx, f, base, v);
    }
}

// y = x * scale + shift of each channel; shift may be null.
extern "C" __global__ void __launch_bounds__(256, 2)
    scale_shift(const X* x, const W* scale, const W* shift, X* y, long long channels, long long n, long long inner,
                long long a_block) {
    const Channel f = channel_of(channels, n, inner, blockIdx.y, a_block);
    if (!is_live(channels)) return;
    const C s = read<C>(scale[f.c]), t = shift ? read<C>(shift[f.c]) : C(0);
    for (long long base = f.first; base < f.last; base += kStep) {
        C v[E];
        take(x, f, base, v);
#pragma unroll
        for (int k = 0; k < E; ++k) v[k] = v[k] * s + t;
        give(y, f, base, v);
    }
}
