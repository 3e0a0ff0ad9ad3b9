// One pass over an input that computes sums over kernels: memory, threads and moments. The arithmetic is a Task's.
//
// Values are packed into buffers of vectors that stay in the first-level cache, and the arithmetic works on these. A
// lane of a vector holds one position of a channel (rows) or one channel at a position (lanes, for channels_last
// memory); the coefficients are spread over a vector either way, so that one function is enough for both.
//
// A Task<R> computes in R = float or double and has
//     Tables                          the numbers of one channel (or of one vector of channels), spread over vectors;
//                                     its member `sums` points to the moments so far, [point][power]
//     sweep, arithmetic               the call; the function for it, null if its combination is not built in
//     points()                        how many points have moments
//     fill(tables, channel, width)    prepares the tables for `width` channels
//     add_moments(channel, n, found)  adds found[power * points()], summed in double, to those that are returned
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace {

constexpr int BUFFER = 32;    // vectors per buffer: all buffers together stay in the first-level cache
constexpr int64_t SPAN = 1024;  // positions under one set of coefficients
constexpr int64_t CHUNK = 16 * SPAN;  // positions whose moments are summed in the arithmetic's type, a vector at a time
// Unrolled, so that a tile stays in registers.
#define EACH(k, count) _Pragma("GCC unroll 8") for (int k = 0; k < count; k++)
constexpr double LN2 = 0.69314718055994531;

}  // namespace

extern "C" {
// Mirrored by kafnets/ops/native/call.py.
struct Sweep {
    int64_t channels, outer, inner;  // x is (outer, channels, inner), or with lanes (outer, inner, channels)
    int32_t lanes, storage, threads;
    int32_t powers, moment_powers;  // P of the weights; powers of the moments, 0 for no moments
    const void *x, *a, *v;          // a and v may be null
    void *value, *slope;            // null where not wanted
    double *moments;                // (moment_powers, channels, size)
    const double *weights;          // (powers, channels, size)
    int64_t size;                   // D
    double first, step, gamma, clamp;  // of a grid, see kafnets/ops/uniform_recurrence.py
    int32_t half;                      // of a grid; 0: not a grid
    const double *points, *bandwidths;  // otherwise: (channels, size), (channels)
    int32_t kernel;                     // of kernels.cpp, and its own setting
    double setting;
};
}

namespace {

// Where a kernel reads and writes: vector i lies at pointer + i * stride. a and v may be null and count as 1.
template <class R>
struct Place {
    const R *x, *a, *v;
    R *value, *slope;
    int64_t stride;
};

// Reads a v, the scale of slopes and moments.
template <class R, bool NEEDED>
static inline void read_scale(const Place<R> &place, int64_t at, Vec<R> (&scale)[TILE]) {
    if constexpr (NEEDED) {
        EACH(k, TILE) scale[k] = place.a ? read(place.a + at + k * place.stride) : splat<R>(1);
        if (place.v) EACH(k, TILE) scale[k] *= read(place.v + at + k * place.stride);
    }
}

template <class R, bool VALUE, bool SLOPE>
static inline void write_outputs(const Place<R> &place, int64_t at, const Vec<R> (&sum)[TILE], const Vec<R> (&rise)[TILE],
                                 const Vec<R> (&scale)[TILE]) {
    if constexpr (VALUE) {
        if (place.a) {
            EACH(k, TILE) write<R>(place.value + at + k * place.stride, sum[k] * read(place.a + at + k * place.stride));
        } else {
            EACH(k, TILE) write<R>(place.value + at + k * place.stride, sum[k]);
        }
    }
    if constexpr (SLOPE) EACH(k, TILE) write<R>(place.slope + at + k * place.stride, rise[k] * scale[k]);
}
// ------------------------------------------------------------------------------------------------------- the storage

struct BFloat16 {
    uint16_t bits;
};

static inline float widen(float value) { return value; }
static inline double widen(double value) { return value; }
static inline float widen(BFloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &bits, 4);
    return wide;
}
static inline void narrow(float value, float &to) { to = value; }
static inline void narrow(double value, double &to) { to = value; }
static inline void narrow(float value, BFloat16 &to) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    // to nearest, ties to even; NaN stays NaN
    to.bits = value != value ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
#if defined(__FLT16_MAX__)
#define HAS_FLOAT16 1
static inline float widen(_Float16 value) { return float(value); }
static inline void narrow(float value, _Float16 &to) { to = _Float16(value); }
#else
#define HAS_FLOAT16 0
#endif

template <class R, class S>
static void widen(const S *__restrict from, R *__restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = widen(from[i]);
}
template <class R, class S>
static void narrow(const R *__restrict from, S *__restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) narrow(from[i], to[i]);
}

// Calls run(pointer into the tensor, index in the buffer, count) for the positions [from, to) of a channel.
template <class Run>
static inline void runs(const Sweep &sweep, int64_t channel, int64_t from, int64_t to, Run run) {
    for (int64_t at = from; at < to;) {
        const int64_t outer = at / sweep.inner, inside = at % sweep.inner;
        const int64_t count = std::min(sweep.inner - inside, to - at);
        run((outer * sweep.channels + channel) * sweep.inner + inside, at - from, count);
        at += count;
    }
}

// Copies between a tensor and a buffer. With lanes, `width` channels from `channel` on fill one vector per position.
template <class R, class S>
static void load(const Sweep &sweep, const void *tensor, int64_t channel, int64_t width, int64_t from, int64_t to,
                 R *buffer) {
    const S *data = static_cast<const S *>(tensor);
    constexpr int lanes = Simd<R>::lanes;
    if (sweep.lanes) {
        for (int64_t at = from; at < to; at++, buffer += lanes) {
            const S *row = data + at * sweep.channels + channel;
            widen(row, buffer, width);
            for (int64_t i = width; i < lanes; i++) buffer[i] = 0;
        }
    } else {
        runs(sweep, channel, from, to, [&](int64_t start, int64_t at, int64_t count) {
            widen(data + start, buffer + at, count);
        });
    }
}

template <class R, class S>
static void store(const Sweep &sweep, void *tensor, int64_t channel, int64_t width, int64_t from, int64_t to,
                  const R *buffer) {
    S *data = static_cast<S *>(tensor);
    if (sweep.lanes) {
        for (int64_t at = from; at < to; at++, buffer += Simd<R>::lanes) {
            S *row = data + at * sweep.channels + channel;
            narrow(buffer, row, width);
        }
    } else {
        runs(sweep, channel, from, to, [&](int64_t start, int64_t at, int64_t count) {
            narrow(buffer + at, data + start, count);
        });
    }
}

// ---------------------------------------------------------------------------------------------------------- the pass

// Spreads `count` numbers per channel over vectors: one channel's, or one channel per lane.
template <class R>
static void spread(std::vector<Vec<R>> &table, const std::vector<R> &from, int64_t count, int64_t channel,
                   int64_t width) {
    table.resize(count);
    const R *row = &from[channel * count];
    for (int64_t n = 0; n < count; n++) {
        if (width == 1) table[n] = splat<R>(row[n]);
        else
            for (int lane = 0; lane < Simd<R>::lanes; lane++)
                table[n][lane] = row[std::min<int64_t>(lane, width - 1) * count + n];
    }
}

// Adds the sums so far, in double precision, to found[channel][power][point].
template <class R>
static void flush(const Sweep &sweep, int64_t points, Vec<R> *sums, int64_t channel, int64_t width, double *found) {
    const int M = sweep.moment_powers;
    for (int64_t n = 0; n < points; n++)
        for (int p = 0; p < M; p++) {
            Vec<R> &sum = sums[n * M + p];
            if (sweep.lanes)
                for (int lane = 0; lane < width; lane++) found[((channel + lane) * M + p) * points + n] += sum[lane];
            else
                found[(channel * M + p) * points + n] += total<R>(sum);
            sum = Vec<R>{};
        }
}

// Runs the arithmetic over positions of one channel (or of one vector of channels): in place if the memory allows it,
// otherwise through buffers of whole vectors.
template <class R, class S, class Task>
struct Runner {
    static constexpr int64_t lanes = Simd<R>::lanes;
    const Task &task;
    const Sweep &sweep = task.sweep;
    typename Task::Tables tables;
    alignas(64) R buffers[5][BUFFER * lanes];

    void span(int64_t channel, int64_t width, int64_t from, int64_t to) {
        if (std::is_same<R, S>::value && !sweep.lanes && sweep.inner >= 4 * TILE * lanes) {
            runs(sweep, channel, from, to, [&](int64_t start, int64_t at, int64_t count) {
                const int64_t whole = count / (TILE * lanes) * TILE;
                in_place(start, lanes, whole);
                buffered(channel, width, from + at + whole * lanes, from + at + count);
            });
        } else if (std::is_same<R, S>::value && sweep.lanes && width == lanes) {
            const int64_t whole = (to - from) / TILE * TILE;
            in_place(from * sweep.channels + channel, sweep.channels, whole);
            buffered(channel, width, from + whole, to);
        } else {
            buffered(channel, width, from, to);
        }
    }

    void in_place(int64_t start, int64_t stride, int64_t count) {
        const auto at = [&](const void *tensor) { return tensor ? (R *)tensor + start : nullptr; };
        const Place<R> place{at(sweep.x), at(sweep.a), at(sweep.v), at(sweep.value), at(sweep.slope), stride};
        if (count) task.arithmetic(task, tables, count, place);
    }

    void buffered(int64_t channel, int64_t width, int64_t from, int64_t end) {
        const int64_t step = BUFFER * (sweep.lanes ? 1 : lanes);
        for (; from < end; from += step) {
            const int64_t to = std::min(end, from + step), used = (to - from) * (sweep.lanes ? lanes : 1);
            const int64_t count = (used + lanes * TILE - 1) / (lanes * TILE) * TILE;
            const auto fetch = [&](const void *tensor, R *buffer) -> const R * {
                if (!tensor) return nullptr;
                load<R, S>(sweep, tensor, channel, width, from, to, buffer);
                std::fill(buffer + used, buffer + count * lanes, R(0));  // with a = 0 they add nothing to the moments
                return buffer;
            };
            Place<R> place{fetch(sweep.x, buffers[0]), fetch(sweep.a, buffers[1]), fetch(sweep.v, buffers[2]),
                           buffers[3], buffers[4], lanes};
            if (sweep.moment_powers && !place.a && !place.v) {
                std::fill(buffers[1], buffers[1] + used, R(1));
                std::fill(buffers[1] + used, buffers[1] + count * lanes, R(0));
                place.a = buffers[1];
            }
            task.arithmetic(task, tables, count, place);
            if (sweep.value) store<R, S>(sweep, sweep.value, channel, width, from, to, buffers[3]);
            if (sweep.slope) store<R, S>(sweep, sweep.slope, channel, width, from, to, buffers[4]);
        }
    }
};

template <class R, class S, class Task>
static int run(const Sweep &sweep) {
    constexpr int64_t lanes = Simd<R>::lanes;
    const Task task(sweep);
    if (!task.arithmetic) return 1;
    const int M = sweep.moment_powers;
    const int64_t positions = sweep.outer * sweep.inner, width = sweep.lanes ? lanes : 1;
    // Spans follow the order of the memory. Chunks do not depend on the number of threads, so neither do the sums.
    const int64_t span = sweep.lanes ? SPAN : std::max(sweep.inner, SPAN / sweep.inner * sweep.inner);
    const int64_t chunk = std::max(std::min((positions + 31) / 32, CHUNK) / span, int64_t(1)) * span;
    const int64_t chunks = (positions + chunk - 1) / chunk, per_chunk = sweep.channels * M * task.points();
    std::vector<double> partial(size_t(chunks * per_chunk));

#pragma omp parallel for schedule(static) num_threads(sweep.threads) if (sweep.threads > 1 && chunks > 1)
    for (int64_t at = 0; at < chunks; at++) {
        const WithoutSubnormals guard;
        Runner<R, S, Task> runner{task, sweep, {}, {}};
        std::vector<Vec<R>> sums(size_t(sweep.lanes ? 1 : sweep.channels) * task.points() * M);
        const int64_t end = std::min(positions, (at + 1) * chunk);
        for (int64_t from = at * chunk; from < end; from += span)
            for (int64_t channel = 0; channel < sweep.channels; channel += width) {
                const int64_t here = std::min(width, sweep.channels - channel);
                task.fill(runner.tables, channel, here);
                runner.tables.sums = sums.data() + (sweep.lanes ? 0 : channel * task.points() * M);
                runner.span(channel, here, from, std::min(end, from + span));
                // with lanes, one lane adds up all values of its channel: it is emptied more often, for precision
                if (M && (sweep.lanes || from + span >= end))
                    flush<R>(sweep, task.points(), runner.tables.sums, channel, here, &partial[at * per_chunk]);
            }
    }

    for (int64_t at = 0; M && at < chunks; at++)  // in the order of the chunks
        for (int64_t c = 0; c < sweep.channels; c++)
            for (int64_t n = 0; n < task.points(); n++)
                task.add_moments(c, n, &partial[at * per_chunk + c * M * task.points() + n]);
    return 0;
}

// Runs a Task in the precision that the storage asks for. Returns 0; 1 for a combination that is not built in, 2 for such
// a storage type.
template <template <class> class Task>
static int run_task(const Sweep &sweep) {
    switch (sweep.storage) {
        case 0: return run<float, float, Task<float>>(sweep);
        case 1: return run<double, double, Task<double>>(sweep);
        case 2: return run<float, BFloat16, Task<float>>(sweep);
#if HAS_FLOAT16
        case 3: return run<float, _Float16, Task<float>>(sweep);
#endif
    }
    return 2;
}

}  // namespace
