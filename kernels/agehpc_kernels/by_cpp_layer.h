// The fused operation in training with its derivative: forward, running statistics and autograd's
// node without a line of Python, which costs a small layer more than the arithmetic.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include "by_cpp_functions.h"

namespace agehpc {

inline std::optional<Tensor> some(const Tensor& t) {
  return t.defined() ? std::optional<Tensor>(t) : std::nullopt;
}

// Moves what is float32 or float64 towards the statistics of a batch, by `momentum`.
inline void move(const Tensor& running, double momentum, const Tensor& moments_3C, bool variance) {
  const auto found = moments_3C.accessor<double, 2>();
  AT_DISPATCH_FLOATING_TYPES(running.scalar_type(), "agehpc_cpp", [&] {
    auto to = running.accessor<scalar_t, 1>();
    for (int64_t c = 0; c < to.size(0); ++c) {
      const double unbiased = found[2][c] / std::max(found[0][c] - 1, 1.0);
      to[c] += scalar_t(momentum * ((variance ? unbiased : found[1][c]) - double(to[c])));
    }
  });
  running.unsafeGetTensorImpl()->bump_version();
}

// derivatives.differentiable_backward, which is written in Python.
inline std::tuple<Tensor, Tensor> differentiable_backward(const Tensor& dy, const Tensor& dstats_3C,
                                                          const Tensor& kept,
                                                          const Tensor& stats_3C, Optional weight,
                                                          Optional bias, double slope, Kind kind) {
  using Run = std::tuple<Tensor, Tensor>(const Tensor&, Optional, const Tensor&, const Tensor&,
                                         Optional, Optional, double, c10::string_view,
                                         c10::string_view);
  static const auto run = c10::Dispatcher::singleton()
                              .findSchemaOrThrow("agehpc_kernels::differentiable_backward", "")
                              .typed<Run>();
  return run.call(dy, some(dstats_3C), kept, stats_3C, weight, bias, slope,
                  kind.first ? "activation_first" : "norm_first", kind.output ? "output" : "input");
}

// A row of the sums as the gradient of a parameter. Written out: torch's own way of an indexing and
// a cast shows in the time of a small layer.
inline Tensor row(const Tensor& sums_2C, int64_t index, const Tensor& parameter) {
  if (sums_2C.requires_grad() || !sums_2C.has_storage())
    return sums_2C[index].to(parameter.scalar_type());
  const int64_t C = sums_2C.size(1);
  const Tensor out = at::empty({C}, parameter.options());
  const double* from = sums_2C.const_data_ptr<double>() + index * C;
  dispatch(out, false, [&]<class T, bool FIRST>() {
    std::transform(from, from + C, out.mutable_data_ptr<T>(), [](double v) { return T(Wide<T>(v)); });
  });
  return out;
}

// As derivatives.Forward: the statistics are an output, so that what a penalty sends to them comes
// back to x.
class Layer : public torch::autograd::Function<Layer> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const Tensor& x, Optional weight, Optional bias,
                                                Optional running_mean, Optional running_var,
                                                double momentum, double eps, double slope,
                                                bool first, bool output) {
    auto [y, moments_3C, stats_3C] = agehpc::forward(x, weight, bias, eps, slope, first);
    if (running_mean) move(*running_mean, momentum, moments_3C, false);
    if (running_var) move(*running_var, momentum, moments_3C, true);
    // The parameters themselves: ZeRO-3 frees and gathers their memory in between.
    ctx->save_for_backward({output ? y : x, stats_3C, weight.value_or(Tensor()),
                            bias.value_or(Tensor())});
    ctx->saved_data["slope"] = slope;
    ctx->saved_data["first"] = first;
    ctx->saved_data["output"] = output;
    ctx->set_materialize_grads(false);
    return {y, stats_3C};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &kept = saved[0], &stats_3C = saved[1];
    const auto weight = some(saved[2]), bias = some(saved[3]);
    const double slope = ctx->saved_data["slope"].toDouble();
    const Kind kind{ctx->saved_data["first"].toBool(), ctx->saved_data["output"].toBool()};
    const Tensor dy = grads[0].defined() ? grads[0] : at::zeros_like(kept);
    Tensor dx, sums_2C;
    // Without storage: many gradients at once, under vmap, which the operators take apart.
    if (at::GradMode::is_enabled() || grads[1].defined() || !dy.has_storage()) {
      std::tie(dx, sums_2C) =
          differentiable_backward(dy, grads[1], kept, stats_3C, weight, bias, slope, kind);
    } else if (ctx->needs_input_grad(0)) {
      std::tie(dx, sums_2C) =
          gradients<Want::both>(dy, kept, stats_3C, weight, bias, slope, kind);
    } else {
      std::tie(dx, sums_2C) =
          gradients<Want::sums>(dy, kept, stats_3C, weight, bias, slope, kind);
    }
    torch::autograd::variable_list found(10);
    found[0] = dx;
    if (weight && weight->requires_grad()) found[1] = row(sums_2C, 1, *weight);
    if (bias && bias->requires_grad()) found[2] = row(sums_2C, 0, *bias);
    return found;
  }
};

// Returns y. Running statistics are float32 or float64, moved in place.
inline Tensor layer(const Tensor& x, Optional weight, Optional bias, Optional running_mean,
                    Optional running_var, double momentum, double eps, double slope, bool first,
                    bool output) {
  return Layer::apply(x, weight, bias, running_mean, running_var, momentum, eps, slope, first,
                      output)[0];
}

}  // namespace agehpc
