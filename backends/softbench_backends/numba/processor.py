"""What the processor that kernels are compiled for does itself, and what LLVM would call a function for."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import llvmlite.binding as llvm
from numba import config

__all__ = ["converts_float16", "has_fma", "rounds_bfloat16"]

_WIDEN: Final = """
define void @sample(ptr %from, ptr %to) {
  %half = load <16 x half>, ptr %from
  %wide = fpext <16 x half> %half to <16 x float>
  store <16 x float> %wide, ptr %to
  ret void
}
"""

_ROUND: Final = """
define void @sample(ptr %from, ptr %to) {
  %wide = load <16 x float>, ptr %from
  %half = fptrunc <16 x float> %wide to <16 x bfloat>
  store <16 x bfloat> %half, ptr %to
  ret void
}
"""

_FUSED: Final = """
declare <8 x double> @llvm.fma.v8f64(<8 x double>, <8 x double>, <8 x double>)
define void @sample(ptr %p) {
  %a = load <8 x double>, ptr %p
  %b = call <8 x double> @llvm.fma.v8f64(<8 x double> %a, <8 x double> %a, <8 x double> %a)
  store <8 x double> %b, ptr %p
  ret void
}
"""


def converts_float16(context: Any) -> bool:
    """Whether vectors of float16 are widened, and so also rounded, by instructions (F16C, AVX-512, NEON)."""
    return not _calls(_WIDEN, "__extendhfsf2|__gnu_h2f_ieee", *context.codegen().magic_tuple())


def rounds_bfloat16(context: Any) -> bool:
    """Whether vectors of float32 are rounded to bfloat16 by an instruction (AVX512_BF16)."""
    return not _calls(_ROUND, "__truncsfbf2", *context.codegen().magic_tuple())


@functools.cache
def has_fma() -> bool:
    """Whether a fused multiply-add is an instruction, as on most processors since 2013."""
    return not _calls(
        _FUSED, "fma", llvm.get_default_triple(), config.CPU_NAME or llvm.get_host_cpu_name(), _features()
    )


def _features() -> str:
    """What Numba tells LLVM of the processor's features."""
    if config.CPU_FEATURES is not None:
        return str(config.CPU_FEATURES)
    features = llvm.get_host_cpu_features()
    if not config.ENABLE_AVX:
        features.update({name: False for name in features if name.startswith("avx")})
    return str(features.flatten())


@functools.cache
def _calls(sample: str, functions: str, triple: str, cpu: str, features: str) -> bool:
    """Whether the machine code of ``sample`` names one of ``functions`` (a pattern)."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features or "")
    module = llvm.parse_assembly(sample)
    module.triple, module.data_layout = triple, str(machine.target_data)
    return re.search(rf"\b({functions})\b", machine.emit_assembly(module)) is not None
