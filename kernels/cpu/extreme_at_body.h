// Where the largest (or smallest) number of a line or of each column is: the first of several, and a nan before all
// numbers. Included by each_isa.h.

TL_INLINE unsigned bits(const decltype(Vec<float>{} > Vec<float>{}) & m) {
#if TL_LEVEL == 2
    return _mm512_movepi32_mask((__m512i)m);
#elif TL_LEVEL == 1
    return static_cast<unsigned>(_mm256_movemask_ps((__m256)m));
#elif defined(__x86_64__)
    return static_cast<unsigned>(_mm_movemask_ps((__m128)m));
#else
    unsigned found = 0;
    for (int l = 0; l < lanes<float>; ++l) found |= (m[l] ? 1u : 0u) << l;
    return found;
#endif
}

TL_INLINE unsigned bits(const decltype(Vec<double>{} > Vec<double>{}) & m) {
#if TL_LEVEL == 2
    return _mm512_movepi64_mask((__m512i)m);
#elif TL_LEVEL == 1
    return static_cast<unsigned>(_mm256_movemask_pd((__m256d)m));
#elif defined(__x86_64__)
    return static_cast<unsigned>(_mm_movemask_pd((__m128d)m));
#else
    unsigned found = 0;
    for (int l = 0; l < lanes<double>; ++l) found |= (m[l] ? 1u : 0u) << l;
    return found;
#endif
}

template <class T, bool Largest>
struct ExtremeAt {
    using Mask = decltype(Vec<T>{} > Vec<T>{});
    using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
    typedef Index Indices __attribute__((vector_size(TL_BYTES), aligned(sizeof(Index)), may_alias));
    static constexpr T worst = Largest ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
    static constexpr std::int64_t L = lanes<T>;

    // The better of both; a where b is nan.
    template <class V>
    TL_INLINE V better(const V& b, const V& a) {
        return Largest ? (b > a ? b : a) : (b < a ? b : a);
    }

    template <int N, class V>
    TL_INLINE T folded(const V& v) {
        if constexpr (N == 2) {
            return better<T>(v[0], v[1]);
        } else {
            typedef T Half __attribute__((vector_size(N / 2 * sizeof(T))));
            Half low, high;
            std::memcpy(&low, &v, sizeof low);
            std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
            return folded<N / 2>(better(low, high));
        }
    }

    // Where the first number of x that is like `wanted` (the first nan where that is nan) is; there is one.
    TL_INLINE std::int64_t first(std::int64_t n, const T* x, T wanted) {
        const bool nan = wanted != wanted;
        for (std::int64_t k = 0;; k += L) {
            const std::int64_t m = std::min(L, n - k);
            const Vec<T> v = m == L ? load(x + k) : load_first(x + k, m, worst);
            unsigned found = nan ? bits(Mask(v != v)) : bits(Mask(v == all(wanted)));
            found &= (1u << m) - 1;
            if (found) return k + __builtin_ctz(found);
        }
    }

    // The line is read once, and the block with its extreme once more.
    static std::int64_t line(std::int64_t n, const T* x) {
        constexpr std::int64_t block = 64 * L;
        T best = worst;
        std::int64_t from = 0;
        for (std::int64_t at = 0; at < n; at += block) {
            const std::int64_t end = std::min(n, at + block);
            Vec<T> a = all(worst), b = a, c = a, d = a;
            Mask nan = {};
            const auto join = [&](Vec<T>& to, const Vec<T>& v) __attribute__((always_inline)) {
                to = better(v, to);
                nan |= v != v;
            };
            std::int64_t k = at;
            for (; k + 4 * L <= end; k += 4 * L) {
                join(a, load(x + k));
                join(b, load(x + k + L));
                join(c, load(x + k + 2 * L));
                join(d, load(x + k + 3 * L));
            }
            for (; k + L <= end; k += L) join(a, load(x + k));
            if (k < end) join(b, load_first(x + k, end - k, worst));
            if (bits(nan)) return at + first(end - at, x + at, std::numeric_limits<T>::quiet_NaN());
            const T top = folded<lanes<T>>(better(better(a, b), better(c, d)));
            if (Largest ? top > best : top < best) best = top, from = at;
        }
        return from + first(n - from, x + from, best);
    }

    // Each of n columns (at most `wide`) of rows `step` apart: the extreme and the number of its row, counted from
    // `before`.
    static void columns(std::int64_t rows, std::int64_t n, std::int64_t step, std::int64_t before, const T* x,
                        T* values, std::int64_t* places) {
        T best[wide];
        Index at[wide];
        const auto row = [=](std::int64_t r, std::int64_t j) __attribute__((always_inline)) {
            const T* from = x + r * step + j;
            return j + L <= n ? load(from) : load_first(from, n - j);
        };
        for (std::int64_t j = 0; j < n; j += L) {
            store(best + j, row(0, j));
            *reinterpret_cast<Indices*>(at + j) = Indices{};
        }
        for (std::int64_t r = 1; r < rows;) {
            const std::int64_t some = std::min<std::int64_t>(4, rows - r);
            for (std::int64_t j = 0; j < n; j += L) {
                Vec<T> b = load(best + j);
                Indices i = *reinterpret_cast<Indices*>(at + j);
                const auto join = [&](std::int64_t q) __attribute__((always_inline)) {
                    const Vec<T> v = row(r + q, j);
                    const Mask wins = (Largest ? v > b : v < b) | ((v != v) & (b == b));
                    b = wins ? v : b;
                    i = wins ? Indices{} + static_cast<Index>(r + q) : i;
                };
                if (some == 4) {
                    for (int q = 0; q < 4; ++q) join(q);
                } else {
                    for (std::int64_t q = 0; q < some; ++q) join(q);
                }
                store(best + j, b);
                *reinterpret_cast<Indices*>(at + j) = i;
            }
            r += some;
        }
        for (std::int64_t j = 0; j < n; ++j) places[j] = before + at[j];
        if (values) std::memcpy(values, best, static_cast<std::size_t>(n) * sizeof(T));
    }
};

template <class T>
struct LargestAt : ExtremeAt<T, true> {};
template <class T>
struct SmallestAt : ExtremeAt<T, false> {};
