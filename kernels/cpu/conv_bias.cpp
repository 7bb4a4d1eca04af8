// The gradient of convolutions for their bias: the sums over images and pixels of each channel.
#include "conv.h"
#include "pool.h"
#include "tl.h"

#define TL_BODY "conv_bias_body.h"
#include "each_isa.h"

namespace tl {
namespace {

// Images of c channels of p pixels, cut in ranges whose sums are added in order.
struct Sums {
    std::int64_t n, c, p, ranges;
    bool last;
};

template <class T>
py::object bound(const Sums& s) {
    return bind(2, [s](PyObject* const* a) {
        const T* dy = data<T>(a[0]);
        T* db = data<T>(a[1]);
        const Unlock unlock(s.n * s.c * s.p);
        T* sums = room<T>(0, s.ranges * s.c);
        const auto range = [&](int k) {
            const std::int64_t all = s.last ? s.n * s.p : s.n, from = all * k / s.ranges, to = all * (k + 1) / s.ranges;
            if (s.last)
                TL_PICK(add_pixels<T>)(dy + from * s.c, to - from, s.c, sums + k * s.c);
            else
                TL_PICK(add_planes<T>)(dy + from * s.c * s.p, to - from, s.c, s.p, sums + k * s.c);
        };
        if (s.n * s.c * s.p > 1 << 16)
            Pool::get().run(static_cast<int>(s.ranges), range);
        else
            for (int k = 0; k < s.ranges; ++k) range(k);
        for (std::int64_t c = 0; c < s.c; ++c) {
            T sum = 0;
            for (std::int64_t k = 0; k < s.ranges; ++k) sum += sums[k * s.c + c];
            db[c] = sum;
        }
    });
}

py::object make_db(py::tuple specs, py::tuple outs, py::dict) {
    const auto sizes = shape(specs[0]);
    Sums s{sizes[0], sizes[1], sizes[2] * sizes[3], 1, false};
    s.last = specs[0].attr("format").cast<std::string>() == "channels_last" || s.p == 1 || s.c == 1;
    s.ranges = std::clamp<std::int64_t>(s.n * s.c * s.p >> 14, 1, std::min<std::int64_t>(64, s.last ? s.n * s.p : s.n));
    return is_double(outs[0]) ? bound<double>(s) : bound<float>(s);
}

Registrar kernel("conv2d_db", make_db);

}  // namespace
}  // namespace tl
