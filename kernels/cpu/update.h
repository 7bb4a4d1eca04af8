// What the bodies of update_body.h work on: stretches of tensors, and the constants of a rule.
#pragma once

#include <cstdint>

namespace tl {

// n elements of a parameter, its gradient and its states, and the numbers that depend on its step count.
template <class T>
struct Stretch {
    T* at[5];
    std::int64_t n;
    T s[2];
};

// The constants of a rule; which stands where is said at each.
template <class T>
struct How {
    T c[6];
    bool maximize, nesterov, first, decay, decoupled;
};

}  // namespace tl
