// Sums and extremes over any dimensions of a dense array; the arithmetic is in reduce_body.h.
//
// The array is seen as (k0, r0, k1, r1), kept and reduced sizes in turn. Where r1 is more than 1 an output is r0 pieces
// of a line; else outputs are columns. Large ones are cut into parts by their shape alone, whose results are joined in
// order: the same bits for every number of threads.
#include "reduce.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

using tl::ceil_div;
using tl::grain;
using tl::Joined;
using tl::most_parts;
using tl::wide;

}  // namespace

#define TL_BODY "reduce_body.h"
#include "each_isa.h"

namespace {

struct Plan {
    std::int64_t k0 = 1, r0 = 1, k1 = 1, r1 = 1;
};

// The shape as four sizes; more turns between kept and reduced than that are refused by the op's Python side.
Plan plan(py::handle x, py::dict constants) {
    const auto shape = tl::shape(x);
    std::vector<bool> reduced(shape.size());
    for (py::handle d : constants["dim"]) reduced[d.cast<std::size_t>()] = true;
    std::int64_t sizes[4] = {1, 1, 1, 1};
    int at = 0;
    for (std::size_t k = 0; k < shape.size(); ++k) {
        if (shape[k] == 1) continue;
        if (reduced[k] != (at % 2 == 1)) ++at;
        sizes[at] *= shape[k];
    }
    if (sizes[2] == 1) std::swap(sizes[1], sizes[3]);  // lines, not columns
    return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

template <class T>
struct Kernel {
    void (*line)(std::int64_t, std::int64_t, std::int64_t, const T*, Joined&);
    void (*columns)(std::int64_t, std::int64_t, std::int64_t, const T*, double*);
    void (*parts)(std::int64_t, std::int64_t, std::int64_t, const double*, double*);  // columns of what parts left
    void (*together)(Joined&, const Joined&);
    double none;
};

// Which parts an output is cut into depends on its size alone.
template <class T>
void lines(const Plan& p, const Kernel<T>& kernel, const T* x, T* y) {
    const std::int64_t outputs = p.k0 * p.k1, each = p.r0 * p.r1, row = p.k1 * p.r1;
    const auto first = [&](std::int64_t o) { return x + o / p.k1 * p.r0 * row + o % p.k1 * p.r1; };
    if (outputs >= most_parts || each * outputs <= grain) {
        const std::int64_t some = std::max<std::int64_t>(1, grain / each), tasks = ceil_div(outputs, some);
        const auto task = [&](int k) {
            for (std::int64_t o = k * some; o < std::min(outputs, (k + 1) * some); ++o) {
                Joined to(kernel.none);
                kernel.line(p.r0, p.r1, row, first(o), to);
                y[o] = static_cast<T>(to.result());
            }
        };
        return tasks == 1 ? task(0) : tl::Pool::get().run(static_cast<int>(tasks), task);
    }
    // few outputs: each is cut, between its pieces or within its one piece
    const bool within = p.r0 == 1;
    const std::int64_t length = within ? p.r1 : p.r0;
    const std::int64_t part = ceil_div(length, std::min({most_parts, ceil_div(each, grain), length}));
    const std::int64_t parts = ceil_div(length, part);
    Joined* joined = tl::kept<Joined>(static_cast<std::size_t>(outputs * parts));
    tl::Pool::get().run(static_cast<int>(outputs * parts), [&](int k) {
        const std::int64_t from = k % parts * part, count = std::min(part, length - from);
        const T* at = first(k / parts) + from * (within ? 1 : row);
        joined[k] = Joined(kernel.none);
        kernel.line(within ? 1 : count, within ? count : p.r1, row, at, joined[k]);
    });
    for (std::int64_t o = 0; o < outputs; ++o) {
        Joined to(kernel.none);
        for (std::int64_t k = 0; k < parts; ++k) kernel.together(to, joined[o * parts + k]);
        y[o] = static_cast<T>(to.result());
    }
}

template <class T>
py::object reduce_of(const Plan& p, Kernel<T> (*pick)()) {
    return tl::bind(2, [=](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        tl::Unlock unlock(p.k0 * p.r0 * p.k1 * p.r1);
        const Kernel<T> kernel = pick();
        if (p.r1 > 1 || p.k1 == 1) return lines(p, kernel, x, y);
        const auto columns = [&](std::int64_t rows, std::int64_t n, std::int64_t at, double* to) {
            kernel.columns(rows, n, p.k1, x + at, to);
        };
        tl::in_columns(p.k0, p.r0, p.k1, columns, kernel.parts, y);
    });
}

// Two joined numbers: of the extremes the same operation as everywhere, of the sums both parts.
template <class Op>
void together(Joined& to, const Joined& from) {
    to.set(Op::join(to.value, from.value), from.value, Op::none == 0);
    to.lost += from.lost;
}

#define TL_REDUCE(NAME, OP, WHAT)                                                                              \
    {NAME, [](py::tuple specs, py::tuple, py::dict kw) {                                                       \
         const Plan p = plan(specs[0], kw);                                                                    \
         if (tl::is_double(specs[0]))                                                                          \
             return reduce_of<double>(p, [] {                                                                  \
                 return Kernel<double>{TL_PICK(OP<double>::line), TL_PICK(OP<double>::columns),                \
                                       TL_PICK(OP<double>::columns),                                           \
                                       together<base::WHAT>, base::WHAT::none};                                \
             });                                                                                               \
         return reduce_of<float>(p, [] {                                                                       \
             return Kernel<float>{TL_PICK(OP<float>::line), TL_PICK(OP<float>::columns),                       \
                                  TL_PICK(OP<double>::columns),                                                \
                                  together<base::WHAT>, base::WHAT::none};                                     \
         });                                                                                                   \
     }}

const tl::Registrar kernels[] = {
    TL_REDUCE("sum", Sums, Sum),
    TL_REDUCE("amax", Maxima, Max),
    TL_REDUCE("amin", Minima, Min),
};

}  // namespace
