// Cross-entropy from class indices, and its gradient: the softmax of a row is never stored.
#include <string>

#include "spread.h"
#include "tl.h"

namespace {

struct Rows {
    std::int64_t count, classes, ignore;
    bool mean, none;
};

}  // namespace

#define TL_BODY "loss_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

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
void forward(const Rows& r, const T* x, const std::int64_t* t, T* y) {
    const std::int64_t kept = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    const auto kernel = TL_PICK(losses<T>);
    T* each = r.none ? y : tl::scratch<T>(r.count);
    tl::spread(r.count, r.classes, [&](std::int64_t from, std::int64_t to) { kernel(r, from, to, x, t, each); });
    if (r.none) return;
    double total = 0;
    for (std::int64_t k = 0; k < r.count; ++k) total += static_cast<double>(each[k]);
    *y = static_cast<T>(r.mean ? total / static_cast<double>(kept) : total);
}

template <class T>
void backward(const Rows& r, const T* dy, const T* x, const std::int64_t* t, T* dx) {
    const std::int64_t kept = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    const auto kernel = TL_PICK(losses_dx<T>);
    const T one = r.mean ? *dy / static_cast<T>(kept) : *dy;
    tl::spread(r.count, r.classes, [&](std::int64_t from, std::int64_t to) {
        kernel(r, from, to, r.none ? dy : &one, r.none ? 1 : 0, x, t, dx);
    });
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
