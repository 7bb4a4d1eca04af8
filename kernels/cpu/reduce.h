// How sums and extremes of columns are cut, for the op and for kernels that make such sums beside their own work:
// whoever cuts and joins as here, with reduce_body.h, gets the bits of the op.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pool.h"

namespace tl {

constexpr std::int64_t wide = 1024;        // columns that are worked on at once
constexpr std::int64_t grain = 1 << 15;    // numbers of a part
constexpr std::int64_t most_parts = 32;    // of one output

// Numbers joined in float64. A sum carries along what rounding took from it.
struct Joined {
    double value, lost = 0;
    explicit Joined(double none = 0) : value(none) {}
    // x was joined to the value, which made `now`.
    void set(double now, double x, bool sum) {
        if (sum) lost += std::fabs(value) > std::fabs(x) ? (value - now) + x : (x - now) + value;
        value = now;
    }
    double result() const { return std::isfinite(value) && std::isfinite(lost) ? value + lost : value; }
};

// Float64 numbers that parts leave for the one that joins them; kept from call to call.
template <class P>
P* kept(std::size_t n) {
    static thread_local std::vector<P> all;
    if (all.size() < n) all.resize(n);
    return all.data();
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Arrays (k0, r0, k1), joined along r0 into y (k0, k1). columns(rows, n, at, to) joins n neighbouring columns of so many
// rows, the first number of which is number `at` of the array; parts(rows, n, step, x, to) does that with what parts of
// the rows left. They are cut by their shape alone, and joined in order: the same bits for every number of threads.
template <class T, class Columns, class Parts>
void in_columns(std::int64_t k0, std::int64_t r0, std::int64_t k1, Columns columns, Parts parts_of, T* y) {
    const std::int64_t across = ceil_div(k1, wide);
    const std::int64_t per = ceil_div(r0, std::min(most_parts, ceil_div(r0 * std::min(k1, wide), grain)));
    const std::int64_t parts = ceil_div(r0, per);
    double* partial = parts > 1 ? kept<double>(static_cast<std::size_t>(k0 * parts * k1)) : nullptr;
    const auto task = [&](std::int64_t o, std::int64_t part, std::int64_t c) {
        const std::int64_t from = c * wide, n = std::min(wide, k1 - from), rows = std::min(per, r0 - part * per);
        const std::int64_t at = (o * r0 + part * per) * k1 + from;
        if (partial) return columns(rows, n, at, partial + (o * parts + part) * k1 + from);
        double made[wide];
        columns(rows, n, at, made);
        for (std::int64_t k = 0; k < n; ++k) y[o * k1 + from + k] = static_cast<T>(made[k]);
    };
    // small tasks are put together
    const std::int64_t tasks = k0 * parts * across, size = per * std::min(k1, wide);
    const std::int64_t some = std::max<std::int64_t>(1, grain / size), groups = ceil_div(tasks, some);
    const auto group = [&](int g) {
        for (std::int64_t k = g * some; k < std::min(tasks, (g + 1) * some); ++k)
            task(k / (parts * across), k / across % parts, k % across);
    };
    groups == 1 ? group(0) : Pool::get().run(static_cast<int>(groups), group);
    if (!partial) return;
    double made[wide];
    for (std::int64_t o = 0; o < k0; ++o)
        for (std::int64_t from = 0; from < k1; from += wide) {
            const std::int64_t n = std::min(wide, k1 - from);
            parts_of(parts, n, k1, partial + o * parts * k1 + from, made);
            for (std::int64_t k = 0; k < n; ++k) y[o * k1 + from + k] = static_cast<T>(made[k]);
        }
}

}  // namespace tl
