// Cross-entropy from class indices, and its gradient: the softmax of a row is never stored.
#include <cmath>
#include <string>

#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

struct Rows {
    std::int64_t count, classes, ignore;
    bool mean, none;
};

Rows rows(py::handle x, py::dict constants) {
    const auto shape = tl::shape(x);
    const auto reduction = constants["reduction"].cast<std::string>();
    return {shape[0], shape[1], constants["ignore"].cast<std::int64_t>(), reduction == "mean", reduction == "none"};
}

// How many rows count; raises where a target is neither a class nor the one to ignore.
std::int64_t check(const Rows& r, const std::int64_t* t) {
    std::int64_t kept = 0;
    for (std::int64_t k = 0; k < r.count; ++k) {
        if (t[k] == r.ignore) continue;
        if (t[k] < 0 || t[k] >= r.classes) {
            PyErr_Format(PyExc_IndexError,
                         "cross_entropy: target %lld; wanted 0 to %lld for %lld classes, or ignore_index %lld "
                         "(Target %lld is out of bounds.)",
                         static_cast<long long>(t[k]), static_cast<long long>(r.classes - 1),
                         static_cast<long long>(r.classes), static_cast<long long>(r.ignore),
                         static_cast<long long>(t[k]));
            throw py::error_already_set();
        }
        ++kept;
    }
    return kept;
}

template <class T>
T largest(const T* x, std::int64_t n) {
    T top = x[0];
    for (std::int64_t k = 1; k < n; ++k) top = x[k] > top ? x[k] : top;
    return top;
}

template <class T>
void forward(const Rows& r, const T* x, const std::int64_t* t, T* y) {
    const std::int64_t kept = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    double total = 0;
    for (std::int64_t k = 0; k < r.count; ++k) {
        T loss = 0;
        if (t[k] != r.ignore) {
            const T* row = x + k * r.classes;
            const T top = largest(row, r.classes);
            T sum = 0;
            for (std::int64_t c = 0; c < r.classes; ++c) sum += std::exp(row[c] - top);
            loss = std::log(sum) - (row[t[k]] - top);
        }
        if (r.none) y[k] = loss;
        total += static_cast<double>(loss);
    }
    if (!r.none) *y = static_cast<T>(r.mean ? total / static_cast<double>(kept) : total);
}

template <class T>
void backward(const Rows& r, const T* dy, const T* x, const std::int64_t* t, T* dx) {
    const std::int64_t kept = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    for (std::int64_t k = 0; k < r.count; ++k) {
        const T* row = x + k * r.classes;
        T* out = dx + k * r.classes;
        if (t[k] == r.ignore) {
            for (std::int64_t c = 0; c < r.classes; ++c) out[c] = 0;
            continue;
        }
        const T share = r.none ? dy[k] : r.mean ? *dy / static_cast<T>(kept) : *dy;
        const T top = largest(row, r.classes);
        T sum = 0;
        for (std::int64_t c = 0; c < r.classes; ++c) sum += out[c] = std::exp(row[c] - top);
        const T scale = share / sum;
        for (std::int64_t c = 0; c < r.classes; ++c) out[c] *= scale;
        out[t[k]] -= share;
    }
}

py::object cross_entropy(py::tuple specs, py::tuple, py::dict constants) {
    const Rows r = rows(specs[0], constants);
    if (tl::is_double(specs[0]))
        return tl::bind(3, [r](PyObject* const* a) {
            forward(r, data<double>(a[0]), data<std::int64_t>(a[1]), data<double>(a[2]));
        });
    return tl::bind(3, [r](PyObject* const* a) {
        forward(r, data<float>(a[0]), data<std::int64_t>(a[1]), data<float>(a[2]));
    });
}

py::object cross_entropy_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Rows r = rows(specs[1], constants);
    if (tl::is_double(specs[1]))
        return tl::bind(4, [r](PyObject* const* a) {
            backward(r, data<double>(a[0]), data<double>(a[1]), data<std::int64_t>(a[2]), data<double>(a[3]));
        });
    return tl::bind(4, [r](PyObject* const* a) {
        backward(r, data<float>(a[0]), data<float>(a[1]), data<std::int64_t>(a[2]), data<float>(a[3]));
    });
}

const tl::Registrar kernels[] = {{"cross_entropy", cross_entropy}, {"cross_entropy_dx", cross_entropy_dx}};

}  // namespace
