// Sums and extremes over any dimensions of a dense array; the arithmetic is in reduce_body.h.
//
// The array is seen as (k0, r0, k1, r1), kept and reduced sizes in turn. Where r1 is more than 1 an output is r0 pieces
// of a line; else outputs are columns. Large ones are cut into parts by their shape alone, whose results are joined in
// order: the same bits for every number of threads.
#include "pool.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

constexpr std::int64_t wide = 1024;        // columns that are worked on at once
constexpr std::int64_t grain = 1 << 15;    // numbers of a part
constexpr std::int64_t most_parts = 32;    // of one output

// Numbers joined in float64. A sum carries along what rounding took from it.
struct Joined {
    double value, lost = 0;
    explicit Joined(double none = 0) : value(none) {}
    // x was joined to the value, which made `now`.
    void set(double now, double x, bool sum) {
        if (sum) lost += std::fabs(value) > std::fabs(x) ? (value - now) + x : (x - now) + value;
        value = now;
    }
    double result() const { return std::isfinite(value) && std::isfinite(lost) ? value + lost : value; }
};

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

// Float64 numbers that parts leave for the one that joins them; kept from call to call.
template <class P>
P* scratch(std::size_t n) {
    static thread_local std::vector<P> kept;
    if (kept.size() < n) kept.resize(n);
    return kept.data();
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

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
    Joined* joined = scratch<Joined>(static_cast<std::size_t>(outputs * parts));
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
void columns(const Plan& p, const Kernel<T>& kernel, const T* x, T* y) {
    const std::int64_t across = ceil_div(p.k1, wide);
    const std::int64_t per = ceil_div(p.r0, std::min(most_parts, ceil_div(p.r0 * std::min(p.k1, wide), grain)));
    const std::int64_t parts = ceil_div(p.r0, per);
    double* partial = parts > 1 ? scratch<double>(static_cast<std::size_t>(p.k0 * parts * p.k1)) : nullptr;
    const auto task = [&](std::int64_t k0, std::int64_t part, std::int64_t c) {
        const std::int64_t from = c * wide, n = std::min(wide, p.k1 - from), rows = std::min(per, p.r0 - part * per);
        const T* at = x + (k0 * p.r0 + part * per) * p.k1 + from;
        if (partial) return kernel.columns(rows, n, p.k1, at, partial + (k0 * parts + part) * p.k1 + from);
        double made[wide];
        kernel.columns(rows, n, p.k1, at, made);
        for (std::int64_t k = 0; k < n; ++k) y[k0 * p.k1 + from + k] = static_cast<T>(made[k]);
    };
    // small tasks are put together
    const std::int64_t tasks = p.k0 * parts * across, size = per * std::min(p.k1, wide);
    const std::int64_t some = std::max<std::int64_t>(1, grain / size), groups = ceil_div(tasks, some);
    const auto group = [&](int g) {
        for (std::int64_t k = g * some; k < std::min(tasks, (g + 1) * some); ++k)
            task(k / (parts * across), k / across % parts, k % across);
    };
    groups == 1 ? group(0) : tl::Pool::get().run(static_cast<int>(groups), group);
    if (!partial) return;
    double made[wide];
    for (std::int64_t k0 = 0; k0 < p.k0; ++k0)
        for (std::int64_t from = 0; from < p.k1; from += wide) {
            const std::int64_t n = std::min(wide, p.k1 - from);
            kernel.parts(parts, n, p.k1, partial + k0 * parts * p.k1 + from, made);
            for (std::int64_t k = 0; k < n; ++k) y[k0 * p.k1 + from + k] = static_cast<T>(made[k]);
        }
}

template <class T>
py::object reduce_of(const Plan& p, Kernel<T> (*pick)()) {
    return tl::bind(2, [=](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        tl::Unlock unlock(p.k0 * p.r0 * p.k1 * p.r1);
        p.r1 > 1 || p.k1 == 1 ? lines(p, pick(), x, y) : columns(p, pick(), x, y);
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
