/* What all convolutions share: the shape, windows laid out as panels, and the loop over tiles.

   A convolution is a product of matrices: the windows of the image (pixels x K bytes, K = kh * kw * c) by the weights
   (o x K bytes). Both are cut into steps of 16 bytes. A tile is a few pixels by CHANNELS output channels; its operands
   are contiguous, in the order in which they are read: [step][pixel][16] and [step][channel][16].

   Everything is raw pointers, of any alignment; there is no libc. Bytes beyond K in the last step are 0, in windows and
   in weights. */

#ifndef QUANTGAP_FRAME_H
#define QUANTGAP_FRAME_H

#include <arm_neon.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(TEXT) _Pragma(#TEXT)
#ifdef __clang__
#define UNROLL PRAGMA(clang loop unroll(full))
#define UNROLL_BY(TIMES) PRAGMA(clang loop unroll_count(TIMES))
#else
#define UNROLL PRAGMA(GCC unroll 16)
#define UNROLL_BY(TIMES) PRAGMA(GCC unroll TIMES)
#endif
/* The four are computed before what follows is begun: a scheduler that begins all at once runs out of registers. */
#define FINISH(v) __asm__ volatile("" : "+w"((v)[0]), "+w"((v)[1]), "+w"((v)[2]), "+w"((v)[3]))

enum { CHANNELS = 4, MOST_ROWS = 6, PANEL = 8 }; /* of a tile; tiles whose windows are laid out at a time */

/* The order of the integers that arm/kernels.py hands over. */
struct shape {
  int32_t n, h, w, c;   /* images, rows, columns, bytes of a pixel */
  int32_t o, kh, kw;    /* output channels, rows and columns of the kernel */
  int32_t down, right;  /* stride */
  int32_t top, left;    /* padding */
  int32_t ho, wo;       /* rows and columns of the output */
  int32_t steps;        /* ceil(kh * kw * c / 16), rounded up to whole units */
  int32_t run;          /* steps that an 8-bit lane holds */
  int32_t zero;         /* is subtracted from each code of the image; padding is code 0 */
  int32_t scale;        /* output = constant[channel] + scale * sum + window * (sum of the window's operands) */
  int32_t window;
};

INLINE int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

/* Codes, less zero. */
INLINE int8x16_t less(const uint8_t *from, int8x16_t zero) {
  return vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(from)), zero);
}

/* Copy `bytes` codes, less zero, into units of `unit` vectors that are `stride` bytes apart. Needs a whole number of
   units, or units without gaps. */
INLINE int8_t *copy_codes(int8_t *to, int64_t stride, const uint8_t *from, int bytes, int8x16_t zero, const int unit) {
  for (; bytes >= 16 * unit; bytes -= 16 * unit, from += 16 * unit, to += stride) {
    int8x16_t codes[2];
    UNROLL for (int i = 0; i < unit; ++i) codes[i] = less(from + 16 * i, zero);
    UNROLL for (int i = 0; i < unit; ++i) vst1q_s8(to + 16 * i, codes[i]);
  }
  for (; bytes >= 16; bytes -= 16, from += 16, to += 16) vst1q_s8(to, less(from, zero));
  if (bytes & 8) {
    vst1_s8(to, vsub_s8(vreinterpret_s8_u8(vld1_u8(from)), vget_low_s8(zero)));
    from += 8, to += 8;
  }
  for (bytes &= 7; bytes > 0; --bytes) *to++ = (int8_t)(*from++ - vgetq_lane_s8(zero, 0));
  return to;
}

/* Write `bytes` codes 0, less zero, as copy_codes does. */
INLINE int8_t *pad_codes(int8_t *to, int64_t stride, int bytes, int8x16_t zero, const int unit) {
  for (; bytes >= 16 * unit; bytes -= 16 * unit, to += stride) {
    UNROLL for (int i = 0; i < unit; ++i) vst1q_s8(to + 16 * i, vnegq_s8(zero));
  }
  for (; bytes >= 16; bytes -= 16, to += 16) vst1q_s8(to, vnegq_s8(zero));
  if (bytes & 8) vst1_s8(to, vneg_s8(vget_low_s8(zero))), to += 8;
  for (bytes &= 7; bytes > 0; --bytes) *to++ = (int8_t)-vgetq_lane_s8(zero, 0);
  return to;
}

/* The window of an output pixel, in units of vectors that are `stride` bytes apart. `line` has room for all steps; it
   is used where the channels do not fill units. */
INLINE void lay_out_window(const struct shape *s, const uint8_t *x, int pixel, int8_t *to, int64_t stride, int8_t *line,
                           const int unit) {
  const int column = pixel % s->wo, row = pixel / s->wo % s->ho, image = pixel / s->wo / s->ho;
  const int8x16_t zero = vdupq_n_s8((int8_t)s->zero);
  const int direct = s->c % (16 * unit) == 0;
  const int bytes = s->c, width = s->kw * bytes;
  int8_t *at = direct ? to : line;
  const int64_t apart = direct ? stride : 16 * unit;
  const int first = column * s->right - s->left, y0 = row * s->down - s->top;
  const int before = first < 0 ? (-first < s->kw ? -first : s->kw) : 0;
  const int end = first + s->kw > s->w ? s->w - first : s->kw;
  const int inside = end > before ? end - before : 0;
  const uint8_t *from = x + ((int64_t)(image * s->h + y0) * s->w + first + before) * bytes;
  for (int i = 0; i < s->kh; ++i, from += s->w * bytes) {
    if (y0 + i < 0 || y0 + i >= s->h || !inside) {
      at = pad_codes(at, apart, width, zero, unit);
      continue;
    }
    at = pad_codes(at, apart, before * bytes, zero, unit);
    at = copy_codes(at, apart, from, inside * bytes, zero, unit);
    at = pad_codes(at, apart, (s->kw - before - inside) * bytes, zero, unit);
  }
  if (direct) return;
  for (const int8_t *end_of_line = line + s->steps * 16; at < end_of_line; ++at) *at = 0;
  for (int k = 0; k < s->steps; k += unit, line += 16 * unit, to += stride) {
    UNROLL for (int i = 0; i < unit; ++i) vst1q_s8(to + 16 * i, vld1q_s8(line + 16 * i));
  }
}

/* A tile: the windows of `pixels` pixels by CHANNELS rows of weights; `channels` of them are outputs. */
typedef void tile_function(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                           const int32_t *window, int32_t *out, int pixels, int channels);
/* What the operands of each pixel's windows sum to, times s->window. */
typedef void window_function(const struct shape *s, const int8_t *a, int32_t *window, int pixels);

/* Call BODY with the number of pixels as a constant, from 1 to 6. */
#define FOR_CONSTANT(PIXELS, BODY) \
  switch (PIXELS) {                \
    case 1: BODY(1); break;        \
    case 2: BODY(2); break;        \
    case 3: BODY(3); break;        \
    case 4: BODY(4); break;        \
    case 5: BODY(5); break;        \
    default: BODY(6);              \
  }

/* Store the outputs of some pixels. */
INLINE void store(const struct shape *s, int32_t *out, const int32x4_t *sum, const int32_t *constant,
                  const int32_t *window, const int pixels, int channels) {
  const int32_t scale = s->scale;
  const int64_t stride = s->o;
  const int32x4_t constants = vld1q_s32(constant);
  int32x4_t value[MOST_ROWS];
  UNROLL for (int i = 0; i < pixels; ++i) {
    value[i] = vmlaq_n_s32(vaddq_s32(constants, vld1q_dup_s32(window + i)), sum[i], scale);
  }
  if (channels == CHANNELS) {
    UNROLL for (int i = 0; i < pixels; ++i) vst1q_s32(out + i * stride, value[i]);
    return;
  }
  UNROLL for (int i = 0; i < pixels; ++i) {
    out[i * stride] = vgetq_lane_s32(value[i], 0);
    if (channels > 1) out[i * stride + 1] = vgetq_lane_s32(value[i], 1);
    if (channels > 2) out[i * stride + 2] = vgetq_lane_s32(value[i], 2);
  }
}

/* Needs x[planes][n * h * w * c], w[ceil(o / 4)][steps][4][16] and behind it int32 constant[4 * ceil(o / 4)],
   out[n * ho * wo * o], and of work PANEL * most * 4 bytes, and (PANEL * most * planes + 1) * steps * 16 bytes.
   A tile has at most `most` pixels, each of which has `planes` windows; these are laid out in units of `unit` steps,
   [steps / unit][window][unit][16], of which s->steps is a multiple. */
INLINE void convolve(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work,
                     const int most, const int planes, const int unit, tile_function *tile, window_function *sum_windows) {
  const int total = s->n * s->ho * s->wo, line = s->steps * 16;
  const int tiles = (total + most - 1) / most, groups = round_up(s->o, CHANNELS) / CHANNELS;
  if (total == 0) return;
  const int few = total / tiles, larger = total % tiles; /* as even as can be: tiles before `larger` have one more */
  const int64_t plane = (int64_t)s->n * s->h * s->w * s->c;
  const int32_t *constants = (const int32_t *)(w + (int64_t)groups * CHANNELS * line);
  int32_t *windows = (int32_t *)work;
  int8_t *panel = (int8_t *)(windows + PANEL * most), *spare = panel + PANEL * most * planes * line;
  for (int start = 0, pixel = 0; start < tiles; start += PANEL) {
    const int stop = start + PANEL < tiles ? start + PANEL : tiles, base = pixel;
    int8_t *to = panel;
    for (int t = start; t < stop; ++t) {
      const int count = few + (t < larger), rows = count * planes;
      for (int i = 0; i < rows; ++i) {
        int8_t *first = to + i * unit * 16;
        lay_out_window(s, x + i % planes * plane, pixel + i / planes, first, (int64_t)rows * unit * 16, spare, unit);
      }
      sum_windows(s, to, windows + pixel - base, count);
      to += rows * line, pixel += count;
    }
    for (int g = 0; g < groups; ++g, w += CHANNELS * line, constants += CHANNELS) {
      const int channels = s->o - g * CHANNELS < CHANNELS ? s->o - g * CHANNELS : CHANNELS;
      const int8_t *a = panel;
      const int32_t *window = windows;
      int32_t *o = out + (int64_t)base * s->o + g * CHANNELS;
      for (int t = start; t < stop; ++t) {
        const int count = few + (t < larger);
        tile(s, a, w, constants, window, o, count, channels);
        a += count * planes * line, window += count, o += (int64_t)count * s->o;
      }
    }
    w -= (int64_t)groups * CHANNELS * line, constants -= groups * CHANNELS;
  }
}

/* Window sums of signed bytes. */
INLINE void sum_bytes(const struct shape *s, const int8_t *a, int32_t *window, int pixels, const int unit) {
  for (int i = 0; i < pixels; ++i, a += unit * 16) {
    int32x4_t sum = vdupq_n_s32(0);
    const int8_t *from = a;
    if (s->window) {
      for (int k = s->steps; k > 0; k -= unit, from += pixels * unit * 16) {
        UNROLL for (int u = 0; u < unit; ++u) sum = vpadalq_s16(sum, vpaddlq_s8(vld1q_s8(from + u * 16)));
      }
    }
    window[i] = vaddvq_s32(sum) * s->window;
  }
}

static inline void sum_steps(const struct shape *s, const int8_t *a, int32_t *window, int pixels) {
  sum_bytes(s, a, window, pixels, 1);
}

static inline void sum_pairs(const struct shape *s, const int8_t *a, int32_t *window, int pixels) {
  sum_bytes(s, a, window, pixels, 2);
}

#endif
