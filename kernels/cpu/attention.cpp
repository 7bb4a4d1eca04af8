// Scaled dot-product attention and its gradient. Scores and weights are never stored: a block of them is made, used and
// forgotten, and the gradient makes them again from the logarithm of each query's sum (lse), which is inf for a query
// that may look nowhere. Keys behind the last query of a block are left out where attention is causal.
//
// Query, key, value and the incoming gradient lie anywhere as long as each row's numbers follow each other, so heads
// cut from one tensor are read where they lie. Source of the method: Dao et al., "FlashAttention" (NeurIPS 2022).
#include "spread.h"
#include "tl.h"

namespace tl {

constexpr std::int64_t query_block = 24;  // whole tiles of every size
constexpr std::int64_t key_block = 128;

}  // namespace tl

namespace {

struct Attention {
    std::int64_t heads, l, s, e, v;  // heads of l queries, s keys, rows of e numbers and of v
    bool causal;
    double scale;
};

// Rows of one head.
template <class T>
struct Operand {
    const T* data;
    std::int64_t row;
};

}  // namespace

#define TL_BODY "attention_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

// An array (..., rows, width) of which the heads are taken one by one; nothing where it is None.
template <class T>
struct Heads {
    const T* first = nullptr;
    const py::detail::PyArray_Proxy* array = nullptr;

    explicit Heads(PyObject* object) {
        if (object == Py_None) return;
        array = py::detail::array_proxy(object);
        first = data<T>(object);
    }
    std::int64_t step(int d) const { return array->strides[d] / static_cast<std::int64_t>(sizeof(T)); }
    Operand<T> operator[](std::int64_t head) const {
        if (!array) return {nullptr, 0};
        const T* at = first;
        for (int d = array->nd - 3; d >= 0; --d) {
            at += head % array->dimensions[d] * step(d);
            head /= array->dimensions[d];
        }
        return {at, step(array->nd - 2)};
    }
};

Attention attention_of(py::tuple specs, std::size_t q, py::dict constants) {
    const auto query = tl::shape(specs[q]), value = tl::shape(specs[q + 2]);
    const std::size_t n = query.size();
    std::int64_t heads = 1;
    for (std::size_t d = 0; d + 2 < n; ++d) heads *= query[d];
    return {heads, query[n - 2], value[n - 2], query[n - 1], value[n - 1], constants["causal"].cast<bool>(),
            constants["scale"].cast<double>()};
}

template <class T>
py::object forward(const Attention& f) {
    return tl::bind(6, [f](PyObject* const* a) {
        const Heads<T> q(a[0]), k(a[1]), v(a[2]), mask(a[3]);
        T *out = data<T>(a[4]), *lse = data<T>(a[5]);
        const std::int64_t work = f.l * f.s * (f.e + f.v) / 16;
        tl::Unlock unlock(f.heads * work);
        const auto kernel = TL_PICK(attend<T>);
        // few heads are cut into parts of their queries, each of which packs the keys for itself
        const std::int64_t cuts = f.heads >= 16 ? 1 : std::min((16 + f.heads - 1) / f.heads, (f.l + 95) / 96);
        const std::int64_t part = ((f.l + cuts - 1) / cuts + tl::query_block - 1) / tl::query_block * tl::query_block;
        tl::spread(f.heads * cuts, work / cuts, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t t = from; t < to; ++t) {
                const std::int64_t head = t / cuts, first = t % cuts * part, last = std::min(f.l, first + part);
                if (first < last)
                    kernel(f, first, last, q[head], k[head], v[head], mask[head], out + head * f.l * f.v,
                           lse + head * f.l);
            }
        });
    });
}

template <class T>
py::object backward(const Attention& f) {
    return tl::bind(10, [f](PyObject* const* a) {
        const Heads<T> dy(a[0]), q(a[1]), k(a[2]), v(a[3]), mask(a[6]);
        const T *y = data<T>(a[4]), *lse = data<T>(a[5]);
        T *dq = data<T>(a[7]), *dk = data<T>(a[8]), *dv = data<T>(a[9]);
        const std::int64_t work = f.l * f.s * (f.e + f.v) / 8;
        tl::Unlock unlock(f.heads * work);
        const auto kernel = TL_PICK(attend_dx<T>);
        tl::spread(f.heads, work, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t h = from; h < to; ++h)
                kernel(f, dy[h], q[h], k[h], v[h], mask[h], y + h * f.l * f.v, lse + h * f.l, dq + h * f.l * f.e,
                       dk + h * f.s * f.e, dv + h * f.s * f.v);
        });
    });
}

py::object attention(py::tuple specs, py::tuple, py::dict constants) {
    const Attention f = attention_of(specs, 0, constants);
    return tl::is_double(specs[0]) ? forward<double>(f) : forward<float>(f);
}

py::object attention_dx(py::tuple specs, py::tuple, py::dict constants) {
    const Attention f = attention_of(specs, 1, constants);
    return tl::is_double(specs[1]) ? backward<double>(f) : backward<float>(f);
}

const tl::Registrar kernels[] = {{"attention", attention}, {"attention_dx", attention_dx}};

}  // namespace
