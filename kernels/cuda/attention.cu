// Attention: softmax(q k' scale + mask) v without the scores ever being in memory, and its gradients.
//
// Macros: ELEM, the elements; DIM, 32, 64 or 128, no less than the size of a head (q, k) and of a value; TILE and
// BACK_TILE, rows of a block forward and backward. 16 x 16 threads, each with TILE / 16 rows and columns of a square of
// scores (thread (a, b): rows a + 16 r, columns b + 16 c). Floor: 4 L S D operations forward, 10 backward, in FFMA (half
// of them under the causal triangle, whose empty squares are left out); halves are computed in float, all in the order
// of the keys: the same bits each time.
//
// Source: Dao et al., "FlashAttention" (NeurIPS 2022), for the softmax that goes on; the rest is written here.
#include "elementwise.cuh"

using namespace tl;
typedef ELEM E;

namespace {

template <class T> struct Wide { typedef float C; };
template <> struct Wide<double> { typedef double C; };
typedef Wide<E>::C C;  // what is computed in
typedef long long Word;

constexpr int SIDE = 16, THREADS = SIDE * SIDE, PAD = 16 / sizeof(C), ROW = DIM + PAD;  // ROW: no two rows in one bank
constexpr int COLUMNS = DIM / SIDE, W = COLUMNS < PAD ? COLUMNS : PAD;                 // of a thread; side by side
#define NOTHING (-static_cast<C>(INF))

// Where the rows of an array of (first, second, third, row, column) begin: steps in elements.
struct Lies {
    Word a, b, c, row, column;
};
TL_DEVICE Word start(const Lies& s, Word batch, Word nb, Word nc) {
    return batch / nc / nb * s.a + batch / nc % nb * s.b + batch % nc * s.c;
}

// Rows [first, first + N) of a matrix, times `by`, to shared memory; zeros beyond its rows and columns.
template <int N> TL_DEVICE void fetch(C* to, const E* x, const Lies& s, Word first, Word rows, int columns, C by) {
    for (int k = threadIdx.x; k < N * DIM; k += THREADS) {
        const int r = k / DIM, d = k % DIM;
        const bool there = first + r < rows && d < columns;
        to[r * ROW + d] = there ? read<C>(x[(first + r) * s.row + d * s.column]) * by : C(0);
    }
}

// s[r][c] = x[a + 16 r] . y[b + 16 c]
template <int R> TL_DEVICE void products(C (&s)[R][R], const C* x, const C* y, int a, int b) {
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
        for (int c = 0; c < R; ++c) s[r][c] = C(0);
#pragma unroll 2
    for (int d = 0; d < DIM; d += PAD) {
        Vec<C, PAD> u[R], v[R];
#pragma unroll
        for (int r = 0; r < R; ++r) u[r] = load_vec<PAD>(x + (a + SIDE * r) * ROW + d);
#pragma unroll
        for (int c = 0; c < R; ++c) v[c] = load_vec<PAD>(y + (b + SIDE * c) * ROW + d);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < R; ++c)
#pragma unroll
                for (int e = 0; e < PAD; ++e) s[r][c] = tl_fma(u[r][e], v[c][e], s[r][c]);
    }
}

// to[r][j] += sum over k of p[a + 16 r][k] y[k][column j]; thread b has columns W b + 16 W (j / W) + j % W.
template <int R> TL_DEVICE void add_products(C (&to)[R][COLUMNS], const C* p, const C* y, int a, int b) {
    constexpr int N = R * SIDE, STEP = N + PAD;
#pragma unroll 1
    for (int k = 0; k < N; k += PAD) {
        Vec<C, PAD> u[R];
#pragma unroll
        for (int r = 0; r < R; ++r) u[r] = load_vec<PAD>(p + (a + SIDE * r) * STEP + k);
#pragma unroll
        for (int e = 0; e < PAD; ++e)
#pragma unroll
            for (int j = 0; j < COLUMNS; j += W) {
                const Vec<C, W> v = load_vec<W>(y + (k + e) * ROW + W * b + SIDE * j);
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int w = 0; w < W; ++w) to[r][j + w] = tl_fma(u[r][e], v[w], to[r][j + w]);
            }
    }
}
TL_DEVICE int column(int j, int b) { return W * b + SIDE * (j / W * W) + j % W; }

// Over the 16 threads of a row, which are half of a warp.
TL_DEVICE C row_sum(C v) {
#pragma unroll
    for (int bits = SIDE / 2; bits; bits >>= 1) v += shuffle_xor(v, bits);
    return v;
}
TL_DEVICE C row_max(C v) {
#pragma unroll
    for (int bits = SIDE / 2; bits; bits >>= 1) {
        const C w = shuffle_xor(v, bits);
        v = v > w ? v : w;  // nan is found by the sum
    }
    return v;
}

// What says where a query may look: bools, or numbers that are added to the scores.
enum { NO_MASK, TRUTHS, NUMBERS };
struct Mask {
    const void* at;  // of this batch
    int kind;
    Lies lies;
};
TL_DEVICE C masked(C score, const Mask& m, Word i, Word j, Word rows, Word keys, bool causal) {
    if (i >= rows || j >= keys || (causal && j > i)) return NOTHING;
    if (m.kind == NO_MASK) return score;
    const Word k = i * m.lies.row + j * m.lies.column;
    if (m.kind == TRUTHS) return static_cast<const bool*>(m.at)[k] ? score : NOTHING;
    return score + read<C>(static_cast<const E*>(m.at)[k]);
}

}  // namespace

#define LIES(s) Word s##_a, Word s##_b, Word s##_c, Word s##_row, Word s##_column
#define OF(s) {s##_a, s##_b, s##_c, s##_row, s##_column}
#define MASK_OF(batch)                                                                                               \
    {mask_kind == TRUTHS ? static_cast<const void*>(static_cast<const bool*>(mask) + start(sm, batch, nb, nc))      \
                         : static_cast<const void*>(static_cast<const E*>(mask) + start(sm, batch, nb, nc)),        \
     mask_kind, sm}

// grid: (tiles of queries, batches); out (batches, rows, V) and lse (batches, rows) are dense.
extern "C" __global__ void __launch_bounds__(256, 1)
    attention(const E* q, const E* k, const E* v, const void* mask, E* out, C* lse, LIES(q), LIES(k), LIES(v), LIES(m),
              Word batches, Word nb, Word nc, Word rows, Word keys, int dim, int values, int mask_kind, int causal,
              double scale) {
    constexpr int R = TILE / SIDE, STEP = TILE + PAD;
    TL_DYNAMIC_SHARED(C, sq);
    C *const skv = sq + TILE * ROW, *const sp = skv + TILE * ROW;
    const int a = threadIdx.x / SIDE, b = threadIdx.x % SIDE;
    const Lies lq = OF(q), lk = OF(k), lv = OF(v), sm = OF(m);
    const Word first = static_cast<Word>(blockIdx.x) * TILE, last = first + TILE;
    const Word end = causal && last < keys ? last : keys;
    for (Word batch = blockIdx.y; batch < batches; batch += gridDim.y) {
        const Mask bm = MASK_OF(batch);
        const E *kb = k + start(lk, batch, nb, nc), *vb = v + start(lv, batch, nb, nc);
        C top[R], total[R], made[R][COLUMNS];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            top[r] = NOTHING, total[r] = C(0);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) made[r][j] = C(0);
        }
        barrier();
        fetch<TILE>(sq, q + start(lq, batch, nb, nc), lq, first, rows, dim, C(scale));
        for (Word from = 0; from < end; from += TILE) {
            barrier();
            fetch<TILE>(skv, kb, lk, from, keys, dim, C(1));
            barrier();
            C s[R][R];
            products<R>(s, sq, skv, a, b);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                C most = NOTHING, sum = C(0);
#pragma unroll
                for (int c = 0; c < R; ++c) {
                    s[r][c] = masked(s[r][c], bm, first + a + SIDE * r, from + b + SIDE * c, rows, keys, causal);
                    most = s[r][c] > most ? s[r][c] : most;
                }
                most = row_max(most);
                most = most > top[r] ? most : top[r];
                const C base = most == NOTHING ? C(0) : most, shrink = tl_exp(top[r] - base);
                top[r] = most;
#pragma unroll
                for (int c = 0; c < R; ++c) {
                    const C p = tl_exp(s[r][c] - base);
                    sp[(a + SIDE * r) * STEP + b + SIDE * c] = p;
                    sum += p;
                }
                total[r] = total[r] * shrink + row_sum(sum);
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) made[r][j] *= shrink;
            }
            barrier();
            fetch<TILE>(skv, vb, lv, from, keys, values, C(1));
            barrier();
            add_products<R>(made, sp, skv, a, b);
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const Word i = first + a + SIDE * r;
            if (i >= rows) continue;
            const bool blind = total[r] == C(0);
            const C by = blind ? C(1) : total[r];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
                if (column(j, b) < values) out[(batch * rows + i) * values + column(j, b)] = Put<E>::of(made[r][j] / by);
            if (b == 0) lse[batch * rows + i] = blind ? -NOTHING : top[r] + tl_log(total[r]);  // weights of 0 again
        }
    }
}

#define GIVEN                                                                                                      \
    const E *dy, const E *q, const E *k, const E *v, const E *y, const C *lse, const void *mask, LIES(d), LIES(q),   \
        LIES(k), LIES(v), LIES(m), Word batches, Word nb, Word nc, Word rows, Word keys, int dim, int values,       \
        int mask_kind, int causal, double scale

// grid: (tiles of queries, batches). Also the sums of dy y of each row, which `attention_dkv` needs.
extern "C" __global__ void __launch_bounds__(256, 1) attention_dq(GIVEN, E* dq, C* sums) {
    constexpr int R = BACK_TILE / SIDE, STEP = BACK_TILE + PAD;
    TL_DYNAMIC_SHARED(C, sq);
    C *const sd = sq + BACK_TILE * ROW, *const sk = sd + BACK_TILE * ROW, *const sv = sk + BACK_TILE * ROW;
    C* const sp = sv + BACK_TILE * ROW;
    const int a = threadIdx.x / SIDE, b = threadIdx.x % SIDE;
    const Lies ld = OF(d), lq = OF(q), lk = OF(k), lv = OF(v), sm = OF(m);
    const Word first = static_cast<Word>(blockIdx.x) * BACK_TILE, last = first + BACK_TILE;
    const Word end = causal && last < keys ? last : keys;
    for (Word batch = blockIdx.y; batch < batches; batch += gridDim.y) {
        const Mask bm = MASK_OF(batch);
        const E *kb = k + start(lk, batch, nb, nc), *vb = v + start(lv, batch, nb, nc);
        barrier();
        fetch<BACK_TILE>(sq, q + start(lq, batch, nb, nc), lq, first, rows, dim, C(scale));
        fetch<BACK_TILE>(sd, dy + start(ld, batch, nb, nc), ld, first, rows, values, C(1));
        barrier();
        C made[R][COLUMNS], sum[R], log_sum[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const Word i = first + a + SIDE * r;
            C along = C(0);
            if (i < rows)
                for (int d = b; d < values; d += SIDE)
                    along += sd[(a + SIDE * r) * ROW + d] * read<C>(y[(batch * rows + i) * values + d]);
            sum[r] = row_sum(along);
            log_sum[r] = i < rows ? lse[batch * rows + i] : C(0);
            if (b == 0 && i < rows) sums[batch * rows + i] = sum[r];
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) made[r][j] = C(0);
        }
        for (Word from = 0; from < end; from += BACK_TILE) {
            barrier();
            fetch<BACK_TILE>(sk, kb, lk, from, keys, dim, C(1));
            fetch<BACK_TILE>(sv, vb, lv, from, keys, values, C(1));
            barrier();
            C s[R][R], g[R][R];
            products<R>(s, sq, sk, a, b);
            products<R>(g, sd, sv, a, b);
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < R; ++c) {
                    const Word i = first + a + SIDE * r, j = from + b + SIDE * c;
                    const C p = tl_exp(masked(s[r][c], bm, i, j, rows, keys, causal) - log_sum[r]);
                    sp[(a + SIDE * r) * STEP + b + SIDE * c] = p * (g[r][c] - sum[r]);
                }
            barrier();
            add_products<R>(made, sp, sk, a, b);
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const Word i = first + a + SIDE * r;
            if (i >= rows) continue;
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j)
                if (column(j, b) < dim) dq[(batch * rows + i) * dim + column(j, b)] = Put<E>::of(made[r][j] * C(scale));
        }
    }
}

// grid: (tiles of keys, batches). Rows of the squares are keys here, columns queries.
extern "C" __global__ void __launch_bounds__(256, 1) attention_dkv(GIVEN, E* dk, E* dv, const C* sums) {
    constexpr int R = BACK_TILE / SIDE, STEP = BACK_TILE + PAD;
    TL_DYNAMIC_SHARED(C, sq);
    C *const sd = sq + BACK_TILE * ROW, *const sk = sd + BACK_TILE * ROW, *const sv = sk + BACK_TILE * ROW;
    C* const sp = sv + BACK_TILE * ROW;
    const int a = threadIdx.x / SIDE, b = threadIdx.x % SIDE;
    const Lies ld = OF(d), lq = OF(q), lk = OF(k), lv = OF(v), sm = OF(m);
    const Word first = static_cast<Word>(blockIdx.x) * BACK_TILE;
    for (Word batch = blockIdx.y; batch < batches; batch += gridDim.y) {
        const Mask bm = MASK_OF(batch);
        const E *qb = q + start(lq, batch, nb, nc), *db = dy + start(ld, batch, nb, nc);
        barrier();
        fetch<BACK_TILE>(sk, k + start(lk, batch, nb, nc), lk, first, keys, dim, C(1));
        fetch<BACK_TILE>(sv, v + start(lv, batch, nb, nc), lv, first, keys, values, C(1));
        C to_k[R][COLUMNS], to_v[R][COLUMNS];
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) to_k[r][j] = to_v[r][j] = C(0);
        for (Word from = causal ? first : 0; from < rows; from += BACK_TILE) {
            barrier();
            fetch<BACK_TILE>(sq, qb, lq, from, rows, dim, C(scale));
            fetch<BACK_TILE>(sd, db, ld, from, rows, values, C(1));
            barrier();
            C s[R][R], g[R][R];
            products<R>(s, sk, sq, a, b);
            products<R>(g, sv, sd, a, b);
#pragma unroll
            for (int c = 0; c < R; ++c) {
                const Word i = from + b + SIDE * c;
                const C log_sum = i < rows ? lse[batch * rows + i] : C(0), sum = i < rows ? sums[batch * rows + i] : C(0);
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    const C p = tl_exp(masked(s[r][c], bm, i, first + a + SIDE * r, rows, keys, causal) - log_sum);
                    sp[(a + SIDE * r) * STEP + b + SIDE * c] = p;
                    g[r][c] = p * (g[r][c] - sum);
                }
            }
            barrier();
            add_products<R>(to_v, sp, sd, a, b);
            barrier();
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < R; ++c) sp[(a + SIDE * r) * STEP + b + SIDE * c] = g[r][c];
            barrier();
            add_products<R>(to_k, sp, sq, a, b);  // q is scaled already
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const Word j = first + a + SIDE * r;
            if (j >= keys) continue;
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) {
                if (column(n, b) < dim) dk[(batch * keys + j) * dim + column(n, b)] = Put<E>::of(to_k[r][n]);
                if (column(n, b) < values) dv[(batch * keys + j) * values + column(n, b)] = Put<E>::of(to_v[r][n]);
            }
        }
    }
}
