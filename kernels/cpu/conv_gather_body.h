// The loops of gathering convolutions: tiles of pixels by panels of channels. Included for each instruction set.

#include "conv_parts.h"
#include "conv_pool_body.h"

// What is the same for all tiles of a phase, a group and a panel.
template <class T>
struct Panel {
    const std::int64_t* runs;
    std::int64_t count, steps;        // of runs; their length
    std::int64_t w_run;               // from one run's weights to the next's
    std::int64_t from_step, to_step;  // from one row of a tile to the next
    std::int64_t channels;            // of the destination
    const T *w, *bias;
    tl::After after;
};

// M pixels by V vectors of channels.
template <class T>
struct GatherTile {
    static constexpr int widest = 4;
    using Call = void (*)(const Panel<T>&, const T*, T*);
    template <int M, int V>
    static void call(const Panel<T>& p, const T* from, T* to);
};

template <class T>
template <int M, int V>
void GatherTile<T>::call(const Panel<T>& p, const T* from, T* to) {
    constexpr std::int64_t L = lanes<T>;
    Vec<T> acc[M][V];
    for (int v = 0; v < V; ++v) {
        const Vec<T> first = p.bias ? load(p.bias + v * L) : all(T(0));
        for (int i = 0; i < M; ++i) acc[i][v] = first;
    }
    const T* w = p.w;
    for (std::int64_t r = 0; r < p.count; ++r, w += p.w_run)
        tile<M, V>(p.steps, from + p.runs[r], p.from_step, 1, w, V * L, acc);
    if (p.after == tl::After::relu)
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) acc[i][v] = acc[i][v] < 0 ? all(T(0)) : acc[i][v];  // nan stays
    if (p.channels == V * L) {
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v) store(to + i * p.to_step + v * L, acc[i][v]);
    } else {
        for (int i = 0; i < M; ++i)
            for (int v = 0; v < V; ++v)
                store_first(to + i * p.to_step + v * L, std::clamp<std::int64_t>(p.channels - v * L, 0, L), acc[i][v]);
    }
}

// A panel's tiles along a line of `count` pixels, in tiles of about one size.
template <class T>
struct Line {
    std::int64_t tiles, rows, longer;  // the first `longer` tiles have a row more
    typename GatherTile<T>::Call one, more;
    Line(std::int64_t count, std::int64_t vectors) {
        const std::int64_t most = tl::tile_rows(registers, vectors);
        tiles = (count + most - 1) / most, rows = count / tiles, longer = count % tiles;
        one = tile_of<GatherTile<T>>(rows, vectors);
        more = longer ? tile_of<GatherTile<T>>(rows + 1, vectors) : one;
    }
    void operator()(const Panel<T>& p, const T* from, T* to) const {
        for (std::int64_t t = 0; t < tiles; ++t) {
            const std::int64_t m = rows + (t < longer);
            (t < longer ? more : one)(p, from, to);
            from += m * p.from_step;
            to += m * p.to_step;
        }
    }
};

// The weights of a group's panel, for all phases: [tap][source channel][vectors], and zeros for channels that there are
// not. Where a phase's weights begin depends on the taps of the phases before it.
template <class P>
static P panel_weights(const tl::Gather& g, const tl::Cut& c, P packed, const tl::Phase& p, std::int64_t group,
                       std::int64_t vector) {
    return packed + ((p.before * g.groups + group * p.taps) * c.wide() + vector * c.lanes * p.taps) * g.source;
}

template <class T>
static void pack(const tl::Gather& g, const tl::Cut& c, const T* w, T* packed, std::int64_t group, std::int64_t panel) {
    constexpr std::int64_t L = lanes<T>;
    const std::int64_t first = panel * c.at_once, vectors = std::min(c.at_once, c.vectors - first), wide = vectors * L;
    w += group * g.w_group;
    // rows are destination channels; a row's run in memory is (source channel, tap), (tap) or (source channel)
    const bool both = g.w_made != 1 && g.w_source == g.taps && g.w_tap == 1;
    const bool by_tap = !both && g.w_tap == 1 && g.w_made != 1;
    const bool by_source = !both && !by_tap && g.w_made != 1;
    const std::int64_t length = both ? g.source * g.taps : by_tap ? g.taps : g.source;
    const std::int64_t outer_taps = both || by_tap ? 1 : g.taps, outer_sources = both || by_source ? 1 : g.source;
    std::vector<T*> at(g.taps);
    for (std::int64_t t = 0; t < g.taps; ++t)
        at[t] = g.phase_of[t] < 0 ? nullptr
                                  : panel_weights(g, c, packed, g.phases[g.phase_of[t]], group, first) +
                                        g.place_of[t] * g.source * wide;
    for (std::int64_t t = 0; t < outer_taps; ++t)
        for (std::int64_t s = 0; s < outer_sources; ++s)
            for (std::int64_t v = 0; v < vectors; ++v) {
                const std::int64_t o = (first + v) * L, rows = std::clamp<std::int64_t>(g.made - o, 0, L);
                const T* from = w + o * g.w_made + s * g.w_source + t * g.w_tap;
                if (g.w_made == 1) {
                    if (at[t]) store(at[t] + s * wide + v * L, load_first(from, rows));
                    continue;
                }
                for (std::int64_t j = 0; j < length; j += L) {
                    const std::int64_t n = std::min(L, length - j);
                    Vec<T> r[L];
                    for (std::int64_t k = 0; k < L; ++k)
                        r[k] = k >= rows ? all(T(0)) : n == L ? load(from + k * g.w_made + j)
                                                              : load_first(from + k * g.w_made + j, n);
                    turn<T>(r);
                    for (std::int64_t k = 0; k < n; ++k) {
                        const std::int64_t tap = both ? (j + k) % g.taps : by_tap ? j + k : t;
                        const std::int64_t from_source = both ? (j + k) / g.taps : by_tap ? s : j + k;
                        if (at[tap]) store(at[tap] + from_source * wide + v * L, r[k]);
                    }
                }
            }
}

// A task: some images, a band of rows of each, a part of the channels. With `at` what is made is pooled.
template <class T>
static void gather_task(const tl::Gather& g, const tl::Cut& c, tl::After after, const T* source, const T* packed,
                        const T* bias, T* made, std::uint8_t* at, std::int64_t task) {
    const tl::Axis &R = g.rows, &C = g.columns;
    const std::int64_t part = task % c.parts, band = task / c.parts % c.bands, n0 = task / c.parts / c.bands * c.images;
    const std::int64_t images = std::min(c.images, g.n - n0), q0 = band * c.band;
    const std::int64_t q1 = std::min(q0 + c.band, at ? R.count() / 2 * 2 : R.count());
    const std::int64_t first = q0 * R.stride + R.low, rows = (q1 - q0 - 1) * R.stride + R.high - R.low + 1;
    const std::int64_t channels = g.made_channels(), made_row = C.made * channels;
    const std::int64_t made0 = q0 * R.step, made_rows = std::min(q1 * R.step, R.made) - made0;
    const std::int64_t source_image = R.size * C.size * g.source_channels(), made_image = R.made * made_row;
    const std::int64_t from_image = g.direct ? source_image : (rows * g.row + 15) / 16 * 16 + 16;
    const bool direct = g.made_last && !at;  // made where it stays
    const std::int64_t to_image = direct ? made_image : made_rows * made_row;
    const std::int64_t at_once = c.across ? images : 1;
    T* copy = g.direct ? nullptr : tl::room<T>(1, at_once * from_image);
    T* result = direct ? nullptr : tl::room<T>(2, at_once * to_image);
    const std::int64_t panels = c.panels(), all_panels = g.groups * panels;
    const std::int64_t panel0 = all_panels * part / c.parts, panel1 = all_panels * (part + 1) / c.parts;

    for (std::int64_t n = n0; n < n0 + images; n += at_once) {
        const T* from = g.direct ? source + n * source_image + first * g.row : copy;
        if (!g.direct)
            for (std::int64_t k = 0; k < at_once; ++k)
                fill(g, source + (n + k) * source_image, first, rows, copy + k * from_image);
        T* to = direct ? made + n * made_image + made0 * made_row : result;
        for (const tl::Phase& p : g.phases) {
            struct Steps {
                std::int64_t count, from, to;
            };
            Steps outer{at_once, from_image, to_image};
            Steps middle{std::min(q1, p.rows.count) - q0, R.stride * g.row, R.step * made_row};
            Steps inner{p.columns.count, C.stride * g.step, C.step * channels};
            if (middle.count < 1 || inner.count < 1) continue;
            const bool flat = !c.across && middle.from == inner.count * inner.from &&
                              middle.to == inner.count * inner.to;
            if (at && !flat) inner.count = inner.count / 2 * 2;
            if (c.across) {
                std::swap(outer, inner);
            } else if (flat) {
                inner.count *= middle.count;
                middle.count = 1;
            }
            T* place = to + p.rows.first * made_row + p.columns.first * channels;
            for (std::int64_t k = panel0; k < panel1; ++k) {
                const std::int64_t group = k / panels, vector = k % panels * c.at_once;
                const std::int64_t vectors = std::min(c.at_once, c.vectors - vector), channel = vector * c.lanes;
                const T* weights = panel_weights(g, c, packed, p, group, vector);
                const std::int64_t wide = vectors * c.lanes, w_run = p.steps * wide;
                Panel<T> panel{nullptr,  0,        p.steps, w_run, inner.from, inner.to,
                               std::min(g.made - channel, wide), nullptr,
                               bias ? bias + group * c.wide() + channel : nullptr, after};
                const Line<T> line(inner.count, vectors);
                const T* a = from + group * g.source;
                T* b = place + group * g.made + channel;
                for (std::int64_t j = 0; j < middle.count; ++j) {
                    // rows of zeros are left out
                    Taps rows{0, static_cast<std::int64_t>(p.rows.taps.size())};
                    if (!flat) rows = meets(R, p.rows, q0 + j);
                    const std::int64_t first = rows.first * p.row_runs;
                    panel.runs = p.runs.data() + first, panel.count = rows.count * p.row_runs;
                    panel.w = weights + first * w_run;
                    for (std::int64_t i = 0; i < outer.count; ++i) {
                        std::int64_t from_column = 0;
                        if (c.across && p.row_runs == 1) {  // and columns of zeros
                            const Taps columns = meets(C, p.columns, i);
                            panel.steps = columns.count * g.source;
                            panel.w = weights + first * w_run + columns.first * g.source * wide;
                            from_column = columns.first * g.step;
                        }
                        line(panel, a + i * outer.from + j * middle.from + from_column,
                             b + i * outer.to + j * middle.to);
                    }
                }
            }
        }
        if (direct) continue;
        // the channels of this part: whole panels of groups
        const auto channel = [&](std::int64_t k) {
            return k / panels * g.made + std::min(k % panels * c.at_once * c.lanes, g.made);
        };
        const std::int64_t c0 = channel(panel0), c1 = panel1 == all_panels ? channels : channel(panel1);
        if (!at) {
            for (std::int64_t k = 0; k < at_once; ++k)
                pixels_to_planes(result + k * to_image + c0, channels, c1 - c0, made_rows * C.made,
                                 made + (n + k) * made_image + c0 * R.made * C.made + made0 * C.made, R.made * C.made);
            continue;
        }
        const std::int64_t columns = C.made / 2, plane = R.made / 2 * columns;
        for (std::int64_t k = 0; k < at_once; ++k) {
            const Block<T> block{result + k * to_image + c0, made_row, channels, c1 - c0};
            const std::int64_t image = (n + k) * channels * plane, window = made0 / 2 * columns;
            if (g.made_last)
                pool_to_pixels(block, made_rows / 2, columns, made + image + window * channels + c0,
                               at + image + window * channels + c0, channels);
            else
                pool_to_planes(block, made_rows / 2, columns, made + image + c0 * plane + window,
                               at + image + c0 * plane + window, plane);
        }
    }
}

template <class T>
static void gather_all(const tl::Gather& g, const tl::Cut& c, tl::After after, const T* source, const T* w,
                       const T* bias, T* made, std::uint8_t* at) {
    const std::int64_t weights = g.groups * g.taps * g.source * c.wide();
    T* packed = tl::room<T>(0, weights + g.groups * c.wide());
    T* padded = bias ? packed + weights : nullptr;
    if (bias)
        for (std::int64_t k = 0; k < g.groups; ++k) {
            std::memcpy(padded + k * c.wide(), bias + k * g.made, sizeof(T) * g.made);
            std::fill(padded + k * c.wide() + g.made, padded + (k + 1) * c.wide(), T(0));
        }
    const std::int64_t panels = c.panels();
    run_tasks(weights > 1 << 16, g.groups * panels, [&](int k) { pack(g, c, w, packed, k / panels, k % panels); });
    const std::int64_t tasks = (g.n + c.images - 1) / c.images * c.bands * c.parts;
    run_tasks(g.products() > tl::alone, tasks,
              [&](int k) { gather_task(g, c, after, source, packed, padded, made, at, k); });
}
