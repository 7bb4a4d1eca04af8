// Pooling of what a convolution just made: the largest of windows of 2 x 2 pixels side by side, and its place there.
// Included by the body of a kernel for each instruction set; no include guard.

#include "winners.h"

template <class T>
TL_INLINE Best<T> best_of_4(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c, const Vec<T>& d) {
    Best<T> best{a, Ints<T>{}};
    meet(best, b, 1);
    meet(best, c, 2);
    meet(best, d, 3);
    return best;
}

// A row of windows, from two rows of a plane's pixels, of which whole vectors can be read. As far as `room` elements
// whole vectors may be written, too.
template <class T>
static void pool_row(const T* top, const T* low, std::int64_t windows, std::int64_t room, T* y, std::uint8_t* at) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t j = 0; j < windows; j += L) {
        const Vec<T> t0 = load(top + 2 * j), t1 = load(top + 2 * j + L);
        const Vec<T> l0 = load(low + 2 * j), l1 = load(low + 2 * j + L);
        const Best<T> best = best_of_4<T>(evens<T>(t0, t1), odds<T>(t0, t1), evens<T>(l0, l1), odds<T>(l0, l1));
        const std::int64_t n = std::min(L, windows - j);
        if (j + L <= room)
            store(y + j, best.value);
        else
            store_first(y + j, n, best.value);
        store_places<T>(at + j, j + L <= room ? L : n, best.place);
    }
}

// Pixels with their channels side by side, `step` apart and rows `row` apart.
template <class T>
struct Block {
    const T* from;
    std::int64_t row, step, channels;
};

template <class T>
TL_INLINE Best<T> window_of(const Block<T>& b, const T* p, std::int64_t n) {
    if (n == lanes<T>) return best_of_4<T>(load(p), load(p + b.step), load(p + b.row), load(p + b.row + b.step));
    return best_of_4<T>(load_first(p, n), load_first(p + b.step, n), load_first(p + b.row, n),
                        load_first(p + b.row + b.step, n));
}

// rows x columns windows to pixels `step` apart.
template <class T>
static void pool_to_pixels(const Block<T>& b, std::int64_t rows, std::int64_t columns, T* y, std::uint8_t* at,
                           std::int64_t step) {
    constexpr std::int64_t L = lanes<T>;
    for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j, y += step, at += step)
            for (std::int64_t c = 0; c < b.channels; c += L) {
                const std::int64_t n = std::min(L, b.channels - c);
                const Best<T> best = window_of(b, b.from + 2 * i * b.row + 2 * j * b.step + c, n);
                if (n == L)
                    store(y + c, best.value);
                else
                    store_first(y + c, n, best.value);
                store_places<T>(at + c, n, best.place);
            }
}

// L pixels by L channels of values and places to planes: of the first n channels m pixels.
template <class T>
TL_INLINE void store_turned(Best<T> (&best)[lanes<T>], std::int64_t m, std::int64_t n, T* y, std::uint8_t* at,
                            std::int64_t plane) {
    constexpr std::int64_t L = lanes<T>;
    Vec<T> values[L], places[L];
    for (int k = 0; k < L; ++k) values[k] = best[k].value, places[k] = (Vec<T>)best[k].place;
    turn<T>(values);
    turn<T>(places);
    for (std::int64_t k = 0; k < n; ++k) {
        if (m == L)
            store(y + k * plane, values[k]);
        else
            store_first(y + k * plane, m, values[k]);
        store_places<T>(at + k * plane, m, (Ints<T>)places[k]);
    }
}

// The same to planes.
template <class T>
static void pool_to_planes(const Block<T>& b, std::int64_t rows, std::int64_t columns, T* y, std::uint8_t* at,
                           std::int64_t plane) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t count = rows * columns;
    for (std::int64_t p0 = 0; p0 < count; p0 += L) {
        // as in turn.h: what is over is done with some pixels once more
        const std::int64_t p = count >= L ? std::min(p0, count - L) : 0, m = std::min(L, count);
        for (std::int64_t c0 = 0; c0 < b.channels; c0 += L) {
            const std::int64_t c = b.channels >= L ? std::min(c0, b.channels - L) : 0, n = std::min(L, b.channels);
            Best<T> best[L] = {};
            Walk<const T> at_window{b.from + p / columns * 2 * b.row + p % columns * 2 * b.step + c, p % columns,
                                    columns, 2 * b.step, 2 * b.row - columns * 2 * b.step};
            for (std::int64_t k = 0; k < m; ++k, at_window.next()) best[k] = window_of(b, at_window.at, n);
            store_turned<T>(best, m, n, y + c * plane + p, at + c * plane + p, plane);
        }
    }
}
