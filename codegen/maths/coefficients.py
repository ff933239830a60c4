"""Coefficients of the vector mathematics.

Written by ``python -m gradc.codegen.maths.fit``; do not edit.
"""

from __future__ import annotations

_hex = float.fromhex
LN2_F32: tuple[float, ...] = (
    _hex("0x1.62e4000000000p-1"),
    _hex("0x1.7f7d1c0000000p-20"),
)
LN2_F64: tuple[float, ...] = (
    _hex("0x1.62e42fee00000p-1"),
    _hex("0x1.a39ef35793c76p-33"),
)
HALF_PI: tuple[float, ...] = (
    _hex("0x1.921fb54400000p+0"),
    _hex("0x1.0b4611a600000p-34"),
    _hex("0x1.3198a2e000000p-69"),
    _hex("0x1.b839a252049c1p-104"),
)
HALF_PI_PAIR: tuple[float, ...] = (
    _hex("0x1.921fb54442d18p+0"),
    _hex("0x1.1a62633145c07p-54"),
)
INV_LN2: tuple[float, ...] = (
    _hex("0x1.71547652b82fep+0"),
    _hex("0x1.777d0ffda0d24p-56"),
)
TWO_THIRDS: tuple[float, ...] = (
    _hex("0x1.5555555555555p-1"),
    _hex("0x1.5555555555555p-55"),
)
EXP_F32: tuple[float, ...] = (
    _hex("0x1.0000000000000p-1"),
    _hex("0x1.5554dc0000000p-3"),
    _hex("0x1.55551a0000000p-5"),
    _hex("0x1.120b6c0000000p-7"),
    _hex("0x1.6d11060000000p-10"),
)
EXP_F64: tuple[float, ...] = (
    _hex("0x1.0000000000000p-1"),
    _hex("0x1.5555555555557p-3"),
    _hex("0x1.5555555555556p-5"),
    _hex("0x1.11111111100dcp-7"),
    _hex("0x1.6c16c16c162d5p-10"),
    _hex("0x1.a01a01abe78f9p-13"),
    _hex("0x1.a01a01a6d84aap-16"),
    _hex("0x1.71de0232f4775p-19"),
    _hex("0x1.27e4db653346ep-22"),
    _hex("0x1.af4de6a36d4fcp-26"),
    _hex("0x1.1f7301a8efa5cp-29"),
)
EXP_MIDDLE: tuple[float, ...] = (
    _hex("0x1.0000000000000p-1"),
    _hex("0x1.5555556752826p-3"),
    _hex("0x1.5555555c86d13p-5"),
    _hex("0x1.1110c63476727p-7"),
    _hex("0x1.6c16858cf08f7p-10"),
    _hex("0x1.a151760b496bbp-13"),
    _hex("0x1.a1131d0be06e8p-16"),
)
ATANH_MIDDLE: tuple[float, ...] = (
    _hex("0x1.5555555564f23p-1"),
    _hex("0x1.999998ca9ec73p-2"),
    _hex("0x1.2493242f22b76p-2"),
    _hex("0x1.c67ab529f564fp-3"),
    _hex("0x1.8c8edd9198f8ep-3"),
)
LOG_F32: tuple[float, ...] = (
    _hex("0x1.5555540000000p-2"),
    _hex("-0x1.fffffc0000000p-3"),
    _hex("0x1.999d5c0000000p-3"),
    _hex("-0x1.555b440000000p-3"),
    _hex("0x1.23d1f80000000p-3"),
    _hex("-0x1.fcf5b60000000p-4"),
    _hex("0x1.dea6740000000p-4"),
    _hex("-0x1.d630020000000p-4"),
    _hex("0x1.1d7b2a0000000p-4"),
)
ATANH_F64: tuple[float, ...] = (
    _hex("0x1.5555555555558p-1"),
    _hex("0x1.99999999952b2p-2"),
    _hex("0x1.2492492df6947p-2"),
    _hex("0x1.c71c62debf86bp-3"),
    _hex("0x1.7462b69705382p-3"),
    _hex("0x1.39fe208c33457p-3"),
    _hex("0x1.2b5b5fb2eac92p-3"),
)
ATANH2_F64: tuple[float, ...] = (
    _hex("0x1.999999999999ap-2"),
    _hex("0x1.2492492492522p-2"),
    _hex("0x1.c71c71c6ea871p-3"),
    _hex("0x1.745d177aad02ap-3"),
    _hex("0x1.3b1395c881220p-3"),
    _hex("0x1.1118c9ee5b8a4p-3"),
    _hex("0x1.df7c5bc7c7563p-4"),
    _hex("0x1.e032e4d8436a1p-4"),
)
SIN_F32: tuple[float, ...] = (
    _hex("-0x1.5555560000000p-3"),
    _hex("0x1.11110e0000000p-7"),
    _hex("-0x1.a013a60000000p-13"),
    _hex("0x1.6dbdc60000000p-19"),
)
SIN_F64: tuple[float, ...] = (
    _hex("-0x1.5555555555555p-3"),
    _hex("0x1.1111111111110p-7"),
    _hex("-0x1.a01a01a019936p-13"),
    _hex("0x1.71de3a5460533p-19"),
    _hex("-0x1.ae64541251e39p-26"),
    _hex("0x1.61217eaffbfdbp-33"),
    _hex("-0x1.ab179e14267cdp-41"),
)
COS_F32: tuple[float, ...] = (
    _hex("0x1.5555560000000p-5"),
    _hex("-0x1.6c16c00000000p-10"),
    _hex("0x1.a015c40000000p-16"),
    _hex("-0x1.2524220000000p-22"),
)
COS_F64: tuple[float, ...] = (
    _hex("0x1.5555555555555p-5"),
    _hex("-0x1.6c16c16c16c16p-10"),
    _hex("0x1.a01a01a019d09p-16"),
    _hex("-0x1.27e4fb7712b8cp-22"),
    _hex("0x1.1eed8deb644b7p-29"),
    _hex("-0x1.9394b9bb6e16dp-37"),
    _hex("0x1.ab782b04de8dep-45"),
)
ERF_F32: tuple[float, ...] = (
    _hex("0x1.06eba60000000p-3"),
    _hex("-0x1.8126f80000000p-2"),
    _hex("0x1.ce1dee0000000p-4"),
    _hex("-0x1.b6c1f40000000p-6"),
    _hex("0x1.488cce0000000p-8"),
    _hex("-0x1.3fb1de0000000p-11"),
)
ERF_F64: tuple[float, ...] = (
    _hex("0x1.06eba8214db69p-3"),
    _hex("-0x1.812746b0379e7p-2"),
    _hex("0x1.ce2f21a042bdep-4"),
    _hex("-0x1.b82ce312889bap-6"),
    _hex("0x1.565bcd0e6502dp-8"),
    _hex("-0x1.c02db3feeb579p-11"),
    _hex("0x1.f9a326c233146p-14"),
    _hex("-0x1.f4d2561aeafd4p-17"),
    _hex("0x1.b9e6509b9867dp-20"),
    _hex("-0x1.5f6d925a0bc7ap-23"),
    _hex("0x1.fc4356498c2d9p-27"),
    _hex("-0x1.4e607b41a6416p-30"),
    _hex("0x1.7f072188e194dp-34"),
    _hex("-0x1.29b9f1b3df556p-38"),
)
ERFC_F32: tuple[float, ...] = (
    _hex("0x1.fce8080000000p-1"),
    _hex("-0x1.169fca0000000p+0"),
    _hex("0x1.c31e700000000p-1"),
    _hex("-0x1.14fe9a0000000p-1"),
    _hex("0x1.f9a9a00000000p-3"),
    _hex("-0x1.48ef360000000p-4"),
    _hex("0x1.1da55c0000000p-6"),
    _hex("-0x1.26b6bc0000000p-9"),
    _hex("0x1.0fc5ee0000000p-13"),
)
ERFC_F64: tuple[float, ...] = (
    _hex("0x1.43880268331cbp-3"),
    _hex("0x1.4376fe8d2ce61p-3"),
    _hex("0x1.37a1249c3fafep-3"),
    _hex("0x1.17a791d2a0d46p-3"),
    _hex("0x1.1659e4f481a55p-3"),
    _hex("0x1.87fbda49af5d6p-5"),
    _hex("0x1.b39bb430dc9eep-3"),
    _hex("-0x1.b35cb5196cfd0p-3"),
    _hex("0x1.9a10b873f339bp-2"),
    _hex("-0x1.525a68c83c3d5p-2"),
    _hex("0x1.6ba6201ffcb33p-3"),
    _hex("0x1.537bee1b9f4f0p-6"),
    _hex("-0x1.a266742c2d7adp-4"),
    _hex("0x1.c3ac89b87cc2cp-5"),
    _hex("-0x1.419b93f7435a7p-7"),
)
TWO_OVER_PI: tuple[int, ...] = (
    0xA2F9836E,
    0x4E441529,
    0xFC2757D1,
    0xF534DDC0,
    0xDB629599,
    0x3C439041,
    0xFE5163AB,
    0xDEBBC561,
    0xB7246E3A,
    0x424DD2E0,
    0x06492EEA,
    0x09D1921C,
    0xFE1DEB1C,
    0xB129A73E,
    0xE88235F5,
    0x2EBB4484,
    0xE99C7026,
    0xB45F7E41,
    0x3991D639,
    0x835339F4,
    0x9C845F8B,
    0xBDF9283B,
    0x1FF897FF,
    0xDE05980F,
    0xEF2F118B,
    0x5A0A6D1F,
    0x6D367ECF,
    0x27CB09B7,
    0x4F463F66,
    0x9E5FEA2D,
    0x7527BAC7,
    0xEBE5F17B,
    0x3D0739F7,
    0x8A5292EA,
    0x6BFB5FB1,
    0x1F8D5D08,
    0x56033046,
)
