// Convolutions: the factories, and which family of kernels takes which sizes.
#include "conv.h"

#include <pybind11/stl.h>

#include <string>

#include "tl.h"

namespace tl {
namespace {

bool channels_last(py::handle spec) { return spec.attr("format").cast<std::string>() == "channels_last"; }

// The sizes, from the specs of x, w and y and the constants that the three ops share.
Conv sizes(py::handle x, py::handle w, py::handle y, const py::dict& constants) {
    const auto xs = shape(x), ws = shape(w), ys = shape(y);
    const auto stride = constants["stride"].cast<std::pair<std::int64_t, std::int64_t>>();
    const auto dilation = constants["dilation"].cast<std::pair<std::int64_t, std::int64_t>>();
    const auto padding = constants["padding"].cast<std::vector<std::int64_t>>();
    const auto groups = constants["groups"].cast<std::int64_t>();
    Conv c{};
    c.n = xs[0], c.groups = groups, c.cg = ws[1], c.og = ws[0] / groups;
    c.h = xs[2], c.w = xs[3], c.oh = ys[2], c.ow = ys[3], c.kh = ws[2], c.kw = ws[3];
    c.sh = stride.first, c.sw = stride.second, c.dh = dilation.first, c.dw = dilation.second;
    c.top = padding[0], c.left = padding[2];
    // one channel or one pixel lies the same in both
    c.x_last = channels_last(x) || c.channels() == 1 || c.h * c.w == 1;
    c.y_last = channels_last(y) || c.features() == 1 || c.oh * c.ow == 1;
    c.w_last = channels_last(w);
    return c;
}

// What the forward does to its output: the constant `act`, None or "relu".
After after(const py::dict& constants) {
    if (!constants.contains("act") || constants["act"].is_none()) return After::nothing;
    const auto name = constants["act"].cast<std::string>();
    if (name != "relu") throw py::value_error("conv2d: act " + name + "; wanted None or 'relu'");
    return After::relu;
}

// A family for each set of sizes.
template <class T>
ConvKernel<T> forward(const Conv& c, After after) {
    if (fits_depthwise(c)) return depthwise_forward<T>(c, after);
    if (fits_planes(c)) return planes_forward<T>(c, after);
    return winograd_forward<T>(c, after, gather_forward<T>(c, after));
}

template <class T>
ConvKernel<T> dx(const Conv& c) {
    if (fits_depthwise(c)) return depthwise_dx<T>(c);
    if (fits_planes_dx(c)) return planes_dx<T>(c);
    return winograd_dx<T>(c, gather_dx<T>(c));
}

template <class T>
ConvKernel<T> dw(const Conv& c) {
    if (fits_depthwise(c)) return depthwise_dw<T>(c);
    if (fits_planes_dw(c)) return planes_dw<T>(c);
    return weights_dw<T>(c);
}

template <class T>
PoolKernel<T> pooled(const Conv& c) {
    if (fits_depthwise(c)) return depthwise_pool<T>(c);
    if (fits_planes(c)) return planes_pool<T>(c);
    return winograd_pool<T>(c, gather_pool<T>(c));
}

// Binds a kernel of two inputs, perhaps a bias, and an output.
template <class T>
py::object bound(ConvKernel<T> kernel, bool bias, std::int64_t work) {
    return bind(bias ? 4 : 3, [kernel, bias, work](PyObject* const* a) {
        const T* b = bias && a[2] != Py_None ? data<T>(a[2]) : nullptr;
        const Unlock unlock(work);
        kernel(data<T>(a[0]), data<T>(a[1]), b, data<T>(a[bias ? 3 : 2]));
    });
}

py::object make_forward(py::tuple specs, py::tuple outs, py::dict constants) {
    const Conv c = sizes(specs[0], specs[1], outs[0], constants);
    const After then = after(constants);
    return is_double(outs[0]) ? bound<double>(forward<double>(c, then), true, c.products())
                              : bound<float>(forward<float>(c, then), true, c.products());
}

// The forward, relu and pooling: x, w, bias or None, y, places.
template <class T>
py::object bound_pool(const Conv& c) {
    return bind(5, [kernel = pooled<T>(c), work = c.products()](PyObject* const* a) {
        const T* b = a[2] != Py_None ? data<T>(a[2]) : nullptr;
        const Unlock unlock(work);
        kernel(data<T>(a[0]), data<T>(a[1]), b, data<T>(a[3]), data<std::uint8_t>(a[4]));
    });
}

// The sizes of a convolution whose output is pooled, and the layout that it alone would choose.
Conv unpooled(py::handle x, py::handle w, py::handle y, const py::dict& constants) {
    Conv c = sizes(x, w, y, constants);
    const auto padding = constants["padding"].cast<std::vector<std::int64_t>>();
    c.oh = (c.h + padding[0] + padding[1] - (c.kh - 1) * c.dh - 1) / c.sh + 1;
    c.ow = (c.w + padding[2] + padding[3] - (c.kw - 1) * c.dw - 1) / c.sw + 1;
    return c;
}

py::object make_pool(py::tuple specs, py::tuple outs, py::dict constants) {
    Conv c = unpooled(specs[0], specs[1], outs[0], constants);
    c.y_last = channels_last(specs[0]) || channels_last(specs[1]) || c.features() == 1;
    return is_double(outs[0]) ? bound_pool<double>(c) : bound_pool<float>(c);
}

// x, dy, y, places, dw, db.
template <class T>
py::object bound_pool_dw(const Conv& c) {
    return bind(6, [kernel = winners_dw_kernel<T>(c), work = c.products()](PyObject* const* a) {
        const Unlock unlock(work);
        kernel(data<T>(a[0]), data<T>(a[1]), data<T>(a[2]), data<std::uint8_t>(a[3]), data<T>(a[4]), data<T>(a[5]));
    });
}

py::object make_pool_dw(py::tuple specs, py::tuple outs, py::dict constants) {
    const Conv c = unpooled(specs[0], outs[0], specs[1], constants);
    return is_double(outs[0]) ? bound_pool_dw<double>(c) : bound_pool_dw<float>(c);
}

// dy, y, places, w, dx.
template <class T>
py::object bound_pool_dx(const Conv& c) {
    return bind(5, [kernel = winners_dx_kernel<T>(c), work = c.products()](PyObject* const* a) {
        const Unlock unlock(work);
        kernel(data<T>(a[3]), data<T>(a[0]), data<T>(a[1]), data<std::uint8_t>(a[2]), data<T>(a[4]), nullptr);
    });
}

py::object make_pool_dx(py::tuple specs, py::tuple outs, py::dict constants) {
    const Conv c = unpooled(outs[0], specs[3], specs[0], constants);
    return is_double(outs[0]) ? bound_pool_dx<double>(c) : bound_pool_dx<float>(c);
}

py::object make_dx(py::tuple specs, py::tuple outs, py::dict constants) {
    const Conv c = sizes(outs[0], specs[1], specs[0], constants);
    return is_double(outs[0]) ? bound<double>(dx<double>(c), false, c.products())
                              : bound<float>(dx<float>(c), false, c.products());
}

py::object make_dw(py::tuple specs, py::tuple outs, py::dict constants) {
    const Conv c = sizes(specs[0], outs[0], specs[1], constants);
    return is_double(outs[0]) ? bound<double>(dw<double>(c), false, c.products())
                              : bound<float>(dw<float>(c), false, c.products());
}

Registrar forward_kernel("conv2d", make_forward), dx_kernel("conv2d_dx", make_dx), dw_kernel("conv2d_dw", make_dw);
Registrar pool_kernel("conv_relu_pool", make_pool), pool_dx_kernel("conv_relu_pool_dx", make_pool_dx);
Registrar pool_dw_kernel("conv_relu_pool_dw", make_pool_dw);

}  // namespace
}  // namespace tl
