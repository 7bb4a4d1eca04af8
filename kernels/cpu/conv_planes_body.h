// The loops of convolutions in planes. Included for each instruction set.

#include "conv_parts.h"
#include "conv_pool_body.h"

// What is the same for all tiles of an image.
template <class T>
struct Planes {
    const tl::Conv* c;
    tl::After after;
    std::int64_t plane, row, tap;  // of the copy: from a plane, a row, a tap of a row to the next
    std::int64_t to_plane;
    const T* bias;
};

// M features of V vectors of a row's pixels.
template <class T>
struct PlanesTile {
    static constexpr int widest = lanes<T> > 2 ? 3 : 2;  // rows are of 8 pixels at least: more than three vectors of two
    using Call = void (*)(const Planes<T>&, const T* w, std::int64_t o, const T* from, T* to, std::int64_t pixels);
    template <int M, int V>
    static void call(const Planes<T>& p, const T* w, std::int64_t o, const T* from, T* to, std::int64_t pixels) {
        constexpr std::int64_t L = lanes<T>;
        const tl::Conv& c = *p.c;
        const std::int64_t each = c.cg * c.taps();
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i) {
            const Vec<T> first = all(p.bias ? p.bias[o + i] : T(0));
            for (int v = 0; v < V; ++v) acc[i][v] = first;
        }
        w += o * each;
        for (std::int64_t k = 0; k < c.cg; ++k)
            for (std::int64_t i = 0; i < c.kh; ++i, w += c.kw)
                tile<M, V>(c.kw, w, each, 1, from + k * p.plane + i * c.dh * p.row, p.tap, acc);
        if (p.after == tl::After::relu)
            for (int i = 0; i < M; ++i)
                for (int v = 0; v < V; ++v) acc[i][v] = acc[i][v] < 0 ? all(T(0)) : acc[i][v];  // nan stays
        to += o * p.to_plane;
        for (int i = 0; i < M; ++i, to += p.to_plane)
            for (int v = 0; v < V; ++v) {
                if (pixels >= (v + 1) * L)
                    store(to + v * L, acc[i][v]);
                else
                    store_first(to + v * L, std::max<std::int64_t>(pixels - v * L, 0), acc[i][v]);
            }
    }
};

// A row of output pixels of all features: a panel of vectors at a time, features in tiles of about one size. Whole
// vectors are written up to `room` pixels.
template <class T>
static void planes_row(const Planes<T>& planes, const T* w, const T* from, std::int64_t vectors, std::int64_t room,
                       T* to) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t features = planes.c->og, at_once = vectors == 3 ? 3 : std::min<std::int64_t>(vectors, 2);
    for (std::int64_t v = 0; v < vectors; v += at_once) {
        const std::int64_t now = std::min(at_once, vectors - v), most = tl::tile_rows(registers, now);
        const std::int64_t tiles = (features + most - 1) / most;
        for (std::int64_t t = 0; t < tiles; ++t) {
            const std::int64_t o0 = features * t / tiles, o1 = features * (t + 1) / tiles;
            tile_of<PlanesTile<T>>(o1 - o0, now)(planes, w, o0, from + v * L, to + v * L, room - v * L);
        }
    }
}

// An image: a padded copy of its planes, then rows of pixels. With `at` two rows at a time, pooled while they are near.
template <class T>
static void planes_task(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y,
                        std::uint8_t* at) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t height = (c.oh - 1) * c.sh + (c.kh - 1) * c.dh + 1;
    const std::int64_t vectors = (c.ow + L - 1) / L, row = std::max(vectors * L + (c.kw - 1) * c.dw, c.left + c.w);
    T* copy = tl::room<T>(1, c.cg * height * row);
    for (std::int64_t k = 0; k < c.cg; ++k)
        for (std::int64_t r = 0; r < height; ++r) {
            T* to = copy + (k * height + r) * row;
            const std::int64_t from = r - c.top;
            if (from < 0 || from >= c.h) {
                std::fill(to, to + row, T(0));
                continue;
            }
            std::fill(to, to + c.left, T(0));
            std::memcpy(to + c.left, x + (k * c.h + from) * c.w, sizeof(T) * c.w);
            std::fill(to + c.left + c.w, to + row, T(0));
        }
    if (!at) {
        const Planes<T> planes{&c, after, height * row, row, c.dw, c.oh * c.ow, bias};
        for (std::int64_t q = 0; q < c.oh; ++q)
            planes_row(planes, w, copy + q * c.sh * row, vectors, c.ow, y + q * c.ow);
        return;
    }
    const std::int64_t rows = c.oh / 2, columns = c.ow / 2, some = (columns + L - 1) / L, wide = 2 * some * L;
    const Planes<T> planes{&c, after, height * row, row, c.dw, 2 * wide, bias};
    T* two = tl::room<T>(2, c.og * 2 * wide);
    for (std::int64_t q = 0; q < rows; ++q) {
        for (std::int64_t half = 0; half < 2; ++half)
            planes_row(planes, w, copy + (2 * q + half) * c.sh * row, (2 * columns + L - 1) / L, wide,
                       two + half * wide);
        for (std::int64_t o = 0; o < c.og; ++o) {
            const std::int64_t window = (o * rows + q) * columns;
            pool_row(two + o * 2 * wide, two + (o * 2 + 1) * wide, columns, (rows - q) * columns, y + window,
                     at + window);
        }
    }
}

// Rows of a copy that a flat image has.
static inline std::int64_t flat_height(const tl::Conv& c) { return c.oh + (c.kh - 1) * c.dh; }

// An image whose rows follow each other: a copy of it for each column of taps, without what no output meets. Vectors
// run on from row to row, so that all are whole, and some features at a time are written from end to end.
template <class T>
static void planes_flat(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t height = flat_height(c), copy = height * c.ow, pixels = c.oh * c.ow;
    T* const copies = tl::room<T>(1, c.cg * c.kw * copy);
    T* to = copies;
    for (std::int64_t k = 0; k < c.cg; ++k)
        for (std::int64_t j = 0; j < c.kw; ++j) {
            const std::int64_t from = j * c.dw - c.left, first = std::clamp<std::int64_t>(-from, 0, c.ow);
            const std::int64_t last = std::clamp(c.w - from, first, c.ow);
            for (std::int64_t r = -c.top; r < height - c.top; ++r, to += c.ow) {
                if (r < 0 || r >= c.h || first == last) {
                    std::fill(to, to + c.ow, T(0));
                    continue;
                }
                for (std::int64_t p = 0; p < first; ++p) to[p] = T(0);
                copy_row(x + (k * c.h + r) * c.w + from + first, last - first, to + first);
                for (std::int64_t p = last; p < c.ow; ++p) to[p] = T(0);
            }
        }
    const Planes<T> planes{&c, after, c.kw * copy, c.ow, copy, pixels, bias};
    const std::int64_t vectors = (pixels + L - 1) / L, widest = PlanesTile<T>::widest;
    const std::int64_t panels = (vectors + widest - 1) / widest, wide = (vectors + panels - 1) / panels;
    const std::int64_t most = tl::tile_rows(registers, wide), tiles = (c.og + most - 1) / most;
    for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t o = c.og * t / tiles, m = c.og * (t + 1) / tiles - o;
        for (std::int64_t u = 0; u < panels; ++u) {
            const std::int64_t v = vectors * u / panels, now = vectors * (u + 1) / panels - v;
            // what is over is done with some pixels once more
            const std::int64_t p = std::max<std::int64_t>(std::min(v * L, pixels - now * L), 0);
            tile_of<PlanesTile<T>>(m, now)(planes, w, o, copies + p, y + p, pixels - p);
        }
    }
}

template <class T>
static void planes_all(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y,
                       std::uint8_t* at) {
    const bool flat = !at && c.sh == 1 && c.cg * c.kw * flat_height(c) * c.ow <= (1 << 14);
    const std::int64_t made = c.og * (at ? (c.oh / 2) * (c.ow / 2) : c.oh * c.ow);
    run_tasks(c.products() > tl::alone, c.n, [&](int n) {
        const T* image = x + n * c.cg * c.h * c.w;
        if (flat)
            planes_flat(c, after, image, w, bias, y + n * made);
        else
            planes_task(c, after, image, w, bias, y + n * made, at ? at + n * made : nullptr);
    });
}
