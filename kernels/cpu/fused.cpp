// Chains of element-wise ops in one pass over memory: the steps run one after the other on a block of elements that
// stays in the first cache, with the loops of elementwise.cpp, so that the bits are those of the ops by themselves.
//
// Inputs are runs of as many elements as the results, or are spread over them: element i is then number
// i / repeat % period of the input's. A result may be written over an input that no later step reads.
#include <array>
#include <cstring>
#include <limits>

#include "elementwise.h"
#include "spread.h"
#include "tl.h"

namespace {

using tl::data;
namespace py = pybind11;

constexpr std::int64_t grain = 1 << 14;    // elements that are worth a thread
constexpr std::int64_t longest = 2048;     // elements of a block
constexpr std::int64_t room = 24 << 10;    // bytes of the first cache for what lies between steps
constexpr int most = 64;                   // inputs and steps together; the op's Python side lets no more in

// How an input's elements become those of the results.
struct Spread {
    std::int64_t period = 0, repeat = 1;  // period 0: one each
    bool one() const { return period == 1; }
};

// A step: which values it reads, numbered from the inputs on through the steps.
struct Step {
    tl::Body body;
    int x = -1, w = -1, a = -1, b = -1;  // runs, and the numbers that are constants
};

// Where a value lies while a block is worked on.
struct Place {
    enum Kind { unused, full, number, phase, copied, once, slot } kind = unused;
    int at = 0;  // of a result: which array; else which piece of scratch memory
};

struct Program {
    std::int64_t n = 0, block = longest;
    int inputs = 0, results = 0, slots = 0;
    std::vector<Spread> spread;
    std::vector<Step> steps;
    std::vector<Place> places;  // of all values
};

// The elements of a block: as many as leave what lies between steps in the first cache, and such that spread inputs
// are the same in every block, or one run of their memory, where sizes allow it.
std::int64_t block_of(const Program& p, std::int64_t size) {
    const std::int64_t fit = room / (size * std::max(p.slots, 1)) / 64 * 64;
    const std::int64_t limit = std::max<std::int64_t>(256, std::min(longest, fit));
    for (const Spread& s : p.spread) {
        if (s.period < 2) continue;
        const std::int64_t cycle = s.period * s.repeat, run = s.repeat > 1 ? s.repeat : s.period;
        if (cycle <= limit) return limit / cycle * cycle;
        for (std::int64_t cuts = (run + limit - 1) / limit; run >= 256 && cuts <= 16; ++cuts)
            if (run % cuts == 0) return run / cuts;
    }
    return limit;
}

// Where every value lies. Scratch memory is used again once its value was read for the last time.
void place(Program& p, const std::vector<int>& results, std::int64_t size) {
    const int values = p.inputs + static_cast<int>(p.steps.size());
    std::vector<int> last(static_cast<std::size_t>(values), -1);
    p.places.resize(static_cast<std::size_t>(values));
    for (std::size_t k = 0; k < p.steps.size(); ++k)
        for (int v : {p.steps[k].x, p.steps[k].w})
            if (v >= 0) last[static_cast<std::size_t>(v)] = static_cast<int>(k);
    for (std::size_t r = 0; r < results.size(); ++r)
        p.places[static_cast<std::size_t>(results[r])] = {Place::full, p.inputs + static_cast<int>(r)};
    // spread inputs: a number where the op takes one, else a run of elements that are written out
    for (int v = 0; v < p.inputs; ++v) {
        Place& to = p.places[static_cast<std::size_t>(v)];
        to = {Place::full, v};
        if (!p.spread[static_cast<std::size_t>(v)].period) continue;
        bool run = false;
        for (const Step& s : p.steps)
            run |= (s.x == v && (s.w < 0 || (s.w >= 0 && s.w < p.inputs && s.w != v &&
                                             p.spread[static_cast<std::size_t>(s.w)].one()))) ||
                   (s.x == v && s.w == v);
        to.kind = run || !p.spread[static_cast<std::size_t>(v)].one() ? Place::copied : Place::number;
        if (to.kind == Place::copied) to.at = p.slots++;
    }
    std::vector<int> free;
    for (std::size_t k = 0; k < p.steps.size(); ++k) {
        const std::size_t v = static_cast<std::size_t>(p.inputs) + k;
        Place& to = p.places[v];
        if (to.kind != Place::full) {
            if (free.empty()) free.push_back(p.slots++);
            to = {Place::slot, free.back()};
            free.pop_back();
            if (last[v] < 0) free.push_back(to.at);
        }
        for (int u : {p.steps[k].x, p.steps[k].w})
            if (u >= p.inputs && last[static_cast<std::size_t>(u)] == static_cast<int>(k) &&
                p.places[static_cast<std::size_t>(u)].kind == Place::slot) {
                free.push_back(p.places[static_cast<std::size_t>(u)].at);
                last[static_cast<std::size_t>(u)] = -1;  // once, though it be both operands
            }
    }
    p.block = std::min(std::max<std::int64_t>(p.n, 1), block_of(p, size));
    for (int v = 0; v < p.inputs; ++v) {
        Place& at = p.places[static_cast<std::size_t>(v)];
        const Spread s = p.spread[static_cast<std::size_t>(v)];
        if (at.kind != Place::copied) continue;
        if (p.block % (s.period * s.repeat) == 0) at.kind = Place::once;
        else if (s.repeat == 1 && s.period % p.block == 0) at.kind = Place::phase;
    }
}

// y[k] = the element for at + k of a spread input.
template <class T>
void write_out(const Spread& s, const T* x, std::int64_t at, std::int64_t count, T* y) {
    while (count > 0) {
        const std::int64_t from = at / s.repeat % s.period;
        const std::int64_t left = s.repeat == 1 ? s.period - from : s.repeat - at % s.repeat;
        const std::int64_t many = std::min(count, left);
        if (s.repeat == 1)
            std::memcpy(y, x + from, static_cast<std::size_t>(many) * sizeof(T));
        else
            std::fill(y, y + many, x[from]);
        y += many, at += many, count -= many;
    }
}

// A step as it is called: its loop and its constants.
template <class T>
struct Call {
    tl::Run1<T> one = nullptr;
    tl::Run2<T> two = nullptr;
    tl::Constants c;
};

// All steps for the elements [from, to).
template <class T>
void run(const Program& p, const Call<T>* calls, T* const* arrays, std::int64_t from, std::int64_t to) {
    T* scratch = tl::scratch<T, 7>(p.slots * p.block);
    std::array<T*, most> at;
    const int values = static_cast<int>(p.places.size());
    for (int v = 0; v < values; ++v) {
        const Place& place = p.places[static_cast<std::size_t>(v)];
        T*& here = at[static_cast<std::size_t>(v)];
        here = scratch + place.at * p.block;
        if (place.kind == Place::number) here = arrays[place.at];
        if (place.kind == Place::once) write_out(p.spread[static_cast<std::size_t>(v)], arrays[v], from, p.block, here);
    }
    for (; from < to; from += p.block) {
        const std::int64_t count = std::min(p.block, to - from);
        for (int v = 0; v < values; ++v) {
            const Place& place = p.places[static_cast<std::size_t>(v)];
            T*& here = at[static_cast<std::size_t>(v)];
            if (place.kind == Place::full)
                here = arrays[place.at] + from;
            else if (place.kind == Place::phase)
                here = arrays[v] + from % p.spread[static_cast<std::size_t>(v)].period;
            else if (place.kind == Place::copied)
                write_out(p.spread[static_cast<std::size_t>(v)], arrays[v], from, count, here);
        }
        for (std::size_t k = 0; k < p.steps.size(); ++k) {
            const Step& s = p.steps[k];
            const T* x = at[static_cast<std::size_t>(s.x)];
            T* y = at[static_cast<std::size_t>(p.inputs) + k];
            if (s.w < 0) {
                calls[k].one(count, x, y, calls[k].c);
                continue;
            }
            const bool x_one = p.places[static_cast<std::size_t>(s.x)].kind == Place::number;
            const bool w_one = p.places[static_cast<std::size_t>(s.w)].kind == Place::number;
            calls[k].two({1, count, x, at[static_cast<std::size_t>(s.w)], y, 0, 0, 0, x_one, w_one}, calls[k].c);
        }
    }
}

template <class T>
py::object fused_of(Program p, const std::vector<int>& results) {
    place(p, results, sizeof(T));
    const int arrays = p.inputs + p.results;
    return tl::bind(arrays, [=](PyObject* const* a) {
        std::array<T*, most> given;
        for (int k = 0; k < arrays; ++k) given[static_cast<std::size_t>(k)] = data<T>(a[k]);
        std::array<Call<T>, most> calls;
        for (std::size_t k = 0; k < p.steps.size(); ++k) {
            const Step& s = p.steps[k];
            calls[k].c = s.body.constants;
            if (s.a >= 0) calls[k].c.a = static_cast<double>(*given[static_cast<std::size_t>(s.a)]);
            if (s.b >= 0) calls[k].c.b = static_cast<double>(*given[static_cast<std::size_t>(s.b)]);
            if (s.w < 0)
                calls[k].one = s.body.one(T());
            else
                calls[k].two = s.body.two(T());
        }
        tl::Unlock unlock(p.n);
        // every element is made alone, so that its bits do not depend on where the cuts lie
        const std::int64_t blocks = (p.n + p.block - 1) / p.block;
        const bool enough = p.n > grain || p.n * static_cast<std::int64_t>(p.steps.size()) > 8 * grain;
        const std::int64_t count = enough ? std::min<std::int64_t>(tl::Pool::threads().load(), blocks) : 1;
        if (count <= 1) return run<T>(p, calls.data(), given.data(), 0, p.n);
        const std::int64_t part = (blocks + count - 1) / count * p.block;
        tl::Pool::get().run(static_cast<int>((p.n + part - 1) / part), [&](int k) {
            run<T>(p, calls.data(), given.data(), k * part, std::min(p.n, (k + 1) * part));
        });
    });
}

py::object fused(py::tuple, py::tuple outs, py::dict kw) {
    Program p;
    p.n = outs[0].attr("size").cast<std::int64_t>();
    p.results = static_cast<int>(outs.size());
    for (py::handle given : kw["spread"]) {
        Spread s;
        if (!given.is_none()) {
            const auto pair = given.cast<std::pair<std::int64_t, std::int64_t>>();
            s.period = pair.first, s.repeat = pair.second;
        }
        p.spread.push_back(s);
    }
    p.inputs = static_cast<int>(p.spread.size());
    for (py::handle given : kw["steps"]) {
        const auto parts = given.cast<py::tuple>();
        const auto from = parts[2].cast<py::tuple>();
        Step s;
        s.body = tl::body_of(parts[0].cast<std::string>(), py::dict(parts[1]));
        const auto source = [&](int k) {
            return k < static_cast<int>(from.size()) && !from[static_cast<std::size_t>(k)].is_none()
                       ? from[static_cast<std::size_t>(k)].cast<int>() : -1;
        };
        s.x = source(0);
        if (s.body.vectors == 2) s.w = source(1);
        if (s.body.scalars > 0) s.a = source(s.body.vectors);
        if (s.body.scalars > 1) s.b = source(s.body.vectors + 1);
        p.steps.push_back(s);
    }
    std::vector<int> results;
    for (py::handle value : kw["results"]) results.push_back(value.cast<int>());
    return tl::is_double(outs[0]) ? fused_of<double>(p, results) : fused_of<float>(p, results);
}

const tl::Registrar kernels[] = {{"fused", fused}};

}  // namespace
