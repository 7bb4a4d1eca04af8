// The loops of a convolution's gradient for its weights. Included for each instruction set.
//
// sums[row][o] += x[pixel's window + row] * dy[pixel][o]: a row is a tap and an input channel, and the rows of a run of
// taps lie one after the other in x as in the sums. A tile of sums stays in registers over all pixels of a chunk.

#include "conv_parts.h"

// The pixels of a chunk: `steps` of them follow each other, `outer` x `middle` times.
template <class T>
struct Pixels {
    std::int64_t outer, middle, steps, x_outer, x_middle, x_step, dy_outer, dy_middle, dy_step, wide;
    bool first;  // the sums begin here
};

template <class T>
struct WeightsTile {
    static constexpr int widest = 4;
    using Call = void (*)(const Pixels<T>&, const T*, const T*, T*);
    template <int M, int V>
    static void call(const Pixels<T>& p, const T* x, const T* dy, T* sums) {
        constexpr std::int64_t L = lanes<T>;
        Vec<T> acc[M][V];
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = p.first ? all(T(0)) : load(sums + i * p.wide + v * L);
        for (std::int64_t a = 0; a < p.outer; ++a)
            for (std::int64_t b = 0; b < p.middle; ++b)
                tile<M, V>(p.steps, x + a * p.x_outer + b * p.x_middle, 1, p.x_step,
                           dy + a * p.dy_outer + b * p.dy_middle, p.dy_step, acc);
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) store(sums + i * p.wide + v * L, acc[i][v]);
    }
};

// One task: a range of chunks, a part of the output channels. sums: [group][tap][input channel][output channels].
template <class T>
static void weights_task(const tl::Gather& g, const tl::WeightsCut& c, const T* x, const T* dy, T* all_sums,
                         std::int64_t task) {
    const tl::Axis &R = g.rows, &C = g.columns;
    const tl::Phase& phase = g.phases[0];
    const std::int64_t part = task % c.parts, range = task / c.parts, panels = c.panels();
    const std::int64_t panel0 = g.groups * panels * part / c.parts, panel1 = g.groups * panels * (part + 1) / c.parts;
    if (panel0 == panel1) return;
    const auto channel = [&](std::int64_t k) { return k / panels * g.made + k % panels * c.at_once * c.lanes; };
    const std::int64_t features = g.made_channels(), o0 = channel(panel0), o1 = std::min(channel(panel1), features);
    const std::int64_t rows_of_sums = g.taps * g.source, line = C.count();
    const std::int64_t chunks = (g.n + c.images - 1) / c.images * c.bands;
    const std::int64_t chunk0 = chunks * range / c.ranges, chunk1 = chunks * (range + 1) / c.ranges;
    T* sums = all_sums + range * g.groups * rows_of_sums * c.wide();
    const std::int64_t x_size = R.size * C.size * g.source_channels(), dy_size = R.count() * line * features;
    // vectors are read whole: rows of channels that are no whole vectors are copied, with room behind the last
    const bool dy_direct = g.made_last && g.made % c.lanes == 0;

    for (std::int64_t chunk = chunk0; chunk < chunk1; ++chunk) {
        const std::int64_t n0 = chunk / c.bands * c.images, images = std::min(c.images, g.n - n0);
        const std::int64_t q0 = chunk % c.bands * c.band, q1 = std::min(q0 + c.band, R.count());
        const std::int64_t count = (q1 - q0) * line;
        const std::int64_t first = q0 * R.stride + R.low, rows = (q1 - q0 - 1) * R.stride + R.high - R.low + 1;
        const T *from = x + n0 * x_size + first * g.row, *grad = dy + n0 * dy_size + q0 * line * features + o0;
        std::int64_t from_image = x_size, grad_image = dy_size, grad_step = features;
        if (!g.direct) {
            from_image = (rows * g.row + 15) / 16 * 16 + 16;
            T* copy = tl::room<T>(1, images * from_image);
            for (std::int64_t k = 0; k < images; ++k)
                fill(g, x + (n0 + k) * x_size, first, rows, copy + k * from_image);
            from = copy;
        }
        if (!dy_direct) {
            grad_step = (o1 - o0 + c.lanes - 1) / c.lanes * c.lanes;
            grad_image = count * grad_step;
            T* copy = tl::room<T>(2, images * grad_image);
            for (std::int64_t k = 0; k < images; ++k) {
                const T* image = dy + (n0 + k) * dy_size;
                if (!g.made_last) {
                    planes_to_pixels(image + o0 * R.count() * line + q0 * line, R.count() * line, o1 - o0, count,
                                     copy + k * grad_image, line, grad_step, std::int64_t{0});
                } else {
                    for (std::int64_t p = 0; p < count; ++p)
                        std::memcpy(copy + k * grad_image + p * grad_step, image + (q0 * line + p) * features + o0,
                                    sizeof(T) * (o1 - o0));
                }
            }
            grad = copy;
        }
        struct Steps {
            std::int64_t count, x, dy;
        };
        Steps outer{images, from_image, grad_image}, middle{q1 - q0, R.stride * g.row, line * grad_step};
        Steps inner{line, C.stride * g.step, grad_step};
        if (c.across) {
            std::swap(outer, inner);
        }
        const bool flat = !c.across && middle.x == inner.count * inner.x;
        if (flat) inner.count *= middle.count, middle.count = 1;
        Pixels<T> pixels{outer.count, middle.count, inner.count, outer.x,  middle.x,         inner.x,
                         outer.dy,    middle.dy,    inner.dy,    c.wide(), chunk == chunk0};
        for (std::int64_t k = panel0; k < panel1; ++k) {
            const std::int64_t group = k / panels, vector = k % panels * c.at_once;
            const std::int64_t vectors = std::min(c.at_once, c.vectors - vector);
            const std::int64_t most = tl::tile_rows(registers, vectors), tiles = (phase.steps + most - 1) / most;
            T* to = sums + group * rows_of_sums * c.wide() + vector * c.lanes;
            for (std::int64_t r = 0; r < static_cast<std::int64_t>(phase.runs.size()); ++r) {
                // rows of zeros are left out
                std::int64_t a = q0, b = q1;
                const std::int64_t offset = phase.rows.taps[r / phase.row_runs].offset;
                while (!flat && a < b && a * R.stride + offset < 0) ++a;
                while (!flat && a < b && (b - 1) * R.stride + offset >= R.size) --b;
                if (!flat) pixels.middle = b - a;
                for (std::int64_t t = 0; t < tiles; ++t) {
                    const std::int64_t m0 = phase.steps * t / tiles, m1 = phase.steps * (t + 1) / tiles;
                    tile_of<WeightsTile<T>>(m1 - m0, vectors)(
                        pixels, from + phase.runs[r] + group * g.source + m0 + (a - q0) * middle.x,
                        grad + channel(k) - o0 + (a - q0) * middle.dy, to + (r * phase.steps + m0) * c.wide());
                }
            }
        }
    }
}

// The sums of all ranges, in order, as the weights lie in memory: a vector of output channels of one group.
template <class T>
static void weights_join(const tl::Gather& g, const tl::WeightsCut& c, const T* sums, T* dw, std::int64_t group,
                         std::int64_t vector) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t rows = g.taps * g.source, size = g.groups * rows * c.wide();
    const std::int64_t o = vector * L, n = std::min(L, g.made - o);
    const T* from = sums + group * rows * c.wide() + o;
    T* to = dw + (group * g.made + o) * rows;
    for (std::int64_t j = 0; j < rows; j += L) {
        const std::int64_t m = std::min(L, rows - j);
        Vec<T> r[L];
        for (std::int64_t k = 0; k < L; ++k) {
            r[k] = all(T(0));
            if (k >= m) continue;
            const std::int64_t row = g.w_last ? j + k : (j + k) % g.taps * g.source + (j + k) / g.taps;
            r[k] = load(from + row * c.wide());
            for (std::int64_t range = 1; range < c.ranges; ++range) r[k] += load(from + range * size + row * c.wide());
        }
        turn<T>(r);
        for (std::int64_t k = 0; k < n; ++k) {
            if (m == L)
                store(to + k * rows + j, r[k]);
            else
                store_first(to + k * rows + j, m, r[k]);
        }
    }
}

template <class T>
static void weights_all(const tl::Gather& g, const tl::WeightsCut& c, const T* x, const T* dy, T* dw) {
    const std::int64_t size = g.groups * g.taps * g.source * c.wide();
    T* sums = tl::room<T>(0, c.ranges * size);
    run_tasks(g.products() > tl::alone, c.ranges * c.parts, [&](int k) { weights_task(g, c, x, dy, sums, k); });
    run_tasks(c.ranges * size > 1 << 17, g.groups * c.vectors,
              [&](int k) { weights_join(g, c, sums, dw, k / c.vectors, k % c.vectors); });
}
