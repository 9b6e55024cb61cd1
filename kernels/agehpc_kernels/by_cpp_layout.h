// How tensors are swept. Work is cut by the data alone, never by the number of threads, and parts
// are put together in their order: results have the same bits on any number of threads.
//
// Two layouts. Planes: N samples, C channels, planes of S values; a thread takes whole channels,
// so that what it reads twice is still in its cache. Rows: N rows of Q = C * S columns, S columns
// a channel: channels_last and 2-D tensors (S = 1), and planes too small for the first (N samples).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "by_cpp_vectors.h"

namespace agehpc {

constexpr int64_t TILE = 4096;       // values added up in A before double takes over: planes
constexpr int64_t TILE_ROWS = 64;    // the same of one column: rows
constexpr int64_t PART_ROWS = 256;   // at least; rows are cut into at most PARTS parts
constexpr int64_t PARTS = 64;
constexpr int64_t COLUMNS = 512;     // about what a row's block holds
constexpr int64_t SMALL_PLANE = 16;  // planes below are swept as rows
constexpr int64_t MIN_COLUMNS = BYTES / sizeof(float);
constexpr int64_t GRAIN = 16384;     // elements worth a thread

struct Layout {
  int64_t N, C, S;
  bool planes;
  int64_t width;      // channels or columns: as many as the sweeps need values of
  int64_t part_rows;  // rows of a part
  int64_t parts, blocks;

  explicit Layout(const at::Tensor& x) : N(x.size(0)), C(x.size(1)), S(1) {
    for (int64_t d = 2; d < x.dim(); ++d) S *= x.size(d);
    planes = x.is_contiguous() && S >= SMALL_PLANE;
    if (!x.is_contiguous()) {
      N *= S;
      S = 1;
    }
    width = planes ? C : C * S;
    part_rows = std::max(PART_ROWS, (N + PARTS - 1) / PARTS);
    part_rows = (part_rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    parts = width ? (N + part_rows - 1) / part_rows : 0;
    blocks = std::max<int64_t>(width / COLUMNS, 1);
    TORCH_CHECK(planes || !parts || width >= MIN_COLUMNS, "rows of ", width, " columns, fewer than ",
                MIN_COLUMNS);
  }
};

// Number of values, their mean, and the sum of squared deviations from it.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Chan et al. 1979, for values given by their sums about a pivot.
  void merge(double number, double pivot, double sum, double squared) {
    const double shift = sum / number, total = count + number;
    const double delta = pivot + shift - mean;
    squares += squared - sum * shift + delta * delta * (count * number / total);
    mean += delta * (number / total);
    count = total;
  }
};

// The values of columns, by field.
template <class A>
class Table {
 public:
  // `channel` returns the values of a channel.
  template <class F>
  Table(const Layout& l, F channel)
      : stride_(l.width + LANES<A>), values_(new A[sizeof(Channel<A>) / sizeof(A) * stride_]) {
    // Field by field, so that the compiler makes vectors of it.
    fill(l, [&](int64_t c) { return channel(c).high; });
    fill(l, [&](int64_t c) { return channel(c).low; });
    fill(l, [&](int64_t c) { return channel(c).inverse; });
    fill(l, [&](int64_t c) { return channel(c).scale; });
    fill(l, [&](int64_t c) { return channel(c).bias; });
    fill(l, [&](int64_t c) { return channel(c).unscale; });
    fill(l, [&](int64_t c) { return channel(c).deviation; });
    fill(l, [&](int64_t c) { return channel(c).first; });
    fill(l, [&](int64_t c) { return channel(c).second; });
  }
  // A copy to read from in a loop, which the compiler can tell from what the loop writes.
  struct View {
    const A* values;
    int64_t stride;
    Channel<Vec<A>> at(int64_t column) const {
      const A* v = values + column;
      const auto field = [&](int64_t f) { return read(v + f * stride); };
      return {field(0), field(1), field(2), field(3), field(4),
              field(5), field(6), field(7), field(8)};
    }
  };
  View view() const { return {values_.get(), stride_}; }

 private:
  template <class F>
  void fill(const Layout& l, F value) {
    A* __restrict__ to = values_.get() + stride_ * filled_++;
    if (l.S == 1)
      for (int64_t c = 0; c < l.C; ++c) to[c] = value(c);
    else
      for (int64_t c = 0; c < l.C; ++c) std::fill_n(to + c * l.S, l.S, value(c));
  }

  int64_t stride_;  // no power of two, which would crowd the fields into few sets of the cache
  int64_t filled_ = 0;
  std::unique_ptr<A[]> values_;
};

template <class A>
struct Pair {
  Vec<A> a, b;
};

struct Totals {
  double a = 0, b = 0;
};

}  // namespace agehpc
