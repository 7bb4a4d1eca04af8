// Numbers of each stored type as the type that is computed in, for recurrent.cu and column_sum.cu.
#pragma once
#include "device.cuh"

TL_DEVICE float number(float x) { return x; }
TL_DEVICE double number(double x) { return x; }
TL_DEVICE float number(half_t x) { return to_float(x); }
TL_DEVICE float number(bf16_t x) { return to_float(x); }
TL_DEVICE void put(double* p, double v) { *p = v; }
template <class S>
TL_DEVICE void put(S* p, float v) {
    *p = from_float<S>(v);
}
