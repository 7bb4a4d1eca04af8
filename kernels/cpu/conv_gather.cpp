// Convolutions by gathering, forward and dx: plans, and the choice of an instruction set.
#include "conv_gather.h"

#include <array>
#include <memory>

#include "pool.h"

#define TL_BODY "conv_gather_body.h"
#include "each_isa.h"

namespace tl {
namespace {

constexpr std::int64_t near_bytes = 448 << 10;  // of a task's copies: with the weights they stay in a core's L2
constexpr std::int64_t first_bytes = 32 << 10;  // what stays in L1
constexpr std::int64_t task_products = 1 << 19;  // some microseconds
constexpr std::int64_t some_tasks = 16;

// The phases, and how the source is read.
Gather finished(Gather g) {
    const Axis &r = g.rows, &c = g.columns;
    g.step = g.source_channels();
    g.left = std::min<std::int64_t>(c.low, 0);
    g.width = std::max((c.count() - 1) * c.stride + c.high, c.size - 1) + 1 - g.left;
    g.direct = g.source_last && g.left == 0 && g.width == c.size && r.low >= 0 &&
               (r.count() - 1) * r.stride + r.high < r.size;
    g.row = g.width * g.step;
    g.phase_of.assign(g.taps, -1);
    g.place_of.resize(g.taps);
    std::int64_t before = 0;
    for (const Side& rows : r.sides)
        for (const Side& columns : c.sides) {
            Phase p{rows, columns, {}, g.source, 0, 0, before};
            const auto wide = static_cast<std::int64_t>(columns.taps.size());
            bool together = g.groups == 1;  // neighbouring taps of a row are one run
            for (std::int64_t j = 0; j + 1 < wide; ++j)
                together = together && columns.taps[j + 1].offset == columns.taps[j].offset + 1;
            for (const Tap& i : rows.taps)
                for (const Tap& j : columns.taps) {
                    const std::int64_t tap = i.index * g.kernel_width + j.index;
                    g.phase_of[tap] = static_cast<std::int64_t>(g.phases.size());
                    g.place_of[tap] = p.taps++;
                    if (!together || &j == &columns.taps[0])
                        p.runs.push_back((i.offset - r.low) * g.row + (j.offset - g.left) * g.step);
                }
            if (together && wide) p.steps = wide * g.source;
            p.row_runs = together ? std::min<std::int64_t>(wide, 1) : wide;
            before += p.taps;
            g.phases.push_back(std::move(p));
        }
    return g;
}

}  // namespace

double cycles(std::int64_t count, std::int64_t vectors, std::int64_t at_once, std::int64_t registers, bool near) {
    double total = 0;
    for (std::int64_t v = 0; v < vectors; v += at_once) {
        const std::int64_t part = std::min(at_once, vectors - v), most = tile_rows(registers, part);
        const std::int64_t tiles = (count + most - 1) / most, rows = count / tiles, longer = count % tiles;
        const auto one = [&](std::int64_t m) {
            const auto rows = static_cast<double>(m), vectors = static_cast<double>(part);
            // a vector of channels wants a load for each product: slower than two products a cycle
            const double products = rows * vectors * (part == 1 ? 0.6 : part == 2 ? 0.5 : 0.51);
            return std::max({products, 4.0, near ? 0.0 : 2.0 * vectors});
        };
        total += one(rows) * static_cast<double>(tiles - longer) + one(rows + 1) * static_cast<double>(longer);
    }
    return total;
}

Gather plan_forward(const Conv& c) {
    Gather g{};
    g.n = c.n, g.groups = c.groups, g.source = c.cg, g.made = c.og;
    g.rows = Axis::forward(c.h, c.oh, c.kh, c.sh, c.dh, c.top);
    g.columns = Axis::forward(c.w, c.ow, c.kw, c.sw, c.dw, c.left);
    g.source_last = c.x_last, g.made_last = c.y_last, g.w_last = c.w_last;
    g.taps = c.taps(), g.kernel_width = c.kw;
    g.w_made = c.cg * g.taps, g.w_source = c.w_last ? 1 : g.taps, g.w_tap = c.w_last ? c.cg : 1;
    g.w_group = c.og * c.cg * g.taps;
    return finished(std::move(g));
}

Gather plan_dx(const Conv& c) {
    Gather g{};
    g.n = c.n, g.groups = c.groups, g.source = c.og, g.made = c.cg;
    g.rows = Axis::backward(c.oh, c.h, c.kh, c.sh, c.dh, c.top);
    g.columns = Axis::backward(c.ow, c.w, c.kw, c.sw, c.dw, c.left);
    g.source_last = c.y_last, g.made_last = c.x_last, g.w_last = c.w_last;
    g.taps = c.taps(), g.kernel_width = c.kw;
    g.w_source = c.cg * g.taps, g.w_made = c.w_last ? 1 : g.taps, g.w_tap = c.w_last ? c.cg : 1;
    g.w_group = c.og * c.cg * g.taps;
    return finished(std::move(g));
}

Cut cut(const Gather& g, std::int64_t lanes, std::int64_t registers, std::int64_t element) {
    Cut cut{};
    cut.lanes = lanes;
    cut.vectors = (g.made + lanes - 1) / lanes;
    const std::int64_t rows = g.rows.count(), columns = g.columns.count();
    const Axis &r = g.rows, &c = g.columns;
    // lines of pixels that lie one after the other, or the same pixel of several images
    const bool flat = r.stride * g.row == columns * c.stride * g.step && r.step == 1 && c.step == 1;
    const std::int64_t line = flat ? rows * columns : columns;
    const std::int64_t image = element * ((rows * r.stride + r.high - r.low) * g.row +
                                          (g.made_last ? 0 : r.made * c.made * g.made_channels()));
    const std::int64_t groups_of_8 = (g.n + 7) / 8;
    const std::int64_t several = g.n < 2 ? 1 : (g.n + groups_of_8 - 1) / groups_of_8;
    double best = 0;
    for (std::int64_t at_once = 1; at_once <= 4; ++at_once) {
        const bool near = std::min(at_once, cut.vectors) * lanes * element * g.taps * g.source <= first_bytes;
        const double along = cycles(line, cut.vectors, at_once, registers, near) / static_cast<double>(line);
        const double over = cycles(several, cut.vectors, at_once, registers, near) / static_cast<double>(several);
        if (best == 0 || along < best * 0.99) best = along, cut.at_once = at_once, cut.across = false;
        if (several > 1 && image * several <= near_bytes && over < best * 0.85)
            best = over, cut.at_once = at_once, cut.across = true;
    }
    cut.at_once = std::min(cut.at_once, cut.vectors);
    const std::int64_t each = std::max<std::int64_t>(g.products() / std::max<std::int64_t>(g.n, 1), 1);
    const std::int64_t most = std::max<std::int64_t>(g.n / some_tasks, 1);
    cut.images = cut.across ? several : std::clamp<std::int64_t>(task_products / each, 1, most);
    const std::int64_t tasks = (g.n + cut.images - 1) / cut.images;
    // bands of rows: that copies stay near, and that there are tasks for every thread
    const std::int64_t for_room = (image + near_bytes - 1) / near_bytes;
    const std::int64_t for_tasks =
        each < task_products ? 1 : std::min((some_tasks + tasks - 1) / tasks, each / task_products);
    const std::int64_t bands = std::max(for_room, std::min(for_tasks, (rows + 6) / 7));
    cut.bands = cut.across ? 1 : std::clamp<std::int64_t>(bands, 1, rows);
    cut.band = (rows + cut.bands - 1) / cut.bands;
    cut.bands = (rows + cut.band - 1) / cut.band;
    const std::int64_t all = tasks * cut.bands, work = g.products() / std::max<std::int64_t>(all, 1);
    const std::int64_t parts = std::min((some_tasks / 2 + all - 1) / all, work / task_products);
    cut.parts = all >= some_tasks / 2 ? 1 : std::clamp<std::int64_t>(parts, 1, g.groups * cut.panels());
    return cut;
}

namespace {

struct Ready {
    Gather g;
    After after;
    std::array<Cut, 3> cuts;
};

template <class T>
std::shared_ptr<Ready> ready_for(Gather plan, After after) {
    auto ready = std::make_shared<Ready>(Ready{std::move(plan), after, {}});
    for (int k = 0; k < 3; ++k)
        ready->cuts[k] = cut(ready->g, (k == avx512 ? 64 : k == avx2 ? 32 : 16) / static_cast<std::int64_t>(sizeof(T)),
                             k == avx512 ? 32 : 16, sizeof(T));
    return ready;
}

template <class T>
ConvKernel<T> gather(Gather plan, After after) {
    auto ready = ready_for<T>(std::move(plan), after);
    return [ready](const T* source, const T* w, const T* bias, T* made) {
        TL_PICK(gather_all<T>)(ready->g, ready->cuts[isa()], ready->after, source, w, bias, made, nullptr);
    };
}

// Bands of whole windows, and such that what is pooled stays near, too.
void pooled(const Gather& g, Cut& cut, std::int64_t element) {
    const std::int64_t row = element * g.columns.made * g.made_channels(), rows = g.rows.count() / 2 * 2;
    const std::int64_t near = std::max<std::int64_t>(near_bytes / std::max<std::int64_t>(row, 1), 2);
    cut.band = cut.across ? rows : std::min({cut.band + 1, near, rows}) / 2 * 2;
    cut.bands = (rows + cut.band - 1) / cut.band;
}

}  // namespace

template <class T>
ConvKernel<T> gather_forward(const Conv& c, After after) {
    return gather<T>(plan_forward(c), after);
}
template <class T>
PoolKernel<T> gather_pool(const Conv& c) {
    auto ready = ready_for<T>(plan_forward(c), After::relu);
    for (Cut& cut : ready->cuts) pooled(ready->g, cut, sizeof(T));
    return [ready](const T* source, const T* w, const T* bias, T* made, std::uint8_t* at) {
        TL_PICK(gather_all<T>)(ready->g, ready->cuts[isa()], ready->after, source, w, bias, made, at);
    };
}
template <class T>
ConvKernel<T> gather_dx(const Conv& c) {
    return gather<T>(plan_dx(c), After::nothing);
}
template ConvKernel<float> gather_forward<float>(const Conv&, After);
template ConvKernel<double> gather_forward<double>(const Conv&, After);
template PoolKernel<float> gather_pool<float>(const Conv&);
template PoolKernel<double> gather_pool<double>(const Conv&);
template ConvKernel<float> gather_dx<float>(const Conv&);
template ConvKernel<double> gather_dx<double>(const Conv&);

}  // namespace tl
