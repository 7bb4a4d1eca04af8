// Copies into a dense array, a vector or a block of vectors at a time. Included by each_isa.h.

template <class T>
struct Copy {
    static constexpr int size = lanes<T>;  // of a block's side

    template <int step>
    TL_INLINE void exchange(Vec<T>& a, Vec<T>& b) {
        using Index = Vec<std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>>;
        Index low, high;  // elements of a, then of b
        for (int l = 0; l < size; ++l) {
            low[l] = l & step ? size + l - step : l;
            high[l] = l & step ? size + l : l + step;
        }
        const Vec<T> first = __builtin_shuffle(a, b, low);
        b = __builtin_shuffle(a, b, high);
        a = first;
    }

    // Swaps rows and columns of a block: those of each pair of halves, quarters and so on.
    template <int step>
    TL_INLINE void turn(Vec<T> (&v)[size]) {
        if constexpr (step < size) {
            for (int i = 0; i < size; ++i)
                if (!(i & step)) exchange<step>(v[i], v[i + step]);
            turn<2 * step>(v);
        }
    }

    // y[i * y_row + k] = x[i + k * x_col] for i < rows, k < n.
    static void transposed(std::int64_t rows, std::int64_t n, const T* x, std::int64_t x_col, T* y, std::int64_t y_row) {
        std::int64_t i = 0;
        for (; i + size <= rows; i += size) {
            std::int64_t k = 0;
            for (; k + size <= n; k += size) {
                Vec<T> v[size];
                for (int c = 0; c < size; ++c) v[c] = load(x + i + (k + c) * x_col);
                turn<1>(v);
                for (int r = 0; r < size; ++r) store(y + (i + r) * y_row + k, v[r]);
            }
            for (; k < n; ++k)
                for (int r = 0; r < size; ++r) y[(i + r) * y_row + k] = x[i + r + k * x_col];
        }
        for (; i < rows; ++i)
            for (std::int64_t k = 0; k < n; ++k) y[i * y_row + k] = x[i + k * x_col];
    }

    // y[i * y_row + k] = x[i * x_row + k * step] for i < rows, k < n.
    static void across(std::int64_t rows, std::int64_t n, const T* x, std::int64_t x_row, std::int64_t step, T* y,
                       std::int64_t y_row) {
        for (std::int64_t i = 0; i < rows; ++i, x += x_row, y += y_row) {
            std::int64_t k = 0;
            if (step == 1 && n > 1024) {
                std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(T));
            } else if (step == 1) {
                for (; k + size <= n; k += size) store(y + k, load(x + k));
                if (k < n) store_first(y + k, n - k, load_first(x + k, n - k));
            } else if (step == 0) {
                for (const T value = *x; k < n; ++k) y[k] = value;
            } else {
                for (; k < n; ++k) y[k] = x[k * step];
            }
        }
    }
};
