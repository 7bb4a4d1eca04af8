// argmax and argmin, and max and min along a dimension with their places; the loops are in extreme_at_body.h.
//
// The array is seen as (outer, n, inner). Large ones are cut by their shape alone and joined in order: the same places
// for every number of threads.
#include "pool.h"
#include "scratch.h"
#include "tl.h"

namespace {

constexpr std::int64_t wide = 1024;      // columns that are worked on at once
constexpr std::int64_t grain = 1 << 15;  // numbers of a part
constexpr std::int64_t most_parts = 32;

}  // namespace

#define TL_BODY "extreme_at_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

struct Plan {
    std::int64_t outer = 1, n = 1, inner = 1;
    bool values;  // whether the extremes themselves are an output
};

template <class T>
struct Kernel {
    std::int64_t (*line)(std::int64_t, const T*);
    void (*columns)(std::int64_t, std::int64_t, std::int64_t, std::int64_t, const T*, T*, std::int64_t*);
    bool largest;

    bool beats(T a, T b) const { return (largest ? a > b : a < b) || (a != a && b == b); }
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct Values;
struct Places;

template <class T>
void find(const Plan& p, const Kernel<T>& kernel, const T* x, T* values, std::int64_t* places) {
    const std::int64_t chunks = ceil_div(p.inner, wide), units = p.outer * chunks;
    const std::int64_t cost = p.n * std::min(p.inner, wide), outputs = p.outer * p.inner;
    // a part of the rows of a block of columns, or of a line
    const auto one = [&](std::int64_t unit, std::int64_t from, std::int64_t rows, T* y, std::int64_t* at) {
        const std::int64_t o = unit / chunks, c = unit % chunks * wide, to = o * p.inner + c;
        const T* first = x + (o * p.n + from) * p.inner + c;
        if (p.inner > 1)
            return kernel.columns(rows, std::min(wide, p.inner - c), p.inner, from, first, y ? y + to : nullptr,
                                  at + to);
        const std::int64_t found = kernel.line(rows, first);
        at[to] = from + found;
        if (y) y[to] = first[found];
    };
    const std::int64_t parts = units >= most_parts ? 1 : std::min({most_parts, ceil_div(cost, grain), p.n});
    if (parts == 1) {
        const std::int64_t some = std::max<std::int64_t>(1, grain / cost), tasks = ceil_div(units, some);
        const auto task = [&](int k) {
            for (std::int64_t u = k * some; u < std::min(units, (k + 1) * some); ++u) one(u, 0, p.n, values, places);
        };
        return tasks == 1 ? task(0) : tl::Pool::get().run(static_cast<int>(tasks), task);
    }
    T* y = tl::scratch<Values, T>(parts * outputs);
    std::int64_t* at = tl::scratch<Places, std::int64_t>(parts * outputs);
    tl::Pool::get().run(static_cast<int>(units * parts), [&](int k) {
        const std::int64_t part = k % parts, from = part * p.n / parts;
        one(k / parts, from, (part + 1) * p.n / parts - from, y + part * outputs, at + part * outputs);
    });
    for (std::int64_t o = 0; o < outputs; ++o) {
        std::int64_t best = o;
        for (std::int64_t k = o + outputs; k < parts * outputs; k += outputs)
            if (kernel.beats(y[k], y[best])) best = k;
        places[o] = at[best];
        if (values) values[o] = y[best];
    }
}

template <class T>
py::object find_of(const Plan& p, Kernel<T> (*pick)()) {
    return tl::bind(2 + p.values, [=](PyObject* const* a) {
        tl::Unlock unlock(p.outer * p.n * p.inner);
        find<T>(p, pick(), data<T>(a[0]), p.values ? data<T>(a[1]) : nullptr,
                data<std::int64_t>(a[1 + p.values]));
    });
}

// (x, places) or (x, values, places); dim is None for the whole array as one line.
Plan plan(py::handle x, py::dict constants, bool values) {
    Plan p;
    p.values = values;
    const auto shape = tl::shape(x);
    const bool whole = constants["dim"].is_none();
    const std::size_t dim = whole ? 0 : constants["dim"].cast<std::size_t>();
    for (std::size_t k = 0; k < shape.size(); ++k) (whole || k == dim ? p.n : k < dim ? p.outer : p.inner) *= shape[k];
    return p;
}

#define TL_EXTREME_AT(NAME, OP, LARGEST, VALUES)                                                           \
    {NAME, [](py::tuple specs, py::tuple, py::dict kw) {                                                   \
         const Plan p = plan(specs[0], kw, VALUES);                                                        \
         if (tl::is_double(specs[0]))                                                                      \
             return find_of<double>(p, [] {                                                                \
                 return Kernel<double>{TL_PICK(OP<double>::line), TL_PICK(OP<double>::columns), LARGEST};  \
             });                                                                                           \
         return find_of<float>(p, [] {                                                                     \
             return Kernel<float>{TL_PICK(OP<float>::line), TL_PICK(OP<float>::columns), LARGEST};         \
         });                                                                                               \
     }}

const tl::Registrar kernels[] = {
    TL_EXTREME_AT("argmax", LargestAt, true, false),
    TL_EXTREME_AT("argmin", SmallestAt, false, false),
    TL_EXTREME_AT("max_along", LargestAt, true, true),
    TL_EXTREME_AT("min_along", SmallestAt, false, true),
};

}  // namespace
