// Chains of convolutions, with what follows each in an evaluated network: a shift, a skip connection, ReLU.
//
// Images are (images, height, width, channels). A group of them goes through all steps of a chain, and through steps of
// one size a few at a time, so that what lies between the steps stays in the second-level cache, if channels are few.
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

constexpr int64_t LINE = 16;  // floats of a cache line, between frequencies: powers of two would share cache sets
constexpr int64_t BLOCK_BYTES = 640 << 10;  // of transformed tiles, but ROWS of them at least

}  // namespace

extern "C" {
// Mirrored by kafnets/ops/native/conv.py.
struct Value {
    float *data;     // (images, height, width, channels), or null
    Gate *gate;      // likewise, in vectors of channels: what ReLU let through; null where nobody asks
    int64_t offset;  // without data: kept in scratch memory, from here on, for the images at hand alone,
    int32_t whole;   // or for the whole group
    int32_t planar;  // data is (images, channels, height, width): of a source of DIRECT or a target of partial vectors
    int32_t channels, height, width;
};

enum Method : int32_t { ADD, SAME, SHRINK, GROW, DIRECT, BACK };

// target = relu(conv(source - mean) + shift + skip_scale skip); source and skip count where the gates of other values
// let them through. -1 and null: none. ADD leaves the convolution out: source is added as it is. SAME, SHRINK and GROW
// are Winograd's; GROW and BACK take the gradient of a convolution's outputs to that of its inputs, of SHRINK and
// DIRECT.
struct Step {
    int32_t source, gate, skip, skip_gate, target, relu;
    Method method;
    int32_t room;                  // for as many images at a time, in all steps in a row that have this room
    int32_t parts;                 // of Winograd's: as many sums over channels, added up
    int32_t size, stride, before;  // of the filter, and zeros above and left of the image
    const float *weights;  // matrices, as products() reads them, by frequency and part or by tap
    const float *shift, *skip_scale;  // (target's channels)
    const float *mean;                // (source's channels): taken from every pixel; of DIRECT alone
    int32_t joined;  // to the step before, of the same method and sizes: both have one source and gate, or one target
};

struct Chain {
    int64_t images, scratch;  // floats that values without data take
    const Value *values;
    const Step *steps;
    int32_t length, group, threads;  // the most images of a group
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
            std::fill(data.get(), data.get() + floats, 0.0f);  // `zeros` stay so
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

// Kept from call to call: fresh memory costs more than it is used for.
struct Scratch {
    Buffer v, m, zeros, padded, kept;
};
thread_local Scratch scratch;

// From one number of a value to the next.
struct Layout {
    int64_t image, row, column, channel;

    explicit Layout(const Value &v)
        : image(int64_t(v.channels) * v.height * v.width), row(int64_t(v.width) * (v.planar ? 1 : v.channels)),
          column(v.planar ? 1 : v.channels), channel(v.planar ? int64_t(v.height) * v.width : 1) {}
};

// As many channels in whole vectors.
constexpr int64_t fill(int64_t channels) { return (channels + LANES - 1) / LANES * LANES; }

// A step on a few images: what it reads and writes.
struct Job {
    const float *x, *skip;
    const Gate *gate, *skip_gate;
    float *y;
    Gate *passed;
    const Step &step;
    const Value &source, &target;
    const Layout layout;  // of the target

    // What is left to do with a vector of sums, at a place in y.
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

    // Call `work` with what finish() has to be told, known to the compiler.
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

    // The same for a single number: a gradient's, of an input whose channels do not fill vectors.
    void finish_one(float value, int64_t at) const { y[at] = skip ? value + skip[at] : value; }

    V shift(int64_t ch) const { return step.shift ? read<float>(step.shift + ch) : V{}; }
    V scale(int64_t ch) const { return step.skip_scale ? read<float>(step.skip_scale + ch) : splat<float>(1); }
};

// ------------------------------------------------------------------------------------------------------------ Winograd

template <class Tile>
class Winograd {
public:
    // Tiles begin `edge` pixels before the image. Another job is done on the way: its sums are added to those of this
    // one, if it has the same target; otherwise it has the same source, through the same gate.
    Winograd(const Job &job, const Job *other, int64_t edge)
        : job(job), added(other && other->y == job.y ? other : nullptr), twin(added ? nullptr : other), edge(edge),
          height(job.target.height), width(job.target.width), in(job.source.channels), out(job.target.channels),
          filled(fill(out)), down((height + OUT - 1) / OUT), across((width + OUT - 1) / OUT), most(tiles_together()),
          v_step(most * in + LINE), m_step(most * filled + LINE) {}

    // Returns whether the sums are finite.
    bool run(int64_t images) const {
        const int64_t all = F * F * v_step;
        float *const v = scratch.v.room((added ? 2 : 1) * all + ROWS * in);  // products may take places past the last
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

    // Of a tile among others.
    struct Place {
        int64_t image, row, column;
    };

    // Call `work` for tiles side by side: where they begin, how many they are, and their number, from 0.
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
            if constexpr (GATED) gates[i] = job.gate + (at + column * in) / LANES;  // any does for zeros
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

    // The tiles' products at all frequencies, and those of another job added.
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

    // A vector of channels, from `ch` on, of a tile of which so many rows and columns lie in the image, `at` in y.
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
            // where the tile after the next goes
            EACH(k, OUT) __builtin_prefetch(j.y + row + (2 * OUT + k) * layout.column, 1);
            V sums[OUT];
            Tile::out(half[i], sums);
            EACH(k, OUT) bad += sums[k] * 0.0f;  // NaN from anything that is not finite
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
        if (rows == OUT && columns == OUT && !part) EACH(i, OUT) row_out(i, std::true_type{});  // a tenth faster
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

    // A row of taps lies side by side in an image, and so do its weights: it is one tap of more channels.
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

    // Inputs whose rows and columns leave the same remainders are reached by the same taps, from outputs side by side.
    void back(int64_t images) const {
        const int64_t reach = (size - 1) / stride;  // outputs before the one at an input that it goes into
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
                    if (!reached) std::fill(sums, sums + count * filled, 0.0f);  // no filter reaches these inputs
                    finish(sums, n, row, first, stride, count);
                }
        }
    }

private:
    const float *weights(int64_t i, int64_t j) const { return job.step.weights + (i * size + j) * in * filled; }

    // An image within zeros, its gate applied and its mean taken away; a product may read past the last place.
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

    // For so many outputs.
    float *room(int64_t count) const { return scratch.m.room((count + ROWS) * filled); }

    // Outputs of a row: `count` of them, from the column `first` on, `apart`.
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

// channels: a multiple of LANES.
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

// Images [first, last) of the group that begins at `group`, through steps [from, to).
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

// A group of images through all steps.
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

// Filters (out, in, 3, 3), each output channel times its scale (null: 1), transformed for a stride of 1 or 2:
// (36, in, out); or `turned`, (36, out, in) of the filters rotated by half a turn, which take the gradient of the
// outputs to that of the inputs. Columns of the result: a multiple of conv_lanes().
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

// Returns 0 where a sum is not finite, since Winograd's transforms have mixed what convolutions keep apart; and where
// memory is short.
int32_t conv_run(const Chain *chain) {
    // groups of one size, as many for each thread
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
