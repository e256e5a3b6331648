/* Sums to the codes of the next layer. */

#include "frame.h"

enum { MOST_LEVELS = 15 }; /* of thresholds that stay in registers */

/* The codes, as 32-bit lanes, of sums in four channels. */
INLINE int32x4_t codes_of(int32x4_t sum, const int32x4_t *thresholds, int32x4_t flip, const int levels) {
  const int32x4_t turned = veorq_s32(sum, flip);
  int32x4_t found = vdupq_n_s32(0); /* each comparison is 0 or -1 */
  UNROLL for (int k = 0; k < levels; ++k) {
    found = vsubq_s32(found, vreinterpretq_s32_u32(vcgeq_s32(turned, thresholds[k])));
  }
  return found;
}

/* Four channels of all rows, four rows at a time. */
INLINE void requantize_4(int rows, int channels, const int32_t *sums, const int32_t *thresholds, const int32_t *flips,
                         uint8_t *codes, const int levels) {
  int32x4_t t[MOST_LEVELS];
  const int32x4_t flip = vld1q_s32(flips);
  UNROLL for (int k = 0; k < levels; ++k) t[k] = vld1q_s32(thresholds + (int64_t)k * channels);
  int r = 0;
  for (; r + 4 <= rows; r += 4, sums += 4 * (int64_t)channels, codes += 4 * (int64_t)channels) {
    int16x8_t pairs[2];
    UNROLL for (int i = 0; i < 2; ++i) {
      const int32x4_t one = codes_of(vld1q_s32(sums + 2 * i * channels), t, flip, levels);
      const int32x4_t two = codes_of(vld1q_s32(sums + (2 * i + 1) * channels), t, flip, levels);
      pairs[i] = vuzp1q_s16(vreinterpretq_s16_s32(one), vreinterpretq_s16_s32(two));
    }
    const uint32x4_t all =
        vreinterpretq_u32_u8(vuzp1q_u8(vreinterpretq_u8_s16(pairs[0]), vreinterpretq_u8_s16(pairs[1])));
    vst1q_lane_u32((uint32_t *)(codes), all, 0);
    vst1q_lane_u32((uint32_t *)(codes + channels), all, 1);
    vst1q_lane_u32((uint32_t *)(codes + 2 * channels), all, 2);
    vst1q_lane_u32((uint32_t *)(codes + 3 * channels), all, 3);
  }
  for (; r < rows; ++r, sums += channels, codes += channels) {
    const int16x4_t one = vmovn_s32(codes_of(vld1q_s32(sums), t, flip, levels));
    const uint8x8_t all = vreinterpret_u8_s8(vmovn_s16(vcombine_s16(one, one)));
    vst1_lane_u32((uint32_t *)codes, vreinterpret_u32_u8(all), 0);
  }
}

/* Needs sums[rows * channels], thresholds[levels][channels], flip[channels], 0 or -1, and codes[rows * channels].
   code = number of thresholds that (sum ^ flip) reaches. shape is {rows, channels, levels}. */
EXPORT void qg_requantize(const int32_t *shape, const int32_t *sums, const int32_t *thresholds, const int32_t *flip,
                          uint8_t *codes) {
  const int rows = shape[0], channels = shape[1], levels = shape[2];
  int o = 0;
  for (; o + 4 <= channels; o += 4) {
    switch (levels) {
      case 1: requantize_4(rows, channels, sums + o, thresholds + o, flip + o, codes + o, 1); continue;
      case 3: requantize_4(rows, channels, sums + o, thresholds + o, flip + o, codes + o, 3); continue;
      case 7: requantize_4(rows, channels, sums + o, thresholds + o, flip + o, codes + o, 7); continue;
      case 15: requantize_4(rows, channels, sums + o, thresholds + o, flip + o, codes + o, 15); continue;
    }
    break;
  }
  for (int r = 0; r < rows; ++r, sums += channels, codes += channels) {
    for (int i = o; i < channels; ++i) {
      int code = 0;
      for (int k = 0; k < levels; ++k) code += (sums[i] ^ flip[i]) >= thresholds[(int64_t)k * channels + i];
      codes[i] = (uint8_t)code;
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
