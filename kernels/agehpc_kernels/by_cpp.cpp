// The fused operation on the CPU as torch operators.
#include <torch/library.h>

#include "by_cpp_functions.h"
#include "by_cpp_layer.h"

namespace agehpc {

TORCH_LIBRARY(agehpc_cpp, m) {
  m.def("moments", &moments);
  m.def("apply", &apply);
  m.def("forward", &forward);
  m.def("backward_sums", &backward_sums);
  m.def("backward_apply", &backward_apply);
  m.def("backward", &backward);
  m.def("backward_fixed", &backward_fixed);
  m.def(
      "layer(Tensor x, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
      "Tensor(b!)? running_var, float momentum, float eps, float slope, bool first, bool output) "
      "-> Tensor",
      &layer);
}

}  // namespace agehpc
