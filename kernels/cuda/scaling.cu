// What a scaled loss needs on the device: gradients unscaled in place, infinities and nans found, the next scale.
//
// Macro: ELEM, the elements of the gradients of a launch. Floor: each gradient read and written once.
#include "table.cuh"

using namespace tl;
typedef ELEM E;
typedef Wide<E>::C C;

// A block for each chunk of a gradient (table.cuh); *found becomes 1 where an element is not finite.
extern "C" __global__ void __launch_bounds__(256, 4)
    unscale(const float* scale, float* found, const Word* fixed, const Word* moving, int count, int chunk) {
    const Part<E, 1> part = part_of<E, 1>(fixed, moving, 3, count, chunk);
    const C inverse = static_cast<float>(1.0 / static_cast<double>(*scale));
    bool bad = false;
    each<C, true>(part, [&](C (&v)[1]) {
        bad = bad || !(v[0] - v[0] == C(0));
        v[0] *= inverse;
    });
    if (barrier_or(bad) && threadIdx.x == 0) {  // what is not negative is ordered as its bits are
        atomic_max(reinterpret_cast<int*>(found), __float_as_int(1.0f));
    }
}

// One thread. found: `count` pointers, the rest null.
extern "C" __global__ void update_scale(float* scale, int* tracker, const float* f0, const float* f1, const float* f2,
                                        const float* f3, const float* f4, const float* f5, const float* f6,
                                        const float* f7, double growth, double backoff, int interval) {
    const auto is = [](const float* p) { return p && *p != 0; };
    const bool found = is(f0) || is(f1) || is(f2) || is(f3) || is(f4) || is(f5) || is(f6) || is(f7);
    const int steps = found ? 0 : *tracker + 1;
    const bool full = steps == interval;
    const float before = *scale, grown = before * static_cast<float>(growth);
    if (found) *scale = before * static_cast<float>(backoff);
    else if (full && grown - grown == 0) *scale = grown;
    *tracker = full ? 0 : steps;
}
