// The gradient of convolutions of one channel for their weights: every column of taps has a shifted copy of the image,
// laid out as the output's pixels are, so that sums run over whole planes.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "conv_gather.h"
#include "pool.h"

namespace tl {

// Pixels go in chunks: some images, or a band of rows of one. A task is a range of chunks with sums of its own, which
// are added in order at the end.
struct FewCut {
    Conv c;
    std::int64_t images, bands, band;  // images of a chunk; bands of an image, their rows
    std::int64_t span, copy;           // rows of a copy; elements of a chunk's copies for each image
    std::int64_t chunks, ranges;
    std::vector<std::int64_t> taps;    // where the copy of a tap begins
    std::int64_t rows() const { return static_cast<std::int64_t>(taps.size()); }
};

}  // namespace tl

#define TL_BODY "conv_planes_dw_body.h"
#include "each_isa.h"

namespace tl {
namespace {

constexpr std::int64_t near_bytes = 32 << 10;  // of a chunk's copies
constexpr std::int64_t near_pixels = 1024;     // of a chunk
constexpr std::int64_t task_products = 1 << 19;
constexpr std::int64_t most_ranges = 32;

std::int64_t up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

FewCut cut_few(const Conv& c, std::int64_t element) {
    FewCut cut{};
    cut.c = c;
    const std::int64_t copies = c.kw, more = (c.kh - 1) * c.dh;
    const std::int64_t fit = std::min(near_bytes / (element * copies * c.ow) - more, near_pixels / c.ow);
    cut.bands = up(c.oh, std::clamp<std::int64_t>(fit, std::min<std::int64_t>(4, c.oh), c.oh));
    cut.band = up(c.oh, cut.bands);
    cut.bands = up(c.oh, cut.band);
    cut.span = cut.band + more;
    cut.copy = copies * cut.span * c.ow;
    cut.images = cut.bands > 1 ? 1 : std::clamp<std::int64_t>(
        std::min(near_bytes / (element * cut.copy), near_pixels / (c.oh * c.ow)), 1, c.n);
    cut.chunks = up(c.n, cut.images) * cut.bands;
    cut.ranges = std::clamp<std::int64_t>(c.products() / task_products, 1, std::min(most_ranges, cut.chunks));
    for (std::int64_t i = 0; i < c.kh; ++i)
        for (std::int64_t j = 0; j < c.kw; ++j) cut.taps.push_back((j * cut.span + i * c.dh) * c.ow);
    return cut;
}

}  // namespace

bool fits_planes_dw(const Conv& c) {
    const bool whole = !c.y_last || c.og % 16 == 0;  // whole vectors of output channels
    // with three channels the general kernel is a quarter quicker, and a half with steps of 2
    const bool one = c.groups == 1 && c.cg == 1 && c.sh == 1 && c.sw == 1;
    return one && c.kw <= 7 && c.kh <= 7 && c.og >= 4 && c.oh * c.ow >= 64 && whole;
}

template <class T>
ConvKernel<T> planes_dw(const Conv& c) {
    auto cut = std::make_shared<const FewCut>(cut_few(c, sizeof(T)));
    return [cut](const T* x, const T* dy, const T*, T* dw) { TL_PICK(few_all<T>)(*cut, x, dy, dw); };
}
template ConvKernel<float> planes_dw<float>(const Conv&);
template ConvKernel<double> planes_dw<double>(const Conv&);

}  // namespace tl
