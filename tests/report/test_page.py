"""The page as text: figures, escaping, offline, and runs that are not like the usual one."""

import base64
import hashlib
import itertools
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from journal_check import evaluate, journal_of, read
from synthetic_run import DEVICE, HOSTILE, changed, finished_run, summary_of, synthetic_steps

from tersenet.core.types import Energy, Status, Unmeasured
from tersenet.report import render
from tersenet.run.record import RunSummary, Verdict

VOID = {"meta", "link", "input", "br"}


class Reader(HTMLParser):
    """Collects tags, attributes, figures and text, and minds that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.figures: list[list[str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append((tag, attributes))
        if "data-figure" in attributes:
            found = attributes["data-figure"], attributes["data-value"]
            self.figures.append([str(part) for part in found] + [""])

    def handle_endtag(self, tag: str) -> None:
        last, _ = self.open.pop()
        assert last == tag, f"<{last}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self.open]
        if "style" in inside or "script" in inside:
            return
        self.text += data
        if self.open and self.open[-1][1].get("class") == "figure":
            self.figures[-1][2] += data


def parsed(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def words(page: str) -> str:
    return re.sub(r"\s+", " ", parsed(page).text)


def assert_figures_hold(page: str, run: RunSummary, *, least: int) -> None:
    journal, figures = journal_of(run), parsed(page).figures
    assert len(figures) >= least
    known: dict[str, float] = {}
    for source, value, text in figures:
        expected = known[source] if source in known else evaluate(source, journal)
        known[source] = expected
        assert json.loads(value) == pytest.approx(expected, rel=1e-9, abs=1e-12), source
        if text:
            number, half = read(text)
            assert number == pytest.approx(expected, abs=half * 1.0001), (source, text)


def test_every_figure_equals_the_journal(page: str, run: RunSummary):
    assert_figures_hold(page, run, least=400)


def test_the_figures_that_matter_are_there(page: str):
    sources = {source for source, _, _ in parsed(page).figures}
    for step in range(4):
        for name in ("file_bytes", "macs", "params"):
            assert f"steps.{step}.cost.{name}" in sources
        for at in range(3):
            assert f"p50(steps.{step}.cost.latency.{at})" in sources
            assert f"p95(steps.{step}.cost.latency.{at})" in sources
        assert f"steps.{step}.score.value" in sources
        assert f"steps.{step}.seconds" in sources
    assert "ratio(steps.0.cost.file_bytes,steps.3.cost.file_bytes)" in sources
    assert "drop_high(steps.3.score,steps.0.score)" in sources
    assert {"steps.3.speedups.2.low", "steps.3.int8_share"} <= sources


def test_the_verdict_is_one_line(page: str):
    sentence = "Budget met: 11.14× fewer bytes, 1.96× faster at batch 1, top-1 −0.46 points"
    assert sentence in words(page)


def test_what_the_run_says_is_escaped(page: str):
    assert HOSTILE not in page
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert HOSTILE in parsed(page).text


def test_nothing_is_asked_of_a_network(page: str):
    for tag, attributes in parsed(page).tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert "style" not in attributes, "inline styles are against the policy"
    assert not re.search(r"url\(|@import|https?://", page)


def test_the_policy_allows_our_own_style_and_script_alone(page: str):
    metas = [dict(a) for tag, a in parsed(page).tags if tag == "meta"]
    policy = next(
        str(one["content"]) for one in metas if one.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_it_is_small(page: str):
    assert len(page.encode()) < 400_000
    most = render(finished_run(samples=2000))
    assert len(most.encode()) < 400_000


def test_headings_descend_by_one_and_ids_are_unique(page: str):
    tags = parsed(page).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
        if (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids


def test_tables_have_captions_and_scopes(page: str):
    tags = parsed(page).tags
    assert sum(tag == "table" for tag, _ in tags) == sum(tag == "caption" for tag, _ in tags) == 4
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_the_same_run_gives_the_same_page(page: str, run: RunSummary):
    assert render(run) == page


# ------------------------------------------------------------------ other runs


def test_an_unfinished_run_says_so():
    run = summary_of(synthetic_steps()[:2])
    page = render(run)
    assert_figures_hold(page, run, least=100)
    assert "Unfinished:" in words(page)
    assert "handed back </span>" not in page
    assert "This run has not ended" in words(page)


def test_the_original_alone():
    verdict = Verdict(status=Status.UNCHANGED, bounds=(), advice="Add a step.", seconds=12.0)
    run = summary_of(synthetic_steps()[:1], verdict)
    page = render(run)
    assert_figures_hold(page, run, least=20)
    assert "Unchanged: the original network" in words(page)
    assert "Add a step." in words(page)


def test_the_step_handed_back_need_not_be_the_last():
    verdict = Verdict(status=Status.MISSED, bounds=(), advice="", seconds=9.0, step=2)
    run = summary_of(synthetic_steps(), verdict)
    page = render(run)
    assert_figures_hold(page, run, least=350)
    assert "Budget missed: 3.82× fewer bytes" in words(page)
    assert "The network after step 2, distill response, beside the original." in words(page)
    rows = page.split('class="rung"')
    assert ["handed back</span>" in row for row in rows[1:]] == [False, False, True, False]


def test_steps_without_score_latency_memory_or_layers():
    steps = synthetic_steps()
    steps[1] = changed(steps[1], score=None, peak_memory_bytes=Unmeasured("no /proc here"))
    steps[2] = changed(steps[2], latency=(), speedups=(), layers=())
    steps[3] = changed(steps[3], score=None, peak_memory_bytes=Unmeasured("killed"))
    page = render(summary_of(steps))
    assert_figures_hold(page, summary_of(steps), least=200)
    assert "killed" in words(page)
    assert "Not drawn, for want of a latency or a score: prune l1, distill response" in words(page)
    assert "no score was recorded" in page


def test_no_latency_at_all():
    steps = [changed(step, latency=(), speedups=()) for step in synthetic_steps()]
    page = render(summary_of(steps))
    assert "No latency was recorded" in words(page)
    assert '<svg class="plot' not in page


def test_no_score_at_all():
    steps = [changed(step, score=None) for step in synthetic_steps()]
    page = render(summary_of(steps))
    assert "The step handed back was not scored." in words(page)
    assert "scatter wide" not in page


def test_what_is_not_finite_never_reaches_the_page():
    steps = synthetic_steps()
    score, first = steps[3].score, steps[3].cost.latency[0]
    assert score is not None
    nan = math.nan
    steps[3] = changed(
        steps[3],
        score=replace(score, value=nan),
        latency=(replace(first, samples_ms=(nan, 1.0)), *steps[3].cost.latency[1:]),
        speedups=(replace(steps[3].speedups[0], ratio=nan, low=-math.inf, high=math.inf),),
        seconds=math.inf,
        int8_share=nan,
        settings={"x": nan, "y": [math.inf]},
        proofs=(replace(steps[3].proofs[0], max_error=nan),),
        energy=Energy(nan, "rapl"),
    )
    run = RunSummary(header=finished_run().header, steps=tuple(steps), verdict=None)
    page = render(run)
    assert not re.search(r"\b(nan|inf|infinity)\b", page.split("<script>")[0], re.IGNORECASE)
    assert "not finite" in words(page)
    assert "does not hold" in words(page)


def test_simulated_steps_are_labelled_wherever_they_stand():
    steps = synthetic_steps()
    steps[1] = changed(steps[1], simulated=True)
    edits = [replace(edit, real=False) for edit in steps[1].edits]
    steps[1] = changed(steps[1], edits=edits)
    page = render(summary_of(steps))
    assert "Simulated, not executed as shown: prune l1." in words(page)
    assert "57 simulated" in words(page)
    assert page.count('class="tag simulated"') == 2
    assert page.count('class="mark simulated"') == 6
    assert "No step is simulated." not in words(page)


def test_a_busy_machine_and_another_machine_are_noted(page: str):
    assert "The machine was busy" not in words(page)
    assert "another machine" not in words(page)
    steps = synthetic_steps()
    one = steps[2].cost.latency[1]
    other = replace(one, load_average=3.7, device=replace(DEVICE, cpu="Another"))
    steps[2] = changed(steps[2], latency=(steps[2].cost.latency[0], other))
    run = summary_of(steps)
    noted = words(render(run))
    assert "The machine was busy while latency was measured: load 3.70 on 2 cores." in noted
    assert "measured on another machine" in noted
    assert_figures_hold(render(run), run, least=300)


def test_what_the_processor_lacks_is_said(page: str, run: RunSummary):
    header = replace(run.header, device=replace(run.header.device, isa=("avx2",)))
    other = words(render(replace(run, header=header)))
    assert "neither AVX-512 nor 8-bit dot products (VNNI): int8 files are smaller here" in other
    assert run.header.device.meaning in words(page)


def test_a_machine_that_changed_its_speed_is_noted(page: str):
    assert "changed its speed" not in words(page)
    steps = synthetic_steps()
    slower = steps[3].speedups[2]
    baseline = replace(
        slower.baseline, samples_ms=tuple(1.5 * one for one in slower.baseline.samples_ms)
    )
    speedups = (*steps[3].speedups[:2], replace(slower, baseline=baseline))
    steps[3] = changed(steps[3], speedups=speedups)
    run = summary_of(steps)
    noted = re.search(r"p50 at batch 64 was (.*?) at first and (.*?) beside", words(render(run)))
    assert noted is not None
    first = steps[0].cost.latency[2].p50_ms
    assert read(noted[1])[0] == pytest.approx(first, rel=0.01)
    assert read(noted[2])[0] == pytest.approx(baseline.p50_ms, rel=0.01)
    assert_figures_hold(render(run), run, least=350)


def test_what_may_be_chance_is_not_coloured():
    steps = synthetic_steps()[:2]
    own = replace(steps[1].speedups[0], ratio=1.05, low=0.99, high=1.24)
    steps[1] = changed(steps[1], speedups=(own,), score=steps[0].score)
    page = render(summary_of(steps))
    gain = re.search(r'batch 1</span> <span class="(\w+)"', page)
    same = re.search(r'top-1</span> <span class="(\w+)"', page)
    assert gain is not None
    assert same is not None
    assert (gain[1], same[1]) == ("neutral", "neutral")


def test_worse_is_called_worse():
    steps = synthetic_steps()
    own = steps[1].speedups[0]
    steps[1] = changed(
        steps[1], file_bytes=2_188_774, speedups=(replace(own, ratio=0.8, low=0.7, high=0.9),)
    )
    run = summary_of(steps[:2])
    said = words(render(run))
    assert "2.00× more bytes, 0.80× the speed at batch 1, top-1 −20.87 points" in said
    assert_figures_hold(render(run), run, least=100)


def test_a_zero_energy_and_one_sample_do_not_break_it():
    steps = synthetic_steps(samples=1)
    steps = [changed(step, energy=Energy(0.0, "rapl"), macs=0, layers=()) for step in steps]
    run = summary_of(steps)
    assert_figures_hold(render(run), run, least=200)
