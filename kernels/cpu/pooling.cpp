// Pooling over windows of the last two dimensions and its gradients, for images (N, C, H, W) in memory and for
// channels last. What does not depend on values (which pixels a window has, how many) is worked out once a factory.
#include <string>

#include "pool.h"
#include "scratch.h"
#include "tl.h"

namespace {

// A window that a pixel is in, and which of its rows (or columns) the pixel is.
struct Meeting {
    std::int64_t window, tap;
};

struct Pooling {
    std::int64_t images, channels, planes;  // planes: images times channels
    std::int64_t h, w, out_h, out_w, kernel_h, kernel_w, step_h, step_w, pad_h, pad_w, dilation_h, dilation_w;
    bool last;  // whether channels lie last in memory

    // For each row and each column of windows: the taps that meet the image, and what a mean counts. Those of columns
    // are padded so that whole vectors can be read.
    std::vector<std::int64_t> first_row, last_row, last_column;
    std::vector<std::int32_t> first_column;
    std::vector<double> row_count, column_count;

    // For each row and each column of pixels: the windows it is in (row_meets[row_begin[r]] .. row_begin[r + 1]).
    std::vector<std::int64_t> row_begin, column_begin;
    std::vector<Meeting> row_meets, column_meets;

    // Of each place in a window: its row, column and number counted from the pixel where the window begins.
    std::vector<std::int64_t> place_row, place_column, place_pixel;

    std::vector<std::int64_t> tap;     // where in a dealt row each column of a window begins
    std::int64_t phase, dealt, block;  // see deal_row
    std::int64_t blocks;               // of channels, where tasks of whole images would be too few

    bool apart() const {  // windows side by side
        return kernel_h == step_h && kernel_w == step_w && pad_h == 0 && pad_w == 0 && dilation_h == 1 &&
               dilation_w == 1 && kernel_h * out_h <= h && kernel_w * out_w <= w;
    }
    bool halves() const { return apart() && kernel_h == 2 && kernel_w == 2; }
    std::int64_t rows() const { return (last ? images : planes) * out_h; }
    std::int64_t pixel_rows() const { return (last ? images : planes) * h; }
};

}  // namespace

#define TL_BODY "pooling_body.h"
#include "each_isa.h"

namespace {

using tl::data;
namespace py = pybind11;

constexpr std::int64_t widest = 16;     // elements that a vector may have
constexpr std::int64_t task = 1 << 15;  // pixels that make a task

struct Along {
    std::int64_t size, out, kernel, step, pad, dilation;
};

// The taps of each window along one dimension that meet the image, and how many a mean counts: with `include` those in
// the padding, too, but never those beyond it.
template <class I>
void taps(const Along& a, bool include, std::vector<I>& first, std::vector<std::int64_t>& last,
          std::vector<double>& count) {
    for (std::int64_t o = 0; o < a.out; ++o) {
        const std::int64_t start = o * a.step - a.pad, d = a.dilation;
        first.push_back(static_cast<I>((std::max<std::int64_t>(-start, 0) + d - 1) / d));
        const std::int64_t meet = start < a.size ? (a.size - start + d - 1) / d : 0;
        last.push_back(std::max<std::int64_t>(std::min(a.kernel, meet), first.back()));
        const std::int64_t end = std::min(start + a.kernel, a.size + a.pad);
        count.push_back(static_cast<double>(include ? end - start
                                                    : std::min(end, a.size) - std::max<std::int64_t>(start, 0)));
    }
}

void meetings(const Along& a, std::vector<std::int64_t>& begin, std::vector<Meeting>& meets) {
    begin.push_back(0);
    for (std::int64_t r = 0; r < a.size; ++r) {
        for (std::int64_t k = 0; k < a.kernel; ++k) {
            const std::int64_t start = r + a.pad - k * a.dilation;
            if (start >= 0 && start % a.step == 0 && start / a.step < a.out) meets.push_back({start / a.step, k});
        }
        begin.push_back(static_cast<std::int64_t>(meets.size()));
    }
}

// Sizes of an op whose image has the spec x and whose windows have the spec y.
Pooling pooling(const std::vector<std::int64_t>& x, const std::vector<std::int64_t>& y, bool last, py::dict constants,
                std::size_t element) {
    const auto pair = [&](const char* name, std::int64_t k) {
        return constants[name].cast<py::tuple>()[k].cast<std::int64_t>();
    };
    const auto n = x.size();
    Pooling p;
    p.images = n == 4 ? x[0] : 1, p.channels = x[n - 3], p.planes = p.images * p.channels;
    p.last = last;
    Along rows{x[n - 2], y[n - 2], pair("kernel", 0), pair("stride", 0), pair("padding", 0), 1};
    Along columns{x[n - 1], y[n - 1], pair("kernel", 1), pair("stride", 1), pair("padding", 1), 1};
    if (constants.contains("dilation")) rows.dilation = pair("dilation", 0), columns.dilation = pair("dilation", 1);
    p.h = rows.size, p.out_h = rows.out, p.kernel_h = rows.kernel, p.step_h = rows.step, p.pad_h = rows.pad;
    p.w = columns.size, p.out_w = columns.out, p.kernel_w = columns.kernel, p.step_w = columns.step;
    p.pad_w = columns.pad, p.dilation_h = rows.dilation, p.dilation_w = columns.dilation;

    const bool include = constants.contains("include") && constants["include"].cast<bool>();
    taps(rows, include, p.first_row, p.last_row, p.row_count);
    taps(columns, include, p.first_column, p.last_column, p.column_count);
    if (constants.contains("divisor") && !constants["divisor"].is_none()) {
        std::fill(p.row_count.begin(), p.row_count.end(), constants["divisor"].cast<double>());
        std::fill(p.column_count.begin(), p.column_count.end(), 1.0);
    }
    p.first_column.resize(p.out_w + widest, 0);
    p.column_count.resize(p.out_w + widest, 1.0);
    meetings(rows, p.row_begin, p.row_meets);
    meetings(columns, p.column_begin, p.column_meets);
    for (std::int64_t i = 0; i < p.kernel_h; ++i)
        for (std::int64_t j = 0; j < p.kernel_w; ++j) {
            p.place_row.push_back(i * p.dilation_h);
            p.place_column.push_back(j * p.dilation_w);
            p.place_pixel.push_back(i * p.dilation_h * p.w + j * p.dilation_w);
        }
    p.blocks = p.images < 8 ? (p.channels + 63) / 64 : 1;

    const std::int64_t s = p.step_w, reach = p.dilation_w * (p.kernel_w - 1) / s;
    p.phase = std::max(p.out_w + reach, (p.pad_w + p.w) / s) + 2 * widest;
    p.dealt = s * p.phase;
    for (std::int64_t k = 0; k < p.kernel_w; ++k)
        p.tap.push_back(k * p.dilation_w % s * p.phase + k * p.dilation_w / s);
    const std::int64_t some = (1 << 17) / static_cast<std::int64_t>(p.dealt * element);  // what stays in the cache
    p.block = std::max<std::int64_t>(1, (some - p.dilation_h * (p.kernel_h - 1)) / p.step_h);
    return p;
}

template <class T>
T* dealt_rows(const Pooling& p) {
    struct Dealt;
    return tl::scratch<Dealt, T>(((p.block - 1) * p.step_h + p.dilation_h * (p.kernel_h - 1) + 1) * p.dealt);
}

// Calls f(first, last) for tasks of rows (or other parts) of about equal work.
template <class F>
void in_tasks(const Pooling& p, std::int64_t rows, F f) {
    const std::int64_t pixels = p.planes * p.h * p.w;
    if (rows == 0) return;
    const std::int64_t tasks = std::max<std::int64_t>(1, std::min(pixels / task, rows));
    const std::int64_t each = (rows + tasks - 1) / tasks;
    tl::Unlock unlock(pixels);
    tl::Pool::get().run(static_cast<int>((rows + each - 1) / each),
                        [&](int k) { f(k * each, std::min(rows, (k + 1) * each)); });
}

bool channels_last(py::tuple specs, py::tuple outs) {
    for (const py::tuple& some : {specs, outs})
        for (py::handle spec : some)
            if (spec.attr("format").cast<std::string>() == "channels_last") return true;
    return false;
}

// Calls make(T(), pooling) with the element type of x.
template <class Make>
py::object typed(py::tuple specs, py::tuple outs, py::dict constants, py::handle image, py::handle windows, Make make) {
    const bool wide = tl::is_double(specs[0]);
    const Pooling p = pooling(tl::shape(image), tl::shape(windows), channels_last(specs, outs), constants, wide ? 8 : 4);
    return wide ? make(double(), p) : make(float(), p);
}

// Calls make(T(), P(), pooling): with that of places, too.
template <class Make>
py::object typed(py::tuple specs, py::tuple outs, py::dict constants, py::handle image, py::handle windows,
                 py::handle places, Make make) {
    const bool bytes = places.attr("dtype").attr("itemsize").cast<int>() == 1;
    return typed(specs, outs, constants, image, windows, [&](auto t, const Pooling& p) {
        return bytes ? make(t, std::uint8_t(), p) : make(t, std::int32_t(), p);
    });
}

// The largest of each window and its place; with `relu` of the pixels that have passed one.
template <bool relu>
py::object max_pool2d(py::tuple specs, py::tuple outs, py::dict constants) {
    return typed(specs, outs, constants, specs[0], outs[0], outs[1], [](auto t, auto place, const Pooling& p) {
        using T = decltype(t);
        using P = decltype(place);
        return tl::bind(3, [p](PyObject* const* a) {
            const T* x = data<T>(a[0]);
            T* y = data<T>(a[1]);
            P* at = data<P>(a[2]);
            in_tasks(p, p.rows(), [&](std::int64_t first, std::int64_t last) {
                if (p.last)
                    TL_PICK(max_last<T, P, relu>)(p, x, y, at, first, last);
                else if (sizeof(P) > 1 || !p.halves())  // halves have places of one byte
                    TL_PICK(max_any<T, P, relu>)(p, x, y, at, first, last, dealt_rows<T>(p));
                else
                    TL_PICK(max_2x2<T, std::uint8_t, relu>)
                    (p, x, y, reinterpret_cast<std::uint8_t*>(at), first, last);
            });
        });
    });
}

// The gradient: dy, place, dx. With `relu`, of both: dy, y, place, dx.
template <bool relu>
py::object pool_put(py::tuple specs, py::tuple outs, py::dict constants) {
    const py::handle places = specs[relu ? 2 : 1];
    return typed(specs, outs, constants, outs[0], specs[0], places, [](auto t, auto place, const Pooling& p) {
        using T = decltype(t);
        using P = decltype(place);
        return tl::bind(relu ? 4 : 3, [p](PyObject* const* a) {
            const T* dy = data<T>(a[0]);
            const T* y = relu ? data<T>(a[1]) : nullptr;
            const P* at = data<P>(a[relu ? 2 : 1]);
            T* dx = data<T>(a[relu ? 3 : 2]);
            const bool rows = p.last ? p.apart() : sizeof(P) == 1 && p.halves();  // halves have places of one byte
            const std::int64_t tasks = rows ? p.rows() : p.last ? p.images * p.blocks : p.planes;
            in_tasks(p, tasks, [&](std::int64_t first, std::int64_t last) {
                if (p.last && rows)
                    TL_PICK(put_apart_last<T, P>)(p, dy, y, at, dx, first, last);
                else if (p.last)
                    TL_PICK(put_any_last<T, P>)(p, dy, y, at, dx, first, last);
                else if (rows)
                    TL_PICK(put_2x2<T, std::uint8_t>)
                    (p, dy, y, reinterpret_cast<const std::uint8_t*>(at), dx, first, last);
                else
                    TL_PICK(put_any<T, P>)(p, dy, y, at, dx, first, last);
            });
        });
    });
}

// The gradient of the gradient: no speed is wanted here, so that one loop does for both layouts.
template <class T, class P>
void take(const Pooling& p, const T* x, const P* place, T* y, std::int64_t first, std::int64_t last) {
    const std::int64_t depth = p.last ? p.channels : 1;
    for (std::int64_t row = first; row < last; ++row)
        for (std::int64_t at = row * p.out_w * depth; at < (row + 1) * p.out_w * depth; ++at) {
            const std::int64_t k = place[at], o = row % p.out_h, j = at / depth % p.out_w;
            y[at] = 0;
            if (k < 0 || k >= p.kernel_h * p.kernel_w) continue;
            const std::int64_t r = o * p.step_h - p.pad_h + p.place_row[k];
            const std::int64_t c = j * p.step_w - p.pad_w + p.place_column[k];
            if (r < 0 || r >= p.h || c < 0 || c >= p.w) continue;
            y[at] = x[((row / p.out_h * p.h + r) * p.w + c) * depth + at % depth];
        }
}

py::object pool_take(py::tuple specs, py::tuple outs, py::dict constants) {
    return typed(specs, outs, constants, specs[0], outs[0], specs[1], [](auto t, auto place, const Pooling& p) {
        using T = decltype(t);
        using P = decltype(place);
        return tl::bind(3, [p](PyObject* const* a) {
            in_tasks(p, p.rows(), [&](std::int64_t first, std::int64_t last) {
                take<T, P>(p, data<T>(a[0]), data<P>(a[1]), data<T>(a[2]), first, last);
            });
        });
    });
}

py::object avg_pool2d(py::tuple specs, py::tuple outs, py::dict constants) {
    return typed(specs, outs, constants, specs[0], outs[0], [](auto t, const Pooling& p) {
        using T = decltype(t);
        return tl::bind(2, [p](PyObject* const* a) {
            const T* x = data<T>(a[0]);
            T* y = data<T>(a[1]);
            in_tasks(p, p.rows(), [&](std::int64_t first, std::int64_t last) {
                if (p.last)
                    TL_PICK(mean_last<T>)(p, x, y, first, last);
                else if (p.halves())
                    TL_PICK(mean_2x2<T>)(p, x, y, first, last);
                else
                    TL_PICK(mean_any<T>)(p, x, y, first, last, dealt_rows<T>(p));
            });
        });
    });
}

py::object avg_pool2d_dx(py::tuple specs, py::tuple outs, py::dict constants) {
    return typed(specs, outs, constants, outs[0], specs[0], [](auto t, const Pooling& p) {
        using T = decltype(t);
        return tl::bind(2, [p](PyObject* const* a) {
            const T* dy = data<T>(a[0]);
            T* dx = data<T>(a[1]);
            const bool apart = p.last ? p.apart() : p.halves();
            in_tasks(p, apart ? p.rows() : p.pixel_rows(), [&](std::int64_t first, std::int64_t last) {
                struct Sums;
                if (p.last && apart)
                    TL_PICK(mean_dx_apart_last<T>)(p, dy, dx, first, last);
                else if (p.last)
                    TL_PICK(mean_dx_last<T>)
                    (p, dy, dx, first, last, tl::scratch<Sums, T>(p.out_w * p.channels + widest));
                else if (apart)
                    TL_PICK(mean_dx_2x2<T>)(p, dy, dx, first, last);
                else
                    TL_PICK(mean_dx_any<T>)(p, dy, dx, first, last, tl::scratch<Sums, T>(2 * p.out_w));
            });
        });
    });
}

const tl::Registrar kernels[] = {
    {"max_pool2d", max_pool2d<false>}, {"relu_pool", max_pool2d<true>},  {"pool_put", pool_put<false>},
    {"relu_pool_dx", pool_put<true>},  {"pool_take", pool_take},         {"avg_pool2d", avg_pool2d},
    {"avg_pool2d_dx", avg_pool2d_dx},
};

}  // namespace
