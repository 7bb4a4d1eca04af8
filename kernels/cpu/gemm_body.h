// The loops of gemm.cpp: packing, the product of a block of rows with packed or in-place columns, inner products.
//
// A tile of c, M rows by V vectors, stays in registers while it runs through all steps. Columns come in panels of the
// width that the block says, the last one of fewer vectors; rows are cut into tiles of nearly equal height. An element
// is the same sum in the same order in whatever tile it falls.

#include "act_body.h"

constexpr int most_vectors = registers == 32 ? 4 : 2;  // of a panel
constexpr int across_vectors = 2;                      // of a panel whose tiles are stored across

// The most rows of a tile of so many vectors: it takes M * V + V + 1 registers.
constexpr int tile_rows(int vectors) { return std::min((registers - 1 - vectors) / vectors, 14); }

// ---- between memory and registers
template <class T>
TL_INLINE Vec<T> load_some(const T* p, std::int64_t n) {
    return n >= lanes<T> ? load(p) : load_first(p, n);
}

template <class T>
TL_INLINE void store_some(T* p, std::int64_t n, const Vec<T>& v) {
    if (n >= lanes<T>)
        store(p, v);
    else
        store_first(p, n, v);
}

// Vectors as rows: row k's lane l goes to row l's lane k. Parts are exchanged at a distance of 1, 2, 4, ...
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TL_SHUFFLES 1
#endif
#endif
#ifdef TL_SHUFFLES
template <int S, class T, int... L>
TL_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, L...>) {
    const Vec<T> low = __builtin_shufflevector(a, b, (L & S ? lanes<T> + L - S : L)...);
    b = __builtin_shufflevector(a, b, (L & S ? lanes<T> + L : L + S)...);
    a = low;
}

template <class T, int S = 1>
TL_INLINE void transpose(Vec<T> (&r)[lanes<T>]) {
    for (int i = 0; i < lanes<T>; ++i)
        if (!(i & S)) exchange<S, T>(r[i], r[i + S], std::make_integer_sequence<int, lanes<T>>());
    if constexpr (2 * S < lanes<T>) transpose<T, 2 * S>(r);
}
#else
template <class T>
TL_INLINE void transpose(Vec<T> (&r)[lanes<T>]) {
    for (int i = 0; i < lanes<T>; ++i)
        for (int l = 0; l < i; ++l) {
            const T kept = r[i][l];
            r[i][l] = r[l][i], r[l][i] = kept;
        }
}
#endif

// ---- the tile
template <class T>
struct Spot {  // where a tile lies in its block: its first row and column, and how many columns there are from there
    std::int64_t i, j, cols;
    const T* b;
    std::int64_t b_row;
};

// What is done to n neighbours of c, from (i, j) on, before they are stored.
enum class Rest { store, add, all };

template <Rest R, class T>
TL_INLINE void finish_vector(const Block<T>& p, std::int64_t i, std::int64_t j, std::int64_t n, Vec<T> y) {
    T* c = p.c + i * p.c_row + j;
    if (R == Rest::add || (R == Rest::all && p.add)) y += load_some(c, n);
    if (R == Rest::all) {
        if (p.bias) y += load_some(p.bias + j, n);
        if (p.residual) y += load_some(p.residual + i * p.residual_row + j, n);
        if (p.act == Act::relu) y = relu<T>(y);
    }
    store_some(c, n, y);
}

template <Rest R, int M, int V, class T>
TL_INLINE void finish(const Block<T>& p, const Spot<T>& s, Vec<T> (&acc)[M][V]) {
    const std::int64_t last = s.cols - (V - 1) * lanes<T>;  // elements of the last vector, or more
    for (int i = 0; i < M; ++i)
        for (int v = 0; v < V; ++v)
            finish_vector<R, T>(p, s.i + i, s.j + v * lanes<T>, v < V - 1 ? lanes<T> : last, acc[i][v]);
}

// The same where the rows of c run along the tile's columns.
template <Rest R, int M, int V, class T>
TL_INLINE void finish_across(const Block<T>& p, const Spot<T>& s, Vec<T> (&acc)[M][V]) {
    for (int v = 0; v < V; ++v)
        for (int i = 0; i < M; i += lanes<T>) {
            Vec<T> r[lanes<T>] = {};
            for (int l = 0; l < lanes<T> && i + l < M; ++l) r[l] = acc[i + l][v];
            transpose<T>(r);
            const std::int64_t rows = s.cols - v * lanes<T>;
            for (int l = 0; l < lanes<T>; ++l)
                if (l < rows)
                    finish_vector<R, T>(p, s.j + v * lanes<T> + l, s.i + i, std::min(M - i, lanes<T>), r[l]);
        }
}

// With Part the last vector of b's rows is read in part (AVX-512); else b has whole vectors.
template <int M, int V, bool Part, bool Across, class T>
static void one_tile(const Block<T>& p, const Spot<T>& s) {
    Vec<T> acc[M][V] = {};
    const T *a = p.a.data + s.i * p.a.row, *b = s.b;
    const std::int64_t row = p.a.row, col = p.a.col, last = s.cols - (V - 1) * lanes<T>;
    if (!Across && p.residual)  // short pieces of rows that lie apart: they come while the sums are made
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v)
                __builtin_prefetch(p.residual + (s.i + i) * p.residual_row + s.j + v * lanes<T>);
    for (std::int64_t k = 0; k < p.steps; ++k, a += col, b += s.b_row) {
        Vec<T> c[V];
        for (int v = 0; v < V - 1; ++v) c[v] = load(b + v * lanes<T>);
        c[V - 1] = Part ? load_first(b + (V - 1) * lanes<T>, last) : load(b + (V - 1) * lanes<T>);
        for (int i = 0; i < M; ++i) {
            const Vec<T> one = all(a[i * row]);
            for (int v = 0; v < V; ++v) acc[i][v] += one * c[v];
        }
    }
    if constexpr (Across)
        p.plain && !p.add ? finish_across<Rest::store, M, V, T>(p, s, acc)
                          : finish_across<Rest::all, M, V, T>(p, s, acc);
    else if (p.plain)
        p.add ? finish<Rest::add, M, V, T>(p, s, acc) : finish<Rest::store, M, V, T>(p, s, acc);
    else
        finish<Rest::all, M, V, T>(p, s, acc);
}

template <class T>
using Tile = void (*)(const Block<T>&, const Spot<T>&);

template <class T, int V, bool Part, bool Across, int... M>
static Tile<T> pick_rows(std::int64_t rows, std::integer_sequence<int, M...>) {
    static constexpr Tile<T> table[] = {one_tile<M + 1, V, Part, Across, T>...};
    return table[rows - 1];
}

template <class T, bool Part, bool Across, int... V>
static Tile<T> pick_tile(std::int64_t rows, std::int64_t vectors, std::integer_sequence<int, V...>) {
    Tile<T> found = nullptr;
    ((vectors == V + 1 && (found = pick_rows<T, V + 1, Part, Across>(
                               rows, std::make_integer_sequence<int, tile_rows(V + 1)>()))) ||
     ...);
    return found;
}

// y = act(y), element by element; y itself is kept where that is asked for.
template <Act A, class T>
static void activate_as(const Block<T>& p, std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t cols) {
    const std::int64_t whole = cols / lanes<T> * lanes<T>, by = p.c_row;
    T *c = p.c + i * by + j, *pre = p.pre ? p.pre + i * by + j : nullptr;
    for (std::int64_t r = 0; r < rows; ++r, c += by, pre += pre ? by : 0) {
        for (std::int64_t s = 0; s < whole; s += lanes<T>) {
            const Vec<T> y = load(c + s);
            if (pre) store(pre + s, y);
            store(c + s, act<A, T>(y));
        }
        if (whole == cols) continue;
        const Vec<T> y = load_first(c + whole, cols - whole);
        if (pre) store_first(pre + whole, cols - whole, y);
        store_first(c + whole, cols - whole, act<A, T>(y));
    }
}

// What relu is to a tile in registers, the other functions are to one that is still in the cache.
template <class T>
static void activate(const Block<T>& p, std::int64_t i, std::int64_t rows, std::int64_t j, std::int64_t cols) {
    switch (p.act) {
        case Act::gelu: return activate_as<Act::gelu, T>(p, i, rows, j, cols);
        case Act::gelu_tanh: return activate_as<Act::gelu_tanh, T>(p, i, rows, j, cols);
        case Act::tanh: return activate_as<Act::tanh, T>(p, i, rows, j, cols);
        case Act::sigmoid: return activate_as<Act::sigmoid, T>(p, i, rows, j, cols);
        default: return;
    }
}

// One panel of columns for all rows of the block.
template <bool Part, bool Across, class T>
static void panel(const Block<T>& p, Spot<T> s) {
    const std::int64_t vectors = (std::min(s.cols, p.panel) + lanes<T> - 1) / lanes<T>;
    const std::make_integer_sequence<int, Across ? across_vectors : most_vectors> of;
    const int most = tile_rows(static_cast<int>(vectors)), rows = static_cast<int>(p.rows);
    const int tiles = (rows + most - 1) / most, low = rows / tiles, higher = rows - low * tiles;
    const std::int64_t cols = std::min(s.cols, p.panel);
    const auto down_to = [&](std::int64_t end, int height) {
        const Tile<T> tile = pick_tile<T, Part, Across>(height, vectors, of);
        for (; s.i < end; s.i += height) {
            tile(p, s);
            if (!Across) activate(p, s.i, height, s.j, cols);
        }
    };
    down_to((tiles - higher) * low, low);  // tiles have `low` rows or one more
    if (higher) down_to(rows, low + 1);
    if (Across) activate(p, s.j, cols, 0, p.rows);
}

template <class T>
static void multiply_rows(const Block<T>& p) {
    for (std::int64_t j = 0; j < p.cols; j += p.panel) {
        const std::int64_t left = p.cols - j, cols = std::min(left, p.panel);
        const std::int64_t whole = (cols + lanes<T> - 1) / lanes<T> * lanes<T>;
        const Spot<T> spot{0, j, left, p.packed ? p.b.data + j * p.steps : p.b.data + j, p.packed ? whole : p.b.row};
        const bool part = TL_LEVEL == 2 && !p.packed && cols < whole;
        if (p.across)
            part ? panel<TL_LEVEL == 2, true>(p, spot) : panel<false, true>(p, spot);
        else
            part ? panel<TL_LEVEL == 2, false>(p, spot) : panel<false, false>(p, spot);
    }
}

// A sum of one step: nothing to keep in registers, so c is written row by row. (A panel of one step is a run.)
template <Rest R, class T>
static void one_step(const Block<T>& p) {
    for (std::int64_t i = 0; i < p.rows; ++i) {
        const Vec<T> one = all(p.a.data[i * p.a.row]);
        for (std::int64_t j = 0; j < p.cols; j += lanes<T>) {
            Vec<T> y = {};
            y += one * load_some(p.b.data + j, p.cols - j);
            finish_vector<R, T>(p, i, j, p.cols - j, y);
        }
    }
    activate(p, 0, p.rows, 0, p.cols);
}

// As many rows at a time as leave a, a panel of b and c near.
template <class T>
static void multiply(const Block<T>& p) {
    if (p.steps == 1 && !p.across) return p.plain && !p.add ? one_step<Rest::store>(p) : one_step<Rest::all>(p);
    const std::int64_t most = p.steps < 16 ? 24 : 120, cuts = (p.rows + most - 1) / most;
    for (std::int64_t t = 0; t < cuts; ++t) {
        Block<T> some = p;
        const std::int64_t i = t * p.rows / cuts, by = p.across ? 1 : p.c_row;
        some.rows = (t + 1) * p.rows / cuts - i, some.a.data += i * p.a.row, some.c += i * by;
        if (p.pre) some.pre += i * by;
        if (p.residual) some.residual += i * (p.across ? 1 : p.residual_row);
        if (p.bias && p.across) some.bias += i;
        multiply_rows(some);
    }
}

// ---- packing
// A vector's width of columns, to[k * to_row + l] = b(k, l), for `cols` <= lanes of them; zeros fill up.
template <class T>
TL_INLINE void pack_vector(std::int64_t steps, std::int64_t cols, Matrix<T> b, T* to, std::int64_t to_row) {
    if (b.col == 1) {
        for (std::int64_t k = 0; k < steps; ++k) store(to + k * to_row, load_some(b.data + k * b.row, cols));
        return;
    }
    if (b.row == 1) {
        for (std::int64_t k = 0; k < steps; k += lanes<T>) {
            const std::int64_t n = std::min<std::int64_t>(lanes<T>, steps - k);
            Vec<T> r[lanes<T>];
            for (int l = 0; l < lanes<T>; ++l) r[l] = l < cols ? load_some(b.data + k + l * b.col, n) : Vec<T>{};
            transpose<T>(r);
            for (int l = 0; l < lanes<T>; ++l)
                if (l < n) store(to + (k + l) * to_row, r[l]);
        }
        return;
    }
    for (std::int64_t k = 0; k < steps; ++k) {
        T row[lanes<T>] = {};
        for (std::int64_t l = 0; l < cols; ++l) row[l] = b.data[k * b.row + l * b.col];
        store(to + k * to_row, load(row));
    }
}

// One panel of b's columns as `multiply` wants it.
template <class T>
static void pack(std::int64_t steps, std::int64_t cols, Matrix<T> b, T* to) {
    const std::int64_t whole = (cols + lanes<T> - 1) / lanes<T> * lanes<T>;
    for (std::int64_t j = 0; j < cols; j += lanes<T>)
        pack_vector<T>(steps, std::min<std::int64_t>(lanes<T>, cols - j), {b.data + j * b.col, b.row, b.col}, to + j,
                       whole);
}

// ---- inner products, for a few columns: a's rows and b's columns are runs
// M rows by N columns, with U sums side by side of each: one row alone is read as a single stream.
template <int M, int N, int U, class T>
static void some_dots(const Block<T>& p, std::int64_t i, std::int64_t j) {
    constexpr int L = lanes<T>, count = M * N;
    Vec<T> acc[U][count] = {};
    const T *a = p.a.data + i * p.a.row, *b = p.b.data + j * p.b.col;
    const auto step = [&](Vec<T>(&to)[count], std::int64_t k, std::int64_t n) __attribute__((always_inline)) {
        Vec<T> c[N];
        for (int s = 0; s < N; ++s) c[s] = load_some(b + s * p.b.col + k, n);
        for (int r = 0; r < M; ++r) {
            const Vec<T> one = load_some(a + r * p.a.row + k, n);
            for (int s = 0; s < N; ++s) to[r * N + s] += one * c[s];
        }
    };
    std::int64_t k = 0;
    for (; k + U * L <= p.steps; k += U * L)
        for (int u = 0; u < U; ++u) step(acc[u], k + u * L, L);
    for (; k < p.steps; k += L) step(acc[0], k, p.steps - k);
    for (int u = 1; u < U; ++u)
        for (int q = 0; q < count; ++q) acc[0][q] += acc[u][q];
    const auto keep = [&](int q, T y) {
        T& c = p.across ? p.c[(j + q % N) * p.c_row + i + q / N] : p.c[(i + q / N) * p.c_row + j + q % N];
        c = p.add ? c + y : y;
    };
    if (count < 3) {
        for (int q = 0; q < count; ++q) keep(q, sum<T>(acc[0][q]));
        return;
    }
    for (int q = 0; q < count; q += L) {  // as many sums at once as a vector holds
        Vec<T> r[L] = {};
        for (int l = 0; l < L && q + l < count; ++l) r[l] = acc[0][q + l];
        transpose<T>(r);
        for (int n = L / 2; n; n /= 2)
            for (int l = 0; l < n; ++l) r[l] += r[l + n];
        for (int l = 0; l < L && q + l < count; ++l) keep(q + l, r[0][l]);
    }
}

// A row's sums are the same ones whatever rows are made beside it.
template <int N, class T>
static void dots_of(const Block<T>& p, std::int64_t j) {
    constexpr int M = registers == 32 ? 4 : 2, U = N == 1 ? 2 : 1;
    std::int64_t i = 0;
    if (N == 1 && p.steps >= 64 * lanes<T>)  // one long row at a time suits memory best
        for (; i < p.rows; ++i) some_dots<1, N, 8>(p, i, j);
    for (; i + M <= p.rows; i += M) some_dots<M, N, U>(p, i, j);
    for (; i < p.rows; ++i) some_dots<1, N, U>(p, i, j);
}

template <class T>
static void dots(const Block<T>& p) {
    for (std::int64_t j = 0; j < p.cols; j += 4) {
        const std::int64_t n = p.cols - j;
        n == 1 ? dots_of<1>(p, j) : n == 2 ? dots_of<2>(p, j) : n == 3 ? dots_of<3>(p, j) : dots_of<4>(p, j);
    }
}

template <class T>
static Kernel<T> kernel() {
    return {lanes<T>, most_vectors, across_vectors, tile_rows(most_vectors), TL_LEVEL == 2, multiply<T>, pack<T>,
            dots<T>};
}
