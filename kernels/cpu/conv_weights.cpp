// The gradient of convolutions for their weights: how the sums over pixels are cut.
#include <array>
#include <memory>

#include "conv_gather.h"
#include "pool.h"

namespace tl {

// Pixels go in chunks whose copies stay in a core's L2: some images, or a band of rows of one. A task is a range of
// chunks and a part of the output channels; each range has sums of its own, which are added in order at the end.
struct WeightsCut {
    std::int64_t lanes, vectors, at_once;  // of a group's output channels: in all, and in a panel
    std::int64_t images, bands, band;      // images of a chunk; bands of an image, their rows
    std::int64_t ranges, parts;
    bool across;  // steps go over images, not along a row
    std::int64_t wide() const { return vectors * lanes; }
    std::int64_t panels() const { return (vectors + at_once - 1) / at_once; }
};

}  // namespace tl

#define TL_BODY "conv_weights_body.h"
#include "each_isa.h"

namespace tl {
namespace {

constexpr std::int64_t near_bytes = 384 << 10;    // of a chunk's copies
constexpr std::int64_t sums_bytes = 320 << 10;    // of a task's sums
constexpr std::int64_t task_products = 1 << 20;
constexpr std::int64_t some_tasks = 16;

std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

WeightsCut cut_weights(const Gather& g, std::int64_t lanes, std::int64_t registers, std::int64_t element) {
    WeightsCut cut{};
    cut.lanes = lanes;
    cut.vectors = up(g.made, lanes);
    double best = 0;
    for (std::int64_t at_once = 1; at_once <= 4; ++at_once) {
        const double cost = cycles(g.phases[0].steps, cut.vectors, at_once, registers, true);
        if (best == 0 || cost < best * 0.99) best = cost, cut.at_once = at_once;
    }
    cut.at_once = std::min(cut.at_once, cut.vectors);
    const std::int64_t sums = g.groups * g.taps * g.source * cut.wide(), rows = g.rows.count();
    cut.parts = std::min(up(sums * element, sums_bytes), g.groups * cut.panels());
    const std::int64_t pixels = rows * g.columns.count();
    const std::int64_t image = element * (g.rows.size * g.row + pixels * g.made_channels() / cut.parts);
    // not so many ranges that adding them up counts
    const std::int64_t ranges = std::clamp<std::int64_t>(
        std::min({up(some_tasks, cut.parts), g.products() / cut.parts / task_products, g.products() / sums / 64}), 1,
        some_tasks);
    cut.bands = std::clamp<std::int64_t>(std::max(up(image, near_bytes), up(ranges, g.n)), 1, rows);
    cut.band = up(rows, cut.bands);
    cut.bands = up(rows, cut.band);
    cut.images = cut.bands > 1 ? 1 : std::clamp<std::int64_t>(std::min(near_bytes / image, up(g.n, ranges)), 1, 64);
    cut.ranges = std::min(ranges, up(g.n, cut.images) * cut.bands);
    cut.across = cut.images > g.columns.count() && cut.bands == 1;
    return cut;
}

}  // namespace

template <class T>
ConvKernel<T> weights_dw(const Conv& c) {
    struct Ready {
        Gather g;
        std::array<WeightsCut, 3> cuts;
    };
    auto ready = std::make_shared<Ready>(Ready{plan_forward(c), {}});
    for (int k = 0; k < 3; ++k)
        ready->cuts[k] =
            cut_weights(ready->g, (k == avx512 ? 64 : k == avx2 ? 32 : 16) / static_cast<std::int64_t>(sizeof(T)),
                        k == avx512 ? 32 : 16, sizeof(T));
    return [ready](const T* x, const T* dy, const T*, T* dw) {
        TL_PICK(weights_all<T>)(ready->g, ready->cuts[isa()], x, dy, dw);
    };
}
template ConvKernel<float> weights_dw<float>(const Conv&);
template ConvKernel<double> weights_dw<double>(const Conv&);

}  // namespace tl
