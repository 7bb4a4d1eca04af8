// Random numbers from Philox4x32-10: uniform, normal, Bernoulli, and dropout. Word k depends on the key and k alone, so
// tasks make theirs anywhere, and dropout makes its mask anew on the way back.
#include "random.h"

#include <atomic>
#include <cmath>

#include "pool.h"
#include "tl.h"

// The plain forwards round after every product; so must these.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define TL_BODY "random_body.h"
#include "each_isa.h"

namespace {

using tl::data;
using tl::Key;
namespace py = pybind11;

Key key_of(PyObject* array) {
    const auto* k = data<std::uint64_t>(array);
    return {k[0], k[1]};
}

// f(first, n) for stretches of `count` numbers; a stretch begins at a multiple of 4.
template <class F>
void stretches(std::int64_t count, std::int64_t cost, F f) {
    const std::int64_t step = std::max<std::int64_t>(4, (1 << 14) / cost / 4 * 4), tasks = (count + step - 1) / step;
    const auto task = [&](int t) { f(t * step, std::min(step, count - t * step)); };
    if (count * cost < 1 << 15)
        for (int t = 0; t < tasks; ++t) task(t);
    else
        tl::Pool::get().run(static_cast<int>(tasks), task);
}

std::int64_t size_of(py::handle spec) { return spec.attr("size").cast<std::int64_t>(); }

// (x, key, y)
template <class T>
py::object dropout_of(std::int64_t rows, std::int64_t inner, double p) {
    // a threshold of 2^32 has no word; then the scale is 0, and what passes does not matter
    const auto least = static_cast<std::uint32_t>(std::min(std::nearbyint(p * 0x1p32), 4294967295.0));
    const T scale = p < 1 ? static_cast<T>(1.0 / (1.0 - p)) : T(0);
    return tl::bind(3, [=](PyObject* const* a) {
        const Key key = key_of(a[1]);
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[2]);
        tl::Unlock unlock(rows * inner);
        const auto f = TL_PICK(dropout<T>);
        stretches(rows, inner, [&](std::int64_t first, std::int64_t n) {
            f(key, first, n, inner, least, scale, x + first * inner, y + first * inner);
        });
    });
}

py::object dropout(py::tuple specs, py::tuple, py::dict constants) {
    const auto shape = tl::shape(specs[0]);
    auto channels = constants["channels"].cast<std::size_t>();
    if (!channels) channels = shape.size();
    std::int64_t rows = 1, inner = 1;
    for (std::size_t d = 0; d < shape.size(); ++d) (d < channels ? rows : inner) *= shape[d];
    const auto p = constants["p"].cast<double>();
    if (!inner) rows = 0, inner = 1;
    return tl::is_double(specs[0]) ? dropout_of<double>(rows, inner, p) : dropout_of<float>(rows, inner, p);
}

// (x, key, y)
template <class T>
py::object bernoulli_of(std::int64_t count) {
    return tl::bind(3, [=](PyObject* const* a) {
        const Key key = key_of(a[1]);
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[2]);
        std::atomic<bool> good{true};
        {
            tl::Unlock unlock(count);
            const auto f = TL_PICK(bernoulli<T>);
            stretches(count, 1, [&](std::int64_t first, std::int64_t n) {
                if (!f(key, first, n, x + first, y + first)) good = false;
            });
        }
        if (!good) {
            PyErr_SetString(PyExc_RuntimeError, "bernoulli: expected all probabilities p_in to be in [0, 1] "
                                                "(p_in >= 0 && p_in <= 1)");
            throw py::error_already_set();
        }
    });
}

py::object bernoulli(py::tuple specs, py::tuple, py::dict) {
    const std::int64_t n = size_of(specs[0]);
    return tl::is_double(specs[0]) ? bernoulli_of<double>(n) : bernoulli_of<float>(n);
}

template <class T>
using Fill = void (*)(const Key&, std::int64_t, std::int64_t, T*);

// (key, y)
template <class T, Fill<T> (*pick)()>
py::object fill_of(std::int64_t count, std::int64_t cost) {
    return tl::bind(2, [=](PyObject* const* a) {
        const Key key = key_of(a[0]);
        T* y = data<T>(a[1]);
        tl::Unlock unlock(count * cost);
        const auto f = pick();
        stretches(count, cost, [&](std::int64_t first, std::int64_t n) { f(key, first, n, y + first); });
    });
}

template <class T>
Fill<T> uniform_of() {
    return TL_PICK(uniform<T>);
}

template <class T>
Fill<T> normal_of() {
    return TL_PICK(normal<T>);
}

py::object uniform(py::tuple, py::tuple outs, py::dict) {
    const std::int64_t n = size_of(outs[0]);
    return tl::is_double(outs[0]) ? fill_of<double, uniform_of<double>>(n, 1) : fill_of<float, uniform_of<float>>(n, 1);
}

py::object normal(py::tuple, py::tuple outs, py::dict) {
    const std::int64_t n = size_of(outs[0]);
    return tl::is_double(outs[0]) ? fill_of<double, normal_of<double>>(n, 8) : fill_of<float, normal_of<float>>(n, 4);
}

const tl::Registrar kernels[] = {
    {"dropout_mask", dropout}, {"bernoulli", bernoulli}, {"uniform", uniform}, {"normal", normal}};

}  // namespace
