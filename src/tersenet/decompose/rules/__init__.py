"""Rank rules: how far each layer is factored, `ranks: {rule: {options}}` in a recipe.

In flow a form of factors and the layers that can take it, as `FactorSite`s; out come the ranks of
each by name, from `RankRule.choose`: a layer left out stays as it is. `energy`, `bayes` and `rate`
look at the layer's own weights, `manual` has the ranks given, `sensitivity` and, with a clock,
`latency` try `candidates` in the network. A new rule is one file here with `@rank_rule("name")`,
and one line below.
"""

from tersenet.decompose.rules.bayes import Bayes, bayes_rank
from tersenet.decompose.rules.energy import EnergyShare, energy_rank
from tersenet.decompose.rules.latency import LatencyShare
from tersenet.decompose.rules.manual import Manual
from tersenet.decompose.rules.rate import Rate, rate_rank
from tersenet.decompose.rules.rule import RANKS, LayerRule, RankRule, Rule, rank_rule
from tersenet.decompose.rules.sensitivity import Sensitivity

__all__ = [
    "RANKS",
    "Bayes",
    "EnergyShare",
    "LatencyShare",
    "LayerRule",
    "Manual",
    "RankRule",
    "Rate",
    "Rule",
    "Sensitivity",
    "bayes_rank",
    "energy_rank",
    "rank_rule",
    "rate_rank",
]
