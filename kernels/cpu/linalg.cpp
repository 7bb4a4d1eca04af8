// Matrix products as ops: matmul with its transposes and leading dimensions, and the linear layer. gemm.cpp multiplies.
#include <string>

#include "gemm.h"
#include "pool.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

// One product a matrix of the output; `xs` and `ws` say how far apart the operands' matrices lie, in elements.
struct Batch {
    std::int64_t m, n, k;
    bool tx, tw;
    std::vector<std::int64_t> xs, ws;
};

template <class T>
tl::Matrix<T> matrix(const T* data, std::int64_t rows, std::int64_t cols, bool transposed) {
    return transposed ? tl::Matrix<T>{data, 1, rows} : tl::Matrix<T>{data, cols, 1};
}

// Batches of small products: a task does several; of large ones, gemm itself cuts each.
template <class T>
void multiply(const Batch& s, const T* x, const T* w, T* y) {
    const auto count = static_cast<std::int64_t>(s.xs.size());
    const std::int64_t size = s.m * s.n * s.k;
    tl::Unlock unlock(count * size / 64);
    const auto one = [&](std::int64_t t) {
        tl::gemm<T>(s.m, s.n, s.k, matrix(x + s.xs[t], s.m, s.k, s.tx), matrix(w + s.ws[t], s.k, s.n, s.tw),
                    y + t * s.m * s.n, s.n);
    };
    const std::int64_t most = size ? (1 << 18) / size + 1 : count, tasks = (count + most - 1) / most;
    if (size > 1 << 22 || tasks < 2 || count * size < 1 << 19) {
        for (std::int64_t t = 0; t < count; ++t) one(t);
        return;
    }
    tl::Pool::get().run(static_cast<int>(tasks), [&](int t) {
        for (std::int64_t p = t * most; p < std::min(count, (t + 1) * most); ++p) one(p);
    });
}

template <class T>
py::object matmul_of(Batch s) {
    return tl::bind(3, [s = std::move(s)](PyObject* const* a) {
        multiply<T>(s, data<T>(a[0]), data<T>(a[1]), data<T>(a[2]));
    });
}

// Where each matrix of an operand begins, for all matrices of the output: broadcast dimensions stand still.
std::vector<std::int64_t> starts(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& out) {
    std::vector<std::int64_t> found{0};
    const std::size_t missing = out.size() - shape.size();
    std::int64_t matrices = 1;  // of the operand, in the dimensions from here on
    std::int64_t size = shape[shape.size() - 1] * shape[shape.size() - 2];
    for (std::size_t d = out.size() - 2; d-- > 0;) {
        const std::int64_t n = d < missing ? 1 : shape[d - missing];
        const std::int64_t step = n == 1 ? 0 : matrices * size;
        std::vector<std::int64_t> more;
        for (std::int64_t p = 0; p < out[d]; ++p)
            for (std::int64_t at : found) more.push_back(p * step + at);
        found = std::move(more);
        matrices *= n;
    }
    return found;
}

py::object matmul(py::tuple specs, py::tuple outs, py::dict constants) {
    const bool tx = constants["tx"].cast<bool>(), tw = constants["tw"].cast<bool>();
    const auto x = tl::shape(specs[0]), w = tl::shape(specs[1]), y = tl::shape(outs[0]);
    Batch s{y[y.size() - 2], y.back(), tx ? x[x.size() - 2] : x.back(), tx, tw, starts(x, y), starts(w, y)};
    return tl::is_double(outs[0]) ? matmul_of<double>(std::move(s)) : matmul_of<float>(std::move(s));
}

struct Linear {
    std::int64_t m, n, k;
    tl::Act act;
    bool residual;
};

// (x, w, bias or None, y), or (x, w, bias or None, residual, y).
template <class T>
py::object linear_of(Linear s) {
    return tl::bind(s.residual ? 5 : 4, [s](PyObject* const* a) {
        tl::Unlock unlock(s.m * s.n * s.k / 64);
        tl::Epilogue<T> after;
        after.act = s.act;
        if (a[2] != Py_None) after.bias = data<T>(a[2]);
        if (s.residual) after.residual = data<T>(a[3]), after.residual_row = s.n;
        tl::gemm<T>(s.m, s.n, s.k, {data<T>(a[0]), s.k, 1}, {data<T>(a[1]), 1, s.k}, data<T>(a[s.residual ? 4 : 3]),
                    s.n, after);
    });
}

tl::Act act_of(const std::string& name) {
    if (name == "none") return tl::Act::none;
    if (name == "relu") return tl::Act::relu;
    if (name == "gelu") return tl::Act::gelu;
    if (name == "gelu_tanh") return tl::Act::gelu_tanh;
    if (name == "tanh") return tl::Act::tanh;
    if (name == "sigmoid") return tl::Act::sigmoid;
    throw py::value_error("linear: got act '" + name + "'; wanted none, relu, gelu, gelu_tanh, tanh or sigmoid");
}

// act(x w^T + bias + residual), where the constants ask for an act or a residual.
py::object linear(py::tuple specs, py::tuple outs, py::dict constants) {
    const auto w = tl::shape(specs[1]);
    const auto size = outs[0].attr("size").cast<std::int64_t>();
    const Linear s{w[0] ? size / w[0] : 0, w[0], w[1],
                   constants.contains("act") ? act_of(constants["act"].cast<std::string>()) : tl::Act::none,
                   constants.contains("residual") && constants["residual"].cast<bool>()};
    return tl::is_double(outs[0]) ? linear_of<double>(s) : linear_of<float>(s);
}

const tl::Registrar registered[] = {{"matmul", matmul}, {"linear", linear}};

}  // namespace
