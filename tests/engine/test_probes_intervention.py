"""Starting a suspect again proves or refutes that it is to blame."""

import pytest
from torch import nn

from pytest_overfit.intervention import intervene
from pytest_overfit.probes import first_drop, observe
from tests.engine.test_probes_faults import Historical
from tests.engine.test_probes_sound import DIM, MODES, Mode, Net, Recurrent, subject


@pytest.mark.parametrize("mode", MODES)
def test_starting_again_what_is_to_blame_proves_it(mode: Mode) -> None:
    described = subject(lambda: Net(Historical()))
    samples = described.take(6)
    network = described.fresh(feature_dim=DIM, seed=0)
    observations = observe(described, network, samples, mode=mode)
    drop = first_drop(observations)
    assert drop is not None
    blamed = intervene(described, network, samples, observations, [drop.at.module, *(o.module for o in drop.weak)], mode=mode)
    assert blamed.recovered
    assert blamed.upstream_same
    assert blamed.told_apart_before * 1e3 < blamed.told_apart_after
    half = intervene(described, network, samples, observations, [drop.at.module], mode=mode)
    assert not half.recovered
    other = intervene(described, network, samples, observations, ["body.stem"], mode=mode)
    assert not other.recovered
    assert other.told_apart_after < 1e-6


def test_an_intervention_needs_an_observed_module() -> None:
    described = subject(Recurrent)
    network, samples = described.fresh(feature_dim=DIM, seed=0), described.take(2)
    network.add_module("lost", nn.Linear(2, 2))
    observations = observe(described, network, samples, mode="eval")
    with pytest.raises(ValueError, match="none of lost was observed"):
        intervene(described, network, samples, observations, ["lost"], mode="eval")
