// Rows of numbers, each read once into the registers of the threads that share it: what softmax, cross-entropy and the
// norms have in common.
//
// Macros: ELEM, the type of elements; NUMBER, what is computed in (float, or double for double); THREADS of a block; GROUP
// of them share a row: 32 (a warp), all of them, or 8, where rows are columns of memory: 32 neighbouring ones a block,
// thread i in column i % 32. KEEP, the elements of a row that a thread holds, or 0 where the row is too long for that
// and is read again in each pass. VEC, the elements that are read at once: 16 bytes of them where all addresses allow.
#pragma once
#include "elementwise.cuh"

#define TL_INLINE __device__ __forceinline__

namespace tl {

typedef ELEM X;
typedef NUMBER C;
constexpr int kThreads = THREADS, kGroup = GROUP, V = VEC, kRows = kThreads / kGroup;
constexpr bool kColumns = kGroup == 8;
// Elements that a thread has in hand; more of doubles, or of what many addresses belong to, would not fit.
constexpr int E = KEEP ? KEEP : V > 2 ? 16 : kColumns || sizeof(X) == 8 ? 4 : 8;
static_assert(E % V == 0 && (kThreads == kGroup || kGroup == 32 || kGroup == 8), "rows.cuh: KEEP, VEC or GROUP");

TL_DEVICE int member() { return static_cast<int>(kColumns ? threadIdx.x / 32 : threadIdx.x % kGroup); }
TL_DEVICE int group() { return static_cast<int>(kColumns ? threadIdx.x % 32 : threadIdx.x / kGroup); }

// Where a thread's k-th element in hand lies in its row.
TL_DEVICE long long place(long long base, int k) {
    return base + (static_cast<long long>(k / V) * kGroup + member()) * V + k % V;
}

// f over a group's values, in a fixed order; `scratch` is shared memory for kThreads numbers. All get the result.
struct Plus { TL_DEVICE C join(C a, C b) { return a + b; } };
struct Larger { TL_DEVICE C join(C a, C b) { return tl_max(a, b); } };

template <class F> TL_DEVICE C in_warp(C v) {
#pragma unroll
    for (int bits = 16; bits; bits >>= 1) v = F::join(v, shuffle_xor(v, bits));
    return v;
}
template <class F> TL_DEVICE C in_group(C v, C* scratch) {
    if constexpr (kColumns) {
        scratch[threadIdx.x] = v;
        barrier();
        v = scratch[threadIdx.x % 32];
        for (int k = 1; k < 8; ++k) v = F::join(v, scratch[32 * k + threadIdx.x % 32]);
        barrier();
        return v;
    } else {
        v = in_warp<F>(v);
        if constexpr (kGroup > 32) {
            if (lane_id() == 0) scratch[warp_id()] = v;
            barrier();
            v = in_warp<F>(scratch[lane_id() < kThreads / 32 ? lane_id() : 0]);
            barrier();
        }
        return v;
    }
}
// Sums count the first warp's value once; maxima may see it more often.
TL_DEVICE C group_max(C v, C* scratch) { return in_group<Larger>(v, scratch); }
TL_DEVICE C group_sum(C v, C* scratch) {
    if constexpr (kGroup > 32) {
        v = in_warp<Plus>(v);
        if (lane_id() == 0) scratch[warp_id()] = v;
        barrier();
        v = in_warp<Plus>(lane_id() < kThreads / 32 ? scratch[lane_id()] : C(0));
        barrier();
        return v;
    } else {
        return in_group<Plus>(v, scratch);
    }
}
// Two sums for the barriers of one.
TL_DEVICE void group_sums(C& a, C& b, C* scratch) {
    if constexpr (kGroup > 32) {
        a = in_warp<Plus>(a), b = in_warp<Plus>(b);
        if (lane_id() == 0) scratch[warp_id()] = a, scratch[32 + warp_id()] = b;
        barrier();
        a = in_warp<Plus>(lane_id() < kThreads / 32 ? scratch[lane_id()] : C(0));
        b = in_warp<Plus>(lane_id() < kThreads / 32 ? scratch[32 + lane_id()] : C(0));
        barrier();
    } else {
        a = group_sum(a, scratch), b = group_sum(b, scratch);
    }
}

// V neighbours at p; `step` counts only where V is 1.
template <class S> TL_DEVICE void load_some(const S* p, C* v) {
    constexpr int most = static_cast<int>(16 / sizeof(S)), each = V < most ? V : most;
#pragma unroll
    for (int k = 0; k < V; k += each) {
        const Vec<S, each> pack = load_vec<each>(p + k);
#pragma unroll
        for (int j = 0; j < each; ++j) v[k + j] = read<C>(pack[j]);
    }
}
template <class S> TL_DEVICE void store_some(S* p, const C* v) {
    constexpr int most = static_cast<int>(16 / sizeof(S)), each = V < most ? V : most;
#pragma unroll
    for (int k = 0; k < V; k += each) {
        Vec<S, each> pack;
#pragma unroll
        for (int j = 0; j < each; ++j) pack[j] = Put<S>::of(v[k + j]);
        store_vec<each>(p + k, pack);
    }
}

// A row of n elements, `step` apart, as far as the thread has it in hand. Where V > 1, n is a multiple of V.
template <class S> struct Row {
    const S* p;
    long long n, step;
    C v[E];

    TL_INLINE void load(long long base) {
#pragma unroll
        for (int q = 0; q < E; q += V) {
            const long long at = place(base, q);
            if constexpr (V > 1) {
                if (at < n) load_some(p + at, v + q);
            } else {
                if (at < n) v[q] = read<C>(p[at * step]);
            }
        }
    }
    TL_INLINE void ready(long long) {}
    TL_INLINE C& get(int k) { return v[k]; }
};
template <class S> TL_DEVICE Row<S> row_of(const S* p, long long n, long long step) {
    Row<S> r;
    r.p = p, r.n = n, r.step = step;
    if constexpr (KEEP > 0) r.load(0);
    return r;
}

// Numbers that are wanted in one pass alone, beside those of a row; `otherwise` where there are none.
template <class S> struct Beside {
    const S* p;
    long long step;
    C otherwise, v[V];

    TL_INLINE void load(long long) {}
    TL_INLINE void ready(long long at) {
        if (!p) {
#pragma unroll
            for (int j = 0; j < V; ++j) v[j] = otherwise;
        } else if constexpr (V > 1) {
            load_some(p + at, v);
        } else {
            v[0] = read<C>(p[at * step]);
        }
    }
    TL_INLINE C& get(int k) { return v[k % V]; }
};
template <class S> TL_DEVICE Beside<S> beside(const S* p, long long step, C otherwise) {
    Beside<S> r;
    r.p = p, r.step = step, r.otherwise = otherwise;
    return r;
}

template <class R> TL_DEVICE void reload(R& row, long long base) {
    if constexpr (KEEP == 0) row.load(base);
}

// f(place, values...) for the thread's elements; what it changes in a row stays where the row is kept.
template <class F, class... R> TL_DEVICE void each(long long n, F f, R&... rows) {
    for (long long base = 0; base < n; base += static_cast<long long>(kGroup) * E) {
        (reload(rows, base), ...);
#pragma unroll
        for (int q = 0; q < E; q += V) {
            const long long at = place(base, q);
            if (at < n) {
                (rows.ready(at), ...);
#pragma unroll
                for (int j = 0; j < V; ++j) f(at + j, rows.get(q + j)...);
            }
        }
        if constexpr (KEEP > 0) break;
    }
}

// y[place * step] = f(place, values...).
template <class S, class F, class... R>
TL_DEVICE void write(S* y, long long step, long long n, F f, R&... rows) {
    for (long long base = 0; base < n; base += static_cast<long long>(kGroup) * E) {
        (reload(rows, base), ...);
#pragma unroll
        for (int q = 0; q < E; q += V) {
            const long long at = place(base, q);
            if (at < n) {
                C made[V];
                (rows.ready(at), ...);
#pragma unroll
                for (int j = 0; j < V; ++j) made[j] = f(at + j, rows.get(q + j)...);
                if constexpr (V > 1) store_some(y + at, made);
                else y[at * step] = Put<S>::of(made[0]);
            }
        }
        if constexpr (KEEP > 0) break;
    }
}

// The largest of a row and the sum of exp(x - largest). A kept row becomes these exponentials; one that is not is read
// once, and the sum is brought down whenever a larger number is met. A row of nothing but -inf gives nan, as on the CPU.
template <class S> TL_DEVICE void top_and_sum(Row<S>& x, long long n, C* scratch, C& top, C& sum) {
    C best = C(-INF), total = C(0);
    if constexpr (KEEP > 0) {
        each(n, [&](long long, C& v) { best = tl_max(best, v); }, x);
        top = group_max(best, scratch);
        each(n, [&](long long, C& v) { v = exp(v - top), total += v; }, x);
    } else {
        for (long long base = 0; base < n; base += static_cast<long long>(kGroup) * E) {
            x.load(base);
            C here = best;
#pragma unroll
            for (int k = 0; k < E; ++k)
                if (place(base, k) < n) here = tl_max(here, x.v[k]);
            if (!(here <= best)) total = total * exp(best - here), best = here;
            if (best != C(-INF)) {
#pragma unroll
                for (int k = 0; k < E; ++k)
                    if (place(base, k) < n) total += exp(x.v[k] - best);
            }
        }
        top = group_max(best, scratch);
        total = best == C(-INF) ? (top == best ? C(NAN_F) : C(0)) : total * exp(best - top);
    }
    sum = group_sum(total, scratch);
}

}  // namespace tl
