// Softmax, log-softmax and their gradients along one dimension: one pass to read, one to write, no temporaries.
#include <cmath>

#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

// The tensor as (outer, n, inner) with the softmax along n.
struct Lines {
    std::int64_t outer = 1, n = 1, inner = 1;
};

Lines lines(py::tuple specs, py::dict constants) {
    const auto shape = tl::shape(specs[0]);
    const auto dim = constants["dim"].cast<std::int64_t>();
    Lines l;
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(shape.size()); ++k)
        (k < dim ? l.outer : k == dim ? l.n : l.inner) *= shape[k];
    return l;
}

// Calls f(offset of a line's first element) for each line; its elements lie `inner` apart.
template <class F>
void each(const Lines& l, F f) {
    tl::Unlock unlock(l.outer * l.n * l.inner);
    for (std::int64_t o = 0; o < l.outer; ++o)
        for (std::int64_t i = 0; i < l.inner; ++i) f(o * l.n * l.inner + i);
}

template <class T>
T largest(const T* x, std::int64_t n, std::int64_t step) {
    T top = x[0];
    for (std::int64_t k = 1; k < n; ++k) top = x[k * step] > top ? x[k * step] : top;
    return top;  // a nan may slip through here; exp(nan - top) then makes the whole line nan, as it must be
}

template <class T>
void softmax(const Lines& l, const T* x, T* y) {
    const auto s = l.inner;
    each(l, [&](std::int64_t at) {
        const T* a = x + at;
        T* b = y + at;
        const T top = largest(a, l.n, s);
        T sum = 0;
        for (std::int64_t k = 0; k < l.n; ++k) sum += b[k * s] = std::exp(a[k * s] - top);
        for (std::int64_t k = 0; k < l.n; ++k) b[k * s] /= sum;
    });
}

template <class T>
void softmax_dx(const Lines& l, const T* dy, const T* y, T* dx) {
    const auto s = l.inner;
    each(l, [&](std::int64_t at) {
        T dot = 0;
        for (std::int64_t k = 0; k < l.n; ++k) dot += dy[at + k * s] * y[at + k * s];
        for (std::int64_t k = 0; k < l.n; ++k) dx[at + k * s] = y[at + k * s] * (dy[at + k * s] - dot);
    });
}

template <class T>
void log_softmax(const Lines& l, const T* x, T* y) {
    const auto s = l.inner;
    each(l, [&](std::int64_t at) {
        const T* a = x + at;
        T* b = y + at;
        const T top = largest(a, l.n, s);
        T sum = 0;
        for (std::int64_t k = 0; k < l.n; ++k) sum += std::exp(a[k * s] - top);
        const T log_sum = std::log(sum);
        for (std::int64_t k = 0; k < l.n; ++k) b[k * s] = (a[k * s] - top) - log_sum;
    });
}

template <class T>
void log_softmax_dx(const Lines& l, const T* dy, const T* y, T* dx) {
    const auto s = l.inner;
    each(l, [&](std::int64_t at) {
        T sum = 0;
        for (std::int64_t k = 0; k < l.n; ++k) sum += dy[at + k * s];
        for (std::int64_t k = 0; k < l.n; ++k) dx[at + k * s] = dy[at + k * s] - std::exp(y[at + k * s]) * sum;
    });
}

// A factory of a kernel (input, output), and of one (gradient, value, output), for float and double.
template <void (*F32)(const Lines&, const float*, float*), void (*F64)(const Lines&, const double*, double*)>
py::object forward(py::tuple specs, py::tuple, py::dict constants) {
    const Lines l = lines(specs, constants);
    if (tl::is_double(specs[0]))
        return tl::bind(2, [l](PyObject* const* a) { F64(l, data<double>(a[0]), data<double>(a[1])); });
    return tl::bind(2, [l](PyObject* const* a) { F32(l, data<float>(a[0]), data<float>(a[1])); });
}

template <void (*F32)(const Lines&, const float*, const float*, float*),
          void (*F64)(const Lines&, const double*, const double*, double*)>
py::object backward(py::tuple specs, py::tuple, py::dict constants) {
    const Lines l = lines(specs, constants);
    if (tl::is_double(specs[0]))
        return tl::bind(3, [l](PyObject* const* a) {
            F64(l, data<double>(a[0]), data<double>(a[1]), data<double>(a[2]));
        });
    return tl::bind(3, [l](PyObject* const* a) { F32(l, data<float>(a[0]), data<float>(a[1]), data<float>(a[2])); });
}

const tl::Registrar kernels[] = {
    {"softmax", forward<softmax<float>, softmax<double>>},
    {"softmax_dx", backward<softmax_dx<float>, softmax_dx<double>>},
    {"log_softmax", forward<log_softmax<float>, log_softmax<double>>},
    {"log_softmax_dx", backward<log_softmax_dx<float>, log_softmax_dx<double>>},
};

}  // namespace
