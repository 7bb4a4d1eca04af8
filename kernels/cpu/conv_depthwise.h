// How a depthwise convolution (one input channel to a group) is laid out, made of the plan of conv_gather.h.
//
// Two ways, chosen by the layout of what is made (for the weights' gradient: of dy). Channels last: vectors lie along
// channels, and taps outside of the image are left out. Planes: vectors lie along a row of pixels, read from a copy of
// a plane with zeros around it, whose columns are sorted by their place in a stride.
#pragma once

#include "conv_gather.h"

namespace tl {

// Destination coordinates [begin, end) of a side that meet the same taps: `count` of them from `first` on.
struct Run {
    std::int64_t begin, end, first, count;
};

// A tap in a plane's copy: where it lies from a window's beginning, and which one it is.
struct Place {
    std::int64_t offset, index;
};

struct Depthwise {
    Gather g;
    After after;
    // Destination channel o is made of source channels o / spread * joined + 0 .. joined - 1: one of the two is 1, the
    // other the channel multiplier.
    std::int64_t spread, joined;
    std::vector<std::vector<Run>> row_runs, column_runs;  // of each side
    // The copy of a plane: coordinates from (top, left) on; columns of the same place in a stride are a run of `part`.
    std::int64_t top, left, height, part, pitch;
    std::vector<std::vector<Place>> places;  // of each phase's taps
    std::int64_t tasks, shared;              // ranges of rows (channels last); whether threads share them

    std::int64_t copy() const { return height * pitch; }
    std::int64_t source_plane() const { return g.rows.size * g.columns.size; }
    std::int64_t made_plane() const { return g.rows.made * g.columns.made; }
    // Channels of the source, and those that each task takes of the destination in planes.
    std::int64_t made() const { return g.made_channels(); }
    std::int64_t source() const { return g.source_channels(); }
};

}  // namespace tl
