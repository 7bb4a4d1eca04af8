// How a gathering convolution is laid out: which source pixels each destination pixel gathers, and how the work is cut.
//
// The forward and the gradient for x are one thing: each destination pixel is a sum over taps of source pixels times
// weights. In the forward the source is x, and its pixels lie a stride apart. In dx the source is dy; destination
// pixels that lie a stride apart meet the same taps, so there is a phase for each place within a stride.
#pragma once

#include <algorithm>
#include <vector>

#include "conv.h"

namespace tl {

struct Tap {
    std::int64_t offset, index;  // source coordinate, counted from where the destination pixel begins; which tap it is
};

// Destination coordinates first, first + step, ... (count of them) and the taps that they meet, by ascending offset.
struct Side {
    std::int64_t first, count;
    std::vector<Tap> taps;
};

// Rows or columns. The k-th destination coordinate of a side meets source coordinates k * stride + offset.
struct Axis {
    std::int64_t size, made, stride, step;  // of the source, of the destination; steps of the source and destination
    std::vector<Side> sides;
    std::int64_t low, high;  // the smallest and the largest offset

    std::int64_t count() const { return sides[0].count; }

    static Axis forward(std::int64_t size, std::int64_t made, std::int64_t kernel, std::int64_t stride,
                        std::int64_t dilation, std::int64_t pad) {
        Axis a{size, made, stride, 1, {Side{0, made, {}}}, 0, 0};
        for (std::int64_t i = 0; i < kernel; ++i) a.sides[0].taps.push_back({i * dilation - pad, i});
        return a.bounded();
    }

    static Axis backward(std::int64_t size, std::int64_t made, std::int64_t kernel, std::int64_t stride,
                         std::int64_t dilation, std::int64_t pad) {
        Axis a{size, made, 1, stride, {}, 0, 0};
        for (std::int64_t r = 0; r < std::min(stride, made); ++r) {
            Side side{r, (made - r + stride - 1) / stride, {}};
            for (std::int64_t i = kernel; i-- > 0;) {
                const std::int64_t at = r + pad - i * dilation;
                if (at % stride == 0) side.taps.push_back({at / stride, i});
            }
            a.sides.push_back(side);
        }
        return a.bounded();
    }

  private:
    Axis bounded() {
        bool any = false;
        for (const Side& side : sides)
            for (const Tap& tap : side.taps) {
                low = any ? std::min(low, tap.offset) : tap.offset;
                high = any ? std::max(high, tap.offset) : tap.offset;
                any = true;
            }
        return *this;
    }
};

// A side of the rows with a side of the columns.
struct Phase {
    Side rows, columns;
    std::vector<std::int64_t> runs;  // where the source's runs lie, from the first pixel of the window's coordinates
    std::int64_t steps, row_runs;    // the length of a run; how many a row of taps has
    std::int64_t taps, before;       // how many taps; taps of the phases before
};

struct Gather {
    std::int64_t n, groups, source, made;  // channels of a group
    Axis rows, columns;
    bool source_last, made_last, w_last;
    std::int64_t w_made, w_source, w_tap, w_group;  // steps of the weights in memory
    std::int64_t taps, kernel_width;
    std::vector<Phase> phases;
    std::vector<std::int64_t> phase_of, place_of;  // of each tap: its phase (-1: no pixel meets it), its place in it

    // The source as the kernel reads it: pixels `step` apart, rows of `width` pixels from coordinate `left` on.
    bool direct;  // as it lies in memory; otherwise a copy with zeros around it
    std::int64_t left, width, step, row;

    std::int64_t source_channels() const { return groups * source; }
    std::int64_t made_channels() const { return groups * made; }
    std::int64_t products() const { return n * rows.count() * columns.count() * groups * source * made * taps; }
};

// How the work is cut for vectors of `lanes` elements; by shape alone.
struct Cut {
    std::int64_t lanes, vectors, at_once;       // of a group's destination channels: in all, and in a panel
    bool across;                                // a tile's rows are the same pixel of several images
    std::int64_t images, bands, band;           // images of a task; bands of an image, their rows
    std::int64_t parts;                         // of the channels
    std::int64_t panels() const { return (vectors + at_once - 1) / at_once; }
    std::int64_t wide() const { return vectors * lanes; }
};

// The most rows of a tile of so many vectors.
constexpr std::int64_t tile_rows(std::int64_t registers, std::int64_t vectors) {
    return registers == 32 ? (vectors == 1 ? 16 : vectors == 2 ? 14 : vectors == 3 ? 8 : 6)
                           : (vectors == 1 ? 12 : vectors == 2 ? 6 : vectors == 3 ? 4 : 2);
}

// Cycles that a step of all products takes for `count` rows and so many vectors of columns, `at_once` in a panel: an
// estimate for a core that starts two products a cycle. `near`: the panel is in L1.
double cycles(std::int64_t count, std::int64_t vectors, std::int64_t at_once, std::int64_t registers, bool near);

Gather plan_forward(const Conv& c);
Gather plan_dx(const Conv& c);
Cut cut(const Gather& g, std::int64_t lanes, std::int64_t registers, std::int64_t element);

}  // namespace tl
