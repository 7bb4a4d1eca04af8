// Sums and extremes of lines and of columns. Included by each_isa.h.
//
// Numbers are first joined in vectors of their own type, then blocks of them in float64: a float32 sum is rounded within
// a block of a few thousand numbers (at most 128 a lane, 64 down a column) and once at the end, which is closer than
// NumPy's pairwise sum. Blocks are the same for every number of threads.

struct Sum {
    static constexpr double none = 0;
    template <class V>
    TL_INLINE V join(const V& a, const V& b) {
        return a + b;
    }
};

// nan on either side wins
struct Max {
    static constexpr double none = -std::numeric_limits<double>::infinity();
    template <class V>
    TL_INLINE V join(const V& a, const V& b) {
        return (a > b) | (a != a) ? a : b;
    }
};

struct Min {
    static constexpr double none = std::numeric_limits<double>::infinity();
    template <class V>
    TL_INLINE V join(const V& a, const V& b) {
        return (a < b) | (a != a) ? a : b;
    }
};

template <class T, class Op>
struct Reduce {
    // All numbers of `rows` rows of n, a row `step` after the other, joined with `to`. No lane joins more than 128.
    static void line(std::int64_t rows, std::int64_t n, std::int64_t step, const T* x, Joined& to) {
        constexpr std::int64_t four = 4 * lanes<T>;
        const T none = static_cast<T>(Op::none);
        Vec<T> a = all(none), b = a, c = a, d = a;
        int joined = 0;
        for (std::int64_t r = 0; r < rows; ++r, x += step)
            for (std::int64_t k = 0; k < n;) {
                const std::int64_t end = std::min(n, k + 64 * four);
                joined += static_cast<int>((end - k) / four) + 1;
                for (; k + four <= end; k += four) {
                    a = Op::join(a, load(x + k));
                    b = Op::join(b, load(x + k + lanes<T>));
                    c = Op::join(c, load(x + k + 2 * lanes<T>));
                    d = Op::join(d, load(x + k + 3 * lanes<T>));
                }
                if (k + lanes<T> <= end) a = Op::join(a, load(x + k)), k += lanes<T>;
                if (k + lanes<T> <= end) b = Op::join(b, load(x + k)), k += lanes<T>;
                if (k + lanes<T> <= end) c = Op::join(c, load(x + k)), k += lanes<T>;
                if (k < end) d = Op::join(d, load_first(x + k, end - k, none)), k = end;
                if (joined >= 64) {
                    put(a, b, c, d, to);
                    a = b = c = d = all(none);
                    joined = 0;
                }
            }
        if (joined) put(a, b, c, d, to);
    }

    template <int N, class V>
    TL_INLINE T folded(const V& v) {
        if constexpr (N == 2) {
            return Op::join(v[0], v[1]);
        } else {
            typedef T Half __attribute__((vector_size(N / 2 * sizeof(T))));
            Half low, high;
            std::memcpy(&low, &v, sizeof low);
            std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
            return folded<N / 2>(Op::join(low, high));
        }
    }

    TL_INLINE void put(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c, const Vec<T>& d, Joined& to) {
        const Vec<T> v = Op::join(Op::join(a, b), Op::join(c, d));
        const double made = static_cast<double>(folded<lanes<T>>(v));
        to.set(Op::join(to.value, made), made, Op::none == 0);
    }

    // Each of n columns (at most `wide`) of `rows` rows joined into y, in float64. make(r, count) gives where `count`
    // rows from r on lie, `step` apart; it is asked for all rows in turn, so that they may be made just then.
    template <class Make>
    TL_INLINE void columns_of(std::int64_t rows, std::int64_t n, std::int64_t step, Make make, double* y) {
        T acc[wide];
        for (std::int64_t k = 0; k < n; ++k) y[k] = Op::none;
        for (std::int64_t r = 0; r < rows;) {
            const std::int64_t end = std::min(rows, r + 64);
            for (std::int64_t k = 0; k < n; ++k) acc[k] = static_cast<T>(Op::none);
            for (; r + 8 <= end; r += 8) {
                const T* x = make(r, 8);
                std::int64_t k = 0;
                for (; k + lanes<T> <= n; k += lanes<T>) store(acc + k, Op::join(load(acc + k), eight(x + k, step)));
                if (k < n) {
                    const std::int64_t m = n - k;
                    Vec<T> v = load_first(acc + k, m);
                    for (int i = 0; i < 8; ++i) v = Op::join(v, load_first(x + k + i * step, m));
                    store_first(acc + k, m, v);
                }
            }
            for (; r < end; ++r) {
                const T* x = make(r, 1);
                std::int64_t k = 0;
                for (; k + lanes<T> <= n; k += lanes<T>) store(acc + k, Op::join(load(acc + k), load(x + k)));
                if (k < n) store_first(acc + k, n - k, Op::join(load_first(acc + k, n - k), load_first(x + k, n - k)));
            }
            for (std::int64_t k = 0; k < n; ++k) y[k] = Op::join(y[k], static_cast<double>(acc[k]));
        }
    }

    static void columns(std::int64_t rows, std::int64_t n, std::int64_t step, const T* x, double* y) {
        columns_of(rows, n, step, [=](std::int64_t r, int) { return x + r * step; }, y);
    }

    TL_INLINE Vec<T> eight(const T* x, std::int64_t step) {
        Vec<T> v[4];
        for (int i = 0; i < 4; ++i) v[i] = Op::join(load(x + 2 * i * step), load(x + (2 * i + 1) * step));
        return Op::join(Op::join(v[0], v[1]), Op::join(v[2], v[3]));
    }
};

template <class T>
struct Sums : Reduce<T, Sum> {};
template <class T>
struct Maxima : Reduce<T, Max> {};
template <class T>
struct Minima : Reduce<T, Min> {};
