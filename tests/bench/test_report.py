"""Tables and figures of comparisons that are written by hand."""

import re
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from hmasd.bench import figures, files, tables
from hmasd.bench.report import write_report
from hmasd.bench.results import read_record
from hmasd.bench.statistics import Interval
from tests.bench import made_up
from tests.bench.made_up import TEXT, fail, finish, make_comparison, write_training


@pytest.fixture
def report(tmp_path):
    spec, jobs = make_comparison(tmp_path)
    for job in jobs:
        if job.key.algorithm == "good":
            finish(job, [0.5, 1.0], best=1.0)
        elif job.key.seed == 1:
            fail(job, [0.0])
        elif job.key.seed == 2:
            finish(job, [0.0, 0.5], best=0.5)
    return write_report(spec, "made_up", jobs, tmp_path / "report")


def test_the_report_counts_every_run(report):
    text = report.read_text()
    assert "Runs finished: 4 of 6 (1 failed, 1 not finished)" in text
    assert "| good | 3 | 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 3 of 3 [44%, 100%] |" in text
    scores, improvement = (
        [line for line in text.splitlines() if line.startswith("| bad_one |")][i] for i in (0, -1)
    )
    assert "| 1 of 3 (1 failed, 1 not finished) |" in scores
    assert improvement.startswith("| bad_one | 3 / 2 | 1.00 [1.00, 1.00] |")
    assert "0.25 [0.00, 0.50]" in text  # the failed run counts as 0
    assert "| exact/bad_one/1 failed (1): error: NaN / x | - |" in text


def test_the_report_shows_its_figures(report):
    text = report.read_text()
    for name in ("comparison_exact", "runs_exact", "solved_exact", "improvement", "profile"):
        assert f"(figures/{name}.png)" in text
        assert (report.parent / "figures" / f"{name}.png").stat().st_size > 5000


def test_the_files_for_other_programs(report):
    folder = report.parent
    assert files.read_json(folder / "marl_eval.json")["made_up"]["exact"]
    assert (folder / "episodes.jsonl").read_text().count("\n") == 64 * (3 * 3 + 1 + 3)
    assert r"bad\_one" in (folder / "tables.tex").read_text()


def test_the_same_folders_give_the_same_report(report, tmp_path):
    spec, jobs = make_comparison(tmp_path)
    again = write_report(spec, "made_up", jobs, tmp_path / "again")
    for name in ("report.md", "tables.tex", "episodes.jsonl", "marl_eval.json"):
        assert (report.parent / name).read_bytes() == (again.parent / name).read_bytes()


def test_a_report_of_nothing_says_so(tmp_path):
    spec, jobs = make_comparison(tmp_path)
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert "Runs finished: 0 of 6 (6 not finished)" in text
    assert "| good | 0 of 3 (3 not finished) | - | - | - | - |" in text


def test_who_has_no_run_on_some_task_is_named(tmp_path):
    """Where it is the first, nobody else takes its place in the comparison."""
    tasks = "exact: {env: alice_and_bob}\n  larger: {env: alice_and_bob_12x12_3}"
    text = TEXT.replace("exact: {env: alice_and_bob}", tasks) + "  third: {gamma: 0.5}\n"
    spec, jobs = make_comparison(tmp_path, text)
    for job in jobs:
        if job.key[:2] != ("larger", "good"):
            finish(job, [0.5, 1.0], best=1.0)
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert "Without a run on every task yet: good.\n" in text
    assert "nothing to compare the others with: good is the first" in text
    assert "P(" not in text
    finish(next(job for job in jobs if job.key[:2] == ("larger", "good")), [0.5, 1.0], best=1.0)
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()  # control
    assert "Without a run" not in text
    latex = (tmp_path / "report" / "tables.tex").read_text()
    assert [line for line in latex.splitlines() if line[:1] == "%"] == [
        *("% exact", "% larger", "% all tasks"),
    ]
    assert latex.count(r"\begin{tabular}") == 3 + 3 + 1  # scores, steadiness, runs of each task
    assert "| bad_one | 3, 1 / 3, 3 |" in text and "P(good > it)" in text


def test_what_a_reader_has_to_know_stands_in_the_head(tmp_path):
    spec, jobs = make_comparison(tmp_path)
    path = write_report(spec, "made_up", jobs, tmp_path / "report", ["one: clip was 0.3, is 0.2"])
    assert "\n\n- one: clip was 0.3, is 0.2\n\n## exact" in path.read_text()


def test_what_is_missing_of_a_finished_run_is_said(tmp_path):
    """Half an evaluation, and a diagnosis; the report is made all the same."""
    spec, jobs = make_comparison(tmp_path)
    good = [job for job in jobs if job.key.algorithm == "good"]
    for job in good:
        finish(job, [0.5, 1.0], best=1.0)
        files.write_json(job.folder / files.DIAGNOSIS, known())
    evaluations = files.training_folder(good[1].folder) / "evaluations.jsonl"
    lines = evaluations.read_text().splitlines(keepends=True)
    evaluations.write_text("".join(lines[:96]))
    (good[2].folder / files.DIAGNOSIS).unlink()
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert "- **exact/good/2 is damaged**: 1 of 2 evaluations, of which others count" in text
    assert "- **exact/good/3 is damaged**: no diagnosis, so" in text
    assert "good/1 is damaged" not in text
    assert "| 2 of 3 [21%, 94%] |\n" in text  # solved at the end: of the second nobody knows


@pytest.mark.parametrize("content", ['{"cut o', "[]", "3", '{"git_commit": 3, "first": {}}'])
def test_a_small_file_that_is_damaged_does_not_keep_the_report_from_being_made(tmp_path, content):
    spec, jobs = make_comparison(tmp_path)
    finish(jobs[0], [0.5, 1.0], best=1.0)
    fail(jobs[1], [0.5])
    write_training(jobs[2], [0.5])
    for path in (
        jobs[0].folder / files.DIAGNOSIS,
        files.training_folder(jobs[0].folder) / "versions.json",
        jobs[1].folder / files.FAILED,
        files.training_folder(jobs[2].folder) / "versions_64.json",
    ):
        path.write_text(content)
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    head = text[: text.index("## exact")]
    assert "Runs finished: 1 of 6 (1 failed, 4 not finished); seeds 1, 2, 3. " in head
    for run, name in (("good/1", "diagnosis"), ("good/1", "versions"), ("good/2", "versions_64")):
        assert f"- **exact/{run} is damaged**: {name}.json cannot be read and counts as" in head
    assert "- **exact/good/1 is damaged**: no diagnosis, so" in head
    assert "| exact/bad_one/1 failed (?): failed.json is damaged | - |" in text


def test_a_task_on_which_nothing_ever_succeeded_is_named(tmp_path):
    """It may be an env that does not tell; by return that is no matter."""
    for metric, expected in (("success", True), ("return", False)):
        spec, jobs = make_comparison(tmp_path / metric, TEXT + f"metric: {metric}\n")
        finish(jobs[0], [0.0, 0.0], best=0.0)
        text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
        assert ("**No episode on exact succeeded**" in text) == expected
    finish(jobs[1], [0.0, 0.5], best=0.0)
    spec, jobs = make_comparison(tmp_path / "return")
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert "**No episode" not in text  # control: one run won some


def test_runs_that_were_taken_up_again_are_counted(tmp_path):
    _, jobs = make_comparison(tmp_path)
    good = [job for job in jobs if job.key.algorithm == "good"]
    for job in good:
        fail(job, [0.5])
        job.forget_failure()
        shutil.rmtree(job.folder / "runs")
    finish(good[0], [0.5, 1.0], best=1.0)
    assert [read_record(job).earlier_failures for job in good] == [1, 1, 1]
    assert tables.count_states([read_record(good[0])]) == "1 of 1 (1 after a failure)"
    words = "1 of 3 (2 not finished, 1 after a failure)"
    assert tables.count_states([read_record(job) for job in good]) == words


def test_the_commits_that_made_the_runs_are_named(tmp_path):
    """Of one that went on under another commit both, and whether there were changes."""
    spec, jobs = make_comparison(tmp_path)
    old, new = ({"git_commit": letter * 40} for letter in "ab")  # as before changes were told
    clean, changed = (new | {"git_has_changes": value} for value in (False, True))
    versions = [{"": old}, {"": new}, {"": clean, "_128": clean}, {"": changed}]
    versions += [{"": old, "_1024": changed, "_64": new, "_2048": changed}, {"": {}}]
    for job, found in zip(jobs, versions, strict=True):
        finish(job, [0.5, 1.0], best=1.0)
        for suffix, content in found.items():
            path = files.training_folder(job.folder) / f"versions{suffix}.json"
            files.write_json(path, content)
    assert [read_record(job).commits for job in (jobs[0], jobs[5])] == [("aaaaaaa",), ()]
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert (
        "; made by commits aaaaaaa (1); aaaaaaa, then bbbbbbb, then bbbbbbb with changes (1); "
        "bbbbbbb (2); bbbbbbb with changes (1). Evaluations"
    ) in text


def test_tables_as_markdown_and_latex():
    table = [["a_b", "c"], ["50%", "x & y"], ["P(a > b)", "< 0.001"]]
    assert tables.markdown(table[:2]) == "| a_b | c |\n|---|---|\n| 50% | x & y |\n"
    lines = tables.latex(table).splitlines()
    assert lines[2] == r"a\_b & c \\" and lines[4] == r"50\% & x \& y \\"
    assert lines[5] == r"P(a $>$ b) & $<$ 0.001 \\"


def test_steadiness_by_hand(tmp_path):
    """Two of three runs reach 0.95 greedily, at 2048 and 6144; one of them falls, and falls lower.

    That is of their evaluations, so of one without a diagnosis, too.
    """
    spec, jobs = make_comparison(tmp_path, TEXT.replace("env_steps: 4000", "env_steps: 12000"))
    good = [job for job in jobs if job.key.algorithm == "good"]
    runs = ([1.0] * 5, [0.5, 0.0, 1.0, 0.75, 1.0, 0.25], [0.5] * 6)
    for job, shares, off in zip(good, runs, (None, 0.9, 0.8), strict=True):
        finish(job, shares, best=1.0)
        evaluations = files.training_folder(job.folder) / "evaluations.jsonl"
        lost = re.sub(r'("stochastic".*?)true', r"\1false", evaluations.read_text())
        evaluations.write_text(lost)  # stochastic play never got there
        if off is not None:
            found = known() | {"off_policy": {"samples": {"share": off, "lag": 2.0}}}
            found["off_policy"]["segments"] = None
            files.write_json(job.folder / files.DIAGNOSIS, found)
    records = [read_record(job) for job in good + jobs[1:2]]
    table = tables.steadiness_table(spec, "exact", records)
    [row] = table[1:]  # and no row for what has not ended
    assert row[:3] == ["good", "2 of 3 [21%, 94%] (4,096)", "0 of 3 [0%, 56%]"]
    assert row[3:] == ["1 of 2 [9%, 91%] (to 0.25)", "0 of 0", "85%, by 2.0 versions", "none"]
    records[1] = records[1]._replace(state="failed")  # what it reached before does not count
    assert tables.steadiness_table(spec, "exact", records)[1][1] == "1 of 3 [6%, 79%] (2,048)"
    records = [record._replace(state="failed") for record in records[:3]]
    assert tables.steadiness_table(spec, "exact", records)[1][5] == "-"  # not "none"


def test_evaluations_beyond_the_budget_and_rows_that_say_nothing_are_left_out(tmp_path):
    """A run that somebody let go on after it; a line that is no episode."""
    spec, jobs = make_comparison(tmp_path)
    finish(jobs[0], [0.5, 1.0, 0.0], best=1.0)
    evaluations = files.training_folder(jobs[0].folder) / "evaluations.jsonl"
    with evaluations.open("a") as file:
        file.write('{}\n{"env_steps": 2048, "mode": 3, "success": true, "return": NaN}\n')
    [run] = tables.runs_table(spec, "exact", [read_record(jobs[0])])[1:]
    assert run[1:] == ["4,096", "-", "1.00 / 1.00", "1.000 / 1.000"]
    text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
    assert "evaluations, of which" not in text  # both that are due are whole


def test_each_run_by_hand(tmp_path):
    """Good at the second evaluation, lower after it; never good, or the last one is not there."""
    spec, jobs = make_comparison(tmp_path, TEXT.replace("env_steps: 4000", "env_steps: 8000"))
    good = [job for job in jobs if job.key.algorithm == "good"]
    runs = ([0.5, 1.0, 0.5, 0.75], [0.75, 0.5, 0.0, 0.5], [0.0, 1.0, 1.0])
    for job, shares in zip(good, runs, strict=True):
        finish(job, shares, best=shares[1])
    table = tables.runs_table(spec, "exact", [read_record(job) for job in jobs])
    assert [row[1:] for row in table[1:]] == [
        ["4,096", "0.50 / 0.50", "0.75 / 0.75", "1.000 / 1.000"],
        ["never", "-", "0.50 / 0.50", "0.500 / 0.500"],
        ["4,096", "1.00 / 1.00", "-", "1.000 / 1.000"],
    ]
    assert [row[0] for row in table[1:]] == ["good/1", "good/2", "good/3"]


@pytest.fixture
def returns(tmp_path, monkeypatch):
    """A comparison by return whose runs return -40 to -10; `won`: whether they succeed, too."""

    def compare(won):
        monkeypatch.setattr(
            made_up,
            "episodes",
            lambda value: [
                {"mode": mode, "episode": i, "success": won, "return": value, "length": 10}
                for mode in ("greedy", "stochastic")
                for i in range(32)
            ],
        )
        spec, jobs = make_comparison(tmp_path / str(won), TEXT + "metric: return\n")
        for job, best in zip(jobs[:5], (-10.0, -40.0, -10.0, -30.0, -16.0), strict=True):
            finish(job, [-40.0, best - 2.5], best=best)
            files.write_json(job.folder / files.DIAGNOSIS, known())
        fail(jobs[5], [])
        report = write_report(spec, "made_up", jobs, tmp_path / "report" / str(won))
        return report, report.read_text()

    return compare


def test_returns_are_shown_as_they_are(returns):
    """And not a word about success where there is none, as of an env that does not tell."""
    report, text = returns(won=False)
    assert "| algorithm | runs | return, greedy | return, stochastic |\n" in text
    assert "| good | 3 | -12.00 [-16.00, -10.00] | -12.00 [-16.00, -10.00] |\n" in text
    assert "| bad_one | 2 of 3 (1 failed) | -37.50 " in text  # the failed one: -42.5
    best = "| good/3 | -18.50 / -18.50 | -16.000 / -16.000 |\n"
    assert best in text and "| run | return of the last evaluation, greedy / stochastic |" in text
    assert "≥" not in text and "solved_exact" not in text
    assert not (report.parent / "figures/solved_exact.png").exists()
    assert "\n| good | none | none |\n" in text


def test_where_compared_by_return_success_is_told_beside_it(returns):
    report, text = returns(won=True)
    assert "| return, greedy | return, stochastic | solved (≥ 0.95) | solved at the end |" in text
    assert "| good/3 | 2,048 | 1.00 / 1.00 | -18.50 / -18.50 | -16.000 / -16.000 |\n" in text
    assert "first ≥ 0.95, greedy (median)" in text
    assert (report.parent / "figures/solved_exact.png").exists()


def test_what_goes_by_another_bar_is_said(tmp_path):
    for text, expected in ((TEXT, False), (TEXT + "solved: 0.8\n", True)):
        spec, jobs = make_comparison(tmp_path / str(expected), text)
        text = write_report(spec, "made_up", jobs, tmp_path / "report").read_text()
        assert ("goes by 0.95 and 0.85 all the same" in text) == expected


def test_only_skills_that_a_discriminator_knows_are_drawn(tmp_path, monkeypatch):
    """MAT acts by itself, and a weight of 0 trains nothing: accuracies there are of chance."""
    changes = "bad_one: {preset: mat}\n  other: {preset: no_intrinsic}"
    spec, jobs = make_comparison(tmp_path, TEXT.replace("bad_one: {gamma: 0.9}", changes))
    look = {"separation": 0.5, "items": None, "pairs": [{"nearest": 1.0, "accuracy": 0.5}]}
    for job in jobs:
        finish(job, [0.5], best=0.5)
        files.write_json(job.folder / files.DIAGNOSIS, known(look))
    drawn = []
    monkeypatch.setattr(figures, "draw_distances", lambda *dots: drawn.append(dots) or Figure())
    write_report(spec, "made_up", jobs, tmp_path / "report")
    assert drawn == [("exact", [(False, [(1.0, 0.5)])] * 3)]  # the default's three seeds
    before = look | {"pairs": [{"nearest": 2.0, "accuracy": 0.1}]}
    learned = known() | {"skills": {"before_success": before, "last": look}}
    learned["first"]["training_0.5"] = 2048
    files.write_json(jobs[0].folder / files.DIAGNOSIS, learned)
    write_report(spec, "made_up", jobs, tmp_path / "report")
    assert drawn[1] == ("exact", [(True, [(2.0, 0.1)]), *[(False, [(1.0, 0.5)])] * 2])


def known(look=None):
    """All that the tables need of a run that learned nothing."""
    return {
        "first": {"reward": None, "training_0.5": None, "training_0.95": None},
        "skills": {"before_success": None, "last": look},
        "before_first_reward": {
            "coordinator_entropy": {"team": None, "agent": None},
            "discriminators": {"individual": None},
        },
        "drops": {"greedy": [], "stochastic": []},
        "off_policy": None,
    }


def test_who_is_better_is_said_only_where_it_is_known():
    low, high = np.linspace(0, 0.2, 10), np.linspace(0.7, 1, 10)
    found, table = tables.improvement_table({"a": [high], "b": [low], "c": [high]})
    assert [row[4] for row in table[1:]] == ["a, by 0.750", "not known"]
    assert [row[1] for row in table] == ["runs of a / of it", "10 / 10", "10 / 10"]
    assert found["b"].value == 1.0
    _, turned = tables.improvement_table({"b": [low], "a": [high]})
    assert turned[1][4] == "a, by 0.750"


def test_who_wins_more_often_may_have_the_lower_mean():
    """14 of 20 runs win by a little, 6 lose all: without five at each end 9 x 1 and 1 x 0."""
    often, steady = np.array([1.0] * 14 + [0.0] * 6), np.full(20, 0.99)
    words = "often more often, but its interquartile mean is 0.090 lower"
    for order in (("often", "steady"), ("steady", "often")):
        scores = {"often": [often], "steady": [steady]}
        _, table = tables.improvement_table({name: scores[name] for name in order})
        assert table[1][4] == words
    _, table = tables.improvement_table({"a": [steady + 1e-6], "b": [steady]})
    assert table[1][4] == "a, by 0.000"


def test_texts_of_numbers():
    assert tables.interval_text(Interval(0.934, 0.81, 0.99)) == "0.93 [0.81, 0.99]"
    assert tables.interval_text(Interval(0.5, -np.inf, np.inf)) == "0.50 [one run]"
    assert [tables.p_text(p) for p in (0.0312, 0.0004)] == ["0.031", "< 0.001"]
    assert [tables.share_text(8, 10), tables.share_text(0, 0)] == ["8 of 10 [49%, 94%]", "0 of 0"]


def test_every_run_is_a_line_and_the_thick_one_is_the_interquartile_mean():
    curves = np.array([[0.0, 0.1], [0.2, 0.4], [0.4, 0.8], [0.6, 1.0]])
    steps = np.array([100, 200])
    modes = {"greedy": curves, "stochastic": curves}
    axis = figures.draw_runs("x", steps, {"a": modes, "b": modes}, "success").axes[0]
    drawn = [line.get_ydata().tolist() for line in axis.lines]
    assert drawn[:4] == curves.tolist()
    assert drawn[4] == pytest.approx([0.3, 0.6])
    assert max(axis.lines, key=lambda line: line.get_linewidth()) is axis.lines[4]
    both = figures.draw_comparison("x", steps, {"a": modes, "b": modes}, "success").axes[0]
    assert len(both.lines) == 2


def test_algorithms_look_different():
    looks = [figures.look(number) for number in range(21)]
    assert len(set(looks)) == 21


def test_curves_that_coincide_are_all_seen():
    """What is drawn above has wider gaps, so that what lies below shows through."""
    modes = {mode: np.zeros((2, 2)) for mode in ("greedy", "stochastic")}
    figure = figures.draw_comparison("x", np.array([1, 2]), dict.fromkeys("abcd", modes), "success")
    order = sorted(figure.axes[0].lines, key=lambda line: line.get_zorder())
    assert [line.get_label() for line in order] == ["a", "d", "b", "c"]
    assert figures.look(0)[1] == figures.look(3)[1] == "-"
    assert figure.axes[0].get_ylabel() == "success"


def test_an_interval_is_drawn_where_it_is():
    rows = {"x": Interval(0.6, 0.4, 0.9), "y": Interval(0.5, -np.inf, np.inf)}
    axis = figures.draw_intervals("t", rows, middle=0.5).axes[0]
    assert list(axis.lines[0].get_xdata()) == [0.4, 0.9]
    assert list(axis.lines[2].get_xdata()) == [0.0, 1.0]  # not beyond what a share can be
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]


def test_skills_of_runs_that_failed_have_their_own_colour():
    runs = [(True, [(1.0, 0.5), (2.0, 0.9)]), (False, [(0.5, 0.2)])]
    axis = figures.draw_distances("exact", runs).axes[0]
    assert [list(line.get_xdata()) for line in axis.lines] == [[1.0, 2.0], [0.5]]
    assert axis.lines[0].get_color() != axis.lines[1].get_color()
