// The loops of gemm.cpp: packing, and the product of a block of rows with packed or in-place columns.
//
// A tile of c, M rows by V vectors, stays in registers while it runs through all steps. Columns come in panels of
// `panel_vectors` vectors, the last one of fewer; the rows of a block are cut into tiles of nearly equal height. An
// element is the same sum in the same order in whatever tile it falls.

template <class T>
constexpr int panel_vectors = registers == 32 ? 4 : 2;

// The most rows of a tile of so many vectors: M * V + V + 1 registers.
constexpr int tile_rows(int vectors) { return std::min((registers - 1 - vectors) / vectors, 14); }

// ---- elements between memory and registers; only with AVX-512 is reading a part of a vector as quick as all of it
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

// ---- the tile
template <class T>
struct Spot {  // where a tile lies in its block: its first row and column, and how many columns there are from there
    std::int64_t i, j, cols;
    const T* b;
    std::int64_t b_row;
};

// What comes after the sum: what lies in c, the epilogue, and storing. `cols` counts from the tile's first column.
template <int M, int V, class T>
TL_INLINE void finish(const Block<T>& p, const Spot<T>& s, Vec<T> (&acc)[M][V]) {
    T* c = p.c + s.i * p.c_row + s.j;
    const std::int64_t last = s.cols - (V - 1) * lanes<T>;  // elements in the last vector
    const auto each = [&](auto f) __attribute__((always_inline)) {
        for (int i = 0; i < M; ++i) {
            for (int v = 0; v < V - 1; ++v) f(i, v, lanes<T>);
            f(i, V - 1, last);
        }
    };
    if (p.add) each([&](int i, int v, std::int64_t n) { acc[i][v] += load_some(c + i * p.c_row + v * lanes<T>, n); });
    if (p.bias) {
        Vec<T> bias[V];
        for (int v = 0; v < V; ++v) bias[v] = load_some(p.bias + s.j + v * lanes<T>, v < V - 1 ? lanes<T> : last);
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] += bias[v];
    }
    if (p.residual) {
        const T* from = p.residual + s.i * p.residual_row + s.j;
        each([&](int i, int v, std::int64_t n) {
            acc[i][v] += load_some(from + i * p.residual_row + v * lanes<T>, n);
        });
    }
    if (p.relu)
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = acc[i][v] < T(0) ? Vec<T>{} : acc[i][v];  // nan stays
    each([&](int i, int v, std::int64_t n) { store_some(c + i * p.c_row + v * lanes<T>, n, acc[i][v]); });
}

// With Part the last vector of b's rows is read in part (AVX-512); else b has whole vectors.
template <int M, int V, bool Part, class T>
static void one_tile(const Block<T>& p, const Spot<T>& s) {
    Vec<T> acc[M][V] = {};
    const T *a = p.a + s.i * p.a_row, *b = s.b;
    const std::int64_t row = p.a_row, col = p.a_col, last = std::min<std::int64_t>(s.cols - (V - 1) * lanes<T>, lanes<T>);
    for (std::int64_t k = 0; k < p.steps; ++k, a += col, b += s.b_row) {
        Vec<T> c[V];
        for (int v = 0; v < V - 1; ++v) c[v] = load(b + v * lanes<T>);
        c[V - 1] = Part ? load_first(b + (V - 1) * lanes<T>, last) : load(b + (V - 1) * lanes<T>);
        for (int i = 0; i < M; ++i) {
            const Vec<T> one = all(a[i * row]);
            for (int v = 0; v < V; ++v) acc[i][v] += one * c[v];
        }
    }
    finish<M, V, T>(p, s, acc);
}

template <class T>
using Tile = void (*)(const Block<T>&, const Spot<T>&);

template <class T, int V, bool Part, int... M>
static Tile<T> pick_rows(std::int64_t rows, std::integer_sequence<int, M...>) {
    static constexpr Tile<T> table[] = {one_tile<M + 1, V, Part, T>...};
    return table[rows - 1];
}

template <class T, bool Part, int... V>
static Tile<T> pick_tile(std::int64_t rows, std::int64_t vectors, std::integer_sequence<int, V...>) {
    Tile<T> found = nullptr;
    ((vectors == V + 1 &&
      (found = pick_rows<T, V + 1, Part>(rows, std::make_integer_sequence<int, tile_rows(V + 1)>()))) ||
     ...);
    return found;
}

// One panel of columns for all rows of the block.
template <bool Part, class T>
TL_INLINE void panel(const Block<T>& p, Spot<T> s) {
    const std::int64_t vectors = (std::min<std::int64_t>(s.cols, panel_vectors<T> * lanes<T>) + lanes<T> - 1) / lanes<T>;
    const std::int64_t most = tile_rows(static_cast<int>(vectors)), tiles = (p.rows + most - 1) / most;
    const auto of = std::make_integer_sequence<int, panel_vectors<T>>();
    const std::int64_t low = p.rows / tiles;  // tiles have this many rows or one more
    const Tile<T> lower = pick_tile<T, Part>(low, vectors, of);
    const Tile<T> higher = p.rows % tiles ? pick_tile<T, Part>(low + 1, vectors, of) : lower;
    for (std::int64_t t = 0; t < tiles; ++t) {
        s.i = t * p.rows / tiles;
        const std::int64_t end = (t + 1) * p.rows / tiles;
        (end - s.i == low ? lower : higher)(p, s);
    }
}

template <class T>
static void multiply(const Block<T>& p) {
    constexpr std::int64_t wide = panel_vectors<T> * lanes<T>;
    for (std::int64_t j = 0; j < p.cols; j += wide) {
        const std::int64_t cols = p.cols - j, whole = std::min(wide, (cols + lanes<T> - 1) / lanes<T> * lanes<T>);
        if (p.packed)
            panel<false>(p, {0, j, cols, p.b + j * p.steps, whole});
        else if (TL_LEVEL == 2 && cols < whole)
            panel<TL_LEVEL == 2>(p, {0, j, cols, p.b + j, p.b_row});
        else
            panel<false>(p, {0, j, cols, p.b + j, p.b_row});
    }
}

// ---- packing
// Vectors as rows: row k's lane l goes to row l's lane k. Halves are exchanged at a distance of 1, 2, 4, ...
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

template <int S, class T>
TL_INLINE void transpose(Vec<T> (&r)[lanes<T>]) {
    for (int i = 0; i < lanes<T>; ++i)
        if (!(i & S)) exchange<S, T>(r[i], r[i + S], std::make_integer_sequence<int, lanes<T>>());
    if constexpr (2 * S < lanes<T>) transpose<2 * S, T>(r);
}
#else
template <int S, class T>
TL_INLINE void transpose(Vec<T> (&r)[lanes<T>]) {
    for (int i = 0; i < lanes<T>; ++i)
        for (int l = 0; l < i; ++l) {
            const T kept = r[i][l];
            r[i][l] = r[l][i], r[l][i] = kept;
        }
}
#endif

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
            for (int l = 0; l < lanes<T>; ++l)
                r[l] = l < cols ? load_some(b.data + k + l * b.col, n) : Vec<T>{};
            transpose<1, T>(r);
            for (int l = 0; l < lanes<T>; ++l)
                if (l < n) store(to + (k + l) * to_row, r[l]);
        }
        return;
    }
    for (std::int64_t k = 0; k < steps; ++k) {
        Vec<T> v = {};
        for (std::int64_t l = 0; l < cols; ++l) v[l] = b.data[k * b.row + l * b.col];
        store(to + k * to_row, v);
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

template <class T>
static Kernel<T> kernel() {
    return {lanes<T>, panel_vectors<T> * lanes<T>, tile_rows(panel_vectors<T>), TL_LEVEL == 2, multiply<T>, pack<T>};
}
