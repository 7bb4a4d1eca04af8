// Running sums, kept in float64 and rounded to the array's type for every element. Included by each_isa.h.

template <class T>
struct Cumsum {
    static constexpr int L = lanes<double>;
    typedef T Some __attribute__((vector_size(L * sizeof(T)), aligned(sizeof(T)), may_alias));

    // Neighbours S before (behind, if Reverse) each, 0 where there is none.
    template <int S, bool Reverse>
    TL_INLINE Vec<double> moved(const Vec<double>& v) {
        decltype(Vec<double>{} > Vec<double>{}) from = {};
        for (int l = 0; l < L; ++l) from[l] = Reverse ? l + S : l < S ? L : l - S;
        for (int l = 0; l < L; ++l)
            if (from[l] > L) from[l] = L;
        return pick<double>(v, Vec<double>{}, from);
    }

    // Every lane's sum with all before it: in steps of 1, 2, 4.
    template <bool Reverse>
    TL_INLINE Vec<double> scanned(Vec<double> v) {
        v += moved<1, Reverse>(v);
        if constexpr (L > 2) v += moved<2, Reverse>(v);
        if constexpr (L > 4) v += moved<4, Reverse>(v);
        return v;
    }

    // One line; only an addition a vector waits for the one before.
    template <bool Reverse>
    static void line(std::int64_t n, const T* x, T* y) {
        const std::int64_t whole = n / L * L;
        Vec<double> sum = {};
        const auto rest = [&] {
            double one = sum[0];
            for (std::int64_t k = 0; k < n - whole; ++k) {
                const std::int64_t at = Reverse ? n - 1 - k : whole + k;
                one += static_cast<double>(x[at]);
                y[at] = static_cast<T>(one);
            }
            sum = all(one);
        };
        if (Reverse) rest();
        for (std::int64_t k = 0; k < whole; k += L) {
            const std::int64_t at = Reverse ? whole - L - k : k;
            const auto v = __builtin_convertvector(*reinterpret_cast<const Some*>(x + at), Vec<double>);
            const Vec<double> part = scanned<Reverse>(v);
            *reinterpret_cast<Some*>(y + at) = __builtin_convertvector(part + sum, Some);
            sum += all<double>(part[Reverse ? 0 : L - 1]);
        }
        if (!Reverse) rest();
    }

    // n columns, at most `wide`, of rows `step` apart (which may be negative).
    static void columns(std::int64_t rows, std::int64_t n, std::int64_t step, const T* x, T* y) {
        double sum[wide];
        for (std::int64_t k = 0; k < n; ++k) sum[k] = 0;
        for (std::int64_t r = 0; r < rows; ++r, x += step, y += step) {
            std::int64_t k = 0;
            for (; k + L <= n; k += L) {
                const Vec<double> now =
                    load(sum + k) + __builtin_convertvector(*reinterpret_cast<const Some*>(x + k), Vec<double>);
                store(sum + k, now);
                *reinterpret_cast<Some*>(y + k) = __builtin_convertvector(now, Some);
            }
            for (; k < n; ++k) y[k] = static_cast<T>(sum[k] += static_cast<double>(x[k]));
        }
    }
};
