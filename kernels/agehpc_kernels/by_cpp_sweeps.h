// How tensors are swept. Work is cut by the data alone, never by the number of threads, and parts
// are put together in their order: results have the same bits on any number of threads.
//
// Two layouts. Planes: N samples, C channels, planes of S values; a thread takes whole channels,
// so that what it reads twice is still in its cache. Rows: N rows of Q = C * S columns, S columns
// a channel: channels_last and 2-D tensors (S = 1), and planes too small for the first (N samples).
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "by_cpp_vectors.h"

namespace agehpc {

constexpr int64_t TILE = 4096;       // values added up in A before double takes over: planes
constexpr int64_t TILE_ROWS = 64;    // the same of one column: rows
constexpr int64_t PART_ROWS = 512;   // at least; rows are cut into at most PARTS parts
constexpr int64_t PARTS = 64;
constexpr int64_t COLUMNS = 512;     // about what a row's block holds
constexpr int64_t SLOTS = 3 * COLUMNS;  // the last block of a row is below twice as wide
constexpr int64_t STREAMS = 4;       // rows read side by side
constexpr int64_t SMALL_PLANE = 32;  // planes below are swept as rows
constexpr int64_t MIN_COLUMNS = BYTES / sizeof(float);
constexpr int64_t GRAIN = 32768;     // elements worth a thread

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
  Channel<Vec<A>> at(int64_t column) const {
    const A* v = values_.get() + column;
    const auto next = [&] { return read(std::exchange(v, v + stride_)); };
    return {next(), next(), next(), next(), next(), next(), next(), next(), next()};
  }

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

// Sums of pairs, in several vectors so that additions need not wait for each other.
template <class A>
struct Sums {
  static constexpr int64_t WAYS = 4;
  Vec<A> a[WAYS] = {}, b[WAYS] = {};

  // Adds f(i) for vectors from `begin` to `end`; the last one overlaps its neighbour.
  template <class F>
  inline void add(int64_t begin, int64_t end, F f) {
    constexpr int64_t L = LANES<A>;
    int64_t i = begin;
    for (; i + WAYS * L <= end; i += WAYS * L)
#pragma GCC unroll 4
      for (int64_t way = 0; way < WAYS; ++way) {
        const Pair<A> v = f(i + way * L);
        a[way] += v.a;
        b[way] += v.b;
      }
    for (; i + L <= end; i += L) {
      const Pair<A> v = f(i);
      a[0] += v.a;
      b[0] += v.b;
    }
    if (i < end) {
      const Pair<A> v = f(end - L);
      const auto fresh = lane_numbers<A>() >= A(L - (end - i));
      a[0] += fresh ? v.a : Vec<A>{};
      b[0] += fresh ? v.b : Vec<A>{};
    }
  }
  double sum(const Vec<A> (&ways)[WAYS]) const {
    double total = 0;
    for (const Vec<A>& way : ways)
      for (int64_t l = 0; l < LANES<A>; ++l) total += way[l];
    return total;
  }
};

template <bool FIRST, class T>
Moments channel_moments(const T* x, const Layout& l, int64_t c, Wide<T> slope) {
  using A = Wide<T>;
  Moments moments;
  if (!l.N) return moments;
  const T* plane = x + c * l.S;
  A pivot = A(plane[0]);
  if (FIRST && !(pivot > 0)) pivot *= slope;
  const auto about_pivot = [&](int64_t i) -> Pair<A> {
    const Vec<A> v = input_of_norm<FIRST, A>(read(plane + i), slope) - pivot;
    return {v, v * v};
  };
  // An outlier may be the first value: the first tile is swept twice, the second time about its
  // mean. Later ones take the mean so far, so what a far pivot costs in precision stays small
  // against the squares between the tiles.
  const int64_t first = std::min(TILE, l.S);
  Sums<A> sums;
  sums.add(0, first, about_pivot);
  pivot += A(sums.sum(sums.a) / double(first));
  sums = {};
  int64_t number = 0;
  for (int64_t n = 0; n < l.N; ++n, plane += l.C * l.S)
    for (int64_t i = 0; i < l.S; i += TILE) {
      const int64_t end = std::min(i + TILE, l.S);
      sums.add(i, end, about_pivot);
      number += end - i;
      const bool last = n + 1 == l.N && end == l.S;
      if (last || number >= std::min(double(TILE), moments.count)) {
        moments.merge(double(number), pivot, sums.sum(sums.a), sums.sum(sums.b));
        pivot = A(moments.mean);
        sums = {};
        number = 0;
      }
    }
  return moments;
}

struct Totals {
  double a = 0, b = 0;
};

// Sums over one channel of what f(element, channel values) returns: planes.
template <class A, class F>
Totals channel_sums(const Layout& l, int64_t c, const Channel<A>& values, F f) {
  Totals totals;
  Sums<A> sums;
  int64_t number = 0;
  for (int64_t n = 0; n < l.N; ++n)
    for (int64_t i = 0; i < l.S; i += TILE) {
      const int64_t start = (n * l.C + c) * l.S, end = std::min(i + TILE, l.S);
      sums.add(start + i, start + end, [&](int64_t at) { return f(at, values); });
      number += end - i;
      if (number >= TILE || n + 1 == l.N) {
        totals.a += sums.sum(sums.a);
        totals.b += sums.sum(sums.b);
        sums = {};
        number = 0;
      }
    }
  return totals;
}

// Calls f(element, channel values) for the vectors of one channel: planes. Backwards, since what
// the sweep before it read last is in the cache.
template <class A, class F>
void channel_sweep(const Layout& l, int64_t c, const Channel<A>& values, F f) {
  constexpr int64_t L = LANES<A>;
  for (int64_t n = l.N - 1; n >= 0; --n) {
    const int64_t start = (n * l.C + c) * l.S, end = start + l.S;
    int64_t i = start;
    for (; i + L <= end; i += L) f(i, values);
    if (i < end) f(end - L, values);
  }
}

template <class F>
void each_channel(const Layout& l, F f) {
  const int64_t grain = std::max<int64_t>(GRAIN / std::max<int64_t>(l.N * l.S, 1), 1);
  at::parallel_for(0, l.C, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) f(c);
  });
}

// Calls f(part, first row, end, first column, end): blocks of every part of the rows.
template <class F>
void each_block(const Layout& l, F f) {
  const int64_t rows = l.part_rows, blocks = l.blocks, items = l.parts * blocks;
  const int64_t elements = std::max<int64_t>(l.N * l.width / std::max<int64_t>(items, 1), 1);
  at::parallel_for(0, items, std::max<int64_t>(GRAIN / elements, 1), [&](int64_t from, int64_t to) {
    for (int64_t item = to - 1; item >= from; --item) {
      const int64_t part = item / blocks, block = item % blocks;
      const int64_t end = block + 1 == blocks ? l.width : (block + 1) * COLUMNS;
      f(part, part * rows, std::min(l.N, (part + 1) * rows), block * COLUMNS, end);
    }
  });
}

// Calls f(column, slot, first new lane) for vectors that cover the columns; the last overlaps.
template <class A, class F>
inline void each_vector(int64_t begin, int64_t end, F f) {
  constexpr int64_t L = LANES<A>;
  int64_t c = begin;
  for (; c + L <= end; c += L) f(c, c - begin, 0);
  if (c < end) f(end - L, c - begin, L - (end - c));
}

// Sums over `top` to `bottom` of the pairs f(row, column, slot) returns, by slots. A few rows at
// a time, so that memory is read in long runs and sums stay in registers for a while.
template <class A, class F>
inline void sum_rows(int64_t top, int64_t bottom, int64_t left, int64_t right, A* a, A* b, F f) {
  std::fill_n(a, SLOTS, A(0));
  std::fill_n(b, SLOTS, A(0));
  for (int64_t row = top; row < bottom; row += STREAMS) {
    const int64_t end = std::min(row + STREAMS, bottom);
    each_vector<A>(left, right, [&](int64_t column, int64_t slot, int64_t) {
      const auto pair_of = f(column, slot);
      Vec<A> sum_a = read(a + slot), sum_b = read(b + slot);
      for (int64_t r = row; r < end; ++r) {
        const Pair<A> v = pair_of(r);
        sum_a += v.a;
        sum_b += v.b;
      }
      write(a + slot, sum_a);
      write(b + slot, sum_b);
    });
  }
}

// Two numbers of every column of every part of the rows.
struct Columns {
  std::vector<double> a, b;  // [parts, Q]: means and squares, or sums
  explicit Columns(const Layout& l) : a(l.parts * l.width), b(a.size()) {}
};

// The mean and sum of squared deviations of every column of every part.
template <bool FIRST, class T>
Columns row_moments(const T* x, const Layout& l, Wide<T> slope) {
  using A = Wide<T>;
  constexpr int64_t L = LANES<A>;
  const int64_t Q = l.width;
  Columns found(l);
  each_block(l, [&](int64_t part, int64_t top, int64_t bottom, int64_t left, int64_t right) {
    A pivots[SLOTS] = {}, sums[SLOTS], squared[SLOTS];
    for (int64_t row = top; row < bottom; row += TILE_ROWS) {
      const int64_t end = std::min(row + TILE_ROWS, bottom);
      const double number = double(end - row), count = double(row - top), each = 1 / number;
      const double share = number / (count + number), between = count * share;
      const auto value = [&](int64_t r, int64_t column) {
        return input_of_norm<FIRST, A>(read(x + r * Q + column), slope);
      };
      const auto about_pivot = [&](int64_t column, int64_t slot) {
        return [=, pivot = read(pivots + slot)](int64_t r) -> Pair<A> {
          const Vec<A> v = value(r, column) - pivot;
          return {v, v * v};
        };
      };
      double* mean = found.a.data() + part * Q;
      double* squares = found.b.data() + part * Q;
      if (row == top) {  // as in channel_moments
        each_vector<A>(left, right, [&](int64_t column, int64_t slot, int64_t) {
          write(pivots + slot, value(row, column));
        });
        sum_rows<A>(row, end, left, right, sums, squared, about_pivot);
        for (int64_t i = 0; i < SLOTS; ++i) pivots[i] += sums[i] / A(number);
      } else {
        each_vector<A>(left, right, [&](int64_t column, int64_t slot, int64_t) {
          for (int64_t i = 0; i < L; ++i) pivots[slot + i] = A(mean[column + i]);
        });
      }
      sum_rows<A>(row, end, left, right, sums, squared, about_pivot);
      each_vector<A>(left, right, [&](int64_t column, int64_t slot, int64_t fresh) {
        for (int64_t i = fresh; i < L; ++i) {  // as in Moments::merge
          const double sum = sums[slot + i], shift = sum * each;
          const double delta = pivots[slot + i] + shift - mean[column + i];
          squares[column + i] += squared[slot + i] - sum * shift + delta * delta * between;
          mean[column + i] += delta * share;
        }
      });
    }
  });
  return found;
}

// Moments of a channel from those of its columns in all parts.
inline Moments channel_moments(const Columns& found, const Layout& l, int64_t c) {
  Moments all;
  if (!l.N || !l.S) return all;
  double shift = 0;
  const auto each = [&](auto f) {
    for (int64_t part = 0; part < l.parts; ++part) {
      const double rows = double(std::min(l.N, (part + 1) * l.part_rows) - part * l.part_rows);
      const int64_t start = part * l.width + c * l.S;
      for (int64_t i = start; i < start + l.S; ++i) f(rows, found.a[i], found.b[i]);
    }
  };
  const double pivot = found.a[c * l.S];
  each([&](double rows, double mean, double) { shift += rows * (mean - pivot); });
  all.count = double(l.N * l.S);
  all.mean = pivot + shift / all.count;
  each([&](double rows, double mean, double squares) {
    all.squares += squares + rows * (mean - all.mean) * (mean - all.mean);
  });
  return all;
}

// Sums over each column of every part of what f(element, channel values) returns.
template <class A, class F>
Columns row_sums(const Layout& l, const Table<A>& table, F f) {
  constexpr int64_t L = LANES<A>;
  const int64_t Q = l.width;
  Columns found(l);
  each_block(l, [&](int64_t part, int64_t top, int64_t bottom, int64_t left, int64_t right) {
    A a[SLOTS], b[SLOTS];
    for (int64_t row = top; row < bottom; row += TILE_ROWS) {
      const int64_t end = std::min(row + TILE_ROWS, bottom);
      sum_rows<A>(row, end, left, right, a, b, [&](int64_t column, int64_t) {
        return [=, values = table.at(column)](int64_t r) -> Pair<A> {
          return f(r * Q + column, values);
        };
      });
      each_vector<A>(left, right, [&](int64_t column, int64_t slot, int64_t fresh) {
        for (int64_t i = fresh; i < L; ++i) {
          found.a[part * Q + column + i] += a[slot + i];
          found.b[part * Q + column + i] += b[slot + i];
        }
      });
    }
  });
  return found;
}

inline Totals channel_sums(const Columns& found, const Layout& l, int64_t c) {
  Totals totals;
  for (int64_t part = 0; part < l.parts; ++part) {
    const int64_t start = part * l.width + c * l.S;
    for (int64_t i = start; i < start + l.S; ++i) {
      totals.a += found.a[i];
      totals.b += found.b[i];
    }
  }
  return totals;
}

// Calls f(element, channel values) for every vector: rows.
template <class A, class F>
void row_sweep(const Layout& l, const Table<A>& table, F f) {
  const int64_t Q = l.width;
  each_block(l, [&](int64_t, int64_t top, int64_t bottom, int64_t left, int64_t right) {
    for (int64_t row = top; row < bottom; row += STREAMS)
      each_vector<A>(left, right, [&](int64_t column, int64_t, int64_t) {
        const auto values = table.at(column);
        for (int64_t r = row; r < std::min(row + STREAMS, bottom); ++r) f(r * Q + column, values);
      });
  });
}

}  // namespace agehpc
