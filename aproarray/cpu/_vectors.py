"""Vectors of 32 bytes for compiled loops: 8 float32 or 4 float64 numbers of an array, as one value.

LLVM turns them into the instructions of the machine: one where registers have 32 bytes, two where they have
16. Its own vectorisation of short loops would add checks and remainders, which take most of the time.
docs/design.md, "How `_vectors` works", is the manual of this file.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

BYTES = 32


class Vector(types.Type):
    """The type of a vector: as many numbers of one type as fit BYTES."""

    def __init__(self, scalar: Any):
        self.scalar = scalar
        self.n_lanes = BYTES * 8 // scalar.bitwidth
        super().__init__(name=f"Vector({self.n_lanes} x {scalar})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector):
        scalar = ir.FloatType() if vector.scalar == types.float32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(scalar, vector.n_lanes))


def _place(context: Any, builder: Any, signature: Any, args: Any, vector: Vector) -> Any:
    """Return the pointer to the vector that begins at an index (second argument) of an array (first one)."""
    array, index = signature.args[:2]
    data = context.make_array(array)(context, builder, args[0]).data
    index = context.cast(builder, args[1], index, types.intp)
    return builder.bitcast(builder.gep(data, [index]), context.get_value_type(vector).as_pointer())


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """Return the vector that begins at an index of a contiguous array (not checked)."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(
            _place(context, builder, signature, args, vector), align=array.dtype.bitwidth // 8
        )

    return vector(array, index), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to a contiguous array from an index on (not checked)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(
            args[2],
            _place(context, builder, signature, args, value),
            align=array.dtype.bitwidth // 8,
        )
        return context.get_dummy_value()

    return types.void(array, index, value), generate


@intrinsic
def zeros(typing_context: Any, array: Any) -> Any:
    """Return a vector of zeros, of the type of an array's numbers."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array), generate


@intrinsic
def multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once if the machine has such an instruction, else twice."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[0], args[1], flags=("contract",))
        return builder.fadd(product, args[2], flags=("contract",))

    return a(a, b, c), generate


@intrinsic
def subtract(typing_context: Any, a: Any, b: Any) -> Any:
    """Return a - b."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(*args)

    return a(a, b), generate


@intrinsic
def multiply(typing_context: Any, a: Any, b: Any) -> Any:
    """Return a b."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)

    return a(a, b), generate
