// All steps of an LSTM, a GRU or a plain recurrent layer in one launch, forward and backward.
//
// A block has `units` of the hidden units and `slice` of the batch (grid: groups of units, slices). Every step it
// multiplies the states of its slice with its rows of the recurrent weights, which stay on the chip if they fit:
//   FORWARD   z (samples, gates x units) = h W^T, then the gates, c and h of its units
//   BACKWARD  dh (samples, units) = d W, then the gradients d before the gates of its units
// so both are one sum over h, or over d, and numbers made of it. ALONE blocks have all units: the states stay in shared
// memory. Others write them to `exchange` and say so by a flag a block; those of the same slice wait for all of them.
//
// The sum: a warp has 32 / KL x UR units and RB samples at a time, KL of its lanes and WK warps share the inner index.
// A lane meets R rows of weights with RB samples in registers. Each weight is read once a step and RB samples.
// Floor of a step and a block, fp32: units x gates x H x slice / 128 cycles of FMA; shared memory gives RB KL / 8 vectors
// (and 4 R of weights, unless they are in registers) for 4 R RB FMAs. Exchange: slice x H x 4 bytes from L2, and the
// way there and back, about 1500 cycles. Sums have a fixed order: the same bits every run.
//
// MMA: f16 and bf16 by tensor cores, with h and d rounded to them for the sum, as they are where they are kept. A warp
// has NU x 16 rows and RB samples at a time; weights are fragments in registers, or come by ldmatrix. Floor of a step and
// a block: units x gates x H x slice / 1024 cycles, padded to 16 rows and 8 samples.
//
// Macros: CELL (0 LSTM, 1 GRU, 2 tanh, 3 ReLU), BACK, ELEM and SUM (T and C: stored and computed type), KL, WK, WU (warps on other
// units), UR, RB, PAIRS (samples x units that a thread finishes), ALONE, STAGED (states come to shared memory before
// they are used), WHERE the weights are (0 memory, 1 shared memory, 2 registers: NK vectors of NU tiles), MMA.
#include "recurrent.cuh"

typedef ELEM T;
typedef SUM C;

constexpr int WARPS = 8, THREADS = 32 * WARPS;
constexpr int GATES = CELL == 0 ? 4 : CELL == 1 ? 3 : 1;  // rows of weights a unit
constexpr int KEPT = CELL == 0 || CELL == 1 ? 4 : 1;      // numbers of d, and of the gates that are kept, a unit
constexpr int BIASES = CELL == 1 ? 4 : GATES;
constexpr int ROWS = BACK ? 1 : GATES, R = ROWS * UR;
#if MMA
typedef T S;  // of the states that are summed over
#else
typedef C S;
#endif
constexpr int V = 16 / sizeof(C), UL = 32 / KL, WB = WARPS / (WK * WU), STRIDE = KL * WK * V;
static_assert(WB >= 1 && WB * WK * WU == WARPS, "8 warps");

TL_DEVICE C at_or_zero(const T* p, long long i) { return p ? number(p[i]) : C(0); }

// ---- which rows of x, y and what is kept belong to a step
struct Walk {
    const int *starts, *counts;  // of packed sequences: first row and rows of each step; else null
    int steps, batch, reverse;
    long long step_rows, batch_rows;  // else: from a step to the next, from a sample to the next

    __device__ __forceinline__ int step(int i) const { return reverse ? steps - 1 - i : i; }  // the i-th to be taken
    __device__ __forceinline__ long long row(int t, int b) const {
        return (starts ? static_cast<long long>(starts[t]) : t * step_rows) + b * batch_rows;
    }
    __device__ __forceinline__ int count(int t) const { return counts ? counts[t] : batch; }
    // The row of sample b at the step before the i-th, or -1 where its sequence begins.
    __device__ __forceinline__ long long before(int i, int b) const {
        if (i == 0 || count(step(i - 1)) <= b) return -1;
        return row(step(i - 1), b);
    }
};

// ---- weights
// W of unit u: its row r forward, its column backward, element k of the sum.
TL_DEVICE C weight(const T* w, int hidden, int u, int r, int k) {
    if (k >= (BACK ? GATES : 1) * hidden) return C(0);
    if (!BACK) return number(w[(static_cast<long long>(r) * hidden + u) * hidden + k]);
    // the GRU's d begins with the gradient of what reset scales, which stands last in W
    const int from = CELL == 1 ? (k < hidden ? k + 2 * hidden : k - hidden) : k;
    return number(w[static_cast<long long>(from) * hidden + u]);
}

// The weights as rows of `pitch` elements, zeros behind the last: for blocks that read them from memory every step.
extern "C" __global__ void __launch_bounds__(THREADS, 1) pack(const T* w, S* out, int hidden, int pitch) {
    const long long n = static_cast<long long>(ROWS) * hidden * pitch;
    grid_stride(n, [&](long long i) {
        const long long row = i / pitch;
        put(out + i, weight(w, hidden, static_cast<int>(row % hidden), static_cast<int>(row / hidden),
                            static_cast<int>(i % pitch)));
    });
}

// ---- the sum
struct Sizes {
    int hidden, units, slice, tile, pitch, chunks;  // chunks: what each warp takes of the inner index
};

#if !MMA
// Sums v[0 .. N) over 2 x BITS neighbouring lanes; while N is even each half of the lanes keeps half of the values.
// The lane is left with the sums from number `first` on; `mine` where no other lane has the same.
template <int N, int BITS>
TL_DEVICE void fold(C (&v)[R * RB], int& first, bool& mine) {
    if constexpr (BITS > 0) {
        const bool upper = (lane_id() & BITS) != 0;
        if constexpr (N % 2 == 0) {
#pragma unroll
            for (int e = 0; e < N / 2; ++e) {
                const C kept = upper ? v[e + N / 2] : v[e], sent = upper ? v[e] : v[e + N / 2];
                v[e] = kept + shuffle_xor(sent, BITS);
            }
            if (upper) first += N / 2;
            fold<N / 2, BITS / 2>(v, first, mine);
        } else {
#pragma unroll
            for (int e = 0; e < N; ++e) v[e] += shuffle_xor(v[e], BITS);
            if (upper) mine = false;
            fold<N, BITS / 2>(v, first, mine);
        }
    }
}
TL_DEVICE constexpr int left_after(int n, int bits) { return bits ? left_after(n % 2 ? n : n / 2, bits / 2) : n; }

// What a warp is, and where its lanes stand in the sum.
struct Lane {
    int k, unit, wk, wu, wb;
    __device__ __forceinline__ Lane() {
        const int warp = warp_id(), lane = lane_id();
        wk = warp % WK, wu = warp / WK % WU, wb = warp / (WK * WU);
        k = (wk * KL + lane % KL) * V, unit = lane / KL;
    }
    __device__ __forceinline__ int of(int tile, int ur) const { return (tile * UR + ur) * UL + unit; }
};

// The sums of `m` samples whose states lie `pitch` apart, into sums (WK, ROWS, tile, units).
struct Product {
    Sizes n;
    Lane lane;
    int units, first_unit;
#if WHERE == 2
    Vec<C, V> held[NU][R][NK];
#elif WHERE == 1
    C* held;
#else
    const C* held;
#endif

    // `w`: as given, or for WHERE 0 as packed. `shared`: room for ROWS x units x pitch elements.
    __device__ __forceinline__ Product(const Sizes& sizes, const void* w, C* shared, int first) : n(sizes) {
        first_unit = first, units = n.hidden - first < n.units ? n.hidden - first : n.units;
#if WHERE == 2
#pragma unroll
        for (int q = 0; q < NU; ++q)
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int j = 0; j < NK; ++j)
#pragma unroll
                    for (int v = 0; v < V; ++v) {
                        const int u = lane.of(lane.wu + q * WU, r / ROWS);
                        held[q][r][j][v] = u < units ? weight(static_cast<const T*>(w), n.hidden, first_unit + u,
                                                              r % ROWS, lane.k + j * STRIDE + v)
                                                     : C(0);
                    }
#elif WHERE == 1
        held = shared;
        const int count = ROWS * units * n.pitch;
        for (int i = threadIdx.x; i < count; i += THREADS) {
            // backward a column is read: neighbouring threads take neighbouring units
            const int row = BACK ? i % (ROWS * units) : i / n.pitch, k = BACK ? i / (ROWS * units) : i % n.pitch;
            held[row * n.pitch + k] =
                weight(static_cast<const T*>(w), n.hidden, first_unit + row % units, row / units, k);
        }
#else
        held = static_cast<const C*>(w);
#endif
    }

    __device__ __forceinline__ Vec<C, V> weights(int tile, int r, int j) const {
        const int u = min(lane.of(tile, r / ROWS), units - 1), row = r % ROWS;
        const int k = lane.k + j * STRIDE;
#if WHERE == 1
        return load_vec<V>(held + (row * units + u) * n.pitch + k);
#elif WHERE == 0
        return load_vec<V>(held + (static_cast<long long>(row) * n.hidden + first_unit + u) * n.pitch + k);
#else
        return {};
#endif
    }

    __device__ __forceinline__ static void add(C (&acc)[R * RB], const Vec<C, V> (&w)[R], const C* state, int pitch) {
#pragma unroll
        for (int b = 0; b < RB; ++b) {
            const Vec<C, V> h = load_vec<V>(state + static_cast<long long>(b) * pitch);
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v) acc[r * RB + b] = tl_fma(w[r][v], h[v], acc[r * RB + b]);
        }
    }

    __device__ __forceinline__ void finish(C (&acc)[R * RB], int tile, int b, C* sums) const {
        int first = 0;
        bool mine = true;
        fold<R * RB, KL / 2>(acc, first, mine);
        constexpr int left = left_after(R * RB, KL / 2);
        if (!mine) return;
#pragma unroll
        for (int e = 0; e < left; ++e) {
            const int r = (first + e) / RB, u = lane.of(tile, r / ROWS);
            if (u < units) sums[((lane.wk * ROWS + r % ROWS) * n.tile + b + (first + e) % RB) * n.units + u] = acc[e];
        }
    }

    __device__ __forceinline__ void operator()(const C* states, int m, C* sums) const {
#if WHERE == 2
#pragma unroll
        for (int q = 0; q < NU; ++q) {
            const int tile = lane.wu + q * WU;
            if (tile * UR * UL >= units) break;
            for (int b = lane.wb * RB; b < m; b += WB * RB) {
                C acc[R * RB] = {};
#pragma unroll
                for (int j = 0; j < NK; ++j) {
                    Vec<C, V> w[R];
#pragma unroll
                    for (int r = 0; r < R; ++r) w[r] = held[q][r][j];
                    add(acc, w, states + static_cast<long long>(b) * n.pitch + lane.k + j * STRIDE, n.pitch);
                }
                finish(acc, tile, b, sums);
            }
        }
#else
        for (int tile = lane.wu; tile * UR * UL < units; tile += WU)
            for (int b = lane.wb * RB; b < m; b += WB * RB) {
                C acc[R * RB] = {};
#pragma unroll 2
                for (int j = 0; j < n.chunks; ++j) {
                    Vec<C, V> w[R];
#pragma unroll
                    for (int r = 0; r < R; ++r) w[r] = weights(tile, r, j);
                    add(acc, w, states + static_cast<long long>(b) * n.pitch + lane.k + j * STRIDE, n.pitch);
                }
                finish(acc, tile, b, sums);
            }
#endif
    }
};

#else
// The same by tensor cores: rows of weights, r x units + u, by the 16; samples by the 8, NB times; k by the 16.
TL_DEVICE void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16_t) { mma_bf16_16x8x16(d, a, b); }
TL_DEVICE void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], half_t) { mma_f16_16x8x16(d, a, b); }
constexpr int NB = RB / 8;

struct Product {
    Sizes n;
    int units, first_unit, rows, wk, wu, wb;
#if WHERE == 2
    unsigned held[NU][NK][4];
#else
    const T* held;
#endif

    __device__ __forceinline__ Product(const Sizes& sizes, const void* w, C* shared, int first) : n(sizes) {
        const int warp = warp_id();
        wk = warp % WK, wu = warp / WK % WU, wb = warp / (WK * WU);
        first_unit = first, units = n.hidden - first < n.units ? n.hidden - first : n.units, rows = ROWS * units;
#if WHERE == 2
        const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
        for (int q = 0; q < NU; ++q)
#pragma unroll
            for (int j = 0; j < NK; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int row = (wu + q * WU) * 16 + g + e % 2 * 8, k = (j * WK + wk) * 16 + 2 * t + e / 2 * 8;
                    held[q][j][e] = pack2(element(w, row, k), element(w, row, k + 1));
                }
#elif WHERE == 1
        T* const to = reinterpret_cast<T*>(shared);
        const int up = (ROWS * n.units + 15) / 16 * 16;
        for (int i = threadIdx.x; i < up * n.pitch; i += THREADS) {
            // backward a column is read: neighbouring threads take neighbouring units
            const int row = BACK ? i % up : i / n.pitch, k = BACK ? i / up : i % n.pitch;
            to[row * n.pitch + k] = element(w, row, k);
        }
        held = to;
#else
        held = static_cast<const T*>(w);
#endif
    }

    __device__ __forceinline__ T element(const void* w, int row, int k) const {
        if (row >= rows) return from_float<T>(0.0f);
        return from_float<T>(weight(static_cast<const T*>(w), n.hidden, first_unit + row % units, row / units, k));
    }

    __device__ __forceinline__ void weights(unsigned (&a)[4], int q, int j) const {
        const int lane = lane_id(), tile = wu + q * WU, k = (j * WK + wk) * 16;
#if WHERE == 1
        ldmatrix_x4(a, held + (tile * 16 + lane % 16) * n.pitch + k + lane / 16 * 8);
#elif WHERE == 0
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const int row = min(tile * 16 + lane / 4 + e % 2 * 8, rows - 1);  // no sums are kept beyond it
            const long long from = static_cast<long long>(row / units) * n.hidden + first_unit + row % units;
            a[e] = *reinterpret_cast<const unsigned*>(held + from * n.pitch + k + lane % 4 * 2 + e / 2 * 8);
        }
#endif
    }

    __device__ __forceinline__ void operator()(const T* states, int m, C* sums) const {
        const int lane = lane_id();
        for (int b = wb * RB; b < m; b += WB * RB) {
            float acc[NU][NB][4] = {};
#if WHERE == 2
#pragma unroll
            for (int j = 0; j < NK; ++j) {
#else
#pragma unroll 2
            for (int j = 0; j < n.chunks; ++j) {
#endif
                const T* from = states + (b + lane % 8) * n.pitch + (j * WK + wk) * 16 + lane / 8 % 2 * 8;
                unsigned h[NB][2];
#pragma unroll
                for (int i = 0; i < NB; ++i) ldmatrix_x2(h[i], from + i * 8 * n.pitch);
#pragma unroll
                for (int q = 0; q < NU; ++q) {
                    if ((wu + q * WU) * 16 >= rows) continue;
#if WHERE == 2
#pragma unroll
                    for (int i = 0; i < NB; ++i) mma(acc[q][i], held[q][j], h[i], T());
#else
                    unsigned a[4];
                    weights(a, q, j);
#pragma unroll
                    for (int i = 0; i < NB; ++i) mma(acc[q][i], a, h[i], T());
#endif
                }
            }
#pragma unroll
            for (int q = 0; q < NU; ++q)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int row = (wu + q * WU) * 16 + lane / 4 + half * 8;
                    if (row >= rows) continue;
                    C* const to = sums + ((wk * ROWS + row / units) * n.tile + b + lane % 4 * 2) * n.units + row % units;
#pragma unroll
                    for (int i = 0; i < NB; ++i) {
                        to[i * 8 * n.units] = acc[q][i][half * 2];
                        to[(i * 8 + 1) * n.units] = acc[q][i][half * 2 + 1];
                    }
                }
        }
    }
};
#endif

// ---- states of a slice, and their way to the other blocks
// Two of them, for the step that is read and the one that is made: (slice, pitch) each.
struct States {
    S *mine, *stage;  // the two of this slice: in shared memory, or in memory; and where a tile of them is brought
    long long other;  // from one of the two to the other
    unsigned* flags;  // of the blocks of this slice

    // `room` is for two slices, a tile, or nothing: see states_shared.
    __device__ __forceinline__ States(const Sizes& n, C* room, S* exchange, unsigned* all_flags) {
        S* const shared = reinterpret_cast<S*>(room);
        const long long one = static_cast<long long>(n.slice) * n.pitch;
        stage = shared, flags = all_flags + static_cast<long long>(blockIdx.y) * gridDim.x;
        if (ALONE) {
            mine = shared, other = one;
            for (long long i = threadIdx.x; i < 2 * one; i += THREADS) put(shared + i, C(0));
            barrier();
        } else {
            mine = exchange + blockIdx.y * one, other = one * gridDim.y;
        }
    }
    __device__ __forceinline__ S* at(int which) const { return mine + (which & 1) * other; }

    // Until all blocks of the slice have said `tag`.
    __device__ __forceinline__ void wait(unsigned tag) const {
        if (ALONE) return;
        for (unsigned g = threadIdx.x; g < gridDim.x; g += THREADS)
            while (load_flag(flags + g) < tag) {
            }
        barrier();
    }
    // After a barrier of the block: its states of this step are written.
    __device__ __forceinline__ void say(unsigned tag) const {
        if (!ALONE && threadIdx.x == 0) store_flag(flags + blockIdx.x, tag);
    }
    // `m` states from number b on, where the sum reads them.
    __device__ __forceinline__ const S* bring(int which, int b, int m, int pitch) const {
        const S* from = at(which) + static_cast<long long>(b) * pitch;
        if (ALONE || !STAGED) return from;
        constexpr int v = 16 / sizeof(S);
        for (int i = threadIdx.x * v; i < m * pitch; i += THREADS * v) cp_async16(stage + i, from + i, 16);
        cp_async_commit();
        cp_async_wait<0>();
        barrier();
        return stage;
    }
};
// Elements of C in shared memory that States takes: of rows of 16 bytes.
TL_DEVICE long long states_shared(const Sizes& n) {
    return static_cast<long long>(n.pitch) * (ALONE ? 2 * n.slice : STAGED ? n.tile : 0) * sizeof(S) / sizeof(C);
}
TL_DEVICE long long sums_shared(const Sizes& n) { return (WK * ROWS * n.tile * n.units + V - 1) / V * V; }

TL_DEVICE int clamp_to(int v, int high) { return v < 0 ? 0 : v < high ? v : high; }

#if !BACK
// gates come as x W_ih^T (of a GRU: its columns 1 to 3; of a plain layer: y), and leave as what the gradient wants.
// `state` (batch, hidden): c from step to step, in C; with tensor cores a GRU's h.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    forward(T* gates, T* cells, T* y, T* h_n, T* c_n, C* state, const T* h0, const T* c0, const void* w, const T* b_ih,
            const T* b_hh, S* exchange, unsigned* flags, const int* starts, const int* counts, int steps, int batch,
            int reverse, long long step_rows, long long batch_rows, int hidden, int units_of, int slice, int tile,
            int pitch, int chunks) {
    TL_DYNAMIC_SHARED(C, shared);
    const Walk walk = {starts, counts, steps, batch, reverse, step_rows, batch_rows};
    const Sizes n = {hidden, units_of, slice, tile, pitch, chunks};
    const int b0 = blockIdx.y * slice, u0 = blockIdx.x * units_of;
    C* const sums = shared + states_shared(n);
    C* const bias = sums + sums_shared(n);
    const States states(n, shared, exchange, flags);
    const Product product(n, w, bias + (BIASES * units_of + V - 1) / V * V, u0);
    const int units = product.units, samples = clamp_to(batch - b0, slice);

    for (int i = threadIdx.x; i < GATES * units; i += THREADS) {
        const int r = i / units, u = i % units;
        const C one = at_or_zero(b_ih, static_cast<long long>(r) * hidden + u0 + u);
        const C two = at_or_zero(b_hh, static_cast<long long>(r) * hidden + u0 + u);
        const bool apart = CELL == 1 && r == 2;  // reset scales only the one of w_hh
        bias[r * units_of + u] = apart ? one : one + two;
        if (apart) bias[3 * units_of + u] = two;
    }
    for (int i = threadIdx.x; i < samples * units; i += THREADS) {
        const int b = i / units, u = u0 + i % units;
        const C h = number(h0[static_cast<long long>(b0 + b) * hidden + u]);
        put(states.at(0) + static_cast<long long>(b) * pitch + u, h);
        put(states.at(1) + static_cast<long long>(b) * pitch + u, h);
    }
    barrier();
    states.say(1);

    for (int i = 0; i < steps; ++i) {
        const int t = walk.step(i), now = clamp_to(walk.count(t) - b0, samples);
        const int next = i + 1 < steps ? walk.count(walk.step(i + 1)) : 0;
        for (int from = 0; from < now; from += tile) {
            const int m = min(tile, now - from);
            C pre[PAIRS][GATES], c[PAIRS];  // on their way while the sums are made
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const int pair = threadIdx.x + p * THREADS, b = b0 + from + pair / units, u = u0 + pair % units;
                if (pair >= m * units) break;
                const long long row = walk.row(t, b);
#pragma unroll
                for (int r = 0; r < GATES; ++r)
                    pre[p][r] = CELL > 1 ? number(y[row * hidden + u])
                                         : number(gates[(row * 4 + r + (CELL == 1)) * hidden + u]);
                if (CELL == 0 || (CELL == 1 && MMA)) {
                    const long long own = static_cast<long long>(b) * hidden + u;
                    c[p] = walk.before(i, b) < 0 ? number((CELL == 0 ? c0 : h0)[own]) : state[own];
                }
            }
            if (from == 0) states.wait(i + 1);
            const S* h = states.bring(i, from, m, pitch);
            product(h, m, sums);
            barrier();
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const int pair = threadIdx.x + p * THREADS, at = pair / units, u = pair % units, unit = u0 + u;
                if (pair >= m * units) break;
                const int b = b0 + from + at;
                const long long row = walk.row(t, b), own = static_cast<long long>(b) * hidden + unit;
                C z[GATES], made;
#pragma unroll
                for (int r = 0; r < GATES; ++r) {
                    z[r] = C(0);
#pragma unroll
                    for (int k = 0; k < WK; ++k) z[r] += sums[((k * ROWS + r) * tile + at) * units_of + u];
                    if (!(CELL == 1 && r == 2)) z[r] += pre[p][r] + bias[r * units_of + u];
                }
                if constexpr (CELL == 0) {
                    T* const kept = gates + row * 4 * hidden + unit;
                    const C in = tl_sigmoid(z[0]), forget = tl_sigmoid(z[1]), cell = tl_tanh(z[2]);
                    const C out = tl_sigmoid(z[3]), now_c = tl_fma(forget, c[p], in * cell);
                    made = out * tl_tanh(now_c);
                    put(kept, in), put(kept + hidden, forget), put(kept + 2 * hidden, cell);
                    put(kept + 3 * hidden, out), put(cells + row * hidden + unit, now_c);
                    state[own] = now_c;
                    if (next <= b) put(c_n + own, now_c);
                } else if constexpr (CELL == 1) {
                    T* const kept = gates + row * 4 * hidden + unit;
                    const C q = z[2] + bias[3 * units_of + u], reset = tl_sigmoid(z[0]), update = tl_sigmoid(z[1]);
                    const C fresh = tl_tanh(pre[p][2] + bias[2 * units_of + u] + reset * q);
                    // h of the step before, which tensor cores take rounded, is not rounded here
                    const C early = MMA ? c[p] : number(h[static_cast<long long>(at) * pitch + unit]);
                    made = tl_fma(update, early - fresh, fresh);
                    if (MMA) state[own] = made;
                    put(kept, q), put(kept + hidden, reset), put(kept + 2 * hidden, update);
                    put(kept + 3 * hidden, fresh);
                } else if constexpr (CELL == 2) {
                    made = tl_tanh(z[0]);
                } else {
                    made = tl_max(z[0], C(0));
                }
                put(y + row * hidden + unit, made);
                put(states.at(i + 1) + static_cast<long long>(from + at) * pitch + unit, made);
                if (next <= b) put(h_n + own, made);
            }
            barrier();
        }
        states.say(i + 2);
    }
}

#else
// d (rows, KEPT hidden): the gradients before the gates; `before` (rows, hidden) or null: the state each step began
// with; `kept` is y, of an LSTM the cells. `state` (batch, hidden): an LSTM's gradient of c, what a GRU's h passes on.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    backward(T* d, T* before, T* out_h0, T* out_c0, C* state, const T* gates, const T* kept, const T* h0, const T* c0,
             const T* dy, const T* dh, const T* dc, const void* w, S* exchange, unsigned* flags, const int* starts,
             const int* counts, int steps, int batch, int reverse, long long step_rows, long long batch_rows,
             int hidden, int units_of, int slice, int tile, int pitch, int chunks) {
    TL_DYNAMIC_SHARED(C, shared);
    const Walk walk = {starts, counts, steps, batch, reverse, step_rows, batch_rows};
    const Sizes n = {hidden, units_of, slice, tile, pitch, chunks};
    const int b0 = blockIdx.y * slice, u0 = blockIdx.x * units_of;
    C* const sums = shared + states_shared(n);
    const States states(n, shared, exchange, flags);
    const Product product(n, w, sums + sums_shared(n), u0);
    const int units = product.units, samples = clamp_to(batch - b0, slice);
    barrier();

    // i counts the steps that are done; after the last one the first states get their gradients
    for (int i = 0; i <= steps; ++i) {
        if (i == steps && !out_h0 && !out_c0) break;
        const int w_at = steps - 1 - i, t = i < steps ? walk.step(w_at) : 0;
        const int now = i < steps ? clamp_to(walk.count(t) - b0, samples) : 0;
        const int known = i ? clamp_to(walk.count(walk.step(w_at + 1)) - b0, samples) : 0;  // have d of the step after
        for (int from = 0; from < max(now, known); from += tile) {
            const int m = min(tile, max(now, known) - from), summed = clamp_to(known - from, m);
            C g[PAIRS], a[PAIRS][4], c[PAIRS], early[PAIRS];  // on their way while the sums are made
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const int pair = threadIdx.x + p * THREADS, at = pair / units, u = u0 + pair % units;
                const int b = b0 + from + at;
                if (pair >= m * units) break;
                const long long own = static_cast<long long>(b) * hidden + u;
                g[p] = at < summed ? C(0) : at_or_zero(dh, own);
                if (from + at >= now) continue;
                const long long row = walk.row(t, b), last = walk.before(w_at, b);
                if (dy) g[p] += number(dy[row * hidden + u]);
                if (CELL < 2) {
#pragma unroll
                    for (int k = 0; k < 4; ++k) a[p][k] = number(gates[(row * 4 + k) * hidden + u]);
                }
                if (CELL != 1) c[p] = number(kept[row * hidden + u]);
                if (CELL < 2 || before)
                    early[p] = last >= 0 ? number(kept[last * hidden + u]) : number((CELL == 0 ? c0 : h0)[own]);
                if (CELL == 0 && before)
                    put(before + row * hidden + u,
                        last >= 0 ? number(gates[(last * 4 + 3) * hidden + u]) * tl_tanh(early[p]) : number(h0[own]));
            }
            if (from == 0) states.wait(i);
            const S* later = states.bring(i - 1, from, summed, pitch);
            product(later, summed, sums);
            barrier();
#pragma unroll
            for (int p = 0; p < PAIRS; ++p) {
                const int pair = threadIdx.x + p * THREADS, at = pair / units, u = pair % units, unit = u0 + u;
                if (pair >= m * units) break;
                const int b = b0 + from + at;
                const long long own = static_cast<long long>(b) * hidden + unit;
                C dh_now = g[p], carried = C(0);
                if (at < summed) {
                    if (CELL < 2) carried = state[own];
                    C sum = C(0);
#pragma unroll
                    for (int k = 0; k < WK; ++k) sum += sums[(k * tile + at) * units_of + u];
                    dh_now += CELL == 1 ? sum + carried : sum;
                } else if (CELL == 0) {
                    carried = at_or_zero(dc, own);
                }
                if (from + at >= now) {
                    if (out_h0) put(out_h0 + own, dh_now);
                    if (CELL == 0 && out_c0) put(out_c0 + own, carried);
                    continue;
                }
                const long long row = walk.row(t, b);
                C made[KEPT];
                if constexpr (CELL == 0) {
                    const C in = a[p][0], forget = a[p][1], cell = a[p][2], out = a[p][3], squashed = tl_tanh(c[p]);
                    const C dc_now = tl_fma(dh_now * out, C(1) - squashed * squashed, carried);
                    made[0] = dc_now * cell * in * (C(1) - in);
                    made[1] = dc_now * early[p] * forget * (C(1) - forget);
                    made[2] = dc_now * in * (C(1) - cell * cell);
                    made[3] = dh_now * squashed * out * (C(1) - out);
                    state[own] = dc_now * forget;
                } else if constexpr (CELL == 1) {
                    const C q = a[p][0], reset = a[p][1], update = a[p][2], fresh = a[p][3];
                    made[3] = dh_now * (C(1) - update) * (C(1) - fresh * fresh);
                    made[0] = made[3] * reset;
                    made[1] = made[0] * q * (C(1) - reset);
                    made[2] = dh_now * (early[p] - fresh) * update * (C(1) - update);
                    state[own] = dh_now * update;
                } else if constexpr (CELL == 2) {
                    made[0] = dh_now * (C(1) - c[p] * c[p]);
                } else {
                    made[0] = c[p] > C(0) ? dh_now : dh_now * C(0);
                }
                if (CELL != 0 && before) put(before + row * hidden + unit, early[p]);
                S* const to = states.at(i) + static_cast<long long>(from + at) * pitch + unit;
#pragma unroll
                for (int k = 0; k < KEPT; ++k) {
                    put(d + (row * KEPT + k) * hidden + unit, made[k]);
                    if (k < GATES) put(to + k * hidden, made[k]);
                }
            }
            barrier();
        }
        states.say(i + 1);
    }
}
#endif
