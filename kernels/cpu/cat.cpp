// Dense arrays laid one behind the other, of any one type.
#include <cstring>

#include "pool.h"
#include "tl.h"

namespace {

namespace py = pybind11;

constexpr std::int64_t grain = 1 << 17;  // bytes of a task

// A piece of memory; those that programs have most often are a few instructions.
inline void copy(char* to, const char* from, std::int64_t bytes) {
    if (bytes == 4)
        std::memcpy(to, from, 4);
    else if (bytes == 8)
        std::memcpy(to, from, 8);
    else
        std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

// Each array is `outer` runs of so many bytes, which go one behind the other into rows of the output.
struct Runs {
    std::int64_t outer = 1, row = 0;
    std::vector<std::int64_t> bytes, at;  // of each array's run, and where it goes in a row

    void of(std::size_t k, const char* x, char* y) const {
        const std::int64_t n = bytes[k], pieces = n > grain ? (n + grain - 1) / grain : 1;
        const std::int64_t some = n > grain ? 1 : std::max<std::int64_t>(1, grain / std::max<std::int64_t>(n, 1));
        const std::int64_t tasks = pieces * ((outer + some - 1) / some);
        const auto task = [&](int t) {
            const std::int64_t from = t % pieces * n / pieces, to = (t % pieces + 1) * n / pieces;
            const std::int64_t first = t / pieces * some, end = std::min(outer, first + some);
            for (std::int64_t o = first; o < end; ++o) copy(y + o * row + at[k] + from, x + o * n + from, to - from);
        };
        tasks == 1 ? task(0) : tl::Pool::get().run(static_cast<int>(tasks), task);
    }
};

py::object cat(py::tuple specs, py::tuple outs, py::dict constants) {
    Runs runs;
    const auto dim = constants["dim"].cast<std::size_t>();
    const auto itemsize = outs[0].attr("dtype").attr("itemsize").cast<std::int64_t>();
    for (py::handle spec : specs) {
        const auto shape = tl::shape(spec);
        std::int64_t bytes = itemsize;
        for (std::size_t k = dim; k < shape.size(); ++k) bytes *= shape[k];
        runs.at.push_back(runs.row);
        runs.bytes.push_back(bytes);
        runs.row += bytes;
    }
    const auto shape = tl::shape(outs[0]);
    for (std::size_t k = 0; k < dim; ++k) runs.outer *= shape[k];
    const std::size_t count = runs.bytes.size();
    return tl::bind(static_cast<Py_ssize_t>(count) + 1, [=](PyObject* const* a) {
        char* y = tl::data<char>(a[count]);
        tl::Unlock unlock(runs.outer * runs.row / 4);
        for (std::size_t k = 0; k < count; ++k)
            if (runs.outer > 0 && runs.bytes[k] > 0) runs.of(k, tl::data<char>(a[k]), y);
    });
}

const tl::Registrar registered("cat", cat);

}  // namespace
