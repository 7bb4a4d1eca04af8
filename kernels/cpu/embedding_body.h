// Rows copied and added. Included by each_isa.h.

template <class T>
static void add_row(T* to, const T* from, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + lanes<T> <= n; i += lanes<T>) store(to + i, load(to + i) + load(from + i));
    for (; i < n; ++i) to[i] += from[i];
}

// to[r] = from[index[r]] for rows of n elements; negative indices count from `size`. Rows lie anywhere in the table, so
// the processor is told of each some time before it is read.
template <class T, class I>
static void copy_rows(T* to, const T* from, const I* index, std::int64_t rows, std::int64_t size, std::int64_t n) {
    constexpr std::int64_t ahead = 8, line = 64 / sizeof(T), reach = 16 * line;
    const auto at = [&](std::int64_t r) {
        return from + (index[r] < 0 ? index[r] + size : static_cast<std::int64_t>(index[r])) * n;
    };
    if (n == 1) {
        for (std::int64_t r = 0; r < rows; ++r) to[r] = *at(r);
        return;
    }
    for (std::int64_t r = 0; r < rows; ++r, to += n) {
        const T* row = at(r);
        if (r + ahead < rows) {
            const T* next = at(r + ahead);
            for (std::int64_t i = 0; i < std::min(n, reach); i += line) __builtin_prefetch(next + i);
        }
        std::int64_t i = 0;
        for (; i + lanes<T> <= n; i += lanes<T>) store(to + i, load(row + i));
        for (; i < n; ++i) to[i] = row[i];
    }
}
