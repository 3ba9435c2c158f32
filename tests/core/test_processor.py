"""What is said of a processor is true of its flags, and fits what is done because of them."""

import dataclasses

import pytest

from tersenet.core.types import Device
from tersenet.measure import describe_device
from tersenet.quantize import Static

OLD = "sse4_2"
AVX2 = f"{OLD} avx f16c fma avx2"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"
FASTER = (
    "int8 files are smaller here and can be faster than float ones, and weights keep all 8 bits"
)
SEVEN = "weights are quantised to 7 bits so that sums of products do not overflow"
HARDLY = f"int8 files are smaller here but hardly faster than float ones, if at all, and {SEVEN}"
NAMES = {
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX": {"amx_int8"},
    "NEON": {"asimd"},
    "SVE": {"sve"},
    "dotprod": {"asimddp"},
    "i8mm": {"i8mm"},
}
OLDER = (
    "neither AVX2, AVX-512 nor 8-bit dot products (VNNI): everything is several times slower here"
)
ARM = "NEON and 8-bit dot products (dotprod) but no 8-bit matrix products (i8mm)"
ARM_NEWER = "NEON and SVE, 8-bit dot products (dotprod) and 8-bit matrix products (i8mm)"
SAID = [
    (OLD, f"{OLDER} than on newer ones, {HARDLY}."),
    (AVX2, f"AVX2 but neither AVX-512 nor 8-bit dot products (VNNI): {HARDLY}."),
    (f"{AVX2} avx_vnni", f"AVX2 and 8-bit dot products (VNNI) but no AVX-512: {FASTER}."),
    (AVX512, f"AVX-512 but no 8-bit dot products (VNNI): {HARDLY}."),
    (f"{AVX512} avx512_vnni", f"AVX-512 and 8-bit dot products (VNNI): {FASTER}."),
    (f"{AVX512} avx512_vnni amx_int8", f"AVX-512 and 8-bit matrix products (AMX): {FASTER}."),
    ("asimd", f"NEON but no 8-bit dot products (dotprod): {HARDLY}."),
    ("asimd asimddp", f"{ARM}: {FASTER}."),
    ("asimd asimddp i8mm sve", f"{ARM_NEWER}: {FASTER}."),
]


def described(tmp_path, flags: str) -> Device:
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name\t: A Processor\nflags\t\t: fpu {flags} other\n")
    return describe_device(cpuinfo=file)


@pytest.mark.parametrize(("flags", "said"), SAID)
def test_what_is_said_of_given_flags(tmp_path, monkeypatch, flags, said):
    device = described(tmp_path, flags)
    assert device.meaning == f"This processor has {said}"
    monkeypatch.setattr("tersenet.quantize.static.describe_device", lambda: device)
    assert Static().reduced == ("7 bits" in device.meaning)


@pytest.mark.parametrize("flags", [flags for flags, _ in SAID])
def test_nothing_is_claimed_that_the_flags_do_not_say(tmp_path, flags):
    device = described(tmp_path, flags)
    claimed, _, lacked = device.meaning.partition(":")[0].partition(
        "neither" if "neither" in device.meaning else " no "
    )
    for name, any_of in NAMES.items():
        has = not any_of.isdisjoint(device.isa)
        assert has or name not in claimed
        assert not has or name not in lacked


def test_an_unknown_processor_is_no_promise(tmp_path):
    device = described(tmp_path, "zve64")
    assert device.isa == ()
    assert device.meaning.startswith("Which vector instructions this processor has is not known")
    assert "7 bits" in device.meaning
    assert not device.has_int8_dot


def test_saving_a_device_does_not_save_the_sentence(tmp_path):
    assert "meaning" not in dataclasses.asdict(described(tmp_path, AVX2))
