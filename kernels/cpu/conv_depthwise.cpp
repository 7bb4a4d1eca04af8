// Depthwise convolutions: one input channel to a group, any number of output channels. Forward, dx and dw.
#include "conv_depthwise.h"

#include <memory>

#include "pool.h"
#include "scratch.h"

#define TL_BODY "conv_depthwise_body.h"
#include "each_isa.h"

namespace tl {
namespace {

constexpr std::int64_t most_tasks = 64, task_products = 1 << 17;
constexpr std::int64_t slack = 16;  // elements of the widest vector

std::vector<Run> runs_of(const Axis& axis, const Side& side) {
    std::vector<Run> runs;
    const auto all = static_cast<std::int64_t>(side.taps.size());
    for (std::int64_t k = 0; k < side.count; ++k) {
        std::int64_t a = 0, b = all;
        while (a < b && k * axis.stride + side.taps[a].offset < 0) ++a;
        while (a < b && k * axis.stride + side.taps[b - 1].offset >= axis.size) --b;
        if (runs.empty() || runs.back().first != a || runs.back().count != b - a) runs.push_back({k, k, a, b - a});
        runs.back().end = k + 1;
    }
    return runs;
}

std::shared_ptr<const Depthwise> plan(Gather gather, After after, std::int64_t spread, std::int64_t joined) {
    auto d = std::make_shared<Depthwise>();
    d->g = std::move(gather), d->after = after, d->spread = spread, d->joined = joined;
    const Gather& g = d->g;
    const Axis &r = g.rows, &c = g.columns;
    for (const Side& side : r.sides) d->row_runs.push_back(runs_of(r, side));
    for (const Side& side : c.sides) d->column_runs.push_back(runs_of(c, side));
    d->top = std::min<std::int64_t>(r.low, 0), d->left = std::min<std::int64_t>(c.low, 0);
    d->height = std::max((r.count() - 1) * r.stride + r.high, r.size - 1) + 1 - d->top;
    const std::int64_t width = std::max((c.count() - 1) * c.stride + c.high, c.size - 1) + 1 - d->left;
    d->part = (width + c.stride - 1) / c.stride + 2 * slack;  // vectors reach over a row's end
    d->pitch = d->part * c.stride;
    for (const Phase& phase : g.phases) {
        d->places.emplace_back();
        for (const Tap& i : phase.rows.taps)
            for (const Tap& j : phase.columns.taps) {
                const std::int64_t column = j.offset - d->left;
                d->places.back().push_back(
                    {(i.offset - d->top) * d->pitch + column % c.stride * d->part + column / c.stride,
                     i.index * g.kernel_width + j.index});
            }
    }
    const std::int64_t products = g.n * r.made * c.made * d->made() * joined * g.taps;
    d->shared = products > alone;
    d->tasks = std::clamp<std::int64_t>(products / task_products, 1, std::min(most_tasks, g.n * r.count()));
    return d;
}

}  // namespace

bool fits_depthwise(const Conv& c) { return c.cg == 1 && c.groups > 1; }

template <class T>
ConvKernel<T> depthwise_forward(const Conv& c, After after) {
    auto d = plan(plan_forward(c), after, c.og, 1);
    return [d](const T* x, const T* w, const T* bias, T* y) {
        d->g.made_last ? TL_PICK(depthwise_last<T>)(*d, x, w, bias, y)
                       : TL_PICK(depthwise_planes<T>)(*d, x, w, bias, y);
    };
}

// Some images at a time, so that what is not pooled yet stays near.
template <class T>
PoolKernel<T> depthwise_pool(const Conv& c) {
    const std::int64_t plane = c.oh * c.ow, image = c.features() * plane;
    const auto bytes = image * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t each = std::clamp<std::int64_t>((1 << 18) / bytes, 1, c.n);
    Conv some = c, rest = c;
    some.n = each, rest.n = c.n % each;
    const ConvKernel<T> whole = depthwise_forward<T>(some, After::relu);
    const ConvKernel<T> last = rest.n ? depthwise_forward<T>(rest, After::relu) : whole;
    const std::int64_t windows = (c.oh / 2) * (c.ow / 2);
    return [=](const T* x, const T* w, const T* bias, T* y, std::uint8_t* at) {
        const auto chunk = [&](int k) {
            struct Made;
            T* made = scratch<Made, T>(each * image + 4 * slack);
            const std::int64_t n = k * each, images = std::min(each, c.n - n);
            (images == each ? whole : last)(x + n * c.channels() * c.h * c.w, w, bias, made);
            const std::int64_t window = n * c.features() * windows;
            TL_PICK(pool_images<T>)(c, images, made, y + window, at + window);
        };
        const auto chunks = static_cast<int>((c.n + each - 1) / each);
        if (c.products() > alone) return Pool::get().run(chunks, chunk);
        for (int k = 0; k < chunks; ++k) chunk(k);
    };
}

template <class T>
ConvKernel<T> depthwise_dx(const Conv& c) {
    auto d = plan(plan_dx(c), After::nothing, 1, c.og);
    return [d](const T* dy, const T* w, const T*, T* dx) {
        d->g.made_last ? TL_PICK(depthwise_last<T>)(*d, dy, w, nullptr, dx)
                       : TL_PICK(depthwise_planes<T>)(*d, dy, w, nullptr, dx);
    };
}

template <class T>
ConvKernel<T> depthwise_dw(const Conv& c) {
    auto d = plan(plan_forward(c), After::nothing, c.og, 1);
    return [d](const T* x, const T* dy, const T*, T* dw) {
        d->g.made_last ? TL_PICK(depthwise_dw_last<T>)(*d, x, dy, dw) : TL_PICK(depthwise_dw_planes<T>)(*d, x, dy, dw);
    };
}

template ConvKernel<float> depthwise_forward<float>(const Conv&, After);
template ConvKernel<double> depthwise_forward<double>(const Conv&, After);
template PoolKernel<float> depthwise_pool<float>(const Conv&);
template PoolKernel<double> depthwise_pool<double>(const Conv&);
template ConvKernel<float> depthwise_dx<float>(const Conv&);
template ConvKernel<double> depthwise_dx<double>(const Conv&);
template ConvKernel<float> depthwise_dw<float>(const Conv&);
template ConvKernel<double> depthwise_dw<double>(const Conv&);

}  // namespace tl
