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
#define UNROLL _Pragma("clang loop unroll(full)")

enum { CHANNELS = 4, MOST_ROWS = 6, PANEL = 8 }; /* of a tile; tiles whose windows are laid out at a time */

/* The order of the integers that arm/kernels.py hands over. */
struct shape {
  int32_t n, h, w, c;   /* images, rows, columns, bytes of a pixel */
  int32_t o, kh, kw;    /* output channels, rows and columns of the kernel */
  int32_t down, right;  /* stride */
  int32_t top, left;    /* padding */
  int32_t ho, wo;       /* rows and columns of the output */
  int32_t steps;        /* ceil(kh * kw * c / 16) */
  int32_t run;          /* steps that an 8-bit lane holds */
  int32_t zero;         /* is subtracted from each code of the image; padding is code 0 */
  int32_t scale;        /* output = constant[channel] + scale * sum + window * (sum of the window's operands) */
  int32_t window;
  int32_t planes;       /* bits of an activation, where they are apart */
};

INLINE int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

/* Copy `bytes` codes, less zero, into vectors `stride` bytes apart. Needs a multiple of 16, or stride 16. */
INLINE int8_t *copy_codes(int8_t *to, int stride, const uint8_t *from, int bytes, int8x16_t zero) {
  for (; bytes >= 16; bytes -= 16, from += 16, to += stride) {
    vst1q_s8(to, vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(from)), zero));
  }
  if (bytes & 8) {
    vst1_s8(to, vsub_s8(vreinterpret_s8_u8(vld1_u8(from)), vget_low_s8(zero)));
    from += 8, to += 8;
  }
  for (bytes &= 7; bytes > 0; --bytes) *to++ = (int8_t)(*from++ - vgetq_lane_s8(zero, 0));
  return to;
}

/* Write `bytes` codes 0, less zero, as copy_codes does. */
INLINE int8_t *pad_codes(int8_t *to, int stride, int bytes, int8x16_t zero) {
  for (; bytes >= 16; bytes -= 16, to += stride) vst1q_s8(to, vnegq_s8(zero));
  if (bytes & 8) vst1_s8(to, vneg_s8(vget_low_s8(zero))), to += 8;
  for (bytes &= 7; bytes > 0; --bytes) *to++ = (int8_t)-vgetq_lane_s8(zero, 0);
  return to;
}

/* The window of an output pixel, as vectors `stride` bytes apart. `line` has room for all steps; it is used where the
   channels do not fill vectors. */
INLINE void lay_out_window(const struct shape *s, const uint8_t *x, int pixel, int8_t *to, int stride, int8_t *line) {
  const int column = pixel % s->wo, row = pixel / s->wo % s->ho, image = pixel / s->wo / s->ho;
  const int8x16_t zero = vdupq_n_s8((int8_t)s->zero);
  const int direct = s->c % 16 == 0;
  const int bytes = s->c, width = s->kw * bytes;
  int8_t *at = direct ? to : line;
  const int apart = direct ? stride : 16;
  const int first = column * s->right - s->left, y0 = row * s->down - s->top;
  const int before = first < 0 ? (-first < s->kw ? -first : s->kw) : 0;
  const int end = first + s->kw > s->w ? s->w - first : s->kw;
  const int inside = end > before ? end - before : 0;
  const uint8_t *from = x + ((int64_t)(image * s->h + y0) * s->w + first + before) * bytes;
  for (int i = 0; i < s->kh; ++i, from += s->w * bytes) {
    if (y0 + i < 0 || y0 + i >= s->h || !inside) {
      at = pad_codes(at, apart, width, zero);
      continue;
    }
    at = pad_codes(at, apart, before * bytes, zero);
    at = copy_codes(at, apart, from, inside * bytes, zero);
    at = pad_codes(at, apart, (s->kw - before - inside) * bytes, zero);
  }
  if (direct) return;
  for (int8_t *rest = line + s->steps * 16; at < rest; ++at) *at = 0;
  for (int k = 0; k < s->steps; ++k) vst1q_s8(to + k * stride, vld1q_s8(line + k * 16));
}

/* A tile: `rows` windows by CHANNELS rows of weights; `channels` of them are outputs. */
typedef void tile_function(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                           const int32_t *window, int32_t *out, int rows, int channels);
/* What the operands of `rows` windows sum to. */
typedef void window_function(const struct shape *s, const int8_t *a, int32_t *window, int rows);

/* Store a pixel's outputs. */
INLINE void store(const struct shape *s, int32_t *out, int32x4_t sum, int32x4_t constant, int32_t window,
                  int channels) {
  const int32x4_t value = vmlaq_n_s32(vaddq_s32(constant, vdupq_n_s32(window)), sum, s->scale);
  if (channels == CHANNELS) {
    vst1q_s32(out, value);
    return;
  }
  out[0] = vgetq_lane_s32(value, 0);
  if (channels > 1) out[1] = vgetq_lane_s32(value, 1);
  if (channels > 2) out[2] = vgetq_lane_s32(value, 2);
}

/* Needs x[n * h * w * c], w[ceil(o / 4)][steps][4][16] and behind it int32 constant[4 * ceil(o / 4)],
   out[n * ho * wo * o], and of work PANEL * most * 4 bytes, and (PANEL * most + 1) * steps * 16 bytes. */
INLINE void convolve(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work,
                     const int most, tile_function *tile, window_function *sum_windows) {
  const int total = s->n * s->ho * s->wo, line = s->steps * 16;
  const int tiles = (total + most - 1) / most, groups = round_up(s->o, CHANNELS) / CHANNELS;
  if (total == 0) return;
  const int rows = total / tiles, larger = total % tiles; /* as even as can be: tiles before `larger` have one more */
  const int32_t *constants = (const int32_t *)(w + (int64_t)groups * CHANNELS * line);
  int32_t *windows = (int32_t *)work;
  int8_t *panel = (int8_t *)(windows + PANEL * most), *spare = panel + PANEL * most * line;
  for (int start = 0, pixel = 0; start < tiles; start += PANEL) {
    const int stop = start + PANEL < tiles ? start + PANEL : tiles, base = pixel;
    for (int t = start; t < stop; ++t) {
      const int count = rows + (t < larger);
      int8_t *to = panel + (pixel - base) * line;
      for (int i = 0; i < count; ++i) lay_out_window(s, x, pixel + i, to + i * 16, count * 16, spare);
      sum_windows(s, to, windows + pixel - base, count);
      pixel += count;
    }
    for (int g = 0; g < groups; ++g) {
      const int channels = s->o - g * CHANNELS < CHANNELS ? s->o - g * CHANNELS : CHANNELS;
      for (int t = start, at = base; t < stop; ++t) {
        const int count = rows + (t < larger);
        tile(s, panel + (at - base) * line, w + (int64_t)g * CHANNELS * line, constants + g * CHANNELS,
             windows + at - base, out + (int64_t)at * s->o + g * CHANNELS, count, channels);
        at += count;
      }
    }
  }
}

/* Window sums of signed bytes, times s->window. */
INLINE void sum_bytes(const struct shape *s, const int8_t *a, int32_t *window, int rows) {
  for (int i = 0; i < rows; ++i) {
    int32x4_t sum = vdupq_n_s32(0);
    if (s->window) {
      for (int k = 0; k < s->steps; ++k) sum = vpadalq_s16(sum, vpaddlq_s8(vld1q_s8(a + (k * rows + i) * 16)));
    }
    window[i] = vaddvq_s32(sum) * s->window;
  }
}

#endif
