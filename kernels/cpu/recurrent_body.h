// The time loops of the recurrent layers, written once and included for each instruction set and element type, in a
// namespace of its own. Wants the macros T, LANES and ROWS (rows of a tile of products: ROWS x 4 vectors are held in
// registers).
//
// A task walks all steps of its own rows of the batch, so that no step waits for another thread. A row's numbers are
// made by the same operations in the same order whatever tile or task it falls into.

#include "vecmath.h"

// z[i][v] = sum_k a[i][k] w[k][v] for `m` rows and V vectors: w is packed, its V vectors of each k lie together.
#define TL_PRODUCT(M, V)                                                        \
    {                                                                           \
        Vec acc[M][V] = {};                                                     \
        for (std::int64_t k = 0; k < inner; ++k, w += V * LANES) {              \
            Vec c[V];                                                           \
            for (int v = 0; v < V; ++v) c[v] = load(w + v * LANES, LANES);      \
            for (int i = 0; i < M; ++i)                                         \
                for (int v = 0; v < V; ++v) acc[i][v] += a[i][k] * c[v];        \
        }                                                                       \
        for (int i = 0; i < M; ++i)                                             \
            for (int v = 0; v < V; ++v) z[i][v] = acc[i][v];                    \
        return;                                                                 \
    }

#if ROWS > 3
#define TL_MORE(V)               \
    case 4: TL_PRODUCT(4, V)     \
    case 5: TL_PRODUCT(5, V)     \
    case 6: TL_PRODUCT(6, V)
#else
#define TL_MORE(V)
#endif

#define TL_PRODUCTS(V)                                                                                             \
    static void product##V(int m, std::int64_t inner, const T* const* a, const T* w, Vec (*z)[4]) {                \
        switch (m) {                                                                                               \
            case 1: TL_PRODUCT(1, V)                                                                               \
            case 2: TL_PRODUCT(2, V)                                                                               \
            case 3: TL_PRODUCT(3, V)                                                                               \
            TL_MORE(V)                                                                                             \
        }                                                                                                          \
    }

TL_PRODUCTS(1)
TL_PRODUCTS(2)
TL_PRODUCTS(4)
#undef TL_PRODUCTS
#undef TL_MORE
#undef TL_PRODUCT

// out[i] (at `out`, `width` apart) = a[i] W for all columns of the packed W (see pack_columns).
static void multiply(int m, std::int64_t inner, const T* const* a, const T* w, T* out, std::int64_t width) {
    Vec z[ROWS][4];
    for (std::int64_t j = 0; j < width;) {
        const std::int64_t left = (width - j + LANES - 1) / LANES;
        const int vecs = tl::vectors_at_once(left);
        if (vecs == 4)
            product4(m, inner, a, w, z);
        else if (vecs == 2)
            product2(m, inner, a, w, z);
        else
            product1(m, inner, a, w, z);
        w += vecs * LANES * inner;
        for (int v = 0; v < vecs; ++v, j += LANES) {
            const int n = static_cast<int>(std::min<std::int64_t>(LANES, width - j));
            for (int i = 0; i < m; ++i) store(out + i * width + j, n, z[i][v]);
        }
    }
}

// ---- LSTM
// One row's gates and states at `n` hidden units, from the products z of its state.
TL_INLINE void lstm_unit(int n, std::int64_t hidden, const Vec* z, const T* bias, T* gates, const T* before, T* cell,
                         T* y) {
    Vec g[4];
    for (int k = 0; k < 4; ++k) g[k] = z[k] + (load(gates + k * hidden, n) + load(bias + k * LANES, LANES));
    const Vec i = sigmoid(g[0]), f = sigmoid(g[1]), c = tanh(g[2]), o = sigmoid(g[3]);
    const Vec now = f * load(before, n) + i * c;
    store(gates, n, i);
    store(gates + hidden, n, f);
    store(gates + 2 * hidden, n, c);
    store(gates + 3 * hidden, n, o);
    store(cell, n, now);
    store(y, n, o * tanh(now));
}

static void lstm_forward(const tl::Lstm<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden, all = to - from;
    const T *h[tl::task_rows], *c[tl::task_rows];  // where the states of each row lie now
    for (std::int64_t b = 0; b < all; ++b) h[b] = f.h0 + (from + b) * hidden, c[b] = f.c0 + (from + b) * hidden;
    Vec z[ROWS][4];
    for (const tl::Step& step : *f.walk) {
        const std::int64_t count = std::min(all, step.rows - from), first = step.start + from;
        if (count <= 0) continue;
        const std::int64_t tiles = (count + ROWS - 1) / ROWS;
        const T *w = f.w, *bias = f.bias;
        for (std::int64_t j = 0; j < hidden; j += LANES, w += 4 * LANES * hidden, bias += 4 * LANES) {
            const int n = static_cast<int>(std::min<std::int64_t>(LANES, hidden - j));
            for (std::int64_t t = 0; t < tiles; ++t) {
                const std::int64_t b0 = count * t / tiles, b1 = count * (t + 1) / tiles;
                product4(static_cast<int>(b1 - b0), hidden, h + b0, w, z);
                for (std::int64_t b = b0; b < b1; ++b) {
                    T* gates = f.gates + (first + b) * 4 * hidden + j;
                    T *cell = f.cells + (first + b) * hidden + j, *y = f.y + (first + b) * hidden + j;
                    if (n == LANES)
                        lstm_unit(LANES, hidden, z[b - b0], bias, gates, c[b] + j, cell, y);
                    else
                        lstm_unit(n, hidden, z[b - b0], bias, gates, c[b] + j, cell, y);
                }
            }
        }
        for (std::int64_t b = 0; b < count; ++b)
            h[b] = f.y + (first + b) * hidden, c[b] = f.cells + (first + b) * hidden;
    }
    for (std::int64_t b = 0; b < all; ++b) {
        std::copy(h[b], h[b] + hidden, f.h_n + (from + b) * hidden);
        std::copy(c[b], c[b] + hidden, f.c_n + (from + b) * hidden);
    }
}

// The gradients d of one row's gates at `n` hidden units; the cell's gradient moves on to the step before.
TL_INLINE void lstm_unit_back(int n, std::int64_t hidden, const T* gates, const T* cell, const T* before, const T* dy,
                              const T* state, T* d_cell, T* d, T* h) {
    const Vec i = load(gates, n), f = load(gates + hidden, n), c = load(gates + 2 * hidden, n),
              o = load(gates + 3 * hidden, n), squashed = tanh(load(cell, n));
    Vec g = load(state, n);
    if (dy) g += load(dy, n);
    const Vec raw = o * squashed, gc = load(d_cell, n) + g * (o - raw * squashed);
    store(d, n, gc * (c * (i * (T(1) - i))));
    store(d + hidden, n, gc * (load(before, n) * (f * (T(1) - f))));
    store(d + 2 * hidden, n, gc * (i * (T(1) - c * c)));
    store(d + 3 * hidden, n, g * (squashed * (o * (T(1) - o))));
    store(d_cell, n, gc * f);
    if (h) store(h, n, raw);
}

static void lstm_backward(const tl::LstmBack<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden, whole = hidden - hidden % LANES;
    const std::vector<tl::Step>& walk = *f.walk;
    const T* rows[ROWS];
    for (std::size_t s = walk.size(); s-- > 0;) {
        const tl::Step& step = walk[s];
        const std::int64_t count = std::min(to, step.rows) - from, first = step.start + from;
        if (count <= 0) continue;
        const std::int64_t tiles = (count + ROWS - 1) / ROWS;
        for (std::int64_t t = 0; t < tiles; ++t) {
            const std::int64_t b0 = count * t / tiles, b1 = count * (t + 1) / tiles;
            for (std::int64_t b = b0; b < b1; ++b) {
                const std::int64_t row = first + b, in_batch = from + b;
                const bool begins = s == 0 || walk[s - 1].rows <= in_batch;
                const bool ends = s + 1 == walk.size() || walk[s + 1].rows <= in_batch;
                const T* before = begins ? f.c0 + in_batch * hidden : f.cells + (walk[s - 1].start + in_batch) * hidden;
                const T *gates = f.gates + row * 4 * hidden, *cell = f.cells + row * hidden;
                const T *dy = f.dy ? f.dy + row * hidden : nullptr, *state = f.state + in_batch * hidden;
                T *d = f.d + row * 4 * hidden, *d_cell = f.cell + in_batch * hidden;
                // this step's hidden state is what the next one began with
                T* h = ends ? nullptr : f.before + (walk[s + 1].start + in_batch) * hidden;
                if (begins) std::copy(f.h0 + in_batch * hidden, f.h0 + (in_batch + 1) * hidden, f.before + row * hidden);
                std::int64_t j = 0;
                for (; j < whole; j += LANES)
                    lstm_unit_back(LANES, hidden, gates + j, cell + j, before + j, dy ? dy + j : dy, state + j,
                                   d_cell + j, d + j, h ? h + j : h);
                if (j < hidden)
                    lstm_unit_back(static_cast<int>(hidden - j), hidden, gates + j, cell + j, before + j,
                                   dy ? dy + j : dy, state + j, d_cell + j, d + j, h ? h + j : h);
                rows[b - b0] = d;
            }
            multiply(static_cast<int>(b1 - b0), 4 * hidden, rows, f.w, f.state + (from + b0) * hidden, hidden);
        }
    }
}
