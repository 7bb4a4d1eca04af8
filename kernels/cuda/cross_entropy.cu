// Cross-entropy of rows of scores with class indices, its gradient, and picking by class.
//
// Floor: bytes. Forward reads the scores once (4 bytes an element of float) and writes next to nothing; the gradient
// reads and writes each once (8), or, where a row is too long to be held and nothing was kept, reads it twice (12).
// A block adds up the losses of its rows in order, `finish` those of the blocks. Indices that are no class are noted.
// Macros: those of rows.cuh, and INDEX, the type of class indices.
#include "rows.cuh"

using namespace tl;
typedef INDEX Index;

namespace {

struct Targets {
    const Index* t;
    long long step, classes, ignore, *flag;
    int code;
    // The class of a row, clamped; -1 where the row is left out.
    __device__ __forceinline__ long long of(long long row, bool tells) const {
        const long long c = static_cast<long long>(t[row * step]);
        if (c == ignore) return -1;
        if (c >= 0 && c < classes) return c;
        if (tells) fault(flag, code, c, classes);
        return c < 0 ? 0 : classes - 1;
    }
};

// Sums over the block, which thread 0 gets: each group's number once, in the order of groups or threads.
__device__ __forceinline__ void add_up(C& loss, C& count, C* scratch, int every) {
    const int slot = static_cast<int>(threadIdx.x) / every;
    if (threadIdx.x % every == 0) scratch[slot] = loss, scratch[kThreads + slot] = count;
    barrier();
    if (threadIdx.x == 0) {
        for (int k = 1; k < kThreads / every; ++k) loss += scratch[k], count += scratch[kThreads + k];
    }
    barrier();
}

}  // namespace

// each: every row's loss, or null; kept: its largest score and its sum of exponentials, or null; total: the sum of the
// losses, or their mean, where one block does all; else parts gets (sum, rows that count) of each block.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    losses(const X* x, const Index* t, X* each_loss, X* kept, X* total, C* parts, int mean, long long count,
           long long classes, long long x_row, long long x_step, long long t_step, long long ignore, long long* flag,
           int code) {
    TL_SHARED(C, scratch, 2 * kThreads);
    const Targets targets = {t, t_step, classes, ignore, flag, code};
    C sum_of_losses = C(0), rows = C(0);
    for (long long first = static_cast<long long>(blockIdx.x) * kRows; first < count;
         first += static_cast<long long>(gridDim.x) * kRows) {
        const long long row = first + group();
        const bool live = row < count;
        const long long own = live ? targets.of(row, member() == 0) : -1, n = own < 0 ? 0 : classes;
        const X* p = x + (live ? row : 0) * x_row;
        Row<X> scores = row_of(p, n, x_step);
        C top, sum;
        top_and_sum(scores, n, scratch, top, sum);
        // the difference of two large scores is exact where a sum with one is not
        const C loss = own < 0 ? C(0) : log(sum) + (top - read<C>(p[own * x_step]));
        sum_of_losses += loss;
        rows += own < 0 ? C(0) : C(1);
        if (live && member() == 0) {
            if (each_loss) each_loss[row] = Put<X>::of(loss);
            if (kept) {
                kept[2 * row] = Put<X>::of(own < 0 ? C(0) : top);
                kept[2 * row + 1] = Put<X>::of(own < 0 ? C(1) : sum);
            }
        }
    }
    if (each_loss) return;
    add_up(sum_of_losses, rows, scratch, kGroup);
    if (threadIdx.x) return;
    if (parts) parts[2 * blockIdx.x] = sum_of_losses, parts[2 * blockIdx.x + 1] = rows;
    else *total = Put<X>::of(mean ? sum_of_losses / rows : sum_of_losses);
}

// One block: the sum or mean from the parts.
extern "C" __global__ void __launch_bounds__(THREADS, 2) finish(const C* parts, X* total, int mean, int count) {
    TL_SHARED(C, scratch, 2 * kThreads);
    C loss = C(0), rows = C(0);
    for (int k = threadIdx.x; k < count; k += kThreads) loss += parts[2 * k], rows += parts[2 * k + 1];
    add_up(loss, rows, scratch, 1);
    if (threadIdx.x == 0) *total = Put<X>::of(mean ? loss / rows : loss);
}

// How many of the rows count, added to *rows: whole numbers, so the order is all the same.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    counted(const Index* t, long long* rows, long long count, long long t_step, long long ignore) {
    TL_SHARED(C, scratch, 2 * kThreads);
    C here = C(0), none = C(0);
    grid_stride(count, [&](long long k) { here += static_cast<long long>(t[k * t_step]) == ignore ? C(0) : C(1); });
    add_up(here, none, scratch, 1);
    if (threadIdx.x == 0) atomic_add(rows, static_cast<long long>(here));
}

// dx = (softmax(x) - onehot(t)) times each row's share of dy. A mean divides dy by *rows, or, where that is null, by
// what each block counts itself.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    losses_dx(const X* dy, const X* x, const Index* t, const X* kept, X* dx, const long long* rows, int mean, long long count,
              long long classes, long long dy_step, long long x_row, long long x_step, long long t_step,
              long long ignore, long long* flag, int code) {
    TL_SHARED(C, scratch, 2 * kThreads);
    const Targets targets = {t, t_step, classes, ignore, flag, code};
    C by = C(1);
    if (mean && rows) by = static_cast<C>(*rows);
    if (mean && !rows) {
        int here = 0;
        for (long long k = threadIdx.x; k - static_cast<long long>(threadIdx.x) < count; k += kThreads)
            here += barrier_count(k < count && static_cast<long long>(t[k * t_step]) != ignore);
        by = static_cast<C>(here);
    }
    for (long long first = static_cast<long long>(blockIdx.x) * kRows; first < count;
         first += static_cast<long long>(gridDim.x) * kRows) {
        const long long row = first + group();
        const bool live = row < count;
        const long long own = live ? targets.of(row, member() == 0) : -1, n = own < 0 ? 0 : classes;
        Row<X> scores = row_of(x + (live ? row : 0) * x_row, n, x_step);
        C top, sum;
        if (kept) {
            top = own < 0 ? C(0) : read<C>(kept[2 * row]), sum = own < 0 ? C(1) : read<C>(kept[2 * row + 1]);
            if constexpr (KEEP > 0) each(n, [&](long long, C& v) { v = exp(v - top); }, scores);
        } else {
            top_and_sum(scores, n, scratch, top, sum);
        }
        const C share = live ? read<C>(dy[row * dy_step]) / by : C(0), scale = share / sum;
        if (!live) continue;
        X* out = dx + row * classes;
        if (own < 0) {
            for (long long at = member(); at < classes; at += kGroup) out[at] = Put<X>::of(C(0));
            continue;
        }
        write(out, 1, n,
              [&](long long at, C v) {
                  const C e = (KEEP ? v : C(exp(v - top))) * scale;
                  return at == own ? e - share : e;
              },
              scores);
    }
}

// y[k] = x[k, t[k]], 0 for rows left out.
extern "C" __global__ void __launch_bounds__(256, 2)
    pick(const X* x, const Index* t, X* y, long long count, long long classes, long long x_row, long long x_step,
         long long t_step, long long ignore, long long* flag, int code) {
    const Targets targets = {t, t_step, classes, ignore, flag, code};
    grid_stride(count, [&](long long k) {
        const long long own = targets.of(k, true);
        y[k] = own < 0 ? Put<X>::of(C(0)) : x[k * x_row + own * x_step];
    });
}

// y[k, c] = dy[k] where c is t[k], else 0.
extern "C" __global__ void __launch_bounds__(256, 2)
    put(const X* dy, const Index* t, X* y, long long count, long long classes, long long dy_step, long long t_step,
        long long ignore, long long* flag, int code) {
    const Targets targets = {t, t_step, classes, ignore, flag, code};
    for (long long first = static_cast<long long>(blockIdx.x) * 8; first < count;
         first += static_cast<long long>(gridDim.x) * 8) {
        const long long k = first + threadIdx.x / 32;
        if (k >= count) return;
        const long long own = targets.of(k, threadIdx.x % 32 == 0);
        for (long long c = threadIdx.x % 32; c < classes; c += 32)
            y[k * classes + c] = c == own ? dy[k * dy_step] : Put<X>::of(C(0));
    }
}
