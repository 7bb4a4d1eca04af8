// Layer norm and what is one of another shape (group norm, instance norm): a row is normalised while it is cached.
// The gradients of scale and shift come with that of x: a part of the rows sums its own, and the parts are added up in
// order. In the same pass an activation can follow, or a residual come before: the sum is an output then.
#include <pybind11/stl.h>

#include <memory>

#include "act.h"
#include "spread.h"
#include "tl.h"

namespace {

// Rows of channels * inner numbers, each with one mean and variance. The scale of an element is that of its channel;
// rows take turns through `period` such sets of channels.
struct Norm {
    std::int64_t rows, period, channels, inner;
    double eps;
};

// What there is not of these is null, except w and b.
template <class T>
struct Forward {
    const T *x, *residual, *w, *b;
    T *y, *sum, *mean, *var;
};

template <class T>
struct Backward {
    const T *dy, *d_sum, *x, *mean, *var, *w, *b;
    T* dx;
};

template <class T>
struct Kernel {
    void (*forward)(const Norm&, std::int64_t from, std::int64_t to, const Forward<T>&);
    void (*backward)(const Norm&, std::int64_t from, std::int64_t to, const Backward<T>&, T* dw, T* db);
};

using tl::Act;

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
void run_forward(const Norm& f, const Kernel<T>& kernel, const Forward<T>& p) {
    const std::int64_t n = f.channels * f.inner;
    tl::Unlock unlock(f.rows * n);
    tl::spread(f.rows, n, [&](std::int64_t from, std::int64_t to) { kernel.forward(f, from, to, p); });
}

template <class T>
void run_backward(const Norm& f, const Kernel<T>& kernel, const Backward<T>& p, T* dw, T* db) {
    const std::int64_t n = f.channels * f.inner, affine = f.period * f.channels;
    tl::Unlock unlock(f.rows * n);
    const auto add = TL_PICK(add_parts<T>);
    // parts by shape alone; no more than are quickly added up again
    const std::int64_t each = std::max(tl::rows_of_task(f.rows, n), (f.rows + 63) / 64);
    const std::int64_t parts = (f.rows + each - 1) / each;
    T* sums = tl::scratch<T>(2 * parts * affine);
    const auto part = [&](int k) {
        T* own = sums + 2 * k * affine;
        std::fill(own, own + 2 * affine, T(0));
        kernel.backward(f, k * each, std::min(f.rows, (k + 1) * each), p, own, own + affine);
    };
    if (parts == 1)
        part(0);
    else
        tl::Pool::get().run(static_cast<int>(parts), part);
    tl::spread(affine, 2 * parts, [&](std::int64_t from, std::int64_t to) {
        add(parts, 2 * affine, from, to, sums, dw);
        add(parts, 2 * affine, from, to, sums + affine, db);
    });
}

// (x, w, b, y, mean, var), act(y) with the constant `act`.
template <class T>
py::object forward(const Norm& f, Act act) {
    return tl::bind(6, [f, act, ones = constant<T>(f, 1), zeros = constant<T>(f, 0)](PyObject* const* a) {
        run_forward<T>(f, TL_PICK(kernel<T>)(act),
                       {data<T>(a[0]), nullptr, given(a[1], ones), given(a[2], zeros), data<T>(a[3]), nullptr,
                        data<T>(a[4]), data<T>(a[5])});
    });
}

// (x, residual, w, b, y, x + residual, mean, var)
template <class T>
py::object forward_of_sum(const Norm& f) {
    return tl::bind(8, [f, ones = constant<T>(f, 1), zeros = constant<T>(f, 0)](PyObject* const* a) {
        run_forward<T>(f, TL_PICK(kernel_of_sum<T>)(),
                       {data<T>(a[0]), data<T>(a[1]), given(a[2], ones), given(a[3], zeros), data<T>(a[4]),
                        data<T>(a[5]), data<T>(a[6]), data<T>(a[7])});
    });
}

// (dy, x, mean, var, w, dx, dw, db)
template <class T>
py::object backward(const Norm& f) {
    return tl::bind(8, [f, ones = constant<T>(f, 1)](PyObject* const* a) {
        const T* w = given(a[4], ones);
        run_backward<T>(f, TL_PICK(kernel<T>)(Act::none),
                        {data<T>(a[0]), nullptr, data<T>(a[1]), data<T>(a[2]), data<T>(a[3]), w, w, data<T>(a[5])},
                        data<T>(a[6]), data<T>(a[7]));
    });
}

// (dy, x, mean, var, w, b, dx, dw, db) with the constant `act`
template <class T>
py::object backward_of_act(const Norm& f, Act act) {
    return tl::bind(9, [f, act, ones = constant<T>(f, 1), zeros = constant<T>(f, 0)](PyObject* const* a) {
        run_backward<T>(f, TL_PICK(kernel<T>)(act),
                        {data<T>(a[0]), nullptr, data<T>(a[1]), data<T>(a[2]), data<T>(a[3]), given(a[4], ones),
                         given(a[5], zeros), data<T>(a[6])},
                        data<T>(a[7]), data<T>(a[8]));
    });
}

// (dy, d_sum, sum, mean, var, w, d_sum of both, dw, db)
template <class T>
py::object backward_of_sum(const Norm& f) {
    return tl::bind(9, [f, ones = constant<T>(f, 1)](PyObject* const* a) {
        const T* w = given(a[5], ones);
        run_backward<T>(f, TL_PICK(kernel_of_sum<T>)(),
                        {data<T>(a[0]), data<T>(a[1]), data<T>(a[2]), data<T>(a[3]), data<T>(a[4]), w, w,
                         data<T>(a[6])},
                        data<T>(a[7]), data<T>(a[8]));
    });
}

Act act_in(py::dict constants) {
    return constants.contains("act") ? tl::act_of(constants["act"].cast<std::string>()) : Act::none;
}

py::object layer_norm(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[0], constants);
    return tl::is_double(specs[0]) ? forward<double>(f, act_in(constants)) : forward<float>(f, act_in(constants));
}

py::object layer_norm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[1], constants);
    return tl::is_double(specs[1]) ? backward<double>(f) : backward<float>(f);
}

py::object layer_norm_act_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[1], constants);
    const Act act = act_in(constants);
    return tl::is_double(specs[1]) ? backward_of_act<double>(f, act) : backward_of_act<float>(f, act);
}

py::object add_layer_norm(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[0], constants);
    return tl::is_double(specs[0]) ? forward_of_sum<double>(f) : forward_of_sum<float>(f);
}

py::object add_layer_norm_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Norm f = norm_of(specs[0], constants);
    return tl::is_double(specs[0]) ? backward_of_sum<double>(f) : backward_of_sum<float>(f);
}

const tl::Registrar kernels[] = {
    {"layer_norm", layer_norm},
    {"layer_norm_dx", layer_norm_dx},
    {"layer_norm_act_dx", layer_norm_act_dx},
    {"add_layer_norm", add_layer_norm},
    {"add_layer_norm_dx", add_layer_norm_dx},
};

}  // namespace
