"""Compiled models: attributed to, or refused in words."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import N_SAMPLES, attribute
from models import cut_inputs, cut_model
from oracle import relative_error


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """What is compiled here is not left to other tests."""
    dynamo = pytest.importorskip("torch._dynamo")
    dynamo.reset()
    yield
    dynamo.reset()


BACKENDS = pytest.mark.parametrize("backend", ["eager", "aot_eager"])


@BACKENDS
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_whose_layers_were_inlined_before_is_refused_in_words(backend: str) -> None:
    model: Any = torch.compile(cut_model(), backend=backend)
    model(cut_inputs())
    with pytest.raises(ValueError, match=r"layer: 'layer'.* does not run.*compiled") as raised:
        attribute(model, "layer")
    assert "before" in str(raised.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@BACKENDS
@N_SAMPLES
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_can_be_attributed_to_before_its_first_run(backend: str, n_samples: int) -> None:
    """Later it can again, or it is said that it cannot; the original model can always."""
    plain = cut_model()
    model: Any = torch.compile(plain, backend=backend)
    wanted = attribute(cut_model(), "layer", n_samples)
    assert relative_error(attribute(model, "layer", n_samples), wanted) < 1e-12
    scores = cut_model()(cut_inputs())
    torch.testing.assert_close(model(cut_inputs()), scores)
    for _ in range(2):
        try:
            again = attribute(model, "layer", n_samples)
        except ValueError as refused:
            assert "compile" in str(refused)  # noqa: PT017
        else:
            assert relative_error(again, wanted) < 1e-12
        assert relative_error(attribute(plain, "layer", n_samples), wanted) < 1e-12
        torch.testing.assert_close(model(cut_inputs()), scores)
