// What a linear layer with an activation needs beside gemm.h: the gradient that passes the activation together with
// that of the bias, and the epilogue alone, for products that NumPy's BLAS makes.
#include "act.h"
#include "reduce.h"
#include "spread.h"
#include "tl.h"

namespace {

using tl::Act;
using tl::data;
using tl::Joined;
using tl::wide;
namespace py = pybind11;

template <class T>
struct Kernel {
    void (*finish)(std::int64_t rows, std::int64_t n, const T* b, T* y, T* pre);
    void (*act_dx)(std::int64_t rows, std::int64_t n, std::int64_t step, const T* dy, const T* saved, T* dz,
                   double* sums);
    void (*sums)(std::int64_t rows, std::int64_t n, std::int64_t step, const double* x, double* to);
};

}  // namespace

#define TL_BODY "linear_act_body.h"
#include "each_isa.h"

namespace {

struct Rows {
    std::int64_t rows, n;
    Act act;
};

Rows rows_of(py::handle spec, py::dict constants) {
    const std::int64_t n = tl::shape(spec).back();
    return {n ? spec.attr("size").cast<std::int64_t>() / n : 0, n, tl::act_of(constants["act"].cast<std::string>())};
}

// (dy, saved, dz, db): what was saved is the output, or with gelu what went into it.
template <class T>
py::object act_dx_of(const Rows& s) {
    return tl::bind(4, [s](PyObject* const* a) {
        const T *dy = data<T>(a[0]), *saved = data<T>(a[1]);
        T* dz = data<T>(a[2]);
        tl::Unlock unlock(s.rows * s.n);
        const Kernel<T> kernel = TL_PICK(kernel<T>)(s.act);
        const auto columns = [&](std::int64_t rows, std::int64_t n, std::int64_t at, double* to) {
            kernel.act_dx(rows, n, s.n, dy + at, saved + at, dz + at, to);
        };
        tl::in_columns(std::int64_t(1), s.rows, s.n, columns, kernel.sums, data<T>(a[3]));
    });
}

py::object act_dx(py::tuple, py::tuple outs, py::dict constants) {
    const Rows s = rows_of(outs[0], constants);
    return tl::is_double(outs[0]) ? act_dx_of<double>(s) : act_dx_of<float>(s);
}

// (bias or None, y) or (bias or None, y, pre): y holds the product.
template <class T>
py::object finish_of(const Rows& s, bool pre) {
    return tl::bind(pre ? 3 : 2, [s, pre](PyObject* const* a) {
        const T* b = a[0] == Py_None ? nullptr : data<T>(a[0]);
        T *y = data<T>(a[1]), *kept = pre ? data<T>(a[2]) : nullptr;
        tl::Unlock unlock(s.rows * s.n);
        const Kernel<T> kernel = TL_PICK(kernel<T>)(s.act);
        tl::spread(s.rows, s.n, [&](std::int64_t from, std::int64_t to) {
            kernel.finish(to - from, s.n, b, y + from * s.n, kept ? kept + from * s.n : nullptr);
        });
    });
}

py::object finish(py::tuple, py::tuple outs, py::dict constants) {
    const Rows s = rows_of(outs[0], constants);
    return tl::is_double(outs[0]) ? finish_of<double>(s, outs.size() > 1) : finish_of<float>(s, outs.size() > 1);
}

const tl::Registrar kernels[] = {{"act_dx", act_dx}, {"linear_finish", finish}};

}  // namespace
