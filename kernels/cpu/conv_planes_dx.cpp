// The gradient of convolutions for an input of few channels: sums over whole planes with zeros around.
#include <algorithm>

#include "conv_gather.h"
#include "pool.h"

namespace tl {

// A padded plane of dy: dx's pixel (y, x) needs its rows y .. y + (kh - 1) * dh, columns likewise.
struct Around {
    std::int64_t height, row, top, left;
    explicit Around(const Conv& c)
        : height(c.h + (c.kh - 1) * c.dh), row(c.w + (c.kw - 1) * c.dw), top((c.kh - 1) * c.dh - c.top),
          left((c.kw - 1) * c.dw - c.left) {}
};

}  // namespace tl

#define TL_BODY "conv_planes_dx_body.h"
#include "each_isa.h"

namespace tl {

bool fits_planes_dx(const Conv& c) {
    const Around a(c);
    const bool inside = a.top >= 0 && a.left >= 0 && a.top + c.oh <= a.height && a.left + c.ow <= a.row;
    return inside && c.groups == 1 && c.cg <= 4 && c.og >= 4 && c.sh == 1 && c.sw == 1 && c.n >= 2 &&
           c.h * c.w >= 64 && a.height * a.row <= 8192;
}

template <class T>
ConvKernel<T> planes_dx(const Conv& c) {
    return [c](const T* dy, const T* w, const T*, T* dx) { TL_PICK(around_all<T>)(c, dy, w, dx); };
}
template ConvKernel<float> planes_dx<float>(const Conv&);
template ConvKernel<double> planes_dx<double>(const Conv&);

}  // namespace tl
