// Arithmetic on small tensors of one shape (or with a 0-d operand), and small sums.
//
// NumPy is as fast as memory on large arrays; on small ones its call costs more than the work, and its floating-point
// status check must be silenced (135 ns more). These loops serve up to a few thousand elements; the op files gate them.
#include <cmath>
#include <cstddef>

#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

struct Add { template <class T> static T of(T x, T w) { return x + w; } };
struct Sub { template <class T> static T of(T x, T w) { return x - w; } };
struct Mul { template <class T> static T of(T x, T w) { return x * w; } };
struct Div { template <class T> static T of(T x, T w) { return x / w; } };
// 0 where s <= 0, else dy: where s is nan dy comes through, as in PyTorch
struct ReluDx { template <class T> static T of(T dy, T s) { return s <= 0 ? T(0) : dy; } };

struct Neg { template <class T> static T of(T x) { return -x; } };
struct Relu { template <class T> static T of(T x) { return x < 0 ? T(0) : x; } };  // nan < 0 is false: nan stays

template <class Op, class T>
py::object binary_of(std::int64_t n, bool x_one, bool w_one) {
    if (x_one)
        return tl::bind(3, [n](PyObject* const* a) {
            const T x = *data<T>(a[0]);
            const T* w = data<T>(a[1]);
            T* y = data<T>(a[2]);
            for (std::int64_t k = 0; k < n; ++k) y[k] = Op::of(x, w[k]);
        });
    if (w_one)
        return tl::bind(3, [n](PyObject* const* a) {
            const T* x = data<T>(a[0]);
            const T w = *data<T>(a[1]);
            T* y = data<T>(a[2]);
            for (std::int64_t k = 0; k < n; ++k) y[k] = Op::of(x[k], w);
        });
    return tl::bind(3, [n](PyObject* const* a) {
        const T *x = data<T>(a[0]), *w = data<T>(a[1]);
        T* y = data<T>(a[2]);
        for (std::int64_t k = 0; k < n; ++k) y[k] = Op::of(x[k], w[k]);
    });
}

std::int64_t size(py::handle spec) { return spec.attr("size").cast<std::int64_t>(); }

template <class Op>
py::object binary(py::tuple specs, py::tuple outs, py::dict) {
    const auto n = size(outs[0]);
    const bool x_one = size(specs[0]) == 1 && n != 1, w_one = size(specs[1]) == 1 && n != 1;
    return tl::is_double(outs[0]) ? binary_of<Op, double>(n, x_one, w_one) : binary_of<Op, float>(n, x_one, w_one);
}

template <class Op, class T>
py::object unary_of(std::int64_t n) {
    return tl::bind(2, [n](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        for (std::int64_t k = 0; k < n; ++k) y[k] = Op::of(x[k]);
    });
}

template <class Op>
py::object unary(py::tuple, py::tuple outs, py::dict) {
    const auto n = size(outs[0]);
    return tl::is_double(outs[0]) ? unary_of<Op, double>(n) : unary_of<Op, float>(n);
}

// The sum of n numbers in eight lanes, so that rounding grows with n / 8.
template <class T>
T total(const T* x, std::int64_t n) {
    T lane[8] = {};
    std::int64_t k = 0;
    for (; k + 8 <= n; k += 8)
        for (int j = 0; j < 8; ++j) lane[j] += x[k + j];
    T rest = 0;
    for (; k < n; ++k) rest += x[k];
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7])) + rest;
}

// Sums over neighbouring dimensions: the tensor as (outer, n, inner), n summed.
template <class T>
py::object sum_of(std::int64_t outer, std::int64_t n, std::int64_t inner) {
    if (inner == 1)
        return tl::bind(2, [=](PyObject* const* a) {
            const T* x = data<T>(a[0]);
            T* y = data<T>(a[1]);
            for (std::int64_t o = 0; o < outer; ++o) y[o] = total(x + o * n, n);
        });
    return tl::bind(2, [=](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        for (std::int64_t o = 0; o < outer; ++o) {
            T* row = y + o * inner;
            for (std::int64_t i = 0; i < inner; ++i) row[i] = 0;
            for (std::int64_t k = 0; k < n; ++k)
                for (std::int64_t i = 0; i < inner; ++i) row[i] += x[(o * n + k) * inner + i];
        }
    });
}

py::object sum(py::tuple specs, py::tuple, py::dict constants) {
    const auto shape = tl::shape(specs[0]);
    std::int64_t outer = 1, n = 1, inner = 1, first = -1, last = -1;
    for (py::handle d : constants["dim"]) {
        const auto k = d.cast<std::int64_t>();
        first = first < 0 || k < first ? k : first;
        last = k > last ? k : last;
    }
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(shape.size()); ++k)
        (k < first ? outer : k <= last ? n : inner) *= shape[static_cast<std::size_t>(k)];
    return tl::is_double(specs[0]) ? sum_of<double>(outer, n, inner) : sum_of<float>(outer, n, inner);
}

const tl::Registrar kernels[] = {
    {"add", binary<Add>}, {"sub", binary<Sub>},   {"mul", binary<Mul>}, {"div", binary<Div>},
    {"neg", unary<Neg>},  {"relu", unary<Relu>},  {"sum", sum},         {"relu_dx", binary<ReluDx>},
};

}  // namespace
