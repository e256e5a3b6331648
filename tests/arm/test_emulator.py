"""The emulator lets nothing out of its buffers, and counts what is executed: each instruction, of each kind."""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings

from arm import build, counts, decode, emulator
from tests.arm.convolutions import convolutions, emulated, needs_compiler, needs_emulator

SOURCE = r"""
#include <stdint.h>
#define EXPORT __attribute__((visibility("default")))
EXPORT void put(uint8_t *to, const int32_t *at) { to[*at] = 7; }
EXPORT void get(const uint8_t *from, const int32_t *at, uint8_t *to) { *to = from[*at]; }
EXPORT void put_in_input(const uint8_t *to, const int32_t *at) { ((uint8_t *)to)[*at] = 7; }
EXPORT void recurse(int32_t *depth) {
  volatile uint8_t room[4096];
  room[*depth & 4095] = 1;
  if (--*depth) recurse(depth);
  room[1] = 2;
}
EXPORT void jump(void (**to)(void)) { (*to)(); }
__asm__(".text\n.globl dot\n.type dot,%function\ndot: sdot v0.4s, v1.16b, v2.16b\nret\n");
__asm__(".text\n.globl ten\n.type ten,%function\n"
        "ten: mov w9, #10\n"
        "1: ldp q0, q1, [x0]\n mla v2.16b, v0.16b, v1.16b\n mul v2.8b, v0.8b, v1.8b\n cnt v3.16b, v2.16b\n"
        "and v3.16b, v3.16b, v2.16b\n subs w9, w9, #1\n b.ne 1b\n str q3, [x1]\n ret\n");
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "small.c"
    path.write_text(SOURCE.replace("sdot", ".inst 0x4e829420 //"))
    return build.built((path,), build.compiler())


def call(library, name, *arrays, **more):
    return emulator.call(name, arrays, path=library, **more)


def constant(*numbers, dtype=np.int32):
    array = np.array(numbers, dtype)
    array.flags.writeable = False
    return array


@needs_emulator
class TestFences:
    @pytest.mark.parametrize("place", ["start", "end"])
    @pytest.mark.parametrize("shift", [0, 1, 64])
    def test_what_is_inside_is_written_and_read(self, library, place, shift):
        to = np.zeros(5, np.uint8)
        for at in range(5):
            call(library, "put", to, constant(at), place=place, shift=shift)
        assert to.tolist() == [7] * 5
        found = np.zeros(1, np.uint8)
        call(library, "get", constant(1, 2, 3, dtype=np.uint8), constant(2), found, place=place, shift=shift)
        assert found == 3

    @pytest.mark.parametrize("place", ["start", "end"])
    @pytest.mark.parametrize("shift", [0, 3])
    @pytest.mark.parametrize("at", [-1, 5, 6, -60, -4000, 4000, 5000, -5000])
    def test_what_is_written_outside_is_an_error(self, library, place, shift, at):
        to = np.zeros(5, np.uint8)
        with pytest.raises(RuntimeError, match=r"put (wrote outside of its buffers|left its buffers)"):
            call(library, "put", to, constant(at), place=place, shift=shift)
        assert not to.any()

    @pytest.mark.parametrize(("place", "at"), [("start", -1), ("end", 5)])
    def test_what_is_read_outside_is_an_error(self, library, place, at):
        from_ = constant(*range(5), dtype=np.uint8)
        with pytest.raises(RuntimeError, match="get left its buffers"):
            call(library, "get", from_, constant(at), np.zeros(1, np.uint8), place=place)

    def test_inputs_are_not_written(self, library):
        with pytest.raises(RuntimeError, match="put_in_input left its buffers"):
            call(library, "put_in_input", constant(1, 2, dtype=np.uint8), constant(0))

    def test_the_stack_ends(self, library):
        call(library, "recurse", np.array([8], np.int32))
        with pytest.raises(RuntimeError, match="recurse left its buffers"):
            call(library, "recurse", np.array([17], np.int32))

    def test_other_code_is_not_run(self, library):
        with pytest.raises(RuntimeError, match="jump left its buffers, or its instructions"):
            call(library, "jump", constant(emulator.STACK, dtype=np.int64))

    def test_no_instruction_beyond_armv8_0(self, library):
        with pytest.raises(RuntimeError, match="dot left its buffers, or its instructions"):
            call(library, "dot")

    def test_an_empty_buffer(self, library):
        with pytest.raises(RuntimeError, match="put"):
            call(library, "put", np.zeros(0, np.uint8), constant(0))


@needs_emulator
class TestCounts:
    def test_by_hand(self, library):
        found = call(library, "ten", constant(*range(8)), np.zeros(4, np.int32), count=True)
        assert found.kinds == {"mla": 10, "mul": 10, "cnt": 10, "and": 10, "load": 10, "store": 1, "scalar": 22}
        assert found.halves == 10
        assert (found.instructions, found.neon) == (73, 40)
        assert found.cycles == 37  # of instructions, two a cycle; NEON alone takes 30 and 10 halves

    def test_not_asked_for(self, library):
        assert not call(library, "ten", constant(*range(8)), np.zeros(4, np.int32)).kinds

    @settings(max_examples=min(500, settings().max_examples))  # a Python call for each instruction
    @given(convolutions())
    def test_every_instruction_is_counted_once(self, convolution):
        """Against a hook at each single instruction."""
        import unicorn

        seen = []
        start = unicorn.Uc.emu_start

        def watched(machine, *arguments):
            machine.hook_add(unicorn.UC_HOOK_CODE, lambda *_: seen.append(1))
            return start(machine, *arguments)

        _, found = convolution.run(count=True)
        with emulated(), mock.patch.object(unicorn.Uc, "emu_start", watched):
            convolution.run()
        assert found.instructions == len(seen)

    @given(convolutions())
    def test_repeatable_and_the_same_for_all_data(self, convolution):
        from arm import kernels

        _, found = convolution.run(count=True)
        x, w = np.zeros_like(convolution.x), convolution.w
        assert kernels.conv2d(x, w, **convolution.options, count=True)[1] == found
        assert convolution.run(count=True)[1] == found

    def test_sums_and_multiples(self):
        one = counts.Counts({"mla": 3, "scalar": 1}, 1)
        assert one + counts.Counts({"load": 2}) == counts.Counts({"mla": 3, "scalar": 1, "load": 2}, 1)
        assert one * 3 == one + one + one
        assert sum([one, one], counts.Counts()).instructions == 8

    def test_the_model_is_of_neon_where_neon_is_the_most(self):
        assert counts.Counts({"mla": 10, "load": 3}).cycles == 10
        assert counts.Counts({"mla": 10, "load": 13}).cycles == 12
        assert counts.Counts({"mla": 10, "load": 3}, halves=5).cycles == 8


INSTRUCTIONS = [
    ("mla v0.8b, v1.8b, v2.8b", "mla"),
    ("mla v0.16b, v1.16b, v2.16b", "mla"),
    ("mls v0.8h, v1.8h, v2.8h", "mla"),
    ("mla v0.4s, v1.4s, v2.s[1]", "mla"),
    ("mul v31.16b, v30.16b, v29.16b", "mul"),
    ("mul v0.8h, v1.8h, v2.h[3]", "mul"),
    ("pmul v0.16b, v1.16b, v2.16b", "other"),
    ("smull v0.8h, v1.8b, v2.8b", "smull"),
    ("smull2 v0.8h, v1.16b, v2.16b", "smull"),
    ("umull v0.4s, v1.4h, v2.h[1]", "smull"),
    ("smlal v0.8h, v1.8b, v2.8b", "smlal"),
    ("smlal2 v0.8h, v1.16b, v2.16b", "smlal"),
    ("umlal2 v0.4s, v1.8h, v2.h[0]", "smlal"),
    ("smlsl v0.8h, v1.8b, v2.8b", "smlal"),
    ("sadalp v0.8h, v1.16b", "sadalp"),
    ("uadalp v0.4s, v1.8h", "sadalp"),
    ("saddlp v0.8h, v1.16b", "add"),
    ("uaddlp v0.8h, v1.16b", "add"),
    ("add v0.16b, v1.16b, v2.16b", "add"),
    ("sub v0.4s, v1.4s, v2.4s", "add"),
    ("addp v0.8h, v1.8h, v2.8h", "add"),
    ("saddw v0.4s, v1.4s, v2.4h", "add"),
    ("saddl2 v0.8h, v1.16b, v2.16b", "add"),
    ("addv s0, v1.4s", "add"),
    ("smaxv b0, v1.16b", "other"),
    ("and v0.16b, v1.16b, v2.16b", "and"),
    ("orr v0.16b, v1.16b, v2.16b", "and"),
    ("mov v0.16b, v1.16b", "other"),
    ("eor v0.16b, v1.16b, v2.16b", "and"),
    ("bsl v0.16b, v1.16b, v2.16b", "and"),
    ("cnt v0.16b, v1.16b", "cnt"),
    ("mvn v0.16b, v1.16b", "other"),
    ("rbit v0.16b, v1.16b", "other"),
    ("cmge v0.4s, v1.4s, v2.4s", "compare"),
    ("cmhi v0.16b, v1.16b, v2.16b", "compare"),
    ("cmeq v0.4s, v1.4s, #0", "compare"),
    ("cmtst v0.16b, v1.16b, v2.16b", "compare"),
    ("movi v0.16b, #3", "other"),
    ("movi v0.2d, #0", "other"),
    ("dup v0.16b, w3", "other"),
    ("dup v0.4s, v1.s[2]", "other"),
    ("ushl v0.16b, v1.16b, v2.16b", "other"),
    ("shl v0.4s, v1.4s, #3", "other"),
    ("sshll v0.8h, v1.8b, #0", "other"),
    ("xtn v0.8b, v1.8h", "other"),
    ("sqxtun2 v0.16b, v1.8h", "other"),
    ("zip1 v0.16b, v1.16b, v2.16b", "other"),
    ("uzp2 v0.8h, v1.8h, v2.8h", "other"),
    ("ext v0.16b, v1.16b, v2.16b, #3", "other"),
    ("tbl v0.16b, {v1.16b}, v2.16b", "other"),
    ("sqrdmulh v0.4s, v1.4s, v2.4s", "other"),
    ("mov s16, v7.s[3]", "other"),
    ("umov w0, v1.b[3]", "other"),
    ("ldr q0, [x0]", "load"),
    ("ldr q0, [x0, x1]", "load"),
    ("ldr d0, [x0], #8", "load"),
    ("ldr s0, [x0, #4]", "load"),
    ("ldur q0, [x0, #-3]", "load"),
    ("ldp q0, q1, [x0, #32]", "load"),
    ("ldp q0, q1, [x0], #32", "load"),
    ("ld1 {v0.16b, v1.16b, v2.16b, v3.16b}, [x0], #64", "load"),
    ("ld1r {v0.4s}, [x0]", "load"),
    ("ld1 {v0.s}[1], [x0]", "load"),
    ("ld2 {v0.16b, v1.16b}, [x0]", "load"),
    ("str q0, [x0]", "store"),
    ("str s0, [x0, x1, lsl #2]", "store"),
    ("stur d0, [x0, #-3]", "store"),
    ("stp q0, q1, [sp, #-32]!", "store"),
    ("st1 {v0.16b}, [x0]", "store"),
    ("st1 {v0.s}[3], [x0], x2", "store"),
    ("ldr x0, [x1]", "scalar"),
    ("ldp x0, x1, [sp], #16", "scalar"),
    ("ldrsw x0, [x1]", "scalar"),
    ("strb w0, [x1], #1", "scalar"),
    ("add x0, x1, x2", "scalar"),
    ("madd w0, w1, w2, w3", "scalar"),
    ("subs w0, w0, #1", "scalar"),
    ("adrp x0, 0", "scalar"),
    ("cinc w0, w1, lt", "scalar"),
    ("cbz w0, #8", "scalar"),
    ("b.ne #8", "scalar"),
    ("bl #8", "scalar"),
    ("ret", "scalar"),
    ("fadd s0, s1, s2", "scalar"),
    ("fmov w0, s1", "scalar"),
]


@needs_compiler
def test_kinds_of_instructions(tmp_path):
    """The assembler says what each is; its encoding is what is judged."""
    listed = "\n".join(f'"{text}\\n"' for text, _ in INSTRUCTIONS)
    source = f'__asm__(".text\\n.globl all\\n.type all,%function\\nall:\\n"\n{listed}\n);\n'
    path = tmp_path / "all.c"
    path.write_text(source)
    program = emulator.load(build.built((path,), build.compiler()))
    start = program.functions["all"]
    words = [
        int.from_bytes(program.image[start + 4 * i : start + 4 * i + 4], "little") for i in range(len(INSTRUCTIONS))
    ]
    found = [(text, decode.kind(word)) for (text, _), word in zip(INSTRUCTIONS, words, strict=True)]
    assert found == INSTRUCTIONS
    half = [text for (text, _), word in zip(INSTRUCTIONS, words, strict=True) if decode.is_half(word)]
    assert half == ["mla v0.8b, v1.8b, v2.8b"]


class TestPrograms:
    def test_no_library_for_arm(self, tmp_path):
        path = tmp_path / "x.so"
        for content in (b"", b"\x7fELF", Path(sys.executable).read_bytes()[:4096]):
            path.write_bytes(content)
            emulator.load.cache_clear()
            with pytest.raises(ValueError, match="no shared library for 64-bit ARM"):
                emulator.load(path)

    @needs_compiler
    def test_relocations_are_refused(self, tmp_path):
        path = tmp_path / "r.c"
        path.write_text('int x;\n__attribute__((visibility("default"))) int *p[] = {&x};\n')
        with pytest.raises(ValueError, match="has relocations"):
            emulator.load(build.built((path,), build.compiler()))

    @needs_emulator
    def test_memory_that_the_file_does_not_hold_is_zero_and_there_once(self, tmp_path):
        path, size = tmp_path / "z.c", 1 << 20
        path.write_text(
            f"static unsigned char room[{size}];\n"
            '__attribute__((visibility("default"))) void put(const int *at, const int *value) { room[*at] = *value; }\n'
            '__attribute__((visibility("default"))) void get(const int *at, int *value) { *value = room[*at]; }\n'
        )
        library = build.built((path,), build.compiler())
        assert library.stat().st_size < size < len(emulator.load(library).image) < 1.5 * size
        for at in (0, size - 1):
            found = np.ones(1, np.int32)
            call(library, "get", constant(at), found)
            assert found == 0

    @needs_compiler
    def test_the_kernels_are_seen(self):
        names = set(emulator.load(build.library()).functions)
        assert {"qg_int8", "qg_mla", "qg_mla2", "qg_popcount", "qg_requantize", "qg_rescale"} <= names
        assert all(name.startswith("qg_") for name in names)

    def test_without_unicorn_the_message_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "unicorn", None)
        emulator._unicorn.cache_clear()
        with pytest.raises(build.MissingToolchainError, match=r"package unicorn: pip install quantgap\[arm\]"):
            emulator.call("qg_mla", [])
        monkeypatch.undo()
        emulator._unicorn.cache_clear()
