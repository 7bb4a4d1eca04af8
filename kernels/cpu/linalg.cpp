// Matrix products that fit into the second-level cache. Larger ones are left to NumPy's BLAS (the op files gate this).
//
// A BLAS call packs its operands and costs some microseconds before it multiplies; at these sizes reading the rows as
// they lie is faster, and bias comes along for nothing. One source, three instruction sets, chosen when first used.
#include <algorithm>
#include <cstring>

#include "isa.h"
#include "pool.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

struct Sizes {
    std::int64_t m, n, k;
};

#define T float
#define LANES 8
#define COLS 2
#define VECS 1
#define NAME(x) x##_f4_base
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME
#define T double
#define LANES 4
#define COLS 2
#define VECS 1
#define NAME(x) x##_f8_base
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define TL_X86 1
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define T float
#define LANES 8
#define COLS 2
#define VECS 2
#define NAME(x) x##_f4_avx2
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME
#define T double
#define LANES 4
#define COLS 2
#define VECS 2
#define NAME(x) x##_f8_avx2
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,fma")
#define T float
#define LANES 16
#define COLS 6
#define VECS 4
#define NAME(x) x##_f4_avx512
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME
#define T double
#define LANES 8
#define COLS 6
#define VECS 4
#define NAME(x) x##_f8_avx512
#include "gemm_body.h"
#undef T
#undef LANES
#undef COLS
#undef VECS
#undef NAME
#pragma GCC pop_options
#endif

template <class T>
struct Kernels {
    void (*dots)(const Sizes&, const T*, const T*, const T*, T*, std::int64_t);
    void (*rows)(const Sizes&, const T*, std::int64_t, std::int64_t, const T*, T*, std::int64_t);
    std::int64_t dots_columns, rows_columns;  // of one block
};

template <class T>
Kernels<T> kernels();

template <>
Kernels<float> kernels<float>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return {dots_f4_avx512, rows_f4_avx512, 6, 64};
    if (tl::isa() >= tl::avx2) return {dots_f4_avx2, rows_f4_avx2, 2, 16};
#endif
    return {dots_f4_base, rows_f4_base, 2, 8};
}

template <>
Kernels<double> kernels<double>() {
#ifdef TL_X86
    if (tl::isa() >= tl::avx512) return {dots_f8_avx512, rows_f8_avx512, 6, 32};
    if (tl::isa() >= tl::avx2) return {dots_f8_avx2, rows_f8_avx2, 2, 8};
#endif
    return {dots_f8_base, rows_f8_base, 2, 4};
}

// Calls block(first column) for blocks of `width` columns; on several threads where the work is worth the wake-up.
template <class F>
void blocks(const Sizes& s, std::int64_t width, F block) {
    const std::int64_t work = s.m * s.n * s.k, count = (s.n + width - 1) / width;
    tl::Unlock unlock(work / 64);
    if (work < 1 << 17) {
        for (std::int64_t c = 0; c < count; ++c) block(c * width);
        return;
    }
    // tasks of neighbouring blocks, cut by shape alone
    const std::int64_t each = std::max<std::int64_t>(1, count / 16), tasks = (count + each - 1) / each;
    tl::Pool::get().run(static_cast<int>(tasks), [&](int t) {
        const std::int64_t end = std::min(count, (t + 1) * each);
        for (std::int64_t c = t * each; c < end; ++c) block(c * width);
    });
}

template <class T>
void multiply_dots(const Sizes& s, const T* x, const T* w, const T* b, T* y) {
    const Kernels<T> chosen = kernels<T>();
    blocks(s, chosen.dots_columns, [&](std::int64_t j) { chosen.dots(s, x, w, b, y, j); });
}

template <class T>
void multiply_rows(const Sizes& s, const T* x, std::int64_t xi, std::int64_t xk, const T* w, T* y) {
    const Kernels<T> chosen = kernels<T>();
    blocks(s, chosen.rows_columns, [&](std::int64_t j) { chosen.rows(s, x, xi, xk, w, y, j); });
}

template <class T>
py::object matmul_of(Sizes s, bool tx, bool tw) {
    if (tw)
        return tl::bind(3, [s](PyObject* const* a) {
            multiply_dots<T>(s, data<T>(a[0]), data<T>(a[1]), nullptr, data<T>(a[2]));
        });
    const std::int64_t xi = tx ? 1 : s.k, xk = tx ? s.m : 1;
    return tl::bind(3, [s, xi, xk](PyObject* const* a) {
        multiply_rows<T>(s, data<T>(a[0]), xi, xk, data<T>(a[1]), data<T>(a[2]));
    });
}

// Two dimensions each, not both transposed: the op's gate sees to it.
py::object matmul(py::tuple specs, py::tuple outs, py::dict constants) {
    const bool tx = constants["tx"].cast<bool>(), tw = constants["tw"].cast<bool>();
    const auto x = tl::shape(specs[0]), y = tl::shape(outs[0]);
    const Sizes s{y[0], y[1], tx ? x[0] : x[1]};
    return tl::is_double(outs[0]) ? matmul_of<double>(s, tx, tw) : matmul_of<float>(s, tx, tw);
}

template <class T>
py::object linear_of(Sizes s) {
    return tl::bind(4, [s](PyObject* const* a) {
        const T* b = a[2] == Py_None ? nullptr : data<T>(a[2]);
        multiply_dots<T>(s, data<T>(a[0]), data<T>(a[1]), b, data<T>(a[3]));
    });
}

py::object linear(py::tuple specs, py::tuple outs, py::dict) {
    const auto w = tl::shape(specs[1]);
    const auto size = outs[0].attr("size").cast<std::int64_t>();
    const Sizes s{w[0] ? size / w[0] : 0, w[0], w[1]};
    return tl::is_double(outs[0]) ? linear_of<double>(s) : linear_of<float>(s);
}

const tl::Registrar registered[] = {{"matmul", matmul}, {"linear", linear}};

}  // namespace
