// Element-wise ops on dense arrays: the factories, and how the work is cut. The ops themselves are in elementwise_body.h.
//
// Operands of one layout are one long row. Broadcast ones become rows of n elements, as few and long as the shapes
// allow; in a row an operand either moves with the output or is one number.
#include "elementwise.h"

#include <string>

#include "act.h"
#include "pool.h"
#include "tl.h"

namespace {

using tl::Constants;
using tl::data;
using tl::Rows;
using tl::Run1;
using tl::Run2;
namespace py = pybind11;

// Rows of a choice between two operands by a third.
template <class T>
struct Choice {
    std::int64_t rows, n;
    const unsigned char* c;
    const T *x, *w;
    T* y;
    std::int64_t c_row, y_row;
    bool c_one, x_one, w_one;
};

}  // namespace

#define TL_BODY "elementwise_body.h"
#include "each_isa.h"

namespace {

constexpr std::int64_t grain = 1 << 14;  // elements that are worth a thread

std::int64_t size(py::handle spec) { return spec.attr("size").cast<std::int64_t>(); }

std::int64_t parts(std::int64_t n, std::int64_t part) { return (n + part - 1) / part; }

double constant(py::dict constants, const char* name) {
    return constants.contains(name) ? constants[name].cast<double>() : 0;
}

// ---- one input
// Into how many pieces so many elements are cut: every element is made alone, so that its bits do not depend on where
// the cuts lie. A piece a thread, that each finds in its own cache what it wrote in the op before.
std::int64_t pieces(std::int64_t n) {
    return n <= grain ? 1 : std::min<std::int64_t>(tl::Pool::threads().load(), parts(n, grain));
}

// The size of a piece in whole cache lines.
std::int64_t piece(std::int64_t n, std::int64_t count) { return parts(parts(n, count), 64) * 64; }

// Calls run(first, count) for parts of n elements, in threads where there are several.
template <class F>
void chunks(std::int64_t n, F run) {
    const std::int64_t count = pieces(n);
    tl::Unlock unlock(n);
    if (count == 1) return run(0, n);
    const std::int64_t part = piece(n, count);
    tl::Pool::get().run(static_cast<int>(parts(n, part)), [&](int k) {
        const std::int64_t at = k * part;
        run(at, std::min(part, n - at));
    });
}

template <class T>
py::object unary_of(std::int64_t n, Constants c, Run1<T> (*op)()) {
    return tl::bind(2, [=](PyObject* const* a) {
        const Run1<T> run = op();
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        chunks(n, [&](std::int64_t at, std::int64_t count) { run(count, x + at, y + at, c); });
    });
}

// ---- two inputs
// One dimension of the output, and how far each operand moves along it.
struct Dim {
    std::int64_t n, x, w;
};

// The dimensions of a broadcast pair, neighbours joined where both operands allow it; the last one is a row.
std::vector<Dim> dims(py::handle x, py::handle w, py::handle out) {
    const auto shape = tl::shape(out), xs = tl::shape(x), ws = tl::shape(w);
    std::vector<Dim> found;  // from the last dimension to the first
    std::int64_t x_step = 1, w_step = 1;
    const bool flat = size(x) == size(out) && size(w) == size(out);
    if (flat) return {{size(out), 1, 1}};
    for (std::size_t k = 1; k <= shape.size(); ++k) {
        const std::int64_t n = shape[shape.size() - k];
        const std::int64_t xn = k <= xs.size() ? xs[xs.size() - k] : 1, wn = k <= ws.size() ? ws[ws.size() - k] : 1;
        const Dim d{n, xn == 1 ? 0 : x_step, wn == 1 ? 0 : w_step};
        x_step *= xn;
        w_step *= wn;
        if (n == 1) continue;
        if (!found.empty() && d.x == found.back().x * found.back().n && d.w == found.back().w * found.back().n)
            found.back().n *= n;
        else
            found.push_back(d);
    }
    if (found.empty()) found.push_back({1, 1, 1});
    std::reverse(found.begin(), found.end());
    return found;
}

// The loops of a broadcast pair: the last dimension is a row, the one before it steps through rows.
struct Loops {
    std::vector<Dim> outer;        // those before
    Dim step{1, 0, 0}, row{1, 1, 1};
    std::int64_t rows = 1;  // of all

    explicit Loops(std::vector<Dim> all) : outer(std::move(all)) {
        row = outer.back();
        outer.pop_back();
        if (!outer.empty()) {
            step = outer.back();
            outer.pop_back();
        }
        for (const Dim& d : outer) rows *= d.n;
        rows *= step.n;
    }

    // Calls call(rows, count, x, w, y) for the rows [from, to), of each `count` elements from `at` on: where the operands
    // and the output begin.
    template <class F>
    void part(F call, std::int64_t from, std::int64_t to, std::int64_t at, std::int64_t count) const {
        while (from < to) {
            const std::int64_t i = from % step.n, many = std::min(to - from, step.n - i);
            std::int64_t left = from / step.n, px = i * step.x + at * row.x, pw = i * step.w + at * row.w;
            for (std::size_t k = outer.size(); k-- > 0; left /= outer[k].n) {
                px += left % outer[k].n * outer[k].x;
                pw += left % outer[k].n * outer[k].w;
            }
            call(many, count, px, pw, from * row.n + at);
            from += many;
        }
    }

    // The same for all rows, in threads where there is enough to do.
    template <class F>
    void each(F call) const {
        const std::int64_t n = row.n, count = pieces(rows * n);
        tl::Unlock unlock(rows * n);
        if (count == 1) return part(call, 0, rows, 0, n);
        // few rows are cut across, many between each other
        const std::int64_t width = rows < count ? piece(n, parts(count, rows)) : n, across = parts(n, width);
        const std::int64_t high = rows < count ? 1 : parts(rows, count);
        tl::Pool::get().run(static_cast<int>(parts(rows, high) * across), [&](int k) {
            const std::int64_t from = k / across * high, at = k % across * width;
            part(call, from, std::min(from + high, rows), at, std::min(width, n - at));
        });
    }
};

template <class T>
py::object binary_of(Loops loops, Constants c, Run2<T> (*op)()) {
    return tl::bind(3, [=](PyObject* const* a) {
        const Run2<T> run = op();
        const T *x = data<T>(a[0]), *w = data<T>(a[1]);
        T* y = data<T>(a[2]);
        loops.each([&](std::int64_t rows, std::int64_t n, std::int64_t px, std::int64_t pw, std::int64_t py) {
            run({rows, n, x + px, w + pw, y + py, loops.step.x, loops.step.w, loops.row.n, !loops.row.x, !loops.row.w},
                c);
        });
    });
}

py::object kernel_of(const tl::Body& body, py::tuple specs, py::tuple outs) {
    const bool wide = tl::is_double(outs[0]);
    if (body.vectors == 1) {
        const auto n = size(outs[0]);
        return wide ? unary_of<double>(n, body.constants, body.one8) : unary_of<float>(n, body.constants, body.one4);
    }
    const Loops loops(dims(specs[0], specs[1], outs[0]));
    return wide ? binary_of<double>(loops, body.constants, body.two8)
                : binary_of<float>(loops, body.constants, body.two4);
}

// ---- choices: x and w have the output's shape or one element, the condition any that broadcasts
template <class T>
py::object select_of(Loops loops, int c_at, int x_at, int w_at, bool x_one, bool w_one) {
    return tl::bind(4, [=](PyObject* const* a) {
        void (*run)(const Choice<T>&) = TL_PICK(Select<T>::run);
        const auto* c = data<unsigned char>(a[c_at]);
        const T *x = data<T>(a[x_at]), *w = data<T>(a[w_at]);
        T* y = data<T>(a[3]);
        loops.each([&](std::int64_t rows, std::int64_t n, std::int64_t at, std::int64_t pc, std::int64_t) {
            run({rows, n, c + pc, x_one ? x : x + at, w_one ? w : w + at, y + at, loops.step.w, loops.row.n,
                 !loops.row.w, x_one, w_one});
        });
    });
}

template <int c_at, int x_at, int w_at>
py::object select(py::tuple specs, py::tuple outs, py::dict) {
    const Loops loops(dims(outs[0], specs[c_at], outs[0]));
    const bool x_one = size(specs[x_at]) != size(outs[0]), w_one = size(specs[w_at]) != size(outs[0]);
    return tl::is_double(outs[0]) ? select_of<double>(loops, c_at, x_at, w_at, x_one, w_one)
                                  : select_of<float>(loops, c_at, x_at, w_at, x_one, w_one);
}

// ---- bounds: tensors of one element or None, read when called
template <class T>
py::object clamp_of(std::int64_t n) {
    return tl::bind(4, [=](PyObject* const* a) {
        const Run1<T> run = TL_PICK(Clamp<T>::run);
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[3]);
        constexpr double infinity = std::numeric_limits<double>::infinity();
        const Constants c{a[1] == Py_None ? -infinity : static_cast<double>(*data<T>(a[1])),
                          a[2] == Py_None ? infinity : static_cast<double>(*data<T>(a[2]))};
        chunks(n, [&](std::int64_t at, std::int64_t count) { run(count, x + at, y + at, c); });
    });
}

py::object clamp(py::tuple, py::tuple outs, py::dict) {
    const auto n = size(outs[0]);
    return tl::is_double(outs[0]) ? clamp_of<double>(n) : clamp_of<float>(n);
}

// ---- powers: the exponent is a tensor of one element, read when called
template <class T>
py::object power_of(std::int64_t n, Run1<T> (*op)()) {
    return tl::bind(3, [=](PyObject* const* a) {
        const Run1<T> run = op();
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[2]);
        const Constants c{static_cast<double>(*data<T>(a[1])), 0};
        chunks(n, [&](std::int64_t at, std::int64_t count) { run(count, x + at, y + at, c); });
    });
}

py::object power(py::tuple, py::tuple outs, py::dict) {
    const auto n = size(outs[0]);
    return tl::is_double(outs[0]) ? power_of<double>(n, [] { return TL_PICK(Power<double>::run); })
                                  : power_of<float>(n, [] { return TL_PICK(Power<float>::run); });
}

template <class T>
py::object power_dx_of(std::int64_t n, Run2<T> (*op)()) {
    return tl::bind(4, [=](PyObject* const* a) {
        const Run2<T> run = op();
        const T *dy = data<T>(a[0]), *x = data<T>(a[1]);
        T* dx = data<T>(a[3]);
        const Constants c{static_cast<double>(*data<T>(a[2])), 0};
        chunks(n, [&](std::int64_t at, std::int64_t count) {
            run({1, count, dy + at, x + at, dx + at, 0, 0, 0, false, false}, c);
        });
    });
}

py::object power_dx(py::tuple, py::tuple outs, py::dict) {
    const auto n = size(outs[0]);
    return tl::is_double(outs[0]) ? power_dx_of<double>(n, [] { return TL_PICK(PowerDx<double>::run); })
                                  : power_dx_of<float>(n, [] { return TL_PICK(PowerDx<float>::run); });
}

// ---- the ops that are one body: their names, and what it is
tl::Body body(Constants c, Run1<float> (*f4)(), Run1<double> (*f8)(), int scalars = 0) {
    return {1, scalars, c, f4, f8, nullptr, nullptr};
}

tl::Body body(Constants c, Run2<float> (*f4)(), Run2<double> (*f8)(), int scalars = 0) {
    return {2, scalars, c, nullptr, nullptr, f4, f8};
}

#define TL_RUNS(OP) [] { return TL_PICK(OP<float>::run); }, [] { return TL_PICK(OP<double>::run); }

bool approximate(py::dict kw) { return kw["approximate"].cast<bool>(); }

#define TL_OPS(OF)                                                                          \
    OF("add", {}, TL_RUNS(Add))                                                             \
    OF("sub", {}, TL_RUNS(Sub))                                                             \
    OF("mul", {}, TL_RUNS(Mul))                                                             \
    OF("div", {}, TL_RUNS(Div))                                                             \
    OF("maximum", {}, TL_RUNS(Maximum))                                                     \
    OF("minimum", {}, TL_RUNS(Minimum))                                                     \
    OF("neg", {}, TL_RUNS(Neg))                                                             \
    OF("abs", {}, TL_RUNS(Abs))                                                             \
    OF("sign", {}, TL_RUNS(Sign))                                                           \
    OF("sqrt", {}, TL_RUNS(Sqrt))                                                           \
    OF("reciprocal", {}, TL_RUNS(Reciprocal))                                               \
    OF("relu", {}, TL_RUNS(Relu))                                                           \
    OF("relu_dx", {}, TL_RUNS(ReluDx))                                                      \
    OF("sqrt_dx", {}, TL_RUNS(SqrtDx))                                                      \
    OF("tanh_dx", {}, TL_RUNS(TanhDx))                                                      \
    OF("sigmoid_dx", {}, TL_RUNS(SigmoidDx))                                                \
    OF("exp", {}, TL_RUNS(Exp))                                                             \
    OF("expm1", {}, TL_RUNS(Expm1))                                                         \
    OF("log", {}, TL_RUNS(Log))                                                             \
    OF("log1p", {}, TL_RUNS(Log1p))                                                         \
    OF("tanh", {}, TL_RUNS(Tanh))                                                           \
    OF("sigmoid", {}, TL_RUNS(Sigmoid))                                                     \
    OF("erf", {}, TL_RUNS(Erf))                                                             \
    OF("silu", {}, TL_RUNS(Silu))                                                           \
    OF("silu_dx", {}, TL_RUNS(SiluDx))                                                      \
    OF("mish", {}, TL_RUNS(Mish))                                                           \
    OF("mish_dx", {}, TL_RUNS(MishDx))                                                      \
    OF("logsigmoid", {}, TL_RUNS(LogSigmoid))                                               \
    OF("logsigmoid_dx", {}, TL_RUNS(LogSigmoidDx))                                          \
    OF("elu", (Constants{constant(kw, "alpha")}), TL_RUNS(Elu))                             \
    OF("elu_dx", (Constants{constant(kw, "alpha")}), TL_RUNS(EluDx))                        \
    OF("softplus", (Constants{constant(kw, "beta"), constant(kw, "threshold")}), TL_RUNS(Softplus))       \
    OF("softplus_dx", (Constants{constant(kw, "beta"), constant(kw, "threshold")}), TL_RUNS(SoftplusDx))  \
    OF("leaky_relu", (Constants{constant(kw, "slope")}), TL_RUNS(Leaky))                    \
    OF("leaky_relu_dx", (Constants{constant(kw, "slope")}), TL_RUNS(LeakyDx))

#define TL_KERNEL(NAME, ...) \
    {NAME, [](py::tuple specs, py::tuple outs, py::dict kw) { return kernel_of(tl::body_of(NAME, kw), specs, outs); }},
#define TL_BODY_OF(NAME, C, ...) {NAME, [](py::dict kw) { return (void)kw, body(C, __VA_ARGS__); }},

const std::pair<const char*, tl::Body (*)(py::dict)> bodies[] = {
    TL_OPS(TL_BODY_OF)
    {"gelu", [](py::dict kw) { return approximate(kw) ? body({}, TL_RUNS(TanhGelu)) : body({}, TL_RUNS(Gelu)); }},
    {"gelu_dx", [](py::dict kw) { return approximate(kw) ? body({}, TL_RUNS(TanhGeluDx)) : body({}, TL_RUNS(GeluDx)); }},
    {"clone", [](py::dict) { return body({}, TL_RUNS(Same)); }},
    {"clamp", [](py::dict) {
         constexpr double infinity = std::numeric_limits<double>::infinity();
         return body({-infinity, infinity}, TL_RUNS(Clamp), 2);
     }},
    {"pow", [](py::dict) { return body({}, TL_RUNS(Power), 1); }},
    {"pow_dx", [](py::dict) { return body({}, TL_RUNS(PowerDx), 1); }},
};

const tl::Registrar kernels[] = {
    TL_OPS(TL_KERNEL)
    TL_KERNEL("gelu")
    TL_KERNEL("gelu_dx")
    {"where", select<0, 1, 2>},
    {"masked_fill", select<1, 2, 0>},
    {"clamp", clamp},
    {"pow", power},
    {"pow_dx", power_dx},
};

}  // namespace

tl::Body tl::body_of(const std::string& name, py::dict constants) {
    for (const auto& known : bodies)
        if (name == known.first) return known.second(constants);
    throw py::key_error("no element-wise body: " + name);
}
