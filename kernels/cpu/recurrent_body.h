// The time loops of the recurrent layers. each_isa.h includes this once for each instruction set.
//
// A task walks all steps of its own rows of the batch, so that no step waits for another thread. Weights are packed: a
// tile of rows meets V vectors of columns at a time, and those V vectors of each step of the sum lie together. A row's
// numbers are made by the same operations in the same order whatever tile or task it falls into.

using tl::Layer;
using tl::Step;

// The most rows M of a tile of V vectors: its sums, one factor's part of a step whole and one number of the other's.
template <int V>
constexpr int tile_rows = registers == 32 ? std::min((registers - 1 - V) / V, 8) : V > 2 ? 12 / V : V > 1 ? 6 : 8;

// Rows, `apart` elements from one to the next, and the packed columns that they are multiplied with.
template <class T>
struct Factors {
    const T* a;
    std::int64_t apart, inner;
    const T* w;
};

// acc[i][v] += sum_k a(i, k) w[k][v]. Unrolled at once, so that acc is in registers before any loop begins and after.
template <int M, int V, class T>
TL_INLINE void add_product(const Factors<T>& f, Vec<T> (&acc)[M][V]) {
    const T *a = f.a, *w = f.w;
    for (std::int64_t k = 0; k < f.inner; ++k, ++a, w += V * lanes<T>) {
        if constexpr (M < V) {  // the smaller of the two stays in registers
            Vec<T> one[M];
#pragma GCC unroll 8
            for (int i = 0; i < M; ++i) one[i] = all(a[i * f.apart]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                const Vec<T> c = load(w + v * lanes<T>);
#pragma GCC unroll 8
                for (int i = 0; i < M; ++i) acc[i][v] += one[i] * c;
            }
        } else {
            Vec<T> c[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) c[v] = load(w + v * lanes<T>);
#pragma GCC unroll 8
            for (int i = 0; i < M; ++i) {
                const Vec<T> one = all(a[i * f.apart]);
#pragma GCC unroll 4
                for (int v = 0; v < V; ++v) acc[i][v] += one * c[v];
            }
        }
    }
}

// z[i][v] = sum_k a(i, k) w[k][v] of both factors together, for `rows` rows.
template <int V, class T, int M = tile_rows<V>>
static void product(std::int64_t rows, const Factors<T>& one, const Factors<T>& two, Vec<T> (*z)[4]) {
    if constexpr (M > 1)
        if (rows < M) return product<V, T, M - 1>(rows, one, two, z);
    Vec<T> acc[M][V];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = Vec<T>{};
    add_product<M, V, T>(one, acc);
    add_product<M, V, T>(two, acc);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) z[i][v] = acc[i][v];
}

// Cuts `count` rows into tiles of nearly the same height: f(first row, rows).
template <int V, class F>
TL_INLINE void each_tile(std::int64_t count, F f) {
    const std::int64_t tiles = (count + tile_rows<V> - 1) / tile_rows<V>;
    for (std::int64_t t = 0, b = 0, end; t < tiles; ++t, b = end) {
        end = count * (t + 1) / tiles;
        f(b, end - b);
    }
}

template <class T>
TL_INLINE Factors<T> moved(const Factors<T>& f, std::int64_t rows) {
    return {f.a + rows * f.apart, f.apart, f.inner, f.w};
}

// The first n elements of a vector; n is known to be all of them where it matters.
template <class T>
TL_INLINE Vec<T> take(const T* p, std::int64_t n) {
    return n == lanes<T> ? load(p) : load_first(p, n);
}

template <class T>
TL_INLINE void put(T* p, std::int64_t n, const Vec<T>& v) {
    if (n == lanes<T>)
        store(p, v);
    else
        store_first(p, n, v);
}

// f(j, n) for each whole vector of `size` elements, and for the tail of n.
template <class T, class F>
TL_INLINE void each_vector(std::int64_t size, F f) {
    std::int64_t j = 0;
    for (; j + lanes<T> <= size; j += lanes<T>) f(j, std::int64_t(lanes<T>));
    if (j < size) f(j, size - j);
}

// done(row, column, elements, their vector) for all of the product of `count` rows with `width` packed columns. All rows
// go through a block of columns before the next one, so that it is read from the nearest cache.
template <class T, class F>
TL_INLINE void columns(std::int64_t count, std::int64_t width, Factors<T> one, Factors<T> two, F done) {
    Vec<T> z[8][4];
    for (std::int64_t j = 0; j < width;) {
        const int vectors = tl::vectors_at_once((width - j + lanes<T> - 1) / lanes<T>);
        const std::int64_t end = std::min<std::int64_t>(width, j + vectors * lanes<T>);
        const auto block = [&](auto wide) {
            constexpr int V = decltype(wide)::value;
            each_tile<V>(count, [&](std::int64_t first, std::int64_t rows) {
                product<V, T>(rows, moved(one, first), moved(two, first), z);
                for (std::int64_t b = 0; b < rows; ++b)
                    for (std::int64_t v = 0, at = j; at < end; ++v, at += lanes<T>)
                        done(first + b, at, std::min<std::int64_t>(lanes<T>, end - at), z[b][v]);
            });
        };
        if (vectors == 4)
            block(std::integral_constant<int, 4>());
        else if (vectors == 2)
            block(std::integral_constant<int, 2>());
        else
            block(std::integral_constant<int, 1>());
        one.w += vectors * lanes<T> * one.inner, two.w += vectors * lanes<T> * two.inner;
        j += vectors * lanes<T>;
    }
}

// out = a W, or that more; out's rows lie `apart` elements from one to the next.
template <class T>
static void multiply(std::int64_t count, const Factors<T>& f, T* out, std::int64_t apart, std::int64_t width,
                     bool more = false) {
    columns<T>(count, width, f, {}, [&](std::int64_t b, std::int64_t j, std::int64_t n, const Vec<T>& made) {
        T* to = out + b * apart + j;
        put(to, n, more ? take(to, n) + made : made);
    });
}

// f(first row, row in the batch, rows, first row that they go on from or -1) for the task's rows of step s, in at most
// two runs: those that go on from the step before, and those whose sequence begins here.
template <class T, class F>
TL_INLINE void each_run(const Layer<T>& l, std::size_t s, std::int64_t from, std::int64_t to, F f) {
    const std::vector<Step>& walk = *l.walk;
    const std::int64_t end = std::max(from, std::min(to, walk[s].rows));
    const std::int64_t known = s ? std::clamp(walk[s - 1].rows, from, end) : from;
    if (known > from) f(walk[s].start + from * l.apart, from, known - from, walk[s - 1].start + from * l.apart);
    if (end > known) f(walk[s].start + known * l.apart, known, end - known, std::int64_t(-1));
}

// The last states of the task's rows, from all of them.
template <class T>
static void last_states(const Layer<T>& l, std::int64_t from, std::int64_t to, const T* all, T* last) {
    for (std::int64_t b = from; b < to; ++b) {
        std::size_t s = l.walk->size();
        while ((*l.walk)[s - 1].rows <= b) --s;
        std::copy_n(all + ((*l.walk)[s - 1].start + b * l.apart) * l.hidden, l.hidden, last + b * l.hidden);
    }
}

// Where row b of a step has its numbers, and whether a sequence begins or ends there.
struct Place {
    std::int64_t row, before, after;  // rows of this step, the one before and the one after it; -1: there is none
    template <class T>
    Place(const Layer<T>& l, std::size_t s, std::int64_t b) : row((*l.walk)[s].start + b * l.apart) {
        const std::vector<Step>& walk = *l.walk;
        before = s > 0 && b < walk[s - 1].rows ? walk[s - 1].start + b * l.apart : -1;
        after = s + 1 < walk.size() && b < walk[s + 1].rows ? walk[s + 1].start + b * l.apart : -1;
    }
};

// ---- what gates are squashed by: sigmoid and tanh by two thirds of the operations of those in vmath.h. Largest relative
// errors found (every 13th block of floats, every instruction set): sigmoid 2.5e-7, tanh 2.6e-7; what would be a denormal
// sigmoid may be 0.
TL_INLINE Vec<float> gate(const Vec<float>& x) {
    static constexpr float c[] = {0.00829031505f, 0.0418979302f, 0.166676357f, 0.499991506f, 0.999999702f};  // (exp(r) - 1) / r
    using F = Format<float>;
    const Vec<float> y = larger(all(-87.3f), smaller(all(88.75f), -x)), shifted = y * 1.44269504f + F::magic;
    const Vec<float> n = shifted - F::magic, r = (y - n * F::ln2) - n * F::ln2_rest;
    return 1.0f / (times_two_to(n, polynomial(r, c) * r + 1.0f) + 1.0f);
}
TL_INLINE Vec<float> squash(const Vec<float>& x) {
    // (2^r - 1) / r, to 1e-8: near 0 tanh needs more of it than sigmoid
    static constexpr float c[] = {1.54035122e-4f, 1.33907353e-3f, 9.61823761e-3f, 5.55035733e-2f, 2.40226492e-1f, 6.93147182e-1f};
    const Vec<float> t = without_sign(x) * -2.88539008f;
    const Split2 e = split_exp2(TL_LEVEL == 2 ? t : larger(all(-60.0f), t));
    const Vec<float> scale = times_two_to(e.n, all(1.0f));
    const Vec<float> less = scale * (polynomial(e.r, c) * e.r) + (scale - 1.0f);  // exp(-2 |x|) - 1
    return with_sign_of(less / (less + 2.0f), x);
}
TL_INLINE Vec<double> gate(const Vec<double>& x) { return sigmoid(x); }
TL_INLINE Vec<double> squash(const Vec<double>& x) { return tanh(x); }

// ---- LSTM
// One row's gates and states at n hidden units, from the products z of its state.
template <class T>
TL_INLINE void lstm_unit(std::int64_t n, std::int64_t hidden, const Vec<T>* z, const T* bias, bool given, T* gates,
                         const T* before, T* cell, T* y) {
    Vec<T> g[4];
    for (int k = 0; k < 4; ++k) {
        g[k] = z[k] + load(bias + k * lanes<T>);
        if (given) g[k] += take(gates + k * hidden, n);
    }
    const Vec<T> i = gate(g[0]), f = gate(g[1]), c = squash(g[2]), o = gate(g[3]);
    const Vec<T> now = f * take(before, n) + i * c;
    put(gates, n, i);
    put(gates + hidden, n, f);
    put(gates + 2 * hidden, n, c);
    put(gates + 3 * hidden, n, o);
    put(cell, n, now);
    put(y, n, o * squash(now));
}

template <class T>
static void lstm(const Layer<T>& f, std::int64_t from, std::int64_t to, T*) {
    const std::int64_t hidden = f.hidden;
    Vec<T> z[8][4];
    for (std::size_t s = 0; s < f.walk->size(); ++s)
        each_run(f, s, from, to, [&](std::int64_t row, std::int64_t batch, std::int64_t count, std::int64_t on) {
            const T* c = on < 0 ? f.c0 + batch * hidden : f.cells + on * hidden;
            const std::int64_t c_apart = on < 0 ? hidden : f.apart * hidden;
            Factors<T> x{f.x + row * f.inputs, f.apart * f.inputs, f.x ? f.inputs : 0, f.w_x};
            Factors<T> h{on < 0 ? f.h0 + batch * hidden : f.y + on * hidden, on < 0 ? hidden : f.apart * hidden, hidden,
                         f.w};
            const T* bias = f.bias;
            for (std::int64_t j = 0; j < hidden; j += lanes<T>, bias += 4 * lanes<T>) {
                const std::int64_t n = std::min<std::int64_t>(lanes<T>, hidden - j);
                each_tile<4>(count, [&](std::int64_t first, std::int64_t rows) {
                    product<4, T>(rows, moved(x, first), moved(h, first), z);
                    for (std::int64_t k = 0; k < rows; ++k) {
                        const std::int64_t at = row + (first + k) * f.apart;
                        T *gates = f.gates + at * 4 * hidden + j, *cell = f.cells + at * hidden + j;
                        T* y = f.y + at * hidden + j;
                        const T* before = c + (first + k) * c_apart + j;
                        if (n == lanes<T>)
                            lstm_unit<T>(lanes<T>, hidden, z[k], bias, !f.x, gates, before, cell, y);
                        else
                            lstm_unit<T>(n, hidden, z[k], bias, !f.x, gates, before, cell, y);
                    }
                });
                x.w += 4 * lanes<T> * x.inner, h.w += 4 * lanes<T> * h.inner;
            }
        });
    last_states(f, from, to, f.y, f.h_n);
    last_states(f, from, to, f.cells, f.c_n);
}

// Stores a gradient of a gate, and adds it to the sum over rows.
template <class T>
TL_INLINE void put_gradient(T* d, T* sum, std::int64_t n, const Vec<T>& g) {
    put(d, n, g);
    put(sum, n, take(sum, n) + g);
}

// The gradients d of one row's gates at n hidden units; the cell's gradient moves on to the step before.
template <class T>
TL_INLINE void lstm_unit_back(std::int64_t n, std::int64_t hidden, const T* gates, const T* cell, const T* before,
                              const T* dy, const T* state, T* d_cell, T* d, T* sum, T* h) {
    const Vec<T> i = take(gates, n), f = take(gates + hidden, n), c = take(gates + 2 * hidden, n),
                 o = take(gates + 3 * hidden, n), squashed = squash(take(cell, n));
    Vec<T> g = take(state, n);
    if (dy) g += take(dy, n);
    const Vec<T> raw = o * squashed, gc = take(d_cell, n) + g * (o - raw * squashed);
    put_gradient<T>(d, sum, n, gc * (c * (i * (T(1) - i))));
    put_gradient<T>(d + hidden, sum + hidden, n, gc * (take(before, n) * (f * (T(1) - f))));
    put_gradient<T>(d + 2 * hidden, sum + 2 * hidden, n, gc * (i * (T(1) - c * c)));
    put_gradient<T>(d + 3 * hidden, sum + 3 * hidden, n, g * (squashed * (o * (T(1) - o))));
    put(d_cell, n, gc * f);
    if (h) put(h, n, raw);
}

template <class T>
static void lstm_back(const Layer<T>& f, std::int64_t from, std::int64_t to, T* sum) {
    const std::int64_t hidden = f.hidden;
    for (std::size_t s = f.walk->size(); s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        const std::int64_t first = (*f.walk)[s].start + from * f.apart;
        for (std::int64_t b = from; b < from + count; ++b) {
            const Place at(f, s, b);
            const T* before = at.before < 0 ? f.c0 + b * hidden : f.cells + at.before * hidden;
            const T *gates = f.gates + at.row * 4 * hidden, *cell = f.cells + at.row * hidden;
            const T *dy = f.dy ? f.dy + at.row * hidden : nullptr, *state = f.state + b * hidden;
            T *d = f.d + at.row * 4 * hidden, *d_cell = f.cell + b * hidden;
            // this step's hidden state is what the next one began with
            T* h = at.after < 0 ? nullptr : f.before + at.after * hidden;
            if (at.before < 0) std::copy_n(f.h0 + b * hidden, hidden, f.before + at.row * hidden);
            each_vector<T>(hidden, [&](std::int64_t j, std::int64_t n) {
                lstm_unit_back<T>(n, hidden, gates + j, cell + j, before + j, dy ? dy + j : dy, state + j, d_cell + j,
                                  d + j, sum + j, h ? h + j : h);
            });
        }
        const T* d = f.d + first * 4 * hidden;
        const std::int64_t d_apart = f.apart * 4 * hidden, dx_apart = f.apart * f.inputs;
        multiply<T>(count, {d, d_apart, 4 * hidden, f.w}, f.state + from * hidden, hidden, hidden);
        if (f.dx) multiply<T>(count, {d, d_apart, 4 * hidden, f.w_x}, f.dx + first * f.inputs, dx_apart, f.inputs);
    }
}

// ---- GRU: of each row (q, reset, update, new), where q is the state's part of new before reset scales it
template <class T>
TL_INLINE void gru_unit(std::int64_t n, std::int64_t hidden, const Vec<T>* x, const Vec<T>* z, const T* bias,
                        bool given, T* gates, const T* before, T* y) {
    Vec<T> g[3];
    for (int k = 0; k < 3; ++k)
        g[k] = load(bias + (k + 1) * lanes<T>) + (given ? take(gates + (k + 1) * hidden, n) : x[k]);
    const Vec<T> q = z[0] + load(bias), r = gate(z[1] + g[0]), u = gate(z[2] + g[1]), c = squash(g[2] + r * q);
    put(gates, n, q);
    put(gates + hidden, n, r);
    put(gates + 2 * hidden, n, u);
    put(gates + 3 * hidden, n, c);
    put(y, n, (take(before, n) - c) * u + c);
}

template <class T>
static void gru(const Layer<T>& f, std::int64_t from, std::int64_t to, T*) {
    const std::int64_t hidden = f.hidden;
    Vec<T> zx[8][4], z[8][4];
    for (std::size_t s = 0; s < f.walk->size(); ++s)
        each_run(f, s, from, to, [&](std::int64_t row, std::int64_t batch, std::int64_t count, std::int64_t on) {
            Factors<T> x{f.x + row * f.inputs, f.apart * f.inputs, f.x ? f.inputs : 0, f.w_x};
            Factors<T> h{on < 0 ? f.h0 + batch * hidden : f.y + on * hidden, on < 0 ? hidden : f.apart * hidden, hidden,
                         f.w};
            const T* bias = f.bias;
            for (std::int64_t j = 0; j < hidden; j += lanes<T>, bias += 4 * lanes<T>) {
                const std::int64_t n = std::min<std::int64_t>(lanes<T>, hidden - j);
                each_tile<3>(count, [&](std::int64_t first, std::int64_t rows) {
                    if (f.x) product<3, T>(rows, moved(x, first), {}, zx);
                    product<3, T>(rows, moved(h, first), {}, z);
                    for (std::int64_t k = 0; k < rows; ++k) {
                        const std::int64_t at = row + (first + k) * f.apart;
                        T *gates = f.gates + at * 4 * hidden + j, *y = f.y + at * hidden + j;
                        const T* before = h.a + (first + k) * h.apart + j;
                        if (n == lanes<T>)
                            gru_unit<T>(lanes<T>, hidden, zx[k], z[k], bias, !f.x, gates, before, y);
                        else
                            gru_unit<T>(n, hidden, zx[k], z[k], bias, !f.x, gates, before, y);
                    }
                });
                x.w += 3 * lanes<T> * x.inner, h.w += 3 * lanes<T> * h.inner;
            }
        });
    last_states(f, from, to, f.y, f.h_n);
}

// The gradients d of one row's (q, reset, update, new); of the state's gradient remains what goes past the gates.
template <class T>
TL_INLINE void gru_unit_back(std::int64_t n, std::int64_t hidden, const T* gates, const T* before, const T* dy,
                             T* state, T* d, T* sum, T* h) {
    const Vec<T> q = take(gates, n), r = take(gates + hidden, n), u = take(gates + 2 * hidden, n),
                 c = take(gates + 3 * hidden, n), was = take(before, n);
    Vec<T> g = take(state, n);
    if (dy) g += take(dy, n);
    const Vec<T> to_c = g * ((T(1) - u) * (T(1) - c * c)), to_q = to_c * r;
    put_gradient<T>(d, sum, n, to_q);
    put_gradient<T>(d + hidden, sum + hidden, n, to_q * (q * (T(1) - r)));
    put_gradient<T>(d + 2 * hidden, sum + 2 * hidden, n, g * ((was - c) * (u * (T(1) - u))));
    put_gradient<T>(d + 3 * hidden, sum + 3 * hidden, n, to_c);
    put(state, n, g * u);
    put(h, n, was);
}

template <class T>
static void gru_back(const Layer<T>& f, std::int64_t from, std::int64_t to, T* sum) {
    const std::int64_t hidden = f.hidden;
    for (std::size_t s = f.walk->size(); s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        const std::int64_t first = (*f.walk)[s].start + from * f.apart;
        for (std::int64_t b = from; b < from + count; ++b) {
            const Place at(f, s, b);
            const T* before = at.before < 0 ? f.h0 + b * hidden : f.y + at.before * hidden;
            const T *gates = f.gates + at.row * 4 * hidden, *dy = f.dy ? f.dy + at.row * hidden : nullptr;
            T *state = f.state + b * hidden, *d = f.d + at.row * 4 * hidden, *h = f.before + at.row * hidden;
            each_vector<T>(hidden, [&](std::int64_t j, std::int64_t n) {
                gru_unit_back<T>(n, hidden, gates + j, before + j, dy ? dy + j : dy, state + j, d + j, sum + j, h + j);
            });
        }
        const T* d = f.d + first * 4 * hidden;
        const std::int64_t d_apart = f.apart * 4 * hidden, dx_apart = f.apart * f.inputs;
        multiply<T>(count, {d, d_apart, 3 * hidden, f.w}, f.state + from * hidden, hidden, hidden, true);
        if (f.dx)
            multiply<T>(count, {d + hidden, d_apart, 3 * hidden, f.w_x}, f.dx + first * f.inputs, dx_apart, f.inputs);
    }
}

// ---- tanh or relu alone
template <class T>
static void rnn(const Layer<T>& f, std::int64_t from, std::int64_t to, T*) {
    const std::int64_t hidden = f.hidden;
    for (std::size_t s = 0; s < f.walk->size(); ++s)
        each_run(f, s, from, to, [&](std::int64_t row, std::int64_t batch, std::int64_t count, std::int64_t on) {
            const Factors<T> x{f.x + row * f.inputs, f.apart * f.inputs, f.x ? f.inputs : 0, f.w_x};
            const Factors<T> h{on < 0 ? f.h0 + batch * hidden : f.y + on * hidden, on < 0 ? hidden : f.apart * hidden, hidden,
                         f.w};
            columns<T>(count, hidden, x, h, [&](std::int64_t b, std::int64_t j, std::int64_t n, const Vec<T>& z) {
                T* y = f.y + (row + b * f.apart) * hidden + j;
                Vec<T> sum = z + load(f.bias + j);
                if (!f.x) sum += take(y, n);
                const Vec<T> zero = {};
                put(y, n, f.relu ? (sum < zero ? zero : sum) : squash(sum));  // nan is not below 0: it stays
            });
        });
    last_states(f, from, to, f.y, f.h_n);
}

template <class T>
TL_INLINE void rnn_unit_back(std::int64_t n, bool relu, const T* out, const T* dy, const T* state, T* d, T* sum) {
    const Vec<T> y = take(out, n), zero = {}, one = zero + T(1);
    Vec<T> g = take(state, n);
    if (dy) g += take(dy, n);
    put_gradient<T>(d, sum, n, g * (relu ? (y > zero ? one : zero) : one - y * y));
}

template <class T>
static void rnn_back(const Layer<T>& f, std::int64_t from, std::int64_t to, T* sum) {
    const std::int64_t hidden = f.hidden;
    for (std::size_t s = f.walk->size(); s-- > 0;) {
        const std::int64_t count = std::min(to, (*f.walk)[s].rows) - from;
        const std::int64_t first = (*f.walk)[s].start + from * f.apart;
        for (std::int64_t b = from; b < from + count; ++b) {
            const Place at(f, s, b);
            const T* before = at.before < 0 ? f.h0 + b * hidden : f.y + at.before * hidden;
            std::copy_n(before, hidden, f.before + at.row * hidden);
            const T *y = f.y + at.row * hidden, *dy = f.dy ? f.dy + at.row * hidden : nullptr;
            const T* state = f.state + b * hidden;
            T* d = f.d + at.row * hidden;
            each_vector<T>(hidden, [&](std::int64_t j, std::int64_t n) {
                rnn_unit_back<T>(n, f.relu, y + j, dy ? dy + j : dy, state + j, d + j, sum + j);
            });
        }
        const T* d = f.d + first * hidden;
        const std::int64_t d_apart = f.apart * hidden, dx_apart = f.apart * f.inputs;
        multiply<T>(count, {d, d_apart, hidden, f.w}, f.state + from * hidden, hidden, hidden);
        if (f.dx) multiply<T>(count, {d, d_apart, hidden, f.w_x}, f.dx + first * f.inputs, dx_apart, f.inputs);
    }
}
