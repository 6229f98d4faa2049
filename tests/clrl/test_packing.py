import enum
import json
import math
import struct
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clrl.packing import DTYPES, pack, unpack

ARRAYS = hnp.arrays(
    st.sampled_from(["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
KEYS = st.text(max_size=4) | st.integers()
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(-(2**300))
)
STATES = st.recursive(
    LEAVES | ARRAYS | ARRAYS.map(torch.from_numpy),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def back(state: dict[Any, Any]) -> Any:
    """The state after a journey through JSON text."""
    packed, tensors = pack(state)
    return unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)


def assert_same(a: Any, b: Any) -> None:
    """Same types, same bits."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert_same(a.numpy(), b.numpy())
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, float):
        assert struct.pack("d", a) == struct.pack("d", b)
    else:
        assert a == b


@given(st.dictionaries(KEYS, STATES, max_size=5))
def test_nested_states_come_back_bit_for_bit(state: dict[Any, Any]) -> None:
    assert_same(back(state), state)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0, 5e-324, 0.1, 1e308])
def test_floats_keep_their_bits(value: float) -> None:
    assert_same(back({"x": value}), {"x": value})


def test_a_nan_keeps_its_payload() -> None:
    nan = struct.unpack(">d", bytes.fromhex("7ff8000000000abc"))[0]
    assert struct.pack(">d", back({"x": nan})["x"]).hex() == "7ff8000000000abc"


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, -(2**53), 2**128 + 1, 10**5000], ids=hex)
def test_integers_may_be_large(value: int) -> None:
    assert_same(back({value: value}), {value: value})


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)])
def test_tensors_of_every_type_and_shape_come_back(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    found = back({"x": tensor})["x"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert bytes(found.view(-1).view(torch.uint8)) == bytes(tensor.view(-1).view(torch.uint8))


def test_random_generators_go_on_where_they_were() -> None:
    torch_rng, pcg = torch.Generator().manual_seed(3), np.random.default_rng(3)
    twister = np.random.Generator(np.random.MT19937(3))
    state = back(
        {
            "torch": torch_rng.get_state(),
            "pcg": dict(pcg.bit_generator.state),
            "twister": dict(twister.bit_generator.state),
        }
    )
    torch_next, next_numbers = torch.rand(3, generator=torch_rng), (pcg.random(), twister.random())
    torch_rng.set_state(state["torch"])
    pcg.bit_generator.state = state["pcg"]
    twister.bit_generator.state = state["twister"]
    assert torch.equal(torch.rand(3, generator=torch_rng), torch_next)
    assert (pcg.random(), twister.random()) == next_numbers


def test_views_and_shared_memory_come_back_apart() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    array = np.arange(6)
    array.flags.writeable = False
    state = {"base": base, "again": base, "part": base[1:], "turned": base.T, "conj": base + 0j}
    state["conj"] = state["conj"].conj()
    found = back({**state, "reversed": array[::-1], "frozen": array})
    for key, tensor in state.items():
        assert torch.equal(found[key], tensor), key
    np.testing.assert_array_equal(found["reversed"], array[::-1])
    np.testing.assert_array_equal(found["frozen"], array)
    assert found["base"].data_ptr() != found["again"].data_ptr()


def test_relatives_of_plain_data_become_plain() -> None:
    class Colour(enum.IntEnum):
        RED = 1

    state = {
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": np.float32(0.1),
        "flag": np.bool_(True),
        "enum": Colour.RED,
        "tuple": (1, (2.0,)),
        "ordered": OrderedDict(a=1),
    }
    found = back(state)
    assert type(found["parameter"]) is torch.Tensor
    assert not found["parameter"].requires_grad
    plain = {"flag": True, "enum": 1, "tuple": [1, [2.0]], "ordered": {"a": 1}}
    assert_same({key: found[key] for key in plain}, plain)
    assert found["scalar"] == float(np.float32(0.1))


def test_keys_that_spell_the_same_path_do_not_collide() -> None:
    state = {"a": {"b": torch.zeros(1)}, "a/b": torch.ones(1), 1: torch.ones(2), "1": torch.ones(3)}
    state["\ud800"] = torch.ones(4)
    assert_same(back(state), state)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "state/x/0 must be plain data, got set"),
        (b"x", "state/x/0 must be plain data, got bytes"),
        (np.longdouble(1), "state/x/0 must be plain data, got longdouble"),
        (np.ma.masked_array([1]), "state/x/0 must be plain data, got MaskedArray"),
        ({True: 1}, "state/x/0 must have string or integer keys, got True"),
        ({(1, 2): 1}, r"state/x/0 must have string or integer keys, got \(1, 2\)"),
        (np.array(["a"]), "state/x/0 must be an array of numbers, got <U1"),
        (np.array([{}]), r"state/x/0 must be an array of numbers, got \|O"),
        (np.zeros(2, ">f8"), "state/x/0 must be an array of numbers, got >f8"),
        (torch.zeros(2, dtype=torch.complex128), "must be a dense tensor of numbers, got"),
        (torch.eye(2).to_sparse(), "must be a dense tensor of numbers, got"),
        (torch.zeros(2, device="meta"), "must be a dense tensor of numbers, got .* on meta"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pack({"x": [value]})


def test_a_state_that_contains_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(ValueError, match="nested too deeply"):
        pack(state)


@pytest.mark.parametrize(
    "packed",
    [
        {"dict": [["x", {"tensor": "absent"}]]},
        {"dict": [["x", {"tensor": "t"}], ["y", {"array": "t"}]]},
        {"dict": []},  # leaves the tensor over
        {"tensor": "t", "more": 1},
        {"pickle": "t"},
        {"dict": [["x"]]},
        {"dict": [[None, 1]]},
        {"dict": {"x": 1}},
        {"int": "12z"},
        {"float": "00"},
    ],
)
def test_a_structure_that_was_not_packed_is_refused(packed: Any) -> None:
    with pytest.raises(ValueError, match=r"it |invalid literal"):
        unpack(packed, {"t": torch.zeros(1)})
