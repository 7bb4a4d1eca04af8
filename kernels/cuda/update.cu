// One step of an optimizer on all tensors of a group that are of one type, in one launch; and scaling of many tensors.
//
// Macros: ELEM, the type of parameters, gradients and states; RULE, a struct below; KINDS, how many arrays a tensor has
// (1 for what is scaled); SINGLES, how many single numbers (step counts last). Bound by memory: Adam in float moves 28
// bytes an element. Formulas, constants' rounding and the order of arithmetic are those of tensorlite/ops/update.py and
// adaptive.py; halves are computed in float and rounded once.
//
// `prepare` runs first where there are step counts: a thread for each tensor raises its count and works out, in double,
// the numbers that depend on it and on the learning rate, which is read here. Where *found is not 0 nothing is done.
#include "table.cuh"

using namespace tl;
typedef ELEM E;
typedef Wide<E>::C C;
constexpr int K = KINDS, WIDTH = (K > 1 ? K - 1 : 1) + SINGLES + 2;

// The constants: weight decay, then what is said at each rule.
struct Constants {
    double decay, a, b, eps, d;
    int flags;
};
enum { MAXIMIZE = 1, DECAYS = 2, DECOUPLED = 4, NESTEROV = 8, FIRST = 16, CENTERED = 32, MOMENTUM = 64, DAMPENED = 128 };

struct How {
    C decay, a, b, eps, rest_a, rest_b;  // rest: 1 - a, 1 - b
    C s0, s1, s2, shrink;                // numbers of the tensor
    int flags;
    bool rectified;
};

// The gradient as most rules want it; decoupled decay shrinks the parameter.
TL_DEVICE C slope(C (&v)[K], const How& h) {
    if constexpr (K > 1) {
        const C g = h.flags & MAXIMIZE ? -v[1] : v[1];
        if (!(h.flags & DECAYS)) return g;
        if (!(h.flags & DECOUPLED)) return g + v[0] * h.decay;
        v[0] *= h.shrink;
        return g;
    } else {
        return v[0];
    }
}
TL_DEVICE void blend(C& m, C g, C rest) { m += (g - m) * rest; }
TL_DEVICE void squares(C& v, C g, C keep, C rest) { v = v * keep + g * g * rest; }

// a: momentum, b: dampening
struct Sgd {
    TL_DEVICE void step(C (&v)[K], const How& h) {
        C d = h.flags & MAXIMIZE ? -v[1] : v[1];
        if (h.flags & DECAYS) d = v[0] * h.decay + d;
        if constexpr (K > 2) {
            v[2] = h.flags & FIRST ? d : v[2] * h.a + (h.flags & DAMPENED ? d * h.rest_b : d);
            d = h.flags & NESTEROV ? v[2] * h.a + d : v[2];
        }
        v[0] -= d * h.s0;
    }
};

struct Scale {
    TL_DEVICE void step(C (&v)[K], const How& h) { v[0] *= h.s0; }
};

// a, b: betas
struct Adam {
    TL_DEVICE void numbers(double lr, double t, float*, const Constants& c, double* s) {
        const double root = sqrt(1 - pow(c.b, t));
        s[0] = c.eps * root, s[1] = lr * root / (1 - pow(c.a, t));
    }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        blend(v[2], g, h.rest_a);
        squares(v[3], g, h.b, h.rest_b);
        C square = v[3];
        if constexpr (K > 4) square = v[4] = tl_max(v[4], v[3]);
        v[0] -= v[2] / (tl_sqrt(square) + h.s0) * h.s1;
    }
};

// a: alpha, b: momentum
struct Rmsprop {
    TL_DEVICE void numbers(double lr, double, float*, const Constants&, double* s) { s[0] = lr; }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        squares(v[2], g, h.a, h.rest_a);
        C square = v[2];
        if constexpr (K > 3) {
            if (h.flags & CENTERED) {
                blend(v[3], g, h.rest_a);
                square -= v[3] * v[3];
            }
        }
        C d = g / (tl_sqrt(square) + h.eps);
        if constexpr (K > 3) {
            if (h.flags & MOMENTUM) d = v[K - 1] = v[K - 1] * h.b + d;
        }
        v[0] -= d * h.s0;
    }
};

// a: lr_decay
struct Adagrad {
    TL_DEVICE void numbers(double lr, double t, float*, const Constants& c, double* s) { s[0] = lr / (1 + (t - 1) * c.a); }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        v[2] += g * g;
        v[0] -= g / (tl_sqrt(v[2]) + h.eps) * h.s0;
    }
};

// a: rho
struct Adadelta {
    TL_DEVICE void numbers(double lr, double, float*, const Constants&, double* s) { s[0] = lr; }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        squares(v[2], g, h.a, h.rest_a);
        const C d = tl_sqrt(v[3] + h.eps) / tl_sqrt(v[2] + h.eps) * g;
        squares(v[3], d, h.a, h.rest_a);
        v[0] -= d * h.s0;
    }
};

// a, b: betas
struct Adamax {
    TL_DEVICE void numbers(double lr, double t, float*, const Constants& c, double* s) { s[0] = lr / (1 - pow(c.a, t)); }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        blend(v[2], g, h.rest_a);
        v[3] = tl_max(v[3] * h.b, tl_abs(g) + h.eps);
        v[0] -= v[2] / v[3] * h.s0;
    }
};

// a, b: betas, d: momentum_decay
struct Nadam {
    TL_DEVICE void numbers(double lr, double t, float* product, const Constants& c, double* s) {
        const double now = c.a * (1 - 0.5 * pow(0.96, t * c.d)), ahead = c.a * (1 - 0.5 * pow(0.96, (t + 1) * c.d));
        *product *= static_cast<float>(now);
        const double all = *product;
        s[0] = 1 - pow(c.b, t), s[1] = lr * (1 - now) / (1 - all), s[2] = lr * ahead / (1 - all * ahead);
    }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        blend(v[2], g, h.rest_a);
        squares(v[3], g, h.b, h.rest_b);
        const C size = tl_sqrt(v[3] / h.s0) + h.eps;
        v[0] -= g / size * h.s1;
        v[0] -= v[2] / size * h.s2;
    }
};

// a, b: betas
struct Radam {
    TL_DEVICE void numbers(double lr, double t, float*, const Constants& c, double* s) {
        const double left = pow(c.b, t), most = 2 / (1 - c.b) - 1, seen = most - 2 * t * left / (1 - left);
        const double size = lr / (1 - pow(c.a, t));
        s[1] = seen > 5;
        s[0] = seen > 5 ? size * sqrt((seen - 4) * (seen - 2) * most / ((most - 4) * (most - 2) * seen)) * sqrt(1 - left) : size;
    }
    TL_DEVICE void step(C (&v)[K], const How& h) {
        const C g = slope(v, h);
        blend(v[2], g, h.rest_a);
        squares(v[3], g, h.b, h.rest_b);
        v[0] -= (h.rectified ? v[2] / (tl_sqrt(v[3]) + h.eps) : v[2]) * h.s0;
    }
};

typedef RULE Rule;

#if SINGLES
// A thread for each tensor: grid (count / 256). numbers: four for each.
extern "C" __global__ void __launch_bounds__(256, 2)
    prepare(const void* lr, int code, const float* found, const Word* fixed, int count, double* numbers, double decay,
            double a, double b, double eps, double d, int flags) {
    const int k = blockIdx.x * TABLE_THREADS + threadIdx.x;
    if (k >= count || (found && *found != 0)) return;
    const Constants c = {decay, a, b, eps, d, flags};
    const Word* singles = fixed + static_cast<Word>(k) * WIDTH + K - 1;
    float* steps = reinterpret_cast<float*>(singles[SINGLES - 1]);
    const double rate = number(lr, code);
    const float t = *steps + 1.0f;
    *steps = t;
    double* s = numbers + 4 * static_cast<Word>(k);
    Rule::numbers(rate, t, reinterpret_cast<float*>(singles[0]), c, s);
    s[3] = 1 - rate * decay;
}
#endif

// A block for each chunk of a tensor.
extern "C" __global__ void __launch_bounds__(256, 2)
    step(const void* lr, int code, const float* found, const Word* fixed, const Word* moving, int count, int chunk,
         const double* numbers, double decay, double a, double b, double eps, double d, int flags) {
    if (found && *found != 0) return;
    const Part<E, K> part = part_of<E, K>(fixed, moving, WIDTH, count, chunk);
    How h = {C(decay), C(a), C(b), C(eps), C(1 - a), C(1 - b), C(0), C(0), C(0), C(1), flags, false};
    if constexpr (SINGLES > 0) {
        const double* s = numbers + 4 * part.tensor;
        h.s0 = C(s[0]), h.s1 = C(s[1]), h.s2 = C(s[2]), h.shrink = C(s[3]), h.rectified = s[1] != 0;
    } else if constexpr (K > 1) {
        h.s0 = C(number(lr, code));
    } else {
        h.s0 = read<C>(Put<E>::of(number(lr, code)));  // a factor is rounded to the type of what it scales
        if (h.s0 == C(1)) return;
    }
    each<C, true>(part, [&](C (&v)[K]) { Rule::step(v, h); });
}
