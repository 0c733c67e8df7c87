import pytest
import torch

from search_spaces.base.errors import InvalidValueError
from search_spaces.ops.activation import Activate
from search_spaces.ops.arithmetic import Add
from search_spaces.ops.learned import Embedding, Learned
from search_spaces.ops.movement import Pick, Slice
from search_spaces.program import Program, Traced
from search_spaces.torch_program import StaticLayer
from tests.search_spaces.ops.cases import Case


def test_a_parameter_is_equal_for_all_images() -> None:
    module = StaticLayer(Program.of(Learned("table", (2, 3)), [(5,)]))
    y = module(torch.zeros(4, 5))
    assert y.shape == (4, 2, 3) and all(torch.equal(one, module.get_parameter("table")) for one in y)
    y.sum().backward()
    gradient = module.get_parameter("table").grad
    assert gradient is not None and torch.equal(gradient, torch.full((2, 3), 4.0))
    assert Case("learned").params == 8 and Case("learned").macs == 0


def test_an_embedding_looks_vectors_up() -> None:
    module = StaticLayer(Program.of(Embedding("words", 11, 8), [(2, 3)]))
    words = torch.tensor([[[0, 10, 3], [3, 3, 1]]])
    assert torch.equal(module(words), module.get_parameter("words.weight")[words])


def test_types_of_inputs_follow_from_what_reads_them() -> None:
    def define(words: Traced, x: Traced, more: Traced) -> Traced:
        y = Add()(Embedding("small", 5, 8)(words), Embedding("large", 9, 8)(words))
        return Add()(Add()(y, x), Slice(-1, 0, 8)(Embedding("more", 7, 9)(more)))

    assert Program.of(define, [(3,), (3, 8), (3,)]).index_limits == (5, None, 7)
    assert Case("embedding").input_types == ("int64",) and Case("linear").input_types == ("float32",)


def test_places_are_integers_below_the_number_of_entries() -> None:
    assert Case("pick").program.index_limits == (None, 5)
    words = Program.of(lambda x, places: Embedding("words", 11, 2)(Pick()(x, places)), [(7,), (3,)])
    assert words.index_limits == (11, 7)
    with pytest.raises(InvalidValueError, match="gives float32; give an input"):
        _ = Program.of(lambda x, places: Pick()(x, Activate("relu")(places)), [(7,), (3,)]).index_limits


def test_integers_may_be_moved_but_not_computed() -> None:
    layer = Case("embedding_of_some")
    assert layer.input_types == ("int64",) and layer.program.index_limits == (11,)
    program = Program.of(lambda x: Embedding("words", 3, 2)(Activate("relu")(x)), [(4,)])
    with pytest.raises(InvalidValueError, match=r"Activate\(kind='relu'\) gives float32; give an input"):
        _ = program.index_limits


def test_an_index_beyond_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        StaticLayer(Program.of(Embedding("words", 3, 2), [(1,)]))(torch.tensor([[3]]))
