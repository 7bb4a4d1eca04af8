// Copies of arrays of any strides into dense ones. Where neighbours of the output lie far apart in the input but
// some other dimension is dense there, both are walked in blocks that fit the registers, so that every cache line is
// read and written whole.
#include "pool.h"
#include "tl.h"

#define TL_BODY "copy_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

constexpr std::int64_t grain = 1 << 14;  // elements that are worth a thread
constexpr int most = 16;                 // dimensions; the op's Python side lets no more in

struct Dim {
    std::int64_t n, x, y;  // size, and steps in elements
};

// The dimensions of a copy in the order in which they lie in the output, neighbours joined where the input allows it.
struct Dims {
    Dim d[most];
    int count = 0;

    template <class T>
    static Dims of(PyObject* from, PyObject* to, const std::vector<std::int64_t>& shape) {
        constexpr auto unit = static_cast<Py_ssize_t>(sizeof(T));
        const Py_ssize_t *x = py::detail::array_proxy(from)->strides, *y = py::detail::array_proxy(to)->strides;
        Dim all[most];
        int many = 0;
        for (std::size_t k = 0; k < shape.size(); ++k)
            if (shape[k] != 1) all[many++] = {shape[k], x[k] / unit, y[k] / unit};
        std::stable_sort(all, all + many, [](const Dim& a, const Dim& b) { return a.y > b.y; });
        Dims found;
        for (int k = 0; k < many; ++k) {
            Dim* outer = found.count ? &found.d[found.count - 1] : nullptr;
            if (outer && outer->x == all[k].x * all[k].n && outer->y == all[k].y * all[k].n)
                *outer = {outer->n * all[k].n, all[k].x, all[k].y};
            else
                found.d[found.count++] = all[k];
        }
        if (!found.count) found.d[found.count++] = {1, 1, 1};
        return found;
    }

    Dim take(int k) {
        const Dim taken = d[k];
        for (--count; k < count; ++k) d[k] = d[k + 1];
        return taken;
    }

    std::int64_t size() const {
        std::int64_t n = 1;
        for (int k = 0; k < count; ++k) n *= d[k].n;
        return n;
    }

    // Where element `index` of these dimensions lies.
    void place(std::int64_t index, std::int64_t& x, std::int64_t& y) const {
        x = y = 0;
        for (int k = count; k-- > 0; index /= d[k].n) {
            x += index % d[k].n * d[k].x;
            y += index % d[k].n * d[k].y;
        }
    }
};

// Calls f(from, to) for parts of n units of so many elements each, in threads where there is enough to do.
template <class F>
void share(std::int64_t n, std::int64_t elements, F f) {
    const std::int64_t total = n * elements;
    const std::int64_t count = total <= grain ? 1 : std::min<std::int64_t>(tl::Pool::threads().load(), n);
    if (count <= 1) return f(0, n);
    const std::int64_t part = (n + count - 1) / count;
    tl::Pool::get().run(static_cast<int>((n + part - 1) / part),
                        [&](int k) { f(k * part, std::min(n, (k + 1) * part)); });
}

template <class T>
py::object clone_of(std::vector<std::int64_t> shape) {
    std::int64_t total = 1;
    for (const auto n : shape) total *= n;
    return tl::bind(2, [=](PyObject* const* a) {
        const T* x = data<T>(a[0]);
        T* y = data<T>(a[1]);
        Dims dims = Dims::of<T>(a[0], a[1], shape);
        tl::Unlock unlock(total);
        const Dim last = dims.take(dims.count - 1);
        int dense = -1;
        for (int k = 0; k < dims.count && last.x != 1 && last.x != 0; ++k)
            if (dims.d[k].x == 1) dense = k;
        if (dense < 0) {
            const auto across = TL_PICK(Copy<T>::across);
            const Dim rows = dims.count ? dims.take(dims.count - 1) : Dim{1, 0, 0};
            return share(dims.size() * rows.n, last.n, [&](std::int64_t from, std::int64_t to) {
                for (std::int64_t px, py, many; from < to; from += many) {
                    const std::int64_t first = from % rows.n;
                    many = std::min(to - from, rows.n - first);
                    dims.place(from / rows.n, px, py);
                    across(many, last.n, x + px + first * rows.x, rows.x, last.x, y + py + first * rows.y, rows.y);
                }
            });
        }
        const auto transposed = TL_PICK(Copy<T>::transposed);
        const Dim rows = dims.take(dense);
        constexpr std::int64_t high = 64;  // rows of a unit
        const std::int64_t units = (rows.n + high - 1) / high;
        share(dims.size() * units, std::min(high, rows.n) * last.n, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t px, py; from < to; ++from) {
                const std::int64_t first = from % units * high;
                dims.place(from / units, px, py);
                transposed(std::min(high, rows.n - first), last.n, x + px + first, last.x, y + py + first * rows.y,
                           rows.y);
            }
        });
    });
}

py::object clone(py::tuple specs, py::tuple, py::dict) {
    return tl::is_double(specs[0]) ? clone_of<double>(tl::shape(specs[0])) : clone_of<float>(tl::shape(specs[0]));
}

const tl::Registrar kernels[] = {{"clone", clone}};

}  // namespace
