// Sums over neighbouring dimensions.
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

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

const tl::Registrar kernels[] = {{"sum", sum}};

}  // namespace
