// Running sums along a dimension, from either end; the loops are in cumsum_body.h.
#include "pool.h"
#include "tl.h"

namespace {

constexpr std::int64_t wide = 1024;      // columns that are worked on at once
constexpr std::int64_t grain = 1 << 15;  // numbers of a task

}  // namespace

#define TL_BODY "cumsum_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

// The array as (outer, n, inner); a line or a block of columns is a unit of work.
template <class T>
py::object cumsum_of(std::int64_t outer, std::int64_t n, std::int64_t inner, bool reverse) {
    return tl::bind(2, [=](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        tl::Unlock unlock(outer * n * inner);
        const auto line = reverse ? TL_PICK(Cumsum<T>::template line<true>) : TL_PICK(Cumsum<T>::template line<false>);
        const auto columns = TL_PICK(Cumsum<T>::columns);
        const std::int64_t chunks = (inner + wide - 1) / wide, units = outer * chunks;
        const std::int64_t some = std::max<std::int64_t>(1, grain / (n * std::min(inner, wide)));
        const auto task = [&](int t) {
            for (std::int64_t u = t * some; u < std::min(units, (t + 1) * some); ++u) {
                const std::int64_t from = u % chunks * wide, first = u / chunks * n * inner + from;
                if (inner == 1) {
                    line(n, x + first, y + first);
                } else {
                    const std::int64_t begin = first + (reverse ? (n - 1) * inner : 0);
                    columns(n, std::min(wide, inner - from), reverse ? -inner : inner, x + begin, y + begin);
                }
            }
        };
        const std::int64_t tasks = (units + some - 1) / some;
        tasks == 1 ? task(0) : tl::Pool::get().run(static_cast<int>(tasks), task);
    });
}

py::object cumsum(py::tuple specs, py::tuple, py::dict constants) {
    const auto shape = tl::shape(specs[0]);
    const auto dim = constants["dim"].cast<std::size_t>();
    std::int64_t outer = 1, inner = 1;
    for (std::size_t k = 0; k < dim; ++k) outer *= shape[k];
    for (std::size_t k = dim + 1; k < shape.size(); ++k) inner *= shape[k];
    const bool reverse = constants["reverse"].cast<bool>();
    return tl::is_double(specs[0]) ? cumsum_of<double>(outer, shape[dim], inner, reverse)
                                   : cumsum_of<float>(outer, shape[dim], inner, reverse);
}

const tl::Registrar registered("cumsum", cumsum);

}  // namespace
