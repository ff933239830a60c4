"""Is the gradient a program hands out the derivative of the program? The adjoint against dual
numbers.

At a random point of a prime field and along a random direction v, ``sum <cotangent_k, v_k>`` must
be the tangent of the loss in direction v, which dual numbers find without any reverse mode. As the
direction is random in every entry, one equality speaks for all parameters: a wrong cotangent makes
a nonzero linear form of v, which vanishes with probability 1/p. Only where it fails are the
parameters taken one by one.

A failure is never a refutation: oracles know few laws of exp and log. Balls decide
(``prove_refute``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradc.ir.domains.dual import Dual
from gradc.ir.domains.interpret import run
from gradc.ir.tensor.core import Function, Role
from gradc.passes.prove.domains.dual import ProofDuals
from gradc.passes.prove.domains.field import PRIME, mul
from gradc.passes.prove.domains.point import Point, draw


@dataclass(frozen=True, slots=True)
class Tested:
    """What the points said: which cotangents agree with the dual numbers everywhere."""

    agrees: Mapping[str, bool]
    primal_agrees: bool
    points: int


def cotangents(gradient: Function) -> dict[str, int]:
    """The positions of the gradients among the results, by parameter."""
    rows = enumerate(gradient.results)
    return {slot.name: n for n, slot in rows if slot.role is Role.COTANGENT}


def test_gradient(
    function: Function,
    gradient: Function,
    seed: int,
    points: int,
    proved: Collection[str] = (),
) -> Tested:
    """``gradient`` (of ``value_and_grad``) against the duals of ``function``.

    ``proved`` are parameters whose gradients are proved otherwise. They are not taken one by one
    where something differs: one that disagrees then may be any of them.
    """
    places = cotangents(gradient)
    agrees, primal_agrees = dict.fromkeys(places, True), True
    for number in range(points):
        at = draw(gradient, seed, number)
        found, is_primal_same = _at(function, gradient, places, at, proved)
        agrees = {name: agrees[name] and found[name] for name in places}
        primal_agrees = primal_agrees and is_primal_same
        if not any(agrees.values()) or (not all(agrees.values()) and set(places) <= set(proved)):
            break
    return Tested(agrees, primal_agrees, points)


def _at(
    function: Function,
    gradient: Function,
    places: Mapping[str, int],
    at: Point,
    proved: Collection[str],
) -> tuple[dict[str, bool], bool]:
    results = run(at.domain, gradient, at.values)
    directions = {
        name: at.domain.random(function.parameter(name).type.static_shape, at.rng)
        for name in places
    }
    tangent, primals = tangent_of_loss(function, at, directions)
    sides = {name: _inner(results[n], directions[name]) for name, n in places.items()}
    primal_agrees = all(np.array_equal(x, y) for x, y in zip(primals, results, strict=False))
    if tangent == sum(sides.values()) % PRIME:
        return dict.fromkeys(places, True), primal_agrees

    def agree(names: Sequence[str]) -> bool:
        moved = {name: directions[name] for name in names}
        tangent = tangent_of_loss(function, at, moved)[0]
        return tangent == sum(sides[name] for name in names) % PRIME

    open_ = [name for name in places if name not in proved]
    alone = dict.fromkeys(places, False)
    if open_ and len(open_) < len(places) and agree(open_):
        return {**alone, **dict.fromkeys(open_, True)}, primal_agrees
    return {**alone, **{name: agree([name]) for name in open_}}, primal_agrees


def tangent_of_loss(
    function: Function, at: Point, directions: Mapping[str, Any]
) -> tuple[int, Sequence[Any]]:
    """The tangent of the loss along ``directions``, by dual numbers, and the primal results."""
    duals = [
        Dual(value, directions.get(slot.name))
        for value, slot in zip(at.values, function.parameters, strict=True)
    ]
    results = run(ProofDuals(at.domain), function, duals)
    place = next(n for n, slot in enumerate(function.results) if slot.role is Role.LOSS)
    tangent = results[place].tangent
    return (0 if tangent is None else int(tangent)), [r.primal for r in results]


def _inner(a: Any, b: Any) -> int:
    return int(mul(np.asarray(a), np.asarray(b)).sum(dtype=np.uint64)) % PRIME
