// Convolutions: their sizes and the families of kernels that conv.cpp chooses from; not a file of ops.
//
// Inside, pixels lie channels last (NHWC). Arrays of either layout come in and go out; `Conv` says which.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>

namespace tl {

// n images of groups x cg channels, h x w pixels, to groups x og channels of oh x ow pixels.
struct Conv {
    std::int64_t n, groups, cg, og, h, w, oh, ow, kh, kw;
    std::int64_t sh, sw, dh, dw;  // stride, dilation
    std::int64_t top, left;       // padding before
    bool x_last, w_last, y_last;  // whether x, w and y (or their gradients) lie channels last in memory

    std::int64_t channels() const { return groups * cg; }
    std::int64_t features() const { return groups * og; }
    std::int64_t taps() const { return kh * kw; }
    std::int64_t products() const { return n * oh * ow * features() * cg * taps(); }
};

// What is done to an output before it is stored.
enum class After { nothing, relu };

// (x, w, bias or null, y) for the forward, (dy, w, null, dx) for dx, (x, dy, null, dw) for dw.
template <class T>
using ConvKernel = std::function<void(const T*, const T*, const T*, T*)>;

// (x, w, bias or null, y, places) for a forward whose outputs pass relu and are pooled: y has the largest of each
// window of 2 x 2 outputs (rows and columns left over go nowhere), `places` where in the window it is. What is not
// pooled yet is in a thread's own memory alone.
template <class T>
using PoolKernel = std::function<void(const T*, const T*, const T*, T*, std::uint8_t*)>;

// conv_gather.cpp: each output pixel gathers its window. All sizes, forward and dx.
template <class T>
ConvKernel<T> gather_forward(const Conv& c, After after);
template <class T>
PoolKernel<T> gather_pool(const Conv& c);
template <class T>
ConvKernel<T> gather_dx(const Conv& c);

// conv_planes.cpp: the forward of few channels in planes.
bool fits_planes(const Conv& c);
template <class T>
ConvKernel<T> planes_forward(const Conv& c, After after);
template <class T>
PoolKernel<T> planes_pool(const Conv& c);

// conv_depthwise.cpp: one input channel to a group.
bool fits_depthwise(const Conv& c);
template <class T>
ConvKernel<T> depthwise_forward(const Conv& c, After after);
template <class T>
PoolKernel<T> depthwise_pool(const Conv& c);
template <class T>
ConvKernel<T> depthwise_dx(const Conv& c);
template <class T>
ConvKernel<T> depthwise_dw(const Conv& c);

// conv_winners.cpp: the gradients of what is pooled, of one group: (x, dy, y, places, dw, db) for the weights and the bias,
// (w, dy, y, places, dx, null) for x, whose channels are a multiple of 16.
template <class T>
using PoolGradient = std::function<void(const T*, const T*, const T*, const std::uint8_t*, T*, T*)>;
template <class T>
PoolGradient<T> winners_dw_kernel(const Conv& c);
template <class T>
PoolGradient<T> winners_dx_kernel(const Conv& c);

// conv_planes_dx.cpp: dx of few channels, of either layout.
bool fits_planes_dx(const Conv& c);
template <class T>
ConvKernel<T> planes_dx(const Conv& c);

// conv_planes_dw.cpp: dw of few channels, of either layout.
bool fits_planes_dw(const Conv& c);
template <class T>
ConvKernel<T> planes_dw(const Conv& c);

// conv_weights.cpp: products of all pixels, added up. All sizes.
template <class T>
ConvKernel<T> weights_dw(const Conv& c);

// winograd.cpp: fewer products, less exact. `gather` itself where that does not pay; it also stands in while the switch
// is off.
template <class T>
ConvKernel<T> winograd_forward(const Conv& c, After after, ConvKernel<T> gather);
template <class T>
PoolKernel<T> winograd_pool(const Conv& c, PoolKernel<T> gather);
template <class T>
ConvKernel<T> winograd_dx(const Conv& c, ConvKernel<T> gather);
std::atomic<bool>& winograd_on();

// Work below so many products stays on the caller.
constexpr std::int64_t alone = 1 << 19;

// Memory of this thread for kernels' copies, aligned to a cache line: it grows, is used again, is never given back.
// `place` tells apart what one kernel needs at the same time.
template <class T>
T* room(int place, std::int64_t count) {
    struct Room {
        void* data = nullptr;
        std::size_t bytes = 0;
    };
    static thread_local Room rooms[4];
    Room& r = rooms[place];
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 191) / 64 * 64;  // a line of slack
    if (bytes > r.bytes) {
        std::free(r.data);
        r.bytes = 0;
        r.data = std::aligned_alloc(64, bytes);
        if (!r.data) throw std::bad_alloc();
        r.bytes = bytes;
    }
    return static_cast<T*>(r.data);
}

}  // namespace tl
