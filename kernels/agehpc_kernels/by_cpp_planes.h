// Sweeps of planes: a thread takes whole channels.
#pragma once

#include <ATen/Parallel.h>

#include "by_cpp_layout.h"

namespace agehpc {

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
    // By halves: additions in a row would wait for each other, in short planes longer than the rest.
    double lanes[LANES<A>] = {};
    for (const Vec<A>& way : ways)
      for (int64_t l = 0; l < LANES<A>; ++l) lanes[l] += way[l];
#pragma GCC unroll 8
    for (int64_t half = LANES<A> / 2; half; half /= 2)
      for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
    return lanes[0];
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

}  // namespace agehpc
