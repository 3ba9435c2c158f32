"""Formats compared: layer shapes by published totals, counts by encoding all, verdicts."""

import numpy as np
import pytest

from tersenet.formats import Cer, Cser, Csr, Dense, energy_pj
from tersenet.study.formats.claims import claims
from tersenet.study.formats.networks import NETWORKS, MatrixLayer
from tersenet.study.formats.study import Setting, draw_levels, scale_counts, study_formats


def weights(name):
    return sum(layer.rows * layer.columns for layer in NETWORKS[name])


def test_layers_have_the_published_numbers_of_weights():
    # torchvision's counts of parameters, less what is no matrix: biases and batch norms.
    assert weights("AlexNet") == 61_100_840 - sum(layer.rows for layer in NETWORKS["AlexNet"])
    assert weights("VGG-16") == 138_357_544 - sum(layer.rows for layer in NETWORKS["VGG-16"])
    norms = 2 * sum(layer.rows for layer in NETWORKS["ResNet-152"] if not layer.linear)
    assert weights("ResNet-152") == 60_192_808 - norms - 1000
    # DenseNet's norms stand before the convolutions, the first one and the last apart.
    *convolutions, last = NETWORKS["DenseNet-161"]
    before = sum(la.columns // (9 if la.rows == 48 else 1) for la in convolutions[1:])
    assert weights("DenseNet-161") == 28_681_000 - 2 * (96 + before + last.columns) - 1000


def test_layers_multiply_as_often_as_published():
    macs = {
        name: sum(layer.rows * layer.columns * layer.positions for layer in layers) / 1e9
        for name, layers in NETWORKS.items()
    }
    assert macs["AlexNet"] == pytest.approx(0.714, abs=1e-3)
    assert macs["VGG-16"] == pytest.approx(15.47, abs=1e-2)
    assert macs["ResNet-152"] == pytest.approx(11.51, abs=1e-2)
    assert macs["DenseNet-161"] == pytest.approx(7.73, abs=1e-2)


@pytest.mark.parametrize("kind", [Dense, Csr, Cer, Cser])
def test_scaled_counts_are_those_of_the_matrix_stacked(kind):
    part = draw_levels(32, 200, 4, 0.7)
    whole = kind.encode(np.tile(part, (8, 1)))
    bits, operations = scale_counts(kind.encode(part), 8)
    assert bits == whole.bits
    assert operations == whole.operations()
    assert energy_pj(operations) == energy_pj(whole.operations())


def test_drawn_weights_are_as_asked():
    levels = draw_levels(300, 400, 5, 0.9)
    assert np.abs(levels).max() == 15
    assert (levels == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (draw_levels(30, 40, 5, 0.0) == draw_levels(30, 40, 5, 0.0)).all()


def totals(*, cer, csr, setting="s"):
    figures = {"dense": 10.0, "CSR": csr, "CER": cer, "CSER": 2 * cer}
    return [(setting, "net", name, value, value, value, value) for name, value in figures.items()]


def grid(**bits):
    return {"bits": 5, "zeros": 0.9} | {name: {"storage": value} for name, value in bits.items()}


def test_verdicts_follow_the_figures():
    smaller, *networks = claims(totals(cer=2.0, csr=4.0), [grid(CSR=4, CER=3, CSER=5)])
    assert {smaller.found, *(one.found for one in networks)} == {"holds"}
    assert "0.75 of CSR's bits at 5 bits with 90 % cut" in smaller.evidence
    assert all("In 1 of 1 cases" in one.evidence for one in networks)
    assert "at most 5.0 times less (net, s)" in networks[0].evidence
    both = totals(cer=2.0, csr=4.0) + totals(cer=6.0, csr=4.0, setting="t")
    smaller, *networks = claims(both, [grid(CSR=4, CER=4, CSER=5)])
    assert {smaller.found, *(one.found for one in networks)} == {"does not hold"}
    assert "no smaller in 1 of 1" in smaller.evidence
    assert "from 0.67 times less (net, t) to 2.00 times (net, s)" in networks[0].evidence


def test_the_study_shows_where_cer_loses(tmp_path):
    layers = {"net": (MatrixLayer(rows=32, columns=256, positions=3),)}
    setting = Setting(name="few", networks=("net",), bits=(8,), zeros=(0.9,))
    ticks = []

    def run():
        return study_formats(
            folder=tmp_path / "study",
            tick=lambda *told: ticks.append(told),
            settings=(setting,),
            networks=layers,
        )

    found = run()
    assert found.claims[0].found == "does not hold"
    assert "8 bits with 90 % cut" in found.claims[0].evidence
    names = [row[2] for row in found.tables[0].rows]
    assert names == ["dense", "CSR", "CER", "CSER", "chosen"]
    one = Csr.encode(draw_levels(32, 256, 8, 0.9))
    assert found.tables[0].rows[1][3] == pytest.approx(one.bits / 8e6)
    assert found.tables[0].rows[1][4] == pytest.approx(3 * one.operations().total / 1e9)
    assert ticks[0][1:] == (0, 29)
    assert run() == found  # from the journal: times would differ
