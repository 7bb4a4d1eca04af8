// Vectors of float or double, as wide as the instruction set's registers. Included by each_isa.h in the namespace of
// each instruction set (TL_LEVEL 0 baseline, 1 AVX2, 2 AVX-512; TL_BYTES a register's width); no include guard.

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(TL_BYTES), aligned(sizeof(T)), may_alias));
};
template <class T>
using Vec = typename Vector<T>::type;
template <class T>
constexpr int lanes = TL_BYTES / sizeof(T);

// Registers that a kernel may count on.
#if TL_LEVEL == 2 || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif

template <class T>
TL_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
TL_INLINE void store(T* p, const Vec<T>& v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
TL_INLINE Vec<T> all(T value) {
    return value - Vec<T>{};  // not + : that would be an addition, which changes -0
}

// a * b + c, rounded once where the processor can. Compilers join products and sums too, but where they do depends on the
// code around: two kernels that must have the same bits say it by this.
TL_INLINE Vec<float> mul_add(const Vec<float>& a, const Vec<float>& b, const Vec<float>& c) {
#if TL_LEVEL == 2
    return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif TL_LEVEL == 1
    return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

TL_INLINE Vec<double> mul_add(const Vec<double>& a, const Vec<double>& b, const Vec<double>& c) {
#if TL_LEVEL == 2
    return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif TL_LEVEL == 1
    return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

// The first n elements (0 <= n <= lanes) at p, `rest` behind them; nothing beyond them is touched.
TL_INLINE Vec<float> load_first(const float* p, std::int64_t n, float rest = 0) {
#if TL_LEVEL == 2
    return (Vec<float>)_mm512_mask_loadu_ps((__m512)all(rest), static_cast<__mmask16>((1u << n) - 1), p);
#else
    Vec<float> v = all(rest);
    for (std::int64_t l = 0; l < n; ++l) v[l] = p[l];
    return v;
#endif
}

TL_INLINE Vec<double> load_first(const double* p, std::int64_t n, double rest = 0) {
#if TL_LEVEL == 2
    return (Vec<double>)_mm512_mask_loadu_pd((__m512d)all(rest), static_cast<__mmask8>((1u << n) - 1), p);
#else
    Vec<double> v = all(rest);
    for (std::int64_t l = 0; l < n; ++l) v[l] = p[l];
    return v;
#endif
}

TL_INLINE void store_first(float* p, std::int64_t n, const Vec<float>& v) {
#if TL_LEVEL == 2
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
    for (std::int64_t l = 0; l < n; ++l) p[l] = v[l];
#endif
}

TL_INLINE void store_first(double* p, std::int64_t n, const Vec<double>& v) {
#if TL_LEVEL == 2
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
#else
    for (std::int64_t l = 0; l < n; ++l) p[l] = v[l];
#endif
}

// The larger and the smaller, element by element; where either is nan, b.
template <class V>
TL_INLINE V larger(const V& a, const V& b) {
    return a > b ? a : b;
}

template <class V>
TL_INLINE V smaller(const V& a, const V& b) {
    return a < b ? a : b;
}

// (The masked forms are the same instructions; GCC 12 warns of its own header at the others.)
TL_INLINE Vec<float> square_root(const Vec<float>& v) {
#if TL_LEVEL == 2
    return (Vec<float>)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);
#elif TL_LEVEL == 1
    return (Vec<float>)_mm256_sqrt_ps((__m256)v);
#elif defined(__x86_64__)
    return (Vec<float>)_mm_sqrt_ps((__m128)v);
#else
    Vec<float> r;
    for (int l = 0; l < lanes<float>; ++l) r[l] = std::sqrt(v[l]);
    return r;
#endif
}

TL_INLINE Vec<double> square_root(const Vec<double>& v) {
#if TL_LEVEL == 2
    return (Vec<double>)_mm512_maskz_sqrt_pd(0xff, (__m512d)v);
#elif TL_LEVEL == 1
    return (Vec<double>)_mm256_sqrt_pd((__m256d)v);
#elif defined(__x86_64__)
    return (Vec<double>)_mm_sqrt_pd((__m128d)v);
#else
    Vec<double> r;
    for (int l = 0; l < lanes<double>; ++l) r[l] = std::sqrt(v[l]);
    return r;
#endif
}

// A vector's elements joined by `f` (sum, larger), always in the same order: halves onto halves.
template <class T, class F>
TL_INLINE T fold(const Vec<T>& v, F f) {
    T part[lanes<T>];
    std::memcpy(part, &v, sizeof v);
    for (int n = lanes<T> / 2; n; n /= 2)
        for (int l = 0; l < n; ++l) part[l] = f(part[l], part[l + n]);
    return part[0];
}

template <class T>
TL_INLINE T sum(const Vec<T>& v) {
    return fold<T>(v, [](T a, T b) { return a + b; });
}

// acc[i][v] += sum over k of a(i, k) * b[k][v], for M rows and V vectors of columns: the product that every kernel is
// made of. a(i, k) = a[i * row + k * col]; the V vectors of step k lie at b + k * ldb. M * V + V + 1 registers.
template <int M, int V, class T>
TL_INLINE void tile(std::int64_t steps, const T* a, std::int64_t row, std::int64_t col, const T* b, std::int64_t ldb,
                    Vec<T> (&acc)[M][V]) {
    for (std::int64_t k = 0; k < steps; ++k, a += col, b += ldb) {
        Vec<T> c[V];
        for (int v = 0; v < V; ++v) c[v] = load(b + v * lanes<T>);
        for (int i = 0; i < M; ++i) {
            const Vec<T> one = all(a[i * row]);
            for (int v = 0; v < V; ++v) acc[i][v] += one * c[v];
        }
    }
}

// Element l of the result is element from[l] of a followed by b.
template <class T>
TL_INLINE Vec<T> pick(const Vec<T>& a, const Vec<T>& b, const decltype(Vec<T>{} > Vec<T>{}) & from) {
#if defined(__GNUC__) && !defined(__clang__)
    return __builtin_shuffle(a, b, from);
#else
    Vec<T> v;
    for (int l = 0; l < lanes<T>; ++l) v[l] = from[l] < lanes<T> ? a[from[l]] : b[from[l] - lanes<T>];
    return v;
#endif
}

// Of a followed by b: the elements of even numbers, those of odd ones; and back: what lies in turn in evens and odds.
template <class T>
TL_INLINE Vec<T> evens(const Vec<T>& a, const Vec<T>& b) {
    decltype(Vec<T>{} > Vec<T>{}) from = {};
    for (int l = 0; l < lanes<T>; ++l) from[l] = 2 * l;
    return pick<T>(a, b, from);
}

template <class T>
TL_INLINE Vec<T> odds(const Vec<T>& a, const Vec<T>& b) {
    decltype(Vec<T>{} > Vec<T>{}) from = {};
    for (int l = 0; l < lanes<T>; ++l) from[l] = 2 * l + 1;
    return pick<T>(a, b, from);
}

template <class T>
TL_INLINE Vec<T> zip_low(const Vec<T>& even, const Vec<T>& odd) {
    decltype(Vec<T>{} > Vec<T>{}) from = {};
    for (int l = 0; l < lanes<T>; ++l) from[l] = l / 2 + l % 2 * lanes<T>;
    return pick<T>(even, odd, from);
}

template <class T>
TL_INLINE Vec<T> zip_high(const Vec<T>& even, const Vec<T>& odd) {
    decltype(Vec<T>{} > Vec<T>{}) from = {};
    for (int l = 0; l < lanes<T>; ++l) from[l] = (l + lanes<T>) / 2 + l % 2 * lanes<T>;
    return pick<T>(even, odd, from);
}
