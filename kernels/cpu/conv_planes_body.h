// The loops of convolutions in planes. Included for each instruction set.

#include "conv_parts.h"
#include "conv_pool_body.h"

// What is the same for all tiles of an image.
template <class T>
struct Planes {
    const tl::Conv* c;
    tl::After after;
    std::int64_t plane, row;  // of the padded copy
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
                tile<M, V>(c.kw, w, each, 1, from + k * p.plane + i * c.dh * p.row, c.dw, acc);
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
        const Planes<T> planes{&c, after, height * row, row, c.oh * c.ow, bias};
        for (std::int64_t q = 0; q < c.oh; ++q)
            planes_row(planes, w, copy + q * c.sh * row, vectors, c.ow, y + q * c.ow);
        return;
    }
    const std::int64_t rows = c.oh / 2, columns = c.ow / 2, some = (columns + L - 1) / L, wide = 2 * some * L;
    const Planes<T> planes{&c, after, height * row, row, 2 * wide, bias};
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

template <class T>
static void planes_all(const tl::Conv& c, tl::After after, const T* x, const T* w, const T* bias, T* y,
                       std::uint8_t* at) {
    const std::int64_t made = c.og * (at ? (c.oh / 2) * (c.ow / 2) : c.oh * c.ow);
    run_tasks(c.products() > tl::alone, c.n, [&](int n) {
        planes_task(c, after, x + n * c.cg * c.h * c.w, w, bias, y + n * made, at ? at + n * made : nullptr);
    });
}
