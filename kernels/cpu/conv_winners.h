// How the gradients of conv_relu_pool are laid out. Of each window of 2 x 2 outputs one alone, the winner, has a
// gradient, so that the products are a quarter of those of the whole gradient, which is not made at all.
//
// For each image and feature there is a list: of each window its number and the pixel where the winner's taps begin.
// The taps are runs of `steps` neighbours in a copy of the image with zeros around, channels last, of one block of
// channels. The weights' gradient is the sum of numbers times runs; x's is made by adding numbers times weights to runs.
#pragma once

#include "conv_gather.h"

#include <vector>

namespace tl {

struct Winners {
    Conv c;
    std::int64_t rows, columns;            // of windows
    std::int64_t height, width;            // of the copy
    std::int64_t block, blocks;            // channels of a block
    std::int64_t step, steps;              // from pixel to pixel; of a run
    std::vector<std::int64_t> runs;        // where each begins
    std::int64_t right, down;              // from a window's first pixel to those beside and below it
    std::vector<std::int32_t> base;        // of each window: its first pixel
    bool patches;                          // the copy has a pixel's whole window one after the other: a single run
    std::int64_t ranges, parts;            // tasks of the weights' gradient: of images, of features

    std::int64_t windows() const { return rows * columns; }
    std::int64_t count() const { return static_cast<std::int64_t>(runs.size()); }
    // A task's sums, with whole vectors for each run.
    std::int64_t wide(std::int64_t lanes) const { return (steps + lanes - 1) / lanes * lanes; }
};

}  // namespace tl
