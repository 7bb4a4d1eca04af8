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
TL_PRODUCTS(3)
TL_PRODUCTS(4)
#undef TL_PRODUCTS
#undef TL_MORE
#undef TL_PRODUCT

// Cuts `count` rows into tiles [b0, b1) of at most ROWS.
#define TL_EACH_TILE(count)                                                                                \
    for (std::int64_t t = 0, tiles = ((count) + ROWS - 1) / ROWS, b0 = 0, b1; t < tiles; ++t, b0 = b1)     \
        if ((b1 = (count) * (t + 1) / tiles), true)

// out[i] = a[i] W, or that more, for `count` rows and all columns of the packed W (see pack_columns). All rows go
// through a block of columns before the next one, so that it is read from the nearest cache.
static void multiply(std::int64_t count, std::int64_t inner, const T* const* a, const T* w, T* const* out,
                     std::int64_t width, bool more) {
    Vec z[ROWS][4];
    for (std::int64_t j = 0; j < width;) {
        const int vecs = tl::vectors_at_once((width - j + LANES - 1) / LANES);
        const auto product = vecs == 4 ? product4 : vecs == 2 ? product2 : product1;
        const std::int64_t end = std::min(width, j + vecs * LANES);
        TL_EACH_TILE(count) {
            product(static_cast<int>(b1 - b0), inner, a + b0, w, z);
            for (std::int64_t b = b0; b < b1; ++b)
                for (std::int64_t v = 0, at = j; at < end; ++v, at += LANES) {
                    const int n = static_cast<int>(std::min<std::int64_t>(LANES, end - at));
                    const Vec& made = z[b - b0][v];
                    if (n == LANES)
                        store(out[b] + at, LANES, more ? load(out[b] + at, LANES) + made : made);
                    else
                        store(out[b] + at, n, more ? load(out[b] + at, n) + made : made);
                }
        }
        w += vecs * LANES * inner;
        j += vecs * LANES;
    }
}

// CALL(n) for each whole vector of a row's hidden units, from unit j, and for the tail of n units.
#define TL_EACH_VECTOR(hidden, CALL)                              \
    {                                                             \
        std::int64_t j = 0;                                       \
        for (; j + LANES <= (hidden); j += LANES) CALL(LANES);    \
        if (j < (hidden)) CALL(static_cast<int>((hidden) - j));   \
    }

// Where row b of a step has its numbers, and whether a sequence begins or ends there.
struct Place {
    std::int64_t row, before, after;  // rows of this step, the one before and the one after it; -1: there is none
    Place(const std::vector<tl::Step>& walk, std::size_t s, std::int64_t b)
        : row(walk[s].start + b),
          before(s > 0 && b < walk[s - 1].rows ? walk[s - 1].start + b : -1),
          after(s + 1 < walk.size() && b < walk[s + 1].rows ? walk[s + 1].start + b : -1) {}
};

// out = in W for the rows [from, to) of `steps` steps from `first` on, or of as many as there are.
static void project(const std::vector<tl::Step>& walk, std::size_t first, std::size_t steps, std::int64_t from,
                    std::int64_t to, const T* in, std::int64_t in_step, std::int64_t inner, const T* w, T* out,
                    std::int64_t out_step, std::int64_t width) {
    const T* a[tl::panel_rows];
    T* y[tl::panel_rows];
    std::int64_t count = 0;
    for (std::size_t s = first; s < std::min(walk.size(), first + steps); ++s)
        for (std::int64_t b = from; b < std::min(to, walk[s].rows); ++b, ++count) {
            a[count] = in + (walk[s].start + b) * in_step;
            y[count] = out + (walk[s].start + b) * out_step;
        }
    multiply(count, inner, a, w, y, width, false);
}

// How many steps of so many rows make a panel.
static inline std::size_t panel_steps(std::int64_t rows) { return static_cast<std::size_t>(tl::panel_rows / rows); }

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

static void lstm(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden, all = to - from;
    const T *h[tl::task_rows], *c[tl::task_rows];  // where the states of each row lie now
    for (std::int64_t b = 0; b < all; ++b) h[b] = f.h0 + (from + b) * hidden, c[b] = f.c0 + (from + b) * hidden;
    Vec z[ROWS][4];
    const std::size_t steps = f.walk->size(), panel = panel_steps(all);
    for (std::size_t s = 0; s < steps; ++s) {
        const tl::Step& step = (*f.walk)[s];
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.x, f.inputs, f.inputs, f.w_x, f.gates, 4 * hidden, 4 * hidden);
        const std::int64_t count = std::min(all, step.rows - from), first = step.start + from;
        const T *w = f.w, *bias = f.bias;
        for (std::int64_t j = 0; j < hidden; j += LANES, w += 4 * LANES * hidden, bias += 4 * LANES) {
            const int n = static_cast<int>(std::min<std::int64_t>(LANES, hidden - j));
            TL_EACH_TILE(count) {
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

static void lstm_back(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden;
    const T* rows[tl::task_rows];
    T* states[tl::task_rows];
    const std::size_t steps = f.walk->size(), panel = panel_steps(to - from);
    for (std::size_t s = steps; s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        for (std::int64_t b = 0; b < count; ++b) {
            const std::int64_t in_batch = from + b;
            const Place at(*f.walk, s, in_batch);
            const T* before = at.before < 0 ? f.c0 + in_batch * hidden : f.cells + at.before * hidden;
            const T *gates = f.gates + at.row * 4 * hidden, *cell = f.cells + at.row * hidden;
            const T *dy = f.dy ? f.dy + at.row * hidden : nullptr, *state = f.state + in_batch * hidden;
            T *d = f.d + at.row * 4 * hidden, *d_cell = f.cell + in_batch * hidden;
            // this step's hidden state is what the next one began with
            T* h = at.after < 0 ? nullptr : f.before + at.after * hidden;
            if (at.before < 0)
                std::copy_n(f.h0 + in_batch * hidden, hidden, f.before + at.row * hidden);
#define TL_CALL(n)                                                                                               \
    lstm_unit_back(n, hidden, gates + j, cell + j, before + j, dy ? dy + j : dy, state + j, d_cell + j, d + j, \
               h ? h + j : h)
            TL_EACH_VECTOR(hidden, TL_CALL)
#undef TL_CALL
            rows[b] = d, states[b] = f.state + in_batch * hidden;
        }
        multiply(count, 4 * hidden, rows, f.w, states, hidden, false);
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.d, 4 * hidden, 4 * hidden, f.w_x, f.dx, f.inputs, f.inputs);
    }
}

// ---- GRU: of each row (q, reset, update, new), where q is the state's part of new before reset scales it
TL_INLINE void gru_unit(int n, std::int64_t hidden, const Vec* z, const T* bias, T* gates, const T* before, T* y) {
    Vec g[3];
    for (int k = 0; k < 3; ++k) g[k] = load(gates + (k + 1) * hidden, n) + load(bias + (k + 1) * LANES, LANES);
    const Vec q = z[0] + load(bias, LANES), r = sigmoid(z[1] + g[0]), u = sigmoid(z[2] + g[1]),
              c = tanh(g[2] + r * q);
    store(gates, n, q);
    store(gates + hidden, n, r);
    store(gates + 2 * hidden, n, u);
    store(gates + 3 * hidden, n, c);
    store(y, n, (load(before, n) - c) * u + c);
}

static void gru(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden, all = to - from;
    const T* h[tl::task_rows];
    for (std::int64_t b = 0; b < all; ++b) h[b] = f.h0 + (from + b) * hidden;
    Vec z[ROWS][4];
    const std::size_t steps = f.walk->size(), panel = panel_steps(all);
    for (std::size_t s = 0; s < steps; ++s) {
        const tl::Step& step = (*f.walk)[s];
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.x, f.inputs, f.inputs, f.w_x, f.gates + hidden,
                    4 * hidden, 3 * hidden);
        const std::int64_t count = std::min(all, step.rows - from), first = step.start + from;
        const T *w = f.w, *bias = f.bias;
        for (std::int64_t j = 0; j < hidden; j += LANES, w += 3 * LANES * hidden, bias += 4 * LANES) {
            const int n = static_cast<int>(std::min<std::int64_t>(LANES, hidden - j));
            TL_EACH_TILE(count) {
                product3(static_cast<int>(b1 - b0), hidden, h + b0, w, z);
                for (std::int64_t b = b0; b < b1; ++b) {
                    T *gates = f.gates + (first + b) * 4 * hidden + j, *y = f.y + (first + b) * hidden + j;
                    if (n == LANES)
                        gru_unit(LANES, hidden, z[b - b0], bias, gates, h[b] + j, y);
                    else
                        gru_unit(n, hidden, z[b - b0], bias, gates, h[b] + j, y);
                }
            }
        }
        for (std::int64_t b = 0; b < count; ++b) h[b] = f.y + (first + b) * hidden;
    }
    for (std::int64_t b = 0; b < all; ++b) std::copy_n(h[b], hidden, f.h_n + (from + b) * hidden);
}

// The gradients d of one row's (q, reset, update, new); of the state's gradient remains what goes past the gates.
TL_INLINE void gru_unit_back(int n, std::int64_t hidden, const T* gates, const T* before, const T* dy, T* state, T* d,
                             T* h) {
    const Vec q = load(gates, n), r = load(gates + hidden, n), u = load(gates + 2 * hidden, n),
              c = load(gates + 3 * hidden, n), was = load(before, n);
    Vec g = load(state, n);
    if (dy) g += load(dy, n);
    const Vec to_c = (T(1) - u) * (T(1) - c * c), to_q = to_c * r;
    store(d, n, g * to_q);
    store(d + hidden, n, g * (to_q * (q * (T(1) - r))));
    store(d + 2 * hidden, n, g * ((was - c) * (u * (T(1) - u))));
    store(d + 3 * hidden, n, g * to_c);
    store(state, n, g * u);
    store(h, n, was);
}

static void gru_back(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden;
    const T* rows[tl::task_rows];
    T* states[tl::task_rows];
    const std::size_t steps = f.walk->size(), panel = panel_steps(to - from);
    for (std::size_t s = steps; s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        for (std::int64_t b = 0; b < count; ++b) {
            const std::int64_t in_batch = from + b;
            const Place at(*f.walk, s, in_batch);
            const T* before = at.before < 0 ? f.h0 + in_batch * hidden : f.y + at.before * hidden;
            const T *gates = f.gates + at.row * 4 * hidden, *dy = f.dy ? f.dy + at.row * hidden : nullptr;
            T *state = f.state + in_batch * hidden, *d = f.d + at.row * 4 * hidden;
            T* h = f.before + at.row * hidden;
#define TL_CALL(n) gru_unit_back(n, hidden, gates + j, before + j, dy ? dy + j : dy, state + j, d + j, h + j)
            TL_EACH_VECTOR(hidden, TL_CALL)
#undef TL_CALL
            rows[b] = d, states[b] = f.state + in_batch * hidden;
        }
        multiply(count, 3 * hidden, rows, f.w, states, hidden, true);
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.d + hidden, 4 * hidden, 3 * hidden, f.w_x, f.dx, f.inputs, f.inputs);
    }
}

// ---- tanh or relu alone
TL_INLINE void rnn_unit(int n, bool relu, const T* bias, T* y) {
    const Vec x = load(y, n) + load(bias, n), zero = {};
    store(y, n, relu ? (x < zero ? zero : x) : tanh(x));  // nan is not below 0: it stays
}

static void rnn(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden, all = to - from;
    const T* h[tl::task_rows];
    T* now[tl::task_rows];
    for (std::int64_t b = 0; b < all; ++b) h[b] = f.h0 + (from + b) * hidden;
    const std::size_t steps = f.walk->size(), panel = panel_steps(all);
    for (std::size_t s = 0; s < steps; ++s) {
        const tl::Step& step = (*f.walk)[s];
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.x, f.inputs, f.inputs, f.w_x, f.y, hidden, hidden);
        const std::int64_t count = std::min(all, step.rows - from);
        T* y = f.y + (step.start + from) * hidden;
        for (std::int64_t b = 0; b < count; ++b) now[b] = y + b * hidden;
        multiply(count, hidden, h, f.w, now, hidden, true);
        for (std::int64_t b = 0; b < count; ++b) {
#define TL_CALL(n) rnn_unit(n, f.relu, f.bias + j, now[b] + j)
            TL_EACH_VECTOR(hidden, TL_CALL)
#undef TL_CALL
            h[b] = now[b];
        }
    }
    for (std::int64_t b = 0; b < all; ++b) std::copy_n(h[b], hidden, f.h_n + (from + b) * hidden);
}

TL_INLINE void rnn_unit_back(int n, bool relu, const T* out, const T* dy, const T* state, T* d) {
    const Vec y = load(out, n), zero = {}, one = zero + T(1);
    Vec g = load(state, n);
    if (dy) g += load(dy, n);
    store(d, n, g * (relu ? (y > zero ? one : zero) : one - y * y));
}

static void rnn_back(const tl::Layer<T>& f, std::int64_t from, std::int64_t to) {
    const std::int64_t hidden = f.hidden;
    const T* rows[tl::task_rows];
    T* states[tl::task_rows];
    const std::size_t steps = f.walk->size(), panel = panel_steps(to - from);
    for (std::size_t s = steps; s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        for (std::int64_t b = 0; b < count; ++b) {
            const std::int64_t in_batch = from + b;
            const Place at(*f.walk, s, in_batch);
            const T* before = at.before < 0 ? f.h0 + in_batch * hidden : f.y + at.before * hidden;
            std::copy_n(before, hidden, f.before + at.row * hidden);
            const T *y = f.y + at.row * hidden, *dy = f.dy ? f.dy + at.row * hidden : nullptr;
            const T* state = f.state + in_batch * hidden;
            T* d = f.d + at.row * hidden;
#define TL_CALL(n) rnn_unit_back(n, f.relu, y + j, dy ? dy + j : dy, state + j, d + j)
            TL_EACH_VECTOR(hidden, TL_CALL)
#undef TL_CALL
            rows[b] = d, states[b] = f.state + in_batch * hidden;
        }
        multiply(count, hidden, rows, f.w, states, hidden, false);
        if (f.w_x && s % panel == 0)
            project(*f.walk, s, panel, from, to, f.d, hidden, hidden, f.w_x, f.dx, f.inputs, f.inputs);
    }
}

#undef TL_EACH_TILE
#undef TL_EACH_VECTOR
