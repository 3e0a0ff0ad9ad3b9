// Sums over Gaussians in one pass over the input: the two blocks of kafnets/ops/gaussian_sum.py and their derivative.
#include "sweep.h"

namespace {

// ---------------------------------------------------------------------------------------------------- the arithmetic

// The numbers of one channel (or of one vector of channels), spread over vectors.
template <class R>
struct Tables {
    std::vector<Vec<R>> value, slope;  // coefficients [point][power]
    std::vector<Vec<R>> points;        // without a grid: the dictionary
    Vec<R> minus_gamma, low, high;     // without a grid
    Vec<R> *sums;                      // moments [point][power] so far
};

template <class R>
struct Grid {
    R centre, inverse_step, clamp;
    R s;     // gamma step^2, in powers of two: divided by ln(2)
    R fall;  // of the slope, where it is summed by parts: -2 gamma step
    int half;
};

template <class R, int P, int N>
static inline void add_polynomial(Vec<R> (&total)[N], const Vec<R> (&parts)[P][N], const Vec<R> (&u)[N]) {
    EACH(k, N) {
        Vec<R> sum = parts[P - 1][k];
        for (int p = P - 2; p >= 0; p--) sum = sum * u[k] + parts[p][k];
        total[k] += sum;
    }
}

// Horner's rule from the outermost point inwards, without forming single terms.
template <class R, int P>
static inline void horner(Vec<R> (&total)[TILE], const Vec<R> *table, int half, const Vec<R> (&q)[TILE],
                          const Vec<R> (&u)[TILE], const Vec<R> (&edge)[TILE]) {
    Vec<R> parts[P][TILE];
    for (int p = 0; p < P; p++)
        EACH(k, TILE) parts[p][k] = table[(half - 1) * P + p];
    for (int j = half - 2; j >= 0; j--)
        for (int p = 0; p < P; p++)
            EACH(k, TILE) parts[p][k] = parts[p][k] * q[k] + table[j * P + p];
    for (int p = 0; p < P; p++)
        EACH(k, TILE) parts[p][k] *= edge[k];
    add_polynomial<R, P, TILE>(total, parts, u);
}

// Forms every term, as the moments need them, and sums values and slopes from the same terms.
template <class R, int P, bool VALUE, bool SLOPE, int M>
static inline void sum_terms(Vec<R> (&total)[TILE], Vec<R> (&rise)[TILE], const Vec<R> *v_table, const Vec<R> *s_table,
                             Vec<R> *sums, int half, const Vec<R> (&q)[TILE], const Vec<R> (&u)[TILE],
                             Vec<R> (&term)[TILE], const Vec<R> (&g)[TILE]) {
    Vec<R> values[P][TILE] = {}, slopes[P + 1][TILE] = {}, scale[M][TILE];
    EACH(k, TILE) {
        scale[0][k] = g[k];
        for (int p = 1; p < M; p++) scale[p][k] = scale[p - 1][k] * u[k];
    }
    for (int j = 0; j < half; j++) {
        Vec<R> m[M] = {};
        EACH(k, TILE) {
            for (int p = 0; p < M; p++) m[p] += scale[p][k] * term[k];
            if constexpr (VALUE)
                for (int p = 0; p < P; p++) values[p][k] += v_table[j * P + p] * term[k];
            if constexpr (SLOPE)
                for (int p = 0; p <= P; p++) slopes[p][k] += s_table[j * (P + 1) + p] * term[k];
            term[k] *= q[k];
        }
        for (int p = 0; p < M; p++) sums[j * M + p] += m[p];
    }
    if constexpr (VALUE) add_polynomial<R, P, TILE>(total, values, u);
    if constexpr (SLOPE) add_polynomial<R, P + 1, TILE>(rise, slopes, u);
}

// The same for the backward pass of training, the most frequent of all: one power, no values, all scaled by g from the
// start. With a_j the weighted terms and b_j = a_0 + ... + a_j, sum_j (j + 1/2) a_j = (J + 1/2) b_(J-1) - sum_j b_j, so
// that half of the arithmetic is additions, which many processors execute in parallel with the multiplications.
template <class R, bool SLOPE>
static inline void sum_by_parts(Vec<R> (&rise)[TILE], const Vec<R> *table, Vec<R> *sums, const Grid<R> &grid,
                                const Vec<R> (&q)[TILE], const Vec<R> (&u)[TILE], Vec<R> (&term)[TILE],
                                const Vec<R> (&g)[TILE], int side) {
    Vec<R> part[TILE] = {}, parts[TILE] = {};
    EACH(k, TILE) term[k] *= g[k];
    for (int j = 0; j < grid.half; j++) {
        Vec<R> m = sums[j];
        EACH(k, TILE) {
            m += term[k];
            if constexpr (SLOPE) {
                part[k] += table[j] * term[k];
                parts[k] += part[k];
            }
            term[k] *= q[k];
        }
        sums[j] = m;
    }
    const R edge = grid.half + R(0.5), sign = side ? R(-1) : R(1);
    if constexpr (SLOPE) EACH(k, TILE) rise[k] += grid.fall * ((u[k] - sign * edge) * part[k] + sign * parts[k]);
}

template <class R, int P, bool VALUE, bool SLOPE, int M>
static void grid_buffer(const Grid<R> &grid, Tables<R> &tables, int64_t count, const Place<R> &place) {
    using V = Vec<R>;
    constexpr bool BY_PARTS = P == 1 && M == 1 && !VALUE;
    const int half = grid.half;
    const V bound = splat<R>(grid.clamp);
    for (int64_t tile = 0; tile < count; tile += TILE) {
        const int64_t at = tile * place.stride;
        V sum[TILE] = {}, rise[TILE] = {}, scale[TILE];
        read_scale<R, SLOPE || (M > 0)>(place, at, scale);
        V u[TILE], bell[TILE], r[2][TILE];
        EACH(k, TILE) {
            u[k] = (read(place.x + at + k * place.stride) - grid.centre) * grid.inverse_step;
            bell[k] = power_of_two<R>(u[k] * u[k] * -grid.s);
            u[k] = clamp<R>(u[k], -bound, bound);
            both_powers_of_two<R>(u[k] * grid.s, r[0][k], r[1][k]);
        }
        for (int side = 0; side < 2; side++) {
            const int from = side * half;
            V q[TILE], term[TILE];
            EACH(k, TILE) {
                q[k] = r[side][k] * r[side][k];
                term[k] = bell[k] * r[side][k];
            }
            const V *v_table = VALUE ? &tables.value[from * P] : nullptr;
            const V *s_table = SLOPE ? &tables.slope[from * (P + 1)] : nullptr;
            if constexpr (M == 0) {
                if constexpr (VALUE) horner<R, P>(sum, v_table, half, q, u, term);
                if constexpr (SLOPE) horner<R, P + 1>(rise, s_table, half, q, u, term);
            } else if constexpr (BY_PARTS) {
                sum_by_parts<R, SLOPE>(rise, &tables.value[from], &tables.sums[from], grid, q, u, term, scale, side);
            } else {
                sum_terms<R, P, VALUE, SLOPE, M>(sum, rise, v_table, s_table, &tables.sums[from * M], half, q, u, term,
                                                 scale);
            }
        }
        if constexpr (BY_PARTS) EACH(k, TILE) scale[k] = splat<R>(1);
        write_outputs<R, VALUE, SLOPE>(place, at, sum, rise, scale);
    }
}

template <class R, int P, bool VALUE, bool SLOPE, int M>
static void direct_buffer(int size, Tables<R> &tables, int64_t count, const Place<R> &place) {
    using V = Vec<R>;
    for (int64_t tile = 0; tile < count; tile += TILE) {
        const int64_t at = tile * place.stride;
        V sum[TILE] = {}, rise[TILE] = {}, inside[TILE], scale[TILE];
        read_scale<R, SLOPE || (M > 0)>(place, at, scale);
        EACH(k, TILE) inside[k] = clamp<R>(read(place.x + at + k * place.stride), tables.low, tables.high);
        for (int i = 0; i < size; i++) {
            V m[M + 1] = {};
            EACH(k, TILE) {
                const V t = inside[k] - tables.points[i];
                const V kernel = power_of_two<R>(t * t * tables.minus_gamma);
                if constexpr (VALUE) {
                    V polynomial = tables.value[i * P + P - 1];
                    for (int p = P - 2; p >= 0; p--) polynomial = polynomial * t + tables.value[i * P + p];
                    sum[k] += polynomial * kernel;
                }
                if constexpr (SLOPE) {
                    V polynomial = tables.slope[i * (P + 1) + P];
                    for (int p = P - 1; p >= 0; p--) polynomial = polynomial * t + tables.slope[i * (P + 1) + p];
                    rise[k] += polynomial * kernel;
                }
                if constexpr (M > 0) {
                    V power = kernel * scale[k];
                    for (int p = 0; p < M; p++, power *= t) m[p] += power;
                }
            }
            for (int p = 0; p < M; p++) tables.sums[i * M + p] += m[p];
        }
        write_outputs<R, VALUE, SLOPE>(place, at, sum, rise, scale);
    }
}

// -------------------------------------------------------------------------------------------------------- the tables

// The points' weights as polynomials in t = scale (u - offset), rewritten as polynomials in u (of degree <= 3).
static void shift(const double *in, int powers, double scale, double offset, double *out) {
    for (int p = 0; p < powers; p++) out[p] = 0;
    double expanded[5] = {1};  // scale^p (u - offset)^p
    for (int p = 0; p < powers; p++) {
        for (int i = 0; i <= p; i++) out[i] += in[p] * expanded[i];
        for (int i = p + 1; i >= 0; i--)
            expanded[i] = scale * ((i ? expanded[i - 1] : 0) - offset * (i <= p ? expanded[i] : 0));
    }
}

struct Point {
    int64_t index;
    double offset, fall;  // in steps from the centre; the factor of its Gaussian that does not depend on x
};

static std::vector<Point> grid_points(const Sweep &sweep) {
    const double s = sweep.gamma * sweep.step * sweep.step;
    std::vector<Point> points;
    for (int side = 0; side < 2; side++)
        for (int j = 0; j < sweep.half; j++) {
            const double offset = (side ? -1 : 1) * (j + 0.5);
            points.push_back({side ? sweep.half - 1 - j : sweep.half + j, offset, std::exp(-s * offset * offset)});
        }
    return points;
}

template <class R>
struct Task;

template <class R>
using Arithmetic = void (*)(const Task<R> &, Tables<R> &, int64_t, const Place<R> &);

template <class R>
static Arithmetic<R> choose(const Sweep &sweep);

template <class R>
struct Task {
    using Tables = ::Tables<R>;
    const Sweep &sweep;
    const Arithmetic<R> arithmetic;
    Grid<R> grid;
    std::vector<Point> layout;  // with a grid
    std::vector<R> value, slope;

    explicit Task(const Sweep &sweep) : sweep(sweep), arithmetic(choose<R>(sweep)) {
        if (!arithmetic) return;
        if (sweep.half) cut();
        prepare();
    }

    void cut() {
        grid.centre = R(sweep.first + sweep.step * (sweep.half - 0.5));
        grid.inverse_step = R(1 / sweep.step);
        grid.s = R(sweep.gamma * sweep.step * sweep.step / LN2);
        grid.fall = R(-2 * sweep.gamma * sweep.step);
        grid.clamp = R(sweep.clamp);
        grid.half = sweep.half;
        layout = grid_points(sweep);
    }

    bool by_parts() const { return sweep.half && sweep.powers == 1 && sweep.moment_powers == 1 && !sweep.value; }

    int64_t points() const { return sweep.half ? int64_t(layout.size()) : sweep.size; }

    // Computes the coefficients of all channels once, [channel][point][power]; fill() spreads them over vectors.
    void prepare() {
        const int P = sweep.powers;
        value.assign(sweep.channels * points() * P, 0);
        slope.assign(sweep.channels * points() * (P + 1), 0);
        for (int64_t c = 0; sweep.weights && c < sweep.channels; c++) {
            const double gamma = sweep.half ? sweep.gamma : sweep.bandwidths[c];
            for (int64_t n = 0; n < points(); n++) {
                const int64_t index = sweep.half ? layout[n].index : n;
                if (index >= sweep.size) continue;
                double weights[5] = {}, slopes[4];
                for (int p = 0; p < P; p++) weights[p + 1] = sweep.weights[(p * sweep.channels + c) * sweep.size + index];
                for (int p = 0; p <= P; p++)  // W'[p] = (p+1) W[p+1] - 2 gamma W[p-1]; weights[] is shifted by one
                    slopes[p] = (p + 1) * weights[p + 2] - 2 * gamma * weights[p];
                place(&value[(c * points() + n) * P], n, P, weights + 1);
                place(&slope[(c * points() + n) * (P + 1)], n, P + 1, slopes);
            }
        }
    }

    void place(R *to, int64_t n, int powers, const double *in) const {
        double moved[4];
        if (sweep.half) shift(in, powers, sweep.step, layout[n].offset, moved);
        for (int p = 0; p < powers; p++) to[p] = R(sweep.half ? moved[p] * layout[n].fall : in[p]);
    }

    void fill(Tables &tables, int64_t channel, int64_t width) const {
        if (sweep.value || by_parts()) spread<R>(tables.value, value, points() * sweep.powers, channel, width);
        if (sweep.slope && !by_parts()) spread<R>(tables.slope, slope, points() * (sweep.powers + 1), channel, width);
        if (sweep.half) return;
        tables.points.resize(points());
        for (int lane = 0; lane < Simd<R>::lanes; lane++) {
            const int64_t c = channel + std::min<int64_t>(lane, width - 1);
            for (int64_t n = 0; n < points(); n++) tables.points[n][lane] = R(sweep.points[c * sweep.size + n]);
            reach(tables, c, lane, sweep.bandwidths[c]);
        }
    }

    // Infinite x are replaced by x so far away that every Gaussian is exactly 0, which keeps t^p k at 0 too.
    void reach(Tables &tables, int64_t c, int lane, double gamma) const {
        const double *points = sweep.points + c * sweep.size;
        const double distance = std::sqrt(-1.02 * LN2 * double(Simd<R>::nothing) / gamma);
        tables.minus_gamma[lane] = R(-gamma / LN2);
        tables.low[lane] = R(*std::min_element(points, points + sweep.size) - distance);
        tables.high[lane] = R(*std::max_element(points, points + sweep.size) + distance);
    }

    // Sums of g u^p k become moments of t^p = (step (u - offset))^p.
    void add_moments(int64_t c, int64_t n, const double *found) const {
        const int M = sweep.moment_powers;
        const Point point = sweep.half ? layout[n] : Point{n, 0, 1};
        if (point.index >= sweep.size) return;
        const double o = point.offset, h = sweep.half ? sweep.step : 1;
        const double m0 = found[0], m1 = M > 1 ? found[points()] : 0, m2 = M > 2 ? found[2 * points()] : 0;
        const double moved[3] = {m0, h * (m1 - o * m0), h * h * (m2 - 2 * o * m1 + o * o * m0)};
        for (int p = 0; p < M; p++)
            sweep.moments[(p * sweep.channels + c) * sweep.size + point.index] += point.fall * moved[p];
    }
};

// -------------------------------------------------------------------------------------------------------- the choice

template <class R, int P, bool VALUE, bool SLOPE, int M>
static void kernel(const Task<R> &task, Tables<R> &tables, int64_t count, const Place<R> &place) {
    if (task.sweep.half)
        grid_buffer<R, P, VALUE, SLOPE, M>(task.grid, tables, count, place);
    else
        direct_buffer<R, P, VALUE, SLOPE, M>(int(task.sweep.size), tables, count, place);
}

template <class R, int P, int M>
static Arithmetic<R> choose_outputs(const Sweep &sweep) {
    if (sweep.value && sweep.slope) return kernel<R, P, true, true, M>;
    if (sweep.value) return kernel<R, P, true, false, M>;
    if (sweep.slope) return kernel<R, P, false, true, M>;
    if constexpr (M > 0) return kernel<R, P, false, false, M>;
    return nullptr;
}

template <class R>
static Arithmetic<R> choose(const Sweep &sweep) {
    const int powers = sweep.powers, moments = sweep.moment_powers;
    if (powers == 1 && moments == 0) return choose_outputs<R, 1, 0>(sweep);
    if (powers == 1 && moments == 1) return choose_outputs<R, 1, 1>(sweep);
    if (powers == 1 && moments == 3) return choose_outputs<R, 1, 3>(sweep);
    if (powers == 2 && moments == 0) return choose_outputs<R, 2, 0>(sweep);
    if (powers == 2 && moments == 2) return choose_outputs<R, 2, 2>(sweep);
    return nullptr;
}

}  // namespace

extern "C" {

int kaf_sweep(const Sweep *sweep) { return run_task<Task>(*sweep); }

const char *kaf_instructions() {
#if defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#else
    return "plain";
#endif
}
}
