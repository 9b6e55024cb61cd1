// The fused operation on the CPU: the seven functions of by_aten.py.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <array>
#include <cmath>
#include <optional>
#include <tuple>

#include "by_cpp_planes.h"
#include "by_cpp_rows.h"

namespace agehpc {

using at::Tensor;
using Optional = const std::optional<Tensor>&;

// Calls f<T, FIRST>().
template <class F>
void dispatch(const Tensor& x, bool first, F f) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "agehpc_cpp", [&] {
    first ? f.template operator()<scalar_t, true>() : f.template operator()<scalar_t, false>();
  });
}

// Calls f<T, FIRST, OUTPUT>().
template <class F>
void dispatch(const Tensor& x, Kind kind, F f) {
  dispatch(x, kind.first, [&]<class T, bool FIRST>() {
    kind.output ? f.template operator()<T, FIRST, true>() : f.template operator()<T, FIRST, false>();
  });
}

at::ScalarType wide(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor dense(const Tensor& x) { return x.contiguous(x.suggest_memory_format()); }

Tensor doubles(int64_t rows, const Layout& l, const Tensor& x) {
  return at::empty({rows, l.C}, x.options().dtype(at::kDouble));
}

// The values of channels. `means`, sums of gradients and what divides them, is null for zeros.
template <class A>
class Channels {
 public:
  Channels(const Tensor& stats_3C, Optional weight_C, Optional bias_C)
      : kept_{as(stats_3C), as(weight_C), as(bias_C)}, C_(stats_3C.size(1)) {
    stats_ = kept_[0].template const_data_ptr<A>();
    if (kept_[1].defined()) weight_ = kept_[1].template const_data_ptr<A>();
    if (kept_[2].defined()) bias_ = kept_[2].template const_data_ptr<A>();
  }
  Channels with(const double* means_2C, double divisor) const {
    Channels other = *this;
    other.means_ = means_2C;
    other.divisor_ = divisor;
    return other;
  }
  Channel<A> operator()(int64_t c) const {
    const A inverse = stats_[2 * C_ + c], w = weight_ ? weight_[c] : A(1);
    const A first = means_ ? A(means_[c] / divisor_) : A(0);
    const A second = means_ ? A(means_[C_ + c] / divisor_) : A(0);
    return {stats_[c], stats_[C_ + c], inverse, inverse * w, bias_ ? bias_[c] : A(0),
            A(1) / w, A(1) / inverse, first, second};
  }

 private:
  static Tensor as(Optional t) {
    return t ? t->to(c10::CppTypeToScalarType<A>::value).contiguous() : Tensor();
  }

  std::array<Tensor, 3> kept_;
  int64_t C_;
  const A *stats_, *weight_ = nullptr, *bias_ = nullptr;
  const double* means_ = nullptr;
  double divisor_ = 1;
};

// As form.statistics, for channels from `begin` to `end`.
template <class A>
void statistics(const double* moments_3C, int64_t C, double eps, A* stats_3C, int64_t begin,
                int64_t end) {
  const double *count = moments_3C, *mean = count + C, *squares = mean + C;
  for (int64_t c = begin; c < end; ++c) {
    stats_3C[c] = A(mean[c]);
    stats_3C[C + c] = A(mean[c] - double(A(mean[c])));
    stats_3C[2 * C + c] = A(1 / std::sqrt(squares[c] / count[c] + eps));
  }
}

// Calls f(element, channel values) for all of the tensor.
template <class A, class F>
void sweep(const Layout& l, const Channels<A>& channels, F f) {
  if (l.planes)
    each_channel(l, [&](int64_t c) { channel_sweep<A>(l, c, channels(c), f); });
  else
    row_sweep(l, Table<A>(l, channels), f);
}

// Writes the moments, and calls f(channel) after each.
template <bool FIRST, class T, class F>
void each_moments(const T* x, const Layout& l, Wide<T> slope, double* moments_3C, F f) {
  const auto finish = [&](int64_t c, const Moments& m) {
    moments_3C[c] = m.count;
    moments_3C[l.C + c] = m.mean;
    moments_3C[2 * l.C + c] = m.squares;
    f(c);
  };
  if (l.planes) {
    each_channel(l, [&](int64_t c) { finish(c, channel_moments<FIRST>(x, l, c, slope)); });
  } else {
    const Columns found = row_moments<FIRST>(x, l, slope);
    for (int64_t c = 0; c < l.C; ++c) finish(c, channel_moments(found, l, c));
  }
}

Tensor moments(const Tensor& given, double slope, bool first) {
  const Tensor x = dense(given);
  const Layout l(x);
  const Tensor out = doubles(3, l, x);
  dispatch(x, first, [&]<class T, bool FIRST>() {
    each_moments<FIRST>(x.const_data_ptr<T>(), l, Wide<T>(slope), out.mutable_data_ptr<double>(),
                        [](int64_t) {});
  });
  return out;
}

template <bool FIRST, class T>
auto output_of(const Tensor& x, const Tensor& y, double given_slope) {
  using A = Wide<T>;
  return [from = x.const_data_ptr<T>(), to = y.mutable_data_ptr<T>(), slope = A(given_slope)](
             int64_t i, const auto& c) {
    write(to + i, output<FIRST, A>(read(from + i), c, slope));
  };
}

Tensor apply(const Tensor& given, const Tensor& stats_3C, Optional weight_C, Optional bias_C,
             double slope, bool first) {
  const Tensor x = dense(given), y = at::empty_like(x);
  dispatch(x, first, [&]<class T, bool FIRST>() {
    const Channels<Wide<T>> channels(stats_3C, weight_C, bias_C);
    sweep(Layout(x), channels, output_of<FIRST, T>(x, y, slope));
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& given, Optional weight_C, Optional bias_C,
                                           double eps, double slope, bool first) {
  const Tensor x = dense(given), y = at::empty_like(x);
  const Layout l(x);
  const Tensor found = doubles(3, l, x);
  const Tensor stats = at::empty({3, l.C}, x.options().dtype(wide(x)));
  double* moments = found.mutable_data_ptr<double>();
  dispatch(x, first, [&]<class T, bool FIRST>() {
    using A = Wide<T>;
    const Channels<A> channels(stats, weight_C, bias_C);
    const auto element = output_of<FIRST, T>(x, y, slope);
    A* to = stats.mutable_data_ptr<A>();
    each_moments<FIRST>(x.const_data_ptr<T>(), l, A(slope), moments, [&](int64_t c) {
      if (!l.planes) return;
      statistics(moments, l.C, eps, to, c, c + 1);
      channel_sweep<A>(l, c, channels(c), element);  // while x is in the cache
    });
    if (l.planes) return;
    statistics(moments, l.C, eps, to, 0, l.C);
    row_sweep(l, Table<A>(l, channels), element);
  });
  return {y, found, stats};
}

// The two sweeps of backward. The first returns g and g * x_hat, and with FIXED writes dx too.
template <bool FIRST, bool OUTPUT, bool FIXED, class T>
auto gradients_of(const Tensor& dy, const Tensor& kept, const Tensor& dx, double given_slope) {
  using A = Wide<T>;
  return [from = dy.const_data_ptr<T>(), kept = kept.const_data_ptr<T>(),
          to = FIXED ? dx.mutable_data_ptr<T>() : nullptr,
          slope = A(given_slope)](int64_t i, const auto& c) -> Pair<A> {
    const Parts<A> p = parts<FIRST, OUTPUT, A>(read(from + i), read(kept + i), c, slope);
    if constexpr (FIXED) write(to + i, input_gradient<FIRST, A>(p, c, slope));
    return {p.g, p.g * p.x_hat};
  };
}

template <bool FIRST, bool OUTPUT, class T>
auto input_gradient_of(const Tensor& dy, const Tensor& kept, const Tensor& dx, double given_slope) {
  using A = Wide<T>;
  return [from = dy.const_data_ptr<T>(), kept = kept.const_data_ptr<T>(),
          to = dx.mutable_data_ptr<T>(), slope = A(given_slope)](int64_t i, const auto& c) {
    const Parts<A> p = parts<FIRST, OUTPUT, A>(read(from + i), read(kept + i), c, slope);
    write(to + i, input_gradient<FIRST, A>(p, c, slope));
  };
}

enum class Want { sums, both, fixed };

template <Want WANT>
std::tuple<Tensor, Tensor> gradients(const Tensor& given, const Tensor& given_kept,
                                     const Tensor& stats_3C, Optional weight_C, Optional bias_C,
                                     double slope, Kind kind) {
  const Tensor kept = dense(given_kept), dy = given.contiguous(kept.suggest_memory_format());
  const Tensor dx = WANT == Want::sums ? Tensor() : at::empty_like(kept);
  const Layout l(kept);
  const Tensor sums_2C = doubles(2, l, kept);
  double* sums = sums_2C.mutable_data_ptr<double>();
  const auto finish = [&](int64_t c, const Totals& t) {
    sums[c] = t.a;
    sums[l.C + c] = t.b;
  };
  dispatch(kept, kind, [&]<class T, bool FIRST, bool OUTPUT>() {
    using A = Wide<T>;
    const Channels<A> channels(stats_3C, weight_C, bias_C);
    const Channels<A> last = channels.with(sums, double(std::max<int64_t>(l.N * l.S, 1)));
    const auto element = gradients_of<FIRST, OUTPUT, WANT == Want::fixed, T>(dy, kept, dx, slope);
    if (l.planes) {
      each_channel(l, [&](int64_t c) {
        finish(c, channel_sums<A>(l, c, channels(c), element));
        if constexpr (WANT == Want::both)  // while dy and kept are in the cache
          channel_sweep<A>(l, c, last(c), input_gradient_of<FIRST, OUTPUT, T>(dy, kept, dx, slope));
      });
      return;
    }
    const Columns found = row_sums<A>(l, Table<A>(l, channels), element);
    for (int64_t c = 0; c < l.C; ++c) finish(c, channel_sums(found, l, c));
    if constexpr (WANT == Want::both)
      row_sweep(l, Table<A>(l, last), input_gradient_of<FIRST, OUTPUT, T>(dy, kept, dx, slope));
  });
  return {dx, sums_2C};
}

Tensor backward_sums(const Tensor& dy, const Tensor& kept, const Tensor& stats_3C,
                     Optional weight_C, Optional bias_C, double slope, bool first, bool output) {
  return std::get<1>(
      gradients<Want::sums>(dy, kept, stats_3C, weight_C, bias_C, slope, {first, output}));
}

std::tuple<Tensor, Tensor> backward(const Tensor& dy, const Tensor& kept, const Tensor& stats_3C,
                                    Optional weight_C, Optional bias_C, double slope, bool first,
                                    bool output) {
  return gradients<Want::both>(dy, kept, stats_3C, weight_C, bias_C, slope, {first, output});
}

std::tuple<Tensor, Tensor> backward_fixed(const Tensor& dy, const Tensor& kept,
                                          const Tensor& stats_3C, Optional weight_C,
                                          Optional bias_C, double slope, bool first, bool output) {
  return gradients<Want::fixed>(dy, kept, stats_3C, weight_C, bias_C, slope, {first, output});
}

Tensor backward_apply(const Tensor& given, const Tensor& given_kept, const Tensor& stats_3C,
                      Optional weight_C, Optional bias_C, const Tensor& means_2C, double slope,
                      bool first, bool output) {
  const Tensor kept = dense(given_kept), dy = given.contiguous(kept.suggest_memory_format());
  const Tensor dx = at::empty_like(kept), means = means_2C.to(at::kDouble).contiguous();
  dispatch(kept, Kind{first, output}, [&]<class T, bool FIRST, bool OUTPUT>() {
    const Channels<Wide<T>> channels(stats_3C, weight_C, bias_C);
    sweep(Layout(kept), channels.with(means.const_data_ptr<double>(), 1),
          input_gradient_of<FIRST, OUTPUT, T>(dy, kept, dx, slope));
  });
  return dx;
}

}  // namespace agehpc
