// Rows copied and added. Included by each_isa.h.

template <class T>
static void add_row(T* to, const T* from, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + lanes<T> <= n; i += lanes<T>) store(to + i, load(to + i) + load(from + i));
    for (; i < n; ++i) to[i] += from[i];
}
