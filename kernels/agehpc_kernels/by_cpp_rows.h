// Sweeps of rows: a thread takes blocks of rows and columns, of which it keeps sums by column.
#pragma once

#include <ATen/Parallel.h>

#include "by_cpp_layout.h"

namespace agehpc {

constexpr int64_t SLOTS = 3 * COLUMNS;  // the last block of a row is below twice as wide
constexpr int64_t STREAMS = 4;           // rows read side by side
constexpr int64_t NARROW = 64;

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
  std::fill_n(a, right - left + LANES<A>, A(0));
  std::fill_n(b, right - left + LANES<A>, A(0));
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
        for (int64_t i = 0; i < right - left + L; ++i) pivots[i] += sums[i] / A(number);
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
    const auto view = table.view();
    const F g = f;
    for (int64_t row = top; row < bottom; row += TILE_ROWS) {
      const int64_t end = std::min(row + TILE_ROWS, bottom);
      sum_rows<A>(row, end, left, right, a, b, [=](int64_t column, int64_t) {
        return [=, values = view.at(column)](int64_t r) -> Pair<A> {
          return g(r * Q + column, values);
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
  each_block(l, [&, Q = l.width](int64_t, int64_t top, int64_t bottom, int64_t left, int64_t right) {
    const auto view = table.view();
    const F g = f;
    // Narrow rows share what they are worked with; of wider ones, memory
    // is read and written in one run.
    const int64_t together = Q <= NARROW ? STREAMS : 1;
    for (int64_t row = top; row < bottom; row += together) {
      const int64_t end = std::min(row + together, bottom);
      each_vector<A>(left, right, [=](int64_t column, int64_t, int64_t) {
        const auto values = view.at(column);
        for (int64_t r = row; r < end; ++r) g(r * Q + column, values);
      });
    }
  });
}

}  // namespace agehpc
