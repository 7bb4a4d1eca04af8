// The key of a random call, as tensorlite/ops/random.py hands it on: (seed, call).
#pragma once

#include <cstdint>

namespace tl {

struct Key {
    std::uint64_t seed, call;
};

}  // namespace tl
