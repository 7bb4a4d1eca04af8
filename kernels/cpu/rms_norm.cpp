// Root-mean-square norm of rows, and its gradients: as layer_norm.cpp, without a mean.
#include <pybind11/stl.h>

#include <memory>

#include "spread.h"
#include "tl.h"

#define TL_BODY "rms_norm_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

struct Rows {
    std::int64_t rows, n;
    double eps;
};

Rows rows_of(py::handle x, py::dict constants) {
    const auto sizes = tl::shape(x);
    Rows f{1, 1, constants["eps"].cast<double>()};
    for (const auto d : constants["dim"].cast<std::vector<std::size_t>>()) f.n *= sizes[d];
    f.rows = x.attr("size").cast<std::int64_t>() / f.n;
    return f;
}

// What stands for a scale that was not given.
template <class T>
std::shared_ptr<std::vector<T>> ones_of(const Rows& f) {
    return std::make_shared<std::vector<T>>(static_cast<std::size_t>(f.n), T(1));
}

// (x, w or None, y, the means of squares)
template <class T>
py::object forward(const Rows& f) {
    return tl::bind(4, [f, ones = ones_of<T>(f)](PyObject* const* a) {
        const T *x = data<T>(a[0]), *w = a[1] == Py_None ? ones->data() : data<T>(a[1]);
        T *y = data<T>(a[2]), *squares = data<T>(a[3]);
        tl::Unlock unlock(f.rows * f.n);
        const auto kernel = TL_PICK(rms_norm<T>);
        tl::spread(f.rows, f.n, [&](std::int64_t from, std::int64_t to) {
            kernel(f.n, f.eps, from, to, x, w, y, squares);
        });
    });
}

// (dy, x, the means of squares, w or None, dx, dw)
template <class T>
py::object backward(const Rows& f) {
    return tl::bind(6, [f, ones = ones_of<T>(f)](PyObject* const* a) {
        const T *dy = data<T>(a[0]), *x = data<T>(a[1]), *squares = data<T>(a[2]);
        const T* w = a[3] == Py_None ? ones->data() : data<T>(a[3]);
        T *dx = data<T>(a[4]), *dw = data<T>(a[5]);
        tl::Unlock unlock(f.rows * f.n);
        const auto kernel = TL_PICK(rms_norm_dx<T>);
        const auto add = TL_PICK(add_parts<T>);
        // parts by shape alone; no more than are quickly added up again
        const std::int64_t each = std::max(tl::rows_of_task(f.rows, f.n), (f.rows + 63) / 64);
        const std::int64_t parts = (f.rows + each - 1) / each;
        T* sums = tl::scratch<T>(parts * f.n);
        std::fill(sums, sums + parts * f.n, T(0));
        const auto part = [&](int p) {
            kernel(f.n, f.eps, p * each, std::min(f.rows, (p + 1) * each), dy, x, squares, w, dx, sums + p * f.n);
        };
        if (parts == 1)
            part(0);
        else
            tl::Pool::get().run(static_cast<int>(parts), part);
        tl::spread(f.n, parts, [&](std::int64_t from, std::int64_t to) { add(parts, f.n, from, to, sums, dw); });
    });
}

py::object rms_norm(py::tuple specs, py::tuple, py::dict constants) {
    const Rows f = rows_of(specs[0], constants);
    return tl::is_double(specs[0]) ? forward<double>(f) : forward<float>(f);
}

py::object rms_norm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Rows f = rows_of(specs[1], constants);
    return tl::is_double(specs[1]) ? backward<double>(f) : backward<float>(f);
}

const tl::Registrar kernels[] = {{"rms_norm", rms_norm}, {"rms_norm_dx", rms_norm_dx}};

}  // namespace
