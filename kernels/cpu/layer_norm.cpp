// Layer norm and what is one of another shape (group norm, instance norm): a row is normalised while it is cached.
// The gradients of scale and shift come with that of x: a part of the rows sums its own, and the parts are added up in
// order.
#include <pybind11/stl.h>

#include <memory>

#include "spread.h"
#include "tl.h"

namespace {

// Rows of channels * inner numbers, each with one mean and variance. The scale of an element is that of its channel;
// rows take turns through `period` such sets of channels.
struct Norm {
    std::int64_t rows, period, channels, inner;
    double eps;
};

}  // namespace

#define TL_BODY "layer_norm_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

std::int64_t product(const std::vector<std::int64_t>& sizes) {
    std::int64_t n = 1;
    for (const auto size : sizes) n *= size;
    return n;
}

// The scale has the shape of the last dimensions, or the input's with 1 in the first and after the channels.
Norm norm_of(py::handle x, py::dict constants) {
    const auto sizes = tl::shape(x);
    const auto dim = constants["dim"].cast<std::vector<std::int64_t>>();
    const auto scale = constants["shape"].cast<std::vector<std::int64_t>>();
    std::int64_t n = 1, channels = 1;
    for (const auto d : dim) n *= sizes[static_cast<std::size_t>(d)];
    const bool elements = scale.size() == dim.size();
    for (std::size_t d = scale.size() - dim.size(); d < scale.size(); ++d) channels *= scale[d];
    return {product(sizes) / n, elements ? 1 : product(scale) / channels, channels, n / channels,
            constants["eps"].cast<double>()};
}

// What stands for a scale or shift that was not given.
template <class T>
std::shared_ptr<std::vector<T>> constant(const Norm& f, T value) {
    return std::make_shared<std::vector<T>>(static_cast<std::size_t>(f.period * f.channels), value);
}

template <class T>
const T* given(PyObject* array, const std::shared_ptr<std::vector<T>>& otherwise) {
    return array == Py_None ? otherwise->data() : data<T>(array);
}

template <class T>
py::object forward(const Norm& f) {
    return tl::bind(6, [f, ones = constant<T>(f, 1), zeros = constant<T>(f, 0)](PyObject* const* a) {
        const std::int64_t n = f.channels * f.inner;
        const T *x = data<T>(a[0]), *w = given(a[1], ones), *b = given(a[2], zeros);
        T *y = data<T>(a[3]), *mean = data<T>(a[4]), *var = data<T>(a[5]);
        tl::Unlock unlock(f.rows * n);
        const auto kernel = TL_PICK(normalize<T>);
        tl::spread(f.rows, n, [&](std::int64_t from, std::int64_t to) {
            kernel(f, from, to, x, w, b, y, mean, var);
        });
    });
}

template <class T>
py::object backward(const Norm& f) {
    return tl::bind(8, [f, ones = constant<T>(f, 1)](PyObject* const* a) {
        const std::int64_t n = f.channels * f.inner, affine = f.period * f.channels;
        const T *dy = data<T>(a[0]), *x = data<T>(a[1]), *mean = data<T>(a[2]), *var = data<T>(a[3]);
        const T* w = given(a[4], ones);
        T *dx = data<T>(a[5]), *dw = data<T>(a[6]), *db = data<T>(a[7]);
        tl::Unlock unlock(f.rows * n);
        const auto kernel = TL_PICK(normalize_dx<T>);
        const auto add = TL_PICK(add_parts<T>);
        // parts by shape alone; no more than are quickly added up again
        const std::int64_t each = std::max(tl::rows_of_task(f.rows, n), (f.rows + 63) / 64);
        const std::int64_t parts = (f.rows + each - 1) / each;
        T* sums = tl::scratch<T>(2 * parts * affine);
        const auto part = [&](int p) {
            T* own = sums + 2 * p * affine;
            std::fill(own, own + 2 * affine, T(0));
            kernel(f, p * each, std::min(f.rows, (p + 1) * each), dy, x, mean, var, w, dx, own, own + affine);
        };
        if (parts == 1)
            part(0);
        else
            tl::Pool::get().run(static_cast<int>(parts), part);
        tl::spread(affine, 2 * parts, [&](std::int64_t from, std::int64_t to) {
            add(parts, 2 * affine, from, to, sums, dw);
            add(parts, 2 * affine, from, to, sums + affine, db);
        });
    });
}

py::object layer_norm(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[0], constants);
    return tl::is_double(specs[0]) ? forward<double>(f) : forward<float>(f);
}

py::object layer_norm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[1], constants);
    return tl::is_double(specs[1]) ? backward<double>(f) : backward<float>(f);
}

const tl::Registrar kernels[] = {{"layer_norm", layer_norm}, {"layer_norm_dx", layer_norm_dx}};

}  // namespace
