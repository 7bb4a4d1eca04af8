// The forward convolution of few channels in planes (NCHW): vectors lie along a row of pixels, nothing is turned.
#include "conv.h"

#include <algorithm>
#include <memory>

#include "conv_gather.h"
#include "pool.h"

#define TL_BODY "conv_planes_body.h"
#include "each_isa.h"

namespace tl {

bool fits_planes(const Conv& c) {
    const bool planes = !c.y_last && (!c.x_last || c.cg == 1) && (!c.w_last || c.cg == 1);
    return planes && c.groups == 1 && c.cg <= 4 && c.sw == 1 && c.ow >= 8;
}

template <class T>
ConvKernel<T> planes_forward(const Conv& c, After after) {
    return [c, after](const T* x, const T* w, const T* bias, T* y) {
        TL_PICK(planes_all<T>)(c, after, x, w, bias, y, nullptr);
    };
}
template <class T>
PoolKernel<T> planes_pool(const Conv& c) {
    return [c](const T* x, const T* w, const T* bias, T* y, std::uint8_t* at) {
        TL_PICK(planes_all<T>)(c, After::relu, x, w, bias, y, at);
    };
}
template ConvKernel<float> planes_forward<float>(const Conv&, After);
template ConvKernel<double> planes_forward<double>(const Conv&, After);
template PoolKernel<float> planes_pool<float>(const Conv&);
template PoolKernel<double> planes_pool<double>(const Conv&);

}  // namespace tl
