// The loops of the gradient for the weights of one channel. Included for each instruction set.
//
// sums[o][row] = the sum over pixels of dy[o][pixel] * copy[row][pixel]: a row is a tap.

#include "conv_parts.h"

// The pixels of a chunk, and its sums.
template <class T>
struct Few {
    const std::int64_t* taps;
    std::int64_t images, pixels, x_image, dy_image, dy_step, rows;
    bool first;  // the sums begin here
};

// M output channels by V rows, dy in planes: vectors lie along pixels, `sums` are [o][row][lanes].
template <class T>
struct FewPlanes {
    static constexpr int widest = 4;
    using Call = void (*)(const Few<T>&, std::int64_t row, const T* x, const T* dy, T* sums);
    template <int M, int V>
    static void call(const Few<T>& f, std::int64_t row, const T* x, const T* dy, T* sums) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = f.first ? all(T(0)) : load(sums + (i * f.rows + v) * L);
        for (std::int64_t n = 0; n < f.images; ++n, x += f.x_image, dy += f.dy_image) {
            const T* from[V];
            for (int v = 0; v < V; ++v) from[v] = x + f.taps[row + v];
            std::int64_t p = 0;
            for (; p + L <= f.pixels; p += L) {
                Vec<T> c[V];
                for (int v = 0; v < V; ++v) c[v] = load(from[v] + p);
                for (int i = 0; i < M; ++i) {
                    const Vec<T> d = load(dy + i * f.dy_step + p);
                    for (int v = 0; v < V; ++v) acc[i][v] += d * c[v];
                }
            }
            if (p == f.pixels) continue;
            Vec<T> c[V];
            for (int v = 0; v < V; ++v) c[v] = load_first(from[v] + p, f.pixels - p);
            for (int i = 0; i < M; ++i) {
                const Vec<T> d = load_first(dy + i * f.dy_step + p, f.pixels - p);
                for (int v = 0; v < V; ++v) acc[i][v] += d * c[v];
            }
        }
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) store(sums + (i * f.rows + v) * L, acc[i][v]);
    }
};

// M rows by V vectors of output channels, dy channels last: `sums` are [row][o].
template <class T>
struct FewPixels {
    static constexpr int widest = registers == 32 ? 4 : 2;
    using Call = void (*)(const Few<T>&, std::int64_t row, const T* x, const T* dy, T* sums);
    template <int M, int V>
    static void call(const Few<T>& f, std::int64_t row, const T* x, const T* dy, T* sums) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = f.first ? all(T(0)) : load(sums + i * f.dy_step + v * L);
        for (std::int64_t n = 0; n < f.images; ++n, x += f.x_image) {
            const T *from[M], *d = dy + n * f.dy_image;
            for (int i = 0; i < M; ++i) from[i] = x + f.taps[row + i];
            for (std::int64_t p = 0; p < f.pixels; ++p, d += f.dy_step) {
                Vec<T> c[V];
                for (int v = 0; v < V; ++v) c[v] = load(d + v * L);
                for (int i = 0; i < M; ++i) {
                    const Vec<T> one = all(from[i][p]);
                    for (int v = 0; v < V; ++v) acc[i][v] += one * c[v];
                }
            }
        }
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) store(sums + i * f.dy_step + v * L, acc[i][v]);
    }
};

// An image's copies for output rows [p0, p1): shifted by each tap, zeros around it.
template <class T>
static void few_copies(const tl::FewCut& f, const T* x, std::int64_t p0, std::int64_t p1, T* copies) {
    const tl::Conv& c = f.c;
    const std::int64_t rows = p1 - p0 + f.span - f.band;
    for (std::int64_t j = 0; j < c.kw; ++j, copies += f.span * c.ow) {
        const std::int64_t at = j * c.dw - c.left;
        const std::int64_t a = std::clamp<std::int64_t>(-at, 0, c.ow);  // columns [a, b) meet the image
        const std::int64_t b = std::clamp<std::int64_t>(c.w - at, a, c.ow);
        for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t from = p0 + r - c.top;
            T* to = copies + r * c.ow;
            const bool meets = from >= 0 && from < c.h && a < b;
            std::fill(to, to + (meets ? a : c.ow), T(0));
            if (!meets) continue;
            std::memcpy(to + a, x + from * c.w + at + a, sizeof(T) * (b - a));
            std::fill(to + b, to + c.ow, T(0));
        }
    }
}

// Parts of about one size, at most `most` each: f(first, count).
template <class F>
static void in_parts(std::int64_t count, std::int64_t most, F f) {
    const std::int64_t parts = (count + most - 1) / most;
    for (std::int64_t k = 0; k < parts; ++k) f(count * k / parts, count * (k + 1) / parts - count * k / parts);
}

// One task: a range of chunks. sums: [row][o].
template <class T>
static void few_task(const tl::FewCut& f, const T* x, const T* dy, T* sums, std::int64_t range) {
    constexpr std::int64_t L = lanes<T>;
    const tl::Conv& c = f.c;
    const std::int64_t rows = f.rows(), plane = c.oh * c.ow;
    T* copies = tl::room<T>(1, f.images * f.copy);
    T* wide = c.y_last ? sums : tl::room<T>(2, c.og * rows * L);
    const std::int64_t chunk0 = f.chunks * range / f.ranges, chunk1 = f.chunks * (range + 1) / f.ranges;
    for (std::int64_t chunk = chunk0; chunk < chunk1; ++chunk) {
        const std::int64_t n0 = chunk / f.bands * f.images, images = std::min(f.images, c.n - n0);
        const std::int64_t p0 = chunk % f.bands * f.band, p1 = std::min(p0 + f.band, c.oh);
        for (std::int64_t k = 0; k < images; ++k)
            few_copies(f, x + (n0 + k) * c.h * c.w, p0, p1, copies + k * f.copy);
        const T* from = dy + n0 * c.og * plane + p0 * c.ow * (c.y_last ? c.og : 1);
        const Few<T> few{f.taps.data(), images, (p1 - p0) * c.ow, f.copy, c.og * plane,
                         c.y_last ? c.og : plane, rows, chunk == chunk0};
        if (c.y_last) {
            in_parts(c.og / L, FewPixels<T>::widest, [&](std::int64_t v, std::int64_t vectors) {
                in_parts(rows, tl::tile_rows(registers, vectors), [&](std::int64_t r, std::int64_t count) {
                    tile_of<FewPixels<T>>(count, vectors)(few, r, copies, from + v * L, sums + r * c.og + v * L);
                });
            });
        } else {
            const std::int64_t together = rows % 3 && rows % 4 == 0 ? 4 : 3;
            in_parts(c.og, tl::tile_rows(registers, std::min(rows, together)), [&](std::int64_t o, std::int64_t count) {
                in_parts(rows, together, [&](std::int64_t r, std::int64_t taps) {
                    tile_of<FewPlanes<T>>(count, taps)(few, r, copies, from + o * plane, wide + (o * rows + r) * L);
                });
            });
        }
    }
    if (c.y_last) return;
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t o = 0; o < c.og; ++o) sums[r * c.og + o] = sum<T>(load(wide + (o * rows + r) * L));
}

template <class T>
static void few_all(const tl::FewCut& f, const T* x, const T* dy, T* dw) {
    const tl::Conv& c = f.c;
    const std::int64_t rows = f.rows(), size = rows * c.og;
    T* sums = tl::room<T>(0, f.ranges * size);
    run_tasks(c.products() > tl::alone, f.ranges, [&](int k) { few_task(f, x, dy, sums + k * size, k); });
    for (std::int64_t k = 1; k < f.ranges; ++k)
        for (std::int64_t e = 0; e < size; ++e) sums[e] += sums[k * size + e];
    for (std::int64_t o = 0; o < c.og; ++o)
        for (std::int64_t r = 0; r < rows; ++r) dw[o * rows + r] = sums[r * c.og + o];
}
