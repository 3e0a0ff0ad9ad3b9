// Vectors of the processor's width, and powers of two on them.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE__)
#include <xmmintrin.h>
#endif
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE = 4;  // TILE vectors at a time hide the latency of a multiply-add
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, TILE = 2;
#else
constexpr int VECTOR_BYTES = 16, TILE = 2;
#endif

template <class R>
struct Simd;

template <>
struct Simd<float> {
    typedef float V __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int lanes = VECTOR_BYTES / 4, mantissa = 23, bias = 127;
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float lowest = -126.0f, nothing = -160.0f;
    // 2^f on [-1/2, 1/2], minimax to 1.9e-9, highest power first
    static constexpr float powers[] = {1.5345811765e-4f, 1.3399931422e-3f, 9.6184889598e-3f, 5.5503287765e-2f,
                                       2.4022646891e-1f, 6.9314720574e-1f, 1.0f};
};

template <>
struct Simd<double> {
    typedef double V __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int lanes = VECTOR_BYTES / 8, mantissa = 52, bias = 1023;
    static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double lowest = -1022.0, nothing = -1100.0;
    // ln(2)^k / k!: the Taylor series, to 4e-18
    static constexpr double powers[] = {1.3691488853904128e-12, 2.5678435993488202e-11, 4.4455382718708116e-10,
                                        7.0549116208011234e-9,  1.0178086009239699e-7,  1.3215486790144307e-6,
                                        1.5252733804059840e-5,  1.5403530393381608e-4,  1.3333558146428443e-3,
                                        9.6181291076284770e-3,  5.5504108664821580e-2,  2.4022650695910072e-1,
                                        6.9314718055994531e-1,  1.0};
};

template <class R>
using Vec = typename Simd<R>::V;

template <class R>
static inline Vec<R> splat(R value) {
    return value - Vec<R>{};  // not an addition: -0 + 0 is 0, so the compiler could not remove it
}

template <class R>
static inline Vec<R> read(const R *from) {
    Vec<R> value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class R>
static inline void write(R *to, Vec<R> value) {
    std::memcpy(to, &value, sizeof value);
}

// The comparisons are false for NaN, so that NaN stays NaN.
template <class R>
static inline Vec<R> at_least(Vec<R> x, Vec<R> low) {
    return low > x ? low : x;
}
template <class R>
static inline Vec<R> at_most(Vec<R> x, Vec<R> high) {
    return high < x ? high : x;
}
#if defined(__AVX512F__)  // the same in one instruction
template <>
inline Vec<float> at_least<float>(Vec<float> x, Vec<float> low) {
    return (Vec<float>)_mm512_maskz_max_ps(0xffff, (__m512)low, (__m512)x);
}
template <>
inline Vec<float> at_most<float>(Vec<float> x, Vec<float> high) {
    return (Vec<float>)_mm512_maskz_min_ps(0xffff, (__m512)high, (__m512)x);
}
#endif
template <class R>
static inline Vec<R> clamp(Vec<R> x, Vec<R> low, Vec<R> high) {
    return at_most<R>(at_least<R>(x, low), high);
}

// value * 2^n for integers n in [nothing, 127 (1023)]; 0 below `lowest`, where normal numbers end.
template <class R>
static inline Vec<R> scale(Vec<R> value, Vec<R> n) {
    using S = Simd<R>;
    const Vec<R> shifted = n + S::magic;
    typename S::I bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + S::bias) << S::mantissa;
    Vec<R> power;
    std::memcpy(&power, &bits, sizeof power);
    const Vec<R> scaled = value * power;
    return n < S::lowest ? Vec<R>{} : scaled;
}
#if defined(__AVX512F__)
template <>
inline Vec<float> scale<float>(Vec<float> value, Vec<float> n) {
    return (Vec<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)value, (__m512)n);
}
#endif

// While this lives, subnormal numbers count as 0. A Gaussian of a distant point often is one, and arithmetic with them is
// slow on many processors: whole layers took 8 to 36 times as long (docs/activations.md).
struct WithoutSubnormals {
#if defined(__SSE__)
    const unsigned before = _mm_getcsr();
    WithoutSubnormals() { _mm_setcsr(before | 0x8040); }  // results, and what is read
    ~WithoutSubnormals() { _mm_setcsr(before); }
#endif
};

// The sum of all lanes, pairwise.
template <class R>
static inline R total(Vec<R> value) {
    R lane[Simd<R>::lanes];
    std::memcpy(lane, &value, sizeof value);
    for (int width = Simd<R>::lanes / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

template <class R>
static inline Vec<R> nearest(Vec<R> y) {
    return (y + Simd<R>::magic) - Simd<R>::magic;
}

// The polynomial for 2^f on [-1/2, 1/2].
template <class R>
static inline Vec<R> power_near_zero(Vec<R> f) {
    using S = Simd<R>;
    Vec<R> sum = splat<R>(S::powers[0]);
    for (unsigned i = 1; i < sizeof(S::powers) / sizeof(R); i++) sum = sum * f + S::powers[i];
    return sum;
}

// 2^y for y <= 127 (1023), NaN for NaN; 0 from about where the result would be subnormal.
template <class R>
static inline Vec<R> power_of_two(Vec<R> y) {
    y = at_least<R>(y, splat<R>(Simd<R>::nothing));
    const Vec<R> n = nearest<R>(y);
    return scale<R>(power_near_zero<R>(y - n), n);
}
#if defined(__AVX512DQ__)
// y without its nearest integer is one instruction here, also for very negative y; 2^(y - f) is the other.
template <>
inline Vec<float> power_of_two<float>(Vec<float> y) {
    const Vec<float> f = (Vec<float>)_mm512_maskz_reduce_ps(0xffff, (__m512)y, _MM_FROUND_TO_NEAREST_INT);
    return (Vec<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)power_near_zero<float>(f), (__m512)(y - f));
}
#endif

// 2^y and 2^-y for |y| <= 126 (1022).
template <class R>
static inline void both_powers_of_two(Vec<R> y, Vec<R> &plus, Vec<R> &minus) {
    plus = power_of_two<R>(y);
    minus = power_of_two<R>(-y);
}
template <>
inline void both_powers_of_two<float>(Vec<float> y, Vec<float> &plus, Vec<float> &minus) {
    const Vec<float> n = nearest<float>(y), f = y - n, ff = f * f;
    // cosh and sinh of f ln(2) on [-1/2, 1/2], minimax to 4e-11 and 1e-8
    const Vec<float> even = ((1.54694909e-4f * ff + 9.61802651e-3f) * ff + 2.40226512e-1f) * ff + 1.0f;
    const Vec<float> odd = ((1.33908e-3f * ff + 5.550357e-2f) * ff + 6.9314719e-1f) * f;
    plus = scale<float>(even + odd, n);
    minus = scale<float>(even - odd, -n);
}
