// Sums over the kernels of kafnets/functional.py and their first derivatives, one evaluation per value and point.
//
// With t = x - d_i, one pass gives sum_i w_i k(t), or a sum_i w_i k'(t) and, summed over the positions of a channel,
// a k(t) and a k'(t) for every point, and a sum_i w_i dk/dgamma.
#include "sweep.h"

namespace {

constexpr double PI = 3.14159265358979324;
constexpr double FAR = 1e15;  // further out every kernel counts as 0, as in kafnets/ops/reference.py
constexpr int NUMBERS = 2;    // per channel, for the arithmetic of a kernel

// ------------------------------------------------------------------------------------------------------ the functions

template <class R>
static inline Vec<R> size_of(Vec<R> x) {
    typename Simd<R>::I bits = (typename Simd<R>::I)x;
    return (Vec<R>)(bits & ~(typename Simd<R>::I)splat<R>(R(-0.0)));
}

// `size` with the sign of t; 0 where t is 0, the mean of both sides.
template <class R>
static inline Vec<R> with_sign(Vec<R> size, Vec<R> t) {
    typedef typename Simd<R>::I I;
    const I sign = (I)t & (I)splat<R>(R(-0.0));
    return (Vec<R>)(((I)size ^ sign) & ~(t == 0));
}

// 1 / x for 1 <= x <= 1e37 (1e301), to an ulp or two.
template <class R>
static inline Vec<R> reciprocal(Vec<R> x) {
    return R(1) / x;
}
#if defined(__AVX512F__)
template <>
inline Vec<float> reciprocal<float>(Vec<float> x) {  // a division takes as long as ten other instructions
    const Vec<float> guess = (Vec<float>)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
    return guess + guess * (1.0f - x * guess);
}
#endif

// y = 2^exponent mantissa, with the mantissa near 1, for y >= 1.
template <class R>
static inline void take_apart(Vec<R> y, Vec<R> &exponent, Vec<R> &mantissa) {
    typedef typename Simd<R>::I I;
    constexpr int64_t root = sizeof(R) == 8 ? 0x3fe6a09e667f3bcd : 0x3f3504f3;  // the mantissa is >= sqrt(1/2)
    const I n = ((I)y - decltype(I{}[0])(root)) >> Simd<R>::mantissa;
    exponent = __builtin_convertvector(n, Vec<R>);
    mantissa = (Vec<R>)((I)y - (n << Simd<R>::mantissa));
}
#if defined(__AVX512F__)
template <>
inline void take_apart<float>(Vec<float> y, Vec<float> &exponent, Vec<float> &mantissa) {
    const __m512 near = (__m512)(y * 1.33333333f);  // the mantissa is in [3/4, 3/2]
    exponent = (Vec<float>)_mm512_maskz_getexp_ps(0xffff, near);
    mantissa = (Vec<float>)_mm512_maskz_scalef_ps(0xffff, (__m512)y, (__m512)-exponent);
}
#endif

// log2(1 + z) for 0 <= z, as exact for small z as for large ones. `inverse` is 1 / (1 + z).
template <class R>
static inline Vec<R> log2_of_one_plus(Vec<R> z, Vec<R> inverse) {
    constexpr int terms = sizeof(R) == 8 ? 12 : 5;
    const Vec<R> y = z + R(1), lost = z - (y - R(1));
    Vec<R> exponent, mantissa;
    take_apart<R>(y, exponent, mantissa);
    // log(m) = 2 artanh((m - 1) / (m + 1))
    const Vec<R> s = (mantissa - R(1)) * reciprocal<R>(mantissa + R(1)), square = s * s;
    Vec<R> sum = splat<R>(R(2 / LN2 / (2 * terms - 1)));
    for (int i = terms - 2; i >= 0; i--) sum = sum * square + R(2 / LN2 / (2 * i + 1));
    return exponent + (sum * s + lost * inverse * R(1 / LN2));
}

// sin(pi y) and cos(pi y) for |y| <= 1/2, by their Taylor series.
template <class R>
static inline void sine_and_cosine(Vec<R> y, Vec<R> &sine, Vec<R> &cosine) {
    constexpr int terms = sizeof(R) == 8 ? 13 : 8;
    const Vec<R> angle = y * R(PI), square = angle * angle;
    sine = cosine = splat<R>(R(1));
    for (int i = terms; i > 0; i--) {
        sine = R(1) - sine * square * R(1.0 / (2 * i * (2 * i + 1)));
        cosine = R(1) - cosine * square * R(1.0 / (2 * i * (2 * i - 1)));
    }
    sine *= angle;
}

// -------------------------------------------------------------------------------------------------------- the kernels

// What a kernel gives at one point: k, and d and g with k' = slope() d and dk/dgamma = by_gamma() g. The compiler drops
// what a pass does not use.
template <class R>
struct Terms {
    Vec<R> k, d, g;
};

template <class R>
using Numbers = Vec<R>[NUMBERS];

// A kernel of t / l, so that dk/dgamma = t k' / (2 gamma).
struct OfDistance {
    static constexpr int WIDTH = 1;  // numbers per dictionary point, and per value of x
    static void point(double d, double, double *out) { out[0] = d; }
    template <class R>
    static inline void prepare(Vec<R> x, double, Vec<R> *out) {
        out[0] = x;
    }
    template <class K>
    static double by_gamma(double gamma, double setting) {
        return K::slope(gamma, setting) / (2 * gamma);
    }
};

struct Laplacian : OfDistance {
    static double slope(double gamma, double) { return -std::sqrt(2 * gamma); }
    static void numbers(double gamma, double, double *out) { out[0] = -std::sqrt(2 * gamma) / LN2; }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        const Vec<R> t = x[0] - point[0], k = power_of_two<R>(size_of<R>(t) * n[0]), d = with_sign<R>(k, t);
        return {k, d, t * d};
    }
};

struct Matern32 : OfDistance {
    static double slope(double gamma, double) { return -6 * gamma; }
    static void numbers(double gamma, double, double *out) {
        out[0] = std::sqrt(6 * gamma);
        out[1] = -out[0] / LN2;
    }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        const Vec<R> t = x[0] - point[0], size = size_of<R>(t), e = power_of_two<R>(size * n[1]), d = t * e;
        return {e + size * n[0] * e, d, t * d};
    }
};

struct Matern52 : OfDistance {
    static double slope(double gamma, double) { return -10 * gamma / 3; }
    static void numbers(double gamma, double, double *out) {
        out[0] = std::sqrt(10 * gamma);
        out[1] = -out[0] / LN2;
    }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        const Vec<R> t = x[0] - point[0], size = size_of<R>(t), e = power_of_two<R>(size * n[1]), r = size * n[0];
        const Vec<R> first = e + r * e, d = t * first;
        return {first + r * r * R(1.0 / 3) * e, d, t * d};
    }
};

template <bool ONE>  // whether the mixture is 1
struct RationalQuadratic : OfDistance {
    static double slope(double gamma, double) { return -2 * gamma; }
    static void numbers(double gamma, double mixture, double *out) {
        out[0] = gamma / mixture;
        out[1] = -mixture;
    }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        constexpr R most = sizeof(R) == 8 ? R(1e300) : R(1e36);  // infinity would become NaN
        const Vec<R> t = x[0] - point[0], z = at_most<R>(t * t * n[0], splat<R>(most));
        const Vec<R> inverse = reciprocal<R>(z + R(1));
        const Vec<R> k = ONE ? inverse : power_of_two<R>(log2_of_one_plus<R>(z, inverse) * n[1]), d = t * k * inverse;
        return {k, d, t * d};
    }
};

struct Triangular : OfDistance {
    static double slope(double gamma, double) { return -std::sqrt(2 * gamma); }
    static void numbers(double gamma, double, double *out) { out[0] = std::sqrt(2 * gamma); }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        const Vec<R> t = x[0] - point[0], u = size_of<R>(t) * n[0];
        // the mean of both sides where u is 1; NaN in the value is enough
        const Vec<R> edge = u == R(1) ? splat<R>(R(0.5)) : Vec<R>{}, inside = u < R(1) ? splat<R>(R(1)) : edge;
        const Vec<R> d = with_sign<R>(inside, t);
        return {at_least<R>(R(1) - u, Vec<R>{}), d, t * d};
    }
};

// exp(-gamma (p / pi)^2 s^2), s = sin(pi t / p) = sin(pi x / p) cos(pi d / p) - cos(pi x / p) sin(pi d / p).
struct Periodic {
    static constexpr int WIDTH = 2;
    static double slope(double gamma, double period) { return -2 * gamma * period / PI; }
    template <class K>
    static double by_gamma(double, double period) {
        return -(period / PI) * (period / PI);
    }
    static void numbers(double gamma, double period, double *out) {
        out[0] = -gamma * (period / PI) * (period / PI) / LN2;
    }
    static void point(double d, double period, double *out) {
        const double turns = d / period, rest = turns - std::rint(turns);
        out[0] = std::sin(PI * rest);
        out[1] = std::cos(PI * rest);
    }
    template <class R>
    static inline void prepare(Vec<R> x, double period, Vec<R> *out) {
        R lane[Simd<R>::lanes];
        write<R>(lane, x);
        for (int i = 0; i < Simd<R>::lanes; i++) {  // in double precision: x may be many periods away
            const double turns = lane[i] / period;
            lane[i] = R(turns - std::rint(turns));
        }
        sine_and_cosine<R>(read(lane), out[0], out[1]);
    }
    template <class R>
    static inline Terms<R> at(const Vec<R> *x, const Vec<R> *point, const Numbers<R> &n) {
        const Vec<R> s = x[0] * point[1] - x[1] * point[0], c = x[1] * point[1] + x[0] * point[0];
        const Vec<R> square = s * s, k = power_of_two<R>(square * n[0]);
        return {k, s * c * k, square * k};
    }
};

// ----------------------------------------------------------------------------------------------------------- the task

template <class R>
struct Task;

template <class R>
struct Tables {
    std::vector<Vec<R>> weights, points, numbers;
    Vec<R> *sums;
};

template <class R>
using Arithmetic = void (*)(const Task<R> &, Tables<R> &, int64_t, const Place<R> &);

// What depends on the kernel: the arithmetic, and the numbers of a channel and of its points.
template <class R>
struct Form {
    Arithmetic<R> arithmetic = nullptr;
    int width = 1;
    void (*numbers)(double, double, double *) = nullptr;
    void (*point)(double, double, double *) = nullptr;
    double (*slope)(double, double) = nullptr;
    double (*by_gamma)(double, double) = nullptr;
};

template <class R>
static Form<R> choose(const Sweep &sweep);

template <class R>
struct Task {
    using Tables = ::Tables<R>;
    const Sweep &sweep;
    const Form<R> form;
    const Arithmetic<R> arithmetic;
    std::vector<R> weights, places, numbers;

    explicit Task(const Sweep &sweep) : sweep(sweep), form(choose<R>(sweep)), arithmetic(form.arithmetic) {
        if (!arithmetic) return;
        double out[2] = {};
        for (int64_t c = 0; c < sweep.channels; c++) {
            form.numbers(sweep.bandwidths[c], sweep.setting, out);
            for (int i = 0; i < NUMBERS; i++) numbers.push_back(R(out[i]));
            numbers.push_back(R(form.slope(sweep.bandwidths[c], sweep.setting)));
            for (int64_t n = c * sweep.size; n < (c + 1) * sweep.size; n++) {
                weights.push_back(R(sweep.weights[n]));
                form.point(sweep.points[n], sweep.setting, out);
                for (int i = 0; i < form.width; i++) places.push_back(R(out[i]));
            }
        }
    }

    int64_t points() const { return sweep.size + 1; }  // the last one is for dk/dgamma

    void fill(Tables &tables, int64_t channel, int64_t width) const {
        spread<R>(tables.weights, weights, sweep.size, channel, width);
        spread<R>(tables.points, places, sweep.size * form.width, channel, width);
        spread<R>(tables.numbers, numbers, NUMBERS + 1, channel, width);
    }

    // moments: (2, channels, size) for k and k', then (channels) for dk/dgamma.
    void add_moments(int64_t c, int64_t n, const double *found) const {
        const double gamma = sweep.bandwidths[c];
        const int64_t at = c * sweep.size + n, all = sweep.channels * sweep.size;
        const bool last = n == sweep.size;
        if (!last) sweep.moments[at] += found[0];
        if (!last && sweep.moment_powers > 1) sweep.moments[all + at] += form.slope(gamma, sweep.setting) * found[points()];
        if (last) sweep.moments[2 * all + c] += form.by_gamma(gamma, sweep.setting) * found[0];
    }
};

template <class R, class K, bool VALUE, bool SLOPE, int M>
static void sum_kernels(const Task<R> &task, Tables<R> &tables, int64_t count, const Place<R> &place) {
    using V = Vec<R>;
    const V *points = tables.points.data(), *weights = tables.weights.data();
    const V numbers[NUMBERS] = {tables.numbers[0], tables.numbers[1]}, fall = tables.numbers[NUMBERS];
    const int size = int(task.sweep.size);
    for (int64_t tile = 0; tile < count; tile += TILE) {
        const int64_t at = tile * place.stride;
        V sum[TILE] = {}, rise[TILE] = {}, bend[TILE] = {}, scale[TILE] = {}, x[TILE][K::WIDTH];
        read_scale<R, SLOPE || (M > 0)>(place, at, scale);
        typename Simd<R>::I far[TILE];
        EACH(k, TILE) {
            const V given = read(place.x + at + k * place.stride);
            far[k] = size_of<R>(given) > R(FAR);
            scale[k] = far[k] ? V{} : scale[k];
            K::template prepare<R>(far[k] ? V{} : given, task.sweep.setting, x[k]);
        }
        for (int i = 0; i < size; i++) {
            V m[M + 1] = {};
            EACH(k, TILE) {
                const Terms<R> terms = K::template at<R>(x[k], points + i * K::WIDTH, numbers);
                if constexpr (VALUE) sum[k] += weights[i] * terms.k;
                if constexpr (SLOPE) rise[k] += weights[i] * terms.d;
                if constexpr (M > 0) m[0] += scale[k] * terms.k;
                if constexpr (M > 1) m[1] += scale[k] * terms.d;
                if constexpr (M > 1) bend[k] += weights[i] * terms.g;
            }
            for (int p = 0; p < M; p++) tables.sums[i * M + p] += m[p];
        }
        EACH(k, TILE) {
            sum[k] = far[k] ? V{} : sum[k];
            rise[k] = far[k] ? V{} : rise[k] * fall;
            if constexpr (M > 1) tables.sums[size * M] += scale[k] * bend[k];
        }
        write_outputs<R, VALUE, SLOPE>(place, at, sum, rise, scale);
    }
}

// Moments come with the slope only: a network needs both.
template <class R, class K>
static Form<R> form_of(const Sweep &sweep) {
    Form<R> form{nullptr, K::WIDTH, K::numbers, K::point, K::slope, K::template by_gamma<K>};
    const int M = sweep.moment_powers;
    if (sweep.value && !sweep.slope && M == 0) form.arithmetic = sum_kernels<R, K, true, false, 0>;
    if (!sweep.value && sweep.slope && M == 0) form.arithmetic = sum_kernels<R, K, false, true, 0>;
    if (!sweep.value && sweep.slope && M == 1) form.arithmetic = sum_kernels<R, K, false, true, 1>;
    if (!sweep.value && sweep.slope && M == 2) form.arithmetic = sum_kernels<R, K, false, true, 2>;
    return form;
}

template <class R>
static Form<R> choose(const Sweep &sweep) {
    switch (sweep.kernel) {
        case 1: return form_of<R, Laplacian>(sweep);
        case 2: return form_of<R, Matern32>(sweep);
        case 3: return form_of<R, Matern52>(sweep);
        case 4:
            return sweep.setting == 1 ? form_of<R, RationalQuadratic<true>>(sweep)
                                      : form_of<R, RationalQuadratic<false>>(sweep);
        case 5: return form_of<R, Periodic>(sweep);
        case 6: return form_of<R, Triangular>(sweep);
    }
    return {};
}

}  // namespace

extern "C" {
int kernel_sweep(const Sweep *sweep) { return run_task<Task>(*sweep); }
}
