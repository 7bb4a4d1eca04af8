// Rows of a table by their numbers: index_select and embedding, and back: rows added where their numbers say.
//
// Adding is cut by rows of the table (and by columns where rows are few): a task zeroes its part while it is in the
// cache and adds what belongs there in the order in which it came, so sums have the same bits for any number of threads.
#include <cstring>
#include <string>

#include "pool.h"
#include "tl.h"

#define TL_BODY "embedding_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

constexpr std::int64_t task_size = 1 << 15;    // elements
constexpr std::int64_t shared_size = 1 << 15;  // fewer elements stay on the caller's thread

// A tensor as (outer, n, inner), of which rows are meant along n by `count` indices.
struct Shape {
    std::int64_t outer = 1, n = 0, inner = 1, count = 0;
    bool wide = false;  // int64 indices, not int32

    Shape(const std::vector<std::int64_t>& table, std::int64_t dim, py::handle index) : n(table[dim]) {
        for (std::int64_t d = 0; d < static_cast<std::int64_t>(table.size()); ++d)
            if (d != dim) (d < dim ? outer : inner) *= table[d];
        count = index.attr("size").cast<std::int64_t>();
        wide = index.attr("dtype").attr("itemsize").cast<int>() == 8;
    }
};

// Indices, and how they are refused where they are beyond the end: in the words of places.check.
struct Indices {
    std::string who;
    std::int64_t dim;
    bool wraps;

    template <class I>
    const I* checked(PyObject* array, const Shape& s) const {
        const I* index = data<I>(array);
        I low = 0, high = -1;
        for (std::int64_t k = 0; k < s.count; ++k) low = std::min(low, index[k]), high = std::max(high, index[k]);
        if (high >= s.n || low < (wraps ? -s.n : 0))
            py::module_::import("tensorlite.ops.places").attr("check")(py::handle(array), who, dim, s.n, wraps);
        return index;
    }
};

template <class F>
void in_tasks(std::int64_t work, std::int64_t tasks, F f) {
    if (work < shared_size)
        for (std::int64_t k = 0; k < tasks; ++k) f(k);
    else
        tl::Pool::get().run(static_cast<int>(tasks), [&](int k) { f(k); });
}

// y[o, k] = x[o, index[k]]
template <class T, class I>
void take(const Shape& s, const T* x, const I* index, T* y) {
    const std::int64_t step = std::max<std::int64_t>(1, task_size / std::max<std::int64_t>(s.inner, 1));
    const std::int64_t cuts = (s.count + step - 1) / step;
    const auto copy = TL_PICK(copy_rows<T, I>);
    in_tasks(s.outer * s.count * s.inner, s.outer * cuts, [&](std::int64_t task) {
        const std::int64_t o = task / cuts, k = task % cuts * step;
        T* to = y + (o * s.count + k) * s.inner;
        copy(to, x + o * s.n * s.inner, index + k, std::min(step, s.count - k), s.n, s.inner);
    });
}

template <class T>
py::object taker(Shape s, Indices of, int x_at, int index_at) {
    return tl::bind(3, [=](PyObject* const* a) {
        const T* x = data<T>(a[x_at]);
        T* y = data<T>(a[2]);
        const auto go = [&](const auto* index) {
            tl::Unlock unlock(s.outer * s.count * s.inner);
            take(s, x, index, y);
        };
        if (s.wide)
            go(of.checked<std::int64_t>(a[index_at], s));
        else
            go(of.checked<std::int32_t>(a[index_at], s));
    });
}

// (x, index, y)
py::object index_select(py::tuple specs, py::tuple outs, py::dict c) {
    const auto who = c["who"].cast<std::string>();
    const auto dim = c["dim"].cast<std::int64_t>();
    const Shape s(tl::shape(specs[0]), dim, specs[1]);
    const Indices of{who, dim, who == "getitem"};
    return tl::is_double(outs[0]) ? taker<double>(s, of, 0, 1) : taker<float>(s, of, 0, 1);
}

// (index, table, y)
py::object embedding(py::tuple specs, py::tuple outs, py::dict) {
    const Shape s(tl::shape(specs[1]), 0, specs[0]);
    const Indices of{"embedding", 0, false};
    return tl::is_double(outs[0]) ? taker<double>(s, of, 1, 0) : taker<float>(s, of, 1, 0);
}

// How a table is cut: 2^shift rows and `columns` elements of each make a task.
struct Cut {
    int shift = 0;
    std::int64_t ranges = 1, columns, parts;

    explicit Cut(const Shape& s) : columns(std::max<std::int64_t>(s.inner, 1)) {
        while (((std::int64_t{2} << shift) * s.inner <= task_size) && (std::int64_t{1} << shift) < s.n) ++shift;
        ranges = ((s.n - 1) >> shift) + 1;
        while (s.outer * ranges * ((s.inner + columns - 1) / columns) < 16 && columns >= 64) columns /= 2;
        columns = (columns + 15) / 16 * 16;
        parts = (s.inner + columns - 1) / columns;
    }
};

// y[o, index[k]] += w[o, k], after y was made zeros (x null), x, or left (x is y). Bit for bit as one after the other.
template <class T, class I>
void put(const Shape& s, const Cut& cut, const T* x, const I* index, const T* w, T* y) {
    // positions k sorted by the range of rows that they go to, in each in the order in which they came
    thread_local std::vector<std::int64_t> starts, order;
    const auto row = [&](std::int64_t k) { return index[k] < 0 ? index[k] + s.n : static_cast<std::int64_t>(index[k]); };
    const bool sorts = cut.ranges > 1;
    starts.assign(static_cast<std::size_t>(cut.ranges) + 1, sorts ? 0 : s.count);
    if (sorts) {
        order.resize(static_cast<std::size_t>(s.count));
        const auto range = [&](std::int64_t k) { return static_cast<std::size_t>(row(k) >> cut.shift); };
        for (std::int64_t k = 0; k < s.count; ++k) ++starts[range(k)];
        std::int64_t before = 0;
        for (auto& n : starts) before += n, n = before - n;
        for (std::int64_t k = 0; k < s.count; ++k) order[static_cast<std::size_t>(starts[range(k)]++)] = k;
    }
    const std::int64_t *ends = starts.data(), *sorted = order.data();  // each start has moved on to its end
    const auto add = TL_PICK(add_row<T>);
    in_tasks(s.outer * (s.n + s.count) * s.inner, s.outer * cut.ranges * cut.parts, [&](std::int64_t task) {
        const std::int64_t part = task % cut.parts, range = task / cut.parts % cut.ranges;
        const std::int64_t o = task / cut.parts / cut.ranges;
        const std::int64_t c = part * cut.columns, columns = std::min(cut.columns, s.inner - c);
        const std::int64_t first = range << cut.shift, last = std::min(s.n, (range + 1) << cut.shift);
        const auto bytes = static_cast<std::size_t>(columns) * sizeof(T);
        T* to = y + o * s.n * s.inner + c;
        if (x != y) {
            const bool whole = columns == s.inner;  // then rows follow one another
            const std::int64_t rows = whole ? first + 1 : last;
            const std::size_t length = whole ? bytes * static_cast<std::size_t>(last - first) : bytes;
            for (std::int64_t r = first; r < rows; ++r) {
                if (x)
                    std::memcpy(to + r * s.inner, x + (o * s.n + r) * s.inner + c, length);
                else
                    std::memset(static_cast<void*>(to + r * s.inner), 0, length);
            }
        }
        for (std::int64_t k = range ? ends[range - 1] : 0; k < ends[range]; ++k) {
            const std::int64_t from_row = sorts ? sorted[k] : k;
            const T* from = w + (o * s.count + from_row) * s.inner + c;
            T* at = to + row(from_row) * s.inner;
            if (columns == 1)
                *at += *from;
            else
                add(at, from, columns);
        }
    });
}

// (w, index, y), or with a start (x, index, w, y)
template <class T>
py::object putter(Shape s, Indices of, bool start) {
    return tl::bind(start ? 4 : 3, [=, cut = Cut(s)](PyObject* const* a) {
        const T *x = start ? data<T>(a[0]) : nullptr, *w = data<T>(a[start ? 2 : 0]);
        T* y = data<T>(a[start ? 3 : 2]);
        std::vector<T> copy;  // of what would change while it is read
        const std::int64_t size = s.outer * s.count * s.inner;
        if (w < y + s.outer * s.n * s.inner && y < w + size) copy.assign(w, w + size), w = copy.data();
        const auto go = [&](const auto* index) {
            tl::Unlock unlock(s.outer * (s.n + s.count) * s.inner);
            if (s.outer * s.n * s.inner > 0) put(s, cut, x, index, w, y);
        };
        if (s.wide)
            go(of.checked<std::int64_t>(a[1], s));
        else
            go(of.checked<std::int32_t>(a[1], s));
    });
}

py::object unselect(py::tuple specs, py::tuple outs, py::dict c) {
    const auto dim = c["dim"].cast<std::int64_t>();
    const Shape s(tl::shape(outs[0]), dim, specs[1]);
    const Indices of{"unselect", dim, true};
    return tl::is_double(outs[0]) ? putter<double>(s, of, false) : putter<float>(s, of, false);
}

py::object index_add(py::tuple specs, py::tuple outs, py::dict c) {
    const auto dim = c["dim"].cast<std::int64_t>();
    const Shape s(tl::shape(outs[0]), dim, specs[1]);
    const Indices of{"index_add", dim, false};
    return tl::is_double(outs[0]) ? putter<double>(s, of, true) : putter<float>(s, of, true);
}

const tl::Registrar kernels[] = {
    {"index_select", index_select}, {"embedding", embedding}, {"unselect", unselect}, {"index_add", index_add}};

}  // namespace
