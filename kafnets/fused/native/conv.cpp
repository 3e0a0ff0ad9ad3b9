// Chains of convolutions, each followed by a shift, a skip connection and ReLU, as in a network in evaluation mode.
//
// Images are (images, height, width, channels). A group of images goes through all steps of a chain. Within the group,
// a few images at a time go through consecutive steps of one size: if there are few channels, the values between the
// steps stay in the second-level cache.
//
// 3x3 convolutions of stride 1 and 2 are computed by Winograd's algorithm (tiles.h), others as sums of matrix products
// over the taps of their filters.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>

#include "products.h"
#include "tiles.h"

namespace {

constexpr int64_t LINE = 16;  // floats per cache line, added between frequencies: powers of two share cache sets
constexpr int64_t BLOCK_BYTES = 640 << 10;  // of transformed tiles; at least ROWS tiles

}  // namespace

extern "C" {
// Value, Step and Chain are mirrored by the structures in plan.py, Method by steps.py.
struct Value {
    float *data;     // (images, height, width, channels), or null
    Gate *gate;      // one per vector of channels of data: what ReLU let through; null if it is not stored
    int64_t offset;  // if data is null: where the value lies in scratch memory, for the current images only,
    int32_t whole;   // or for the whole group
    int32_t planar;  // data is (images, channels, height, width): a source of DIRECT, a target of partial vectors
    int32_t channels, height, width;
};

enum Method : int32_t { ADD, SAME, SHRINK, GROW, DIRECT, BACK };

// target = relu(conv(source - mean) + shift + skip_scale skip). `gate` and `skip_gate` are numbers of values: source
// and skip are set to zero where the ReLU of that value returned zero. -1 and null: none. ADD has no convolution:
// source is added as it is. SAME, SHRINK and GROW use Winograd's algorithm. GROW and BACK take the gradient of a
// convolution's outputs to that of its inputs: GROW for SHRINK, BACK for DIRECT.
struct Step {
    int32_t source, gate, skip, skip_gate, target, relu;
    Method method;
    int32_t room;                  // how many images at a time; consecutive steps with one `room` process them together
    int32_t parts;                 // with Winograd: into how many partial sums the sum over channels is split
    int32_t size, stride, before;  // size and stride of the filter; zeros above and left of the image
    const float *weights;  // matrices in the order of products(), one per frequency and part, or one per tap
    const float *shift, *skip_scale;  // (target's channels)
    const float *mean;                // (source's channels): subtracted from every pixel; DIRECT only
    int32_t joined;  // with the step before, of the same method and sizes: both share source and gate, or the target
};

struct Chain {
    int64_t images, scratch;  // scratch: floats for the values whose data is null
    const Value *values;
    const Step *steps;
    int32_t length, group, threads;  // group: images per group, at most
};
}

namespace {

class Buffer {
public:
    float *room(int64_t floats) {
        if (floats > size) {
            size = 0;
            data.reset(static_cast<float *>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64)));
            if (!data) throw std::bad_alloc();
            std::fill(data.get(), data.get() + floats, 0.0f);  // `zeros` is never written to
            size = floats;
        }
        return data.get();
    }

private:
    struct Free {
        void operator()(float *p) const { std::free(p); }
    };
    std::unique_ptr<float, Free> data;
    int64_t size = 0;
};

// Kept between calls: to allocate this memory anew takes longer than to compute with it.
struct Scratch {
    Buffer v, m, zeros, padded, kept;
};
thread_local Scratch scratch;

// Distances in memory between neighbours in a value.
struct Layout {
    int64_t image, row, column, channel;

    explicit Layout(const Value &v)
        : image(int64_t(v.channels) * v.height * v.width), row(int64_t(v.width) * (v.planar ? 1 : v.channels)),
          column(v.planar ? 1 : v.channels), channel(v.planar ? int64_t(v.height) * v.width : 1) {}
};

// The number of channels, rounded up to whole vectors.
constexpr int64_t fill(int64_t channels) { return (channels + LANES - 1) / LANES * LANES; }

// A step on a few images: the addresses that it reads and writes.
struct Job {
    const float *x, *skip;
    const Gate *gate, *skip_gate;
    float *y;
    Gate *passed;
    const Step &step;
    const Value &source, &target;
    const Layout layout;  // of the target

    // Add the skip to a vector of sums, apply ReLU, and write the result to y + at.
    template <bool SKIP, bool GATED, bool RELU>
    INLINE void finish(V value, V scale, int64_t at) const {
        if constexpr (SKIP) {
            V other = read<float>(skip + at);
            if constexpr (GATED) other = gated(other, skip_gate[at / LANES]);
            value += scale * other;
        }
        if constexpr (RELU) {
            if (passed) passed[at / LANES] = gate_of(value);
            value = value < V{} ? V{} : value;
        }
        write<float>(y + at, value);
    }

    // Call `work` with the template arguments of finish() that fit this job.
    template <class Work>
    void specialised(Work work) const {
        using Yes = std::true_type;
        using No = std::false_type;
        if (!skip && !step.relu) work(No{}, No{}, No{});
        if (!skip && step.relu) work(No{}, No{}, Yes{});
        if (skip && !skip_gate && !step.relu) work(Yes{}, No{}, No{});
        if (skip && !skip_gate && step.relu) work(Yes{}, No{}, Yes{});
        if (skip && skip_gate && !step.relu) work(Yes{}, Yes{}, No{});
        if (skip && skip_gate && step.relu) work(Yes{}, Yes{}, Yes{});
    }

    // The same for a single number: for the gradient of an input whose channels do not fill vectors.
    void finish_one(float value, int64_t at) const { y[at] = skip ? value + skip[at] : value; }

    V shift(int64_t ch) const { return step.shift ? read<float>(step.shift + ch) : V{}; }
    V scale(int64_t ch) const { return step.skip_scale ? read<float>(step.skip_scale + ch) : splat<float>(1); }
};

// ------------------------------------------------------------------------------------------------------------ Winograd

template <class Tile>
class Winograd {
public:
    // Tiles begin `edge` pixels before the image. Another job may be computed together with this one: if it has the
    // same target, the sums of both are added; otherwise it has the same source and gate.
    Winograd(const Job &job, const Job *other, int64_t edge)
        : job(job), added(other && other->y == job.y ? other : nullptr), twin(added ? nullptr : other), edge(edge),
          height(job.target.height), width(job.target.width), in(job.source.channels), out(job.target.channels),
          filled(fill(out)), down((height + OUT - 1) / OUT), across((width + OUT - 1) / OUT), most(tiles_together()),
          v_step(most * in + LINE), m_step(most * filled + LINE) {}

    // Returns whether the sums are finite.
    bool run(int64_t images) const {
        const int64_t all = F * F * v_step;
        float *const v = scratch.v.room((added ? 2 : 1) * all + ROWS * in);  // products() may read past the end
        float *const m = scratch.m.room(F * F * m_step + ROWS * filled);
        const float *const zeros = scratch.zeros.room((job.source.width + IN) * in);
        const int64_t tiles = images * down * across, blocks = (tiles + most - 1) / most;
        const int64_t block = (tiles + blocks - 1) / blocks;
        V rest{};
        for (int64_t first = 0; first < tiles; first += block) {
            const int64_t count = std::min(block, tiles - first);
            take_in(job, first, count, v, zeros);
            if (added) take_in(*added, first, count, v + all, zeros);
            multiply(job, v, added, v + all, count, m);
            put_out(job, first, count, m, rest);
            if (!twin) continue;
            multiply(*twin, v, nullptr, nullptr, count, m);
            put_out(*twin, first, count, m, rest);
        }
        return total<float>(rest) == 0;
    }

private:
    static constexpr int IN = Tile::IN, OUT = Tile::OUT, F = Tile::FREQUENCIES;

    // Where a tile lies.
    struct Place {
        int64_t image, row, column;
    };

    // Call `work` for each row of adjacent tiles: place of the first, how many, and index of the first, from 0.
    template <class Work>
    void by_rows(int64_t first, int64_t count, Work work) const {
        for (int64_t at = 0; at < count;) {
            const int64_t t = first + at;
            const Place place{t / (down * across), t / across % down, t % across};
            const int64_t tiles = std::min(across - place.column, count - at);
            work(place, tiles, at);
            at += tiles;
        }
    }

    int64_t tiles_together() const {
        const int64_t numbers = (added ? 2 : 1) * in + filled;
        return std::max<int64_t>(BLOCK_BYTES / (F * F * int64_t(sizeof(float)) * numbers), ROWS);
    }

    void take_in(const Job &job, int64_t first, int64_t count, float *v, const float *zeros) const {
        by_rows(first, count, [&](const Place &place, int64_t tiles, int64_t at) {
            if (job.gate) take_in<true>(job, place, tiles, v + at * in, zeros);
            else take_in<false>(job, place, tiles, v + at * in, zeros);
        });
    }

    template <bool GATED>
    void take_in(const Job &job, const Place &place, int64_t tiles, float *to, const float *zeros) const {
        const int64_t source_height = job.source.height, source_width = job.source.width;
        const float *rows[IN];
        const Gate *gates[IN] = {};
        int64_t column = place.column * Tile::STEP - edge;
        for (int i = 0; i < IN; i++) {
            const int64_t row = place.row * Tile::STEP - edge + i;
            const int64_t near = std::clamp<int64_t>(row, 0, source_height - 1);
            const int64_t at = (place.image * source_height + near) * source_width * in;
            rows[i] = (row == near ? job.x + at : zeros) + column * in;
            if constexpr (GATED) gates[i] = job.gate + (at + column * in) / LANES;  // any gate will do for zeros
        }
        for (int64_t t = 0, at = 0; t < tiles; t++, column += Tile::STEP, at += (Tile::STEP - 1) * in) {
            const int begin = int(std::max<int64_t>(0, -column));
            const int end = int(std::min<int64_t>(IN, source_width - column));
            for (int64_t ch = 0; ch < in; ch += LANES, at += LANES, to += LANES) {
                if (begin > 0 || end < IN) tile_in<Tile, true, GATED>(rows, gates, at, in, begin, end, to, v_step);
                else tile_in<Tile, false, GATED>(rows, gates, at, in, 0, IN, to, v_step);
            }
        }
    }

    // The products of the tiles at all frequencies, plus those of another job.
    void multiply(const Job &job, const float *v, const Job *other, const float *other_v, int64_t count,
                  float *m) const {
        const int64_t depth = in / job.step.parts;
        for (int i = 0; i < F; i++)
            for (int j = 0; j < F; j++) {
                const int64_t frequency = i * F + j, matrix = Tile::matrix(i) * MATRICES + Tile::matrix(j);
                const auto work = [&](const Job &job, const float *v, bool add) {
                    for (int64_t ch = 0; ch < in; ch += depth)
                        products(v + frequency * v_step + ch, in, depth, job.step.weights + (matrix * in + ch) * filled,
                                 filled, count, m + frequency * m_step, add || ch);
                };
                work(job, v, false);
                if (other) work(*other, other_v, true);
            }
    }

    void put_out(const Job &job, int64_t first, int64_t count, const float *m, V &rest) const {
        job.specialised([&](auto skip, auto gated, auto relu) {
            by_rows(first, count, [&](const Place &place, int64_t tiles, int64_t at) {
                put_out<skip(), gated(), relu()>(job, place, tiles, m + at * filled, rest);
            });
        });
    }

    template <bool SKIP, bool GATED, bool RELU>
    void put_out(const Job &job, const Place &place, int64_t tiles, const float *from, V &rest) const {
        const Layout &layout = job.layout;
        const int64_t top = place.row * OUT, left = place.column * OUT;
        const int rows = int(std::min<int64_t>(OUT, height - top));
        int64_t at = place.image * layout.image + top * layout.row + left * layout.column;
        for (int64_t t = 0; t < tiles; t++, at += OUT * layout.column) {
            const int columns = int(std::min<int64_t>(OUT, width - left - t * OUT));
            for (int64_t ch = 0; ch < filled; ch += LANES, from += LANES)
                tile_out<SKIP, GATED, RELU>(job, from, ch, at + ch * layout.channel, rows, columns, rest);
        }
    }

    // One vector of channels, from `ch` on, of one tile at y + at; `rows` and `columns` of the tile lie in the image.
    template <bool SKIP, bool GATED, bool RELU>
    NOT_INLINE void tile_out(const Job &job, const float *from, int64_t ch, int64_t at, int rows, int columns,
                             V &rest) const {
        const Job j = job;
        const Layout &layout = j.layout;
        const int64_t channels = std::min<int64_t>(LANES, out - ch);
        const bool part = channels < LANES || layout.channel > 1;
        const V shift = part ? V{} : j.shift(ch), scale = part ? V{} : j.scale(ch);
        V half[OUT][F], bad = rest;
        half_out<Tile>(from, m_step, half);
        const auto row_out = [&](int i, auto whole) __attribute__((always_inline)) {
            const int64_t row = at + i * layout.row;
            // where the tile after the next will be written
            EACH(k, OUT) __builtin_prefetch(j.y + row + (2 * OUT + k) * layout.column, 1);
            V sums[OUT];
            Tile::out(half[i], sums);
            EACH(k, OUT) bad += sums[k] * 0.0f;  // NaN if a sum is not finite
            const auto finish = [&](int k) {
                j.finish<SKIP, GATED, RELU>(sums[k] + shift, scale, row + k * layout.column);
            };
            if constexpr (whole()) EACH(k, OUT) finish(k);
            else if (!part) for (int k = 0; k < columns; k++) finish(k);
            else for (int64_t l = 0; l < channels; l++) {
                const int64_t at = row + l * layout.channel;
                if (columns == OUT) EACH(k, OUT) j.finish_one(sums[k][l], at + k * layout.column);
                else for (int k = 0; k < columns; k++) j.finish_one(sums[k][l], at + k * layout.column);
            }
        };
        if (rows == OUT && columns == OUT && !part) EACH(i, OUT) row_out(i, std::true_type{});  // 10 % faster
        else for (int i = 0; i < rows; i++) row_out(i, std::false_type{});
        rest = bad;
    }

    const Job &job;
    const Job *const added, *const twin;
    const int64_t edge, height, width, in, out, filled, down, across;
    const int64_t most, v_step, m_step;
};

// ---------------------------------------------------------------------------------------------------- sums over taps

class Direct {
public:
    explicit Direct(const Job &job)
        : job(job), size(job.step.size), stride(job.step.stride), before(job.step.before), in(job.source.channels),
          out(job.target.channels), filled(fill(out)) {}

    // A row of taps is contiguous in the image, and so are its weights: it is treated as one tap with more channels.
    void forward(int64_t images) const {
        const int64_t height = (job.target.height - 1) * stride + size, width = (job.target.width - 1) * stride + size;
        for (int64_t n = 0; n < images; n++) {
            const float *padded = pad(n, height, width, before);
            for (int64_t row = 0; row < job.target.height; row++) {
                float *const sums = room(job.target.width);
                for (int64_t i = 0; i < size; i++)
                    products(padded + (row * stride + i) * width * in, stride * in, size * in, weights(i, 0), filled,
                             job.target.width, sums, i);
                finish(sums, n, row, 0, 1, job.target.width);
            }
        }
    }

    // Inputs whose rows and columns have the same remainders modulo the stride receive from the same taps, and from
    // adjacent outputs.
    void back(int64_t images) const {
        const int64_t reach = (size - 1) / stride;  // how many outputs before its own place an input feeds
        const int64_t height = (job.target.height - 1 + before) / stride + 1 + reach;
        const int64_t width = (job.target.width - 1 + before) / stride + 1 + reach;
        for (int64_t n = 0; n < images; n++) {
            const float *padded = pad(n, height, width, reach);
            for (int64_t row = 0; row < job.target.height; row++)
                for (int64_t first = 0; first < std::min<int64_t>(stride, job.target.width); first++) {
                    const int64_t count = (job.target.width - first + stride - 1) / stride;
                    float *const sums = room(count);
                    bool reached = false;
                    for (int64_t i = (row + before) % stride; i < size; i += stride)
                        for (int64_t j = (first + before) % stride; j < size; j += stride) {
                            const int64_t y = (row + before - i) / stride, x = (first + before - j) / stride;
                            const float *const from = padded + ((y + reach) * width + x + reach) * in;
                            products(from, in, in, weights(i, j), filled, count, sums, reached);
                            reached = true;
                        }
                    if (!reached) std::fill(sums, sums + count * filled, 0.0f);  // no tap reaches these inputs
                    finish(sums, n, row, first, stride, count);
                }
        }
    }

private:
    const float *weights(int64_t i, int64_t j) const { return job.step.weights + (i * size + j) * in * filled; }

    // An image padded with zeros, its gate applied or its mean subtracted. products() may read past the end.
    const float *pad(int64_t n, int64_t height, int64_t width, int64_t edge) const {
        float *const to = scratch.padded.room((height * width + 2 * ROWS * stride + width) * in);
        const Layout layout(job.source);
        const int64_t line = job.source.width * in, left = std::min(edge, width);
        const int64_t inside = std::min(width - left, int64_t(job.source.width)) * in;
        for (int64_t row = 0; row < height; row++) {
            float *const at = to + row * width * in;
            const int64_t source = row - edge;
            if (source < 0 || source >= job.source.height) {
                std::fill(at, at + width * in, 0.0f);
                continue;
            }
            const float *const from = job.x + n * layout.image + source * layout.row;
            const Gate *const gate = job.gate ? job.gate + (n * job.source.height + source) * line / LANES : nullptr;
            float *const image = std::fill_n(at, left * in, 0.0f);
            if (gate) {
                for (int64_t i = 0; i < inside; i += LANES)
                    write<float>(image + i, gated(read<float>(from + i), gate[i / LANES]));
            } else if (!job.source.planar && !job.step.mean) {
                std::copy(from, from + inside, image);
            } else for (int64_t ch = 0; ch < in; ch++) {
                const float mean = job.step.mean ? job.step.mean[ch] : 0;
                for (int64_t i = 0; i < inside / in; i++)
                    image[i * in + ch] = from[i * layout.column + ch * layout.channel] - mean;
            }
            std::fill(image + inside, at + width * in, 0.0f);
        }
        return to;
    }

    // Memory for the sums of `count` outputs.
    float *room(int64_t count) const { return scratch.m.room((count + ROWS) * filled); }

    // Write `count` outputs of a row, from column `first` on, `apart` columns from one to the next.
    void finish(const float *sums, int64_t n, int64_t row, int64_t first, int64_t apart, int64_t count) const {
        const Layout layout(job.target);
        const int64_t at = n * layout.image + row * layout.row + first * layout.column;
        if (out == filled) {
            job.specialised([&](auto skip, auto gated, auto relu) {
                for (int64_t ch = 0; ch < out; ch += LANES) {
                    const V shift = job.shift(ch), scale = job.scale(ch);
                    for (int64_t p = 0; p < count; p++) {
                        const V value = read<float>(sums + p * out + ch) + shift;
                        job.finish<skip(), gated(), relu()>(value, scale, at + p * apart * out + ch);
                    }
                }
            });
        } else {
            for (int64_t p = 0; p < count; p++)
                for (int64_t ch = 0; ch < out; ch++)
                    job.finish_one(sums[p * filled + ch], at + p * apart * layout.column + ch * layout.channel);
        }
    }

    const Job &job;
    const int64_t size, stride, before, in, out, filled;
};

// ------------------------------------------------------------------------------------------------------------- chains

// ADD; the channels are a multiple of LANES.
void add(const Job &job, int64_t images) {
    const int64_t channels = job.target.channels, end = images * job.target.height * job.target.width * channels;
    for (int64_t ch = 0; ch < channels; ch += LANES)
        for (int64_t at = ch; at < end; at += channels) {
            V value = read<float>(job.skip + at);
            if (job.skip_gate) value = gated(value, job.skip_gate[at / LANES]);
            value *= job.scale(ch);
            write<float>(job.y + at, job.x ? value + read<float>(job.x + at) : value);
        }
}

bool run(const Job &job, const Job *other, int64_t images) {
    switch (job.step.method) {
        case ADD: add(job, images); return true;
        case SAME: return Winograd<Same>(job, other, 1).run(images);
        case SHRINK: return Winograd<Shrink>(job, other, job.step.before).run(images);
        case GROW:
            if (job.step.before) return Winograd<Grow<1>>(job, other, 0).run(images);
            return Winograd<Grow<0>>(job, other, 1).run(images);
        case DIRECT: Direct(job).forward(images); return true;
        case BACK: Direct(job).back(images); return true;
    }
    return false;
}

int64_t size_of(const Value &value) { return int64_t(value.channels) * value.height * value.width; }

// Run steps [from, to) on images [first, last) of the group that begins at image `group`.
bool run(const Chain &chain, int from, int to, int64_t first, int64_t last, int64_t group) {
    float *const kept = scratch.kept.room(chain.scratch);
    const auto data = [&](int32_t value) -> float * {
        if (value < 0) return nullptr;
        const Value &v = chain.values[value];
        return v.data ? v.data + first * size_of(v) : kept + v.offset + (v.whole ? (first - group) * size_of(v) : 0);
    };
    const auto gate = [&](int32_t value) -> Gate * {
        if (value < 0 || !chain.values[value].gate) return nullptr;
        return chain.values[value].gate + first * size_of(chain.values[value]) / LANES;
    };
    const auto job = [&](const Step &s) {
        const Value &target = chain.values[s.target], &source = s.source < 0 ? target : chain.values[s.source];
        return Job{data(s.source), data(s.skip), gate(s.gate), gate(s.skip_gate), data(s.target), gate(s.target),
                   s, source, target, Layout(target)};
    };
    bool finite = true;
    for (int i = from; i < to; i++) {
        const Job one = job(chain.steps[i]), *other = nullptr;
        std::optional<Job> joined;
        if (i + 1 < to && chain.steps[i + 1].joined) other = &joined.emplace(job(chain.steps[++i]));
        finite = run(one, other, last - first) && finite;
    }
    return finite;
}

// Run all steps on a group of images.
bool run(const Chain &chain, int64_t first, int64_t last) {
    bool finite = true;
    for (int from = 0, to = 0; from < chain.length; from = to) {
        const int32_t room = chain.steps[from].room;
        while (to < chain.length && chain.steps[to].room == room) to++;
        for (int64_t at = first; at < last; at += room)
            finite = run(chain, from, to, at, std::min(at + room, last), first) && finite;
    }
    return finite;
}

}  // namespace

extern "C" {

int32_t conv_lanes() { return LANES; }

int32_t conv_same(const void *a, const void *b, int64_t bytes) { return std::memcmp(a, b, bytes) == 0; }

// Winograd's transform, for stride 1 or 2, of filters (out, in, 3, 3), times a scale per output channel (null: 1).
// The result is (36, in, out). If `turned`, it is (36, out, in), of the filters rotated by 180 degrees, which take the
// gradient of the outputs to that of the inputs. The last dimension of the result must be a multiple of conv_lanes().
void conv_weights(const float *filters, const float *scale, int64_t out, int64_t in, int32_t stride, int32_t turned,
                  float *u) {
    const auto transform = stride == 1 ? Same::filter : Halves::filter;
    const int64_t rows = turned ? out : in, columns = turned ? in : out;
    const int64_t row_step = turned ? in * 9 : 9, column_step = turned ? 9 : in * 9;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t first = 0; first < columns; first += LANES) {
            Wide w[3][3], half[3][MATRICES];
            double given[9][LANES];
            const float *from = filters + r * row_step + first * column_step;
            for (int l = 0; l < LANES; l++) {
                const double factor = !scale ? 1 : turned ? scale[r] : scale[first + l];
                EACH(k, 9) given[k][l] = factor * from[l * column_step + (turned ? 8 - k : k)];
            }
            EACH(j, 3) {
                EACH(i, 3) std::memcpy(&w[j][i], given[3 * i + j], sizeof(Wide));
                transform(w[j], half[j]);
            }
            EACH(i, MATRICES) {
                const Wide row[3] = {half[0][i], half[1][i], half[2][i]};
                Wide done[MATRICES];
                transform(row, done);
                EACH(j, MATRICES) {
                    float *const to = u + ((i * MATRICES + j) * rows + r) * columns + first;
                    write<float>(to, __builtin_convertvector(done[j], V));
                }
            }
        }
}

// Returns 0 if a sum is not finite, because Winograd's transforms spread NaN and infinity to other pixels of a tile; or
// if memory is short.
int32_t conv_run(const Chain *chain) {
    // groups of equal size, equally many per thread
    const int64_t images = chain->images, most = int64_t(chain->group) * chain->threads;
    const int64_t groups = std::max<int64_t>((images + most - 1) / most, 1) * chain->threads;
    const int64_t group = std::max<int64_t>((images + groups - 1) / groups, 1);
    int finite = 1;
#pragma omp parallel for schedule(dynamic) num_threads(chain->threads) if (chain->threads > 1) reduction(&& : finite)
    for (int64_t first = 0; first < images; first += group) {
        try {
            finite = run(*chain, first, std::min(first + group, images)) && finite;
        } catch (const std::bad_alloc &) {
            finite = 0;
        }
    }
    return finite;
}

}  // extern "C"
