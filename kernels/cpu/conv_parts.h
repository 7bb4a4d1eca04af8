// What the bodies of convolutions share: tables of tiles, padded copies, tasks. Included for each instruction set.

#include "turn.h"

// The tile of so many rows and vectors, `Kind::call<rows, vectors>`, of a kind of kernel.
template <class Kind, int V, std::size_t... M>
static typename Kind::Call tile_of(std::int64_t rows, std::index_sequence<M...>) {
    static constexpr typename Kind::Call table[] = {&Kind::template call<static_cast<int>(M) + 1, V>...};
    return table[rows - 1];
}

// From 1 to Kind::widest vectors.
template <class Kind, int V = 1>
static typename Kind::Call tile_of(std::int64_t rows, std::int64_t vectors) {
    if constexpr (V < Kind::widest)
        if (vectors > V) return tile_of<Kind, V + 1>(rows, vectors);
    return tile_of<Kind, V>(rows, std::make_index_sequence<static_cast<std::size_t>(tl::tile_rows(registers, V))>());
}

// Taps of a side that meet the source, not the zeros around it, for its k-th destination coordinate.
struct Taps {
    std::int64_t first, count;
};

static inline Taps meets(const tl::Axis& axis, const tl::Side& side, std::int64_t k) {
    const std::int64_t at = k * axis.stride, all = static_cast<std::int64_t>(side.taps.size());
    std::int64_t a = 0, b = all;
    while (a < b && at + side.taps[a].offset < 0) ++a;
    while (a < b && at + side.taps[b - 1].offset >= axis.size) --b;
    return {a < b ? a : 0, b - a};
}

// f(0) .. f(tasks - 1): by all threads, or by the caller where that is not worth it.
template <class F>
static void run_tasks(bool shared, std::int64_t tasks, F f) {
    if (shared) return tl::Pool::get().run(static_cast<int>(tasks), f);
    for (std::int64_t k = 0; k < tasks; ++k) f(static_cast<int>(k));
}

// A row of pixels.
template <class T>
static void copy_row(const T* from, std::int64_t count, T* to) {
    constexpr std::int64_t L = lanes<T>;
    std::int64_t p = 0;
    for (; p + L <= count; p += L) store(to + p, load(from + p));
    if (p == count) return;
    if (count >= L)
        store(to + count - L, load(from + count - L));
    else
        for (; p < count; ++p) to[p] = from[p];
}

// Rows [first, first + rows) of an image with zeros around it, channels last.
template <class T>
static void fill(const tl::Gather& g, const T* image, std::int64_t first, std::int64_t rows, T* to) {
    const std::int64_t width = g.columns.size, channels = g.source_channels();
    const std::int64_t a = std::clamp<std::int64_t>(0, first, first + rows);
    const std::int64_t b = std::clamp(g.rows.size, a, first + rows);
    std::fill(to, to + (a - first) * g.row, T(0));
    std::fill(to + (b - first) * g.row, to + rows * g.row, T(0));
    const std::int64_t left = -g.left * g.step, right = (g.width + g.left - width) * g.step;
    for (std::int64_t r = a; r < b; ++r) {
        T* row = to + (r - first) * g.row;
        std::fill(row, row + left, T(0));
        std::fill(row + g.row - right, row + g.row, T(0));
        if (g.source_last) std::memcpy(row + left, image + r * width * channels, sizeof(T) * width * channels);
    }
    if (!g.source_last)
        planes_to_pixels(image + a * width, g.rows.size * width, channels, (b - a) * width,
                         to + (a - first) * g.row + left, width, g.step, left + right);
}
