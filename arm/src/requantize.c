/* Sums to the codes of the next layer. */

#include "frame.h"

enum { MOST_LEVELS = 15 }; /* of thresholds that stay in registers */

/* Eight sums less a number each, as far as 16 bits go: what is beyond stays beyond all thresholds. */
INLINE int16x8_t narrowed(const int32_t *sums, const int32x4_t *flip, const int32x4_t *base) {
  const int32x4_t low = vqsubq_s32(veorq_s32(vld1q_s32(sums), flip[0]), base[0]);
  const int32x4_t high = vqsubq_s32(veorq_s32(vld1q_s32(sums + 4), flip[1]), base[1]);
  return vqmovn_high_s32(vqmovn_s32(low), high);
}

/* Eight channels of all rows, two rows at a time; `levels` is a constant. */
INLINE void requantize_8(int rows, int64_t channels, const int32_t *sums, const int16_t *thresholds,
                         const int32_t *flips, const int32_t *bases, uint8_t *codes, const int levels) {
  const int32x4_t flip[2] = {vld1q_s32(flips), vld1q_s32(flips + 4)};
  const int32x4_t base[2] = {vld1q_s32(bases), vld1q_s32(bases + 4)};
  int16x8_t t[MOST_LEVELS];
  UNROLL for (int k = 0; k < levels; ++k) t[k] = vld1q_s16(thresholds + k * channels);
  for (; rows > 0; rows -= 2, sums += 2 * channels, codes += 2 * channels) {
    const int16x8_t one = narrowed(sums, flip, base), two = rows > 1 ? narrowed(sums + channels, flip, base) : one;
    int16x8_t of_one = vdupq_n_s16(0), of_two = vdupq_n_s16(0); /* each comparison is 0 or -1 */
    UNROLL for (int k = 0; k < levels; ++k) {
      of_one = vsubq_s16(of_one, vreinterpretq_s16_u16(vcgeq_s16(one, t[k])));
      of_two = vsubq_s16(of_two, vreinterpretq_s16_u16(vcgeq_s16(two, t[k])));
    }
    const uint8x16_t both = vuzp1q_u8(vreinterpretq_u8_s16(of_one), vreinterpretq_u8_s16(of_two));
    vst1_u8(codes, vget_low_u8(both));
    if (rows > 1) vst1_u8(codes + channels, vget_high_u8(both));
  }
}

/* Needs sums[rows * channels], thresholds[levels][channels], of at least -32767, flips[channels], 0 or -1,
   bases[channels], and codes[rows * channels]. shape is {rows, channels, levels}.
   code = number of thresholds that (sum ^ flip) - base reaches. */
EXPORT void qg_requantize16(const int32_t *shape, const int32_t *sums, const int16_t *thresholds, const int32_t *flips,
                            const int32_t *bases, uint8_t *codes) {
  const int rows = shape[0], channels = shape[1], levels = shape[2];
  int o = 0;
  for (; o + 8 <= channels; o += 8) {
#define FOR(LEVELS) requantize_8(rows, channels, sums + o, thresholds + o, flips + o, bases + o, codes + o, LEVELS)
    switch (levels) {
      case 1: FOR(1); continue;
      case 3: FOR(3); continue;
      case 7: FOR(7); continue;
      case 15: FOR(15); continue;
    }
#undef FOR
    break;
  }
  for (int r = 0; r < rows; ++r, sums += channels, codes += channels) {
    for (int i = o; i < channels; ++i) {
      const int64_t value = (int64_t)(sums[i] ^ flips[i]) - bases[i];
      int code = 0;
      for (int k = 0; k < levels; ++k) code += value >= thresholds[(int64_t)k * channels + i];
      codes[i] = (uint8_t)code;
    }
  }
}

/* Needs sums[rows * channels], thresholds[levels][channels], flips[channels], 0 or -1, and codes[rows * channels].
   shape is {rows, channels, levels}. code = number of thresholds that sum ^ flip reaches. */
EXPORT void qg_requantize(const int32_t *shape, const int32_t *sums, const int32_t *thresholds, const int32_t *flips,
                          uint8_t *codes) {
  const int rows = shape[0], channels = shape[1], levels = shape[2];
  for (int r = 0; r < rows; ++r, sums += channels, codes += channels) {
    int o = 0;
    for (; o + 4 <= channels; o += 4) {
      const int32x4_t sum = veorq_s32(vld1q_s32(sums + o), vld1q_s32(flips + o));
      int32x4_t found = vdupq_n_s32(0);
      for (int k = 0; k < levels; ++k) {
        found = vsubq_s32(found, vreinterpretq_s32_u32(vcgeq_s32(sum, vld1q_s32(thresholds + (int64_t)k * channels + o))));
      }
      UNROLL for (int i = 0; i < 4; ++i) codes[o + i] = (uint8_t)found[i];
    }
    for (; o < channels; ++o) {
      int code = 0;
      for (int k = 0; k < levels; ++k) code += (sums[o] ^ flips[o]) >= thresholds[(int64_t)k * channels + o];
      codes[o] = (uint8_t)code;
    }
  }
}

/* Four sums times a number below 1, rounded, in units of 2^-shift, rounded again. */
INLINE int32x4_t rescaled(int32x4_t sum, int32x4_t factor, int32x4_t offset, int32x4_t back) {
  return vrshlq_s32(vqrdmulhq_s32(vaddq_s32(sum, offset), factor), back);
}

/* Needs sums[rows * channels], factors[channels], offsets[channels] and codes[rows * channels]. shape is {rows,
   channels, shift}. */
EXPORT void qg_rescale(const int32_t *shape, const int32_t *sums, const int32_t *factors, const int32_t *offsets,
                       uint8_t *codes) {
  const int rows = shape[0], channels = shape[1];
  const int32x4_t back = vdupq_n_s32(-shape[2]);
  for (int r = 0; r < rows; ++r, sums += channels, codes += channels) {
    int o = 0;
    for (; o + 8 <= channels; o += 8) {
      const int32x4_t low = rescaled(vld1q_s32(sums + o), vld1q_s32(factors + o), vld1q_s32(offsets + o), back);
      const int32x4_t high =
          rescaled(vld1q_s32(sums + o + 4), vld1q_s32(factors + o + 4), vld1q_s32(offsets + o + 4), back);
      vst1_u8(codes + o, vqmovun_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high))));
    }
    for (; o < channels; ++o) {
      const int32x4_t one = rescaled(vdupq_n_s32(sums[o]), vdupq_n_s32(factors[o]), vdupq_n_s32(offsets[o]), back);
      codes[o] = vget_lane_u8(vqmovun_s16(vcombine_s16(vqmovn_s32(one), vqmovn_s32(one))), 0);
    }
  }
}
