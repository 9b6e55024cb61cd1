// Vectors, and the arithmetic of one vector: the formulas of by_aten.py, element by element.
//
// T is the dtype of the tensors, A that of arithmetic (double for double, else float). A Vec<A>
// holds LANES<A> values. Never build this with -ffast-math: NaN must survive, and it would switch
// denormals off for the whole process.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace agehpc {

#if defined(__AVX512F__)
constexpr int64_t BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t BYTES = 32;
#else
constexpr int64_t BYTES = 16;
#endif

template <class E, int64_t SIZE = BYTES>
struct Vector {
  typedef E type __attribute__((vector_size(SIZE)));
};
template <class A>
using Vec = typename Vector<A>::type;
template <class A>
constexpr int64_t LANES = BYTES / int64_t(sizeof(A));
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <class A>
using Index = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

using Bits16 = Vector<uint16_t, BYTES / 2>::type;
using Bits32 = Vector<uint32_t>::type;

template <class T>
inline Vec<Wide<T>> read(const T* from) {
  using A = Wide<T>;
  Vec<A> v;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&v, from, sizeof v);
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    Bits16 half;
    std::memcpy(&half, from, sizeof half);
    const Bits32 bits = __builtin_convertvector(half, Bits32) << 16;
    std::memcpy(&v, &bits, sizeof v);
  } else {
#if defined(__AVX512F__)
    v = Vec<A>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    v = Vec<A>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    for (int64_t l = 0; l < LANES<A>; ++l) v[l] = static_cast<float>(from[l]);
#endif
  }
  return v;
}

template <class T>
inline void write(T* to, Vec<Wide<T>> v) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    std::memcpy(to, &v, sizeof v);
  } else if constexpr (std::is_same_v<T, c10::BFloat16>) {
    Bits32 bits;
    std::memcpy(&bits, &v, sizeof v);
    // Round to nearest, ties to even; the carry would turn some NaN into infinity.
    const Bits32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits32 nan = Bits32{} + 0x7fc0u;
    const Bits16 half = __builtin_convertvector(v == v ? rounded : nan, Bits16);
    std::memcpy(to, &half, sizeof half);
  } else {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(__m512(v), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(__m256(v), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int64_t l = 0; l < LANES<float>; ++l) to[l] = static_cast<T>(v[l]);
#endif
  }
}

template <class A>
inline Vec<A> lane_numbers() {
  Vec<A> v;
  for (int64_t l = 0; l < LANES<A>; ++l) v[l] = A(l);
  return v;
}

// torch's derivative at 0 is the slope.
template <class A>
inline Vec<A> leaky(Vec<A> v, Vec<A> sign, A slope) {
  return sign > A(0) ? v : v * slope;
}

// What one channel is worked with. P is A where a vector lies in one channel, Vec<A> where each
// lane has its own.
template <class P>
struct Channel {
  P high, low;           // the mean
  P inverse;             // 1 / deviation
  P scale, bias;         // inverse * weight, bias
  P unscale, deviation;  // 1 / weight, 1 / inverse: for save="output"
  P first, second;       // means of g and of g * x_hat
};

struct Kind {
  bool first;   // LeakyReLU comes first
  bool output;  // backward is given y
};

template <bool FIRST, class A>
inline Vec<A> input_of_norm(Vec<A> x, A slope) {
  return FIRST ? leaky<A>(x, x, slope) : x;
}

template <bool FIRST, class A, class P>
inline Vec<A> output(Vec<A> x, const Channel<P>& c, A slope) {
  const Vec<A> z = (input_of_norm<FIRST, A>(x, slope) - c.high - c.low) * c.scale + c.bias;
  return FIRST ? z : leaky<A>(z, z, slope);
}

// g, x_hat, and what the derivative of u by x is taken from.
template <class A>
struct Parts {
  Vec<A> g, x_hat, sign;
};

template <bool FIRST, bool OUTPUT, class A, class P>
inline Parts<A> parts(Vec<A> dy, Vec<A> kept, const Channel<P>& c, A slope) {
  Parts<A> p;
  if constexpr (OUTPUT) {
    const Vec<A> z = FIRST ? kept : leaky<A>(kept, kept, A(1) / slope);
    p.x_hat = (z - c.bias) * c.unscale;
    p.sign = FIRST ? p.x_hat * c.deviation + c.low + c.high : kept;
  } else {
    const Vec<A> centred = input_of_norm<FIRST, A>(kept, slope) - c.high - c.low;
    p.x_hat = centred * c.inverse;
    p.sign = FIRST ? kept : centred * c.scale + c.bias;
  }
  p.g = FIRST ? dy : leaky<A>(dy, p.sign, slope);
  return p;
}

template <bool FIRST, class A, class P>
inline Vec<A> input_gradient(const Parts<A>& p, const Channel<P>& c, A slope) {
  const Vec<A> du = (p.g - c.first - p.x_hat * c.second) * c.scale;
  return FIRST ? leaky<A>(du, p.sign, slope) : du;
}

}  // namespace agehpc
