// Matrix products for every kernel that needs one (gemm.cpp); not a file of ops.
//
//     c[i, j] = act(sum_k a(i, k) b(k, j) + (add ? c[i, j] : 0) + bias[j] + residual[i, j])
//
// a and b lie anywhere with any steps, so that transposes cost nothing here; c's rows are runs. Tasks are cut by shape
// alone: the same bits for every number of threads, and inside another kernel's task it runs on that thread alone.
#pragma once

#include <cstdint>

#include "act.h"

namespace tl {

// Element (i, j) is data[i * row + j * col].
template <class T>
struct Matrix {
    const T* data;
    std::int64_t row, col;
};

// What is done to a block of c while it is in the cache.
template <class T>
struct Epilogue {
    const T* bias = nullptr;      // one for each column
    const T* residual = nullptr;  // rows of c's length
    std::int64_t residual_row = 0;
    Act act = Act::none;
    T* pre = nullptr;  // where what the act is done to is kept (not of relu); rows as far apart as c's
    bool add = false;  // to what is in c
};

template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b, T* c, std::int64_t c_row,
          const Epilogue<T>& after = {});

}  // namespace tl
