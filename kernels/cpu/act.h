// The activations that kernels do in passing; act_body.h has their formulas.
#pragma once

#include <stdexcept>
#include <string>

namespace tl {

enum class Act { none, relu, gelu, gelu_tanh, tanh, sigmoid };

inline Act act_of(const std::string& name) {
    if (name == "none") return Act::none;
    if (name == "relu") return Act::relu;
    if (name == "gelu") return Act::gelu;
    if (name == "gelu_tanh") return Act::gelu_tanh;
    if (name == "tanh") return Act::tanh;
    if (name == "sigmoid") return Act::sigmoid;
    throw std::invalid_argument("got act '" + name + "'; wanted none, relu, gelu, gelu_tanh, tanh or sigmoid");
}

}  // namespace tl
