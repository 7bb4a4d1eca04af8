// The gradients of conv_relu_pool from what is pooled: plans, and the choice of an instruction set.
#include "conv_winners.h"

#include <algorithm>
#include <memory>

#include "pool.h"

#define TL_BODY "conv_winners_body.h"
#include "each_isa.h"

namespace tl {
namespace {

constexpr std::int64_t some_ranges = 16, sums_bytes = 4 << 20;

// `patches` are for the weights' gradient of one channel.
std::shared_ptr<const Winners> plan(const Conv& c, bool dw, std::int64_t element) {
    auto w = std::make_shared<Winners>();
    w->c = c;
    w->rows = c.oh / 2, w->columns = c.ow / 2;
    w->height = (2 * w->rows - 1) * c.sh + (c.kh - 1) * c.dh + 1;
    w->width = (2 * w->columns - 1) * c.sw + (c.kw - 1) * c.dw + 1;
    w->block = c.cg % 32 == 0 ? 32 : c.cg % 16 == 0 ? 16 : c.cg;
    w->blocks = c.cg / w->block;
    w->patches = dw && c.cg == 1 && c.dw == 1;
    std::int64_t row = w->width * c.sh, column = c.sw;  // between outputs, in pixels of the copy
    if (w->patches) {
        w->steps = c.taps(), w->step = (c.taps() + 15) / 16 * 16;
        w->runs = {0};
        row = 2 * w->columns, column = 1;
    } else {
        const bool together = c.dw == 1;
        w->step = w->block, w->steps = together ? c.kw * w->block : w->block;
        for (std::int64_t i = 0; i < c.kh; ++i)
            for (std::int64_t j = 0; j < (together ? 1 : c.kw); ++j)
                w->runs.push_back((i * c.dh * w->width + j * c.dw) * w->step);
    }
    w->right = column * w->step, w->down = row * w->step;
    for (std::int64_t i = 0; i < w->rows; ++i)
        for (std::int64_t j = 0; j < w->columns; ++j)
            w->base.push_back(static_cast<std::int32_t>(2 * (i * row + j * column) * w->step));
    w->base.resize(w->base.size() + 16);  // for whole vectors
    const std::int64_t size = element * c.og * c.cg * c.taps();
    w->ranges = std::clamp<std::int64_t>(sums_bytes / size, 1, std::min(some_ranges, c.n));
    w->parts = std::min(c.og, (some_ranges / 2 + w->ranges - 1) / w->ranges);
    return w;
}

}  // namespace

template <class T>
PoolGradient<T> winners_dw_kernel(const Conv& c) {
    auto w = plan(c, true, sizeof(T));
    return [w](const T* x, const T* g, const T* s, const std::uint8_t* place, T* dw, T* db) {
        TL_PICK(winners_dw<T>)(*w, x, g, s, place, dw, db);
    };
}

template <class T>
PoolGradient<T> winners_dx_kernel(const Conv& c) {
    auto w = plan(c, false, sizeof(T));
    return [w](const T* weights, const T* g, const T* s, const std::uint8_t* place, T* dx, T*) {
        TL_PICK(winners_dx<T>)(*w, g, s, place, weights, dx);
    };
}

template PoolGradient<float> winners_dw_kernel<float>(const Conv&);
template PoolGradient<double> winners_dw_kernel<double>(const Conv&);
template PoolGradient<float> winners_dx_kernel<float>(const Conv&);
template PoolGradient<double> winners_dx_kernel<double>(const Conv&);

}  // namespace tl
