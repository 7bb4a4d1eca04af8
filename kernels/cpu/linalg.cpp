// Matrix products as ops: matmul with its transposes and leading dimensions, and the linear layer. gemm.cpp multiplies.
#include <string>

#include "gemm.h"
#include "pool.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

// The leading dimensions of the output, and the sizes of its matrices.
struct Batch {
    std::int64_t m, n, k, count = 1;
    bool tx, tw;
    std::vector<std::int64_t> lead;
};

// Elements from one index of dimension d to the next.
template <class T>
std::int64_t step(PyObject* array, int d) {
    return py::detail::array_proxy(array)->strides[d] / static_cast<std::int64_t>(sizeof(T));
}

// The array's first matrix as it lies.
template <class T>
tl::Matrix<T> matrix(PyObject* array, bool transposed) {
    const int nd = py::detail::array_proxy(array)->nd;
    const std::int64_t row = step<T>(array, nd - 2), col = step<T>(array, nd - 1);
    return {data<T>(array), transposed ? col : row, transposed ? row : col};
}

// The array's matrix that goes into matrix t of an output with these leading dimensions.
template <class T>
tl::Matrix<T> matrix(PyObject* array, bool transposed, const std::vector<std::int64_t>& lead, std::int64_t t) {
    tl::Matrix<T> found = matrix<T>(array, transposed);
    const auto* proxy = py::detail::array_proxy(array);
    for (int d = proxy->nd - 3, o = static_cast<int>(lead.size()) - 1; d >= 0; --d, --o) {
        if (proxy->dimensions[d] != 1) found.data += t % lead[o] * step<T>(array, d);  // else it is broadcast
        t /= lead[o];
    }
    return found;
}

// Batches of small products: a task does several; of large ones, gemm itself cuts each.
template <class T>
void multiply(const Batch& s, PyObject* const* a) {
    T* y = data<T>(a[2]);
    const std::int64_t size = s.m * s.n * s.k;
    tl::Unlock unlock(s.count * size / 64);
    const auto one = [&](std::int64_t t) {
        tl::gemm<T>(s.m, s.n, s.k, matrix<T>(a[0], s.tx, s.lead, t), matrix<T>(a[1], s.tw, s.lead, t),
                    y + t * s.m * s.n, s.n);
    };
    const std::int64_t most = size ? (1 << 18) / size + 1 : s.count, tasks = (s.count + most - 1) / most;
    if (size > 1 << 22 || tasks < 2 || s.count * size < 1 << 19) {
        for (std::int64_t t = 0; t < s.count; ++t) one(t);
        return;
    }
    tl::Pool::get().run(static_cast<int>(tasks), [&](int t) {
        for (std::int64_t p = t * most; p < std::min(s.count, (t + 1) * most); ++p) one(p);
    });
}

template <class T>
py::object matmul_of(Batch s) {
    return tl::bind(3, [s = std::move(s)](PyObject* const* a) { multiply<T>(s, a); });
}

// (x, w, y) with operands of any steps.
py::object matmul(py::tuple specs, py::tuple outs, py::dict constants) {
    Batch s;
    s.tx = constants["tx"].cast<bool>(), s.tw = constants["tw"].cast<bool>();
    const auto x = tl::shape(specs[0]);
    s.lead = tl::shape(outs[0]);
    s.k = s.tx ? x[x.size() - 2] : x.back();
    s.n = s.lead.back(), s.lead.pop_back();
    s.m = s.lead.back(), s.lead.pop_back();
    for (const std::int64_t n : s.lead) s.count *= n;
    return tl::is_double(outs[0]) ? matmul_of<double>(std::move(s)) : matmul_of<float>(std::move(s));
}

struct Linear {
    std::int64_t m, n, k;
    tl::Act act;
    bool matrix;            // whether x has two dimensions
    int residual, bias, y;  // where these arrays stand, the residual nowhere where it is -1
    bool pre;               // whether what goes into the act is an output too
};

// An x of two dimensions may have any steps, and w too.
template <class T>
py::object linear_of(Linear s) {
    return tl::bind(s.y + 1 + s.pre, [s](PyObject* const* a) {
        tl::Unlock unlock(s.m * s.n * s.k / 64);
        tl::Epilogue<T> after;
        after.act = s.act;
        if (a[s.bias] != Py_None) after.bias = data<T>(a[s.bias]);
        if (s.residual > 0) after.residual = data<T>(a[s.residual]), after.residual_row = s.n;
        if (s.pre) after.pre = data<T>(a[s.y + 1]);
        const tl::Matrix<T> x = s.matrix ? matrix<T>(a[0], false) : tl::Matrix<T>{data<T>(a[0]), s.k, 1};
        tl::gemm<T>(s.m, s.n, s.k, x, matrix<T>(a[1], true), data<T>(a[s.y]), s.n, after);
    });
}

// act(x w^T + bias + residual) of (x, w, [residual], bias or None, y, [what went into act]).
py::object linear_with(py::tuple specs, py::tuple outs, py::dict constants, bool residual) {
    const auto w = tl::shape(specs[1]);
    const auto size = outs[0].attr("size").cast<std::int64_t>();
    Linear s{w[0] ? size / w[0] : 0, w[0], w[1], tl::Act::none, tl::shape(specs[0]).size() == 2,
             residual ? 2 : -1, 2 + residual, 3 + residual, outs.size() > 1};
    if (constants.contains("act")) s.act = tl::act_of(constants["act"].cast<std::string>());
    return tl::is_double(outs[0]) ? linear_of<double>(s) : linear_of<float>(s);
}

py::object linear(py::tuple specs, py::tuple outs, py::dict constants) {
    return linear_with(specs, outs, constants, false);
}

py::object linear_add(py::tuple specs, py::tuple outs, py::dict constants) {
    return linear_with(specs, outs, constants, true);
}

const tl::Registrar registered[] = {{"matmul", matmul}, {"linear", linear}, {"linear_add", linear_add}};

}  // namespace
