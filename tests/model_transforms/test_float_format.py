"""Emulated formats against torch's own casts, bit for bit, and what rounding promises."""

import math

import pytest
import torch

import regimes as rg
from regimes.model_transforms.float_format import FORMATS

TORCH = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
STOCHASTIC = rg.FloatFormat(4, 3, rounding="stochastic", finite=True)


def same_bits(a, b):
    """Equal, NaN where NaN is, zeros of one sign."""
    numbers = ~a.isnan()
    assert torch.equal(numbers, ~b.isnan())
    assert torch.equal(a[numbers], b[numbers])
    assert torch.equal(a[numbers].signbit(), b[numbers].signbit())


def patterns(count=1 << 20, seed=0):
    """float32 of random bits: all sizes, subnormal numbers, infinities and NaN."""
    bits = torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(seed))
    return bits.to(torch.int32).view(torch.float32)


def numbers_of(dtype):
    """Every number that torch's type has."""
    bits = 8 if dtype.itemsize == 1 else 16
    codes = torch.arange(2**bits).to(torch.uint8 if bits == 8 else torch.int32)
    found = (codes if bits == 8 else codes.to(torch.int16)).view(dtype).float()
    return found[found.isfinite()]


@pytest.mark.exact("FloatFormat")
@pytest.mark.parametrize("name", TORCH)
def test_it_is_torchs_cast_bit_for_bit(name):
    """Random patterns of all sizes; every number of the type; the middles between neighbors, and what lies beside them."""
    dtype, format_ = TORCH[name], FORMATS[name]
    own = numbers_of(dtype).double().sort().values
    middles = (own[1:] + own[:-1]) / 2
    beside = [torch.nextafter(middles.float(), torch.tensor(way)) for way in (-math.inf, math.inf)]
    over = format_.largest * torch.tensor([1.0, 1.01, 1.03, 1.04, 1.06, 1.1, 1.2, 2.0, 1e3], dtype=torch.float64)
    edges = torch.cat([over, -over]).float()
    for x in (patterns(), own.float(), middles.float(), *beside, edges, torch.tensor([math.inf, -math.inf, math.nan])):
        same_bits(format_.round(x), x.to(dtype).float())


@pytest.mark.exact("FloatFormat")
@pytest.mark.parametrize("name", TORCH)
def test_its_numbers_stay_and_the_largest_is_torchs(name):
    info = torch.finfo(TORCH[name])
    assert FORMATS[name].largest == info.max
    assert FORMATS[name].smallest_normal == info.smallest_normal
    own = numbers_of(TORCH[name])
    for rounding in ("nearest", "zero", "stochastic"):
        same_bits(FORMATS[name].replace("rounding", rounding).round(own), own)


@pytest.mark.exact("FloatFormat")
@pytest.mark.parametrize("rounding", ["nearest", "zero", "stochastic"])
def test_23_bits_of_mantissa_are_float32(rounding):
    same_bits(rg.FloatFormat(8, 23, rounding=rounding).round(patterns()), patterns())


@pytest.mark.exact("FloatFormat")
def test_float64_is_rounded_once():
    x = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-38
    assert torch.equal(rg.FloatFormat(8, 23).round(x), x.float().double())
    # Just above a middle of bfloat16: by way of float32 it would be the middle, and go to even.
    close = torch.tensor([1.0 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert FORMATS["bfloat16"].round(close).item() == 1.0 + 2.0**-7


@pytest.mark.exact("FloatFormat")
@pytest.mark.parametrize("bits", [1, 2, 3, 7])
def test_towards_zero_is_clearing_low_bits(bits):
    """Of normal numbers: the mask of the paper."""
    x = patterns()
    x = x[(x.abs() >= 2.0**-126) & x.isfinite()]
    masked = (x.view(torch.int32) & -(1 << (23 - bits))).view(torch.float32)
    same_bits(rg.FloatFormat(8, bits, rounding="zero").round(x), masked)


@pytest.mark.exact("FloatFormat")
def test_beyond_the_largest():
    """Infinite or NaN by nearest, the largest towards zero and where it saturates."""
    x = torch.tensor([1e6, -1e6, math.inf, -math.inf, math.nan])
    expected = {
        (False, "nearest", False): [math.inf, -math.inf, math.inf, -math.inf],
        (False, "zero", False): [57344.0, -57344.0, math.inf, -math.inf],
        (False, "nearest", True): [57344.0, -57344.0, 57344.0, -57344.0],
        (True, "nearest", False): [math.nan] * 4,
        (True, "zero", False): [98304.0, -98304.0, math.nan, math.nan],
        (True, "nearest", True): [98304.0, -98304.0, 98304.0, -98304.0],
    }
    for (finite, rounding, saturate), wanted in expected.items():
        found = rg.FloatFormat(5, 2, rounding=rounding, finite=finite, saturate=saturate).round(x)
        same_bits(found, torch.tensor([*wanted, math.nan]))


@pytest.mark.exact("FloatFormat")
def test_by_chance_it_is_one_of_the_two_neighbors_with_the_right_mean():
    """The random numbers decide: over an even grid of them the mean is the number, to the grid's spacing."""
    n = 4096
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for value in (0.3, -0.3, 1.03, -17.7, 2.0**-9 * 0.4, 3e-3, 0.0):
        found = STOCHASTIC.round(torch.full((n,), value, dtype=torch.float64), uniform)
        low, high = found.min().item(), found.max().item()
        assert low <= value <= high
        assert len(found.unique()) <= 2
        assert abs(found.mean().item() - value) <= (high - low) / n


def test_by_chance_it_takes_the_global_generator_or_the_given_numbers():
    x = torch.linspace(0.1, 3.0, 50)
    torch.manual_seed(3)
    first = STOCHASTIC.round(x)
    torch.manual_seed(3)
    drawn = STOCHASTIC.uniform(x)
    assert torch.equal(first, STOCHASTIC.round(x, drawn))
    assert FORMATS["e4m3"].uniform(x) is None
    other = STOCHASTIC.uniform(x, torch.Generator().manual_seed(4))
    assert torch.equal(other, torch.rand(50, generator=torch.Generator().manual_seed(4), dtype=torch.float64))


@pytest.mark.exact("FloatFormat")
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e20])
def test_scaled_it_is_rounding_on_another_power_of_two(size):
    """The largest entry lies in [largest / 4, largest] while it is rounded; small entries are no longer lost."""
    plain, scaled = FORMATS["e4m3"], FORMATS["e4m3"].replace("scaled", True)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * size
    factor = 2.0 ** math.floor(math.log2(plain.largest / x.abs().max().item()))
    factor = factor if x.abs().max().item() * factor < 256.0 else factor / 2.0
    assert plain.largest / 4 <= x.abs().max().item() * factor <= plain.largest
    wide = x.double()
    assert torch.equal(scaled.round(x), (plain.round(wide * factor) / factor).float())
    assert torch.equal(scaled.round(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_tensor_keeps_its_type_and_shape(dtype):
    found = FORMATS["e5m2"].round(torch.ones(2, 3, dtype=dtype) * 1.1)
    assert (found.dtype, found.shape, found[0, 0].item()) == (dtype, (2, 3), 1.0)


def test_it_is_a_value_of_declarations():
    assert rg.EmulatePrecision("e4m3") == rg.EmulatePrecision(format="e4m3")
    made = rg.EmulatePrecision(rg.FloatFormat(8, 3, rounding="zero"), "e5m2")
    assert repr(made) == "EmulatePrecision(FloatFormat(8, mantissa=3, rounding='zero'), gradient='e5m2')"
    with pytest.raises(rg.DeclarationError, match="e3m4"):
        rg.RoundGradients("e3m4")
