"""The output of the command for usage, in a terminal of 80 columns and as CSV."""

import csv
import io
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from config.api_key import keys_named, make_key
from worker.cli.usage import listing, usage
from worker.usage import MEASURES, Row, UsageQuery, UsageReport


def test_a_name_of_a_model_takes_two_lines_at_most_beside_all_counts_of_a_busy_day() -> None:
    row = Row(("groq", "initech", "openai/gpt-oss-120b"), None)
    busy = {"calls": 9_999, "accepted": 9_000, "refused": 0, "faults": 0, "rejected": 0}
    counts = dict.fromkeys(MEASURES, 9_999) | busy | {"cached_tokens": 0}
    row.add([counts[name] for name in MEASURES], 0.0017)
    report = UsageReport(UsageQuery(by=("service", "tenant", "model")), 0, 1, (), (row,))
    console = Console(width=80, file=io.StringIO())
    console.print(listing(report, {}))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 3, "the heading, and the two lines of the only row"
    assert all(len(line) <= 80 for line in lines)
    assert "groq" in lines[1]
    assert "initech" in lines[1]


def test_a_key_takes_one_line_beside_the_counts_of_both_services_in_words_that_find_it() -> None:
    key = make_key("groq", secret="gsk_0123456789abcdefghijklmnopqrst", variable="GROQ_API_KEY")
    row = Row(("groq", key.id), None)
    counts = dict.fromkeys(MEASURES, 99) | {"refused": 0, "cached_tokens": 0}
    row.add([counts[name] for name in MEASURES], None)
    console = Console(width=80, file=io.StringIO())
    query = UsageQuery(by=("service", "key"))
    console.print(listing(UsageReport(query, 0, 1, (), (row,)), {key.id: key.label}))
    _, line = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert keys_named(line.split()[1], [key]) == [key]


def test_the_wait_is_that_of_the_average_accepted_call_and_empty_if_there_is_none() -> None:
    rows = []
    for tenant, refused in (("acme", 1), ("initech", 3)):
        row = Row((tenant,), None)
        counts = dict.fromkeys(MEASURES, 0) | {
            "calls": 3,
            "refused": refused,
            "waited_ms": 4_000_000,
        }
        row.add([counts[name] for name in MEASURES], None)
        rows.append(row)
    console = Console(width=80, file=io.StringIO())
    console.print(listing(UsageReport(UsageQuery(by=("tenant",)), 0, 1, (), tuple(rows)), {}))
    head, *lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert head.split() == ["tenant", "calls", "429", "wait"]
    assert [line.split() for line in lines] == [
        ["acme", "3", "1", "2000.0", "s"], ["initech", "3", "3"]
    ]  # fmt: skip


def test_csv_and_json_exclude_each_other() -> None:
    result = CliRunner().invoke(usage, ["--csv", "--json"])
    assert result.exit_code == 2
    assert "choose one of --csv and --json" in result.output


def test_no_name_in_the_csv_is_a_formula_and_any_name_can_be_read_back() -> None:
    signs = [
        "=1+1",
        "+1",
        "-1",
        "@a",
        "\uff1d1+1",
        "\uff0b1",
        "\uff0d1",
        "\uff20a",
        " =1",
        '"=1',
        "'=1",
    ]
    plain = ["acme", 'a,"b"', "müller ☃", "a\nb", ""]
    query = UsageQuery(by=("tenant",))
    rows = tuple(Row((name,), 0) for name in signs + plain)
    text = UsageReport(query, 0, 0, rows, ()).as_csv({})
    read = [row["tenant"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert read == [f"'{name}" for name in signs] + plain


@pytest.mark.parametrize("cut_at", [";", "\t", "|"])
def test_no_name_in_the_csv_becomes_a_formula_if_lines_are_cut_elsewhere(cut_at: str) -> None:
    names = [f"a{cut_at}{rest}" for rest in ("=1", " +1", '"@a"', "b", "=1;=2\t=3|=4")]
    query = UsageQuery(by=("tenant",))
    rows = tuple(Row((name,), 0) for name in names)
    text = UsageReport(query, 0, 0, rows, ()).as_csv({})
    for line in csv.reader(io.StringIO(text, newline=""), delimiter=cut_at):
        assert not [cell for cell in line if cell.strip(' "').startswith(("=", "+", "@"))]
    read = [row["tenant"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert [name.replace("'", "") for name in read] == names
    assert read[3] == names[3]


def test_an_unknown_or_ambiguous_key_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [
        make_key("groq", secret=f"gsk_same{rest}", variable=f"GROQ_API_KEY_{rest}") for rest in "12"
    ]
    pools = {"groq": SimpleNamespace(keys=keys)}
    monkeypatch.setattr("worker.cli.usage.pools_for_tools", lambda _: pools)
    result = CliRunner().invoke(usage, ["--key", "gsk_typo"])
    assert "no key here has the id, label or variable 'gsk_typo'" in result.output
    result = CliRunner().invoke(usage, ["--key", keys[0].label])
    assert f"fits several keys; give the id of one: {keys[0].id} (GROQ_API_KEY_1)" in result.output


def test_no_count_is_broken_if_a_terminal_is_narrow() -> None:
    row = Row(("acme-" * 8,), None)
    row.add([12_345_678] * len(MEASURES), None)
    console = Console(width=70, file=io.StringIO())
    console.print(listing(UsageReport(UsageQuery(by=("tenant",)), 0, 1, (), (row,)), {}))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert not [line for line in lines[2:] if any(character.isdigit() for character in line)]
