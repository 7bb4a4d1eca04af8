// Losses of pairs of numbers, element by element or summed, and their gradient. Included by each_isa.h.

#define TL_ALWAYS __attribute__((always_inline))

// exp of numbers that are not above 0.
template <class V>
TL_INLINE V exp_below(const V& x) {
    V shifted;
    const V p = split_exp(larger(V{} + Format<Element<V>>::least, x), shifted);
    return times_power(p + Element<V>(1), shifted);
}

// log(1 + e) for e from 0 to 1: 2 s (1 + z P(z)) with s = e / (2 + e), z = s^2. The polynomial
// errs by 4e-10 (float) and 2.4e-17 (double) at most.
template <class V>
TL_INLINE V log1p_of_part(const V& e) {
    using T = Element<V>;
    const V s = e / (e + T(2)), z = s * s, twice = s + s;
    V p;
    if constexpr (sizeof(T) == 4) {
        static constexpr T c[] = {1.161216461e-01f, 1.085328790e-01f, 1.429617900e-01f, 1.999985317e-01f, 3.333333366e-01f};
        p = polynomial(z, c);
    } else {
        static constexpr T c[] = {0.07815288900461426, 0.03746071897775383, 0.05422589197440007, 0.05867139530651599,
                           0.06667589315724629, 0.07692271982430275, 0.09090909948981357, 0.11111111099118386,
                           0.1428571428580005, 0.19999999999999762, 0.3333333333333333};
        p = polynomial(z, c);
    }
    return twice * z * p + twice;
}

// Each has the loss of a pair, and its slope along x.
template <class T>
struct Squared {
    T two;  // shared out among the pairs of a mean here, so that a slope is inf where PyTorch's is
    explicit Squared(const Pairs& f) : two(static_cast<T>(f.mean ? 2.0 / static_cast<double>(f.count) : 2.0)) {}
    TL_ALWAYS Vec<T> value(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> d = x - t;
        return d * d;
    }
    TL_ALWAYS Vec<T> slope(const Vec<T>& x, const Vec<T>& t) const { return (x - t) * two; }
};

template <class T>
struct Absolute {
    explicit Absolute(const Pairs&) {}
    TL_ALWAYS Vec<T> value(const Vec<T>& x, const Vec<T>& t) const { return without_sign(x - t); }
    TL_ALWAYS Vec<T> slope(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> d = x - t, one = all(T(1));
        return d > Vec<T>{} ? one : d < Vec<T>{} ? -one : d;  // 0 and nan stay
    }
};

// A parabola up to `bound`, then a line of slope `steep`.
template <class T>
struct Huber {
    T bound, steep, curve;
    explicit Huber(const Pairs& f) : bound(static_cast<T>(f.bound)), steep(static_cast<T>(f.steep)) {
        curve = static_cast<T>(f.steep / f.bound);
    }
    TL_ALWAYS Vec<T> value(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> d = without_sign(x - t);
        return d <= all(bound) ? d * d * (T(0.5) * curve) : (d - T(0.5) * bound) * steep;
    }
    TL_ALWAYS Vec<T> slope(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> d = x - t;
        return d > all(bound) ? all(steep) : d < all(-bound) ? all(-steep) : d * curve;
    }
};

// Binary cross-entropy of sigmoid(x): (1 - t) x - log(sigmoid(x)).
template <class T>
struct Logits {
    explicit Logits(const Pairs&) {}
    TL_ALWAYS Vec<T> value(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> rest = log1p_of_part(exp_below(-without_sign(x)));
        return ((T(1) - t) * x - smaller(Vec<T>{}, x)) + rest;
    }
    TL_ALWAYS Vec<T> slope(const Vec<T>& x, const Vec<T>& t) const {
        const Vec<T> e = exp_below(-without_sign(x));
        return (x < Vec<T>{} ? e : all(T(1))) / (e + T(1)) - t;
    }
};

template <class T, class F>
TL_INLINE void each_value(const F& f, std::int64_t n, const T* x, const T* t, T* y) {
    std::int64_t k = 0;
    for (; k + lanes<T> <= n; k += lanes<T>) store(y + k, f.value(load(x + k), load(t + k)));
    if (k < n) store_first(y + k, n - k, f.value(load_first(x + k, n - k), load_first(t + k, n - k)));
}

// Vectors are added up within a block of some thousand numbers, the blocks in float64.
template <class T, class F>
TL_INLINE double sum_of_values(const F& f, std::int64_t n, const T* x, const T* t) {
    double total = 0;
    const auto term = [&](std::int64_t k) TL_ALWAYS { return f.value(load(x + k), load(t + k)); };
    for (std::int64_t k = 0; k < n;) {
        const std::int64_t end = std::min(n, k + 64 * lanes<T>);
        Vec<T> a = {}, b = {};
        for (; k + 2 * lanes<T> <= end; k += 2 * lanes<T>) a += term(k), b += term(k + lanes<T>);
        if (k + lanes<T> <= end) a += term(k), k += lanes<T>;
        a += b;
        T last[lanes<T>] = {};
        if (k < end) {
            each_value(f, end - k, x + k, t + k, last);
            a += load(last);
            k = end;
        }
        total += static_cast<double>(sum<T>(a));
    }
    return total;
}

// The losses of n pairs into y; without y their sum is the result.
template <class T>
double pair_losses(const Pairs& p, std::int64_t n, const T* x, const T* t, T* y) {
    const auto run = [&](const auto& f) TL_ALWAYS {
        if (!y) return sum_of_values(f, n, x, t);
        each_value(f, n, x, t, y);
        return 0.0;
    };
    switch (p.kind) {
        case Kind::squared: return run(Squared<T>(p));
        case Kind::absolute: return run(Absolute<T>(p));
        case Kind::huber: return run(Huber<T>(p));
        default: return run(Logits<T>(p));
    }
}

// Slopes times what each pair has of the incoming gradient: share[k], or `one` where there is no share.
template <class T, class F>
TL_INLINE void each_slope(const F& f, std::int64_t n, const T* share, T one, const T* x, const T* t, T* dx) {
    const Vec<T> same = all(one);
    std::int64_t k = 0;
    if (share) {
        for (; k + lanes<T> <= n; k += lanes<T>) store(dx + k, f.slope(load(x + k), load(t + k)) * load(share + k));
    } else {
        for (; k + lanes<T> <= n; k += lanes<T>) store(dx + k, f.slope(load(x + k), load(t + k)) * same);
    }
    if (k == n) return;
    const Vec<T> v = f.slope(load_first(x + k, n - k), load_first(t + k, n - k));
    store_first(dx + k, n - k, v * (share ? load_first(share + k, n - k) : same));
}

template <class T>
void pair_losses_dx(const Pairs& p, std::int64_t n, const T* share, T one, const T* x, const T* t, T* dx) {
    switch (p.kind) {
        case Kind::squared: return each_slope(Squared<T>(p), n, share, one, x, t, dx);
        case Kind::absolute: return each_slope(Absolute<T>(p), n, share, one, x, t, dx);
        case Kind::huber: return each_slope(Huber<T>(p), n, share, one, x, t, dx);
        default: return each_slope(Logits<T>(p), n, share, one, x, t, dx);
    }
}
