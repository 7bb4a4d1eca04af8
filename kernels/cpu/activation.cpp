// Softmax, log-softmax and their gradients along one dimension: one pass to read, one to write, no temporaries.
#include "spread.h"
#include "tl.h"

namespace {

// The tensor as (outer, n, inner) with the softmax along n.
struct Lines {
    std::int64_t outer = 1, n = 1, inner = 1;
};

}  // namespace

#define TL_BODY "activation_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

Lines lines(py::tuple specs, py::dict constants) {
    const auto shape = tl::shape(specs[0]);
    const auto dim = constants["dim"].cast<std::int64_t>();
    Lines l;
    for (std::int64_t k = 0; k < static_cast<std::int64_t>(shape.size()); ++k)
        (k < dim ? l.outer : k == dim ? l.n : l.inner) *= shape[static_cast<std::size_t>(k)];
    return l;
}

template <class T>
using Kernel = void (*)(const Lines&, const T*, const T*, T*);

struct Softmax {
    static constexpr int inputs = 1;
    template <class T>
    static Kernel<T> pick() { return TL_PICK(softmax<T>); }
};
struct SoftmaxDx {
    static constexpr int inputs = 2;
    template <class T>
    static Kernel<T> pick() { return TL_PICK(softmax_dx<T>); }
};
struct LogSoftmax {
    static constexpr int inputs = 1;
    template <class T>
    static Kernel<T> pick() { return TL_PICK(log_softmax<T>); }
};
struct LogSoftmaxDx {
    static constexpr int inputs = 2;
    template <class T>
    static Kernel<T> pick() { return TL_PICK(log_softmax_dx<T>); }
};

template <class Op, class T>
py::object bound(const Lines& l) {
    return tl::bind(Op::inputs + 1, [l](PyObject* const* a) {
        tl::Unlock unlock(l.outer * l.n * l.inner);
        Op::template pick<T>()(l, data<T>(a[0]), data<T>(a[Op::inputs - 1]), data<T>(a[Op::inputs]));
    });
}

template <class Op>
py::object factory(py::tuple specs, py::tuple, py::dict constants) {
    const Lines l = lines(specs, constants);
    return tl::is_double(specs[0]) ? bound<Op, double>(l) : bound<Op, float>(l);
}

const tl::Registrar kernels[] = {
    {"softmax", factory<Softmax>},
    {"softmax_dx", factory<SoftmaxDx>},
    {"log_softmax", factory<LogSoftmax>},
    {"log_softmax_dx", factory<LogSoftmaxDx>},
};

}  // namespace
