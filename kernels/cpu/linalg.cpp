// Matrix products too small for BLAS: below a few thousand multiplications its call costs more than the work.
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

// The inner product of two rows, in eight lanes that the compiler keeps in registers.
template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
    T lane[8] = {};
    std::int64_t k = 0;
    for (; k + 8 <= n; k += 8)
        for (int j = 0; j < 8; ++j) lane[j] += a[k + j] * b[k + j];
    T rest = 0;
    for (; k < n; ++k) rest += a[k] * b[k];
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7])) + rest;
}

struct Sizes {
    std::int64_t m, n, k;
};

// y (m, n) = x w with w (k, n); x is (m, k), or (k, m) where tx: its element (i, p) lies at i * xi + p * xp.
template <class T>
void rows(const Sizes& s, const T* x, std::int64_t xi, std::int64_t xp, const T* w, T* y) {
    for (std::int64_t i = 0; i < s.m; ++i) {
        T* out = y + i * s.n;
        for (std::int64_t j = 0; j < s.n; ++j) out[j] = 0;
        for (std::int64_t p = 0; p < s.k; ++p) {
            const T a = x[i * xi + p * xp];
            const T* row = w + p * s.n;
            for (std::int64_t j = 0; j < s.n; ++j) out[j] += a * row[j];
        }
    }
}

// y (m, n) = x w' (+ b) with x (m, k) and w (n, k): inner products of rows.
template <class T>
void dots(const Sizes& s, const T* x, const T* w, const T* b, T* y) {
    for (std::int64_t i = 0; i < s.m; ++i)
        for (std::int64_t j = 0; j < s.n; ++j) y[i * s.n + j] = dot(x + i * s.k, w + j * s.k, s.k) + (b ? b[j] : T(0));
}

template <class T>
py::object matmul_of(Sizes s, bool tx, bool tw) {
    if (tw)
        return tl::bind(3, [s](PyObject* const* a) {
            dots<T>(s, data<T>(a[0]), data<T>(a[1]), nullptr, data<T>(a[2]));
        });
    const std::int64_t xi = tx ? 1 : s.k, xp = tx ? s.m : 1;
    return tl::bind(3, [s, xi, xp](PyObject* const* a) {
        rows<T>(s, data<T>(a[0]), xi, xp, data<T>(a[1]), data<T>(a[2]));
    });
}

// Two dimensions each, not both transposed: the op's gate sees to it.
py::object matmul(py::tuple specs, py::tuple outs, py::dict constants) {
    const bool tx = constants["tx"].cast<bool>(), tw = constants["tw"].cast<bool>();
    const auto x = tl::shape(specs[0]), y = tl::shape(outs[0]);
    const Sizes s{y[0], y[1], tx ? x[0] : x[1]};
    return tl::is_double(outs[0]) ? matmul_of<double>(s, tx, tw) : matmul_of<float>(s, tx, tw);
}

template <class T>
py::object linear_of(Sizes s) {
    return tl::bind(4, [s](PyObject* const* a) {
        dots<T>(s, data<T>(a[0]), data<T>(a[1]), a[2] == Py_None ? nullptr : data<T>(a[2]), data<T>(a[3]));
    });
}

py::object linear(py::tuple specs, py::tuple outs, py::dict) {
    const auto w = tl::shape(specs[1]);
    const auto size = outs[0].attr("size").cast<std::int64_t>();
    const Sizes s{w[0] ? size / w[0] : 0, w[0], w[1]};
    return tl::is_double(outs[0]) ? linear_of<double>(s) : linear_of<float>(s);
}

const tl::Registrar kernels[] = {{"matmul", matmul}, {"linear", linear}};

}  // namespace
