// Losses of pairs of numbers, element by element or summed, and their gradient.
//
// Floor: bytes. Forward reads both inputs once (8 bytes a pair of floats, 12 where each loss is wanted), the gradient
// reads them and writes one (12). A block adds up its pairs in order, `finish` the sums of the blocks.
// Macros: those of rows.cuh (all pairs are one row, GROUP is the block, KEEP 0).
#include "rows.cuh"

using namespace tl;

struct Loss {  // bound and steep: a parabola up to bound, then a line of that slope; two: 2, shared out in a mean
    C bound, steep, curve, two;
};

struct Squared {
    TL_DEVICE C value(const Loss&, C x, C t) { return (x - t) * (x - t); }
    TL_DEVICE C slope(const Loss& f, C x, C t) { return (x - t) * f.two; }
    static constexpr bool shared_out = true;  // the slope has the mean's share already
};
struct Absolute {
    TL_DEVICE C value(const Loss&, C x, C t) { return fabs(x - t); }
    TL_DEVICE C slope(const Loss&, C x, C t) { return op_sign(C(x - t)); }
    static constexpr bool shared_out = false;
};
struct Huber {
    TL_DEVICE C value(const Loss& f, C x, C t) {
        const C d = fabs(x - t);
        return d <= f.bound ? d * d * (C(0.5) * f.curve) : (d - C(0.5) * f.bound) * f.steep;
    }
    TL_DEVICE C slope(const Loss& f, C x, C t) { return op_clamp(C(x - t), C(-f.bound), f.bound) * f.curve; }
    static constexpr bool shared_out = false;
};
struct Logits {  // binary cross-entropy of sigmoid(x)
    TL_DEVICE C value(const Loss&, C x, C t) {
        return (C(1) - t) * x - op_minimum(x, C(0)) + log1p(exp(-fabs(x)));
    }
    TL_DEVICE C slope(const Loss&, C x, C t) {
        const C e = exp(-fabs(x));
        return (x < C(0) ? e : C(1)) / (e + C(1)) - t;
    }
    static constexpr bool shared_out = false;
};

constexpr long long kChunk = static_cast<long long>(THREADS) * E;

TL_DEVICE Loss loss_of(double bound, double steep, double two) {
    return {static_cast<C>(bound), static_cast<C>(steep), static_cast<C>(bound == 0 ? 0 : steep / bound),
            static_cast<C>(two)};
}

// The thread's share of the losses' sum; each of them goes to y where that is not null.
template <class Pair> TL_DEVICE C values(const Loss& f, const X* x, const X* t, X* y, long long n) {
    C sum = C(0);
    Row<X> xs = row_of(x, n, 1), ts = row_of(t, n, 1);
    for (long long base = blockIdx.x * kChunk; base < n; base += gridDim.x * kChunk) {
        xs.load(base), ts.load(base);
#pragma unroll
        for (int q = 0; q < E; q += V) {
            const long long at = place(base, q);
            if (at < n) {
                C made[V];
#pragma unroll
                for (int j = 0; j < V; ++j) made[j] = Pair::value(f, xs.v[q + j], ts.v[q + j]), sum += made[j];
                if (y) store_some(y + at, made);
            }
        }
    }
    return sum;
}

template <class Pair>
TL_DEVICE void slopes(const Loss& f, const X* dy, const X* x, const X* t, X* dx, int one, long long n, double by) {
    const C divisor = Pair::shared_out ? C(1) : static_cast<C>(by), share = one ? read<C>(dy[0]) / divisor : C(0);
    Row<X> xs = row_of(x, n, 1), ts = row_of(t, n, 1), gs = row_of(dy, n, 1);
    for (long long base = blockIdx.x * kChunk; base < n; base += gridDim.x * kChunk) {
        xs.load(base), ts.load(base);
        if (!one) gs.load(base);
#pragma unroll
        for (int q = 0; q < E; q += V) {
            const long long at = place(base, q);
            if (at < n) {
                C made[V];
#pragma unroll
                for (int j = 0; j < V; ++j)
                    made[j] = Pair::slope(f, xs.v[q + j], ts.v[q + j]) * (one ? share : gs.v[q + j] / divisor);
                store_some(dx + at, made);
            }
        }
    }
}

// kind: 0 squared, 1 absolute, 2 Huber's, 3 logits. y: each loss, or null; total: their sum divided by `by`, where one
// block does all; else parts gets the blocks' sums.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    losses(const X* x, const X* t, X* y, X* total, C* parts, int kind, long long n, double bound, double steep,
           double by) {
    TL_SHARED(C, scratch, kThreads);
    const Loss f = loss_of(bound, steep, 2);
    C sum = kind == 0   ? values<Squared>(f, x, t, y, n)
            : kind == 1 ? values<Absolute>(f, x, t, y, n)
            : kind == 2 ? values<Huber>(f, x, t, y, n)
                        : values<Logits>(f, x, t, y, n);
    if (y) return;
    sum = group_sum(sum, scratch);
    if (threadIdx.x) return;
    if (parts) parts[blockIdx.x] = sum;
    else *total = Put<X>::of(sum / static_cast<C>(by));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) finish(const C* parts, X* total, int count, double by) {
    TL_SHARED(C, scratch, kThreads);
    C sum = C(0);
    for (int k = threadIdx.x; k < count; k += kThreads) sum += parts[k];
    sum = group_sum(sum, scratch);
    if (threadIdx.x == 0) *total = Put<X>::of(sum / static_cast<C>(by));
}

// dy: one number, or one for each pair. A mean is over `by` pairs.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    losses_dx(const X* dy, const X* x, const X* t, X* dx, int one, int kind, long long n, double bound, double steep,
              double two, double by) {
    const Loss f = loss_of(bound, steep, two);
    if (kind == 0) slopes<Squared>(f, dy, x, t, dx, one, n, by);
    else if (kind == 1) slopes<Absolute>(f, dy, x, t, dx, one, n, by);
    else if (kind == 2) slopes<Huber>(f, dy, x, t, dx, one, n, by);
    else slopes<Logits>(f, dy, x, t, dx, one, n, by);
}
