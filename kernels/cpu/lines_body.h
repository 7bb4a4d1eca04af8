// Lines: what is normalised together. Included by the bodies of softmax and cross-entropy, in the namespace of each
// instruction set.
//
// A line's elements follow each other (Row), or a vector holds one element each of neighbouring lines (Columns).
// `each` walks a line by vectors in four alternating places, so that sums do not wait for each other; `join` makes one
// number of a sum's four vectors, the same for each element of the line. A formula is written once for both.

#define TL_ALWAYS __attribute__((always_inline))  // of a lambda or a member

// A whole vector, or the first `count` elements of one.
template <class T>
struct Whole {
    static constexpr std::int64_t count = lanes<T>;
};
struct Part {
    std::int64_t count;
};

template <class T>
TL_INLINE Vec<T> take(const T* p, Whole<T>, T = 0) {
    return load(p);
}
template <class T>
TL_INLINE Vec<T> take(const T* p, Part part, T rest = 0) {
    return load_first(p, part.count, rest);
}
template <class T>
TL_INLINE void put(T* p, Whole<T>, const Vec<T>& v) {
    store(p, v);
}
template <class T>
TL_INLINE void put(T* p, Part part, const Vec<T>& v) {
    store_first(p, part.count, v);
}

// A vector's elements joined by f, in every element: halves are exchanged, so that both sides see the same two numbers.
template <class T, class F>
TL_INLINE Vec<T> spread_fold(Vec<T> v, F f) {
#if defined(__clang__)
    return all(fold<T>(v, f));
#else
    Ints<T> lane;
    for (int l = 0; l < lanes<T>; ++l) lane[l] = l;
    for (int n = lanes<T> / 2; n; n /= 2) v = f(v, (Vec<T>)__builtin_shuffle(v, lane ^ n));
    return v;
#endif
}

// exp of a score less its line's largest one, so d <= 0 or nan: what sums and gradients of softmax are made of. float:
// 2^t of the rounded t = d log2(e), by half the operations of exp. The relative error is at most 1.7e-7 + 7.5e-8 |d|
// (every d, in every instruction set), about what the difference's own rounding makes; exp(0) is 1 and exp(-inf) is 0.
// Without AVX-512 numbers below float's smallest usual one become 0.
TL_INLINE Vec<float> exp_below_top(const Vec<float>& d) {
    constexpr float log2e = 1.44269504f, least = -87.33f;
    const Split2 e = split_exp2((TL_LEVEL == 2 ? d : larger(all(least), d)) * log2e);
    const Vec<float> y = times_two_to(e.n, e.q * e.r + 1.0f);
    return TL_LEVEL == 2 ? y : (d < all(least) ? Vec<float>{} : y);
}
TL_INLINE Vec<double> exp_below_top(const Vec<double>& d) { return exp(d); }

constexpr int places = 4;

// The four vectors of a sum (or maximum) in one.
template <class V, class F>
TL_INLINE V four(const V (&v)[places], F f) {
    return f(f(v[0], v[1]), f(v[2], v[3]));
}

template <class T>
struct Row {
    std::int64_t n, lead = 0;  // so many elements before the first whole vector

    template <class F>
    TL_ALWAYS void each(F f) const {
        std::int64_t k = lead;
        if (lead) f(0, Part{lead}, 0);
        for (; k + places * lanes<T> <= n; k += places * lanes<T>)
            for (int s = 0; s < places; ++s) f(k + s * lanes<T>, Whole<T>{}, s);
        for (; k + lanes<T> <= n; k += lanes<T>) f(k, Whole<T>{}, 0);
        if (k < n) f(k, Part{n - k}, 0);
    }
    template <class F>
    TL_ALWAYS Vec<T> join(const Vec<T> (&v)[places], F f) const {
        return spread_fold<T>(four(v, f), f);
    }
};

// A row whose whole vectors lie on cache lines of y, for a pass that writes much. Not for sums: their order, and so
// their last bits, would follow from where memory lies.
template <class T>
TL_INLINE Row<T> on_lines(std::int64_t n, const T* y) {
    if (n < 8 * lanes<T>) return {n};
    return {n, static_cast<std::int64_t>(-reinterpret_cast<std::uintptr_t>(y) / sizeof(T) % lanes<T>)};
}

template <class T, class Width>
struct Columns {
    std::int64_t n, step;
    Width width;

    template <class F>
    TL_ALWAYS void each(F f) const {
        std::int64_t k = 0;
        for (; k + places <= n; k += places)
            for (int s = 0; s < places; ++s) f((k + s) * step, width, s);
        for (; k < n; ++k) f(k * step, width, 0);
    }
    template <class F>
    TL_ALWAYS Vec<T> join(const Vec<T> (&v)[places], F f) const {
        return four(v, f);
    }
};

// The same line for a pass that only writes y.
template <class T>
TL_INLINE Row<T> to_write(const Row<T>& line, const T* y) {
    return on_lines(line.n, y);
}
template <class T, class Width>
TL_INLINE Columns<T, Width> to_write(const Columns<T, Width>& line, const T*) {
    return line;
}

struct Larger {
    template <class V>
    TL_ALWAYS V operator()(const V& a, const V& b) const {
        return a > b ? a : b;
    }
};
struct Plus {
    template <class V>
    TL_ALWAYS V operator()(const V& a, const V& b) const {
        return a + b;
    }
};

// Asks for what the first pass will read a row from now: vectors that lie across two cache lines wait for both, and the
// processor alone does not look far enough ahead for them.
template <class T, class Line>
TL_INLINE void look_ahead(const Line& line, const T* p) {
    if constexpr (std::is_same<Line, Row<T>>::value)
        __builtin_prefetch(p + std::min<std::int64_t>(line.n, 8192 / sizeof(T)));
}

// Asks for what is read two rows from now, and for the line that will be written there: for passes that calculate so
// long that the memory would idle meanwhile.
template <class T>
TL_INLINE void look_far_ahead(const Row<T>& line, const T* p, const T* out = nullptr) {
    const std::int64_t far = std::min<std::int64_t>(2 * line.n, 8192 / sizeof(T));
    __builtin_prefetch(p + far);
    if (out) __builtin_prefetch(out + far, 1);
}

// A line's largest element. A nan may get lost here: its line's sum of exp becomes nan all the same.
template <class T, class Line>
TL_INLINE Vec<T> largest(const Line& line, const T* x) {
    const T least = -std::numeric_limits<T>::infinity();
    Vec<T> top[places];
    for (int s = 0; s < places; ++s) top[s] = all(least);
    line.each([&](std::int64_t at, auto width, int s) TL_ALWAYS {
        look_ahead(line, x + at);
        top[s] = larger(top[s], take(x + at, width, least));
    });
    return line.join(top, Larger{});
}

// The sum of f(at, width) over a line. Where width is a part of a vector, f must give 0 behind it.
template <class T, class Line, class F>
TL_INLINE Vec<T> total(const Line& line, F f) {
    Vec<T> sums[places] = {};
    line.each([&](std::int64_t at, auto width, int s) TL_ALWAYS { sums[s] += f(at, width); });
    return line.join(sums, Plus{});
}
