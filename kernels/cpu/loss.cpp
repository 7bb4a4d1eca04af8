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
void forward(const Rows& r, const T* x, const std::int64_t* t, T* y, T* kept = nullptr) {
    const std::int64_t counted = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    const auto kernel = TL_PICK(losses<T>);
    T* each = r.none ? y : tl::scratch<T>(r.count);
    tl::spread(r.count, r.classes, [&](std::int64_t from, std::int64_t to) { kernel(r, from, to, x, t, each, kept); });
    if (r.none) return;
    double total = 0;
    for (std::int64_t k = 0; k < r.count; ++k) total += static_cast<double>(each[k]);
    *y = static_cast<T>(r.mean ? total / static_cast<double>(counted) : total);
}

template <class T>
void backward(const Rows& r, const T* dy, const T* x, const std::int64_t* t, const T* kept, T* dx) {
    const std::int64_t counted = check(r, t);
    tl::Unlock unlock(r.count * r.classes);
    const auto kernel = TL_PICK(losses_dx<T>);
    const T one = r.mean ? *dy / static_cast<T>(counted) : *dy;
    tl::spread(r.count, r.classes, [&](std::int64_t from, std::int64_t to) {
        kernel(r, from, to, r.none ? dy : &one, r.none ? 1 : 0, x, t, kept, dx);
    });
}

// Arrays (x, t, y); with `keep` (x, t, y, kept).
template <bool keep>
py::object cross_entropy(py::tuple specs, py::tuple, py::dict constants) {
    const Rows r = rows(specs[0], constants);
    const auto typed = [&](auto zero) {
        using T = decltype(zero);
        return tl::bind(keep ? 4 : 3, [r](PyObject* const* a) {
            forward(r, data<T>(a[0]), data<std::int64_t>(a[1]), data<T>(a[2]), keep ? data<T>(a[3]) : nullptr);
        });
    };
    return tl::is_double(specs[0]) ? typed(double()) : typed(float());
}

// Arrays (dy, x, t, dx); with `keep` (dy, x, t, kept, dx).
template <bool keep>
py::object cross_entropy_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Rows r = rows(specs[1], constants);
    const auto typed = [&](auto zero) {
        using T = decltype(zero);
        return tl::bind(keep ? 5 : 4, [r](PyObject* const* a) {
            const T* kept = keep ? data<T>(a[3]) : nullptr;
            backward(r, data<T>(a[0]), data<T>(a[1]), data<std::int64_t>(a[2]), kept, data<T>(a[keep ? 4 : 3]));
        });
    };
    return tl::is_double(specs[1]) ? typed(double()) : typed(float());
}

const tl::Registrar kernels[] = {{"cross_entropy", cross_entropy<false>},
                                 {"cross_entropy_dx", cross_entropy_dx<false>},
                                 {"cross_entropy_kept", cross_entropy<true>},
                                 {"cross_entropy_kept_dx", cross_entropy_dx<true>}};

}  // namespace
