// softmax, log_softmax and their gradients along any dimension.
//
// Floor: bytes. Forward reads x and writes y once (8 bytes an element of float), the gradients read two and write one
// (12); a row that no block can hold is read a second time, from the L2 as long as the rows at work fit there.
// Macros: those of rows.cuh. Row r begins at r / inner and r % inner steps; y is dense.
#include "rows.cuh"

using namespace tl;

struct Softmax {
    TL_DEVICE void of(Row<X>& x, Row<X>&, X* y, long long step, long long n, C* scratch) {
        C top, sum;
        top_and_sum(x, n, scratch, top, sum);
        const C share = C(1) / sum;
        write(y, step, n, [&](long long, C v) { return (KEEP ? v : C(exp(v - top))) * share; }, x);
    }
};

struct LogSoftmax {
    TL_DEVICE void of(Row<X>& x, Row<X>&, X* y, long long step, long long n, C* scratch) {
        C top = C(-INF), sum = C(0);
        if constexpr (KEEP > 0) {  // not top_and_sum, which would leave only the exponentials
            each(n, [&](long long, C v) { top = tl_max(top, v); }, x);
            top = group_max(top, scratch);
            each(n, [&](long long, C& v) { v -= top, sum += exp(v); }, x);
            sum = group_sum(sum, scratch);
        } else {
            top_and_sum(x, n, scratch, top, sum);
        }
        const C less = log(sum);
        write(y, step, n, [&](long long, C v) { return (KEEP ? v : v - top) - less; }, x);
    }
};

struct SoftmaxDx {
    TL_DEVICE void of(Row<X>& dy, Row<X>& s, X* dx, long long step, long long n, C* scratch) {
        C sum = C(0);
        each(n, [&](long long, C g, C p) { sum += g * p; }, dy, s);
        sum = group_sum(sum, scratch);
        write(dx, step, n, [&](long long, C g, C p) { return (g - sum) * p; }, dy, s);
    }
};

struct LogSoftmaxDx {
    TL_DEVICE void of(Row<X>& dy, Row<X>& s, X* dx, long long step, long long n, C* scratch) {
        C sum = C(0);
        each(n, [&](long long, C g) { sum += g; }, dy);
        sum = group_sum(sum, scratch);
        write(dx, step, n, [&](long long, C g, C l) { return g - exp(l) * sum; }, dy, s);
    }
};

// a is x or dy, b null or what the forward gave; a_outer, a_step, a_inner: between outer parts, along dim, inner ones.
template <class Op>
TL_DEVICE void all_rows(const X* a, const X* b, X* y, long long count, long long n, long long inner, long long a_outer,
                        long long a_step, long long a_inner, long long b_outer, long long b_step, long long b_inner,
                        C* scratch) {
    for (long long first = static_cast<long long>(blockIdx.x) * kRows; first < count;
         first += static_cast<long long>(gridDim.x) * kRows) {
        const long long row = first + group();
        const bool live = row < count;
        const long long o = !live ? 0 : inner == 1 ? row : row / inner, i = !live || inner == 1 ? 0 : row % inner;
        const long long own = live ? n : 0;
        Row<X> one = row_of(a + o * a_outer + i * a_inner, own, a_step);
        Row<X> other = row_of(b ? b + o * b_outer + i * b_inner : b, b ? own : 0, b_step);
        Op::of(one, other, y + o * n * inner + i, inner, own, scratch);
    }
}

#define TL_ROWS(a, b)                                                                                             \
    const X *a, const X *b, X *y, long long count, long long n, long long inner, long long a_outer,              \
        long long a_step, long long a_inner, long long b_outer, long long b_step, long long b_inner
#define TL_ALL(Op, a, b)                                                                                          \
    TL_SHARED(C, scratch, kThreads);                                                                              \
    all_rows<Op>(a, b, y, count, n, inner, a_outer, a_step, a_inner, b_outer, b_step, b_inner, scratch)

extern "C" __global__ void __launch_bounds__(THREADS, 2) softmax(TL_ROWS(x, none)) { TL_ALL(Softmax, x, none); }
extern "C" __global__ void __launch_bounds__(THREADS, 2) log_softmax(TL_ROWS(x, none)) { TL_ALL(LogSoftmax, x, none); }
extern "C" __global__ void __launch_bounds__(THREADS, 2) softmax_dx(TL_ROWS(dy, s)) { TL_ALL(SoftmaxDx, dy, s); }
extern "C" __global__ void __launch_bounds__(THREADS, 2) log_softmax_dx(TL_ROWS(dy, s)) { TL_ALL(LogSoftmaxDx, dy, s); }
