// The two micro-kernels of gemm.cpp, written once and included for each instruction set and element type.
// Wants the macros T (float or double), LANES (elements a vector holds), COLS (rows of w at a time in dots), VECS
// (vectors of a row at a time in rows) and NAME(x).
//
// Both keep a block of 4 x COLS or 4 x VECS vectors in registers and pack nothing: rows of x and w are read as they lie.

typedef T NAME(Vec) __attribute__((vector_size(LANES * sizeof(T)), aligned(sizeof(T)), may_alias));

static inline NAME(Vec) NAME(load)(const T* p) { return *reinterpret_cast<const NAME(Vec)*>(p); }

// The sum of a vector's elements: halves are added until four are left.
static inline T NAME(sum)(const NAME(Vec) & v) {
    typedef T Half __attribute__((vector_size(LANES / 2 * sizeof(T))));
    typedef T Quarter __attribute__((vector_size(LANES / 4 * sizeof(T))));
    Half low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    const Half half = low + high;
    Quarter first, second;
    std::memcpy(&first, &half, sizeof first);
    std::memcpy(&second, reinterpret_cast<const char*>(&half) + sizeof first, sizeof second);
    const Quarter quarter = first + second;
    T total = quarter[0];
    for (int l = 1; l < LANES / 4; ++l) total += quarter[l];
    return total;
}

// y[i, j] = sum_k x[i, k] w[j, k] (+ b[j]) for COLS columns j0.. of y: inner products of rows, along k by vectors.
static void NAME(dots)(const Sizes& s, const T* x, const T* w, const T* b, T* y, std::int64_t j0) {
    const std::int64_t n = std::min<std::int64_t>(COLS, s.n - j0), whole = s.k - s.k % LANES;
    const T* q[COLS];  // rows beyond the edge repeat the last: they are computed and dropped
    for (int j = 0; j < COLS; ++j) q[j] = w + (j0 + std::min<std::int64_t>(j, n - 1)) * s.k;
    for (std::int64_t i0 = 0; i0 < s.m; i0 += 4) {
        const std::int64_t m = std::min<std::int64_t>(4, s.m - i0);
        const T* p[4];
        for (int i = 0; i < 4; ++i) p[i] = x + (i0 + std::min<std::int64_t>(i, m - 1)) * s.k;
        NAME(Vec) acc[4][COLS] = {};
        for (std::int64_t k = 0; k < whole; k += LANES) {
            NAME(Vec) c[COLS];
            for (int j = 0; j < COLS; ++j) c[j] = NAME(load)(q[j] + k);
            for (int i = 0; i < 4; ++i) {
                const NAME(Vec) a = NAME(load)(p[i] + k);
                for (int j = 0; j < COLS; ++j) acc[i][j] += a * c[j];
            }
        }
        for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) {
                T sum = NAME(sum)(acc[i][j]);
                for (std::int64_t k = whole; k < s.k; ++k) sum += p[i][k] * q[j][k];
                y[(i0 + i) * s.n + j0 + j] = b ? sum + b[j0 + j] : sum;
            }
    }
}

// y[i, j] = sum_k a(i, k) w[k, j] for V vectors of columns from j0, with a(i, k) = x[i * xi + k * xk].
#define TL_ROWS(V)                                                                                              \
    for (std::int64_t i0 = 0; i0 < s.m; i0 += 4) {                                                              \
        const std::int64_t m = std::min<std::int64_t>(4, s.m - i0);                                             \
        const T* p[4];                                                                                          \
        for (int i = 0; i < 4; ++i) p[i] = x + (i0 + std::min<std::int64_t>(i, m - 1)) * xi;                    \
        NAME(Vec) acc[4][V] = {};                                                                               \
        for (std::int64_t k = 0; k < s.k; ++k) {                                                                \
            NAME(Vec) c[V];                                                                                     \
            for (int v = 0; v < V; ++v) c[v] = NAME(load)(w + k * s.n + j0 + v * LANES);                        \
            for (int i = 0; i < 4; ++i)                                                                         \
                for (int v = 0; v < V; ++v) acc[i][v] += p[i][k * xk] * c[v];                                   \
        }                                                                                                       \
        for (std::int64_t i = 0; i < m; ++i)                                                                    \
            for (int v = 0; v < V; ++v)                                                                         \
                std::memcpy(y + (i0 + i) * s.n + j0 + v * LANES, &acc[i][v], sizeof acc[i][v]);                 \
    }

static void NAME(rows)(const Sizes& s, const T* x, std::int64_t xi, std::int64_t xk, const T* w, T* y,
                       std::int64_t j0) {
    const std::int64_t end = std::min<std::int64_t>(s.n, j0 + VECS * LANES);
    if (end - j0 == VECS * LANES) {
        TL_ROWS(VECS)
        return;
    }
    for (; j0 + LANES <= end; j0 += LANES) { TL_ROWS(1) }
    for (std::int64_t i = 0; i < s.m && j0 < end; ++i)
        for (std::int64_t j = j0; j < end; ++j) {
            T sum = 0;
            for (std::int64_t k = 0; k < s.k; ++k) sum += x[i * xi + k * xk] * w[k * s.n + j];
            y[i * s.n + j] = sum;
        }
}
#undef TL_ROWS
