// The steps of optimizers on a stretch of one parameter, and scaling and sums of a stretch. Included by each_isa.h.
//
// A rule sees vectors v[0] = p, v[1] = g, then the states, and leaves what they become; g is not stored. Its numbers are
// how.c and row.s, rounded to T as the plain forward rounds them.

template <class T, int K, class Rule>
TL_INLINE void each(const tl::Stretch<T>& row, Rule rule) {
    const auto some = [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
        Vec<T> v[K];
        for (int k = 0; k < K; ++k) v[k] = load_first(row.at[k] + i, n);
        rule(v);
        for (int k = 0; k < K; ++k)
            if (k != 1) store_first(row.at[k] + i, n, v[k]);
    };
    // Large arrays mostly lie alike to the vectors: begun at a vector of one, no access of any crosses a cache line.
    const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(row.at[0]) / sizeof(T)) % lanes<T>;
    std::int64_t i = past && row.n > 8 * lanes<T> ? lanes<T> - past : 0;
    if (i) some(0, i);
    for (; i + lanes<T> <= row.n; i += lanes<T>) {
        Vec<T> v[K];
        for (int k = 0; k < K; ++k) v[k] = load(row.at[k] + i);
        rule(v);
        for (int k = 0; k < K; ++k)
            if (k != 1) store(row.at[k] + i, v[k]);
    }
    if (i < row.n) some(i, row.n - i);
}

// c: momentum, 1 - dampening, weight decay; s: the rate
template <class T, bool momentum>
static void sgd(const tl::How<T>& how, const tl::Stretch<T>& row) {
    const T keep = how.c[0], share = how.c[1], decay = how.c[2], rate = row.s[0];
    const bool first = how.first, nesterov = how.nesterov, maximize = how.maximize, decays = how.decay;
    each<T, 2 + momentum>(row, [=](Vec<T>* v) __attribute__((always_inline)) {
        Vec<T> d = maximize ? -v[1] : v[1];
        if (decays) d += v[0] * decay;
        if constexpr (momentum) {
            v[2] = first ? d : v[2] * keep + d * share;
            d = nesterov ? v[2] * keep + d : v[2];
        }
        v[0] -= d * rate;
    });
}

// c: 1 - beta1, beta2, 1 - beta2, weight decay (decoupled: what p is multiplied by); s: eps and the rate, corrected
template <class T, bool amsgrad>
static void adam(const tl::How<T>& how, const tl::Stretch<T>& row) {
    const T keep1 = how.c[0], beta2 = how.c[1], keep2 = how.c[2], decay = how.c[3], eps = row.s[0], rate = row.s[1];
    const bool shrinks = how.decay && how.decoupled, decays = how.decay && !how.decoupled, maximize = how.maximize;
    each<T, 4 + amsgrad>(row, [=](Vec<T>* v) __attribute__((always_inline)) {
        Vec<T> g = maximize ? -v[1] : v[1];
        if (shrinks) v[0] *= decay;
        if (decays) g += v[0] * decay;
        v[2] += (g - v[2]) * keep1;
        v[3] = v[3] * beta2 + g * g * keep2;
        Vec<T> square = v[3];
        if constexpr (amsgrad) square = v[4] = v[4] == v[4] ? larger(v[4], v[3]) : v[4];  // nan stays
        v[0] -= v[2] / (square_root(square) + eps) * rate;
    });
}

// c: alpha, 1 - alpha, eps, weight decay, momentum; s: the rate; the states are v, [mean of g], [momentum buffer]
template <class T, bool centered, bool momentum>
static void rmsprop(const tl::How<T>& how, const tl::Stretch<T>& row) {
    const T alpha = how.c[0], share = how.c[1], eps = how.c[2], decay = how.c[3], keep = how.c[4], rate = row.s[0];
    const bool maximize = how.maximize, decays = how.decay;
    each<T, 3 + centered + momentum>(row, [=](Vec<T>* v) __attribute__((always_inline)) {
        Vec<T> g = maximize ? -v[1] : v[1];
        if (decays) g += v[0] * decay;
        v[2] = v[2] * alpha + g * g * share;
        Vec<T> square = v[2];
        if constexpr (centered) {
            v[3] += (g - v[3]) * share;
            square -= v[3] * v[3];
        }
        Vec<T> d = g / (square_root(square) + eps);
        if constexpr (momentum) d = v[3 + centered] = v[3 + centered] * keep + d;
        v[0] -= d * rate;
    });
}

// c: eps, weight decay; s: the rate
template <class T>
static void adagrad(const tl::How<T>& how, const tl::Stretch<T>& row) {
    const T eps = how.c[0], decay = how.c[1], rate = row.s[0];
    const bool maximize = how.maximize, decays = how.decay;
    each<T, 3>(row, [=](Vec<T>* v) __attribute__((always_inline)) {
        Vec<T> g = maximize ? -v[1] : v[1];
        if (decays) g += v[0] * decay;
        v[2] += g * g;
        v[0] -= g / (square_root(v[2]) + eps) * rate;
    });
}

// s: the factor
template <class T>
static void scale(const tl::How<T>&, const tl::Stretch<T>& row) {
    const T factor = row.s[0];
    if (factor == 1) return;
    each<T, 1>(row, [=](Vec<T>* v) __attribute__((always_inline)) { v[0] *= factor; });
}

typedef float Narrow __attribute__((vector_size(TL_BYTES / 2), aligned(4), may_alias));  // as many as doubles in a Vec

TL_INLINE Vec<double> as_double(const float* p) {
    return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), Vec<double>);
}
TL_INLINE Vec<double> as_double(const double* p) { return load(p); }

// The sum of |x| (kind 1) or x x (kind 2), or the greatest |x| (kind 0, nan if there is one), in double.
template <class T, int kind>
static double total(const T* x, std::int64_t n) {
    constexpr int w = lanes<double>, many = 4;
    typedef decltype(Vec<double>{} == Vec<double>{}) Mask;
    Vec<double> acc[many] = {};
    Mask bad = {};
    const auto take = [&](Vec<double>& a, const Vec<double>& v) __attribute__((always_inline)) {
        const Vec<double> size = v < 0 ? -v : v;
        if (kind == 2) a += v * v;
        if (kind == 1) a += size;
        if (kind == 0) a = larger(size, a), bad |= v != v;
    };
    std::int64_t i = 0;
    for (; i + many * w <= n; i += many * w)
        for (int k = 0; k < many; ++k) take(acc[k], as_double(x + i + k * w));
    for (; i < n; i += w) {
        double rest[w] = {};
        for (int l = 0; l < w && i + l < n; ++l) rest[l] = static_cast<double>(x[i + l]);
        take(acc[0], load(rest));
    }
    if (kind != 0) return sum<double>((acc[0] + acc[1]) + (acc[2] + acc[3]));
    for (int l = 0; l < w; ++l)
        if (bad[l]) return std::numeric_limits<double>::quiet_NaN();
    return fold<double>(larger(larger(acc[0], acc[1]), larger(acc[2], acc[3])), [](double a, double b) {
        return a > b ? a : b;
    });
}
