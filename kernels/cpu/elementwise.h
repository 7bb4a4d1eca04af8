// Element-wise ops as loops over runs of elements: what elementwise.cpp has for kernels that chain them (fused.cpp).
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace tl {

// An op's constants: a slope, bounds, the choice of a formula.
struct Constants {
    double a = 0, b = 0;
};

// Rows of a binary op; elements that an operand moves on from one row to the next.
template <class T>
struct Rows {
    std::int64_t rows, n;
    const T *x, *w;
    T* y;
    std::int64_t x_row, w_row, y_row;
    bool x_one, w_one;
};

template <class T>
using Run1 = void (*)(std::int64_t, const T*, T*, const Constants&);
template <class T>
using Run2 = void (*)(const Rows<T>&, const Constants&);

// An op of one or two runs of elements, and of up to two numbers behind them that become its constants when it is
// called. The functions give the loop for the instruction set in use.
struct Body {
    int vectors, scalars;
    Constants constants;
    Run1<float> (*one4)();
    Run1<double> (*one8)();
    Run2<float> (*two4)();
    Run2<double> (*two8)();

    Run1<float> one(float) const { return one4(); }
    Run1<double> one(double) const { return one8(); }
    Run2<float> two(float) const { return two4(); }
    Run2<double> two(double) const { return two8(); }
};

// The body of an op with these constants.
Body body_of(const std::string& name, pybind11::dict constants);

}  // namespace tl
